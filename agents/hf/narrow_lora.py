"""LoRA layers over frozen bfloat16 weights on a processor.

peft keeps an adapter's weights in float32 and therefore widens the input and the output of every adapted layer: for narrow
layers that takes longer than the layer. Here the adapter's weights are rounded to bfloat16 for the products, which are summed
in float32 inside the kernels, and the adapter's part is added to the layer's output by the product itself. The weights
that are trained and saved stay float32.

Axis suffixes: _N tokens, _I inputs, _O outputs, _R rank.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["multiply_narrowly"]


def multiply_narrowly(model: nn.Module) -> None:
    """Let the adapted bfloat16 layers of a model compute as the module docstring says, where they are on a processor.

    Layers with dropout, with more than one adapter or of a variant of LoRA stay as they are, and so does every layer
    while its adapter is disabled or merged.

    Args:
        model: peft's model with a LoRA adapter named "default".
    """
    for layer in model.modules():
        module: Any = layer
        base = getattr(module, "base_layer", None)
        if (
            type(base) is nn.Linear
            and base.weight.dtype == torch.bfloat16
            and list(getattr(module, "lora_A", ())) == ["default"]
            and not getattr(module, "lora_variant", None)
            and isinstance(module.lora_dropout["default"], nn.Identity)
            and module.lora_A["default"].weight.dtype == torch.float32
            and module.lora_B["default"].bias is None
        ):
            module.forward = partial(_forward, module, module.forward)


def _forward(module: Any, usual: Callable[..., Tensor], x: Tensor, *args: Any, **options: Any) -> Tensor:
    base = module.base_layer
    frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
    ours = frozen and not (args or options or module.disable_adapters or module.merged)
    if not ours or x.device.type != "cpu" or x.dtype != torch.bfloat16 or base.weight.dtype != x.dtype:
        return usual(x, *args, **options)
    down_RI, up_OR = module.lora_A["default"].weight, module.lora_B["default"].weight
    y: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
        x.flatten(0, -2), base.weight, base.bias, down_RI, up_OR, float(module.scaling["default"])
    )
    return y.view(*x.shape[:-1], y.shape[-1])


class _AdaptedLinear(torch.autograd.Function):
    """x W' + b + scaling x A' B' with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        down_RI: Tensor,
        up_OR: Tensor,
        scaling: float,
    ) -> Tensor:
        narrow_RI, narrow_OR = down_RI.to(x_NI.dtype), up_OR.to(x_NI.dtype)
        low_NR = x_NI @ narrow_RI.T
        y_NO = nn.functional.linear(x_NI, weight_OI, bias_O).addmm_(low_NR, narrow_OR.T, alpha=scaling)
        ctx.save_for_backward(x_NI, weight_OI, low_NR, narrow_RI, narrow_OR)
        ctx.scaling = scaling
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, low_NR, narrow_RI, narrow_OR = ctx.saved_tensors
        grad_NR = (grad_NO @ narrow_OR).mul_(ctx.scaling)
        grad_NI = None
        if ctx.needs_input_grad[0]:
            grad_NI = (grad_NO @ weight_OI).addmm_(grad_NR, narrow_RI)
        grad_RI = (grad_NR.T @ x_NI).float()
        grad_OR = (grad_NO.T @ low_NR).float().mul_(ctx.scaling)
        return grad_NI, None, None, grad_RI, grad_OR, None
