"""Prints what the retrieval service does on 200,000 passages, its client on the same machine, and a plain peer.

    python tests/benchmarks/bench_service.py                        short
    python tests/benchmarks/bench_service.py --seconds 60           64 clients for a minute
    python tests/benchmarks/bench_service.py --keep DIR             keeps corpus and indexes there for the next run
    python tests/benchmarks/bench_service.py --against PYTHON       cold requests of 32, in turns with the service of an
                                                                    earlier version, installed for that interpreter

The passages are sentences of the real passages next to the repository, shuffled; without those, of the generated
world. The peer answers the same protocol the way retrieval servers are usually written: a FastAPI route with a
pydantic model, every request searched for itself in FastAPI's thread pool, by bm25s with its numba backend where that
is installed. The peer needs `pip install fastapi`, which the project itself does not. TOY are the figures of the first such server that was measured, over tantivy, on another day.

Every answer of the service is compared with the in-process index's: the first one of a request in full, later ones
byte by byte with the first. `lost` counts requests without an answer of status 200.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import importlib.util
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bm25s
import httpx
import Stemmer

from searchgym.corpora import build_index, open_index
from searchgym.corpora.service.protocol import read_document
from searchgym.options.plugins import load
from searchgym.records.question import Corpus
from searchgym.records.retriever import Retriever
from searchgym.specs import open_corpus

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
TOPK = 3  # what Search-R1's clients ask for
SEARCHGYM = ("-P", "-m", "searchgym")
TOY = {"cold B=32x4": 394, "cached B=32x4": 5190}  # q/s


# -- corpus and queries --------------------------------------------------------------------------------------


def raw_material() -> tuple[list[str], list[str]]:
    """Sentences and questions."""
    if not DATA.is_dir():
        corpus = open_corpus("country")
        texts = [passage.text for passage in corpus.passages]
        questions = [question.text for split in corpus.splits for question in corpus.questions(split)]
    else:
        texts, questions = [], []
        for name in ("hotpotqa", "2wiki"):
            with gzip.open(DATA / name / "passages.jsonl.gz", "rt", encoding="utf-8") as file:
                texts += [json.loads(line)["text"] for line in file]
            with gzip.open(DATA / name / "questions.jsonl.gz", "rt", encoding="utf-8") as file:
                questions += [json.loads(line)["question"] for line in file]
    return [s for text in texts for s in re.split(r"(?<=[.!?]) ", text) if s], questions


def write_corpus(folder: Path, count: int, sentences: Sequence[str]) -> None:
    """Passages of three to five sentences drawn at random."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    with (folder / "passages.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            chosen = rng.choices(sentences, k=rng.randint(3, 5))
            title = " ".join(chosen[0].split()[:3])
            file.write(json.dumps({"id": f"{number:07}", "title": title, "text": " ".join(chosen)}) + "\n")


def endless_queries(questions: Sequence[str]) -> Iterator[str]:
    """Questions that never repeat: each has two of its words replaced by words of others."""
    rng = random.Random(1)
    seen = set()
    while True:
        words = rng.choice(questions).split()
        for _ in range(2):
            words[rng.randrange(len(words))] = rng.choice(rng.choice(questions).split())
        query = " ".join(words)
        if query not in seen:
            seen.add(query)
            yield query


# -- the client ----------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a number of clients saw.

    Attributes:
        queries: answered. lost: requests without an answer. changed: answers that were another the second time.
        seconds: of each request.
        first: the first answer to every request.
    """

    queries: int = 0
    lost: int = 0
    changed: int = 0
    seconds: list[float] = field(default_factory=list)
    first: dict[tuple[str, ...], bytes] = field(default_factory=dict)


async def client(
    address: tuple[str, int], requests: Iterator[Sequence[str]], until: float, tally: Tally, keep: bool
) -> None:
    """Ask one request after the other on one connection."""
    reader, writer = await asyncio.open_connection(*address, limit=2**24)
    for queries in requests:
        body = json.dumps({"queries": queries, "topk": TOPK, "return_scores": True}).encode()
        head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        started = time.perf_counter()
        if started > until:
            break
        try:
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)[1])  # type: ignore[index]
            payload = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            tally.lost += 1
            reader, writer = await asyncio.open_connection(*address, limit=2**24)
            continue
        if not answer.startswith(b"HTTP/1.1 200"):
            tally.lost += 1
            continue
        tally.seconds.append(time.perf_counter() - started)
        tally.queries += len(queries)
        if keep:
            tally.changed += tally.first.setdefault(tuple(queries), payload) != payload
    writer.close()


def load_server(
    url: str, clients: Sequence[Iterator[Sequence[str]]], seconds: float, keep: bool = True
) -> tuple[Tally, float]:
    """Run clients against a server; what they saw (with the answers, if they are kept), and queries per second."""
    tally = Tally()
    host, port = url.removeprefix("http://").split(":")

    async def run() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(
            *(client((host, int(port)), requests, until, tally, keep) for requests in clients)
        )

    started = time.perf_counter()
    asyncio.run(run())
    return tally, tally.queries / (time.perf_counter() - started)


def batches(queries: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(queries)
    while True:
        yield [next(iterator) for _ in range(size)]


def choices(pool: Sequence[Sequence[str]], seed: int) -> Iterator[Sequence[str]]:
    rng = random.Random(seed)
    while True:
        yield rng.choice(pool)


def unequal(tally: Tally, index: Retriever) -> int:
    """Requests whose first answer differs from the in-process index's."""
    wrong = 0
    for queries, payload in tally.first.items():
        rows = json.loads(payload)["result"]
        got = [[(*read_document(hit["document"]), hit["score"]) for hit in row] for row in rows]
        wrong += got != [[tuple(hit) for hit in hits] for hits in index.search(queries, TOPK)]  # type: ignore[union-attr]
    return wrong


