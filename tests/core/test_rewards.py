"""Reward terms, by hand, on the toy corpus."""

from __future__ import annotations

import math
from typing import Any

import pytest
from toys import RIGHT, WRONG, play

import searchgym
from searchgym.env.env import SearchEnv
from searchgym.env.rewards import REWARD_TERMS
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.judges.protocol import Grade, Trace, Verdict

FIRST = "<search>Anna Reed born</search>"  # finds p0, gold
SECOND = "<search>Corvin Mills</search>"  # finds p2, gold
NOISE = "<search>Twin</search>"
BAD = "no act at all"


class Fixed:
    """Judges every round alike; grades an answer by its length."""

    name = "fixed"

    def judge(self, traces: Any) -> list[Verdict]:
        return [Verdict.ok(0.5, 0.8) for _ in traces]

    def grade(self, questions: Any, answers: Any) -> list[Grade]:
        return [Grade.ok(min(1.0, len(a) / 8)) for a in answers]


def paid(toy: str, reward: dict[str, float] | str, *messages: str, **arguments: Any) -> list[float]:
    """The rewards of the steps; each must be the sum of its terms."""
    env = SearchEnv(corpus=toy, top_k=1, reward=reward, **arguments)
    results = play(env, *messages)[1:]
    for result in results:
        assert result[1] == pytest.approx(sum(result[4]["reward_terms"].values()))
        assert set(result[4]["reward_terms"]) == ({reward} if isinstance(reward, str) else set(reward))
    return [result[1] for result in results]


@pytest.mark.parametrize(
    ("messages", "table"),
    [
        ((FIRST, RIGHT), 1.0),
        ((BAD, RIGHT), 0.8),
        ((FIRST, WRONG), 0.2),
        ((BAD, WRONG), 0.1),
        ((FIRST, NOISE), 0.2),  # no answer within two rounds
        ((FIRST, BAD), 0.0),
    ],
)
def test_em_and_format_give_the_published_table(toy: str, messages: tuple[str, ...], table: float) -> None:
    assert sum(paid(toy, {"em": 1.0, "format": 1.0}, *messages, max_rounds=2)) == pytest.approx(table)


def test_outcome_terms_are_paid_once_at_the_end(toy: str) -> None:
    assert paid(toy, {"em": 1, "recall": 0.5, "unanswered": -1}, FIRST, RIGHT) == [0.0, 1.25]
    assert paid(toy, {"unanswered": -1}, FIRST, FIRST, max_rounds=2) == [0.0, -1.0]


def test_mt_ppo_is_the_recipe(toy: str) -> None:
    rewards = paid(toy, "mt_ppo", FIRST, BAD, SECOND, RIGHT, judge="oracle")
    assert rewards == pytest.approx([0.3 + 0.1 - 0.1, -0.2 - 0.2, 0.3 + 0.1 - 0.3, 1.0])
    assert paid(toy, "mt_ppo", WRONG, judge="oracle") == [0.2]
    assert paid(toy, "mt_ppo", NOISE, NOISE, judge="oracle", max_rounds=2) == pytest.approx([0.0, -1.0])


def test_verdicts_and_grades_pay(toy: str) -> None:
    weights = {"utility": 1.0, "reasoning": 0.5, "contribution": 10.0, "correct": 2.0}
    assert paid(toy, weights, FIRST, RIGHT, judge=Fixed()) == pytest.approx([4.9, 4.9 + 2 * 4 / 8])


def test_ndcg_is_of_one_search(toy: str) -> None:
    env = SearchEnv(corpus=toy, top_k=3, reward="ndcg")
    result = play(env, "<search>Corvin Mills Anna Reed</search>")[1]
    gold = [i for i, hit in enumerate(result[4]["hits"]) if hit["id"] in ("p0", "p2")]
    ideal = 1 + 1 / math.log2(3)
    assert len(gold) == 2
    assert result[1] == pytest.approx(sum(1 / math.log2(i + 2) for i in gold) / ideal)
    assert paid(toy, "ndcg", FIRST, NOISE) == [1.0, 0.0]  # at k=1 one gold passage is all there can be


