"""Log-probabilities and entropies of sampled tokens, without holding all logits in memory.

For 4,096 tokens and 151,936 words the logits alone take 2.5 GB, and a log-softmax with its gradient holds them four
times. Here the vocabulary is processed in blocks. The first pass keeps three running numbers per row: the greatest
logit, the sum of exponentials, and the sum of exponentials times logits (the online softmax of Milakov and Gimelshein,
arXiv 1805.02867, extended by the entropy). The backward pass recomputes each block of logits and turns it into gradients
at once (as Wijmans et al. do for the cross-entropy, arXiv 2411.09009). A block's part of the weight gradient is complete
when the block is done, so no sum is accumulated in low precision.

With z = (W h + b) / temperature, p = softmax(z), H = -sum p log p and t the sampled token:

    d log p_t / dz = onehot(t) - p        dH / dz = -p (log p + H)

Axis suffixes: _N sampled tokens, _U rows of hidden states, _W width, _V vocabulary, _B words of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .half_precision import products_of_bfloat16

__all__ = ["BLOCK_ELEMENTS", "token_logprobs"]

BLOCK_ELEMENTS = 2**23
"""Logits of one block by default: 32 MB in float32."""

_CPU_WORDS = 2048
"""Words of a block on a CPU: their widened weights and logits stay in its caches, which takes half the time."""

_LEAST = -1e4
"""Replaces log 0 where it is multiplied by its probability: its exponential is 0, but 0 * -inf is not a number."""


def token_logprobs(
    hidden_UW: Tensor,
    weight_VW: Tensor,
    targets_N: Tensor,
    temperatures_U: Tensor,
    bias_V: Tensor | None = None,
    *,
    rows_N: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each sampled token and entropy of the distribution it was drawn from.

    Gradients flow to `hidden_UW`, `weight_VW` and `bias_V` where they require them; a frozen weight costs no
    buffer of its size. Half-precision inputs are multiplied in full precision on the CPU; on a GPU their products are
    summed in float32. Where all logits fit one block they are kept for the backward pass, otherwise they
    are computed twice; so they are of a half-precision head of more than 2,048 words on the CPU.

    Args:
        hidden_UW: hidden states after the last norm.
        weight_VW: weight of the language-model head.
        targets_N: the sampled tokens.
        temperatures_U: temperature of each distribution, positive.
        bias_V: bias of the head; entries may be -inf (a word that cannot be drawn).
        rows_N: row of `hidden_UW` that predicts each token, where several tokens share one; None: row n for token n.
        chunk: words of a block; None: as many as make `BLOCK_ELEMENTS` logits, fewer on a CPU where that is not all.

    Returns:
        logprobs_N and entropy_N in nats, float32 (float64 for such inputs).
    """
    rows, words = len(hidden_UW), len(weight_VW)
    if chunk is None:
        chunk = max(1, BLOCK_ELEMENTS // max(1, rows))
        widened = weight_VW.dtype in (torch.bfloat16, torch.float16)
        if hidden_UW.device.type == "cpu" and (chunk < words or widened):  # no widened copy of the whole head
            chunk = min(chunk, _CPU_WORDS)
    if rows_N is None:
        rows_N = torch.arange(rows, device=hidden_UW.device)
    logprobs_N, entropy_U = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_UW, weight_VW, bias_V, targets_N, rows_N, temperatures_U, min(chunk, words)
    )
    return logprobs_N, entropy_U[rows_N]


