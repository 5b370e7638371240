"""How much memory a training run takes, before anything is loaded. This file does not import torch.

Every figure states what it is computed from. Weights, gradients, optimizer states, adapters and cache are exact;
activations count the tensors that the forward pass keeps for the backward pass; tests hold all of these to a real
model. For a run on this processor, a few layers are tried (`Processor`), and the process itself and what its allocator wastes
are counted too.

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
    "Processor",
    "Trial",
    "disk",
    "memory",
    "total",
]

GIB = 2**30
HEAD_ELEMENTS = 2**23
"""Logits of one block at most, as in agents/lm/token_logprobs.py."""
PROCESSOR_WORDS = 2048
"""Words of one block on a processor, where a block is not the whole vocabulary; also as there."""


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


LONGEST = 2.5
"""The longest act of a batch, in mean acts. Measured: 2 to 3, with published weights and with the tiny model."""
FRAGMENTS: Mapping[str, float] = {"adapters": 0.5, "all weights": 0.1}
"""Of the activations: holes in the heap that glibc cannot fill within a pass (`agents.lm.free_memory`). Adapters make more tensors
that are freed between those that are kept. Measured, see `tests/benchmarks/bench_estimates.py`."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured of a few layers and the head (`trial.try_layers`), scaled to the whole model.

    Attributes:
        layers: that were tried.
        tokens: length of the pass that was tried.
        shares: whether the common beginnings of a group's episodes are computed once in an update: not with recurrent states.
        kept: bytes per token and layer that are kept for the backward pass.
        cache: bytes of keys and values of a token, in all layers.
        states: bytes of the recurrent states of an episode, in all layers.
        prefill: seconds per token of a pass without gradients.
        update: seconds per token of a forward and backward pass, without the head.
        head: seconds per sampled token of an update: its logits and their gradients.
        step: seconds of a decode step of one episode.
        row: seconds that a further episode adds to a decode step.
    """

    layers: int
    tokens: int
    shares: bool
    kept: float
    cache: float
    states: float
    prefill: float
    update: float
    head: float
    step: float
    row: float


@dataclass(frozen=True, slots=True)
class Processor:
    """What a run on the processor of this machine is estimated with.

    Attributes:
        process: bytes of a process without a model: libraries, tokenizer, corpus, index.
        trial: of the model's layers; None where they are too large to be tried.
    """

    process: float
    trial: Trial | None


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
        shared: part of acts and observations that episodes of a group have in common, and that are computed once.
        gpus: processes, each with a device of its own.
        sharded: whether layers, with their gradients and states, are divided among them (FSDP); embedding and head
            stay whole on each, and layers are gathered while episodes are played.
        processor: of this machine, if the run is for it.
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
    shared: float = 0.0
    gpus: int = 1
    sharded: bool = False
    processor: Processor | None = None

    @property
    def trial(self) -> Trial | None:
        """What was measured of the model's layers, if anything."""
        return None if self.processor is None else self.processor.trial

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
    def computed(self) -> float:
        """Positions of an iteration's update on one device, as expected; what a group shares counts once."""
        groups, mine = self.groups / self.gpus, self.episodes / self.gpus
        return groups * self.prompt + mine * max(0.0, self.length - self.prompt) * (1 - self.shared)

    @property
    def repeated(self) -> float:
        """How often a position is computed on average; more than once where common beginnings are not shared."""
        if self.trial is None or self.trial.shares:
            return 1.0
        return self.episodes / self.gpus * self.length / self.computed

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
    """Bytes per token that one layer keeps for the backward pass: as tried, else see the head of this file."""
    if plan.trial is not None and not plan.checkpointing:
        return plan.trial.kept
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
    if plan.processor is not None:
        source = "this process: libraries, tokenizer, corpus, index"
        held.insert(0, Figure("process", plan.processor.process, source))
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
    tokens = max(plan.max_context, int(plan.token_budget * plan.repeated))
    if plan.checkpointing:
        kept = tokens * (a.layers * s * a.hidden + 2 * layer)
        source = f"{tokens:,} tokens x ({a.layers} layer inputs of {s * a.hidden:,} bytes + 2 x {layer:,.0f} in one layer)"
    else:
        kept = tokens * (a.layers + 1) * layer
        source = f"{tokens:,} tokens x ({a.layers} layers + the gradients in one) x {layer:,.0f} bytes"
    longest, share = plan.max_context, plan.sampled / plan.length
    masks = longest**2 * (s + 1) + tokens * share * longest * s
    words = a.vocab if plan.processor is None else min(a.vocab, PROCESSOR_WORDS)
    logits = int(min(HEAD_ELEMENTS, max(1, tokens * share) * words))
    update = [
        Figure("activations", kept, source),
        Figure(
            "masks",
            masks,
            f"{longest:,}^2 x {s + 1} bytes, and {tokens:,} x {share:.0%} sampled x {longest:,} x {s}",
        ),
        Figure("head", 3 * 4 * logits, f"3 blocks of {logits:,} logits x 4 bytes"),
    ]
    if not plan.rank:
        parts = 2 if a.tied else 1
        source = f"{parts} x {a.embedding_weights:,} weights x {s} bytes: gradients of the embedding before they are added"
        update.append(Figure("embedding", parts * a.embedding_weights * s, source))
    if plan.processor is not None:
        share = FRAGMENTS["adapters" if plan.rank else "all weights"]
        update.append(Figure("fragments", share * kept, f"{share:.0%} of the activations"))
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
        longest, per, states = plan.max_context + plan.max_act, float(a.cache_bytes(s)), 0.0
        of = f"2 x layers x key-value heads x head size x {s}"
        if plan.trial is not None:
            per, states, of = plan.trial.cache, plan.trial.states, "keys and values as tried"
        source = f"{plan.rows} episodes x {longest:,} tokens x {per:,.0f} bytes ({of})"
        if states:
            source += f", and {states:,.0f} bytes of states each"
        rollouts.append(Figure("cache", plan.rows * (longest * per + states), source))
        source = f"2 x {plan.rows} episodes x {a.vocab:,} words x 4 bytes"
        rollouts.append(Figure("logits", 2.0 * plan.rows * a.vocab * 4, source))
    return Memory(held, update, rollouts)


def disk(plan: Plan, checkpoints: int) -> Figure:
    """Bytes of the checkpoints that lie on the disk at one time."""
    per = plan.element + 4 + plan.states if plan.masters else 4 + plan.states
    source = f"{checkpoints} checkpoints x {plan.trained:,} trained weights x {per:g} bytes"
    return Figure("checkpoints", checkpoints * plan.trained * per, source)
