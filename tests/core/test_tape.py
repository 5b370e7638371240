"""Tapes: what was recorded comes back exactly, at the right moment, or not at all and loudly."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys import QUICK, RIGHT, SEARCH, FixedRetriever, Probe, play

from searchgym.conformance import check_retriever
from searchgym.env import SearchEnv
from searchgym.errors import ConfigError, RetrievalError, TapeError
from searchgym.judges import Grade, Grader, Judge, Trace, TraceRound, Verdict
from searchgym.opening import open_corpus, open_retriever
from searchgym.question import Corpus, Passage, Question
from searchgym.retriever import Hit, Retriever, SearchResult
from searchgym.tape import recording, replaying, tape_of
from searchgym.tape_file import Call, Player, Recorder

QUESTION = Question("q", "Who?", ("Anna",), "dev", supporting_ids=("p0",))
CARD = {"corpus": "c", "top_k": 3}


class Pages:
    """A corpus of nothing but its name and hash."""

    def __init__(self, hash: str = "h") -> None:
        self.name, self.hash, self.splits = "pages", hash, ("dev",)
        self.passages: Sequence[Passage] = ()

    def questions(self, split: str) -> list[Question]:
        return [QUESTION]

    def question(self, task_id: str) -> Question:
        return QUESTION


class Scripted:
    """A retriever and judge that gives prepared results, in order."""

    name, index_hash = "scripted", "s"

    def __init__(self, *results: Any) -> None:
        self.results = list(results)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        return [self.results.pop(0) for _ in queries]

    def judge(self, traces: Sequence[Trace]) -> list[Any]:
        return [self.results.pop(0) for _ in traces]


class ScriptedGrader(Scripted):
    """The same, with grades."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        return [self.results.pop(0) for _ in questions]


def record(path: Path, retriever: Retriever, judge: Judge | None = None, corpus: Corpus | None = None) -> Any:
    return recording(path, corpus or Pages(), retriever, judge, top_k=3)


def replay(
    path: Path, retriever: Any = "fixed", judge: Any = None, corpus: Corpus | None = None, top_k: int = 3
) -> Any:
    return replaying(path, corpus or Pages(), top_k=top_k, retriever_spec=retriever, judge_spec=judge)


def trace(*texts: str, hits: Sequence[str] = (), observation: str = "", score: float = 1.0) -> Trace:
    records = [{"id": i, "title": "", "text": "", "score": score} for i in hits]
    action = {"kind": "search", "queries": [texts[-1]], "draft": "", "answer": "", "error": ""}
    return Trace(QUESTION, tuple(TraceRound(text, action, records, observation) for text in texts))


# -- what comes back -----------------------------------------------------------------------------------


def test_results_come_back_exactly(tmp_path: Path) -> None:
    scores = [1e300, np.float32(0.1), 0.1, 7, 5e-324, -0.0, float("-inf")]
    hits = [Hit(f"p{i}", f"Tïtle \ud800 {i}", "line\nline\u2028", s) for i, s in enumerate(scores)]  # type: ignore[arg-type]
    queries = ["", "Ünïcødé 北京", "half \udfff", "a\x00b", "x" * 10_000]
    recorder, _ = record(tmp_path / "t", FixedRetriever(*hits))
    given = recorder.search(queries, 7)
    player, judge = replay(tmp_path / "t")
    found = player.search(queries, 7)
    assert judge is None
    assert (player.name, player.index_hash) == (recorder.name, recorder.index_hash) == ("fixed", "fixed-hash")
    assert [[h[:3] for h in r] for r in found] == [[h[:3] for h in r] for r in given]
    assert [repr(h.score) for h in found[0]] == [repr(float(s)) for s in scores]
    assert all(type(h) is Hit and type(h.score) is float for r in found for h in r)


def test_a_changed_result_does_not_change_the_tape(tmp_path: Path) -> None:
    recorder, _ = record(tmp_path / "t", FixedRetriever(Hit("a", "", "", 1.0)))
    recorder.search(["x"], 1)
    player, _ = replay(tmp_path / "t")
    player.search(["x"], 1)[0].clear()
    assert len(player.search(["x"], 1)[0]) == 1


def test_a_recorder_is_a_conforming_retriever(toy: str, tmp_path: Path) -> None:
    corpus = open_corpus(toy)
    check_retriever(record(tmp_path / "t", open_retriever("bm25", corpus), corpus=corpus)[0], corpus)


