"""Milvus, embedded and as a server: its ranking compared with our BM25, its promises, kills, foreign collections, failures."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from list_corpus import ListCorpus

pytest.importorskip("pymilvus", reason="the extra scale is not installed")
pytest.importorskip("milvus_lite", reason="the extra scale is not installed")

from searchgym.conformance import check_retriever
from searchgym.corpora.bm25.index import BM25, open_bm25
from searchgym.corpora.milvus import collection as milvus_collection
from searchgym.corpora.milvus import index as milvus
from searchgym.corpora.milvus.index import Milvus, open_milvus
from searchgym.env.env import SearchEnv
from searchgym.errors import (
    ConfigError,
    DamagedFileError,
    IndexMismatchError,
    MissingExtraError,
    RetrievalError,
    UnknownIdError,
)
from searchgym.specs import open_retriever


@pytest.fixture
def random_corpus() -> ListCorpus:
    """300 passages over a hundred words; every ninth repeats one of three texts, one has no term at all."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(VOCABULARY, k=rng.randint(4, 60))) for _ in range(300)]
    for i in range(0, 300, 9):
        texts[i] = texts[i % 4]
    texts[7] = "of the and to"
    return ListCorpus(texts)


VOCABULARY = [f"{a}{b}{c}ing" for a in "bdfglmn" for b in "aeiou" for c in "bdt"]


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens `open_milvus` on one file of this test, and lets go of it at the end."""
    opened: list[Milvus] = []

    def opener(corpus: Any, **options: Any) -> Any:
        retriever = open_milvus(corpus, **{"uri": str(tmp_path / "milvus.db"), **options})
        opened.append(retriever if isinstance(retriever, Milvus) else retriever._parts[0])  # type: ignore[arg-type]
        return retriever

    yield opener
    for retriever in opened:
        retriever._collection.client.close()


@contextmanager
def server(data: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Milvus server in a process of its own."""
    start = "from milvus_lite.cmdline import main; main()"  # its script need not be on the path
    command = [sys.executable, "-c", start, "server", "--data-dir", str(data)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def close(retriever: Any) -> None:
    part = retriever if isinstance(retriever, Milvus) else retriever._parts[0]
    part._collection.client.close()


def test_it_ranks_as_the_embedded_bm25_does(random_corpus: Any, open_file: Any) -> None:
    rng = random.Random(1)
    queries = [" ".join(rng.choices(VOCABULARY, k=rng.randint(1, 8))) for _ in range(40)]
    for settings in ({}, {"k1": 2.0, "b": 0.9}):
        ours, theirs = open_bm25(random_corpus, **settings), open_file(random_corpus, **settings)
        for a, b in zip(ours.search(queries, 300), theirs.search(queries, 300), strict=True):
            assert isinstance(a, list)
            assert {hit.id: hit.score for hit in b} == pytest.approx({h.id: h.score for h in a}, rel=1e-6)
            assert len(a) == len(b) > 0
            for one, other in zip(a, b, strict=True):
                assert one.score == pytest.approx(other.score, rel=1e-6)  # the same but for the last bits


def test_gains_are_what_bm25_sums(random_corpus: Any) -> None:
    index = BM25.build(random_corpus)
    for position in (1, 30, 99):
        for term, gain in index.gains(position).items():
            hits = index.search([f"{term}ing"], 300)[0]
            assert isinstance(hits, list)
            (score,) = [hit.score for hit in hits if hit.id == random_corpus.passages[position].id]
            assert score == pytest.approx(gain, rel=1e-12)
    assert index.gains(7) == {}


def test_it_keeps_the_promises_of_a_retriever(small_corpus: Any, random_corpus: Any, open_file: Any) -> None:
    check_retriever(open_file(small_corpus), small_corpus)
    check_retriever(open_file(random_corpus), random_corpus)


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_so_it_does_with_vectors(small_corpus: Any, model: str, mode: str) -> None:
    retriever = open_milvus(small_corpus, mode=mode, encoder=model)  # a file among the caches
    check_retriever(retriever, small_corpus, ["Town number 3", "Mira Voss", "a silent copy"])
    close(retriever)


def test_dense_finds_what_the_flat_index_finds_also_along_the_graph(
    random_corpus: Any, model: str, open_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="the extra dense is not installed")
    from searchgym.corpora.dense.index import DENSE_BACKEND

    queries = [p.text for p in random_corpus.passages[:200:10]]
    ours = DENSE_BACKEND(random_corpus, encoder=model, kind="flat").search(queries, 10)
    exact = open_file(random_corpus, mode="dense", encoder=model)
    monkeypatch.setattr(milvus, "EXACT_UP_TO", 0)
    graph = open_file(random_corpus, mode="dense", encoder=model)
    assert graph.index_hash != exact.index_hash
    for expected, *both in zip(ours, exact.search(queries, 10), graph.search(queries, 10), strict=True):
        for found in both:
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_hashes_tell_modes_settings_and_corpora_apart(
    small_corpus: Any, make_corpus: Any, open_file: Any
) -> None:
    plain = open_file(small_corpus)
    assert plain.index_hash == open_file(small_corpus).index_hash
    others = [
        open_file(small_corpus, k1=1.2),
        open_file(small_corpus, b=0.75),
        open_file(make_corpus(["x y"])),
    ]
    assert len({plain.index_hash, *(other.index_hash for other in others)}) == 4


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from list_corpus import ListCorpus
from searchgym.corpora.milvus import collection as milvus_collection
from searchgym.corpora.milvus.index import open_milvus
milvus_collection._BATCH = 10
upsert = milvus_collection._load_pymilvus().MilvusClient.upsert
calls = 0
def killing(*args, **options):
    global calls
    calls += 1
    if calls == 4:
        upsert(args[0], args[1], args[2][:5], **options)  # half a batch arrives
        os.kill(os.getpid(), signal.SIGKILL)
    return upsert(*args, **options)
milvus_collection._load_pymilvus().MilvusClient.upsert = killing
open_milvus(ListCorpus(f"word{i} of passage {i}" for i in range(60)), uri=sys.argv[2])
"""


def test_a_killed_fill_goes_on_where_it_was(
    tmp_path: Path, open_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "milvus.db")]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    corpus = ListCorpus(f"word{i} of passage {i}" for i in range(60))
    monkeypatch.setattr(milvus_collection, "_BATCH", 10)
    client = milvus_collection._load_pymilvus().MilvusClient
    sent: list[int] = []
    upsert = client.upsert

    def counting(self: Any, name: str, rows: list[Any], **options: Any) -> Any:
        sent.append(len(rows))
        return upsert(self, name, rows, **options)

    monkeypatch.setattr(client, "upsert", counting)
    retriever = open_file(corpus)
    assert sent == [10, 10, 10]
    assert [hits[0].id for hits in retriever.search([f"word{i}" for i in range(60)], 3)] == [
        f"p{i:03}" for i in range(60)
    ]
    assert [len(hits) for hits in retriever.search(["passage"], 100)] == [60]  # no row twice
    retriever._collection.client.delete(retriever._collection.name, filter="row >= 22 and row < 24")
    assert [len(hits) for hits in open_file(corpus).search(["passage"], 100)] == [60]
    assert sent == [10, 10, 10, 10]  # the batch with the hole, and nothing at all into a full collection
    open_file(corpus)
    assert len(sent) == 4


def test_a_server_that_loses_rows_is_noticed(
    make_corpus: Any, open_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = milvus_collection._load_pymilvus().MilvusClient
    upsert = client.upsert
    monkeypatch.setattr(client, "upsert", lambda self, name, rows, **o: upsert(self, name, rows[1:], **o))
    with pytest.raises(
        RetrievalError, match=r"has 4 rows in collection .* after 5 were inserted, and some are missing"
    ):
        open_file(make_corpus([f"word{i}" for i in range(5)]))


def test_a_collection_of_something_else_is_refused(
    small_corpus: Any, make_corpus: Any, open_file: Any, tmp_path: Path
) -> None:
    texts = [p.text for p in small_corpus.passages]
    first = open_file(small_corpus, collection="mine")
    assert open_file(small_corpus, collection="mine").index_hash == first.index_hash
    assert first._collection.client.list_collections() == ["mine"]
    for corpus, options, why in (
        (make_corpus([*texts, "one more"]), {}, r"row \d+ is another passage, or has other vectors"),
        (make_corpus([*texts[:10], "another", *texts[11:]]), {}, r"row \d+ is another passage"),
        (make_corpus(texts[:5]), {}, "it has 33 rows, but the corpus has 5 distinct passages"),
        (small_corpus, {"b": 0.75}, "row 0 is another passage, or has other vectors"),
    ):
        with pytest.raises(
            IndexMismatchError, match=f"'mine' of Milvus at .* was not made from 'list'.*{why}"
        ):
            open_file(corpus, collection="mine", **options)
    client = first._collection.client
    client.create_collection("theirs", dimension=4)
    with pytest.raises(IndexMismatchError, match=r"it has the fields id, vector. Name another collection"):
        open_file(small_corpus, collection="theirs")


def test_a_server_is_used_by_its_uri_and_its_death_is_a_failure_of_retrieval(
    small_corpus: Any, toy: str, tmp_path: Path
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with server(tmp_path / "data", port) as process:
        retriever = open_milvus(small_corpus, uri=uri, timeout=5)
        check_retriever(retriever, small_corpus)
        expected = retriever.search(["the river Aln0", "Mira Voss"], 9)
        again = pickle.loads(pickle.dumps(retriever))
        assert (again.index_hash, again.search(["the river Aln0", "Mira Voss"], 9)) == (
            retriever.index_hash,
            expected,
        )
        script = """
import sys
sys.path.insert(0, sys.argv[1])
import pickle
from searchgym.corpora.milvus.index import open_milvus
corpus = pickle.loads(bytes.fromhex(sys.argv[3]))
print(open_milvus(corpus, uri=sys.argv[2], timeout=5).search(["the river Aln0", "Mira Voss"], 9))
"""
        command = [sys.executable, "-c", script]
        command += [str(Path(__file__).parent), uri, pickle.dumps(small_corpus).hex()]
        other = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert other.stdout.strip() == str(expected), other.stderr  # two clients at once
        env = SearchEnv(corpus=small_corpus, retriever=retriever)
        env.reset(seed=0)
        process.kill()
        process.wait()
        started = time.monotonic()
        with pytest.raises(RetrievalError, match=f"Milvus at {uri}: "):
            retriever.search(["river"], 3)
        assert time.monotonic() - started < 15
        observation, _, terminated, truncated, info = env.step("<search>river</search>")
        assert (observation, terminated, truncated, info["valid_for_training"]) == ("", False, True, False)
    with server(tmp_path / "data", port):  # gRPC tries again after a second, then after longer and longer
        for _ in range(100):
            with contextlib.suppress(RetrievalError):
                assert retriever.search(["the river Aln0", "Mira Voss"], 9) == expected
                return
            time.sleep(0.2)
        pytest.fail("the retriever did not find the server that came back")


def test_a_forked_child_is_told_what_to_do(small_corpus: Any, open_file: Any) -> None:
    retriever = open_file(small_corpus)

    def search() -> None:
        try:
            retriever.search(["river"], 3)
        except RetrievalError as error:
            os._exit(0 if 'start workers with the method "spawn"' in str(error) else 1)
        os._exit(2)

    child = multiprocessing.get_context("fork").Process(target=search)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_second_process_is_refused(small_corpus: Any, open_file: Any, tmp_path: Path) -> None:
    open_file(small_corpus)
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from list_corpus import ListCorpus
from searchgym.corpora.milvus.index import open_milvus
from searchgym.errors import ConfigError
try:
    open_milvus(ListCorpus(["a b"]), uri=sys.argv[2])
except ConfigError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "milvus.db")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "milvus.db cannot be opened: another process has it open" in said
    assert "one process at a time can use such a file" in said


def test_what_is_no_milvus_server_cannot_be_reached(small_corpus: Any) -> None:
    with pytest.raises(RetrievalError, match=r"Milvus at http://127\.0\.0\.1:9 cannot be reached"):
        open_milvus(small_corpus, uri="http://127.0.0.1:9", timeout=0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(RetrievalError, match=f"Milvus at {uri} cannot be reached"):
            open_milvus(small_corpus, uri=uri, timeout=0.5)
        assert time.monotonic() - started < 10
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        with pytest.raises(RetrievalError, match="cannot be reached"):
            open_milvus(small_corpus, uri=f"http://127.0.0.1:{web.server_port}", timeout=0.5)
        web.shutdown()
        thread.join()


def test_a_short_or_failed_answer_is_a_failure(
    small_corpus: Any, open_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = open_file(small_corpus)
    client = retriever._collection.client
    with monkeypatch.context() as patch:
        patch.setattr(client, "search", lambda *args, **options: [])
        with pytest.raises(RetrievalError, match="gave 0 results for 1 queries"):
            retriever.search(["river"], 3)
    expected = retriever.search(["river"], 3)
    client.release_collection(retriever._collection.name)
    assert retriever.search(["river"], 3) == expected  # it is loaded again
    client.drop_collection(retriever._collection.name)
    with pytest.raises(RetrievalError, match=r"Milvus at .*milvus\.db: "):
        retriever.search(["river"], 3)
    client.close()
    with pytest.raises(RetrievalError, match=r"Milvus at .*milvus\.db: "):
        retriever.search(["river"], 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "sparse"}, "mode is 'sparse': use one of bm25, dense, hybrid"),
        ({"k1": -1}, "k1 is -1: give a number from 0 to 1000"),
        ({"b": 2}, "b is 2: give a number from 0 to 1"),
        ({"timeout": 0}, "timeout is 0"),
        ({"uri": "localhost"}, "give a server like 'http://localhost:19530', or a file"),
        ({"uri": "ftp://localhost:1"}, "uri is 'ftp"),
        ({"collection": "my-own"}, "collection is 'my-own'"),
        ({"mode": "dense", "encoder": "no/such/place"}, "neither a directory nor a repository id"),
        ({"mode": "hybrid", "encoder": {"dtype": "int8"}}, "dtype is 'int8'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(small_corpus: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_milvus(small_corpus, **options)


def test_what_is_not_known_or_not_installed_is_named(
    small_corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'mode'"):
        open_retriever({"name": "milvus", "modes": "bm25"}, small_corpus)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"'milvus_lite': pip install \"searchgym\[scale\]\""):
            open_milvus(small_corpus)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"'pymilvus': pip install \"searchgym\[scale\]\""):
        open_milvus(small_corpus)


def test_a_file_that_was_damaged_is_refused(tmp_path: Path, random_corpus: ListCorpus) -> None:
    def find() -> Any:
        retriever = open_milvus(random_corpus, uri=str(tmp_path / "milvus.db"))
        try:
            return retriever.search(["bading dading"], 5)  # type: ignore[union-attr]
        finally:
            retriever._collection.client.close()  # type: ignore[union-attr]

    expected = find()
    assert find() == expected
    (data,) = (tmp_path / "milvus.db").rglob("*.parquet")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    with pytest.raises(DamagedFileError, match=data.name):
        find()
    record = tmp_path / "milvus.db.checksums.json"
    content[len(content) // 2] ^= 4
    data.write_bytes(content)
    assert find() == expected
    record.write_text(record.read_text().replace("1", "2"))
    with pytest.raises(DamagedFileError, match=record.name):
        find()
