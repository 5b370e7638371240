"""How much memory and time a training run takes, before anything is loaded. This file does not import torch.

Every figure states what it is computed from. Weights, gradients, optimizer states, adapters and cache are exact;
activations count the tensors that the forward pass keeps for the backward pass; tests hold all of these to a real
model. Times multiply counted operations and bytes with published figures of the hardware and the fractions of them
in `ASSUMED`, which were not measured here: good for orders of magnitude, not for factors of two.

With s the bytes of a number of the weights, per token and layer (h width, i intermediate, q = heads x head_dim,
k = kv_heads x head_dim), when all weights are trained:

    norms   2 (4 h + s h)      input in float32, normalised              outputs     2 s h   inputs of the matrices
    heads   (4 + s)(q + k)     the same of queries and keys, if normed   attention   5 s q   rotated queries, keys and
    mlp     4 s i              gate, silu(gate), up, their product                           values per query head, output twice

What is frozen keeps less: a norm not its normalised input, a matrix without adapter not its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .architecture import Architecture

__all__ = [
    "ASSUMED",
    "HARDWARE",
    "Figure",
    "Hardware",
    "Memory",
    "Plan",
    "disk",
    "memory",
    "seconds",
    "total",
]

GIB = 2**30
HEAD_ELEMENTS = 2**23
"""Logits of one block, as in agents/lm/token_logprobs.py."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of an estimate.

    Attributes:
        name: what it is of.
        value: bytes or seconds.
        source: what it is computed from.
    """

    name: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """Published figures of an accelerator.

    Attributes:
        bytes: memory.
        flops: bfloat16 operations per second with float32 sums, without sparsity.
        bandwidth: bytes of memory per second.
    """

    bytes: float
    flops: float
    bandwidth: float


HARDWARE: Mapping[str, Hardware] = {
    "RTX 4080": Hardware(16 * GIB, 97.5e12, 0.717e12),
    "L4": Hardware(24 * GIB, 121e12, 0.300e12),
    "RTX 4090": Hardware(24 * GIB, 165.2e12, 1.008e12),
    "A100 80GB": Hardware(80 * GIB, 312e12, 2.039e12),
    "H100": Hardware(80 * GIB, 989e12, 3.35e12),
    "H200": Hardware(141e9, 989e12, 4.8e12),
}
"""From the makers' data sheets."""