def test_what_the_cache_counts_stays_visible(toy: str, tmp_path: Path) -> None:
    recorder, _ = record(tmp_path / "t", open_retriever("bm25", open_corpus(toy)))
    before = recorder.hits, recorder.misses
    recorder.search(["Velm", "Velm"], 2)
    recorder.search(["Velm"], 2)
    assert recorder.hits + recorder.misses - sum(before) == 3
    assert record(tmp_path / "u", Scripted())[0].hits == 0


def test_repeats_cost_nothing_and_passages_are_stored_once(tmp_path: Path) -> None:
    hits = [Hit("a", "A", "word " * 1000 + "rare", 2.0), Hit("b", "B", "text", 1.0)]
    recorder, _ = record(tmp_path / "t", FixedRetriever(*hits))
    recorder.search(["x"], 2)
    size = (tmp_path / "t").stat().st_size
    for _ in range(10_000):
        recorder.search(["x"], 2)
    assert (tmp_path / "t").stat().st_size == size
    recorder.search([f"query {i}" for i in range(20)], 2)
    assert (tmp_path / "t").stat().st_size < size + 20 * 80
    assert (tmp_path / "t").read_text().count("rare") == 1


def test_one_id_with_two_texts_is_two_passages(tmp_path: Path) -> None:
    results = [[Hit("a", "A", "old", 1.0)], [Hit("a", "A", "new", 1.0)]]
    recorder, _ = record(tmp_path / "t", Scripted(*results))
    recorder.search(["x"], 3)
    recorder.search(["x"], 3)
    player, _ = replay(tmp_path / "t", "scripted")
    assert [player.search(["x"], 3)[0] for _ in range(2)] == results


def test_failures_come_back_where_they_happened(tmp_path: Path) -> None:
    good = [Hit("a", "A", "t", 1.0)]
    inner = Probe(FixedRetriever(*good))
    recorder, _ = record(tmp_path / "t", inner)
    inner.fails = lambda query: query == "y"
    recorder.search(["x", "y", "x"], 1)
    inner.fails = lambda query: False
    recorder.search(["y"], 1)
    inner.down = True
    with pytest.raises(RetrievalError):
        recorder.search(["x", "y"], 1)
    inner.down = False
    recorder.search(["x", "y"], 1)

    player, _ = replay(tmp_path / "t")
    seen = [player.search(batch, 1) for batch in (["x", "y", "x"], ["y"], ["x", "y"], ["x", "y"])]
    assert [[isinstance(r, RetrievalError) for r in results] for results in seen] == [
        [False, True, False], [False], [True, True], [False, False],
    ]  # fmt: skip
    assert str(seen[0][1]) == "SECRET-SERVER-ERROR one query failed"
    assert str(seen[2][0]) == "SECRET-SERVER-ERROR the server is down"
    assert seen[3][0] == good


