"""A few layers of a model, tried on this machine: what they keep for the backward pass and how long they take.

The layers have the model's shape and random weights, and go through the passes of a real run: those of `Engine` for rollouts,
`Network.paths` for the update. So attention, recurrent states, experts and adapters cost what they cost here, in any family. Nothing is read but the
configuration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from searchgym.agents.hf.lora import Adapter, LoraOptions
from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.half_precision import head_logits, rounded_head_logits, rounds_well
from searchgym.agents.lm.interface import Network
from searchgym.agents.lm.network import DecoderNetwork, open_network
from searchgym.agents.lm.prefix_tree import PrefixTree
from searchgym.agents.lm.sampling import Sampling, sample
from searchgym.agents.lm.token_logprobs import token_logprobs
from searchgym.errors import SearchGymError

from .estimate import Plan, Trial

__all__ = ["reduced", "try_layers"]

_WORDS = 512  # of the vocabulary of the few layers; the head is tried by itself
_HEAD_WORDS = 2**16
_ROWS = 32  # decoded together at most
_PROMPT = 256  # tokens of a prompt at most
_PREFILL = 2048  # tokens of a prefill pass, as in the engine
_WHOLE = 8  # layers; models of up to this many are tried whole
_ALIKE = 3  # layers, where all are of one kind
_LARGEST = 2**30  # weights of the layers that are tried
_OPERATIONS = 1e11  # of a forward and backward pass: a few seconds at most


def try_layers(plan: Plan, config: Any, lora: LoraOptions | None, *, own_forward: bool) -> Trial | None:
    """Measure a few layers; takes seconds.

    Args:
        plan: the run.
        config: transformers' configuration of its model.
        lora: the adapter that is trained; None: all weights.
        own_forward: whether passes go through the model's own forward.

    Returns:
        None where a single layer is too large to be tried, or the family cannot be trained.
    """
    layers, weights = plan.architecture.layers, plan.architecture.layer_weights
    dtype = torch.bfloat16 if plan.element == 2 else torch.float32
    count = _count(config, layers)
    if count * weights > _LARGEST:
        return None
    most = max(32, int(_OPERATIONS / (6 * count * weights)))  # tokens
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            loader: Any = AutoModelForCausalLM  # partly untyped
            small = reduced(config, count)
            capped = getattr(small, "attn_logit_softcapping", None) is not None  # as in agents/hf/loading.py
            implementation = "eager" if capped else "sdpa"
            model = loader.from_config(small, attn_implementation=implementation).to(dtype).eval()
            network = open_network(model, own_forward=own_forward, checkpointing=plan.checkpointing)
            if lora is not None:
                Adapter.add(model, lora, "", 0)
        except (SearchGymError, ValueError, AttributeError, RuntimeError):  # opening it would say why
            return None
        scale = layers / count
        length = min(int(plan.length), most)
        tokens = length * max(1, min(plan.pass_tokens, most) // length)
        # Our own pass computes little of the last layer where prompts are fed.
        fed = (layers - 1) / (count - 1) if isinstance(network, DecoderNetwork) and count < layers else scale
        # The last layer is computed at positions that predict sampled tokens only, but the others everywhere.
        every = max(1, round(plan.length / plan.sampled)) if count == layers else 1
        kept, update = _update(network, length, tokens, every)
        rows = max(2, min(plan.rows, _ROWS))
        generation = _generation(network, min(max(1, length // 2), _PROMPT), rows, most)
        words = min(_HEAD_WORDS, config.get_text_config().vocab_size)
        more = config.get_text_config().vocab_size / words
        drawn = min(256, max(16, int(plan.pass_tokens * plan.sampled / plan.length)))
        head = _head(network.width, words, dtype, drawn, rows)
    return Trial(
        layers=count,
        tokens=tokens,
        shares=network.pads,
        kept=kept / count / tokens,
        cache=_cache_bytes(network) * scale,
        states=generation.states * scale,
        prefill=generation.prefill * fed,
        update=update * scale / tokens,
        head=head.update * more,
        step=generation.step * scale + head.step * more,
        row=generation.row * scale + head.row * more,
    )


def reduced(config: Any, count: int) -> Any:
    """The configuration with its first layers only, and a small vocabulary."""
    text = config.get_text_config()
    values = text.to_dict()
    layers = text.num_hidden_layers
    for name, value in values.items():
        if isinstance(value, list) and len(value) == layers:
            values[name] = value[:count]
        elif name.endswith("_token_id"):
            values[name] = None
        elif name.startswith("vocab_size"):
            values[name] = _WORDS
    values.pop("quantization_config", None)
    return type(text).from_dict({**values, "num_hidden_layers": count})


def _count(config: Any, layers: int) -> int:
    """All layers of a small model, else the shortest beginning that has every kind of layer in proportion."""
    if layers <= _WHOLE:
        return layers
    text = config.get_text_config()
    types = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ["one"] * layers
    periods = (p for p in range(1, layers) if all(kind == types[i % p] for i, kind in enumerate(types)))
    period = next(periods, layers)
    return period if 1 < period <= _WHOLE else _ALIKE if period == 1 else _WHOLE


def _least(run: Callable[[], Any], repeats: int = 2) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _update(network: Network, length: int, tokens: int, every: int) -> tuple[float, float]:
    """Bytes that a pass over sequences of a length keeps for the backward pass, and seconds of both passes.

    The hidden states of every so many positions are learned from.
    """
    own = {p.untyped_storage().data_ptr() for p in network.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, _WORDS, (tokens // length, length)).tolist()
    tree = PrefixTree.grow([tuple(row) for row in ids])
    ends = [int(columns[-1]) for columns in tree.columns]
    positions = np.union1d(np.arange(0, len(tree.ids_T), every), np.array(ends))

    def forward() -> Tensor:
        return network.paths(tree, positions).sum()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        summed = forward()
    summed.backward()  # type: ignore[no-untyped-call]
    return float(sum(kept.values())), _least(lambda: forward().backward())  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Generation:
    """Seconds per prefilled token, of a decode step and of a further row; bytes of states."""

    prefill: float
    step: float
    row: float
    states: float


def _generation(network: Network, tokens: int, rows: int, most: int) -> _Generation:
    """Prompts of some tokens are fed to one row and to several, and a few more are sampled.

    As many prompts differ as make a prefill pass; equal ones are computed once.
    """
    steps, different = 4, max(1, min(rows, _PREFILL // tokens, most // tokens))
    prompts = torch.randint(0, _WORDS, (different, tokens)).tolist()
    decode: dict[int, float] = {}
    prefill, states = math.inf, 0.0
    for count in (1, rows):
        for _ in range(2):
            engine = Engine(network, (), max_new_tokens=steps + 1, max_context=tokens + steps + 2)
            engine.begin(range(count))
            given = [prompts[i % different] for i in range(count)]
            engine.generate(range(count), given, Sampling(torch.Generator().manual_seed(0)))
            stats = engine.stats
            decode[count] = min(decode.get(count, math.inf), stats.decode_seconds / steps)
            prefill = min(prefill, stats.prefill_seconds / stats.prefilled_tokens)
            states = float(engine.state_bytes)
    return _Generation(prefill, decode[1], max(0.0, decode[rows] - decode[1]) / (rows - 1), states)


def _cache_bytes(network: Network) -> float:
    """Bytes of the keys and values of a token."""
    numbers = sum(heads * width for shapes in network.kv_shapes.values() for heads, width in shapes)
    return float(numbers * network.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class _Head:
    """Seconds per sampled token of an update, of a decode step of one row, and of a further row."""

    update: float
    step: float
    row: float


def _head(width: int, words: int, dtype: torch.dtype, drawn: int, rows: int) -> _Head:
    """The head of some words: `drawn` tokens are learned from, `rows` are sampled together."""
    # Logits with a standard deviation of 5: as of a trained policy, few words are likely, which is what sampling costs by.
    hidden_NW, weight_VW = torch.randn(max(drawn, rows), width), torch.randn(words, width) * (5 / width**0.5)
    hidden_NW, weight_VW = hidden_NW.to(dtype), weight_VW.to(dtype)
    target_N, one_N = torch.zeros(drawn, dtype=torch.long), torch.ones(drawn)
    sampling = Sampling(torch.Generator().manual_seed(0))

    def learn() -> None:
        learned_NW = hidden_NW[:drawn].requires_grad_()
        token_logprobs(learned_NW, weight_VW, target_N, one_N)[0].sum().backward()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def draw(count: int) -> None:
        part_NW = hidden_NW[:count]
        product: Callable[[Tensor, Tensor], Tensor] = functional.linear
        if dtype == torch.bfloat16:
            product = rounded_head_logits if rounds_well(weight_VW) else head_logits
        sample(product(part_NW, weight_VW), sampling)

    one, many = _least(lambda: draw(1)), _least(lambda: draw(rows))
    return _Head(_least(learn) / drawn, one, max(0.0, many - one) / (rows - 1))
