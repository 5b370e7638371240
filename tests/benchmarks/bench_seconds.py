"""Processor time of the benchmark `seconds`, of this build and of another one in turns.

    python tests/benchmarks/bench_seconds.py --against PYTHON [--seeds 4] [--rounds 3] [--row grpo]

PYTHON is the interpreter of an environment in which the other build is installed. Each round runs `searchgym bench seconds` with one
row, no selection of learning rates and one process, in a new directory; the time is that of the command with its children. The
test EMs of all runs must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median


def run(python: str, row: str, seeds: int) -> tuple[float, list[float]]:
    """Processor seconds, and the test EM of each seed."""
    with tempfile.TemporaryDirectory() as folder:
        line = [python, "-m", "searchgym", "bench", "seconds", "--only", row, "--seeds", str(seeds)]
        line += ["--selection-seeds", "0", "--processes", "1", "--out", str(Path(folder) / "bench")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            line,
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        results = sorted(Path(folder).glob("bench/runs/final/**/result.json"))
        ems = [float(json.loads(path.read_text())["test"]["metrics"]["em"]) for path in results]
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--against", required=True, help="interpreter of the other build")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--row", default="grpo")
    options = parser.parse_args()
    times: dict[str, list[float]] = {sys.executable: [], options.against: []}
    seen = set()
    for _ in range(options.rounds):
        for python, taken in times.items():
            seconds, ems = run(python, options.row, options.seeds)
            taken.append(seconds)
            seen.add(tuple(ems))
            print(f"{python}: {seconds:.1f} s, test EM {ems}", flush=True)
    here, other = (median(taken) for taken in times.values())
    print(f"{here:.1f} against {other:.1f} s of processor time: {here / other:.2f}")
    if len(seen) > 1:
        sys.exit("the builds gave different results")


if __name__ == "__main__":
    main()
