"""Prints what the environment costs: a step, a snapshot, a vector of 64, imports and opening.

    python tests/benchmarks/bench_env.py                      this build
    python tests/benchmarks/bench_env.py --against PYTHON     this build and another one, in turns

One line per figure, with the project's target. Times are processor time of this process (imports and opening: of a
fresh process each, the best of three), so that a busy machine matters little. PYTHON is the interpreter of an
environment in which another version of searchgym is installed; each run is a fresh process, the two builds alternate,
and the ratios are those of the medians (`env_probe.py` measures).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

from generated import GeneratedCorpus  # noqa: E402

from searchgym.corpora.bm25 import loader  # noqa: E402
from searchgym.corpora.bm25.index import BM25  # noqa: E402
from searchgym.env.env import SearchEnv  # noqa: E402
from searchgym.env.vector import SearchVectorEnv  # noqa: E402
from searchgym.judges.oracle import OracleJudge  # noqa: E402
from searchgym.judges.protocol import Trace  # noqa: E402
from searchgym.records.question import Corpus, Question  # noqa: E402
from searchgym.records.retriever import CachedRetriever  # noqa: E402
from searchgym.specs import open_corpus  # noqa: E402

ENVS = 64
LARGE = 60_000
JUDGED: tuple[dict[str, Any], ...] = ({}, {"judge": "oracle"})
ENDLESS = {"max_rounds": 10**9, "max_chars": None}


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def say(name: str, figure: str, target: str) -> None:
    print(f"{name:<58} {figure:>28}   target {target}", flush=True)


def distinct_queries(corpus: Corpus, count: int) -> list[str]:
    """Queries as agents write them: a title and a word of another passage; no two alike."""
    passages = corpus.passages
    titles = [p.title for p in passages]
    words = [p.text.split()[-1] for p in passages]
    n = len(titles)
    queries = dict.fromkeys(f"{titles[i % n]} {words[(i * 7 + i // n) % n]}" for i in range(2 * count))
    return list(queries)[:count]


def step_without_retrieval(corpus: Corpus, retriever: BM25) -> None:
    env = SearchEnv(corpus=corpus, retriever=retriever, **ENDLESS)
    env.reset(seed=0)
    for name, message in (
        ("a step without retrieval (invalid round)", "<think>hmm</think> no act"),
        ("a step without retrieval (answer and reset)", "<think>hmm</think> <answer> Tarn </answer>"),
    ):

        def play(count: int = 2_000, message: str = message) -> None:
            for _ in range(count):
                if not env.episode.running:
                    env.reset()
                env.step(message)

        best = min(seconds(play) for _ in range(5)) / 2_000
        say(name, f"{best * 1e6:.1f} µs", "< 30 µs")


def snapshots(corpus: Corpus, retriever: BM25) -> None:
    env = SearchEnv(corpus=corpus, retriever=retriever)
    env.reset(seed=0)
    for hop in env.episode.question.chain:
        env.step(f"<search>{hop.query}</search>")
    best = min(seconds(lambda: [env.snapshot() for _ in range(1_000)]) for _ in range(5)) / 1_000
    state = env.snapshot()
    again = min(seconds(lambda: [env.restore(state) for _ in range(1_000)]) for _ in range(5)) / 1_000
    say("a snapshot", f"{best * 1e6:.1f} µs", "< 50 µs")
    say("a restore", f"{again * 1e6:.1f} µs", "none")
    say("size of a snapshot as JSON", f"{len(json.dumps(state))} bytes", "<= 64 kB")


def judging(corpus: Corpus, retriever: BM25) -> None:
    """The oracle on whole episodes, with the oracle in each step, and what its trace adds to a snapshot."""
    plain, judged = (SearchEnv(corpus=corpus, retriever=CachedRetriever(retriever), **a) for a in JUDGED)
    played: list[Trace] = []
    for seed in range(200):
        judged.reset(seed=seed)
        for hop in judged.episode.question.chain:
            judged.step(f"<search>{hop.query}</search>")
            played.append(Trace(judged.episode.question, tuple(judged.episode.rounds)))
    oracle = OracleJudge()
    best = min(seconds(lambda: oracle.judge(played)) for _ in range(9)) / len(played)
    say("a verdict of the oracle", f"{best * 1e6:.1f} µs", "< 20 µs")

    def play(env: SearchEnv) -> None:
        for seed in range(100):
            env.reset(seed=seed)
            for hop in env.episode.question.chain:
                env.step(f"<search>{hop.query}</search>")

    steps = sum(len(q.chain) for q in [_question(judged, seed) for seed in range(100)])
    times = [[seconds(lambda e=env: play(e)) for env in (plain, judged)] for _ in range(9)]  # type: ignore[misc]
    off, on = (min(column) / steps for column in zip(*times, strict=True))
    say("a step answered by the query cache, no judge", f"{off * 1e6:.1f} µs", "none")
    say("  judged by the oracle in the step", f"{on * 1e6:.1f} µs", "none")
    judged.reset(seed=0)
    for hop in judged.episode.question.chain * 3:
        if judged.episode.round < 7:
            judged.step(f"<search>{hop.query}</search>")
    best = min(seconds(lambda: [judged.snapshot() for _ in range(500)]) for _ in range(5)) / 500
    size = len(json.dumps(judged.snapshot()))
    say("a snapshot with the trace of 7 rounds", f"{best * 1e6:.1f} µs, {size:,} bytes", "< 50 µs, <= 64 kB")


def _question(env: SearchEnv, seed: int) -> Question:
    env.reset(seed=seed)
    return env.episode.question


def vector(corpus: Corpus, retriever: BM25, queries_of: Callable[[int], list[str]]) -> None:
    """Both sides take turns, on queries neither has seen; the retriever is the bare index, without a cache."""
    for name, copies, target in (
        ("all queries distinct", 1, ">= 0.85"),
        ("groups of 8 that ask alike", 8, ">= 0.85"),
    ):
        queries = queries_of(ENVS * 120 // copies)
        retriever.search(queries, 3)  # both sides find the index warm
        batches = [
            [q for q in queries[i : i + ENVS // copies] for _ in range(copies)]
            for i in range(0, len(queries), ENVS // copies)
        ]
        envs = SearchVectorEnv(ENVS, corpus=corpus, retriever=CachedRetriever(retriever), top_k=3, **ENDLESS)
        envs.reset(seed=0)
        messages = [[f"<search>{query}</search>" for query in batch] for batch in batches]
        ratios, rates = [], []
        for i in range(0, len(batches), 10):
            half, other = slice(i, i + 5), slice(i + 5, i + 10)
            alone = seconds(lambda b=batches[half]: [retriever.search(batch, 3) for batch in b])  # type: ignore[misc]
            inside = seconds(lambda m=messages[other], e=envs: [e.step(acts) for acts in m])  # type: ignore[misc]
            ratios.append(alone / inside)
            rates.append(5 * ENVS / inside)
        assert envs.stats["cache_misses"] == len(queries) / 2
        say(f"{ENVS} environments, {name}", f"{statistics.median(rates):,.0f} steps/s", "see the next line")
        say("  as a share of the bare index's batched rate", f"{statistics.median(ratios):.2f}", target)
    known = messages[5]
    best = min(seconds(lambda: [envs.step(known) for _ in range(30)]) for _ in range(5)) / (30 * ENVS)
    say(f"{ENVS} environments, answered by the query cache", f"{1 / best:,.0f} steps/s", ">= 20,000")


def fresh(code: str, home: str) -> float:
    """Processor seconds that `code` prints in a fresh process."""
    environment = {**os.environ, "SEARCHGYM_HOME": home}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


IMPORT = "import time, gymnasium; t = time.process_time(); import searchgym; print(time.process_time() - t)"
OPEN = """
import time
import gymnasium, numpy, bm25s, Stemmer, filelock, platformdirs, rich.progress
import searchgym.env.env, searchgym.env.vector, searchgym.corpora.world, searchgym.corpora.bm25.index
t = time.process_time()
env = gymnasium.make("SearchQA-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.process_time() - t)
"""


def starting() -> None:
    with tempfile.TemporaryDirectory() as home:
        say(
            "import searchgym, over gymnasium",
            f"{min(fresh(IMPORT, home) for _ in range(3)) * 1e3:.1f} ms",
            "< 200 ms",
        )
        first = min(fresh(OPEN, tempfile.mkdtemp(dir=home)) for _ in range(3))
        say("default world and index, first time, to the first step", f"{first:.2f} s", "< 3 s")
        fresh(OPEN, home)
        later = min(fresh(OPEN, home) for _ in range(3))
        say("default world and index, from the cache", f"{later:.2f} s", "< 0.3 s")


def probe(python: str, home: str) -> dict[str, float]:
    """The figures of `env_probe.py` under an interpreter."""
    script = str(Path(__file__).with_name("env_probe.py"))
    environment = {**os.environ, "SEARCHGYM_HOME": home}
    # In another folder, because a checkout in the current one would be imported instead of the installed build.
    done = subprocess.run(
        [python, script], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{python} {script} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def compare(other: str, rounds: int) -> None:
    """Figures of this build and of another one, measured in turns."""
    found: dict[str, list[dict[str, float]]] = {sys.executable: [], other: []}
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds):
            for python, runs in found.items():
                runs.append(probe(python, home))
    ours, theirs = found[sys.executable], found[other]
    print(f"{'figure':<68} {'this build':>12} {'the other':>12} {'ratio':>8}")
    for name in ours[0]:
        this, that = (statistics.median(run[name] for run in runs) for runs in (ours, theirs))
        print(f"{name:<68} {this:>12,.3f} {that:>12,.3f} {this / that:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the environment costs.")
    parser.add_argument(
        "--against", metavar="PYTHON", help="interpreter with another build, for a comparison"
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each build (default: 5)")
    options = parser.parse_args()
    if options.against:
        compare(options.against, options.rounds)
        return
    starting()
    corpus = open_corpus("country")
    corpus.questions("train")
    retriever = BM25.build(corpus)
    step_without_retrieval(corpus, retriever)
    snapshots(corpus, retriever)
    judging(corpus, retriever)
    vector(corpus, retriever, lambda count: distinct_queries(corpus, count))
    print(f"the same over {LARGE:,} generated passages, queries of 12 words")
    large = GeneratedCorpus(LARGE)
    loader.wait()  # the compiled search, which indexes of this size use
    vector(corpus, BM25.build(large), large.queries)


if __name__ == "__main__":
    main()
