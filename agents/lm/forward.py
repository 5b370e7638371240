"""The forward pass of a language model, computing only what its two users need.

A model's own `forward` computes every layer at every position. Generation needs the last layer's output at one
position per row, training only at positions that predict sampled tokens (about one in eight); the other
positions of the last layer need keys and values alone. With two layers that saves 40 % of
training's time. What training sequences have in common at their beginning (`prefixes`) is computed once, and its
keys and values serve all of them.
`hidden_states` applies the sub-modules of transformers' decoders of Llama's shape (Llama, Qwen2, Qwen3, Mistral),
adapters in them included; tests hold it to transformers' outputs. Other architectures go through their own forward
(`network`), which is why everything else here knows a model as a `Network`.

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
from torch.utils.checkpoint import checkpoint

from .prefix_tree import PrefixTree, cut

__all__ = [
    "Branches",
    "EvaluationStats",
    "KeyValueCache",
    "Network",
    "TokenSequence",
    "causal_mask",
    "evaluate",
    "hidden_states",
]


class KeyValueCache(Protocol):
    """Where one forward pass puts its keys and values, and reads all those of its rows.

    Attributes:
        columns: key positions of the rows, those of the new tokens included.
    """

    columns: int

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values; gives those of the rows from position 0 on, [B, H, K, D] each."""


class Network(Protocol):
    """A causal language model as generation and training see it; see `network` for the two there are.

    Attributes:
        model: transformers' model, without peft's wrapper around it.
        layers, kv_heads, head_dim: shape of its keys and values.
        width: of its hidden states.
        positions: longest context.
        pass_tokens: tokens that one training pass should hold.
    """

    model: Any
    layers: int
    kv_heads: int
    head_dim: int
    width: int
    positions: int
    pass_tokens: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Of keys, values and hidden states."""

    def step(
        self, ids_BT: Tensor, positions_BT: Tensor, cache: KeyValueCache, keep_BQ: Tensor | None = None
    ) -> Tensor:
        """Hidden states after the last norm of new tokens of cached rows: [B, T, W], or of columns `keep_BQ`."""

    def paths(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> Tensor:
        """Hidden states at positions `keep_Q` of a row that is a tree, [Q, W]; carries gradients."""

    def logits(self, hidden_NW: Tensor) -> Tensor:
        """[N, V], float32."""

    def head(
        self, hidden_UW: Tensor, target_N: Tensor, rows_N: Tensor, temperature_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each target and entropy of its distribution, that of row `rows_N`; float32."""


