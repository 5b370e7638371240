"""Branches: recorded episodes are continued from any round, in any process, as the environment itself would."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import MESSAGES, QUICK, RIGHT, SEARCH, WRONG

from searchgym.agent import Agent, FunctionAgent, Turn
from searchgym.dialects import Act, get_dialect
from searchgym.env.snapshots import snapshot_after
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, SnapshotError, UnknownIdError
from searchgym.judges.protocol import Trace
from searchgym.records.episode import Episode, StopReason, load_episodes, save_episodes, segments_before
from searchgym.records.verdict import Verdict
from searchgym.rollouts import Start, collect, rescore

TASK = "employer-town"
TOOLS = get_dialect("tools")
ACTS = st.one_of(
    st.sampled_from(["Anna Reed born", "Corvin Mills", "zzz", "Ünïcødé 北京"]).map(
        lambda q: Act("search", (q,))
    ),
    st.just(Act("search", ("Anna Reed born", "Corvin Mills", "Velm town"))),
    st.sampled_from(["Tarn", "Velm"]).map(lambda a: Act("answer", answer=a)),
    st.sampled_from(["Tarn", "x"]).map(lambda d: Act("feedback", draft=d)),
)
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"dialect": "tools", "max_queries": 3},
    {"max_queries": 3, "reward": {"em": 1.0, "new_recall": 0.2, "search_key": 0.3, "stepsearch": 0.1}},
    {"reward": {"em": 1, "utility": 0.5}, "judge": "flaky"},
    {"dialect": "tools", "max_queries": 3, "reward": "mt_ppo", "judge": "flaky"},
    {"judge": "oracle", "judge_when": "end"},
    {"max_observation_chars": 60, "reveal_gold": True},
]


class Flaky:
    """A judge whose verdict depends on the whole trace and fails for some of them."""

    name = "flaky"

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        return [self.one(sum(len(r.text) + 3 * len(r.hits) for r in trace.rounds)) for trace in traces]

    def one(self, number: int) -> Verdict:
        return Verdict.error("busy") if number % 3 == 0 else Verdict.ok(number % 2, 1, str(number))


class Script(Agent):
    """Sends given messages, and takes a snapshot of the environment before each."""

    name = "script"

    def __init__(self, envs: SearchVectorEnv, messages: Sequence[str]) -> None:
        self.envs, self.messages = envs, list(messages)
        self.at: dict[int, int] = {}
        self.seen: list[dict[str, Any]] = []
        self.observations: list[str] = []
        self.infos: list[dict[str, Any]] = []

    def begin(self, slots: Sequence[int]) -> None:
        self.at.update((slot, 0) for slot in slots)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        self.at[slot] = fork_round

    def fork(self, source: int, targets: Sequence[int]) -> None:
        self.at.update((target, self.at[source]) for target in targets)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        turns: list[str | Turn] = []
        for slot, observation, info in zip(slots, observations, infos, strict=True):
            self.seen.append(self.envs.snapshot(slot))
            self.observations.append(observation)
            self.infos.append(info)
            index = self.at[slot]
            self.at[slot] += 1
            text = self.messages[index] if index < len(self.messages) else RIGHT
            turns.append(Turn(text, [100 + index], [index], [-0.5 - index]))
        return turns


def make(toy: str, num_envs: int = 1, **arguments: Any) -> SearchVectorEnv:
    options = {"corpus": toy, "feedback": {"level": "revealing", "calls": 2}, "max_rounds": 5, **arguments}
    if options.get("judge") == "flaky":
        options["judge"] = Flaky()
    return SearchVectorEnv(num_envs, autoreset_mode="Disabled", **options)


def play(envs: SearchVectorEnv, *messages: str, task_id: str = TASK) -> tuple[Script, Episode]:
    script = Script(envs, messages)
    (episode,) = collect(envs, script, [task_id], ids=random.Random(0))
    return script, episode


def test_a_branch_does_not_show_a_verdict_that_came_after_the_episode(toy: str) -> None:
    envs = make(toy, judge="oracle", judge_when="end")
    script, episode = play(envs, SEARCH, "nonsense", RIGHT)
    assert episode.rounds[0].judge.status == "ok"
    again = Script(envs, [SEARCH, "nonsense", RIGHT])
    collect(envs, again, starts=[Start(TASK, prefix=episode, fork_round=1)])
    assert again.infos[0] == script.infos[1]


def tokens(episode: Episode) -> list[Any]:
    return [(s.tokens, s.mask, s.logprobs, s.rounds) for s in episode.segments]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@QUICK
@given(data=st.data())
def test_the_rebuilt_snapshot_is_the_environments_own(
    toy: str, tmp_path_factory: pytest.TempPathFactory, arguments: dict[str, Any], data: st.DataObject
) -> None:
    envs = make(toy, **arguments)
    written = ACTS.map(envs.config.dialect.write)
    messages = data.draw(st.lists(st.one_of(written, written, MESSAGES), min_size=1, max_size=4))
    script, episode = play(envs, *messages)
    path = tmp_path_factory.mktemp("episodes") / "played.jsonl"
    save_episodes(path, [episode])
    (loaded,) = load_episodes(path)
    # JSON joins two lone surrogates that happen to form a pair, so such a message is shorter in a file.
    as_written = json.loads(json.dumps(messages)) == messages
    for fork_round, live in enumerate(script.seen):
        assert snapshot_after(envs.config, episode, fork_round) == live
        assert not as_written or snapshot_after(envs.config, loaded, fork_round) == live


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@QUICK
@given(data=st.data())
def test_the_same_acts_after_a_fork_give_the_same_episode(
    toy: str, arguments: dict[str, Any], data: st.DataObject
) -> None:
    envs = make(toy, **arguments)
    written = ACTS.map(envs.config.dialect.write)
    messages = data.draw(st.lists(st.one_of(written, written, MESSAGES), min_size=1, max_size=4))
    script, parent = play(envs, *messages)
    for fork_round in range(len(parent.rounds)):
        again = Script(envs, messages)
        start = Start(TASK, prefix=parent, fork_round=fork_round)
        (branch,) = collect(envs, again, starts=[start], ids=random.Random(1))
        assert again.seen == script.seen[fork_round:]
        assert again.observations == script.observations[fork_round:]
        if envs.config.judges_steps or envs.config.judge is None:
            assert again.infos == script.infos[fork_round:]
        for one, two in zip(branch.rounds, parent.rounds, strict=True):
            assert one.to_json() | {"uid": ""} == two.to_json() | {"uid": ""}
        assert tokens(branch) == tokens(parent)
        assert (branch.reward, branch.outcome) == (parent.reward, parent.outcome)
        assert branch.valid_for_training == parent.valid_for_training
        assert branch.env == parent.env


def test_a_branch_says_where_it_comes_from_and_shares_the_rounds(toy: str) -> None:
    envs = make(toy, 2)
    _, parent = play(envs, SEARCH, SEARCH, WRONG)
    before = parent.to_json()
    script = Script(envs, [SEARCH, RIGHT])
    first, second = collect(envs, script, starts=[Start(TASK, prefix=parent, fork_round=k) for k in (1, 0)])
    assert first.group_id == second.group_id == parent.group_id
    assert first.tree_id == second.tree_id == parent.tree_id == parent.episode_id
    assert first.parent_id == second.parent_id == parent.episode_id
    assert (first.fork_round, second.fork_round) == (1, 0)
    assert first.rounds[0] is parent.rounds[0]
    assert first.rounds[1].uid == f"{first.episode_id}/1"
    assert not {r.uid for r in second.rounds} & {r.uid for r in parent.rounds}
    assert first.outcome.em == 1.0
    assert parent.to_json() == before
    (grandchild,) = collect(envs, script, starts=[Start(TASK, prefix=first, fork_round=1)], group_ids=["g"])
    assert (grandchild.tree_id, grandchild.parent_id) == (parent.tree_id, first.episode_id)
    assert grandchild.group_id == "g"
    assert Episode.from_json(grandchild.to_json()) == grandchild
    for episode in (parent, first, second, grandchild):
        assert rescore(episode) == episode.outcome


def test_rewards_of_shared_rounds_count_as_in_the_parent(toy: str) -> None:
    envs = make(toy, reward={"em": 1.0, "search": -0.25})
    _, parent = play(envs, SEARCH, SEARCH, WRONG)
    (branch,) = collect(
        envs, Script(envs, ["", "", RIGHT]), starts=[Start(TASK, prefix=parent, fork_round=2)]
    )
    assert (parent.reward, branch.reward) == (-0.5, 0.5)


def test_an_episode_that_ended_from_outside_continues_where_it_ended(toy: str) -> None:
    envs = make(toy)

    class Stops(Script):
        def act(self, *given: Any) -> list[str | Turn]:
            (turn,) = super().act(*given)
            assert isinstance(turn, Turn)
            return [Turn("", stop=StopReason.TOKEN_BUDGET) if self.at[0] == 2 else turn]

    (parent,) = collect(envs, Stops(envs, [SEARCH]), [TASK])
    assert parent.outcome.stop_reason is StopReason.TOKEN_BUDGET
    (branch,) = collect(envs, Script(envs, ["", RIGHT]), starts=[Start(TASK, prefix=parent, fork_round=1)])
    assert branch.outcome.em == 1.0
    assert len(branch.rounds) == 2


def test_a_given_snapshot_is_used_and_must_belong_to_the_start(toy: str) -> None:
    envs = make(toy, 2)
    script, parent = play(envs, SEARCH, SEARCH, RIGHT)
    state = script.seen[2]
    start = Start(TASK, state, parent, 2)
    assert pickle.loads(pickle.dumps(start)) == start
    (branch,) = collect(envs, Script(envs, ["", "", RIGHT]), starts=[start])
    assert branch.outcome == parent.outcome
    with pytest.raises(SnapshotError, match="after 2 rounds"):
        collect(envs, script, starts=[Start(TASK, state, parent, 1)])
    with pytest.raises(SnapshotError, match="schema"):
        collect(envs, script, starts=[Start(TASK, {**state, "schema": 99}, parent, 2)])


def test_starts_and_branches_mix_and_come_back_in_order(toy: str) -> None:
    envs = make(toy, 2)
    _, parent = play(envs, SEARCH, SEARCH, WRONG)
    starts = [
        Start("bare"),
        Start(TASK, prefix=parent, fork_round=2),
        Start(TASK, prefix=parent, fork_round=2),
        Start(TASK),
        Start(TASK, prefix=parent, fork_round=1),
    ]
    played = collect(envs, Script(envs, ["", SEARCH, RIGHT]), starts=starts, ids=random.Random(3))
    assert [e.fork_round for e in played] == [None, 2, 2, None, 1]
    assert [e.task_id for e in played] == ["bare", TASK, TASK, TASK, TASK]
    assert [e.group_id == parent.group_id for e in played] == [False, True, True, False, True]
    assert len({e.episode_id for e in played}) == 5
    plain = collect(envs, Script(envs, [SEARCH, RIGHT]), ["bare", TASK], ids=random.Random(3))
    as_starts = collect(
        envs, Script(envs, [SEARCH, RIGHT]), starts=starts[:1] + starts[3:4], ids=random.Random(3)
    )
    assert plain == as_starts


def test_an_argument_that_the_record_does_not_know_is_not_compared(toy: str) -> None:
    """Files of an earlier version lack the arguments that came later."""
    envs = make(toy)
    script, parent = play(envs, SEARCH, WRONG)
    del parent.env["corpus_description"]
    (branch,) = collect(envs, script, starts=[Start(TASK, prefix=parent, fork_round=1)])
    assert (branch.parent_id, branch.fork_round) == (parent.episode_id, 1)


def test_what_cannot_be_continued_is_refused_before_anything_is_played(toy: str, tmp_path: Path) -> None:
    envs = make(toy)
    script, parent = play(envs, SEARCH, WRONG)

    def refused(error: type[Exception], match: str, envs: SearchVectorEnv = envs, **fields: Any) -> None:
        ended: list[Episode] = []
        branch = {"task_id": TASK, "prefix": parent, "fork_round": 1, **fields}
        with pytest.raises(error, match=match):
            collect(envs, Script(envs, []), starts=[Start(TASK), Start(**branch)], on_episode=ended.append)
        assert ended == []

    refused(SnapshotError, "fork_round is 2, and .* 2 rounds", fork_round=2)
    refused(SnapshotError, "fork_round is -1", fork_round=-1)
    refused(SnapshotError, "fork_round is True", fork_round=True)
    refused(ConfigError, "continues an episode of task 'employer-town'", task_id="bare")
    refused(ConfigError, "no prefix", prefix=None)
    refused(ConfigError, "no prefix", prefix=None, fork_round=0, snapshot=script.seen[0])
    refused(SnapshotError, r"other arguments \(max_rounds, top_k\)", make(toy, top_k=1, max_rounds=4))
    refused(SnapshotError, "index", make(toy, retriever={"name": "bm25", "k1": 0.5}))
    refused(UnknownIdError, "no-such", task_id="no-such", prefix=None, fork_round=0)
    with pytest.raises(ConfigError, match="either task_ids or starts"):
        collect(envs, script)
    with pytest.raises(ConfigError, match="either task_ids or starts"):
        collect(envs, script, [TASK], starts=[Start(TASK)])
    with pytest.raises(ConfigError, match="2 group ids for 1"):
        collect(envs, script, starts=[Start(TASK)], group_ids=["a", "b"])

    class NoResume(Agent):
        name = "mute"

    with pytest.raises(NotImplementedError, match=r"'mute' .* Agent\.resume"):
        collect(envs, NoResume(), starts=[Start(TASK, prefix=parent, fork_round=1)])


def test_a_function_is_an_agent_that_branches(toy: str) -> None:
    envs = make(toy, 4)
    agent = FunctionAgent(lambda observation, info: SEARCH if "question" in info else RIGHT)
    (parent,) = collect(envs, agent, [TASK])
    branches = collect(envs, agent, starts=[Start(TASK, prefix=parent, fork_round=1)] * 3)
    assert [e.outcome.em for e in branches] == [1.0] * 3


def test_segments_are_cut_at_the_round() -> None:
    from searchgym.records.episode import Segment

    segments = [
        Segment([1, 2, 3, 4], [0, 1, 0, 1], [0, -1, 0, -2], [0, 0, 1, 1]),
        Segment([5], [1], [-3], [2]),
    ]
    assert segments_before(segments, 0) == []
    assert segments_before(segments, 1) == [Segment([1, 2], [0, 1], [0, -1], [0, 0])]
    assert segments_before(segments, 2) == segments[:1]
    assert segments_before(segments, 3) == segments
    assert segments_before(segments, 2)[0].tokens is not segments[0].tokens
