"""Decode steps of published weights on a processor beside transformers' `generate`, in float32 and bfloat16.

    python tests/benchmarks/bench_real_model.py DIRECTORY [--batch 24] [--context 718] [--text FILE]

All rows have one context, computed once and copied on both sides, so only decode steps are timed: processor seconds of
n + 1 sampled tokens less those of one, divided by n; medians, the sides taking turns. `generate` has the weights as transformers loads them,
mapped from their file; the engine has them as the agent does, in huge pages, and once more mapped. After random ids, the default context, the
model's distribution is flat, which is the slow case of the engine's head; with `--text` the context is the beginning of a file.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.huge_pages import place_model
from searchgym.agents.lm.network import open_network
from searchgym.agents.lm.sampling import Sampling


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--context", type=int, default=718)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for dtype in options.dtypes.split(","):
        placed, mapped = (load(options.model, dtype) for _ in range(2))
        place_model(placed, torch.device("cpu"))
        if options.text:
            tokenizer = AutoTokenizer.from_pretrained(options.model)
            ids = tokenizer(options.text.read_text())["input_ids"][: options.context]
        else:
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(10, 4000, (options.context,), generator=generator).tolist()
        sides = {
            "engine": _engine(placed, ids, options.batch),
            "engine, mapped": _engine(mapped, ids, options.batch),
            "generate": _generate(mapped, ids, options.batch),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            for name, run in sides.items():
                short, long = run(1), run(1 + options.tokens)
                seconds[name].append((long - short) / options.tokens)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(
            f"{dtype} (batch {options.batch}, context {options.context}, {options.repeats} repeats):",
            *(f"{name} {m:.3f} s a step, {m / medians['generate']:.2f}" for name, m in medians.items()),
            sep="\n  ",
            flush=True,
        )


def load(path: str, dtype: str) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.eval()


def _engine(model: Any, ids: list[int], batch: int) -> Callable[[int], float]:
    engine = Engine(open_network(model), (), max_new_tokens=64, max_context=4096)
    engine.begin([batch])
    engine.max_new_tokens = 1
    engine.generate([batch], [ids], Sampling(torch.Generator().manual_seed(0)))

    def run(tokens: int) -> float:
        engine.max_new_tokens = tokens
        engine.fork(batch, range(batch))
        start = time.process_time()
        engine.generate(
            range(batch), [[7 + i] for i in range(batch)], Sampling(torch.Generator().manual_seed(1))
        )
        return time.process_time() - start

    return run


def _generate(model: Any, ids: list[int], batch: int) -> Callable[[int], float]:
    with torch.inference_mode():
        first = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    once = getattr(first, "cache", None) or first.past_key_values
    name = "cache" if hasattr(first, "cache") else "past_key_values"
    rows = torch.tensor([[*ids, 7 + i] for i in range(batch)])

    @torch.inference_mode()
    def run(tokens: int) -> float:
        cache = copy.deepcopy(once)
        cache.batch_repeat_interleave(batch)
        how = {"do_sample": True, "top_k": 0, "max_new_tokens": tokens, "min_new_tokens": tokens}
        torch.manual_seed(1)
        start = time.process_time()
        model.generate(rows, attention_mask=torch.ones_like(rows), pad_token_id=0, **how, **{name: cache})
        return time.process_time() - start

    return run


if __name__ == "__main__":
    main()
