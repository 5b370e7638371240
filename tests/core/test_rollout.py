"""The rollout loop and evaluation: records, tokens, refills, gold only where it is needed, honest numbers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toys import RIGHT, SEARCH, WRONG, Probe, write_toy

import searchgym
from searchgym.agent import Agent, Turn, played_act
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.records.episode import Episode, StopReason
from searchgym.rollouts.collection import collect, open_envs, rollout
from searchgym.rollouts.evaluation import evaluate, summarize
from searchgym.rollouts.rescoring import rescore
from searchgym.statistics import bootstrap, resamples

TASKS = ["employer-town", "river-length", "bare", "dev-0", "dev-1", "dev-2", "dev-3", "test-0"]


class Script(Agent):
    """Searches a few times that depend on the question, then answers; every act from its own slot's memory."""

    name = "script"

    def __init__(self) -> None:
        self.rounds: dict[int, int] = {}
        self.widths: list[int] = []
        self.saw_gold = False

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.rounds[slot] = 0

    def searches(self, question: str) -> int:
        return len(question) % 4

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        self.widths.append(len(slots))
        return [
            self.one(slot, text, info) for slot, text, info in zip(slots, observations, infos, strict=True)
        ]

    def one(self, slot: int, observation: str, info: dict[str, Any]) -> str | Turn:
        self.saw_gold |= "gold" in info
        if self.rounds[slot] == 0:
            assert observation == info["question"]  # the first observation after `begin`
            self.left = getattr(self, "left", {})
            self.left[slot] = self.searches(observation)
        self.rounds[slot] += 1
        if self.left[slot]:
            self.left[slot] -= 1
            return f"<search>Anna Reed {self.rounds[slot]}</search>"
        return RIGHT


class Tokens(Script):
    """The same with tokens: slot-independent ids, so that segments can be worked out by hand."""

    name = "tokens"

    def __init__(self, fresh: bool = False, stop_at: int | None = None) -> None:
        super().__init__()
        self.fresh, self.stop_at = fresh, stop_at

    def one(self, slot: int, observation: str, info: dict[str, Any]) -> Turn:
        text = super().one(slot, observation, info)
        assert isinstance(text, str)
        r = self.rounds[slot]
        stop = StopReason.TOKEN_BUDGET if r == self.stop_at else None
        return Turn(
            text,
            prompt_ids=[100 * r, 100 * r + 1],
            token_ids=list(range(r, 2 * r + 1)),
            logprobs=[-0.5 * r] * (r + 1),
            new_segment=self.fresh,
            stop=stop,
            policy_version=7,
            temperature=0.8,
            top_p=0.9,
        )