ASSUMED: Mapping[str, float] = {
    "update": 0.35,  # of the operations: forward and backward passes
    "prefill": 0.35,  # of the operations: prompts and observations
    "decode": 0.6,  # of the bandwidth: weights and cache read once per step
    "step": 0.4e-3,  # seconds per layer and step to start the kernels, in an engine without compiled graphs
    "reserve": 0.1,  # of the memory: the CUDA context, fragments and buffers of libraries
}
"""What times and the fit into a device are computed with beyond published figures; ours, not measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does, as far as memory and time depend on it.

    Attributes:
        architecture: of the model.
        element: bytes of one of its numbers: 4 for float32, 2 for bfloat16.
        rank, targets: of the LoRA adapters, whose numbers are float32; rank 0: all weights are trained.
        states: bytes of optimizer state per trained weight, float32 masters not counted.
        checkpointing: whether a layer's activations are computed again in the backward pass.
        reference: whether a KL term compares with the initial policy.
        engine: what samples: "transformers" or "vllm" in this process, "vllm-server" elsewhere.
        token_budget: tokens per forward and backward pass.
        max_context, max_act: longest episode and longest act in tokens; the cache has room for one more act.
        rows: episodes a device plays at the same time.
        episodes: played per iteration.
        groups: questions per iteration; the prompt of a question is computed once.
        epochs, iterations: passes over an iteration's episodes, and iterations.
        rounds, prompt, act, observation: expected per episode, the last three in tokens.
        gpus: processes, each with a device of its own.
        sharded: whether layers, with their gradients and states, are divided among them (FSDP); embedding and head
            stay whole on each, and layers are gathered while episodes are played.
    """

    architecture: Architecture
    element: int
    rank: int
    targets: tuple[str, ...]
    states: float
    checkpointing: bool
    reference: bool
    engine: str
    token_budget: int
    max_context: int
    max_act: int
    rows: int
    episodes: int
    groups: int
    epochs: int
    iterations: int
    rounds: float
    prompt: int
    act: int
    observation: int
    gpus: int = 1
    sharded: bool = False

    @property
    def trained(self) -> int:
        """Weights that are trained."""
        if self.rank:
            return self.architecture.adapter_weights(self.rank, self.targets)
        return self.architecture.weights

    @property
    def shards(self) -> int:
        """Devices among which layers are divided."""
        return self.gpus if self.sharded else 1

    def here(self, trained: bool) -> float:
        """Weights one device holds, of all or of those that are trained."""
        a = self.architecture
        if trained and self.rank:
            return self.trained / self.shards
        layers = a.layers * a.layer_weights
        return layers / self.shards + a.weights - layers

    @property
    def stepped_element(self) -> int:
        """Bytes of a trained weight as the optimizer steps on it: weights of lower precision have float32 master copies."""
        return max(4, self.element)

    @property
    def masters(self) -> bool:
        """Whether there are float32 master copies; adapters are float32 themselves."""
        return not self.rank and self.element < 4

    @property
    def sampled(self) -> float:
        """Sampled tokens of an episode, as expected."""
        return self.rounds * self.act

    @property
    def length(self) -> float:
        """Tokens of an episode, as expected; at most `max_context`."""
        return min(self.prompt + self.sampled + (self.rounds - 1) * self.observation, self.max_context)

    @property
    def pass_tokens(self) -> int:
        """Tokens of the largest forward and backward pass: the budget, or one episode that is longer."""
        return max(self.token_budget, self.max_context)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes per device: `held` all the time, plus either `update` or `rollouts`."""

    held: list[Figure]
    update: list[Figure]
    rollouts: list[Figure]

    @property
    def peak(self) -> float:
        """The most at one time."""
        return total(self.held) + max(total(self.update), total(self.rollouts))


_STATES = {
    "adagrad": 4,
    "rmsprop": 4,
    "sgd": 0,
    "adafactor": 0,
    "adamw8bit": 2,
    "paged-adamw8bit": 2,
    "lion8bit": 1,
}


def state_bytes(optimizer: str) -> float:
    """Bytes of optimizer state per trained weight; two float32 numbers where not said otherwise above.

    Args:
        optimizer: a name of `optimizers.OPTIMIZERS`, with its default options. Adafactor's sums of rows and columns,
            some thousandths of a number per weight, are counted as none.
    """
    return float(_STATES.get(optimizer, 8))


def total(figures: list[Figure]) -> float:
    """The sum."""
    return sum(figure.value for figure in figures)


def activation_bytes(plan: Plan) -> float:
    """Bytes per token that one layer keeps for the backward pass; see the head of this file."""
    a, s, full = plan.architecture, plan.element, not plan.rank
    h, i, q, k = a.hidden, a.intermediate, a.heads * a.head_dim, a.kv_heads * a.head_dim
    norm = 4 + (s if full else 0)
    kept = a.norms * norm * h + (norm * (q + k) if a.qk_norm else 0)
    kept += (
        4 * s * q + 3 * s * i
    )  # rotated queries, keys and values of each query head, output; gate, silu, up
    if full:
        return kept + 2 * s * h + s * q + s * i  # inputs of the matrices
    # An adapter takes its input in its own precision: a copy of each, unless both have the same.
    widths = a.adapted(plan.targets)
    adapters = len(widths)
    shared = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp", "up_proj": "mlp"}
    if s == 4:
        widths = {shared.get(name, name): width for name, width in widths.items()}
    return kept + sum(4 * width for width in widths.values()) + 4 * plan.rank * adapters


def memory(plan: Plan) -> Memory:
    """What one device needs."""
    a, s = plan.architecture, plan.element
    on = f" on each of {plan.shards} devices" if plan.shards > 1 else ""
    all_of, some = plan.here(False), plan.here(True)
    trained = f"{some:,.0f} trained weights{on}"
    held = [Figure("weights", all_of * s, f"{all_of:,.0f} weights{on} x {s} bytes")]
    if plan.rank:
        source = f"{trained} x 4 bytes: rank {plan.rank} on {', '.join(a.adapted(plan.targets))}"
        held.append(Figure("LoRA adapters", some * 4, source))
    elif plan.reference:  # that of an adapter is the model without it
        held.append(Figure("reference", some * s, f"{trained} x {s} bytes once more (kl_coef)"))
    if plan.masters:
        held.append(Figure("masters", some * 4, f"{trained} x 4 bytes: the optimizer steps in float32"))
    e = plan.stepped_element
    held += [
        Figure("gradients", some * e, f"{trained} x {e} bytes"),
        Figure("optimizer states", some * plan.states, f"{trained} x {plan.states:g} bytes"),
    ]
    layer = activation_bytes(plan)
    tokens = plan.pass_tokens
    if plan.checkpointing:
        kept = tokens * (a.layers * s * a.hidden + 2 * layer)
        source = f"{tokens:,} tokens x ({a.layers} layer inputs of {s * a.hidden:,} bytes + 2 x {layer:,.0f} in one layer)"
    else:
        kept = tokens * (a.layers + 1) * layer
        source = f"{tokens:,} tokens x ({a.layers} layers + the gradients in one) x {layer:,.0f} bytes"
    longest, share = plan.max_context, plan.sampled / plan.length
    masks = longest**2 * (s + 1) + tokens * share * longest * s
    update = [
        Figure("activations", kept, source),
        Figure(
            "masks",
            masks,
            f"{longest:,}^2 x {s + 1} bytes, and {tokens:,} x {share:.0%} sampled x {longest:,} x {s}",
        ),
        Figure("head", 3 * 4 * HEAD_ELEMENTS, f"3 blocks of {HEAD_ELEMENTS:,} logits x 4 bytes"),
    ]
    rollouts = []
    if plan.shards > 1:
        source = f"2 x {a.layer_weights:,} weights of a layer x {s} bytes"
        update.append(Figure("gathered layers", 2 * a.layer_weights * s, source))
        others = a.weights - all_of
        source = f"{others:,.0f} weights of the others' shards x {s} bytes"
        rollouts.append(Figure("gathered weights", others * s, source))
    if plan.engine == "vllm":
        source = f"{a.weights:,} weights x {s} bytes: the engine's own"
        rollouts.append(Figure("weights to sample with", a.weights * s, source))
    if plan.engine != "vllm-server":
        longest, per = plan.max_context + plan.max_act, a.cache_bytes(s)
        source = f"{plan.rows} episodes x {longest:,} tokens x {per:,} bytes (2 x layers x key-value heads x head size x {s})"
        rollouts.append(Figure("cache", plan.rows * longest * per, source))
    return Memory(held, update, rollouts)


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


def disk(plan: Plan, checkpoints: int) -> Figure:
    """Bytes of the checkpoints that lie on the disk at one time."""
    per = plan.element + 4 + plan.states if plan.masters else 4 + plan.states
    source = f"{checkpoints} checkpoints x {plan.trained:,} trained weights x {per:g} bytes"
    return Figure("checkpoints", checkpoints * plan.trained * per, source)
