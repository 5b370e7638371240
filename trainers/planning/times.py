"""How much time a training run takes. This file does not import torch.

Times on accelerators multiply counted operations and bytes with published figures of the hardware and the fractions of
them in `ASSUMED`, which were not measured here: good for orders of magnitude, not for factors of two. Times on this
processor multiply tokens with what a few layers took when they were tried (`Trial`).
"""

from __future__ import annotations

from .estimate import ASSUMED, LONGEST, Figure, Hardware, Plan, Trial

__all__ = ["operations", "processor_seconds", "seconds"]


def operations(plan: Plan) -> tuple[float, float]:
    """Floating-point operations of one forward, and of one forward and backward pass over one expected episode.

    Two per weight and token; attention 4 x heads x head_dim per pair of positions and layer, of which half are
    masked; the backward pass twice the forward one, less the gradients of frozen weights. The head computes its
    logits twice (agents/lm/token_logprobs.py).
    """
    a = plan.architecture
    weights = 2 * a.matmul_weights * plan.length
    attention = 2 * a.layers * a.heads * a.head_dim * plan.length**2
    head = 2 * a.embedding_weights * plan.sampled
    forward = weights + attention + head
    inputs = weights + 2 * attention + 2 * head  # gradients of the inputs, and the logits again
    weight_gradients = 3 * 2 * plan.trained * plan.length if plan.rank else weights + head
    again = weights + attention if plan.checkpointing else 0.0
    return forward, forward + inputs + weight_gradients + again


def seconds(plan: Plan, hardware: Hardware) -> list[Figure]:
    """What an iteration takes on devices of this kind, one figure per part; retrieval and judge come on top."""
    a, s = plan.architecture, plan.element
    forward, both = operations(plan)
    mine = plan.episodes / plan.gpus
    figures = []
    if plan.engine != "vllm-server":
        rows = min(plan.rows, mine)
        waves = mine / rows
        compute = 2 * (a.matmul_weights + a.embedding_weights) * rows / (ASSUMED["prefill"] * hardware.flops)
        read = a.weights * s + rows * plan.length / 2 * a.cache_bytes(s)
        step = max(read / (ASSUMED["decode"] * hardware.bandwidth), compute)
        if plan.engine == "transformers":
            step = max(step, ASSUMED["step"] * a.layers)
        steps = waves * plan.sampled
        source = f"{steps:,.0f} steps x {step * 1e3:.1f} ms: {rows:.0f} episodes together, {read / 1e9:.1f} GB read per step"
        figures.append(Figure("decode", steps * step, source))
        fed = plan.groups / plan.gpus * plan.prompt + mine * (plan.rounds - 1) * plan.observation
        prefill = 2 * a.matmul_weights * fed / (ASSUMED["prefill"] * hardware.flops)
        figures.append(Figure("prefill", prefill, f"{fed:,.0f} tokens x 2 x {a.matmul_weights:,} weights"))
    rate = ASSUMED["update"] * hardware.flops
    if plan.reference:
        figures.append(
            Figure("reference", mine * forward / rate, f"{mine:,.0f} episodes x {forward:.2e} operations")
        )
    source = f"{plan.epochs} x {mine:,.0f} episodes of {plan.length:,.0f} tokens x {both:.2e} operations"
    figures.append(Figure("update", plan.epochs * mine * both / rate, source))
    return figures


def processor_seconds(plan: Plan, trial: Trial) -> list[Figure]:
    """What an iteration takes on this processor, one figure per part; retrieval, judge and records come on top.

    An act takes as many steps as the longest of its batch (`LONGEST`).
    """
    mine = plan.episodes / plan.gpus
    figures = []
    if plan.engine == "transformers":
        rows = min(plan.rows, mine)
        longest = min(plan.max_act, plan.act * LONGEST)
        steps, sampled = mine / rows * plan.rounds * longest, mine * plan.sampled
        further = max(0.0, sampled - steps)
        source = f"{steps:,.0f} steps x {trial.step * 1e3:.1f} ms, {further:,.0f} further tokens x {trial.row * 1e3:.1f} ms"
        figures.append(Figure("decode", steps * trial.step + further * trial.row, source))
        observed = mine * (plan.rounds - 1) * plan.observation * (1 - plan.shared)
        fed = plan.groups / plan.gpus * plan.prompt + observed
        figures.append(
            Figure("prefill", fed * trial.prefill, f"{fed:,.0f} tokens x {trial.prefill * 1e3:.2f} ms")
        )
    computed = plan.computed * plan.repeated
    if plan.reference:
        source = f"{computed:,.0f} tokens x {trial.prefill * 1e3:.2f} ms"
        figures.append(Figure("reference", computed * trial.prefill, source))
    drawn = mine * plan.sampled
    source = (
        f"{plan.epochs} x ({computed:,.0f} tokens x {trial.update * 1e3:.2f} ms, {drawn:,.0f} sampled x "
        f"{trial.head * 1e3:.2f} ms)"
    )
    figures.append(Figure("update", plan.epochs * (computed * trial.update + drawn * trial.head), source))
    return figures
