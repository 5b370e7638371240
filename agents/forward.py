"""The forward pass of the tiny model, computing only what its two users need.

Qwen3's own `forward` computes every layer at every position. Generation needs the last layer's output at one
position per row, training only at positions that predict sampled tokens (about one in eight); the other
positions of the last layer need keys and values alone. With two layers that saves 40 % of
training's time.
The weights and sub-modules are those of `transformers.Qwen3ForCausalLM`; a test holds this file to its outputs.

Axis suffixes: _B rows, _T positions computed now, _K keys (cached and new), _Q positions kept, _H heads,
_D head size, _W width, _V vocabulary, _N sampled tokens, flattened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3ForCausalLM

__all__ = ["EvaluationStats", "KeyValueCache", "TokenSequence", "causal_mask", "evaluate", "hidden_states"]

_MAX_SPREAD = 1.1
"""Longest over shortest sequence of a batch: padding stays under a tenth of what is computed."""


class KeyValueCache(Protocol):
    """Where one forward pass puts its keys and values, and reads all those of its rows."""

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values; gives those of the rows from position 0 on, [B, H, K, D] each."""


def hidden_states(
    model: Qwen3ForCausalLM,
    ids_BT: Tensor,
    positions_BT: Tensor,
    *,
    keep_BQ: Tensor | None = None,
    mask_BTK: Tensor | None = None,
    cache: KeyValueCache | None = None,
) -> Tensor:
    """Final hidden states (after the last norm).

    Args:
        model: the weights.
        ids_BT: token ids.
        positions_BT: position of each id in its sequence.
        keep_BQ: columns of `ids_BT` whose hidden states are wanted; None keeps all.
        mask_BTK: what each position may attend to, 0 or -inf. None means causal without a cache; rows padded
            on the right then need no mask, since nothing attends to what comes after it.
        cache: keys and values of earlier positions.

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
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if cache is not None:
            key, value = cache.store(index, key, value)
        if index == last and keep_BQ is not None:
            mask_BTK = causal_mask(keep_BQ, key.shape[2]) if mask_BTK is None else _pick(mask_BTK, keep_BQ)
            x_BTW, normed_BTW = _pick(x_BTW, keep_BQ), _pick(normed_BTW, keep_BQ)
            cos_BTD, sin_BTD = _pick(cos_BTD, keep_BQ), _pick(sin_BTD, keep_BQ)
        query = _rotate(attention.q_norm(_heads(attention.q_proj(normed_BTW), attention)), cos_BTD, sin_BTD)
        mixed = _attend(query.transpose(1, 2), key, value, mask_BTK, attention.scaling)
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
    """What `evaluate` computed, added up over calls.

    Attributes:
        computed_tokens: positions computed, padding included.
        padded_tokens: of those, padding.
        shared_tokens: positions not computed because an equal sequence was.
        target_tokens: positions that went through the LM head.
    """

    computed_tokens: int = 0
    padded_tokens: int = 0
    shared_tokens: int = 0
    target_tokens: int = 0

    @property
    def padding(self) -> float:
        """Padding as a share of what was computed."""
        return self.padded_tokens / max(1, self.computed_tokens)


def evaluate(
    model: Qwen3ForCausalLM,
    sequences: Sequence[TokenSequence],
    stats: EvaluationStats,
    *,
    batch_tokens: int = 4096,
    pad_id: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and hidden state of all targets, flattened in the order of `sequences`.

    Sequences are sorted by length and cut into batches of about `batch_tokens` tokens, so little is padded and
    a batch's activations stay in the processor's cache. Equal sequences (common when a policy has become sure
    of itself) are computed once. Tokens after the last target, and the last target itself, are not computed.

    Returns:
        logprobs_N, entropy_N (nats), hidden_NW; gradients flow unless disabled by the caller.
    """
    unique = dict.fromkeys(sequences)
    order = sorted((s for s in unique if s.targets), key=lambda s: s.targets[-1])
    starts: dict[TokenSequence, int] = {}
    total = 0
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in _batches(order, batch_tokens):
        outputs.append(_evaluate_batch(model, batch, stats, pad_id))
        for sequence in batch:
            starts[sequence] = total
            total += len(sequence.targets)
    stats.target_tokens += total
    stats.shared_tokens += sum(s.targets[-1] for s in sequences if s.targets) - sum(
        s.targets[-1] for s in order
    )
    if not outputs:
        return torch.zeros(0), torch.zeros(0), torch.zeros(0, model.config.hidden_size)
    logprobs_N, entropy_N, hidden_NW = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    picked = [starts[s] + i for s in sequences for i in range(len(s.targets))]
    index_N = torch.tensor(picked)
    return logprobs_N[index_N], entropy_N[index_N], hidden_NW[index_N]


def _batches(order: list[TokenSequence], batch_tokens: int) -> list[list[TokenSequence]]:
    """Cut a list sorted by length so that each batch, padded to its longest, has about `batch_tokens` tokens."""
    batches: list[list[TokenSequence]] = []
    for sequence in order:
        length = sequence.targets[-1]
        if batches:
            batch = batches[-1]
            shortest = batch[0].targets[-1]
            if length * (len(batch) + 1) <= batch_tokens and length <= shortest * _MAX_SPREAD:
                batch.append(sequence)
                continue
        batches.append([sequence])
    return batches


def _evaluate_batch(
    model: Qwen3ForCausalLM, batch: list[TokenSequence], stats: EvaluationStats, pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    lengths = [s.targets[-1] for s in batch]
    longest = max(lengths)
    kept = max(len(s.targets) for s in batch)
    ids_BT = torch.tensor(
        [[*s.tokens[:n], *[pad_id] * (longest - n)] for s, n in zip(batch, lengths, strict=True)]
    )
    keep_BQ = torch.tensor([[*(t - 1 for t in s.targets), *[0] * (kept - len(s.targets))] for s in batch])
    positions_BT = torch.arange(longest).expand(len(batch), -1)
    hidden_BQW = hidden_states(model, ids_BT, positions_BT, keep_BQ=keep_BQ)
    real_BQ = torch.arange(kept) < torch.tensor([[len(s.targets)] for s in batch])
    hidden_NW = hidden_BQW[real_BQ]
    temperature_N = torch.tensor([t for s in batch for t in s.temperatures])
    target_N = torch.tensor([s.tokens[t] for s in batch for t in s.targets])
    logits_NV = model.lm_head(hidden_NW).float() / temperature_N.unsqueeze(-1)
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    stats.computed_tokens += ids_BT.numel()
    stats.padded_tokens += ids_BT.numel() - sum(lengths)
    entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
    return logprobs_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1), entropy_N, hidden_NW
