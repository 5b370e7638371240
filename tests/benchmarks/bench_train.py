"""The demo: what `searchgym train` reaches with its defaults, and how long the whole command takes.

    python tests/benchmarks/bench_train.py [--seeds N] [--control]

Each seed runs the command as a user would, imports and both evaluations included. `--control` shuffles the
rewards inside every group: what is learned then was not learned from the rewards.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="permute the rewards inside every group")
    options = parser.parse_args()
    command = [sys.executable, "-c", "from searchgym.cli import main; main()", "train"]
    command += ["--set", "permute_rewards=true"] if options.control else []
    starts, ends, walls, cpus = [], [], [], []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            started, before = time.perf_counter(), os.times()
            arguments = ["--seed", str(seed), "--run-dir", str(run)]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True)
            walls.append(time.perf_counter() - started)
            after = os.times()
            if done.returncode:
                sys.exit(done.stderr or f"searchgym train ended with status {done.returncode}")
            cpus.append(sum(after[2:4]) - sum(before[2:4]))
            summary = json.loads((run / "summary.json").read_text())
            starts.append(summary["before"]["metrics"]["em"]["mean"])
            ends.append(summary["after"]["metrics"]["em"]["mean"])
    print(
        f"searchgym train{' (rewards permuted)' if options.control else ''}, {options.seeds} seeds, "
        f"{summary['iterations']} iterations: greedy EM {starts[0]:.3f} -> "
        f"{', '.join(f'{em:.3f}' for em in ends)} (lowest {min(ends):.3f}, median {statistics.median(ends):.3f}) on "
        f"{summary['after']['questions']} dev questions; {max(walls):.0f} s at most, {max(cpus):.0f} s of processor time"
    )


if __name__ == "__main__":
    main()