def test_a_retriever_that_gives_too_few_results_is_recorded_as_failing(tmp_path: Path) -> None:
    class Short(FixedRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
            return []

    recorder, _ = record(tmp_path / "t", Short())
    with pytest.raises(RetrievalError, match="gave 0 results for 1 queries"):
        recorder.search(["x"], 1)
    (result,) = replay(tmp_path / "t")[0].search(["x"], 1)
    assert isinstance(result, RetrievalError)


def test_verdicts_and_grades_come_back(tmp_path: Path) -> None:
    verdicts = [
        Verdict.ok(1 / 3, 1.0, "new ü", {"calls": 1, "usd": 0.1}),
        Verdict.error("timeout", {"calls": 2}),
        Verdict.ok(0.5, 0.0),
    ]
    grades = [Grade.ok(0.1, "close", {"calls": 1}), Grade.error("refused")]
    _, recorder = record(tmp_path / "t", FixedRetriever(), ScriptedGrader(*verdicts, *grades))
    assert isinstance(recorder, Grader)
    first, second = trace("a"), trace("a", "b")
    assert recorder.judge([first, second]) == verdicts[:2]
    recorder.judge([second])
    recorder.grade([QUESTION, QUESTION], ["Anna", "\ud800"])

    _, player = replay(tmp_path / "t", judge="scripted")
    assert isinstance(player, Grader)
    assert player.name == "scripted"
    found = player.judge([first, second])
    assert [v.to_info() for v in found] == [v.to_info() for v in verdicts[:2]]
    assert player.judge([second])[0].to_info() == verdicts[2].to_info()
    assert [
        (g.status, g.score, g.reason) for g in player.grade([QUESTION, QUESTION], ["Anna", "\ud800"])
    ] == [
        ("ok", 0.1, "close"),
        ("error", None, "refused"),
    ]
    # What it had cost is told, but as replayed: nothing was spent now.
    assert found[0].cost == {"replayed_calls": 1, "replayed_usd": 0.1}


def test_a_judge_that_does_not_grade_does_not_grade_from_a_tape_either(tmp_path: Path) -> None:
    _, recorder = record(tmp_path / "t", FixedRetriever(), Scripted())
    _, player = replay(tmp_path / "t", judge="scripted")
    assert isinstance(recorder, Judge)
    assert isinstance(player, Judge)
    assert not isinstance(recorder, Grader)
    assert not isinstance(player, Grader)


def test_a_judgement_is_known_by_what_the_judge_saw(tmp_path: Path) -> None:
    base: dict[str, Any] = {"hits": ["p0"], "observation": "seen"}
    _, recorder = record(tmp_path / "t", FixedRetriever(), Scripted(Verdict.ok(1.0, 1.0)))
    recorder.judge([trace("a", **base)])
    _, player = replay(tmp_path / "t", judge="scripted")
    assert player.judge([trace("a", **base, score=0.5)])[0].utility == 1.0
    others = [
        trace("b", **base),
        trace("a", "a", **base),
        trace("a", hits=["p1"], observation="seen"),
        trace("a", hits=["p0"], observation="cut"),
        Trace(Question("q", "Who else?", ("Anna",), "dev"), trace("a", **base).rounds),
        Trace(Question("q", "Who?", ("Ben",), "dev", supporting_ids=("p0",)), trace("a", **base).rounds),
    ]
    for other in others:
        with pytest.raises(TapeError, match=r"has no verdict on round \d of question 'q' \('[ab]'\)"):
            player.judge([other])


@pytest.mark.parametrize("given", [[], ["nonsense"]])
def test_what_a_broken_judge_gives_is_passed_on_and_not_recorded(tmp_path: Path, given: list[Any]) -> None:
    class Broken(Scripted):
        def judge(self, traces: Sequence[Trace]) -> list[Any]:
            return given

    _, recorder = record(tmp_path / "t", FixedRetriever(), Broken())
    assert recorder.judge([trace("a")]) == given
    assert len((tmp_path / "t").read_text().splitlines()) == 1


def test_check_asks_the_judge(tmp_path: Path) -> None:
    class Keyless(Scripted):
        def check(self) -> None:
            raise ConfigError("no key")

    _, recorder = record(tmp_path / "t", FixedRetriever(), Keyless())
    with pytest.raises(ConfigError, match="no key"):
        recorder.check()
    _, plain = record(tmp_path / "u", FixedRetriever(), Scripted())
    plain.check()


# -- calls the tape lacks ------------------------------------------------------------------------------


def test_a_call_that_was_not_recorded_is_refused(tmp_path: Path) -> None:
    _, judge = record(tmp_path / "t", FixedRetriever(), ScriptedGrader(Grade.ok(1.0)))
    judge.grade([QUESTION], ["Anna"])
    recorder, _ = record(tmp_path / "t", FixedRetriever(), ScriptedGrader())
    recorder.search(["known"], 3)
    retriever, judge = replay(tmp_path / "t", judge="scripted")
    with pytest.raises(TapeError, match=r"has no search for 'unknown' with k=3 \(call 1 of this run\)"):
        retriever.search(["known", "unknown"], 3)
    with pytest.raises(TapeError, match="has no search for 'known' with k=2"):
        retriever.search(["known"], 2)
    with pytest.raises(TapeError, match="has no grade of 'Ben' for question 'q'"):
        judge.grade([QUESTION], ["Ben"])


def test_it_ends_the_run_and_is_no_failed_retrieval(toy: str, tmp_path: Path) -> None:
    corpus = open_corpus(toy)
    retriever, _ = recording(tmp_path / "t", corpus, open_retriever("bm25", corpus), top_k=2)
    recorded = play(SearchEnv(corpus=toy, top_k=2, retriever=retriever), SEARCH, RIGHT)
    retriever, _ = replaying(tmp_path / "t", corpus, top_k=2, retriever_spec="bm25")
    env = SearchEnv(corpus=toy, top_k=2, retriever=retriever)
    assert play(env, SEARCH, RIGHT) == recorded
    assert tape_of(env) is retriever.tape  # type: ignore[attr-defined]
    env.reset(options={"task_id": "employer-town"})
    with pytest.raises(TapeError, match="has no search for 'something else' with k=2"):
        env.step("<search>something else</search>")


# -- tapes of something else ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": Pages("other")}, r"corpus_hash 'h', here 'other'"),
        ({"top_k": 5}, r"top_k 3, here 5"),
        ({"retriever": "bm25"}, r"retriever 'fixed', here 'bm25'"),
        ({"retriever": {"name": "fixed", "b": 1}}, r"retriever 'fixed', here \{'name': 'fixed', 'b': 1\}"),
        ({"judge": None}, r"judge 'scripted', here None"),
        ({"judge": "oracle"}, r"judge 'scripted', here 'oracle'"),
        (
            {"retriever": type("F", (FixedRetriever,), {"index_hash": "x"})()},
            r"index_hash 'fixed-hash', here 'x'",
        ),
    ],
)
def test_a_tape_of_something_else_is_refused_before_it_is_used(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    record(tmp_path / "t", FixedRetriever(), Scripted())
    replay(tmp_path / "t", {"name": "fixed"}, {"name": "scripted"})
    with pytest.raises(TapeError, match=f"was recorded with {message}: give the arguments"):
        replay(tmp_path / "t", **{"judge": "scripted", **changes})


def test_a_tape_of_something_else_is_not_continued(tmp_path: Path) -> None:
    recorder, _ = record(tmp_path / "t", FixedRetriever())
    recorder.search(["x"], 3)
    changed = FixedRetriever()
    changed.index_hash = "other"
    with pytest.raises(
        TapeError, match="index_hash 'fixed-hash', here 'other'"
    ):  # while it is being recorded
        record(tmp_path / "t", changed)
    del recorder
    before = (tmp_path / "t").read_bytes()
    with pytest.raises(TapeError, match="index_hash 'fixed-hash', here 'other'"):
        record(tmp_path / "t", changed)
    assert (tmp_path / "t").read_bytes() == before


def test_a_tape_that_holds_no_call_may_become_one_of_something_else(tmp_path: Path) -> None:
    record(tmp_path / "t", FixedRetriever())
    recorder, _ = record(tmp_path / "t", Scripted([]))
    recorder.search(["x"], 3)
    assert replay(tmp_path / "t", "scripted")[0].search(["x"], 3) == [[]]


# -- damage --------------------------------------------------------------------------------------------


def three_calls(path: Path) -> list[bytes]:
    """A tape of three searches; its lines."""
    recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0)))
    for query in "xyz":
        recorder.search([query], 3)
    return path.read_bytes().splitlines(keepends=True)


