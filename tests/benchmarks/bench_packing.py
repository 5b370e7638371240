"""Prints what packing a corpus of generated passages costs: time, disk, and the peak of memory.

    python tests/benchmarks/bench_packing.py [--passages 1000000] [--directory /tmp]

The ids are numbers without leading zeros, as those of wiki-18: their order in the file is not their order as text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--directory", default=None, help="where the files go while it runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as work:
        os.environ["SEARCHGYM_HOME"] = f"{work}/home"
        from searchgym.corpora.datasets.jsonl import open_jsonl
        from searchgym.corpora.datasets.packing import packed_size

        draw = random.Random(0)
        words = [f"w{draw.randrange(10**6)}" for _ in range(50_000)]
        texts = [" ".join(draw.choices(words, k=100)) for _ in range(1_000)]
        file = Path(work) / "passages.jsonl"
        with file.open("w") as out:
            for number in range(arguments.passages):
                contents = f'"Title {number // 7}"\n{texts[number % 1_000]}'
                out.write(json.dumps({"id": str(number), "contents": contents}) + "\n")
        del texts, words
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, worked = time.perf_counter(), time.process_time()
        corpus = open_jsonl(file)
        packed, worked = time.perf_counter() - started, time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        started = time.perf_counter()
        open_jsonl(file)
        opened = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(work, "home").rglob("*") if path.is_file())
        print(
            f"packing {len(corpus.passages):,} passages ({file.stat().st_size / 1e6:.0f} MB): {packed:.1f} s "
            f"({worked:.1f} s of a processor, {len(corpus.passages) / worked:,.0f}/s), {size / 1e6:.0f} MB packed (announced at most "
            f"{packed_size([(file.name, file.stat().st_size)]) / 1e6:.0f}), peak memory +{peak / 1024:.0f} MB, "
            f"opening again {opened * 1000:.0f} ms"
        )


if __name__ == "__main__":
    main()
