"""Tapes: every retrieval and judge call of a run, recorded, and the run played again without either.

    gym.make("SearchQA-v0", record="run.tape")      also writes the results of retriever and judge to a tape
    gym.make("SearchQA-v0", replay="run.tape")      opens neither; the results come from the tape

A replay that makes a call which the tape does not hold raises `TapeError`: it never guesses. `searchgym.tape.file`
describes the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RetrievalError, TapeError, strip
from ..judges.protocol import Grade, Grader, Judge, Trace, Verdict
from ..records.question import Corpus, Question
from ..records.retriever import Retriever, SearchResult
from ..specs import split_spec
from .file import Key, Player, differences, of_something_else
from .recorder import Call, Recorder

__all__ = [
    "RecordingJudge",
    "RecordingRetriever",
    "ReplayJudge",
    "ReplayRetriever",
    "recording",
    "replaying",
    "tape_of",
]


def recording(
    path: str | os.PathLike[str],
    corpus: Corpus,
    retriever: Retriever,
    judge: Judge | None = None,
    *,
    top_k: int,
    retriever_spec: Any = None,
    judge_spec: Any = None,
) -> tuple[Retriever, Judge | None]:
    """Retriever and judge that also write to a tape. A tape with the same header is continued.

    Args:
        path: the file; its folder is created.
        corpus: the corpus of the environment.
        retriever: answers the queries, with or without a cache.
        judge: returns the verdicts; None without a judge.
        top_k: hits per query.
        retriever_spec: the JSON value that the retriever was opened from; None for a live object.
        judge_spec: the JSON value that the judge was opened from; None for a live object.

    Raises:
        TapeError: the file is not a tape, of another environment, damaged, in use, or cannot be written.
    """
    tape_header = {
        "corpus": corpus.name,
        "corpus_hash": corpus.hash,
        "top_k": top_k,
        "retriever": _named(retriever_spec, retriever),
        "backend": retriever.name,
        "index_hash": retriever.index_hash,
        "judge": _named(judge_spec, judge),
        "judge_name": None if judge is None else judge.name,
        "grader": isinstance(judge, Grader),
    }
    if not getattr(retriever, "ids_match", True):
        tape_header["ids_match"] = False
    recorder = Recorder.open(path, tape_header)
    recorded: Judge | None = None
    if judge is not None:
        recorded = (_RecordingGrader if isinstance(judge, Grader) else RecordingJudge)(judge, recorder)
    return RecordingRetriever(retriever, recorder), recorded


def replaying(
    path: str | os.PathLike[str],
    corpus: Corpus,
    *,
    top_k: int,
    retriever_spec: Any,
    judge_spec: Any = None,
) -> tuple[Retriever, Judge | None]:
    """Retriever and judge that answer from a tape alone.

    Args:
        path: a tape.
        corpus: the corpus of the environment; its passages must be those of the recording.
        top_k: hits per query.
        retriever_spec: the environment's argument (a JSON value, or a live object, which is not called); it must be that
            of the recording.
        judge_spec: likewise.

    Raises:
        TapeError: the file is not a tape, damaged, or of another corpus, retriever, judge or `top_k`.
    """
    player = Player(path)
    here = {
        "corpus_hash": corpus.hash,
        "top_k": top_k,
        "retriever": _named(retriever_spec, retriever_spec),
        "judge": _named(judge_spec, judge_spec),
    }
    if isinstance(retriever_spec, Retriever):
        here["index_hash"] = retriever_spec.index_hash
    difference = differences(player.tape_header, here)
    if difference:
        raise of_something_else(player.path, difference)
    judge: Judge | None = None
    if player.tape_header["judge_name"] is not None:
        judge = (_ReplayGrader if player.tape_header["grader"] else ReplayJudge)(player)
    return ReplayRetriever(player), judge


def tape_of(envs: Any) -> Recorder | Player | None:
    """The tape that an environment records or replays, if it does."""
    return getattr(getattr(getattr(envs, "config", None), "retriever", None), "tape", None)


def _named(spec: Any, opened: Retriever | Judge | None) -> Any:
    """A spec in its shortest form, without credentials; the name where there is only an object."""
    if isinstance(spec, str | Mapping):
        name, options = split_spec("part", spec)
        return strip({"name": name, **options}) if options else name
    return None if opened is None else opened.name


class RecordingRetriever:
    """Calls a retriever and writes its results to a tape. Same name, same hash, same results."""

    def __init__(self, retriever: Retriever, tape: Recorder) -> None:
        self._inner, self.tape = retriever, tape
        self.name = retriever.name
        self.index_hash = retriever.index_hash
        self.ids_match: bool = getattr(retriever, "ids_match", True)

    @property
    def hits(self) -> int:
        """Queries that the cache answered, if the retriever has one."""
        return getattr(self._inner, "hits", 0)

    @property
    def misses(self) -> int:
        """Queries that the cache did not answer."""
        return getattr(self._inner, "misses", 0)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        results: list[SearchResult]
        try:
            results = list(self._inner.search(queries, k))
            if len(results) != len(queries):
                raise RetrievalError(
                    f"retriever {self.name!r} gave {len(results)} results for {len(queries)} queries"
                )
        except RetrievalError as error:
            self.tape.record(Call(("search", query, k), error) for query in queries)
            raise
        self.tape.record(Call(("search", q, k), r) for q, r in zip(queries, results, strict=True))
        return results


class ReplayRetriever:
    """Returns the recorded results of a retriever, under its name and hash."""

    def __init__(self, tape: Player) -> None:
        self.tape = tape
        self.name: str = tape.tape_header["backend"]
        self.index_hash: str = tape.tape_header["index_hash"]
        self.ids_match: bool = tape.tape_header.get("ids_match", True)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        recall, results = self.tape.recall, []
        for query in queries:
            result: Any = recall(("search", query, k))
            if result is None:
                raise _lacks(self.tape, f"search for {query!r:.200} with k={k}")
            results.append(result.copy() if isinstance(result, list) else result)
        return results


class RecordingJudge:
    """Calls a judge and writes its verdicts to a tape."""

    def __init__(self, judge: Judge, tape: Recorder) -> None:
        self._inner, self.tape = judge, tape
        self.name = judge.name
        self.needs_gold: bool = getattr(judge, "needs_gold", False)

    def check(self) -> None:
        """Run the judge's own check."""
        check = getattr(self._inner, "check", None)
        if check is not None:
            check()

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        verdicts = list(self._inner.judge(traces))
        if _sound(verdicts, Verdict, len(traces)):
            self.tape.record(
                Call(_trace_key(t), v, {"question": t.question.id, "round": len(t.rounds)})
                for t, v in zip(traces, verdicts, strict=True)
            )
        return verdicts