def test_a_last_line_that_was_cut_off_is_left_out_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "t"
    lines = three_calls(path)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        with pytest.warns(UserWarning, match="its last line, 5, is cut off and left out"):
            player, _ = replay(path)
        player.search(["x", "y"], 3)
        with pytest.raises(TapeError):
            player.search(["z"], 3)
        with pytest.warns(UserWarning, match="cut off"):
            recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0)))
        recorder.search(["z"], 3)
        assert path.read_bytes() == b"".join(lines).replace(b'"at":2', b'"at":0')
        del recorder


@pytest.mark.parametrize("cut", [0, 1, 7, 60])
def test_a_header_that_was_cut_off_begins_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "t"
    lines = three_calls(path)
    path.write_bytes(lines[0][:cut])
    with pytest.raises(TapeError, match=r"is empty|is not a tape"):
        replay(path)
    assert three_calls(path) == lines


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, b"[]\n", "is not a tape"),
        (0, b'{"tape": 9, "searchgym": "3.1"}\n', r"has schema 9, this version reads 1: replay it with .* \(3.1\)"),
        (0, b'{"tape": 1, "card": 5}\n', "is not a tape"),
        (1, b"{\n", "is damaged in line 2"),
        (1, b'{"passage":1,"id":"a","title":"","text":""}\n', "is damaged in line 2 .*passage 1 where 0 was due"),
        (2, b'{"search":"x","k":3,"at":0,"hits":[[1,1.0]]}\n', "line 3 .*passage 1 is not on the tape"),
        (2, b'{"search":"x","k":3,"at":0,"hits":[[-1,1.0]]}\n', "line 3 .*passage -1 is not on the tape"),
        (2, b'{"search":"x","k":3,"hits":[]}\n', "line 3 .*'at'"),
        (2, b'{"judge":"d","at":0,"status":"ok","utility":2,"reasoning":0,"reason":""}\n', r"line 3 .*\[0, 1\]"),
        (2, b'{"judge":"d","at":0,"status":"odd","utility":1,"reasoning":0,"reason":""}\n', "line 3 .*'odd'"),
        (2, b'{"grade":"d","at":0,"status":"ok","score":null,"reason":""}\n', "is damaged in line 3"),
        (2, b"\n", "is damaged in line 3"),
        (2, b"\xff\n", "is damaged in line 3"),
        (2, b"[" * 100_000 + b"\n", "is damaged in line 3"),
    ],
)  # fmt: skip
def test_a_damaged_tape_is_refused_and_left_alone(
    tmp_path: Path, line: int, text: bytes, message: str
) -> None:
    path = tmp_path / "t"
    lines = three_calls(path)
    lines[line] = text
    path.write_bytes(b"".join(lines))
    for opening in (lambda: replay(path), lambda: record(path, FixedRetriever())):
        with pytest.raises(TapeError, match=message):
            opening()
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"\x00\x01\x02", b'{"tap'[:3] + b"x"])
def test_a_file_that_is_no_tape_is_never_written_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    for opening in (lambda: replay(path), lambda: record(path, FixedRetriever())):
        with pytest.raises(TapeError, match="is not a tape"):
            opening()
    assert path.read_bytes() == content


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TapeError, match=r"cannot be read: No such file"):
        replay(tmp_path / "none")
    with pytest.raises(TapeError, match=r"cannot be read: Is a directory"):
        replay(tmp_path)
    for bad in (tmp_path, tmp_path / "file" / "t"):
        with pytest.raises(TapeError, match="cannot be written"):
            record(bad, FixedRetriever())
    assert not list(tmp_path.glob(".*"))
    record(tmp_path / "new" / "folder" / "t", FixedRetriever())  # the folder is made