def plain(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """Everything but the drawn ids."""
    records = [e.to_json() for e in episodes]
    for record in records:
        for name in ("episode_id", "group_id", "tree_id"):
            del record[name]
        for round_ in record["rounds"]:
            del round_["uid"]
    return records


def test_records_hold_what_happened(toy: str) -> None:
    (episode,) = rollout(
        "SearchQA-v0", lambda o, i: SEARCH if i.get("round", 0) == 0 else RIGHT, corpus=toy, top_k=1
    )
    assert (episode.agent, episode.task_id, episode.split) == ("<lambda>", "employer-town", "train")
    assert episode.tree_id == episode.episode_id == episode.group_id
    assert (episode.parent_id, episode.fork_round) == (None, None)
    assert [r.uid for r in episode.rounds] == [f"{episode.episode_id}/0", f"{episode.episode_id}/1"]
    assert [r.text for r in episode.rounds] == [SEARCH, RIGHT]
    assert [r.action.kind for r in episode.rounds] == ["search", "answer"]
    # Each round carries the state its act was chosen in.
    env = searchgym.SearchEnv(corpus=toy, top_k=1)
    _, info = env.reset(options={"task_id": "employer-town"})
    assert episode.rounds[0].anchor == info["anchor"]
    observation, *_, info = env.step(SEARCH)
    assert episode.rounds[1].anchor == info["anchor"]
    assert [r.observation for r in episode.rounds] == [observation, ""]
    assert (episode.reward, episode.outcome.em, episode.outcome.recall) == (1.0, 1.0, 0.5)
    assert (episode.terminated, episode.truncated, episode.valid_for_training) == (True, False, True)
    assert episode.gold["answers"][0] == "Tarn"
    assert episode.env["top_k"] == 1
    assert episode.env["index_hash"] == env.retriever.index_hash
    assert episode.extra == {"type": "chain", "hops": 2}
    assert Episode.from_json(episode.to_json()) == episode
    assert rescore(episode) == episode.outcome


@pytest.mark.parametrize("slots", [1, 3, 8, 20])
@pytest.mark.parametrize("make", [Script, Tokens])
def test_few_slots_give_the_same_episodes_as_many(slots: int, make: type[Script], toy: str) -> None:
    tasks = TASKS * 2
    reference = plain(collect(SearchVectorEnv(16, corpus=toy), make(), tasks))
    agent = make()
    ended: list[Episode] = []
    played = collect(SearchVectorEnv(slots, corpus=toy), agent, tasks, on_episode=ended.append)
    assert plain(played) == reference
    assert [e.task_id for e in played] == tasks
    assert sorted(e.episode_id for e in ended) == sorted(e.episode_id for e in played)
    assert max(agent.widths) == min(slots, len(tasks))
    if slots == 3:  # refilled at once: no slot idles while tasks wait
        total = sum(len(e.rounds) for e in played)
        assert len(agent.widths) <= total / 3 + 4


class OneByOne(Script):
    """Answers the slot that has waited longest; the others stay with their observation."""

    name = "script"

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[int] = []

    def act_some(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[Turn | None]:
        self.waiting = [s for s in self.waiting if s in slots] + [s for s in slots if s not in self.waiting]
        chosen = slots.index(self.waiting.pop(0))
        (turn,) = super().act_some([slots[chosen]], [observations[chosen]], [infos[chosen]])
        return [turn if i == chosen else None for i in range(len(slots))]


def test_slots_that_are_not_answered_wait_and_change_nothing(toy: str) -> None:
    reference = plain(collect(SearchVectorEnv(16, corpus=toy), Script(), TASKS * 2))
    assert plain(collect(SearchVectorEnv(5, corpus=toy), OneByOne(), TASKS * 2)) == reference


def test_an_agent_that_answers_nothing_is_an_error(toy: str) -> None:
    class Silent(Script):
        def act_some(self, slots: Sequence[int], *_: Any) -> Sequence[None]:
            return [None] * len(slots)

    with pytest.raises(ConfigError, match="answered none of 3 observations"):
        collect(SearchVectorEnv(3, corpus=toy), Silent(), TASKS)


def test_segments_of_one_context(toy: str) -> None:
    agent = Tokens()
    agent.searches = lambda question: 2  # type: ignore[method-assign]
    (episode,) = collect(SearchVectorEnv(1, corpus=toy), agent, ["bare"])
    (segment,) = episode.segments
    assert segment.tokens == [100, 101, 1, 2, 200, 201, 2, 3, 4, 300, 301, 3, 4, 5, 6]
    assert segment.mask == [0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1]
    assert segment.rounds == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert segment.logprobs == [0, 0, -0.5, -0.5, 0, 0, -1, -1, -1, 0, 0, -1.5, -1.5, -1.5, -1.5]
    assert {(r.policy_version, r.temperature, r.top_p) for r in episode.rounds} == {(7, 0.8, 0.9)}


def test_segments_of_a_context_rebuilt_each_round(toy: str) -> None:
    agent = Tokens(fresh=True)
    agent.searches = lambda question: 1  # type: ignore[method-assign]
    (episode,) = collect(SearchVectorEnv(1, corpus=toy), agent, ["bare"])
    assert [s.tokens for s in episode.segments] == [[100, 101, 1, 2], [200, 201, 2, 3, 4]]
    assert [s.rounds for s in episode.segments] == [[0] * 4, [1] * 5]
    assert [sum(s.mask) for s in episode.segments] == [2, 3]


def test_an_agent_that_stops_keeps_its_tokens(toy: str) -> None:
    agent = Tokens(stop_at=2)
    agent.searches = lambda question: 5 if "Ostby" in question else 0  # type: ignore[method-assign]
    stopped, answered = collect(SearchVectorEnv(2, corpus=toy), agent, ["bare", "dev-0"])
    assert stopped.outcome.stop_reason is StopReason.TOKEN_BUDGET
    assert (stopped.terminated, stopped.truncated, stopped.valid_for_training) == (False, True, True)
    assert stopped.outcome.rounds == 1  # the second act was never played ...
    assert [r.action.kind for r in stopped.rounds] == ["search", "none"]
    assert stopped.segments[0].tokens == [
        100,
        101,
        1,
        2,
        200,
        201,
        2,
        3,
        4,
    ]  # ... but its tokens were sampled
    assert answered.outcome.stop_reason is StopReason.ANSWERED
    assert rescore(stopped) == stopped.outcome
    broken = Script()
    broken.one = lambda *turn: Turn("", stop=StopReason.AGENT_FAILED)  # type: ignore[method-assign]
    assert not collect(SearchVectorEnv(2, corpus=toy), broken, ["bare"])[0].valid_for_training


def test_tokens_and_log_probabilities_must_match(toy: str) -> None:
    agent = Script()
    agent.one = lambda *turn: Turn(RIGHT, [1], [2, 3], [-1.0])  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="1 log-probabilities for 2 sampled tokens"):
        collect(SearchVectorEnv(1, corpus=toy), agent, ["bare"])


def test_groups_and_reproducible_ids(toy: str) -> None:
    def ids(seed: int) -> list[tuple[str, str]]:
        played = collect(
            SearchVectorEnv(2, corpus=toy),
            Script(),
            ["bare", "bare", "dev-0", "bare"],
            group_ids=["a", "a", "b", "c"],
            ids=random.Random(seed),
        )
        return [(e.group_id, e.episode_id) for e in played]

    assert ids(1) == ids(1)
    assert [g for g, _ in ids(1)] == ["a", "a", "b", "c"]  # one question twice is two groups if so collected
    assert not {i for _, i in ids(1)} & {i for _, i in ids(2)}
    with pytest.raises(ConfigError, match="1 group ids for 2 tasks"):
        collect(SearchVectorEnv(1, corpus=toy), Script(), ["bare", "bare"], group_ids=["a"])


def test_a_wrong_task_stops_before_anything_is_played(toy: str) -> None:
    agent = Script()
    with pytest.raises(UnknownIdError, match="Did you mean 'bare'"):
        collect(SearchVectorEnv(1, corpus=toy), agent, ["bare", "bear"])
    assert agent.widths == []


def test_an_environment_left_in_the_middle_is_used_again(toy: str) -> None:
    envs = SearchVectorEnv(3, corpus=toy)

    def breaks(observation: str, info: dict[str, Any]) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollouts_on(envs, breaks)
    assert plain(collect(envs, Script(), TASKS)) == plain(
        collect(SearchVectorEnv(3, corpus=toy), Script(), TASKS)
    )


def rollouts_on(envs: SearchVectorEnv, function: Any) -> list[Episode]:
    return collect(envs, searchgym.agent.FunctionAgent(function), TASKS)


class Nosy(Script):
    name = "nosy"
    needs_gold = True


def test_gold_is_revealed_only_to_the_controls_that_need_it(toy: str) -> None:
    for agent, expected in ((Script(), False), (Nosy(), True)):
        rollout("SearchQA-v0", agent, 2, corpus=toy)
        assert agent.saw_gold is expected
        env = gym.make("SearchQA-v0", corpus=toy)
        rollout(env, agent, 2)
        assert agent.saw_gold is expected
        assert env.unwrapped.config.reveal_gold is False


def test_what_can_stand_for_an_environment(toy: str) -> None:
    reference = plain(rollout("SearchQA-v0", Script(), 3, corpus=toy))
    env = gym.make("SearchQA-v0", corpus=toy)
    for same in (env, env.unwrapped, SearchVectorEnv(2, corpus=toy)):
        assert plain(rollout(same, Script(), 3)) == reference
    with pytest.raises(ConfigError, match="wrapped in NormalizeReward"):
        rollout(gym.wrappers.NormalizeReward(env), Script())
    with pytest.raises(ConfigError, match="wrapped in TimeLimit"):
        rollout(gym.make("SearchQA-v0", corpus=toy, max_episode_steps=3), Script())
    with pytest.raises(ConfigError, match="not a search environment"):
        rollout(gym.make("CartPole-v1").unwrapped, Script())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pass its id instead"):
        rollout(env, Script(), top_k=2)
    with pytest.raises(UnknownIdError, match="Did you mean 'SearchQA-v0'"):
        rollout("SearchQA-v1", Script())
    with pytest.raises(ConfigError, match="num_envs is 0"):
        open_envs(env, Script(), 0)


def test_what_can_stand_for_an_agent(toy: str) -> None:
    episodes = rollout("SearchQA-v0", {"name": "random", "seed": 3}, 4, corpus=toy)
    assert {e.agent for e in episodes} == {"random"}
    assert plain(rollout("SearchQA-v0", {"name": "random", "seed": 3}, 4, corpus=toy)) == plain(episodes)
    for agent, message in (
        ("randm", "Did you mean 'random'"),
        ({"name": "random", "sed": 1}, "Did you mean 'seed'"),
        ({"seed": 1}, "give a name"),
        (3, "agent is 3"),
    ):
        with pytest.raises(ConfigError) as caught:
            rollout("SearchQA-v0", agent, corpus=toy)  # type: ignore[arg-type]
        assert message in str(caught.value)
    short = Script()
    short.act = lambda *a: [RIGHT]  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="gave 1 acts for 2 observations"):
        rollout("SearchQA-v0", short, 2, corpus=toy)
    with pytest.raises(ConfigError, match="not a string"):
        rollout("SearchQA-v0", lambda o, i: None, corpus=toy)  # type: ignore[arg-type, return-value]


