"""The judge `fidelity`: what an act claims, and whether a passage contains it."""

import pytest

from searchgym.dialects import Act
from searchgym.judges import Trace, open_judge
from searchgym.records.episode import RoundRecord
from searchgym.records.question import Question
from searchgym.records.retriever import Hit

QUESTION = Question("q", "Where does Ada Brook live?", ("Velm",), "train")
ADA = Hit("p1", "Ada Brook", "Ada Brook is a painter. She lives in Velm.", 1.0)
BO = Hit("p2", "Bo Ferris", "Bo Ferris is a sailor.", 1.0)


def verdict(*acts):
    """Of the last round; an act is a query with its hits, or an answer."""
    rounds = [
        RoundRecord("", Act("answer", answer=act)) if isinstance(act, str)
        else RoundRecord("", Act("search", (act[0],)), results=[list(act[1])])
        for act in acts
    ]  # fmt: skip
    (found,) = open_judge("fidelity").judge([Trace(QUESTION, tuple(rounds))])
    return found.status, found.utility, found.reasoning


@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        ([("Ada Brook", [ADA])], ("ok", 1.0, 1.0)),
        ([("Ada Brook", [BO])], ("ok", 0.0, 1.0)),
        ([("Bo Ferris", [BO])], ("ok", 1.0, 0.0)),  # nobody has named him
        ([("Ada Brook", [ADA, BO]), ("Bo Ferris", [BO])], ("ok", 1.0, 1.0)),
        ([("Ada Brook and Bo Ferris", [ADA, BO])], ("ok", 0.0, 0.0)),  # no single passage has both
        ([("Ada Brook", [ADA]), "Velm"], ("ok", 0.0, 1.0)),
        ([("Ada Brook", [BO]), "Velm"], ("ok", 0.0, 0.0)),
        ([("Ada Brook", [ADA]), "painter"], ("ok", 0.0, 0.0)),  # in the text, and no name
        ([("Ada Brook", [ADA]), "yes"], ("error", None, None)),
        ([("what is it", [ADA])], ("error", None, None)),
    ],
)
def test_verdicts(acts, expected):
    assert verdict(*acts) == expected


def test_gold_data_does_not_matter():
    gold = Question("q", QUESTION.text, ("painter",), "train", supporting_ids=("p2",))
    rounds = (
        RoundRecord("", Act("search", ("Ada Brook",)), results=[[ADA]]),
        RoundRecord("", Act("answer", answer="painter")),
    )
    (found,) = open_judge("fidelity").judge([Trace(gold, rounds)])
    assert found.reasoning == 0.0