def test_a_full_disk_stops_the_run_and_leaves_a_sound_tape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = three_calls(tmp_path / "t")
    recorder, _ = record(tmp_path / "t", FixedRetriever(Hit("a", "A", "text", 1.0)))
    write = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 20:
            return write(handle, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TapeError, match="cannot be written: No space left on device"):
        recorder.search(["new"], 3)
    monkeypatch.undo()
    assert (tmp_path / "t").read_bytes() == b"".join(lines)
    with pytest.raises(TapeError, match="No space left"):  # what it knows is ahead of the file
        recorder.search(["newer"], 3)
    assert (tmp_path / "t").read_bytes() == b"".join(lines)


# -- processes -----------------------------------------------------------------------------------------


def test_one_process_shares_its_recorder(tmp_path: Path) -> None:
    first, _ = record(tmp_path / "t", FixedRetriever())
    second, _ = record(tmp_path / "." / "t", FixedRetriever())
    assert first.tape is second.tape
    assert pickle.loads(pickle.dumps(first)).tape is first.tape


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from test_tape import *
recorder, _ = record(Path({path!r}), FixedRetriever(Hit("a", "A", "text", 1.0)))
count = 0
while True:
    recorder.search([f"query {{count + i}}" for i in range(7)], 3)
    count += 7
    print(count, flush=True)
