"""Tapes: what was recorded comes back exactly, at the right moment, or not at all and loudly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tape_parts import QUESTION, Pages, Scripted, ScriptedGrader, record, replay
from toys import RIGHT, SEARCH, FixedRetriever, Probe, play

from searchgym.conformance import check_retriever
from searchgym.dialects import Act
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError, RetrievalError, TapeError
from searchgym.judges import Grade, Grader, Judge, RoundRecord, Trace, Verdict
from searchgym.records.question import Question
from searchgym.records.retriever import Hit, SearchResult
from searchgym.specs import open_corpus, open_retriever
from searchgym.tape.recording import recording, replaying, tape_of


def trace(*texts: str, hits: Sequence[str] = (), observation: str = "", score: float = 1.0) -> Trace:
    found = [Hit(i, "", "", score) for i in hits]
    act = Act("search", (texts[-1],))
    return Trace(QUESTION, tuple(RoundRecord(text, act, [found], observation) for text in texts))


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
    assert (tmp_path / "t").stat().st_size < size + 20 * 96
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