def test_which_questions_are_played(toy: str) -> None:
    def ids(**arguments: Any) -> list[str]:
        return [e.task_id for e in rollout("SearchQA-v0", lambda o, i: RIGHT, **{"corpus": toy, **arguments})]

    assert ids(episodes=2) == ["employer-town", "river-length"]
    assert ids(episodes=5) == ["employer-town", "river-length", "bare", "employer-town", "river-length"]
    assert ids(episodes=None, split="dev") == [f"dev-{i}" for i in range(4)]
    assert ids(episodes=None, hops=[3]) == ["river-length"]
    assert ids(task_ids=["test-0", "bare"]) == ["test-0", "bare"]
    assert ids(task_ids=[]) == []
    drawn = ids(episodes=3, seed=5)
    assert drawn == ids(episodes=3, seed=5)
    assert sorted(drawn) == sorted(ids(episodes=3))
    for bad in ({"episodes": 0}, {"episodes": "3"}, {"seed": -1}, {"split": "nope"}):
        with pytest.raises(ConfigError):
            ids(**bad)


# -- evaluation --------------------------------------------------------------------------------------------------


class Alternating(Script):
    """Right in its first sample of each question and in every sample of dev-0; searches once in dev-1."""

    name = "alternating"

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.now: dict[int, str] = {}

    def one(self, slot: int, observation: str, info: dict[str, Any]) -> str:
        if "task_id" in info:
            self.now[slot] = task = info["task_id"]
            self.seen[task] = self.seen.get(task, 0) + 1
            if task == "dev-1":
                return SEARCH
        task = self.now[slot]
        return RIGHT if task == "dev-0" or self.seen[task] == 1 else WRONG


