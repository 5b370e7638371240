"""Adapters over bfloat16 weights on a processor: peft's numbers, without its widened tensors."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from searchgym.agents.hf.narrow_lora import multiply_narrowly


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 96), nn.Linear(96, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapted(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"])
    model: Any = peft.get_peft_model(Layers().to(dtype), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    return model


def outputs_and_gradients(model: Any, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    y.float().square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {g.dtype for g in found.values()} == {torch.float32}
    assert x.grad is not None
    return {"outputs": y.detach(), "inputs": x.grad, **found}


def test_outputs_and_gradients_are_as_near_to_float32_as_those_of_peft() -> None:
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = outputs_and_gradients(adapted(torch.bfloat16).float(), x.float())
    peft_s = outputs_and_gradients(adapted(torch.bfloat16), x)
    narrow = adapted(torch.bfloat16)
    multiply_narrowly(narrow)
    ours = outputs_and_gradients(narrow, x)
    assert ours.keys() == peft_s.keys() == exact.keys()
    for name, truth in exact.items():
        gaps = [float((found[name].float() - truth).norm() / truth.norm()) for found in (ours, peft_s)]
        assert gaps[0] < 2 * gaps[1] + 2e-3, name


def test_a_disabled_or_merged_adapter_is_that_of_peft() -> None:
    x = torch.randn(5, 48).bfloat16()
    model, plain = adapted(torch.bfloat16), adapted(torch.bfloat16)
    multiply_narrowly(model)
    assert not torch.equal(model(x), plain.base_model.model.second.base_layer(torch.tanh(plain.base_model.model.first.base_layer(x))))  # fmt: skip
    with model.disable_adapter(), plain.disable_adapter():
        assert torch.equal(model(x), plain(x))
    model.merge_adapter()
    plain.merge_adapter()
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_data_types_stay_as_they_are(dtype: torch.dtype) -> None:
    model = adapted(dtype)
    multiply_narrowly(model)
    layer = model.base_model.model.first
    assert "forward" not in vars(layer)


def test_an_adapter_with_dropout_stays_as_it_is() -> None:
    config = peft.LoraConfig(r=4, target_modules=["first"], lora_dropout=0.1)
    model: Any = peft.get_peft_model(Layers().bfloat16(), config)
    multiply_narrowly(model)
    assert "forward" not in vars(model.base_model.model.first)
