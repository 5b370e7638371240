"""Judges in the environment: when they are called, with what, and where the verdicts end up."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toys import RIGHT, SEARCH, WRONG, Probe, play

import searchgym
from searchgym import judge_episodes
from searchgym.env.env import SearchEnv
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, PluginError, SnapshotError, UnknownIdError
from searchgym.judges.oracle import OracleJudge
from searchgym.judges.protocol import Trace, Verdict, traces_of

ASK = "<feedback>Tarn</feedback>"
OFF = {"status": "off", "utility": None, "reasoning": None, "reason": ""}
PENDING = {**OFF, "status": "pending"}


def shown(record: searchgym.Round) -> tuple[Any, ...]:
    """What a judge reads of a round."""
    return record.text, record.action, record.results, record.observation


class Recorder(OracleJudge):
    """The oracle, remembering what it was asked; each verdict costs a call and two cents."""

    def __init__(self) -> None:
        self.batches: list[list[Trace]] = []
        self.checked = 0

    def check(self) -> None:
        self.checked += 1

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        self.batches.append(list(traces))
        cost = {"calls": 1, "usd": 0.02}
        return [
            Verdict.ok(v.utility or 0.0, v.reasoning or 0.0, v.reason, cost) for v in super().judge(traces)
        ]


def test_every_step_is_judged_on_the_trace_so_far(toy: str) -> None:
    judge = Recorder()
    env = SearchEnv(corpus=toy, top_k=2, judge=judge)
    results = play(env, SEARCH, "no act", RIGHT)[1:]
    assert [len(batch) for batch in judge.batches] == [1, 1, 1]
    traces = [batch[0] for batch in judge.batches]
    assert [len(t.rounds) for t in traces] == [1, 2, 3]
    assert traces[2].rounds[0].text == SEARCH
    assert traces[2].rounds[0].observation == results[0][0]
    assert traces[2].rounds[0].to_info()["hits"] == results[0][4]["hits"]
    assert [r[4]["judge"] for r in results] == [v.to_info() for v in OracleJudge().judge(traces)]
    stats = env.stats
    assert (stats["judgements"], stats["judge_calls"], stats["judge_errors"]) == (3, 3, 0)
    assert stats["judge_usd"] == pytest.approx(0.06)
    assert stats["judge_seconds"] > 0


def test_changing_an_info_does_not_change_what_the_judge_sees(toy: str) -> None:
    judge = Recorder()
    env = SearchEnv(corpus=toy, top_k=2, judge=judge)
    env.reset(options={"task_id": "employer-town"})
    info = env.step(SEARCH)[4]
    info["hits"][0]["text"] = "changed"
    info["action"]["queries"] = ["changed"]
    env.step(SEARCH)
    assert judge.batches[1][0].rounds[0] == judge.batches[0][0].rounds[0]
    assert "changed" not in str(judge.batches[1][0])


def test_feedback_failures_and_ends_from_outside_are_not_judged(toy: str) -> None:
    judge = Recorder()
    env = SearchEnv(corpus=toy, judge=judge, feedback={"level": "kind", "calls": 1})
    asked = play(env, SEARCH, ASK)[2]
    assert asked[4]["judge"] == OFF
    assert len(judge.batches) == 1
    assert env.truncate(searchgym.StopReason.ABORTED)[4]["judge"] == OFF
    play(env, ASK, SEARCH)
    assert [r.action.kind for r in judge.batches[-1][0].rounds] == ["feedback", "search"]
    inner = searchgym.open_retriever("bm25", searchgym.open_corpus(toy))
    down = SearchEnv(corpus=toy, judge=judge, retriever=Probe(inner, down=True))
    count = len(judge.batches)
    assert play(down, SEARCH)[1][4]["judge"] == OFF
    assert len(judge.batches) == count


def test_the_vector_environment_judges_one_batch_and_agrees_with_single_ones(toy: str) -> None:
    judge = Recorder()
    envs = SearchVectorEnv(3, corpus=toy, judge=judge, top_k=2)
    envs.reset(options={"task_ids": ["employer-town", "river-length", "employer-town"]})
    envs.step([SEARCH, SEARCH, RIGHT])
    result = envs.step(["<search>Velm</search>", "no act", ""])
    assert [len(batch) for batch in judge.batches] == [3, 2]
    single = SearchEnv(corpus=toy, judge="oracle", top_k=2)
    for slot, task, message in ((0, "employer-town", "<search>Velm</search>"), (1, "river-length", "no act")):
        single.reset(options={"task_id": task})
        single.step(SEARCH)
        assert result[4].rows()[slot]["judge"] == single.step(message)[4]["judge"]
    assert envs.stats["judgements"] == 5


def test_a_snapshot_carries_the_trace(toy: str) -> None:
    arguments: dict[str, Any] = {
        "corpus": toy, "judge": "oracle", "top_k": 2, "feedback": {"level": "kind", "calls": 1},
        "reward": {"em": 1.0, "new_recall": 1.0, "invalid": -1.0, "format": 1.0},
    }  # fmt: skip
    one, two = SearchEnv(**arguments), SearchEnv(**arguments)
    play(one, SEARCH, "no act", ASK)
    state = json.loads(json.dumps(one.snapshot()))
    two.reset()
    two.restore(state)
    assert [shown(r) for r in two.episode.rounds] == [shown(r) for r in one.episode.rounds]
    assert two.snapshot() == one.snapshot()
    for message in (SEARCH, "<search>Corvin Mills</search>", RIGHT):
        assert one.step(message) == two.step(message)
    plain = SearchEnv(corpus=toy, top_k=2)
    plain.reset()
    plain.restore(state)  # needs no trace
    forgetful = play(plain, SEARCH) and plain.snapshot()
    with pytest.raises(SnapshotError, match="same judge and reward"):
        two.restore(forgetful)


def test_the_arguments_survive_json_and_pickling(toy: str) -> None:
    env = gym.make("SearchQA-v0", corpus=toy, judge={"name": "rules"}, judge_when="step")
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json()) if env.spec else None
    assert gym.make(spec).unwrapped.config.judge.name == "rules"  # type: ignore[arg-type,attr-defined]
    again = pickle.loads(pickle.dumps(env.unwrapped))
    assert again.config.judge is env.unwrapped.config.judge  # type: ignore[attr-defined]  # shared in the process


# -- after the episodes ----------------------------------------------------------------------------------


class Script(searchgym.Agent):
    """Searches once, then gives the answer of its slot."""

    name = "script"

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.rounds: dict[int, int] = {}

    def begin(self, slots: Sequence[int]) -> None:
        self.rounds |= dict.fromkeys(slots, 0)

    def act(self, slots: Sequence[int], observations: Any, infos: Any) -> list[str]:
        first = [self.rounds[slot] == 0 for slot in slots]
        self.rounds |= {slot: self.rounds[slot] + 1 for slot in slots}
        return [SEARCH if f else self.answers[slot] for f, slot in zip(first, slots, strict=True)]


def played(toy: str, when: str, *answers: str, **arguments: Any) -> tuple[list[searchgym.Episode], Recorder]:
    """Two groups of two episodes of one question; the answers are given in order."""
    judge = Recorder()
    envs = SearchVectorEnv(4, corpus=toy, top_k=2, judge=judge, judge_when=when, **arguments)
    episodes = searchgym.collect(
        envs, Script(*answers), ["employer-town"] * 4, group_ids=["g", "g", "h", "h"]
    )
    return episodes, judge


@pytest.mark.parametrize(
    ("when", "judged"),
    [
        ("end", [True, True, True, True]),
        ("success", [True, False, True, True]),
        ("unequal", [True, True, False, False]),
        ("unequal-success", [True, False, False, False]),
    ],
)
def test_deferred_verdicts_are_in_the_episodes_that_the_rule_names(
    when: str, judged: list[bool], toy: str, tmp_path: Any
) -> None:
    episodes, judge = played(toy, when, RIGHT, WRONG, RIGHT, RIGHT)
    assert [len(batch) for batch in judge.batches] == [2 * sum(judged)]
    expected = iter(
        OracleJudge().judge([t for e, j in zip(episodes, judged, strict=True) if j for t in traces_of(e)])
    )
    for episode, there in zip(episodes, judged, strict=True):
        for round_ in episode.rounds:
            if there:
                assert round_.judge == next(expected).without_cost()
            else:
                assert round_.judge.status == "off"
                assert round_.judge.reason.startswith("not judged: ")
    searchgym.save_episodes(tmp_path / "e.jsonl", episodes)
    assert list(searchgym.load_episodes(tmp_path / "e.jsonl")) == episodes
    assert episodes[0].env["judge_when"] == when


def test_deferred_verdicts_are_pending_until_then(toy: str) -> None:
    judge = Recorder()
    env = SearchEnv(corpus=toy, judge=judge, judge_when="end")
    results = play(env, SEARCH, RIGHT)[1:]
    assert [r[4]["judge"] for r in results] == [PENDING, PENDING]
    assert not judge.batches
    seen: list[str] = []
    envs = SearchVectorEnv(1, corpus=toy, judge=judge, judge_when="end")
    episodes = searchgym.collect(
        envs, Script(RIGHT), ["employer-town"],
        on_episode=lambda e: seen.append(e.rounds[0].judge.status),
    )  # fmt: skip
    assert seen == ["pending"]
    assert [r.judge.status for r in episodes[0].rounds] == ["ok", "ok"]
    assert envs.stats["judgements"] == 2


def test_episodes_lost_to_infrastructure_are_not_judged(toy: str) -> None:
    inner = searchgym.open_retriever("bm25", searchgym.open_corpus(toy))
    episodes, judge = played(toy, "end", RIGHT, RIGHT, RIGHT, RIGHT, retriever=Probe(inner, down=True))
    assert not judge.batches
    assert {r.judge.status for e in episodes for r in e.rounds} == {"off"}


def test_an_error_stays_an_error_without_a_number(toy: str) -> None:
    class Down(Recorder):
        def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
            return [Verdict.error("no answer", {"calls": 3}) for _ in traces]

    envs = SearchVectorEnv(2, corpus=toy, judge=Down(), judge_when="end")
    episodes = searchgym.collect(envs, Script(RIGHT, WRONG), ["employer-town"] * 2)
    assert all(e.valid_for_training for e in episodes)
    assert episodes[0].rounds[0].judge == Verdict.error("no answer")
    assert (envs.stats["judge_errors"], envs.stats["judge_calls"]) == (4, 12)


def test_judge_episodes_by_hand(toy: str) -> None:
    episodes, judge = played(toy, "end", RIGHT, WRONG, RIGHT, RIGHT)
    with pytest.raises(UnknownIdError, match="judge_when"):
        judge_episodes(judge, episodes, "step")
    before = [e.to_json() for e in episodes]
    judge_episodes(judge, episodes)  # nothing is pending any more
    assert [e.to_json() for e in episodes] == before
    assert len(judge.batches) == 1


def test_an_evaluation_says_what_the_judge_said_and_took(toy: str) -> None:
    judge = Recorder()
    result = searchgym.evaluate(
        "SearchQA-v0", Script(RIGHT, WRONG), 1, samples=2, split="train", num_envs=2, corpus=toy, judge=judge,
        judge_when="unequal", types=["chain"],
    )  # fmt: skip
    assert len({e.group_id for e in result.episodes}) == 1  # the samples of a question are a group
    assert result.judged["judgements"] == result.judged["judge_calls"] == 4
    assert result.judged["utility"] == 0.5  # each searched with success and then answered
    assert result.judged["contributing"] == result.judged["utility"] * 1.0
    assert result.to_json()["judged"] == result.judged
    assert searchgym.evaluate("SearchQA-v0", Script(RIGHT), 1, split="train", corpus=toy).judged == {}


# -- what is refused -------------------------------------------------------------------------------------


def test_a_judge_that_cannot_work_is_refused_before_any_episode(toy: str) -> None:
    class NoKey(Recorder):
        def check(self) -> None:
            raise ConfigError("no key: set THE_KEY")

    for make in (SearchEnv, lambda **a: SearchVectorEnv(2, **a)):
        with pytest.raises(ConfigError, match="set THE_KEY"):
            make(corpus=toy, judge=NoKey())
    spent = Recorder()
    envs = SearchVectorEnv(1, corpus=toy, judge=spent)
    spent.check = NoKey.check.__get__(spent)  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="set THE_KEY"):
        searchgym.collect(envs, Script(RIGHT), ["employer-town"])
    assert envs.stats["episodes"] == 0


def test_a_judge_with_the_wrong_number_of_verdicts_is_named(toy: str) -> None:
    class Short(Recorder):
        def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
            return []

    with pytest.raises(PluginError, match=r"'oracle' gave 0 results .* for 1"):
        play(SearchEnv(corpus=toy, judge=Short()), SEARCH)


@pytest.mark.parametrize("when", ["Step", "", None, "ends"])
def test_when_is_one_of_five(when: Any, toy: str) -> None:
    with pytest.raises(UnknownIdError, match="judge_when"):
        SearchEnv(corpus=toy, judge="oracle", judge_when=when)


def test_without_a_judge_nothing_changes(toy: str) -> None:
    plain, judged = SearchEnv(corpus=toy, top_k=2), SearchEnv(corpus=toy, top_k=2, judge="oracle")
    for a, b in zip(play(plain, SEARCH, WRONG), play(judged, SEARCH, WRONG), strict=True):
        one, other = dict(a[-1]), dict(b[-1])
        assert one.pop("judge", OFF) == OFF
        other.pop("judge", None)
        assert (a[:-1], one) == (b[:-1], other)
    assert np.isclose(plain.stats["judgements"], 0)
    assert not plain.episode.rounds
    assert judged.system_prompt == plain.system_prompt
