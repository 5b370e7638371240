"""Cost of a decode step with keys and values kept from round to round, compared with transformers' `generate`.

    python tests/benchmarks/bench_decode.py [--width 128] [--batch 8] [--rounds 2,4,8,16,32]

A Qwen3 shape with random weights plays `--batch` episodes of ragged observations. At some rounds the same contexts
also go through `generate` (left-padded, its own KV cache), which samples as many tokens. A step is the time from one
sampled token to the next. The time of a whole round is printed too; it includes prefill, which `generate` computes for
the whole context. Processor time on one thread, medians over steps and repeats; prints one line per measured round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from transformers import StoppingCriteria

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.network import open_network
from searchgym.agents.lm.sampling import Sampling, sample
from searchgym.agents.tiny.model import TinyConfig, build_model

VOCAB = 1500


class Steps:
    """Processor time at every step of a generation."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def mark(self) -> None:
        self.times.append(time.process_time())

    def take(self) -> list[float]:
        """Seconds between the steps so far."""
        found = [later - earlier for earlier, later in pairwise(self.times)]
        self.times = []
        return found


class Criteria(StoppingCriteria):  # type: ignore[misc]
    """Never stops; `generate` calls it after every token."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.steps.mark()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@torch.inference_mode()
def theirs(model: Any, contexts: list[list[int]], new: int, steps: Steps) -> float:
    """Seconds of a whole round with `generate`."""
    longest = max(map(len, contexts))
    ids = torch.tensor([[0] * (longest - len(c)) + c for c in contexts])
    mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts])
    started = time.process_time()
    model.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        max_new_tokens=new,
        pad_token_id=0,
        stopping_criteria=[Criteria(steps)],
    )
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
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
    ours: dict[int, list[float]] = {number: [] for number in measured}
    generates: dict[int, list[float]] = {number: [] for number in measured}
    rounds: dict[int, list[tuple[float, float, float]]] = {number: [] for number in measured}
    steps = Steps()

    def marked(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        steps.mark()
        return sample(*arguments)

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
            started = time.process_time()
            with patch("searchgym.agents.lm.engine.sample", marked):
                engine.generate(slots, prompts, Sampling(generator))
            mine, step = time.process_time() - started, steps.take()
            if number in ours:
                ours[number] += step
                whole = theirs(model, contexts, options.new, steps)
                generates[number] += steps.take()
                rounds[number].append((statistics.mean(map(len, contexts)), mine, whole))
    weights = sum(p.numel() for p in model.parameters())
    print(
        f"width {options.width}, {options.layers} layers, {weights:,} weights, batch {options.batch}, 1 thread"
    )
    for number in measured:
        step, their_step = statistics.median(ours[number]), statistics.median(generates[number])
        context, mine, whole = (statistics.median(column) for column in zip(*rounds[number], strict=True))
        print(
            f"round {number:2}, context {context:5.0f}: decode step {1e3 * step:6.2f} ms, generate's "
            f"{1e3 * their_step:6.2f} ms ({step / their_step:.2f} of it); whole round {mine:.3f} s, "
            f"generate's {whole:.3f} s"
        )


if __name__ == "__main__":
    main()