def test_new_recall_sums_to_recall(toy: str) -> None:
    rewards = paid(toy, "new_recall", FIRST, FIRST, NOISE, SECOND, RIGHT)
    assert rewards == [0.5, 0.0, 0.0, 0.5, 0.0]


def test_stepsearch_pays_gain_minus_redundancy(toy: str) -> None:
    first, again, second, _ = paid(toy, "stepsearch", FIRST, FIRST, SECOND, RIGHT)
    assert first > 0.5  # the passage is itself one of two gold ones
    assert again == -1.0  # nothing gained, everything seen before
    assert 0 < second < 0.5


def test_search_key_is_the_best_f1_of_each_gold_query(toy: str) -> None:
    assert paid(toy, "search_key", FIRST, SECOND, RIGHT) == [0.0, 0.0, 1.0]
    assert paid(toy, "search_key", "<search>Corvin</search>", RIGHT)[-1] == pytest.approx((2 / 3) / 2)
    assert paid(toy, "search_key", RIGHT) == [0.0]


def test_costs_of_searches_and_invalid_acts(toy: str) -> None:
    two = "<search>Velm</search>"
    assert paid(toy, {"em": 1, "search": -0.05, "invalid": -0.01}, two, BAD, RIGHT) == pytest.approx(
        [-0.05, -0.01, 1.0]
    )


def test_every_term_has_a_text_and_plays(toy: str) -> None:
    assert all(term.text for term in REWARD_TERMS.values())
    for name, term in REWARD_TERMS.items():
        judge = Fixed() if term.needs_verdict or term.needs_grade else None
        rewards = paid(toy, name, FIRST, BAD, WRONG, judge=judge)
        assert all(isinstance(r, float) and math.isfinite(r) for r in rewards)
        if term.last:
            assert rewards[:2] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("reward", "arguments", "says"),
    [
        ("utility", {}, "needs a judge"),
        ("mt_ppo", {"judge": "oracle", "judge_when": "end"}, "judge_when is 'end'"),
        ("correct", {"judge": "oracle"}, "'oracle' does not"),
        ("correct", {}, "there is no judge"),
        ({"em": float("nan")}, {}, "finite"),
        ({"utilty": 1}, {"judge": "oracle"}, "Did you mean 'utility'"),
    ],
)
def test_a_term_that_cannot_be_paid_is_refused(
    reward: Any, arguments: dict[str, Any], says: str, toy: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchEnv(corpus=toy, reward=reward, **arguments)


class Failing(Fixed):
    """Fails at chosen rounds."""

    def __init__(self, *rounds: int, grades: bool = True) -> None:
        self.rounds, self.grades = rounds, grades

    def judge(self, traces: list[Trace]) -> list[Verdict]:
        return [
            Verdict.error("down") if len(t.rounds) in self.rounds else Verdict.ok(1.0, 1.0) for t in traces
        ]

    def grade(self, questions: Any, answers: Any) -> list[Grade]:
        return [Grade.ok(1.0) if self.grades else Grade.error("down") for _ in answers]


def test_a_failed_verdict_that_pays_makes_the_episode_invalid_and_ends_nothing(toy: str) -> None:
    for reward, judge, valid in (
        ("contribution", Failing(1), False),
        ("em", Failing(1, 2), True),  # the verdict pays nothing
        ("correct", Failing(1), True),
        ("correct", Failing(grades=False), False),
    ):
        env = SearchEnv(corpus=toy, reward=reward, judge=judge)
        _, first, last = play(env, FIRST, RIGHT)
        assert (first[2], first[3], last[2], last[3]) == (False, False, True, False)
        assert last[4]["valid_for_training"] is valid
        assert last[4]["outcome"]["em"] == 1.0
        if judge.rounds == (1,):
            assert first[4]["judge"] == {
                "status": "error",
                "utility": None,
                "reasoning": None,
                "reason": "down",
            }
    env = SearchEnv(corpus=toy, reward="contribution", judge=Failing(2))
    assert not play(env, FIRST, RIGHT)[-1][4]["valid_for_training"]
    assert play(env, RIGHT)[-1][4]["valid_for_training"]  # a new episode starts clean


def test_unknown_judge_names_are_refused_before_anything_is_opened(toy: str) -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'oracle'"):
        searchgym.make_vec("SearchQA-v0", 2, corpus=toy, judge="oracel")
