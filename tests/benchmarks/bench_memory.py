"""Whether memory stays flat: slopes of resident memory, descriptors, threads and temporary files of long runs.

    python tests/benchmarks/bench_memory.py episodes                30,000 episodes of the candidate policy
    python tests/benchmarks/bench_memory.py iterations              `searchgym train`, 300 iterations
    python tests/benchmarks/bench_memory.py service --minutes 60    the service at full load

Each run is a process with a folder of temporary files of its own. It is looked at from outside, 400 times at least. The first
half is warm-up: caches fill (those of queries are made small), and what is imported late is imported. Over the second half, the slope is that of a straight line through
the means of twenty equal parts, because neighbouring samples are not independent, with its 95 % interval (Student's t). A leak is a
slope whose interval is above 0, unless memory grows by less than Linux's counters resolve (64 pages of each thread). `anonymous` is
the memory without pages of mapped files, which the system takes back when it needs them.

The service runs under four clients that send 32 new queries at a time and four that send single ones, over passages as in
bench_service.py; half of the queries are new, the others are drawn from 98,000 (`--keep DIR` keeps corpus and index).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from bench_service import SEARCHGYM, batches, endless_queries, load_server, open_served, raw_material, started

PARTS = 20  # of the second half
T95 = 2.101  # quantile of Student's t with PARTS - 2 degrees of freedom
MB = 2**20
# Pages that a thread may count for itself before the process shows them.
RESOLVED = 64 * os.sysconf("SC_PAGE_SIZE") / MB
# The default cache of queries, 256 MB, would be filled by hundreds of thousands of them: a slope that is no leak.
RETRIEVER = {"name": "bm25", "cache_bytes": 4 * MB}
# Eight questions: a policy that samples meets new texts for as long as there are new questions, and the bounded caches of
# texts fill for as long (16,384 entries each).
FEW = {"name": "country", "size": 1000, "train": 8, "dev": 8, "test": 8}
COLUMNS = ("resident MB", "anonymous MB", "descriptors", "threads", "temporary files")


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        for thread in Path(f"/proc/{one}/task").glob("*"):
            try:
                found += map(int, (thread / "children").read_text().split())
            except OSError:
                continue  # it has ended
    return found


def look(pid: int, temporary: Path) -> tuple[float, ...]:
    """One sample, in the order of `COLUMNS`, over a process and its descendants."""
    resident = anonymous = descriptors = threads = 0
    for one in family(pid):
        try:
            lines = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{one}/status").read_text().splitlines()
                if ":" in line
            )
            resident += int(lines["VmRSS"].split()[0]) * 1024
            anonymous += int(lines["RssAnon"].split()[0]) * 1024
            threads += int(lines["Threads"])
            descriptors += len(os.listdir(f"/proc/{one}/fd"))
        except (OSError, KeyError):  # it has ended, or is a zombie
            continue
    files = sum(len(names) for _, _, names in os.walk(temporary))
    return (resident / MB, anonymous / MB, descriptors, threads, files)


class Watch:
    """Samples a process until it is closed.

    Args:
        pid: the process.
        temporary: its folder of temporary files.
        every: seconds between samples.
        over: whether the work is done, and only its end is left (reports, pictures).
    """

    def __init__(
        self, pid: int, temporary: Path, every: float, over: Callable[[], bool] = lambda: False
    ) -> None:
        self._pid, self._temporary, self._every, self._done = pid, temporary, every, over
        self.times: list[float] = []
        self.samples: list[tuple[float, ...]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            sample = look(self._pid, self._temporary)
            if not sample[0] or self._done():
                return
            self.times.append(time.monotonic())
            self.samples.append(sample)

    def close(self) -> None:
        """Take no more samples."""
        self._over.set()
        self._thread.join()


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """Slope per hour over the second half, and its 95 % interval."""
    half = len(times) // 2
    parts = [
        (float(np.mean(t)) / 3600, float(np.mean(v)))
        for t, v in zip(
            np.array_split(np.array(times[half:]), PARTS),
            np.array_split(np.array(values[half:]), PARTS),
            strict=True,
        )
    ]
    x, y = np.array(parts).T
    x = x - x.mean()
    steep = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - steep * x
    error = T95 * float(np.sqrt((rest**2).sum() / (PARTS - 2) / (x * x).sum()))
    return steep, steep - error, steep + error


def report(name: str, watch: Watch) -> None:
    """Print the line of each column."""
    if len(watch.times) < 2 * PARTS:
        sys.exit(f"{name}: only {len(watch.times)} samples: let it run longer, or lower --every")
    half = len(watch.times) // 2
    minutes = (watch.times[-1] - watch.times[0]) / 60
    print(f"{name}: {minutes:.1f} minutes, {len(watch.times)} samples; over the second half:")
    for column, values in zip(COLUMNS, zip(*watch.samples, strict=True), strict=True):
        steep, low, high = slope(watch.times, values)
        grown = steep * (watch.times[-1] - watch.times[half]) / 3600
        least = RESOLVED if column.endswith("MB") else 1e-6
        verdict = "flat" if low <= 0 <= high or abs(grown) <= least else "falling" if high < 0 else "NOT FLAT"
        print(
            f"  {column:15} {np.mean(values[half:]):9.2f} on average, slope {steep:+.3f} [{low:+.3f}, {high:+.3f}] per hour, "
            f"{grown:+.3f} over it: {verdict}",
            flush=True,
        )


def play_episodes(count: int) -> None:
    """The work of the process `episodes`."""
    import searchgym
    from searchgym.agents.candidate.agent import CandidateAgent
    from searchgym.rollouts import collect

    envs = searchgym.make_vec("SearchQA-Terse-v0", num_envs=64, retriever=RETRIEVER)
    agent = CandidateAgent()
    agent.greedy = True  # samples would meet new states for ever, and the caches of texts would not fill within the first half
    tasks = itertools.cycle(envs.task_ids("train"))
    for done in range(0, count, 500):
        episodes = collect(envs, agent, list(itertools.islice(tasks, min(500, count - done))))
        assert all(episode.outcome is not None for episode in episodes)


def run_child(
    command: Sequence[str], folder: Path, every: float, over: Callable[[], bool] = lambda: False
) -> Watch:
    """Run a command to its end under a watch."""
    temporary = folder / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    watch = Watch(process.pid, temporary, every, over)
    if process.wait():
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    watch.close()
    return watch


def serve(folder: Path, options: argparse.Namespace) -> tuple[Watch, int, int]:
    """The service under load; its watch, requests answered and lost."""
    temporary = folder / "temporary"
    temporary.mkdir()
    directory, corpus, _ = open_served("bm25", options.passages, (options.keep or folder).absolute())
    _, questions = raw_material()
    new, rng = endless_queries(questions), random.Random(5)
    known = list(itertools.islice(new, 98_000))

    def mixed() -> Iterator[str]:
        while True:
            yield next(new)
            yield rng.choice(known)

    clients = [batches(mixed(), 32) for _ in range(4)] + [batches(mixed(), 1) for _ in range(4)]
    command = (*SEARCHGYM, "index", "serve", str(directory), "--port", "0", "--cache-mb", "16")
    os.environ["TMPDIR"] = str(temporary)
    # The index keeps 64 MB of passages and 200,000 words that were asked for. Queries at random fill these caches over hours; the
    # passages' own words, once each, fill them before the watch begins.
    words = [
        f"{passage.title} {passage.text}"[:200] for passage in itertools.islice(corpus.passages, 120_000)
    ]
    parts = [words[i : i + 32] for i in range(0, len(words), 32)]
    with started(*command) as (url, pid):
        load_server(url, [iter(parts[i::8]) for i in range(8)], 3600, keep=False)
        watch = Watch(pid, temporary, options.every)
        tally, _ = load_server(url, clients, 60 * options.minutes, keep=False)
        watch.close()
    return watch, len(tally.seconds), tally.lost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", choices=("episodes", "iterations", "service"))
    parser.add_argument("--episodes", type=int, default=30_000)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=60, help="of the service")
    parser.add_argument("--passages", type=int, default=200_000, help="that the service searches")
    parser.add_argument("--every", type=float, default=0.25, help="seconds between samples")
    parser.add_argument("--keep", type=Path, help="directory of corpus and index of the service")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        play_episodes(options.episodes)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.run == "service":
            watch, answered, lost = serve(folder, options)
            report(f"service, {answered:,} requests answered, {lost} lost", watch)
        elif options.run == "episodes":
            child = [
                str(Path(__file__).resolve()),
                "episodes",
                "--child",
                "--episodes",
                str(options.episodes),
            ]
            report(f"{options.episodes:,} episodes", run_child(child, folder, options.every))
        else:
            train = "train --agent candidate --questions 8 --group-size 8 --lr 0.15 --threads 1 --set skip_equal=false"
            command = ["-c", "from searchgym.cli import main; main()", *train.split()]
            command += ["--eval-episodes", "0", "--env-option", f"retriever={json.dumps(RETRIEVER)}"]
            command += ["--env-option", f"corpus={json.dumps(FEW)}"]
            command += ["--iterations", str(options.iterations), "--run-dir", str(folder / "run")]
            metrics = folder / "run" / "metrics.jsonl"

            def over() -> bool:
                return metrics.exists() and metrics.read_bytes().count(b"\n") >= options.iterations - 1

            report(f"{options.iterations} iterations", run_child(command, folder, options.every, over))


if __name__ == "__main__":
    main()