def test_numbers_worked_out_by_hand(toy: str) -> None:
    result = evaluate("SearchQA-v0", Alternating(), None, samples=2, num_envs=1, corpus=toy, top_k=1)
    # em per question over two samples: dev-0 1, 1; dev-1 1, 0; dev-2 1, 0; dev-3 1, 0
    assert (result.questions, result.samples) == (4, 2)
    assert result.metrics["em"].value == pytest.approx((1 + 0.5 * 3) / 4)
    assert result.metrics["pass@2"].value == 1.0
    assert result.metrics["searches"].value == pytest.approx(0.25)
    assert result.metrics["rounds"].value == pytest.approx(1.25)
    assert result.metrics["recall"].value == pytest.approx(0.125)
    assert result.by_group["chain/2"].value == result.metrics["em"].value
    assert result.stop_reasons == {"answered": 8}
    assert (result.failed, result.assisted) == (0, 0.0)
    assert result.metrics["em"].low >= 0.5  # questions are resampled, not episodes
    assert result.metrics["em"].high <= 1.0
    assert "episodes" not in result.to_json()
    assert "4 questions x 2" in str(result)


def test_the_act_that_was_played_is_that_of_the_info(toy: str) -> None:
    class Careless(Script):
        """Writes what is no act, too; compares what it is told of its acts."""

        def act(
            self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
        ) -> Sequence[str | Turn]:
            for index, slot in enumerate(slots):
                if self.rounds[slot]:
                    shown = infos[index]["action"]
                    assert played_act(infos, index).to_json() == shown
                    assert played_act(list(infos), index).to_json() == shown
                    self.kinds.add(shown["kind"])
            return super().act(slots, observations, infos)

        def one(self, slot: int, observation: str, info: dict[str, Any]) -> str | Turn:
            written = super().one(slot, observation, info)
            return "no act" if self.rounds[slot] == 1 else written

    agent = Careless()
    agent.kinds = set()
    rollout("SearchQA-v0", agent, episodes=6, corpus=toy, num_envs=2)
    assert agent.kinds == {"search", "invalid"}


