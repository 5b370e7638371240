"""A few layers of a model, tried on this machine: what they keep for the backward pass and how long they take.

The layers have the model's shape and random weights, and go through the passes of a real run: `Engine` for rollouts, `evaluate`
for the update. So attention, recurrent states, experts and adapters cost what they cost here, in any family. Nothing is read but the
configuration.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from searchgym.agents.hf.lora import Adapter, LoraOptions
from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.half_precision import head_logits
from searchgym.agents.lm.interface import Network
from searchgym.agents.lm.network import open_network
from searchgym.agents.lm.sampling import Sampling, sample
from searchgym.agents.lm.token_logprobs import token_logprobs
from searchgym.errors import SearchGymError

from .estimate import Plan, Trial

__all__ = ["reduced", "try_layers"]

_WORDS = 512  # of the vocabulary of the few layers; the head is tried by itself
_HEAD_WORDS = 2**16
_WHOLE = 8  # layers; models of up to this many are tried whole
_LARGEST = 2**29  # weights of the layers that are tried
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
    tokens = int(min(plan.length, max(32, _OPERATIONS / (6 * count * weights))))
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
        kept, update = _update(network, tokens)
        prefill, step, row, cache, states = _generation(network, min(tokens, 256))
        words = min(_HEAD_WORDS, config.get_text_config().vocab_size)
        more = config.get_text_config().vocab_size / words
        sampled = int(plan.pass_tokens * plan.sampled / plan.length)
        head, head_step, head_row = _head(network.width, words, dtype, min(256, max(16, sampled)))
    gc.collect()
    return Trial(
        layers=count,
        tokens=tokens,
        kept=kept / count / tokens,
        cache=cache * scale,
        states=states * scale,
        prefill=prefill * scale,
        update=update * scale / tokens,
        head=head * more,
        step=step * scale + head_step * more,
        row=row * scale + head_row * more,
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
    return period if 1 < period <= _WHOLE else min(2, layers) if period == 1 else _WHOLE


def _least(run: Callable[[], Any], repeats: int = 2) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _update(network: Network, tokens: int) -> tuple[float, float]:
    """Bytes that a pass keeps for the backward pass, and seconds of both."""
    own = {p.untyped_storage().data_ptr() for p in network.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = tuple(torch.randint(0, _WORDS, (tokens,)).tolist())
    sequence = TokenSequence(ids, (tokens - 1,), (1.0,))

    def learn() -> None:
        evaluate(network, [sequence], EvaluationStats(), batch_tokens=tokens)[2].sum().backward()  # type: ignore[no-untyped-call]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_1W = evaluate(network, [sequence], EvaluationStats(), batch_tokens=tokens)[2]
    hidden_1W.sum().backward()  # type: ignore[no-untyped-call]
    return float(sum(kept.values())), _least(learn)


def _generation(network: Network, tokens: int) -> tuple[float, float, float, float, float]:
    """Seconds per prefilled token, of a decode step and a further row; bytes of keys and values, and of states."""
    rows, steps = 9, 4
    prompt = torch.randint(0, _WORDS, (tokens,)).tolist()
    found: dict[int, tuple[float, float]] = {}
    for count in (1, rows):
        seconds = []
        for _ in range(2):
            engine = Engine(network, (), max_new_tokens=steps + 1, max_context=tokens + steps + 2)
            slots = list(range(count))
            engine.begin(slots)
            engine.generate(slots, [prompt] * count, Sampling(torch.Generator().manual_seed(0)))
            seconds.append((engine.stats.prefill_seconds, engine.stats.decode_seconds))
        found[count] = min(a for a, _ in seconds), min(b for _, b in seconds) / steps
    (prefill, one), (_, many) = found[1], found[rows]
    row = max(0.0, many - one) / (rows - 1)
    size = network.dtype.itemsize
    cache = sum(heads * width * size for shapes in network.kv_shapes.values() for heads, width in shapes)
    return prefill / tokens, max(0.0, one), row, float(cache), float(engine.state_bytes)


def _head(width: int, words: int, dtype: torch.dtype, rows: int) -> tuple[float, float, float]:
    """Seconds of part of a head: per token of an update, of a decode step of one row, and of a further row."""
    hidden_NW, weight_VW = torch.randn(rows, width).to(dtype), torch.randn(words, width).to(dtype)
    hidden_NW.requires_grad_()
    target_N, one_N = torch.zeros(rows, dtype=torch.long), torch.ones(rows)
    sampling = Sampling(torch.Generator().manual_seed(0))

    def learn() -> None:
        token_logprobs(hidden_NW, weight_VW, target_N, one_N)[0].sum().backward()  # type: ignore[no-untyped-call]

    def draw(count: int) -> None:
        with torch.inference_mode():
            part = hidden_NW[:count]
            narrow = dtype == torch.bfloat16
            logits = head_logits(part, weight_VW) if narrow else functional.linear(part, weight_VW).float()
            sample(logits, sampling)

    few, many = 1, 9
    first, second = _least(lambda: draw(few)), _least(lambda: draw(many))
    row = max(0.0, second - first) / (many - few)
    return _least(learn) / rows, first, row
