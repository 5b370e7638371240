"""Attention in blocks equals attention with the whole mask, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from searchgym.agents.lm.blockwise_attention import AttentionPlan, Reach, attend

HEADS, GROUPS, SIZE = 2, 3, 16
SCALING = 0.2


def tree_mask(paths: list[tuple[int, int]], length: int, window: int) -> tuple[Tensor, list[Reach]]:
    """A row of paths that begin with the first tokens of the row: how many each shares, and how many it adds."""
    mask = torch.full((length, length), float("-inf"))
    reaches, start = [], 0
    for shared, new in paths:
        columns = torch.cat([torch.arange(shared), torch.arange(start, start + new)])
        for depth in range(shared, shared + new):
            mask[columns[depth], columns[max(0, depth + 1 - window) : depth + 1]] = 0.0
        reaches.append(Reach(start, start + new, columns))
        start += new
    assert start == length
    return mask, reaches


def whole(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    key, value = (x.repeat_interleave(GROUPS, 1) for x in (key, value))
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=SCALING
    ).transpose(1, 2)


def tensors(length: int, dtype: torch.dtype) -> list[Tensor]:
    made = [torch.randn(1, heads, length, SIZE) for heads in (HEADS * GROUPS, HEADS, HEADS)]
    return [x.to(dtype).requires_grad_() for x in made]


@pytest.mark.parametrize("window", [1000, 40])
def test_values_and_gradients_equal_those_of_the_whole_mask(window: int) -> None:
    torch.manual_seed(0)
    mask, reaches = tree_mask([(0, 330), (100, 50), (35, 20), (0, 300)], 700, window)
    given = tensors(700, torch.float32)
    plan = AttentionPlan(reaches, mask, GROUPS)
    ours, theirs = attend(*given, plan, SCALING), whole(*given, mask)
    direction = torch.randn_like(ours)
    for mine, other in zip(
        [ours, *torch.autograd.grad(ours, given, direction)],
        [theirs, *torch.autograd.grad(theirs, given, direction)],
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=2e-5, rtol=1e-4)


def test_a_block_reads_the_keys_that_its_queries_see() -> None:
    mask, reaches = tree_mask([(0, 1024)], 1024, 2000)
    (_, causal), *_ = AttentionPlan(reaches, mask, 1).parts
    assert [(b.end - b.start, b.first, b.last) for b in causal] == [(512, 0, 512), (512, 0, 1024)]
    mask, reaches = tree_mask([(0, 1024)], 1024, 100)
    (_, windowed), *_ = AttentionPlan(reaches, mask, 1).parts
    assert [(b.first, b.last) for b in windowed] == [(0, 512), (413, 1024)]
    (_, open_to_all), *_ = AttentionPlan(reaches, torch.zeros(1024, 1024), 1).parts
    assert all(block.mask_QK is None for block in open_to_all)


def test_bfloat16_is_as_exact_as_torch() -> None:
    torch.manual_seed(0)
    mask, reaches = tree_mask([(0, 200), (90, 100)], 300, 1000)
    narrow = tensors(300, torch.bfloat16)
    plan = AttentionPlan(reaches, mask.bfloat16(), GROUPS)
    exact_inputs = [x.detach().float().requires_grad_() for x in narrow]
    exact = whole(*exact_inputs, mask)
    direction = torch.randn_like(exact).bfloat16()
    truth = [exact, *torch.autograd.grad(exact, exact_inputs, direction.float())]
    gaps = []
    for outputs in (attend(*narrow, plan, SCALING), whole(*narrow, mask.bfloat16())):
        found = [outputs, *torch.autograd.grad(outputs, narrow, direction)]
        gaps.append(
            [
                float((x.float() - y).detach().norm() / y.detach().norm())
                for x, y in zip(found, truth, strict=True)
            ]
        )
    for ours, theirs in zip(*gaps, strict=True):
        assert ours < 1.5 * theirs + 1e-3