class _Blocks:
    """The tempered logits, block by block, and the products that their gradients need.

    Operands have the data type `operand`, results `work`.
    """

    def __init__(
        self, hidden_UW: Tensor, weight_VW: Tensor, bias_V: Tensor | None, temperatures_U: Tensor
    ) -> None:
        both = torch.promote_types(hidden_UW.dtype, weight_VW.dtype)
        self.work = torch.promote_types(both, torch.float32)
        # Tensor cores multiply half precision exactly and sum in float32; on a CPU it must be widened first.
        self.operand = both if hidden_UW.is_cuda else self.work
        self.hidden_UW = hidden_UW.to(self.operand)
        self.weight_VW, self.bias_V = weight_VW, bias_V
        narrow = hidden_UW.dtype == weight_VW.dtype == torch.bfloat16 and not hidden_UW.is_cuda
        # Hidden states and weights lose nothing in these units; gradients of logits are rounded to bfloat16, like their product
        # with the weights after it.
        self.units = products_of_bfloat16 if narrow else nullcontext
        self.colder_U1 = None
        if bool((temperatures_U != 1).any()):
            self.colder_U1 = temperatures_U.to(self.work).reciprocal().unsqueeze(1)

    def weight(self, start: int, end: int) -> Tensor:
        return self.weight_VW[start:end].to(self.operand)

    def logits(self, weight_BW: Tensor, start: int) -> Tensor:
        logits_UB = self.product(self.hidden_UW, weight_BW.T)
        if self.bias_V is not None:
            logits_UB += self.bias_V[start : start + len(weight_BW)].to(self.work)
        return logits_UB if self.colder_U1 is None else logits_UB.mul_(self.colder_U1)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.to(self.operand), b.to(self.operand)
        with self.units():
            return torch.mm(a, b) if self.operand == self.work else torch.mm(a, b, out_dtype=self.work)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_UW: Tensor,
        weight_VW: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        rows_N: Tensor,
        temperatures_U: Tensor,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.chunk = chunk
        with torch.autocast(hidden_UW.device.type, enabled=False):
            blocks = _Blocks(hidden_UW, weight_VW, bias_V, temperatures_U)
            picked_N = torch.zeros(len(targets_N), dtype=blocks.work, device=hidden_UW.device)
            kept: tuple[Tensor, ...]
            if chunk == len(weight_VW):
                logps_UV = torch.log_softmax(blocks.logits(blocks.weight(0, chunk), 0), dim=-1)
                picked_N = logps_UV[rows_N, targets_N]
                logs_UV = logps_UV if bias_V is None else logps_UV.clamp(min=_LEAST)
                entropy_U = -(logps_UV.exp().mul_(logs_UV)).sum(-1)
                kept = (logps_UV,)
            else:
                lse_U, entropy_U = _scan(blocks, picked_N, targets_N, rows_N, chunk)
                picked_N -= lse_U[rows_N]
                kept = (lse_U,)
        ctx.save_for_backward(
            hidden_UW, weight_VW, bias_V, targets_N, rows_N, temperatures_U, entropy_U, *kept
        )
        return picked_N, entropy_U

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor | None, grad_entropy_U: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_UW, weight_VW, bias_V, targets_N, rows_N, temperatures_U, entropy_U, kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden_UW.device.type, enabled=False):
            blocks = _Blocks(hidden_UW, weight_VW, bias_V, temperatures_U)
            if grad_N is None:
                grad_N = torch.zeros(len(targets_N), dtype=blocks.work, device=hidden_UW.device)
            # The gradient of every token of a row lowers the row's whole distribution.
            pushed_U1 = torch.zeros_like(entropy_U).index_add_(0, rows_N, grad_N).unsqueeze(1)
            grad_hidden_UW = torch.zeros_like(hidden_UW, dtype=blocks.work) if wants_hidden else None
            grad_weight_VW = torch.empty_like(weight_VW) if wants_weight else None
            grad_bias_V = torch.empty_like(bias_V) if wants_bias else None
            for start, end, mine in _cuts(targets_N, len(weight_VW), ctx.chunk):
                weight_BW = blocks.weight(start, end)
                if kept.dim() == 2:
                    logps_UB = kept.clone()
                else:
                    logps_UB = blocks.logits(weight_BW, start).sub_(kept.unsqueeze(1))
                grads_UB = logps_UB.exp()
                if grad_entropy_U is None:
                    grads_UB.mul_(-pushed_U1)
                else:
                    if bias_V is not None:
                        logps_UB.clamp_(min=_LEAST)
                    logps_UB.add_(entropy_U.unsqueeze(1)).mul_(grad_entropy_U.unsqueeze(1)).add_(pushed_U1)
                    grads_UB.mul_(logps_UB).neg_()
                del logps_UB
                grads_UB.index_put_((rows_N[mine], targets_N[mine] - start), grad_N[mine], accumulate=True)
                if blocks.colder_U1 is not None:
                    grads_UB.mul_(blocks.colder_U1)
                if grad_hidden_UW is not None:
                    grad_hidden_UW += blocks.product(grads_UB, weight_BW)
                if grad_weight_VW is not None:
                    grad_weight_VW[start:end] = blocks.product(grads_UB.T, blocks.hidden_UW)
                if grad_bias_V is not None:
                    grad_bias_V[start:end] = grads_UB.sum(0)
        if grad_hidden_UW is not None:
            grad_hidden_UW = grad_hidden_UW.to(hidden_UW.dtype)
        return grad_hidden_UW, grad_weight_VW, grad_bias_V, None, None, None, None


def _scan(
    blocks: _Blocks, picked_N: Tensor, targets_N: Tensor, rows_N: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp and entropy of every row; writes the targets' logits to `picked_N`."""
    rows, words = len(blocks.hidden_UW), len(blocks.weight_VW)
    device, work = blocks.hidden_UW.device, blocks.work
    greatest_U = torch.full((rows,), torch.finfo(work).min, dtype=work, device=device)
    sum_U, weighted_U = torch.zeros_like(greatest_U), torch.zeros_like(greatest_U)
    for start, end, mine in _cuts(targets_N, words, chunk):
        logits_UB = blocks.logits(blocks.weight(start, end), start)
        picked_N[mine] = logits_UB[rows_N[mine], targets_N[mine] - start]
        before_U, greatest_U = greatest_U, torch.maximum(greatest_U, logits_UB.amax(-1))
        fall_U = before_U - greatest_U
        weighted_U = (weighted_U + fall_U * sum_U) * fall_U.exp()
        sum_U = sum_U * fall_U.exp()
        logits_UB.sub_(greatest_U.unsqueeze(1))
        if blocks.bias_V is not None:
            logits_UB.clamp_(min=_LEAST)
        exps_UB = logits_UB.exp()
        sum_U += exps_UB.sum(-1)
        weighted_U += logits_UB.mul_(exps_UB).sum(-1)
        del logits_UB, exps_UB
    return greatest_U + sum_U.log(), sum_U.log() - weighted_U / sum_U


def _cuts(targets_N: Tensor, words: int, chunk: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yields the blocks of the vocabulary (first word, word after the last) and the targets in each."""
    starts = range(0, words, chunk)
    sorted_N, order_N = targets_N.sort()
    edges = torch.tensor([*starts, words], device=targets_N.device)
    bounds = torch.searchsorted(sorted_N, edges).tolist()
    for i, start in enumerate(starts):
        yield start, min(start + chunk, words), order_N[bounds[i] : bounds[i + 1]]
