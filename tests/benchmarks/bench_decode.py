"""What a decode step costs with keys and values kept from round to round, beside transformers' `generate`.

    python tests/benchmarks/bench_decode.py [--width 128] [--batch 16] [--rounds 2,4,8,16,32]

A Qwen3 shape with random weights plays `--batch` episodes of ragged observations. At some rounds the very same contexts
also go through `generate` (left-padded, its own KV cache), which samples as many tokens. Its step is the difference
between a call that samples `--new` tokens and one that samples 1, so that its prefill of the whole context is left
out; beside it stands what a whole round costs, prefill included. Processor time on one thread, medians over repeats;
prints one line per measured round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from searchgym.agents.engine import Engine, EngineStats, Sampling
from searchgym.agents.model import TinyConfig, build_model
from searchgym.agents.network import open_network

VOCAB = 1500


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def their_step(model: Any, contexts: list[list[int]], new: int) -> tuple[float, float]:
    """Seconds of a decode step and of a whole round."""
    longest = max(map(len, contexts))
    ids = torch.tensor([[0] * (longest - len(c)) + c for c in contexts])
    mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts])

    @torch.inference_mode()
    def run(count: int) -> None:
        model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )

    whole = seconds(lambda: run(new))
    return (whole - seconds(lambda: run(1))) / (new - 1), whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new", type=int, default=16, help="tokens sampled in a round")
    parser.add_argument("--observation", type=int, default=60, help="mean tokens of an observation")
    parser.add_argument(
        "--rounds", default="2,4,8,16,32", help="where to measure; the last ends the episodes"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = [int(text) for text in options.rounds.split(",")]
    config = TinyConfig(
        VOCAB,
        options.width,
        options.layers,
        heads=options.width // 16,
        kv_heads=options.kv_heads,
        head_dim=16,
        max_positions=16_384,
    )
    model: Any = build_model(config, seed=0)
    results: dict[int, list[tuple[float, float, float, float]]] = {number: [] for number in measured}
    lengths: dict[int, float] = {}
    for repeat in range(options.repeats):
        rng, generator = random.Random(repeat), torch.Generator().manual_seed(repeat)
        engine = Engine(
            open_network(model),
            (),
            max_new_tokens=options.new,
            max_context=config.max_positions,
            share_from=32,
        )
        slots = list(range(options.batch))
        engine.begin(slots)
        for number in range(1, max(measured) + 1):
            mean = options.observation
            prompts = [
                [rng.randrange(VOCAB) for _ in range(rng.randint(mean // 2, mean * 3 // 2))] for _ in slots
            ]
            contexts = [[*engine.context(slot), *prompt] for slot, prompt in zip(slots, prompts, strict=True)]
            engine.stats = EngineStats()
            with patch.object(time, "perf_counter", time.process_time):
                engine.generate(slots, prompts, Sampling(generator))
            if number in results:
                stats = engine.stats
                step, whole = their_step(model, contexts, options.new)
                ours = stats.decode_seconds / stats.decode_steps
                results[number].append((ours, step, stats.prefill_seconds + stats.decode_seconds, whole))
                lengths[number] = statistics.mean(map(len, contexts))
    weights = sum(p.numel() for p in model.parameters())
    print(
        f"width {options.width}, {options.layers} layers, {weights:,} weights, batch {options.batch}, 1 thread"
    )
    for number, rows in results.items():
        ours, step, mine, whole = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"round {number:2}, context {lengths[number]:5.0f}: decode step {1e3 * ours:6.2f} ms, generate's "
            f"{1e3 * step:6.2f} ms ({ours / step:.2f} of it); whole round {mine:.3f} s, generate's {whole:.3f} s"
        )


if __name__ == "__main__":
    main()
