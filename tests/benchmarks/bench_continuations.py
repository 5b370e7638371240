"""Continuations from restored states against plain rollouts of the tiny model, and the time of a whole audit.

python tests/benchmarks/bench_continuations.py [--env SearchQA-Forks-v0] [--questions 25] [--repeats 3] [--error 0.05]

Rounds and sampled tokens per second of processor time, torch on one thread; the two sides alternate and the ratio is that of
the medians. The last line is one estimate of 8 episodes of every question to the standard error.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch

from searchgym.agents.tiny import TinyAgent
from searchgym.env.vector import make_vec
from searchgym.rollouts.collection import collect
from searchgym.trainers.core.groups import sampled_tokens
from searchgym.trainers.credit_audit.monte_carlo import Precision, continue_episodes

ENVIRONMENTS = {
    "SearchQA-Forks-v0": ("forks", {}),
    "SearchQA-Terse-v0": ("country", {"types": ["chain"], "hops": [2, 3]}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", choices=ENVIRONMENTS, default="SearchQA-Forks-v0")
    parser.add_argument("--questions", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--error", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, arguments = ENVIRONMENTS[options.env]
    envs = make_vec(options.env, 256, autoreset_mode="Disabled", **arguments)
    agent = TinyAgent(start=start)
    tasks = envs.task_ids()[: options.questions]
    many = [task for task in envs.task_ids()[: 5 * options.questions] for _ in range(8)]
    episodes = collect(envs, agent, [task for task in tasks for _ in range(8)])  # also fills the query cache
    collect(envs, agent, many)
    speeds: dict[str, list[tuple[float, float]]] = {"plain": [], "continued": []}
    for repeat in range(options.repeats):
        started = time.process_time()
        played = collect(envs, agent, many)
        seconds = time.process_time() - started
        rounds, tokens = sum(len(e.rounds) for e in played), sum(map(sampled_tokens, played))
        speeds["plain"].append((rounds / seconds, tokens / seconds))
        started = time.process_time()
        counts = continue_episodes(agent, envs, episodes, Precision(error=0.12), seed=repeat).counts
        seconds = time.process_time() - started
        speeds["continued"].append((counts["rounds"] / seconds, counts["tokens"] / seconds))
    middle = {name: [median(values) for values in zip(*pairs, strict=True)] for name, pairs in speeds.items()}
    for name, (rounds, tokens) in middle.items():
        print(f"{name:10} {rounds:7.0f} rounds/s  {tokens:8.0f} tokens/s")
    ratios = [continued / plain for plain, continued in zip(*middle.values(), strict=True)]
    print(f"ratio      {ratios[0]:7.2f}           {ratios[1]:8.2f}")
    started, wall = time.process_time(), time.perf_counter()
    found = continue_episodes(agent, envs, episodes, Precision(error=options.error), seed=100)
    errors = np.concatenate([truth.errors_R for truth in found.truth])
    print(
        f"{len(episodes)} episodes, {', '.join(f'{v:,.0f} {k}' for k, v in found.counts.items())}; standard error: median "
        f"{np.median(errors):.4f}, largest {errors.max():.4f}; {time.process_time() - started:.0f} s of processor time, "
        f"{time.perf_counter() - wall:.0f} s"
    )


if __name__ == "__main__":
    main()
