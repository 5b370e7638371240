"""The evidence judge, on passages small enough to judge by hand, with an encoder of random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import skip_without

from searchgym.conformance import check_judge
from searchgym.corpora.dense.encoders import Encoder
from searchgym.corpora.dense.evidence import EvidenceJudge
from searchgym.dialects import Act
from searchgym.errors import ConfigError, RetrievalError, UnknownIdError
from searchgym.judges import RoundRecord, Trace, Verdict, open_judge
from searchgym.records.question import Passage, Question
from searchgym.records.retriever import Hit

skip_without("sentence_transformers", "the extra dense is not installed")

PASSAGES = {
    "reed": Passage("reed", "Anna Reed (painter)", "Anna Reed was born in Velm and works for Corvin Mills."),
    "more": Passage("more", "Anna Reed", "Her paintings hang in many houses."),
    "mills": Passage("mills", "Corvin Mills", "Corvin Mills is a company in Tarn."),
    "tarn": Passage("tarn", "Tarn", "Tarn is a town of 1204 people."),
    "lake": Passage("lake", "Deep Lake", "Perch and pike live here."),
    "x": Passage("x", "X", "There are 2 of them."),
}
ASKED = Question("q", "Where is the company that Anna Reed works for?", ("Tarn",), "dev")


def search(query: str, *ids: str) -> RoundRecord:
    hits = [Hit(i, PASSAGES[i].title, PASSAGES[i].text, 1.0) for i in ids]
    return RoundRecord("", Act("search", (query,)), [hits])


def answer(text: str) -> RoundRecord:
    return RoundRecord("", Act("answer", answer=text))


@pytest.fixture(scope="module")
def make(model: str) -> Any:
    return lambda **options: EvidenceJudge(encoder=model, **options)


def judged(judge: Any, *rounds: RoundRecord, question: Question = ASKED) -> Verdict:
    (verdict,) = judge.judge([Trace(question, rounds)])
    return verdict


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Cosines instead of an encoder: of "question" and "query" to any passage."""
    cosines = {"question": 0.0, "query": 0.0}

    def query(self: Encoder, text: str) -> Any:
        near = cosines["question" if text == ASKED.text else "query"]
        return np.array([near, (1 - near**2) ** 0.5], np.float32)

    monkeypatch.setattr(Encoder, "encode_query", query)
    monkeypatch.setattr(
        Encoder, "encode_passages", lambda self, texts: np.array([[1.0, 0.0]] * len(texts), np.float32)
    )
    return cosines


@pytest.mark.parametrize(
    ("rounds", "useful"),
    [
        ((search("Anna Reed", "lake", "reed"),), 1.0),  # named in the question, without its brackets
        ((search("Anna Reed", "reed"), search("Anna", "reed")), 0.0),  # not new
        ((search("Anna Reed", "reed"), search("Corvin Mills", "mills")), 1.0),  # contains the answer
        ((search("Anna Reed", "lake"),), 0.0),
        ((search("Anna Reed"),), 0.0),
        ((search("Anna Reed", "x"),), 0.0),  # a title of one letter is in any text
        (
            (search("Anna Reed", "reed"), search("Anna Reed", "more")),
            0.0,
        ),  # the next page of the same article
        ((search("Corvin Mills", "mills"), search("Tarn", "tarn")), 0.0),  # the answer is known
    ],
)
def test_names_and_answers_are_evidence_without_the_encoder(
    rounds: tuple[RoundRecord, ...], useful: float, make: Any, far: Any
) -> None:
    assert judged(make(), *rounds).utility == useful


def test_closeness_to_the_question_counts_by_degrees(make: Any, far: dict[str, float]) -> None:
    for cosine, utility in ((0.55, 0.5), (0.22, 0.2), (-0.2, 0.0), (1.0, 1 / 1.1)):
        far["question"] = cosine
        assert judged(make(), search("Anna Reed", "lake")).utility == pytest.approx(utility, abs=1e-6)
        strict = judged(make(threshold=0.3), search("Anna Reed", "lake"))
        assert strict.utility == pytest.approx(min(1.0, max(0.0, cosine / 0.6)), abs=1e-6)
    no_closer = judged(make(), search("Anna Reed", "lake"), search("Perch", "x"))
    assert no_closer.utility == 0.0


def test_closeness_to_the_query_counts_for_what_was_read_about(make: Any, far: dict[str, float]) -> None:
    far["query"] = 0.9
    judge = make(answers=False)
    assert judged(judge, search("Corvin Mills", "mills")).utility == 0.0
    linked = judged(judge, search("Anna Reed", "reed"), search("Corvin Mills", "mills"))
    assert linked.utility == pytest.approx(0.9 / 1.1)
    assert "query" in linked.reason


def test_answers_need_not_be_known(make: Any, far: Any) -> None:
    rounds = (search("Tarn", "mills"),)
    assert [judged(make(answers=a), *rounds).utility for a in (True, False)] == [1.0, 0.0]
    assert judged(make(), *rounds, question=Question("q", "Is it?", ("no",), "dev")).utility == 0.0


@pytest.mark.parametrize(
    ("last", "right"),
    [
        (search("Corvin Mills town", "mills"), 1.0),
        (search("corvin mills", "mills"), 1.0),
        (search("Anna Reed", "reed"), 0.0),  # asked before
        (search("Deep Lake", "lake"), 0.0),  # a guess
        (search("zorblat quenx", "lake"), 0.0),
        (answer("Velm"), 1.0),
        (answer("is"), 0.0),
        (answer("Tarn"), 0.0),  # right, and not read
        (answer("yes"), 1.0),
        (RoundRecord("", Act("invalid", error="no_act")), 0.0),
    ],
)
def test_reasoning_needs_what_was_read(last: RoundRecord, right: float, make: Any, far: Any) -> None:
    assert judged(make(), search("Anna Reed", "reed"), last).reasoning == right


def test_gold_is_not_used(make: Any, far: Any) -> None:
    from dataclasses import replace

    gold = replace(ASKED, supporting_ids=("lake",))
    rounds = (search("Anna Reed", "lake"),)
    assert judged(make(), *rounds, question=gold) == judged(make(), *rounds)


def test_it_keeps_the_promises_of_a_judge(make: Any) -> None:
    rounds = (search("Anna Reed", "lake", "x"), search("Perch", "lake", "tarn"), answer("Tarn"))
    check_judge(make(), [Trace(ASKED, rounds[: i + 1]) for i in range(3)])


def test_a_failing_encoder_is_no_verdict(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Encoder, text: str) -> Any:
        raise RetrievalError("the encoder gave numbers that are not finite")

    monkeypatch.setattr(Encoder, "encode_query", fails)
    verdict = judged(make(), search("Anna Reed", "lake"))
    assert (verdict.status, verdict.utility) == ("error", None)
    assert "not finite" in verdict.reason


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 1}, {"threshold": "x"}, {"answers": 1}])
def test_options_are_checked(options: dict[str, Any], make: Any) -> None:
    with pytest.raises(ConfigError):
        make(**options)
    with pytest.raises(UnknownIdError, match="threshold"):
        open_judge({"name": "evidence", "treshold": 0.5})
