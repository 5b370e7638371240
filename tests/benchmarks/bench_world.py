"""Prints what the generated country costs: first use, cached use, streaming to disk, random access.

    python tests/benchmarks/bench_world.py
    python tests/benchmarks/bench_world.py --sizes 100000 1000000      takes minutes

Every figure comes from a process of its own with a cache directory of its own. Seconds are processor time,
so that a busy machine matters little; memory is the process's peak resident size. The last two lines are about
retrieval: how often the gold sub-queries find their passage, and how often a whole question finds all of its.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOP_K = {"country": 3, "country-terse": 3, "country-hard": 2}


def first_use(name: str) -> dict[str, Any]:
    """Open a world, read its questions and all its passages."""
    from searchgym.specs import open_corpus

    started = time.process_time()
    world = open_corpus(name)
    world.questions("train")
    questions = time.process_time() - started
    count = sum(1 for _ in world.passages)
    return {"questions_s": questions, "passage_us": (time.process_time() - started - questions) / count * 1e6}


def stream(size: int, directory: str) -> dict[str, Any]:
    """Write a world to disk."""
    import resource

    from searchgym.corpora.world import write_world

    started, wall = time.process_time(), time.perf_counter()
    target = write_world(Path(directory) / "world", size=size)
    seconds, elapsed = time.process_time() - started, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    megabytes = (target / "passages.jsonl").stat().st_size / 1e6
    return {"rate": size / seconds, "wall_s": elapsed, "peak_mb": peak, "file_mb": megabytes}


def access(size: int) -> dict[str, Any]:
    """Read passages all over a world."""
    import resource

    from searchgym.corpora.world import World

    passages = World(size).passages
    started = time.process_time()
    for i in range(5_000):
        passages[i * 7_919 * 1_009 % size]
    used = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"passage_us": used / 5_000 * 1e6, "peak_mb": peak}


def retrieval(name: str) -> dict[str, Any]:
    """Search every gold sub-query, and every question as it stands."""
    from searchgym.corpora.bm25.index import BM25
    from searchgym.specs import open_corpus

    world = open_corpus(name)
    index = BM25.build(world)
    questions = [q for split in world.splits for q in world.questions(split)]

    def found(queries: list[str], k: int) -> list[set[str]]:
        return [{hit.id for hit in hits} for hits in index.search(queries, k)]  # type: ignore[union-attr]

    hops = [hop for q in questions for hop in q.chain]
    hits = found([hop.query for hop in hops], TOP_K[name])
    gold = sum(set(hop.passage_ids) <= ids for hop, ids in zip(hops, hits, strict=True)) / len(hops)
    alone: dict[str, list[bool]] = {}
    several = [q for q in questions if q.hops >= 2]
    for q, ids in zip(several, found([q.text for q in several], 3), strict=True):
        for kind in ("all", q.type):
            alone.setdefault(kind, []).append(set(q.supporting_ids) <= ids)
    return {"gold": gold, "alone": {kind: sum(found) / len(found) for kind, found in sorted(alone.items())}}


def apart(home: str, function: str, *arguments: object) -> dict[str, Any]:
    """Run one of the functions above in a fresh process."""
    command = [sys.executable, __file__, "--apart", function, json.dumps(arguments)]
    environment = {**os.environ, "SEARCHGYM_HOME": home}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--apart", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        function, arguments = options.apart
        print(json.dumps(globals()[function](*json.loads(arguments))))
        return
    with tempfile.TemporaryDirectory() as home:
        for name in TOP_K:
            first, again = apart(home, "first_use", name), apart(home, "first_use", name)
            print(
                f"{name}: questions {first['questions_s']:.2f} s the first time, {again['questions_s']:.2f} s from "
                f"the cache; {first['passage_us']:.0f} microseconds per passage"
            )
        big = apart(home, "access", 10_000_000)
        print(
            f"random access at 10,000,000: {big['passage_us']:.0f} microseconds, peak {big['peak_mb']:.0f} MB"
        )
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as directory:
                row = apart(home, "stream", size, directory)
            print(
                f"to disk, {size:,} passages: {row['rate']:,.0f} passages per processor second ({row['wall_s']:.0f} s "
                f"on the clock), {row['file_mb']:,.0f} MB, peak memory {row['peak_mb']:.0f} MB"
            )
        for name, k in TOP_K.items():
            row = apart(home, "retrieval", name)
            shares = ", ".join(f"{kind} {share:.1%}" for kind, share in row["alone"].items())
            print(
                f"{name}: gold queries in the top {k}: {row['gold']:.2%}; question alone finds all gold in top 3: {shares}"
            )


if __name__ == "__main__":
    main()
