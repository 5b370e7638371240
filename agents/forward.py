"""The forward pass of the tiny model, computing only what its two users need.

Qwen3's own `forward` computes every layer at every position. Generation needs the last layer's output at one
position per row, training only at positions that predict sampled tokens (about one in eight); the other
positions of the last layer need keys and values alone. With two layers that saves 40 % of
training's time. What training sequences have in common at their beginning (`prefixes`) is computed once, and its
keys and values serve all of them.
The weights and sub-modules are those of `transformers.Qwen3ForCausalLM`; a test holds this file to its outputs.

Axis suffixes: _B rows, _T positions computed now, _K keys (cached and new), _Q positions kept, _H heads,
_D head size, _W width, _V vocabulary, _N sampled tokens, flattened, _U the distributions they were drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from .prefixes import PrefixTree, cut

__all__ = [
    "Branches",
    "EvaluationStats",
    "KeyValueCache",
    "TokenSequence",
    "causal_mask",
    "evaluate",
    "hidden_states",
]


class KeyValueCache(Protocol):
    """Where one forward pass puts its keys and values, and reads all those of its rows."""

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values; gives those of the rows from position 0 on, [B, H, K, D] each."""


class Branches:
    """Attention in a row that is a tree of sequences: each position attends to those before it on its path.

    Path by path: the queries are the positions that the path adds to the tree, the keys all its positions.

    Args:
        tree: the row.
        keep_Q: ascending positions of the row whose queries the last layer needs; among them the end of each path.
    """

    def __init__(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> None:
        longest = max(map(len, tree.columns))
        causal_TK = causal_mask(torch.arange(longest), longest)
        added = [(c, n) for c, n in zip(tree.columns, tree.shared, strict=True) if len(c) > n]
        self._columns_K = torch.from_numpy(np.concatenate([c for c, _ in added]))
        self._repeated = any(n for _, n in added)
        self._keys = [len(c) for c, _ in added]
        self._queries = [len(c) - n for c, n in added]
        self._masks = [
            causal_TK[None, n:k, :k] if n else None for k, (_, n) in zip(self._keys, added, strict=True)
        ]
        cuts = np.searchsorted(keep_Q, np.cumsum(self._queries)[:-1])
        kept = [torch.from_numpy(tree.depths_T[part]) for part in np.split(keep_Q, cuts)]
        self._kept = [len(depths) for depths in kept]
        self._kept_masks = [causal_TK[None, depths, :k] for depths, k in zip(kept, self._keys, strict=True)]

    def spread(self, x_1THD: Tensor) -> Tensor:
        """Keys or values of all paths, one path after the other: [1, K, H, D]."""
        return x_1THD.index_select(1, self._columns_K) if self._repeated else x_1THD

    def attend(
        self, query_1HQD: Tensor, key_1HKD: Tensor, value_1HKD: Tensor, scaling: float, *, last: bool
    ) -> Tensor:
        """[1, Q, H * D] of queries at all positions or, in the `last` layer, at the kept ones."""
        queries, masks = (self._kept, self._kept_masks) if last else (self._queries, self._masks)
        parts = zip(
            torch.split(query_1HQD, queries, dim=2),
            torch.split(key_1HKD, self._keys, dim=2),
            torch.split(value_1HKD, self._keys, dim=2),
            masks,
            strict=True,
        )
        mixed = [_attend(query, key, value, mask, scaling) for query, key, value, mask in parts]
        return torch.cat(mixed, dim=1)


def hidden_states(
    model: Qwen3ForCausalLM,
    ids_BT: Tensor,
    positions_BT: Tensor,
    *,
    keep_BQ: Tensor | None = None,
    mask_BTK: Tensor | None = None,
    cache: KeyValueCache | None = None,
    branches: Branches | None = None,
) -> Tensor:
    """Final hidden states (after the last norm).

    Args:
        model: the weights.
        ids_BT: token ids.
        positions_BT: position of each id in its sequence.
        keep_BQ: columns of `ids_BT` whose hidden states are wanted; None keeps all.
        mask_BTK: what each position may attend to, 0 or -inf; needed without `branches`.
        cache: keys and values of earlier positions.
        branches: in place of mask and cache, where the one row is a tree and `keep_BQ` what they were made for.

    Returns:
        [B, Q, W], or [B, T, W] without `keep_BQ`.
    """
    inner: Any = model.model
    x_BTW = inner.embed_tokens(ids_BT)
    cos_BTD, sin_BTD = inner.rotary_emb(x_BTW, positions_BT)
    last = len(inner.layers) - 1
    for index, layer in enumerate(inner.layers):
        attention = layer.self_attn
        normed_BTW = layer.input_layernorm(x_BTW)
        key = _rotate(attention.k_norm(_heads(attention.k_proj(normed_BTW), attention)), cos_BTD, sin_BTD)
        value = _heads(attention.v_proj(normed_BTW), attention)
        if branches is not None:
            key, value = branches.spread(key), branches.spread(value)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if cache is not None:
            key, value = cache.store(index, key, value)
        if index == last and keep_BQ is not None:
            mask_BTK = None if mask_BTK is None else _pick(mask_BTK, keep_BQ)
            x_BTW, normed_BTW = _pick(x_BTW, keep_BQ), _pick(normed_BTW, keep_BQ)
            cos_BTD, sin_BTD = _pick(cos_BTD, keep_BQ), _pick(sin_BTD, keep_BQ)
        query = _rotate(attention.q_norm(_heads(attention.q_proj(normed_BTW), attention)), cos_BTD, sin_BTD)
        query = query.transpose(1, 2)
        if branches is None:
            mixed = _attend(query, key, value, mask_BTK, attention.scaling)
        else:
            mixed = branches.attend(query, key, value, attention.scaling, last=index == last)
        x_BTW = x_BTW + attention.o_proj(mixed)
        x_BTW = x_BTW + layer.mlp(layer.post_attention_layernorm(x_BTW))
    result: Tensor = inner.norm(x_BTW)
    return result


def causal_mask(positions_BT: Tensor, keys: int) -> Tensor:
    """0 where a position may attend to a key column (its own and earlier ones), -inf elsewhere: [B, T, keys]."""
    blocked = torch.arange(keys) > positions_BT.unsqueeze(-1)
    return torch.zeros(blocked.shape).masked_fill_(blocked, float("-inf"))


def _heads(x_BTW: Tensor, attention: Any) -> Tensor:
    return x_BTW.view(*x_BTW.shape[:-1], -1, attention.head_dim)


def _rotate(x_BTHD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    left, right = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * cos_BTD.unsqueeze(2) + torch.cat((-right, left), dim=-1) * sin_BTD.unsqueeze(2)


def _attend(
    query_BHTD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor, mask_BTK: Tensor | None, scaling: float
) -> Tensor:
    """Grouped-query attention; gives [B, T, H * D]."""
    group = query_BHTD.shape[1] // key_BHKD.shape[1]
    if group > 1:
        key_BHKD = key_BHKD.repeat_interleave(group, dim=1)
        value_BHKD = value_BHKD.repeat_interleave(group, dim=1)
    mixed_BHTD = functional.scaled_dot_product_attention(
        query_BHTD,
        key_BHKD,
        value_BHKD,
        attn_mask=None if mask_BTK is None else mask_BTK.unsqueeze(1),
        is_causal=mask_BTK is None,
        scale=scaling,
    )
    return mixed_BHTD.transpose(1, 2).flatten(2)


def _pick(x_BTX: Tensor, keep_BQ: Tensor) -> Tensor:
    return x_BTX.gather(1, keep_BQ.unsqueeze(-1).expand(-1, -1, x_BTX.shape[-1]))


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One sequence to evaluate.

    Attributes:
        tokens: token ids.
        targets: indices of the tokens whose log-probability is wanted, ascending, none of them 0.
        temperatures: of the distribution each target was drawn from.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    temperatures: tuple[float, ...]


@dataclass(slots=True)
class EvaluationStats:
    """What `evaluate` computed, added up over calls; nothing is padded.

    Attributes:
        computed_tokens: positions computed.
        shared_tokens: positions not computed because another sequence begins with the same tokens.
        target_tokens: tokens whose log-probability was asked for.
    """

    computed_tokens: int = 0
    shared_tokens: int = 0
    target_tokens: int = 0

    @property
    def shared(self) -> float:
        """Share of all positions that were not computed."""
        return self.shared_tokens / max(1, self.computed_tokens + self.shared_tokens)


def evaluate(
    model: Qwen3ForCausalLM,
    sequences: Sequence[TokenSequence],
    stats: EvaluationStats,
    *,
    batch_tokens: int = 4096,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and hidden state of all targets, flattened in the order of `sequences`.

    What sequences have in common at their beginning is computed once; the passes are cut so that it stays together,
    at about `batch_tokens` tokens each, which keeps their activations in the processor's cache. Tokens after the
    last target, and the last target itself, are not computed.

    Returns:
        logprobs_N, entropy_N (nats), hidden_NW; gradients flow unless disabled by the caller.
    """
    asked = list(dict.fromkeys(s for s in sequences if s.targets))
    if not asked:
        return torch.zeros(0), torch.zeros(0), torch.zeros(0, model.config.hidden_size)
    starts: dict[TokenSequence, int] = {}
    total = computed = 0
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in cut([s.tokens[: s.targets[-1]] for s in asked], batch_tokens):
        tree = PrefixTree.grow([asked[i].tokens[: asked[i].targets[-1]] for i in part])
        outputs.append(_evaluate_tree(model, tree, [asked[i] for i in part]))
        computed += len(tree.ids_T)
        for i in part:
            starts[asked[i]] = total
            total += len(asked[i].targets)
    picked = [starts[s] + i for s in sequences for i in range(len(s.targets))]
    stats.computed_tokens += computed
    stats.shared_tokens += sum(s.targets[-1] for s in sequences if s.targets) - computed
    stats.target_tokens += len(picked)
    index_N = torch.tensor(picked)
    logprobs_N, entropy_N, hidden_NW = (torch.cat(parts)[index_N] for parts in zip(*outputs, strict=True))
    return logprobs_N, entropy_N, hidden_NW


def _evaluate_tree(
    model: Qwen3ForCausalLM, tree: PrefixTree, sequences: list[TokenSequence]
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs of `evaluate` for the sequences whose paths the tree is made of."""
    at_N = np.concatenate(
        [columns[np.array(s.targets) - 1] for columns, s in zip(tree.columns, sequences, strict=True)]
    )
    temperature_N = np.array([t for s in sequences for t in s.temperatures])
    target_N = torch.tensor([s.tokens[t] for s in sequences for t in s.targets])
    keep_Q, rank_N = np.unique(at_N, return_inverse=True)
    row = (torch.from_numpy(x).unsqueeze(0) for x in (tree.ids_T, tree.depths_T, keep_Q))
    ids_1T, positions_1T, keep_1Q = row
    hidden_QW = hidden_states(
        model, ids_1T, positions_1T, keep_BQ=keep_1Q, branches=Branches(tree, keep_Q)
    ).squeeze(0)
    pairs_U2, which_N = np.unique(np.stack([rank_N, temperature_N], axis=1), axis=0, return_inverse=True)
    at_U, which = torch.from_numpy(pairs_U2[:, 0].astype(np.int64)), torch.from_numpy(which_N.reshape(-1))
    temperature_U1 = torch.from_numpy(pairs_U2[:, 1:].astype(np.float32))
    logprobs_UV = torch.log_softmax(model.lm_head(hidden_QW[at_U]).float() / temperature_U1, dim=-1)
    entropy_U = -(logprobs_UV.exp() * logprobs_UV).sum(-1)
    return logprobs_UV[which, target_N], entropy_U[which], hidden_QW[torch.from_numpy(rank_N)]