class Branches:
    """Attention in a row that is a tree of sequences: each position attends to those before it on its path.

    Path by path: the queries are the positions that the path adds to the tree, the keys all its positions.

    Args:
        tree: the row.
        keep_Q: ascending positions of the row whose queries the last layer needs; among them the end of each path.
        device, dtype: of the model.
    """

    def __init__(
        self,
        tree: PrefixTree,
        keep_Q: NDArray[np.int64],
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        longest = max(map(len, tree.columns))
        causal_TK = causal_mask(torch.arange(longest, device=device), longest, dtype)
        added = [(c, n) for c, n in zip(tree.columns, tree.shared, strict=True) if len(c) > n]
        self._columns_K = torch.from_numpy(np.concatenate([c for c, _ in added])).to(device)
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
    model: Any,
    ids_BT: Tensor,
    positions_BT: Tensor,
    *,
    keep_BQ: Tensor | None = None,
    mask_BTK: Tensor | None = None,
    cache: KeyValueCache | None = None,
    branches: Branches | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Final hidden states (after the last norm) of a model of Llama's shape.

    Args:
        model: the weights; a causal language model of transformers.
        ids_BT: token ids.
        positions_BT: position of each id in its sequence.
        keep_BQ: columns of `ids_BT` whose hidden states are wanted; None keeps all.
        mask_BTK: what each position may attend to, 0 or -inf; needed without `branches`.
        cache: keys and values of earlier positions.
        branches: in place of mask and cache, where the one row is a tree and `keep_BQ` what they were made for.
        checkpointing: keep only what goes into a layer, and compute the layer again in the backward pass.

    Returns:
        [B, Q, W], or [B, T, W] without `keep_BQ`.
    """
    inner = model.model
    x_BTW = inner.embed_tokens(ids_BT)
    cos_BTD, sin_BTD = inner.rotary_emb(x_BTW, positions_BT)
    last = len(inner.layers) - 1
    for index, layer in enumerate(inner.layers):
        keep = keep_BQ if index == last else None
        given = (layer, index, x_BTW, cos_BTD, sin_BTD, keep, mask_BTK, cache, branches)
        if checkpointing:
            x_BTW = checkpoint(_layer, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            x_BTW = _layer(*given)
    result: Tensor = inner.norm(x_BTW)
    return result


def _layer(
    layer: Any,
    index: int,
    x_BTW: Tensor,
    cos_BTD: Tensor,
    sin_BTD: Tensor,
    keep_BQ: Tensor | None,
    mask_BTK: Tensor | None,
    cache: KeyValueCache | None,
    branches: Branches | None,
) -> Tensor:
    """One decoder layer; with `keep_BQ` at those columns only."""
    attention = layer.self_attn
    normed_BTW = layer.input_layernorm(x_BTW)
    key = _heads(attention.k_proj(normed_BTW), attention, "k_norm")
    key = _rotate(key, cos_BTD, sin_BTD)
    value = _heads(attention.v_proj(normed_BTW), attention)
    if branches is not None:
        key, value = branches.spread(key), branches.spread(value)
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    if cache is not None:
        key, value = cache.store(index, key, value)
    if keep_BQ is not None:
        mask_BTK = None if mask_BTK is None else _pick(mask_BTK, keep_BQ)
        x_BTW, normed_BTW = _pick(x_BTW, keep_BQ), _pick(normed_BTW, keep_BQ)
        cos_BTD, sin_BTD = _pick(cos_BTD, keep_BQ), _pick(sin_BTD, keep_BQ)
    query = _heads(attention.q_proj(normed_BTW), attention, "q_norm")
    query = _rotate(query, cos_BTD, sin_BTD).transpose(1, 2)
    if branches is None:
        mixed = _attend(query, key, value, mask_BTK, attention.scaling)
    else:
        mixed = branches.attend(query, key, value, attention.scaling, last=keep_BQ is not None)
    x_BTW = x_BTW + attention.o_proj(mixed)
    result: Tensor = x_BTW + layer.mlp(layer.post_attention_layernorm(x_BTW))
    return result


def causal_mask(positions_BT: Tensor, keys: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """0 where a position may attend to a key column (its own and earlier ones), -inf elsewhere: [B, T, keys]."""
    blocked = torch.arange(keys, device=positions_BT.device) > positions_BT.unsqueeze(-1)
    zeros = torch.zeros(blocked.shape, dtype=dtype, device=blocked.device)
    return zeros.masked_fill_(blocked, float("-inf"))


def _heads(x_BTW: Tensor, attention: Any, norm: str = "") -> Tensor:
    """[B, T, H, D], normed per head where the architecture does."""
    heads = x_BTW.view(*x_BTW.shape[:-1], -1, attention.head_dim)
    return getattr(attention, norm)(heads) if norm in attention._modules else heads


def _rotate(x_BTHD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    left, right = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * cos_BTD.unsqueeze(2) + torch.cat((-right, left), dim=-1) * sin_BTD.unsqueeze(2)


def _attend(
    query_BHTD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor, mask_BTK: Tensor | None, scaling: float
) -> Tensor:
    """Grouped-query attention; gives [B, T, H * D]."""
    group = query_BHTD.shape[1] // key_BHKD.shape[1]
    if group > 1 and query_BHTD.shape[2] == 1 and mask_BTK is not None:
        # One new token per row: the heads of a group are queries to the same keys, which need not be copied.
        folded = query_BHTD.view(len(query_BHTD), -1, group, query_BHTD.shape[-1])
        mixed = functional.scaled_dot_product_attention(
            folded, key_BHKD, value_BHKD, attn_mask=mask_BTK.unsqueeze(1), scale=scaling
        )
        return mixed.reshape(len(query_BHTD), 1, -1)
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
    network: Network,
    sequences: Sequence[TokenSequence],
    stats: EvaluationStats,
    *,
    batch_tokens: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and hidden state of all targets, flattened in the order of `sequences`.

    What sequences have in common at their beginning is computed once; the passes are cut so that it stays together,
    at about `batch_tokens` tokens each (None: what suits the network). Tokens after the last target, and the last
    target itself, are not computed.

    Returns:
        logprobs_N, entropy_N (nats), hidden_NW; gradients flow unless disabled by the caller.
    """
    asked = list(dict.fromkeys(s for s in sequences if s.targets))
    if not asked:
        empty, device = torch.zeros(0, device=network.device), network.device
        return empty, empty, torch.zeros(0, network.width, device=device, dtype=network.dtype)
    starts: dict[TokenSequence, int] = {}
    total = computed = 0
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in cut([s.tokens[: s.targets[-1]] for s in asked], batch_tokens or network.pass_tokens):
        tree = PrefixTree.grow([asked[i].tokens[: asked[i].targets[-1]] for i in part])
        outputs.append(_evaluate_tree(network, tree, [asked[i] for i in part]))
        computed += len(tree.ids_T)
        for i in part:
            starts[asked[i]] = total
            total += len(asked[i].targets)
    picked = [starts[s] + i for s in sequences for i in range(len(s.targets))]
    stats.computed_tokens += computed
    stats.shared_tokens += sum(s.targets[-1] for s in sequences if s.targets) - computed
    stats.target_tokens += len(picked)
    index_N = torch.tensor(picked, device=network.device)
    logprobs_N, entropy_N, hidden_NW = (torch.cat(parts)[index_N] for parts in zip(*outputs, strict=True))
    return logprobs_N, entropy_N, hidden_NW


def _evaluate_tree(
    network: Network, tree: PrefixTree, sequences: list[TokenSequence]
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs of `evaluate` for the sequences whose paths the tree is made of."""
    device = network.device
    at_N = np.concatenate(
        [columns[np.array(s.targets) - 1] for columns, s in zip(tree.columns, sequences, strict=True)]
    )
    temperature_N = np.array([t for s in sequences for t in s.temperatures])
    target_N = torch.tensor([s.tokens[t] for s in sequences for t in s.targets], device=device)
    keep_Q, rank_N = np.unique(at_N, return_inverse=True)
    hidden_QW = network.paths(tree, keep_Q)
    pairs_U2, which_N = np.unique(np.stack([rank_N, temperature_N], axis=1), axis=0, return_inverse=True)
    at_U, temperature_U = (
        torch.from_numpy(x).to(device)
        for x in (pairs_U2[:, 0].astype(np.int64), pairs_U2[:, 1].astype(np.float32))
    )
    rows_N = torch.from_numpy(which_N.reshape(-1)).to(device)
    logprobs_N, entropy_N = network.head(hidden_QW[at_U], target_N, rows_N, temperature_U)
    return logprobs_N, entropy_N, hidden_QW[torch.from_numpy(rank_N).to(device)]
