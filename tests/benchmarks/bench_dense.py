"""Prints how IVF-SQ8 dense indexes grow, and what to expect of them at wiki-18's 21 million passages.

    python tests/benchmarks/bench_dense.py --sizes 10000 100000 1000000 --directory DIR
    python tests/benchmarks/bench_dense.py --sizes --corpus ../shared/data/hotpotqa ../shared/data/2wiki

Vectors are generated block by block into a file of published vectors (float16, never in memory whole) and indexed
from it by `build_index`, as published vectors of a real corpus are: 1,000 topics of 20 parts each, some twenty times
larger than others, points spread around them in 48 of 384 dimensions and a little in all. Queries are further points. With
--corpus the vectors are those of real passages and the queries real questions (encoded at the first run: minutes).

One thread; building and searching are processes of their own. Printed: seconds of building (and of processor time),
peak memory of its own (pages of mapped files, which the system takes back when it needs them, are not in it), size
on disk, opening and the first query, the median and 99th percentile of single searches in milliseconds (and their
processor time), and the share of the exact ten nearest that were found, for several nprobe.
Encoding the query is left out: it is 24 ms for MiniLM on this package's development machine, at any size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
from numpy.lib.format import open_memmap  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from processes import figures_of, peak_memory  # noqa: E402

from searchgym.corpora.dense.encoders import Encoder  # noqa: E402
from searchgym.corpora.dense.faiss_files import FaissFiles, faiss_bytes  # noqa: E402
from searchgym.corpora.dense.index import DENSE_BACKEND, Dense  # noqa: E402
from searchgym.corpora.dense.vectors import PublishedVectors, load_faiss  # noqa: E402
from searchgym.corpora.indexing.backend import build_index, open_index  # noqa: E402
from searchgym.records.question import Passage  # noqa: E402
from searchgym.specs import open_corpus  # noqa: E402

Floats = NDArray[np.float32]
WIKI18, WIKI18_DIMENSION = 21_015_324, 768
DIMENSION, LATENT, TOPICS, PARTS = 384, 48, 1000, 20_000
BLOCK = 65_536
QUERIES, WARM = 300, 20
PROBES = (32, 64, 128, 256)
DEFAULT = 128


class Numbered(Sequence[Passage]):
    """Passages that are their number, so that reading them costs next to nothing."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: Any) -> Any:
        return Passage(f"{position:09}", "", f"{position}")

    def __iter__(self) -> Iterator[Passage]:
        return map(self.__getitem__, range(self._size))


class NumberedCorpus:
    """As many numbers as there are vectors; implements `searchgym.Corpus`."""

    splits: tuple[str, ...] = ()

    def __init__(self, size: int) -> None:
        self.name = f"numbered-{size}"
        self.hash = self.name
        self.passages = Numbered(size)

    def questions(self, split: str) -> Any:
        raise NotImplementedError

    question = questions


def mixture(count: int, seed: int) -> Iterator[Floats]:
    """Blocks of `count` vectors of length 1."""
    shape = np.random.default_rng(0)
    falling = np.arange(1, LATENT + 1, dtype=np.float32)[:, None] ** -0.35
    basis = shape.standard_normal((LATENT, DIMENSION), np.float32) * falling
    topics = shape.standard_normal((TOPICS, LATENT), np.float32)
    parts = topics[np.arange(PARTS) % TOPICS] + 0.7 * shape.standard_normal((PARTS, LATENT), np.float32)
    for start in range(0, count, BLOCK):
        rng = np.random.default_rng((seed, start))
        size = min(BLOCK, count - start)
        part = (PARTS * rng.random(size) ** 2).astype(np.int64)
        points = (parts[part] + 0.7 * rng.standard_normal((size, LATENT), np.float32)) @ basis
        points += 0.3 * rng.standard_normal((size, DIMENSION), np.float32)
        yield points / np.linalg.norm(points, axis=1, keepdims=True)


