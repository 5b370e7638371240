"""Attention on a processor, in blocks of queries that read only the keys that the mask shows them.

torch's kernel for processors computes masked scores too, and takes three times as long in bfloat16 as products of matrices
do. Here scores are float32 sums of the products (`products_of_bfloat16`), as in the kernel, and all other products have the
model's data type. The backward pass computes the scores again, so nothing of the size queries x keys is kept.

Axis suffixes: _G key heads, _H query heads, _T positions of the row, _Q queries of a block, _R query heads of one key head
times queries, _K keys of a path or of a block, _D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .half_precision import products_of_bfloat16

__all__ = ["AttentionPlan", "Reach", "attend"]

_ROWS = 512  # queries of a block, those of all query heads of a key head together
_FEWEST = 16  # queries of a block


@dataclass(frozen=True, slots=True)
class Reach:
    """Consecutive positions of a row, and what they may attend to.

    Attributes:
        start: the first position.
        end: the position after the last.
        columns_K: the positions of their keys.
    """

    start: int
    end: int
    columns_K: Tensor


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries `start` to `end` of the row and keys `first` to `last` of a reach; no mask where every query sees every key."""

    start: int
    end: int
    first: int
    last: int
    mask_QK: Tensor | None


class AttentionPlan:
    """The blocks of one mask, for all layers that share it.

    Args:
        reaches: they cover all positions of the row.
        mask_TT: added to the scores: -inf, or the least number of its data type, where a position may not attend.
        groups: query heads of a key head.
    """

    def __init__(self, reaches: Sequence[Reach], mask_TT: Tensor, groups: int) -> None:
        size = max(_FEWEST, _ROWS // groups)
        least = torch.finfo(mask_TT.dtype).min
        self.parts: list[tuple[Tensor, list[_Block]]] = []
        for reach in reaches:
            blocks = []
            for start in range(reach.start, reach.end, size):
                end = min(start + size, reach.end)
                mask_QK = mask_TT[start:end, reach.columns_K]
                seen = (mask_QK > least).any(0).nonzero()
                first, last = int(seen[0]), int(seen[-1]) + 1
                mask_QK = mask_QK[:, first:last].float()
                blocks.append(_Block(start, end, first, last, mask_QK if bool(mask_QK.any()) else None))
            self.parts.append((reach.columns_K, blocks))


def attend(
    query_1HTD: Tensor, key_1GTD: Tensor, value_1GTD: Tensor, plan: AttentionPlan, scaling: float
) -> Tensor:
    """Grouped-query attention of one row; gradients flow to all three tensors.

    Args:
        query_1HTD: queries.
        key_1GTD: keys; H is a multiple of G.
        value_1GTD: values.
        plan: what attends to what.
        scaling: factor of the scores.

    Returns:
        [1, T, H, D].
    """
    mixed: Tensor = _Attention.apply(query_1HTD, key_1GTD, value_1GTD, plan, scaling)  # type: ignore[no-untyped-call]
    return mixed


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float
    ) -> Tensor:
        query_GgTD = query[0].view(key.shape[1], -1, *query.shape[2:])
        mixed_TGgD = query.new_empty(query.shape[2], *query_GgTD.shape[:2], value.shape[3])
        lse_GgT = query.new_empty(query_GgTD.shape[:3], dtype=torch.float32)
        for block, _, key_GKD, value_GKD in _each(plan, key, value):
            queries = slice(block.start, block.end)
            scores_GRK = _scores(query_GgTD[:, :, queries], key_GKD, block, scaling)
            lse_GR1 = scores_GRK.logsumexp(-1, keepdim=True)
            shares_GRK = scores_GRK.sub_(lse_GR1).exp_().to(value.dtype)
            mixed_GRD = torch.bmm(shares_GRK, value_GKD)
            mixed_GgQD = mixed_GRD.view(len(mixed_GRD), -1, block.end - block.start, mixed_GRD.shape[-1])
            mixed_TGgD[queries] = mixed_GgQD.permute(2, 0, 1, 3)
            lse_GgT[:, :, queries] = lse_GR1.view(*mixed_GgQD.shape[:3])
        ctx.save_for_backward(query, key, value, mixed_TGgD, lse_GgT)
        ctx.plan, ctx.scaling = plan, scaling
        return mixed_TGgD.flatten(1, 2).unsqueeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_1THD: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed_TGgD, lse_GgT = ctx.saved_tensors
        query_GgTD = query[0].view(key.shape[1], -1, *query.shape[2:])
        grad_TGgD = grad_1THD.reshape(mixed_TGgD.shape)
        # The gradient of a score is its share times the gradient of the share less the mean of these gradients.
        mean_GgT = (grad_TGgD.float() * mixed_TGgD).sum(-1).permute(1, 2, 0)
        grad_GgTD = grad_TGgD.permute(1, 2, 0, 3)
        query_grad_GgTD = torch.empty_like(query_GgTD)
        key_grad_GTD, value_grad_GTD = (torch.zeros_like(x[0], dtype=torch.float32) for x in (key, value))
        for block, columns_K, key_GKD, value_GKD in _each(ctx.plan, key, value):
            queries = slice(block.start, block.end)
            scores_GRK = _scores(query_GgTD[:, :, queries], key_GKD, block, ctx.scaling)
            shares_GRK = scores_GRK.sub_(lse_GgT[:, :, queries].flatten(1).unsqueeze(-1)).exp_()
            grad_GRD = grad_GgTD[:, :, queries].flatten(1, 2)
            narrow_GKR = shares_GRK.to(value.dtype).transpose(1, 2)
            value_grad_GTD.index_add_(1, columns_K, torch.bmm(narrow_GKR, grad_GRD).float())
            change_GRK = torch.bmm(grad_GRD, value_GKD.transpose(1, 2)).float()
            change_GRK.sub_(mean_GgT[:, :, queries].flatten(1).unsqueeze(-1))
            change_GRK = change_GRK.mul_(shares_GRK).mul_(ctx.scaling).to(key.dtype)
            query_grad_GgTD[:, :, queries] = torch.bmm(change_GRK, key_GKD).view_as(query_GgTD[:, :, queries])
            query_GRD = query_GgTD[:, :, queries].flatten(1, 2)
            key_grad_GTD.index_add_(1, columns_K, torch.bmm(change_GRK.transpose(1, 2), query_GRD).float())
        grads = query_grad_GgTD.flatten(0, 1), key_grad_GTD.to(key.dtype), value_grad_GTD.to(value.dtype)
        return *(grad.unsqueeze(0) for grad in grads), None, None


def _each(
    plan: AttentionPlan, key_1GTD: Tensor, value_1GTD: Tensor
) -> Iterator[tuple[_Block, Tensor, Tensor, Tensor]]:
    """Each block with the positions of its keys, its keys and its values."""
    for columns_K, blocks in plan.parts:
        key_GKD, value_GKD = (x[0].index_select(1, columns_K) for x in (key_1GTD, value_1GTD))
        for block in blocks:
            keys = slice(block.first, block.last)
            yield block, columns_K[keys], key_GKD[:, keys], value_GKD[:, keys]


def _scores(query_GgQD: Tensor, key_GKD: Tensor, block: _Block, scaling: float) -> Tensor:
    """The scores of a block in float32, masked, [G, R, K]."""
    query_GRD = query_GgQD.flatten(1, 2)
    with products_of_bfloat16() if query_GRD.dtype == torch.bfloat16 else nullcontext():
        scores_GRK = torch.bmm(query_GRD.float(), key_GKD.float().transpose(1, 2)).mul_(scaling)
    if block.mask_QK is not None:
        scores_GRK.view(len(key_GKD), -1, *block.mask_QK.shape).add_(block.mask_QK)
    return scores_GRK