# -- the servers ---------------------------------------------------------------------------------------------


@contextmanager
def started(*command: str, python: str = sys.executable) -> Iterator[tuple[str, int]]:
    """A server process; gives its url and its id once it answers."""
    process = subprocess.Popen([python, *command], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = re.search(r"http://[\d.]+:\d+", process.stdout.readline())[0]  # type: ignore[index]
        for _ in range(600):
            try:
                httpx.post(
                    f"{url}/retrieve", json={"queries": ["river"], "topk": 1}, timeout=60
                ).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # on a busy machine; what was measured should not be lost
            process.kill()
            process.wait()


def open_served(retriever: str, passages: int, folder: Path) -> tuple[Path, Corpus, Path]:
    """Index, corpus and its directory in a folder, which keeps them; made if they are not there."""
    os.environ["SEARCHGYM_HOME"] = str(folder / "home")
    corpus_folder = folder / f"corpus-{passages}"
    if not corpus_folder.exists():
        write_corpus(corpus_folder, passages, raw_material()[0])
    corpus = open_corpus(str(corpus_folder))
    directory = folder / f"{retriever}-{passages}"
    build_index(load("retrievers", retriever), corpus, directory, corpus_spec=str(corpus_folder))
    return directory, corpus, corpus_folder


def build_peer(corpus: Corpus, directory: Path) -> None:
    """The index of the peer, as its library writes it."""
    index = bm25s.BM25(k1=0.9, b=0.4)
    texts = [f"{passage.title} {passage.text}" for passage in corpus.passages]
    index.index(peer_tokens(texts), show_progress=False)
    index.save(directory.with_suffix(".part"))
    directory.with_suffix(".part").rename(directory)


def peer_tokens(texts: list[str]) -> Any:
    return bm25s.tokenize(texts, stopwords="en", stemmer=Stemmer.Stemmer("porter"), show_progress=False)


def run_peer(corpus: str, directory: str) -> None:
    """The plain server."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    # A model is looked up by name where annotations are strings.
    global QueryRequest

    class QueryRequest(BaseModel):
        queries: list[str]
        topk: int | None = None
        return_scores: bool = False

    index = bm25s.BM25.load(directory, mmap=True)
    index.backend = "numba" if importlib.util.find_spec("numba") else "numpy"
    passages = open_corpus(corpus).passages
    app = FastAPI()

    @app.post("/retrieve")
    def retrieve(request: QueryRequest) -> dict[str, Any]:
        found, scores = index.retrieve(
            peer_tokens(request.queries), k=request.topk or TOPK, show_progress=False
        )
        result = []
        for row, row_scores in zip(found.tolist(), scores.tolist(), strict=True):
            documents = [
                {"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in (passages[n] for n in row)
            ]
            result.append(
                [{"document": d, "score": score} for d, score in zip(documents, row_scores, strict=True)]
            )
        return {"result": result}

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--retriever", default="bm25")
    parser.add_argument("--seconds", type=float, default=10, help="of the run of 64 clients")
    parser.add_argument("--phase", type=float, default=5, help="seconds of every other measurement")
    parser.add_argument("--warmup", type=float, default=10, help="seconds before the first")
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--keep", type=Path, help="directory of corpus and index")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--against", help="the Python interpreter of an earlier version")
    parser.add_argument("--rounds", type=int, default=5, help="with --against")
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        run_peer(*options.peer)
        return

    questions = raw_material()[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        directory, corpus, corpus_folder = open_served(options.retriever, options.passages, folder)
        index = open_index(directory, corpus)

        if options.against:
            compare(directory, corpus_folder, index, options)
            return
        fresh = endless_queries(questions)
        servers = {
            f"service workers={workers} threads={threads}": (
                *SEARCHGYM, "index", "serve", str(directory), "--port", "0", "--workers", str(workers), "--threads", str(threads),
            )
            for workers in options.workers
            for threads in options.threads
        }  # fmt: skip
        if not options.no_peer:
            peer = folder / f"peer-{options.passages}"
            if not peer.exists():
                build_peer(corpus, peer)
            servers["peer"] = (__file__, "--peer", str(corpus_folder), str(peer))
        rates: dict[str, dict[str, float]] = {}
        for name, command in servers.items():
            with started(*command) as (url, _):
                tallies, rates[name] = measure(url, fresh, options)
            crowd = tallies[-1]
            waits = sorted(crowd.seconds)
            compared = ""
            if name != "peer":
                wrong = sum(unequal(tally, index) + tally.changed for tally in tallies)
                compared = f"{wrong} not equal to the in-process index, "
            print(
                f"{name}: {options.retriever if name != 'peer' else 'bm25s'} passages={len(corpus.passages)} "
                f"topk={TOPK} "
                + "".join(f"{what} {rate:.0f} q/s, " for what, rate in rates[name].items())
                + f"64 clients for {options.seconds:g} s: {crowd.queries} queries in {len(waits)} requests answered, "
                f"{crowd.lost} lost, p50 {waits[len(waits) // 2] * 1000:.0f} ms, "
                f"p99 {waits[int(len(waits) * 0.99)] * 1000:.0f} ms; of all {sum(len(t.seconds) for t in tallies)} "
                f"requests {compared}{sum(t.lost for t in tallies)} lost",
                flush=True,
            )
        ours = rates[next(iter(servers))]
        print(
            "service against toy figures: "
            + ", ".join(
                f"{what} {ours[what]:.0f}/{toy} = {ours[what] / toy:.1f}x" for what, toy in TOY.items()
            )
            + "".join(
                f"; against the peer: {', '.join(f'{what} {ours[what] / rate:.1f}x' for what, rate in theirs.items())}"
                for name, theirs in rates.items()
                if name == "peer"
            )
        )


def compare(directory: Path, corpus_folder: Path, index: Retriever, options: argparse.Namespace) -> None:
    """Print what this service and that of an earlier version do with cold requests of 32, in turns."""
    folder = directory.parent / "earlier"
    if not folder.exists():
        command = [*SEARCHGYM, "index", "build", "--corpus", str(corpus_folder), "--out", str(folder)]
        home = {**os.environ, "SEARCHGYM_HOME": str(directory.parent / "earlier-home")}
        subprocess.run([options.against, *command], check=True, env=home, stdout=sys.stderr)
    fresh = endless_queries(raw_material()[1])
    rates: dict[str, list[float]] = {"service": [], "earlier": []}
    lost, requests, wrong = dict.fromkeys(rates, 0), dict.fromkeys(rates, 0), 0
    serve = (*SEARCHGYM, "index", "serve")
    with (
        started(*serve, str(directory), "--port", "0") as (ours, _),
        started(*serve, str(folder), "--port", "0", python=options.against) as (theirs, _),
    ):
        for number in range(-1, options.rounds):
            for name, url in {"service": ours, "earlier": theirs}.items():
                clients = [batches(fresh, 32) for _ in range(4)]
                tally, rate = load_server(url, clients, options.warmup if number < 0 else options.phase)
                lost[name] += tally.lost
                requests[name] += len(tally.seconds)
                if (
                    name == "service"
                ):  # scores of the earlier one may differ: another tokenizer, other mean length
                    wrong += tally.changed + unequal(tally, index)
                if number >= 0:
                    rates[name].append(rate)
    new, old = (statistics.median(rates[name]) for name in rates)
    print(
        f"cold B=32x4, {options.rounds} rounds in turns: {new:.0f} against {old:.0f} q/s = {new / old:.2f}x (rounds: "
        + ", ".join(f"{a / b:.2f}" for a, b in zip(*rates.values(), strict=True))
        + f"); of {requests['service']} requests {lost['service']} lost, {wrong} not equal to the in-process index; "
        f"earlier {lost['earlier']} of {requests['earlier']} lost"
    )


def measure(
    url: str, fresh: Iterator[str], options: argparse.Namespace
) -> tuple[list[Tally], dict[str, float]]:
    """All measurements of one server; the last one is of 64 clients."""
    known = [[next(fresh) for _ in range(32)] for _ in range(64)]
    rng = random.Random(3)
    mixed = [[next(fresh) for _ in range(rng.choice([1, 4, 32]))] for _ in range(8000)]
    phases: dict[str, tuple[Sequence[Iterator[Sequence[str]]], float]] = {
        "warm-up": ([batches(fresh, 32) for _ in range(4)], options.warmup),
        "cold B=32x4": ([batches(fresh, 32) for _ in range(4)], options.phase),
        "cold B=1x8": ([batches(fresh, 1) for _ in range(8)], options.phase),
        "filling": ([iter(known)], 3600),
        "cached B=32x4": ([choices(known, seed) for seed in range(4)], options.phase),
        "cached B=1x8": ([choices([q[:1] for q in known], seed) for seed in range(8)], options.phase),
        "mixed B=1..32x64": ([choices(mixed, seed) for seed in range(64)], options.seconds),
    }
    tallies, rates = [], {}
    for name, (clients, seconds) in phases.items():
        tally, rate = load_server(url, clients, seconds)
        tallies.append(tally)
        if name not in ("warm-up", "filling"):
            rates[name] = rate
    return tallies, rates


if __name__ == "__main__":
    main()