def generate(size: int, file: Path) -> None:
    work = file.with_suffix(".tmp")
    out = open_memmap(work, "w+", np.float16, (size, DIMENSION))
    start = 0
    for block in mixture(size, seed=1):
        out[start : start + len(block)] = block
        start += len(block)
    out.flush()
    work.rename(file)


def natural(place: str, directory: Path) -> tuple[Path, Floats]:
    """The vectors of a real corpus's passages, in a file, and those of its questions."""
    corpus = open_corpus(place)
    index = DENSE_BACKEND(corpus, threads=1, kind="flat")
    assert isinstance(index, Dense)
    stored = PublishedVectors(index.directory / "index-00000.faiss")
    file = directory / f"{Path(place).name}.npy"
    np.save(file, stored.read(np.arange(stored.count)))
    texts = [question.text for split in corpus.splits for question in corpus.questions(split)]
    texts = texts[:: max(1, len(texts) // QUERIES)][:QUERIES]
    return file, np.stack([index.encoder.encode_query(text) for text in texts])


def measure_build(file: Path, directory: Path) -> dict[str, Any]:
    size = len(np.load(file, mmap_mode="r"))
    options = {"kind": "ivf", "vectors": str(file), "threads": 1}
    before = own_memory()
    started, processor = time.perf_counter(), time.process_time()
    with peak_memory(own_memory) as peak:
        build_index(DENSE_BACKEND, NumberedCorpus(size), directory, options, progress=tell)
    return {
        "build_s": time.perf_counter() - started,
        "build_cpu_s": time.process_time() - processor,
        "build_mb": (peak[0] - before) / 1e6,
        "disk_mb": sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()) / 1e6,
    }


def measure_search(file: Path, directory: Path) -> dict[str, Any]:
    vectors = np.load(file, mmap_mode="r")
    queries = np.load(queries_file(file))
    # The query "7" has vector 7: no model is loaded or run.
    Encoder.encode_query = lambda self, query: queries[int(query) if query.isdigit() else 0]  # type: ignore[method-assign]
    load_faiss()
    started = time.perf_counter()
    index = open_index(directory, NumberedCorpus(len(vectors)))
    index.search(["0"], 10)
    found: dict[str, Any] = {"first_s": time.perf_counter() - started}
    names = [str(number) for number in range(len(queries))]
    found |= latency(lambda number: index.search([names[number]], 10), len(queries))
    truth = exact(vectors, queries)
    for probes in PROBES:
        faiss_files = FaissFiles(directory, probes, 1)
        rows = [set(faiss_files.search(query[None], 10)[1][0].tolist()) for query in queries]
        recall = np.mean([len(a & b) / 10 for a, b in zip(rows, truth, strict=True)])
        scan = latency(
            lambda number, files=faiss_files: files.search(queries[number][None], 11), len(queries)
        )
        found[f"recall_{probes}"], found[f"cpu_{probes}"] = float(recall), scan["cpu50_ms"]
    return found


def latency(search: Any, count: int) -> dict[str, float]:
    walls, processor = [], []
    for number in [*range(min(WARM, count)), *range(count)]:
        started, worked = time.perf_counter(), time.thread_time()
        search(number)
        walls.append(1000 * (time.perf_counter() - started))
        processor.append(1000 * (time.thread_time() - worked))
    p50, p99, cpu50, cpu99 = (
        *np.percentile(walls[WARM:], [50, 99]),
        *np.percentile(processor[WARM:], [50, 99]),
    )
    return {"p50_ms": p50, "p99_ms": p99, "cpu50_ms": cpu50, "cpu99_ms": cpu99}


def exact(vectors: NDArray[Any], queries: Floats) -> list[set[int]]:
    """The ten nearest rows of each query, block by block."""
    best = np.full((len(queries), 10), -np.inf, np.float32)
    rows = np.zeros((len(queries), 10), np.int64)
    for start in range(0, len(vectors), BLOCK):
        some = vectors[start : start + BLOCK].astype(np.float32)
        names = np.broadcast_to(np.arange(start, start + len(some)), (len(queries), len(some)))
        scores = np.concatenate([best, queries @ some.T], axis=1)
        top = np.argpartition(-scores, 10, axis=1)[:, :10]
        best = np.take_along_axis(scores, top, 1)
        rows = np.take_along_axis(np.concatenate([rows, names], axis=1), top, 1)
    return [set(found.tolist()) for found in rows]


def own_memory() -> int:
    """Bytes of memory this process holds, without the pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024


def tell(phase: str, done: int, total: int) -> None:
    if done == total or done % max(1, total // 10) < 16_384:
        print(f"{time.strftime('%H:%M:%S')} {phase} {done:,}/{total:,}", file=sys.stderr, flush=True)


def queries_file(file: Path) -> Path:
    return file.with_suffix(".queries.npy")


def child(what: str, file: Path, directory: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", what, str(file), "--directory", str(directory)]
    return figures_of(command)


def line(name: str, f: dict[str, Any]) -> str:
    recalls = " ".join(f"nprobe{p}={f[f'recall_{p}']:.3f}/{f[f'cpu_{p}']:.2f}ms" for p in PROBES)
    return (
        f"dense ivf {name} build={f['build_s']:.0f}s build_cpu={f['build_cpu_s']:.0f}s build_peak={f['build_mb']:.0f}MB "
        f"disk={f['disk_mb']:.0f}MB open+first={1000 * f['first_s']:.0f}ms p50={f['p50_ms']:.2f}ms "
        f"p99={f['p99_ms']:.2f}ms cpu50={f['cpu50_ms']:.2f}ms cpu99={f['cpu99_ms']:.2f}ms recall@10/cpu: {recalls}"
    )


def projection(measured: dict[int, dict[str, Any]]) -> str:
    """Power laws through the three largest sizes, extended to wiki-18, times the ratio of the dimensions.

    Memory does not follow a power law, as building holds a sample or a file of the index: it is what the package estimates.
    """
    sizes = sorted(measured)[-3:]
    fits = []
    for name, unit in (("disk_mb", "MB"), ("build_cpu_s", "s"), ("cpu50_ms", "ms"), ("cpu99_ms", "ms")):
        slope, offset = np.polyfit(np.log(sizes), np.log([measured[size][name] for size in sizes]), 1)
        at = np.exp(offset + slope * np.log(WIKI18)) * WIKI18_DIMENSION / DIMENSION
        fits.append(f"{name.rpartition('_')[0]}={at:.3g}{unit}(~n^{slope:.2f})")
    memory = faiss_bytes("ivf", WIKI18, WIKI18_DIMENSION, None)[1] / 1e6
    return (
        f"projection dense ivf passages={WIKI18} dimension={WIKI18_DIMENSION} from={sizes} "
        f"build_peak<={memory:.3g}MB {' '.join(fits)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--corpus", nargs="*", default=[], help="measure real vectors too")
    parser.add_argument(
        "--directory", type=Path, default=Path("dense-scale"), help="for vectors, indexes, figures"
    )
    parser.add_argument("--keep", action="store_true", help="keep vectors and indexes, not only the figures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    place: Path = options.directory
    if options.child:
        measure = {"build": measure_build, "search": measure_search}[options.child[0]]
        print(json.dumps(measure(Path(options.child[1]), place)))
        return
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in [*map(str, options.sizes), *options.corpus]:
        if name not in figures:
            if name.isdigit():
                file, queries = place / f"{name}.npy", np.concatenate(list(mixture(QUERIES, seed=2)))
                if not file.exists():
                    generate(int(name), file)
            else:
                file, queries = natural(name, place)
            np.save(queries_file(file), queries)
            index = place / f"index-{file.stem}"
            figures[name] = {**child("build", file, index), **child("search", file, index)}
            kept.write_text(json.dumps(figures, indent=1))
            if not options.keep:
                shutil.rmtree(index)
                file.unlink()
        print(line(Path(name).name if not name.isdigit() else f"vectors={name}", figures[name]), flush=True)
    measured = {int(name): f for name, f in figures.items() if name.isdigit()}
    if len(measured) >= 3:
        print(projection(measured))


if __name__ == "__main__":
    main()
