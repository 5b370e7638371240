"""Tokens per second of the tiny language model in a real training run: rollouts, and updates with and without the
beginnings that rollouts share.

    python tests/benchmarks/bench_update.py [--iterations 10] [--prompt 0]

`searchgym train` with its defaults. After every collection its sequences are evaluated and differentiated in two
random minibatches, as the update does it, in turns: as the package does it, and with every sequence computed in
full. `--prompt` puts this many tokens before every sequence, as the system prompt of a larger model would be. Prints
one line per way, of medians over the iterations in processor time (other work on the machine does not count), and
one of the rollouts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from searchgym.agents.lm import prefix_tree
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.trainers.config import make_config
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.training import loop
from searchgym.trainers.training.api import train


def training_pass(agent: TinyAgent, minibatches: list[list[TokenSequence]]) -> tuple[float, EvaluationStats]:
    """Processor seconds of forward and backward passes, and what was computed."""
    stats = EvaluationStats()
    started = time.process_time()
    for sequences in minibatches:
        logprobs, _, _ = evaluate(agent.network, sequences, stats)
        logprobs.mean().backward()
    seconds = time.process_time() - started
    agent.model.zero_grad(set_to_none=True)
    return seconds, stats


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--prompt", type=int, default=0, help="tokens put before every sequence")
    options = parser.parse_args()
    rng = random.Random(0)
    measured: dict[str, list[tuple[float, int, int]]] = {
        "shared": [],
        "in full": [],
    }  # s, computed, all tokens
    rollouts: list[tuple[float, int, int]] = []  # seconds, sampled tokens, context tokens
    prompt = tuple(rng.randrange(10, 500) for _ in range(options.prompt))

    collect = loop.Loop.iterate
    learn = loop.Loop._learn

    def timed(trainer: loop.Loop, watch: loop.Stopwatch | None = None):
        trainer.started = time.process_time()
        return collect(trainer, watch)

    def compare(trainer: loop.Loop, played, drawn, watch):
        seconds = time.process_time() - trainer.started
        agent, samples = trainer.policy, Groups(played).samples
        sampled = sum(sum(s.segment.mask) for s in samples)
        rollouts.append((seconds, sampled, sum(len(s.segment.tokens) for s in samples)))
        sequences = [agent._sequence(sample) for sample in samples]
        sequences = [
            replace(s, tokens=prompt + s.tokens, targets=tuple(t + len(prompt) for t in s.targets))
            for s in sequences
        ]
        rng.shuffle(sequences)
        halves = [sequences[: len(sequences) // 2], sequences[len(sequences) // 2 :]]
        tokens = sum(s.targets[-1] for s in sequences)
        for way in rng.sample(sorted(measured), 2):
            nothing = patch.object(prefix_tree, "common_beginning", return_value=0)
            if way == "in full":
                with nothing:
                    seconds, stats = training_pass(agent, halves)
            else:
                seconds, stats = training_pass(agent, halves)
            measured[way].append((seconds, stats.computed_tokens, tokens))
        return learn(trainer, played, drawn, watch)

    config = make_config({"iterations": options.iterations, "eval_episodes": 0, "checkpoint_every": 1000})
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(loop.Loop, "iterate", timed),
        patch.object(loop.Loop, "_learn", compare),
    ):
        train(config, Path(folder) / "run")

    def rate(values: list[tuple[float, int]]) -> str:
        return f"{statistics.median(tokens / seconds for seconds, tokens in values):,.0f} tokens/s"

    print(
        f"{torch.get_num_threads()} thread(s), {options.iterations} iterations; rollouts, environment included: "
        f"{rate([(s, n) for s, n, _ in rollouts])} sampled, {rate([(s, n) for s, _, n in rollouts])} of context"
    )
    for way, rows in measured.items():
        share = 1 - sum(computed for _, computed, _ in rows) / sum(tokens for _, _, tokens in rows)
        print(
            f"update, {way}: {statistics.median(s for s, _, _ in rows):.3f} s, {rate([(s, n) for s, _, n in rows])}, "
            f"{100 * share:.1f} % of the tokens not computed, 0 % padding"
        )


if __name__ == "__main__":
    main()
