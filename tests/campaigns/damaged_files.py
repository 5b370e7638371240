"""Bit flips, truncations and other damage in files that the package reads: found with a typed error, or harmless.

    python tests/campaigns/damaged_files.py                               1,500 of each kind
    python tests/campaigns/damaged_files.py --kinds bm25 hnsw --count 10000
    python tests/campaigns/damaged_files.py --kinds bm25 --resealed       checksums computed again after the damage

Each damaged copy is opened and used in a process that handles many of them. Counted are: found when opened, found when
used (also as a `RetrievalError` in a result), harmless (the result is the right one), wrong (another result), untyped (any
other error) and died (the process ended). Exit status 1 if anything was wrong, untyped or died.

With --resealed, manifest and checksums are made to fit the damage, as someone with write access could. Then a wrong result
is nothing that could be noticed, but no process may die and no error may be untyped.

Needs the extras `dense` for flat, ivf and hnsw, `api` for replies, and `lucene` for lucene, which is tried if it is named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.corpora import build_index, open_index
from searchgym.corpora.bm25 import BM25_BACKEND, loader
from searchgym.corpora.indexing import sealed
from searchgym.errors import RetrievalError, SearchGymError
from searchgym.records.retriever import Hit
from searchgym.specs import open_corpus

BATCH = 250  # mutations that one process handles
QUESTIONS = 40


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A damaged copy of the content of a file; never an equal one."""
    while True:
        damaged = _mutate(bytearray(content), rng)
        if damaged != content:
            return damaged


