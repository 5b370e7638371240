"""Tree-GRPO and GRPO with the same budget of sampled tokens, on the candidate policy, seed by seed in turns.

python tests/benchmarks/bench_tree.py --seeds 10 --tokens 10000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.trainers.training import recorder
from searchgym.trainers.training.api import train

PLAIN = {"group_size": 8, "entropy_coef": 0.01, "skip_equal": False}
RUNS: dict[str, dict[str, Any]] = {
    "grpo": {"trainer": "grpo", "settings": PLAIN},
    "tree-grpo": {"trainer": "tree-grpo", "settings": {**PLAIN, "nodes": 3}},
    "tree-grpo, group": {"trainer": "tree-grpo", "settings": {**PLAIN, "nodes": 3, "estimator": "group"}},
}
BASE = {
    "agent": "candidate",
    "env": "SearchQA-Terse-v0",
    "env_options": {"types": ["chain", "intersection"], "hops": [1, 2]},
    "questions": 16,
    "iterations": 10_000,
    "lr": 0.2,
    "eval_episodes": 200,
    "eval_every": 0,
    "checkpoint_every": 10_000,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=10_000)
    options = parser.parse_args()
    recorder.draw_curve = lambda *_: None
    scores: dict[str, list[float]] = {name: [] for name in RUNS}
    for seed in range(options.seeds):
        for name, run in RUNS.items():
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                config = {**BASE, **run, "seed": seed, "max_tokens": options.tokens}
                result = train(config, Path(folder) / "run")
            rows = result.metrics[1:]
            tokens = sum(row["tokens"] * (row["episodes"] - row["invalid_episodes"]) for row in rows)
            assert result.after is not None
            scores[name].append(result.after["em"].value)
            print(
                f"seed {seed} {name:17} EM {scores[name][-1]:.3f}  {len(rows)} iterations, "
                f"{sum(row['episodes'] for row in rows)} episodes, {tokens:.0f} tokens, "
                f"{time.perf_counter() - start:.1f} s",
                flush=True,
            )
    rng, base = np.random.default_rng(0), np.array(scores["grpo"])
    for name, values in scores.items():
        gain = np.array(values) - base
        low, high = np.quantile(
            gain[rng.integers(len(gain), size=(10_000, len(gain)))].mean(axis=1), [0.025, 0.975]
        )
        print(
            f"{name:17} EM {np.mean(values):.3f} (sd {np.std(values, ddof=1):.3f}), gain {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        )


if __name__ == "__main__":
    main()
