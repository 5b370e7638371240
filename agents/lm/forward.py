"""A forward pass for decoders of Llama's shape that computes only the positions its callers need.

A model's own `forward` computes every layer at every position. Generation needs the last layer's output at one position
per row, training only at positions that predict sampled tokens (about one in eight); at all other positions the last layer
needs to compute keys and values only. With two layers that saves 40 % of training's time. The common beginnings of
training sequences (`prefix_tree`) are computed once, and their keys and values serve all sequences.

`hidden_states` applies the sub-modules of transformers' decoders (Llama, Qwen2, Qwen3, Mistral), adapters in them
included; tests compare it with transformers' outputs. Other architectures go through their own forward (`network`).

Axis suffixes as in `interface`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .interface import CacheView
from .prefix_tree import PrefixTree

__all__ = ["Branches", "causal_mask", "hidden_states"]


class Branches:
    """Attention in a row that is a tree of sequences: each position attends to the positions before it on its path.

    It is computed path by path: the queries are the positions that the path adds to the tree, the keys all its positions.

    Args:
        tree: the row.
        keep_Q: ascending positions of the row whose queries the last layer needs; the end of each path is among them.
        device: the model's.
        dtype: the model's.
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
        """Keys or values of all paths, one path after another: [1, K, H, D]."""
        return x_1THD.index_select(1, self._columns_K) if self._repeated else x_1THD

    def attend(
        self, query_1HQD: Tensor, key_1HKD: Tensor, value_1HKD: Tensor, scaling: float, *, last: bool
    ) -> Tensor:
        """Attention outputs [1, Q, H * D] at all positions or, in the `last` layer, at the kept ones."""
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
    cache: CacheView | None = None,
    branches: Branches | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Final hidden states (after the last norm) of a model of Llama's shape.

    Args:
        model: a causal language model of transformers.
        ids_BT: token ids.
        positions_BT: position of each id in its sequence.
        keep_BQ: columns of `ids_BT` whose hidden states are needed; None keeps all.
        mask_BTK: 0 where a position may attend to a key, -inf elsewhere; needed without `branches`.
        cache: keys and values of earlier positions.
        branches: replaces mask and cache where the only row is a tree; made for the same `keep_BQ`.
        checkpointing: keep only the input of each layer and recompute the layer in the backward pass.

    Returns:
        [B, Q, W], or [B, T, W] without `keep_BQ`.
    """
    inner = model.model
    x_BTW = inner.embed_tokens(ids_BT)
    cos_BTD, sin_BTD = inner.rotary_emb(x_BTW, positions_BT)
    last = len(inner.layers) - 1
    for index, layer in enumerate(inner.layers):
        keep = keep_BQ if index == last else None
        given = (layer, index, x_BTW, (cos_BTD, sin_BTD), keep, mask_BTK, cache, branches)
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
    rotary_BTD: tuple[Tensor, Tensor],
    keep_BQ: Tensor | None,
    mask_BTK: Tensor | None,
    cache: CacheView | None,
    branches: Branches | None,
) -> Tensor:
    """One decoder layer; with `keep_BQ`, its output at these columns only."""
    attention = layer.self_attn
    cos_BTD, sin_BTD = rotary_BTD
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
    """[B, T, H, D], normalised per head where the architecture does that."""
    heads = x_BTW.view(*x_BTW.shape[:-1], -1, attention.head_dim)
    return getattr(attention, norm)(heads) if norm in attention._modules else heads


def _rotate(x_BTHD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    left, right = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * cos_BTD.unsqueeze(2) + torch.cat((-right, left), dim=-1) * sin_BTD.unsqueeze(2)


def _attend(
    query_BHTD: Tensor, key_BHKD: Tensor, value_BHKD: Tensor, mask_BTK: Tensor | None, scaling: float
) -> Tensor:
    """Grouped-query attention; returns [B, T, H * D]."""
    group = query_BHTD.shape[1] // key_BHKD.shape[1]
    if group > 1 and query_BHTD.shape[2] == 1 and mask_BTK is not None:
        # With one new token per row, the heads of a group query the same keys, so the keys need not be copied.
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