def test_kept_resamples_are_those_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    (kept,) = resamples(7, 3)
    assert next(resamples(7, 3)) is kept
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 0
    monkeypatch.setattr("searchgym.statistics._BLOCK", 7 * 300)
    blocks = list(resamples(7, 3))
    assert len(blocks) == 7
    np.testing.assert_array_equal(np.concatenate(blocks), kept)


def test_bootstrap_resamples_questions() -> None:
    assert bootstrap([0.5, 0.5, 0.5]) == dataclasses.replace(bootstrap([0.5]), value=0.5, low=0.5, high=0.5)
    values = [0.0] * 60 + [1.0] * 40
    found = bootstrap(values)
    assert found == bootstrap(values)
    assert found.value == pytest.approx(0.4)
    half_width = 1.96 * np.sqrt(0.4 * 0.6 / 100)  # what theory says
    assert found.low == pytest.approx(0.4 - half_width, abs=0.015)
    assert found.high == pytest.approx(0.4 + half_width, abs=0.015)


def test_lost_episodes_are_counted_and_not_scored(toy: str) -> None:
    corpus = searchgym.open_corpus(toy)
    probe = Probe(searchgym.open_retriever("bm25", corpus), fails=lambda q: True)
    env = searchgym.SearchEnv(corpus=corpus, retriever=probe, split="dev")
    result = evaluate(env, Alternating(), None, samples=2, split=None, num_envs=4)
    assert result.failed == 2  # both samples of dev-1 searched
    assert result.questions == 3
    assert result.metrics["em"].value == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert result.stop_reasons == {"answered": 6, "retrieval_failed": 2}
    assert "2 episodes lost" in str(result)
    assert len(result.episodes) == 8
    with pytest.raises(ConfigError, match=r"none of 2 episodes can be scored: \{'retrieval_failed': 2\}"):
        summarize([e for e in result.episodes if not e.valid_for_training])
    with pytest.raises(ConfigError, match="none of 0 episodes"):
        summarize([])


