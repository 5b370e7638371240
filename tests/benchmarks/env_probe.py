"""Measures the installed build's environment and prints the figures as JSON; `bench_env.py` compares two builds with it.

Only public names that both builds have are used. Times are processor time of this process.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib import import_module  # noqa: E402
from typing import Any  # noqa: E402

import gymnasium as gym  # noqa: E402

_started = time.process_time()
import searchgym  # noqa: E402

_imported = time.process_time() - _started

from searchgym.corpora.bm25 import BM25  # noqa: E402

# Both builds have this path; in the later one, it leads to the module's new place.
CachedRetriever: Any = import_module("searchgym.retriever").CachedRetriever

ENVS = 64
ENDLESS: dict[str, Any] = {"max_rounds": 10**9, "max_chars": None}
ANSWER = "<think>hmm</think> <answer> Tarn </answer>"


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def each(work: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Seconds per call: the best of some repeats."""
    return min(seconds(lambda: [work() for _ in range(count)]) for _ in range(repeats)) / count


def distinct_queries(corpus: searchgym.Corpus, count: int) -> list[str]:
    """Queries as agents write them: a title and a word of another passage; no two alike."""
    passages = corpus.passages
    titles = [p.title for p in passages]
    words = [p.text.split()[-1] for p in passages]
    n = len(titles)
    queries = dict.fromkeys(f"{titles[i % n]} {words[(i * 7 + i // n) % n]}" for i in range(2 * count))
    return list(queries)[:count]


def vector(corpus: searchgym.Corpus, retriever: BM25, copies: int, name: str) -> dict[str, float]:
    """Environment and bare index take turns on queries that neither has seen; the index has no cache."""
    queries = distinct_queries(corpus, ENVS * 160 // copies)
    retriever.search(queries, 3)  # both find the index warm
    batches = [
        [q for q in queries[i : i + ENVS // copies] for _ in range(copies)]
        for i in range(0, len(queries), ENVS // copies)
    ]
    envs = searchgym.SearchVectorEnv(
        ENVS, corpus=corpus, retriever=CachedRetriever(retriever), top_k=3, **ENDLESS
    )
    envs.reset(seed=0)
    messages = [[f"<search>{query}</search>" for query in batch] for batch in batches]
    shares, rates = [], []
    for i in range(0, len(batches), 10):
        alone = seconds(lambda b=batches[i : i + 5]: [retriever.search(batch, 3) for batch in b])  # type: ignore[misc]
        inside = seconds(lambda m=messages[i + 5 : i + 10]: [envs.step(acts) for acts in m])  # type: ignore[misc]
        shares.append(alone / inside)
        rates.append(5 * ENVS / inside)
    known = messages[5]
    again = min(seconds(lambda: [envs.step(known) for _ in range(20)]) for _ in range(5)) / (20 * ENVS)
    return {
        f"{name}: steps/s": statistics.median(rates),
        f"{name}: share of the index's rate": statistics.median(shares),
        f"{name}, from the query cache: steps/s": 1 / again,
    }


def single(corpus: searchgym.Corpus, retriever: BM25) -> dict[str, float]:
    env = searchgym.SearchEnv(corpus=corpus, retriever=CachedRetriever(retriever), **ENDLESS)
    task = env.task_ids()[0]
    env.reset(seed=0)

    def episode() -> None:
        env.reset(options={"task_id": task})
        env.step(ANSWER)

    found = {"reset and answer: µs": each(episode, 2_000) * 1e6}
    env.reset(seed=0)
    found["invalid round: µs"] = each(lambda: env.step("<think>hmm</think> no act"), 2_000) * 1e6
    found["search from the query cache: µs"] = each(lambda: env.step("<search>river</search>"), 2_000) * 1e6
    found["snapshot: µs"] = each(env.snapshot, 1_000) * 1e6
    state = env.snapshot()
    found["restore: µs"] = each(lambda: env.restore(state), 1_000) * 1e6
    return found


def opening() -> dict[str, float]:
    gym.make("SearchQA-v0")
    constructed = each(searchgym.SearchEnv, 30)
    return {
        "SearchEnv(): ms": constructed * 1e3,
        "gym.make beyond it: ms": (each(lambda: gym.make("SearchQA-v0"), 30) - constructed) * 1e3,
    }


def main() -> None:
    found = {"import searchgym: ms": _imported * 1e3, **opening()}
    corpus = searchgym.open_corpus("country")
    corpus.questions("train")
    retriever = BM25.build(corpus)
    found |= single(corpus, retriever)
    found |= vector(corpus, retriever, 1, "64 environments, distinct queries")
    found |= vector(corpus, retriever, 8, "64 environments, groups of 8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
