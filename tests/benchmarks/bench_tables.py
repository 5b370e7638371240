"""CPU time and memory of `searchgym stats` and `searchgym export` on a large file of episodes.

    python tests/benchmarks/bench_tables.py [EPISODES]

Plays the tiny agent on 40 questions, repeats its episodes under new ids to EPISODES (100,000) of one hundredth as many questions,
and runs each command in a process of its own. Prints CPU seconds and the largest resident memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import searchgym

COMMANDS = {
    "stats": ["stats", "FILE"],
    **{
        to: ["export", "FILE", "--to", to, "--out", f"OUT-{to}"]
        for to in ("csv", "parquet", "hf", "trl", "verifiers")
    },
}


def write(path: Path, count: int) -> None:
    """Write the file."""
    world = {"name": "country-terse", "size": 1000, "train": 40, "dev": 40, "test": 20}
    played = searchgym.evaluate("SearchQA-Terse-v0", "tiny", episodes=40, corpus=world).episodes
    questions = max(1, count // 100)
    searchgym.save_episodes(
        path,
        (
            replace(played[i % len(played)], episode_id=f"{i:x}", task_id=f"q{i % questions}")
            for i in range(count)
        ),
    )


def measure(words: list[str]) -> tuple[float, float]:
    """CPU seconds and megabytes of a command."""
    process = subprocess.Popen([sys.executable, "-m", "searchgym", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "episodes.jsonl"
        write(file, count)
        size = file.stat().st_size / 1e6
        print(f"{count:,} episodes, {size:.0f} MB", flush=True)
        for name, words in COMMANDS.items():
            filled = [
                word.replace("FILE", str(file)).replace("OUT", str(Path(folder) / "out")) for word in words
            ]
            seconds, memory = measure(filled)
            print(f"{name:10} {seconds:7.1f} s CPU  {memory:6.0f} MB", flush=True)