class _RecordingGrader(RecordingJudge):
    """The same for a judge that grades."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        inner: Any = self._inner
        grades = list(inner.grade(questions, answers))
        if _sound(grades, Grade, len(questions)):
            self.tape.record(
                Call(_answer_key(q, a), g, {"question": q.id})
                for q, a, g in zip(questions, answers, grades, strict=True)
            )
        return grades


class ReplayJudge:
    """Returns the recorded verdicts of a judge."""

    def __init__(self, tape: Player) -> None:
        self.tape = tape
        self.name: str = tape.tape_header["judge_name"]

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        verdicts = []
        for trace in traces:
            verdict = self.tape.recall(_trace_key(trace))
            if not isinstance(verdict, Verdict):
                text = trace.rounds[-1].text
                where = f"round {len(trace.rounds)} of question {trace.question.id!r}"
                raise _lacks(self.tape, f"verdict on {where} ({text!r:.200})")
            verdicts.append(verdict)
        return verdicts


class _ReplayGrader(ReplayJudge):
    """The same for a judge that grades."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        grades = []
        for question, answer in zip(questions, answers, strict=True):
            grade = self.tape.recall(_answer_key(question, answer))
            if not isinstance(grade, Grade):
                raise _lacks(self.tape, f"grade of {answer!r:.200} for question {question.id!r}")
            grades.append(grade)
        return grades


def _sound(results: Sequence[Any], kind: type, count: int) -> bool:
    """Whether a judge kept its promise; otherwise the caller refuses all results."""
    return len(results) == count and all(isinstance(result, kind) for result in results)


def _lacks(tape: Player, call: str) -> TapeError:
    return TapeError(
        f"tape {tape.path!r} has no {call} (call {tape.position} of this run): a replay makes the calls of the "
        "recorded run only; give the same agent, arguments and seed, or record again"
    )


def _trace_key(trace: Trace) -> Key:
    """Names a judgement by its content. Not by scores, which no judge may depend on."""
    rounds = [[r.text, r.action.to_json(), [hit.id for hit in r.hits], r.observation] for r in trace.rounds]
    return ("judge", _digest([*_asked(trace.question), rounds]), 0)


def _answer_key(question: Question, answer: str) -> Key:
    return ("grade", _digest([*_asked(question), answer]), 0)


def _asked(question: Question) -> list[Any]:
    return [question.id, question.text, question.answers, question.supporting_ids]


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
