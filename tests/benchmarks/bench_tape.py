"""What tapes cost: searching and judging plain, recorded and replayed; opening a tape; its size.

python tests/benchmarks/bench_tape.py [SECONDS]     (default 1 per figure)
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable

import searchgym
from searchgym.judges import open_judge, traces_of
from searchgym.specs import open_corpus, open_retriever
from searchgym.tape.recording import recording, replaying

BATCH, K = 64, 3


def rate(call: Callable[[], object], per_call: int, seconds: float) -> float:
    """Items per second over at least `seconds`, after one call that is not counted."""
    call()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        calls += 1
    return calls * per_call / (time.perf_counter() - started)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    corpus = open_corpus("country")
    retriever, judge = open_retriever("bm25", corpus), open_judge("oracle", corpus)
    queries = [q.text for q in corpus.questions("train")]
    batch = queries[:BATCH]
    traces = [t for e in searchgym.rollout("SearchQA-v0", "oracle", 64) for t in traces_of(e)]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tape")
        recorder, recording_judge = recording(
            path, corpus, retriever, judge, top_k=K, retriever_spec="bm25", judge_spec="oracle"
        )
        assert recording_judge is not None
        plain = rate(lambda: retriever.search(batch, K), BATCH, seconds)
        again = rate(lambda: recorder.search(batch, K), BATCH, seconds)
        retriever.search(queries, K)
        started = time.perf_counter()
        for i in range(0, len(queries), BATCH):
            recorder.search(queries[i : i + BATCH], K)
        first = len(queries) / (time.perf_counter() - started)
        judged = rate(lambda: judge.judge(traces), len(traces), seconds)
        recorded = rate(lambda: recording_judge.judge(traces), len(traces), seconds)
        started = time.perf_counter()
        player, replayed_judge = replaying(path, corpus, top_k=K, retriever_spec="bm25", judge_spec="oracle")
        opening = time.perf_counter() - started
        assert replayed_judge is not None
        replayed = rate(lambda: player.search(batch, K), BATCH, seconds)
        verdicts = rate(lambda: replayed_judge.judge(traces), len(traces), seconds)
        size = os.path.getsize(path)
    print(
        f"searches/s: cached {plain:,.0f}, recorded again {again:,.0f}, recorded first {first:,.0f}, replayed "
        f"{replayed:,.0f}; verdicts/s (oracle): plain {judged:,.0f}, recorded {recorded:,.0f}, replayed "
        f"{verdicts:,.0f}; a tape of {len(queries):,} searches and {len(traces):,} verdicts: {size / 1e6:.2f} MB, "
        f"opened in {opening * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