"""


def test_a_second_process_is_refused_and_a_kill_loses_nothing_finished(tmp_path: Path) -> None:
    path = tmp_path / "t"
    code = CHILD.format(tests=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(TapeError, match="is being recorded by another process"):
        record(path, FixedRetriever())
    time.sleep(random.Random(0).uniform(0.05, 0.2))
    child.send_signal(signal.SIGKILL)
    finished = int(child.communicate()[0].split()[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last line may be cut off
        player, _ = replay(path)
        recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0)))
    assert all(player.search([f"query {i}" for i in range(finished)], 3))
    recorder.search([f"query {i}" for i in range(finished + 50)], 3)
    assert all(replay(path)[0].search([f"query {i}" for i in range(finished + 50)], 3))


def _search_elsewhere(pickled: bytes, queue: Any) -> None:
    try:
        retriever = pickle.loads(pickled)
        queue.put((len(retriever.search(["x"], 3)[0]), retriever.tape.position))
    except TapeError as error:
        queue.put(str(error))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_replay_but_do_not_record(tmp_path: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    recorder, _ = record(tmp_path / "t", FixedRetriever(Hit("a", "A", "text", 1.0)))
    recorder.search(["x"], 3)
    player, _ = replay(tmp_path / "t")
    player.search(["x", "x"], 3)
    before = (tmp_path / "t").read_bytes()
    said = []
    for retriever in (player, recorder):
        worker = context.Process(target=_search_elsewhere, args=(pickle.dumps(retriever), queue))
        worker.start()
        said.append(queue.get(timeout=60))
        worker.join(60)
    assert said[0] == (1, 3)  # it goes on where the pickled one was
    assert "is being recorded by another process" in said[1]
    assert (tmp_path / "t").read_bytes() == before
    recorder.search(["y"], 3)  # the worker's end did not touch what this process holds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_worker_does_not_record(tmp_path: Path) -> None:
    recorder, _ = record(tmp_path / "t", FixedRetriever())
    before = (tmp_path / "t").read_bytes()
    worker = os.fork()
    if worker == 0:
        try:
            recorder.search(["x"], 3)
            os._exit(1)
        except TapeError as error:
            os._exit(0 if f"is recorded by process {os.getppid()}" in str(error) else 2)
    assert os.waitpid(worker, 0)[1] == 0
    assert (tmp_path / "t").read_bytes() == before


# -- positions -----------------------------------------------------------------------------------------


@settings(parent=QUICK, max_examples=120)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("ab"), st.integers(0, 2)),
            st.tuples(st.sampled_from("ab"), st.integers(0, 2)),
            st.tuples(st.just("resume"), st.integers(0, 40)),
            st.tuples(st.just("reopen"), st.integers(0, 40)),
        ),
        max_size=40,
    )
)
@example([("a", 1), *[("b", 0)] * 4, ("a", 2), ("resume", 1), ("b", 0), ("a", 0)])
def test_a_replay_repeats_the_last_course_of_a_run_that_went_back(actions: list[tuple[str, int]]) -> None:
    """Against a plain list: calls whose results change, resumed from any position, in this process or another."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        recorder = Recorder.open(path, CARD)
        course: list[tuple[str, int]] = []
        for name, value in actions:
            if name in ("resume", "reopen"):
                position = min(value, len(course))
                if name == "reopen":
                    recorder.close()
                    Recorder._opened.clear()
                    recorder = Recorder.open(path, CARD)
                del course[position:]
                recorder.rewind(position)
            else:
                result: SearchResult = [Hit("p", "", "", float(value))] if value else RetrievalError("down")
                recorder.record([Call(("search", name, 1), result)])
                course.append((name, value))
        assert recorder.position == len(course)
        player = Player(path)
        for start in (0, len(course) // 2):
            player.rewind(start)
            for name, value in course[start:]:
                found: Any = player.recall(("search", name, 1))
                assert (0 if isinstance(found, RetrievalError) else found[0].score) == value


def test_recording_again_replaces_what_differs(tmp_path: Path) -> None:
    bad, good = RetrievalError("down"), [Hit("a", "A", "t", 1.0)]
    for results in ([bad, good, good], [good, good, good]):
        recorder, _ = record(tmp_path / "t", Scripted(*results))
        recorder.search(["x", "y", "x"], 3)
        del recorder
    assert replay(tmp_path / "t", "scripted")[0].search(["x", "y", "x"], 3) == [good] * 3


def test_more_calls_than_were_recorded_get_the_last_result(tmp_path: Path) -> None:
    bad, good = RetrievalError("down"), [Hit("a", "A", "t", 1.0)]
    recorder, _ = record(tmp_path / "t", Scripted(bad, good))
    recorder.search(["x", "x"], 3)
    player, _ = replay(tmp_path / "t", "scripted")
    assert player.search(["x"] * 5, 3)[1:] == [good] * 4