def _mutate(content: bytearray, rng: random.Random) -> bytes:
    size = len(content)
    kind = rng.choice(("bit", "bit", "bit", "bit", "byte", "range", "end", "more", "swap", "number"))
    place = rng.randrange(min(size, 256) if size and rng.random() < 0.3 else max(1, size)) if size else 0
    if not size or kind == "more":
        return bytes(content) + rng.randbytes(rng.randint(1, 64))
    if kind == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        content[place] = rng.randrange(256)
    elif kind == "range":
        length = min(rng.choice((8, 512, 4096)), size - place)
        content[place : place + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    elif kind == "end":
        del content[place:]
    elif kind == "swap":
        other, length = rng.randrange(size), rng.choice((1, 8, 64))
        first, second = content[place : place + length], content[other : other + length]
        content[place : place + len(second)], content[other : other + len(first)] = second, first
    else:  # a number that is too large, negative, or near a boundary
        number = rng.choice((-1, 2**31 - 1, -(2**31), 2**62, -(2**62), size, 2**16, 255))
        content[place : place + 8] = (number & (2**64 - 1)).to_bytes(8, "little")[: size - place]
    return bytes(content)


def reseal(directory: Path) -> None:
    """Make manifest and checksums fit what the files are now."""
    manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
    lazy = [name for name, facts in manifest["files"].items() if facts.get("lazy")]
    sealed.seal(directory, manifest["name"], manifest["key"], lazy)


# -- what is damaged ---------------------------------------------------------------------------------------------


class Kind:
    """Something with files: how it is made, and what using it gives."""

    def make(self, place: Path) -> None:
        """Write the files into an existing directory."""
        raise NotImplementedError

    def use(self, place: Path) -> Any:
        """A result that depends on all of them, comparable by ==."""
        raise NotImplementedError


def texts(count: int) -> list[str]:
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdklmnst" for b in "aeiou" for c in "mnrst"]
    return [" ".join(rng.choices(words, k=rng.randint(3, 30))) for _ in range(count)]


def write_corpus(place: Path, count: int) -> None:
    with (place / "passages.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts(count)):
            file.write(json.dumps({"id": f"{number:05}", "title": text[:9], "text": text}) + "\n")


class Index(Kind):
    """An index in its own directory, over a corpus beside it."""

    def __init__(self, passages: int, options: dict[str, Any] | None = None) -> None:
        self.passages, self.options = passages, options or {}

    def make(self, place: Path) -> None:
        corpus = self.corpus()
        build_index(self.backend(), corpus, place / "index", self.options)
        for file in (place / "index").iterdir():
            shutil.move(file, place / file.name)
        (place / "index").rmdir()

    def backend(self) -> Any:
        return BM25_BACKEND

    def corpus(self) -> Any:
        place = Path(os.environ["SEARCHGYM_HOME"]) / f"corpus-{self.passages}"
        if not place.exists():
            place.mkdir(parents=True)
            write_corpus(place, self.passages)
        return open_corpus(str(place))

    def use(self, place: Path) -> Any:
        index = open_index(place, self.corpus())
        return self.searched(index)

    def searched(self, index: Any) -> Any:
        asked = texts(self.passages)[: QUESTIONS * 3 : 3]
        found = []
        for result in index.search(asked, 5):
            if isinstance(result, RetrievalError):
                raise result
            found.append([(hit.id, hit.score) for hit in result])
        return found


class BM25Index(Index):
    """BM25: searched by compiled code or by numpy, its postings packed as those of a large index or not."""

    def __init__(self, passages: int, *, compiled: bool, packed: bool) -> None:
        super().__init__(passages)
        self.compiled, self.packed = compiled, packed

    def make(self, place: Path) -> None:
        self._pretend()
        super().make(place)

    def use(self, place: Path) -> Any:
        self._pretend()
        return super().use(place)

    def _pretend(self) -> None:
        """Make this process take the corpus for a large one."""
        from searchgym.corpora.bm25 import index, layout

        if self.compiled:
            assert loader.wait(), "needs numba"
            index._COMPILED_FROM = 0
        if self.packed:
            layout._PLAIN_UP_TO = 0


class Dense(Index):
    """A dense index, of published vectors; queries are encoded by a toy."""

    def backend(self) -> Any:
        from searchgym.corpora.dense.index import DENSE_BACKEND

        _toy_encoder()
        return DENSE_BACKEND


def _toy_encoder() -> None:
    """Replace the encoder by one that needs no model: vectors from the letters of a text."""
    from searchgym.corpora.dense import index as module

    class Toy:
        path, threads, on_gpu, weights, dimension = Path("toy"), 1, False, 0, 16
        max_tokens, operations = 100, 1.0
        identity = {"model": "toy"}  # noqa: RUF012
        fingerprint = "toy"

        def encode_query(self, text: str) -> Any:
            return self.encode_passages([text])[0]

        def encode_passages(self, some: Any) -> Any:
            rows = [np.bincount(np.frombuffer(t.encode(), np.uint8) % 16, minlength=16) for t in some]
            vectors = np.array(rows, np.float32) + 0.01
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    module.Encoder.find = classmethod(lambda cls, spec: Toy())  # type: ignore[method-assign,assignment]


class Passages(Kind):
    """The packed passages of a corpus, as the cache keeps them."""

    def make(self, place: Path) -> None:
        from searchgym.corpora.datasets.lines import Line
        from searchgym.corpora.datasets.packing import PassagePacker
        from searchgym.records.question import Passage

        packer = PassagePacker(place)
        for number, text in enumerate(texts(3000)):
            packer.add(Passage(f"{number:05}", text[:9], text), Line("a", number, {}))
        packer.finish()
        sealed.seal(place, "passages", {"format": 1}, ["passages.*"])

    def use(self, place: Path) -> Any:
        from searchgym.corpora.datasets.packing import Packed, PassageIds, decode_passage
        from searchgym.errors import DamagedFileError

        if (problem := sealed.damage(place)) is not None:  # then it is built again
            raise DamagedFileError(problem)
        passages = Packed(place, "passages", decode_passage)
        ids = PassageIds(passages)
        return (
            [passages[n] for n in range(0, 3000, 37)],
            [ids.position(f"{n:05}") for n in range(0, 3000, 71)],
            list(passages),
        )


class Tape(Kind):
    """A recorded tape."""

    def _retriever(self) -> Any:
        class Fixed:
            name, index_hash = "fixed", "hash"

            def search(self, queries: Any, k: int) -> Any:
                return [
                    [Hit(f"{q}{n}", "Title", f"text about {q}", 1 / (n + 2)) for n in range(k)]
                    for q in queries
                ]

        return Fixed()

    def _corpus(self) -> Any:
        return open_corpus({"name": "country", "size": 1000, "train": 10, "dev": 5, "test": 5})

    def make(self, place: Path) -> None:
        from searchgym.tape.recording import recording

        retriever, _ = recording(place / "run.tape", self._corpus(), self._retriever(), top_k=3)
        for number in range(30):
            retriever.search([f"query {number}", f"other {number}"], 3)
        (place / ".run.tape.lock").unlink(missing_ok=True)

    def use(self, place: Path) -> Any:
        from searchgym.tape.recording import replaying

        retriever, _ = replaying(
            place / "run.tape", self._corpus(), top_k=3, retriever_spec=self._retriever()
        )
        return [retriever.search([f"query {number}", f"other {number}"], 3) for number in range(30)]


class Questions(Kind):
    """A cached directory whose files are read whole."""

    def make(self, place: Path) -> None:
        (place / "questions.jsonl").write_text("".join(json.dumps({"q": text}) + "\n" for text in texts(200)))
        sealed.seal(place, "world-questions", {"format": 1})

    def use(self, place: Path) -> Any:
        from searchgym.errors import DamagedFileError

        if (problem := sealed.damage(place)) is not None:
            raise DamagedFileError(problem)
        return (place / "questions.jsonl").read_text()


class Replies(Kind):
    """The stored replies of an endpoint; one that is damaged is asked for again."""

    def _values(self) -> dict[bytes, bytes]:
        rng = random.Random(0)
        return {
            rng.randbytes(32): json.dumps({"content": " ".join(texts(rng.randint(1, 60)))}).encode()
            for _ in range(120)
        }

    def make(self, place: Path) -> None:
        from searchgym.endpoint.store import Store

        values = list(self._values().items())
        store = Store(place)
        for start in range(0, len(values), 10):
            store.put(dict(values[start : start + 10]))
        store.close()
        (place / "lock.mdb").unlink()  # of the running processes, made again

    def use(self, place: Path) -> Any:
        from searchgym.endpoint.store import Store
        from searchgym.errors import DamagedFileError

        expected = self._values()
        store = Store(place)
        try:
            found = store.get(list(expected))
            store.put({b"\1" * 32: b"{}"})
            again = store.get([b"\1" * 32])
            if store.problem is not None:
                raise DamagedFileError(store.problem)
        finally:
            store.close()
        known = [value or expected[key] for key, value in zip(expected, found, strict=True)]
        return known, again


class Lucene(Index):
    """A Lucene index; needs the extra `lucene`."""

    def backend(self) -> Any:
        from searchgym.corpora.lucene.index import LUCENE_BACKEND

        return LUCENE_BACKEND


class Milvus(Kind):
    """A collection of milvus-lite; needs the extra `scale`."""

    def _open(self, place: Path) -> Any:
        from searchgym.corpora.milvus.index import open_milvus

        return open_milvus(Index(2000).corpus(), uri=str(place / "milvus.db"))

    def make(self, place: Path) -> None:
        self._open(place)._collection.client.close()

    def use(self, place: Path) -> Any:
        retriever = self._open(place)
        try:
            found = retriever.search(texts(2000)[:30:3], 5)
        finally:
            retriever._collection.client.close()
        for result in found:
            if isinstance(result, RetrievalError):
                raise result
        return found


def dense(kind: str, **options: Any) -> Dense:
    return Dense(1200, {"kind": kind, **options})


KINDS: dict[str, Callable[[], Kind]] = {
    "bm25": lambda: BM25Index(4000, compiled=True, packed=True),
    "bm25-numpy": lambda: BM25Index(4000, compiled=False, packed=True),
    "bm25-small": lambda: BM25Index(4000, compiled=False, packed=False),
    "flat": lambda: dense("flat"),
    "ivf": lambda: dense("ivf", nlist=8),
    "hnsw": lambda: dense("hnsw"),
    "passages": Passages,
    "tape": Tape,
    "cache": Questions,
    "replies": Replies,
    "lucene": lambda: Lucene(2000),
    "milvus": Milvus,
}


NOT_RESEALED = ("tape", "replies", "cache")  # without a manifest, or read by this campaign itself


# -- the campaign ------------------------------------------------------------------------------------------------


def attack(kind: Kind, intact: Path, expected: Any, seed: int, resealed: bool) -> tuple[str, str]:
    """Damage one file of a copy, and say what happened, with the details."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=intact.parent) as place:
        copy = Path(place) / "copy"
        shutil.copytree(intact, copy)
        names = sorted(
            str(file.relative_to(copy))
            for file in copy.rglob("*")
            if file.is_file() and not (resealed and file.name in ("manifest.json", "checksums.u32"))
        )
        victim = copy / rng.choice(names)
        victim.write_bytes(mutate(victim.read_bytes(), rng))
        if resealed:
            reseal(copy)
        about = f"seed {seed}, {victim.name}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = kind.use(copy)
            except SearchGymError as error:
                return "found", f"{about}: {error}"
            except Exception as error:
                return "untyped", f"{about}: {error!r:.300}"
        return ("harmless" if found == expected else "harmless" if resealed else "wrong"), about


def worker(name: str, intact: Path, first: int, count: int, resealed: bool) -> None:
    """Attack many times, printing a line before and after each."""
    kind = KINDS[name]()
    if isinstance(kind, Dense):
        _toy_encoder()
    expected = kind.use(intact)
    for seed in range(first, first + count):
        print(json.dumps([seed]), flush=True)
        print(json.dumps([seed, *attack(kind, intact, expected, seed, resealed)]), flush=True)


def campaign(name: str, home: Path, count: int, resealed: bool) -> Counter[str]:
    """Attack a kind `count` times in processes of `BATCH` each; prints everything that should not happen."""
    intact = home / name
    intact.mkdir(parents=True)
    # In a process of its own: milvus-lite keeps its files open.
    subprocess.run([sys.executable, __file__, "--make", name, str(intact)], check=True)
    totals: Counter[str] = Counter()
    seed = 0
    while seed < count:
        size = min(BATCH, count - seed)
        arguments = ["--worker", name, str(intact), str(seed), str(size), str(int(resealed))]
        done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        for line in lines:
            if len(line) == 3:
                totals[line[1]] += 1
                if line[1] in ("wrong", "untyped"):
                    print(f"{name}: {line[1]}: {line[2]}", flush=True)
        seed = lines[-1][0] + 1 if lines else count
        if done.returncode:
            totals["died"] += 1
            print(
                f"{name}: died with status {done.returncode} at seed {seed - 1}: {done.stderr[-300:]}",
                flush=True,
            )
    return totals


def main() -> int:
    if sys.argv[1:2] == ["--make"]:
        kind = KINDS[sys.argv[2]]()
        if isinstance(kind, Dense):
            _toy_encoder()
        kind.make(Path(sys.argv[3]))
        return 0
    if sys.argv[1:2] == ["--worker"]:
        name, intact, first, count, resealed = sys.argv[2:]
        worker(name, Path(intact), int(first), int(count), resealed == "1")
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1500, help="of each kind")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        help="without it, all that need no server or Java; with --resealed, those whose reader is of the package and whose files have a manifest",
    )
    parser.add_argument("--resealed", action="store_true")
    options = parser.parse_args()
    left_out = ("lucene", "milvus", *(NOT_RESEALED if options.resealed else ()))
    kinds = options.kinds or [kind for kind in KINDS if kind not in left_out]
    failed = False
    with tempfile.TemporaryDirectory() as place:
        os.environ["SEARCHGYM_HOME"] = f"{place}/home"
        for name in kinds:
            totals = campaign(name, Path(place) / "intact", options.count, options.resealed)
            print(
                f"{name:10} "
                + ", ".join(f"{totals[k]} {k}" for k in ("found", "harmless", "wrong", "untyped", "died")),
                flush=True,
            )
            failed |= bool(totals["wrong"] or totals["untyped"] or totals["died"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