def test_assisted_episodes_are_reported(toy: str) -> None:
    def ask_once(observation: str, info: dict[str, Any]) -> str:
        return "<feedback>Tarn</feedback>" if "task_id" in info and info["task_id"] == "dev-0" else RIGHT

    result = evaluate("SearchQA-v0", ask_once, None, corpus=toy, feedback={"level": "kind"})
    assert result.assisted == 0.25


def test_evaluate_never_repeats_a_question(toy: str) -> None:
    assert evaluate("SearchQA-v0", "gold", 100, corpus=toy).questions == 4
    assert evaluate("SearchQA-v0", "gold", 2, corpus=toy, seed=1).questions == 2
    for bad in ({"episodes": 0}, {"samples": 0}, {"samples": 1.5}, {"episodes": "5"}):
        with pytest.raises(ConfigError):
            evaluate("SearchQA-v0", "gold", corpus=toy, **bad)


def test_gold_scores_one_on_real_questions(hotpotqa: str) -> None:
    (split, *_) = searchgym.open_corpus(hotpotqa).splits
    result = evaluate("SearchQA-v0", "gold", None, split=split, corpus=hotpotqa)
    assert result.metrics["em"].value == 1.0
    assert result.questions >= 100


def test_a_corpus_without_train_questions_can_be_evaluated(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "corpus")
    questions = Path(folder) / "questions.jsonl"
    kept = [line for line in questions.read_text("utf-8").splitlines() if '"split": "test"' in line]
    questions.write_text("\n".join(kept) + "\n", "utf-8")
    assert evaluate("SearchQA-v0", "gold", None, split="test", corpus=folder).metrics["em"].value == 1.0
    assert len(rollout("SearchQA-v0", "gold", None, split="test", corpus=folder)) == 1
    with pytest.raises(UnknownIdError, match="unknown split 'dev'"):
        evaluate("SearchQA-v0", "gold", corpus=folder)


def test_the_oracle_solves_the_toy_corpus(toy: str) -> None:
    result = evaluate("SearchQA-v0", "oracle", None, split="dev", corpus=toy, top_k=2)
    assert result.metrics["em"].value == 1.0
    assert result.metrics["recall"].value == 1.0


def test_recall_is_a_mean_over_questions_with_known_gold_passages(toy: str) -> None:
    """A question without gold passages has no recall; counting it as 0 would be a wrong score."""
    env = searchgym.SearchEnv(corpus=searchgym.open_corpus(toy), split="dev")
    result = evaluate(env, Alternating(), None, split=None)
    assert 0.0 < result.metrics["recall"].value < 1.0
    half = [
        dataclasses.replace(e, outcome=dataclasses.replace(e.outcome, recall=1.0)) for e in result.episodes
    ]
    for episode in half[:2]:
        episode.gold = {**episode.gold, "supporting_ids": []}
        episode.outcome.recall = 0.0
    assert summarize(half).metrics["recall"].value == 1.0
    for episode in half:
        episode.gold = {**episode.gold, "supporting_ids": []}
    bare = summarize(half)
    assert "recall" not in bare.metrics
    assert "recall –" in str(bare)
    assert ("recall", None) in bare.rows
    assert [name for name, _ in bare.rows][:4] == ["em", "f1", "sub_em", "recall"]


def test_recall_is_left_out_where_hits_are_no_passages_of_the_corpus(toy: str) -> None:
    corpus = searchgym.open_corpus(toy)
    probe = Probe(searchgym.open_retriever("bm25", corpus))
    probe.ids_match = False  # type: ignore[attr-defined]
    result = evaluate(
        searchgym.SearchEnv(corpus=corpus, retriever=probe, split="dev"), Alternating(), 2, split=None
    )
    assert "recall" not in result.metrics
