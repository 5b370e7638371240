"""Prints how quickly a Wikipedia dump becomes passages.

    python tests/benchmarks/bench_dump.py FILE.xml.bz2 [--workers 1]

Articles differ in length, so the megabytes of wikitext per second carry over to other dumps, the articles do not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from searchgym.corpora.dump import import_dump
from searchgym.corpora.dump_reader import DumpReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: this one")
    arguments = parser.parse_args()
    started = time.process_time()
    articles = [p for p in DumpReader(arguments.file).pages() if p.namespace == "0" and not p.redirect]
    read = time.process_time() - started
    wikitext = sum(len(page.text.encode()) for page in articles) / 1e6
    with tempfile.TemporaryDirectory() as work:
        started, worked = time.perf_counter(), time.process_time()
        out = import_dump(arguments.file, Path(work) / "out", workers=arguments.workers)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        card = json.loads((out / "card.json").read_text("utf-8"))
        size = (out / "passages.jsonl.gz").stat().st_size
    print(
        f"dump: {card['pages']:,} pages, {card['articles']:,} articles, {wikitext:.1f} MB of wikitext in "
        f"{seconds:.1f} s with {arguments.workers} worker processes: {card['articles'] / seconds:.0f} articles/s, "
        f"{wikitext / seconds:.2f} MB/s ({worked:.1f} s of this process's processor time; reading alone takes "
        f"{read:.1f}), {card['passages']:,} passages, "
        f"{size / arguments.file.stat().st_size:.2f} of the dump's size"
    )


if __name__ == "__main__":
    main()
