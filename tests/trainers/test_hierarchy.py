"""HiPER: sub-goals, the two levels and their values, the control fields in tokens, and who can be trained with them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_world
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.dialects import get_dialect
from searchgym.dialects.hierarchy import Control, control_of
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.records.episode import Segment
from searchgym.records.retriever import Hit
from searchgym.trainers.algorithms.hierarchy.hiper import (
    HiPER,
    HiPERSettings,
    Segments,
    hierarchical_advantages,
    segments_of,
)
from searchgym.trainers.algorithms.ppo import gae
from searchgym.trainers.conformance import TabularPolicy, check_trainer, make_episode
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.training.api import train

sys.path.append(str(Path(__file__).resolve().parents[1] / "agents"))

WORLD = small_world("country-terse")
GOLD, OTHER = Hit("p1", "Ada", "Ada lives in Velm.", 1.0), Hit("p3", "Ostby", "A town.", 1.0)


def divided(*first):
    """One episode whose rounds begin a segment where `first` is 1."""
    first_R = np.array(first, dtype=bool)
    last_R = np.arange(len(first)) == len(first) - 1
    return Segments(np.cumsum(first_R) - 1, first_R, last_R)


# -- the two levels ------------------------------------------------------------------------------------------


def test_advantages_worked_by_hand():
    settings = HiPERSettings(gamma=0.9, gae_lambda=0.5, lambda_segment=0.8)
    rewards, low, high = (
        np.array([0.0, 0.2, 0.0, 1.0]),
        np.array([0.1, 0.3, 0.4, 0.6]),
        np.array([0.5, 9, 0.7, 9]),
    )
    given = hierarchical_advantages(rewards, low, high, divided(1, 0, 1, 0), settings)
    # Segment 1, rounds 0 and 1: the second one ends it and leads to V^high = 0.7.
    last = 0.2 + 0.9 * 0.7 - 0.3
    first = 0.0 + 0.9 * 0.3 - 0.1 + 0.45 * last
    end = 1.0 - 0.6
    begin = 0.0 + 0.9 * 0.6 - 0.4 + 0.45 * end
    assert_allclose(given["low"], [first, last, begin, end])
    second = 0.9 * 1.0 - 0.7
    whole = 0.9 * 0.2 + 0.81 * 0.7 - 0.5 + 0.81 * 0.8 * second
    assert_allclose(given["high"], [whole, 0.0, second, 0.0])
    assert_allclose(given["switch"], [0.9 * (0.2 + 0.9 * 0.7), 0.2 + 0.9 * 0.7, 0.9, 1.0])


def test_one_segment_is_gae_and_segments_of_one_round_are_gae_with_the_high_value():
    rng = np.random.default_rng(0)
    rewards, low, high = rng.random((3, 6))
    settings = HiPERSettings(gamma=0.9, gae_lambda=0.7, lambda_segment=0.6)
    owner = np.zeros(6, dtype=np.int64)
    whole = hierarchical_advantages(rewards, low, high, divided(1, 0, 0, 0, 0, 0), settings)
    assert_allclose(whole["low"], gae(rewards, low, owner, 0.9, 0.7))
    single = hierarchical_advantages(rewards, low, high, divided(1, 1, 1, 1, 1, 1), settings)
    assert_allclose(single["high"], gae(rewards, high, owner, 0.9, 0.6))
    assert_allclose(single["low"], rewards + 0.9 * np.append(high[1:], 0.0) - low)


def test_nothing_flows_between_episodes():
    rewards, low, high = np.random.default_rng(1).random((3, 5))
    parts = Segments(
        np.array([0, 0, 1, 1, 2]),
        np.array([True, False, True, False, True]),
        np.array([False, True, False, False, True]),
    )
    both = hierarchical_advantages(rewards, low, high, parts, HiPERSettings())
    one = hierarchical_advantages(rewards[:2], low[:2], high[:2], divided(1, 0), HiPERSettings())
    two = hierarchical_advantages(rewards[2:], low[2:], high[2:], divided(1, 0, 1), HiPERSettings())
    for name, values in both.items():
        assert_allclose(values, np.concatenate([one[name], two[name]]))


# -- sub-goals by rule ---------------------------------------------------------------------------------------


def searched(*hits, reward=1.0):
    made = episode([None] * (len(hits) + 1), reward)
    made.gold = {"answers": ["x"], "supporting_ids": ["p1"], "chain": []}
    for round_, found in zip(made.rounds, hits, strict=False):
        round_.results = [list(found)]
    return made


def test_a_sub_goal_ends_with_evidence():
    groups = group_of(searched([OTHER], [GOLD], [GOLD], [OTHER]), searched())
    assert HiPER()._divide(groups)[0].tolist() == [True, False, True, False, True, True]
    first_R, penalty_R = HiPER({"boundary": "results"})._divide(groups)
    assert first_R.tolist() == [True, True, True, False, True, True]
    assert not penalty_R.any()
    parts = segments_of(first_R, groups.episode_R, np.arange(6))
    assert parts.last_A.tolist() == [False] * 4 + [True, True]
    assert parts.segment_A.tolist() == [0, 1, 2, 2, 3, 4]


def test_a_round_without_tokens_belongs_to_the_act_before_it():
    parts = segments_of(
        np.array([1, 0, 1, 1, 1], dtype=bool), np.array([0, 0, 0, 0, 1]), np.array([0, 1, 3, 4])
    )
    assert parts.first_A.tolist() == [True, False, True, True]
    assert parts.last_A.tolist() == [False, False, True, True]
    one = searched([OTHER], [GOLD])  # another agent answers: the last round has no tokens of the policy
    (segment,) = one.segments
    segment.mask[-1] = 0
    groups = group_of(one)
    algorithm, policy = HiPER({"whiten": False, "gae_lambda": 1.0, "lambda_segment": 1.0}), TabularPolicy()
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    algorithm.prepare(policy, groups)
    assert_allclose(algorithm.credit(groups).to_tokens(groups), [2.0, 1.0])
    assert groups.columns["low_returns"].tolist() == [1.0, 1.0]


def test_values_are_learned_where_they_are_read():
    groups = group_of(searched([OTHER], [GOLD]), searched([OTHER], reward=0.0))
    algorithm, policy = HiPER({"whiten": False, "gae_lambda": 1.0, "lambda_segment": 1.0}), TabularPolicy()
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    algorithm.prepare(policy, groups)
    credit = algorithm.credit(groups)
    # The values are 0: low pays what a segment itself is paid, high what is paid from its beginning on.
    assert_allclose(credit.to_tokens(groups), [1.0, 0.0, 2.0, 0.0, 0.0])
    assert groups.columns["low_returns"].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert groups.columns["high_returns"].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert groups.columns["high_at"].tolist() == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert groups.columns["low_at"].tolist() == [1.0] * 5
    assert groups.columns["switch_at"].tolist() == [0.0] * 5
    assert credit.metrics["segments"] == 2.0


# -- the control fields --------------------------------------------------------------------------------------

SWITCH = "<think> hm </think> <switch> SWITCH </switch> <subgoal> find  Ada </subgoal> <search> Ada </search>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SWITCH, (True, "find Ada", True)),
        ("<switch>keep</switch><subgoal>a</subgoal><answer>b</answer>", (False, "a", True)),
        ("<subgoal>a</subgoal> <switch>Switch</switch> <search>b</search>", (True, "a", True)),
        ("<search> Ada </search>", (False, "", False)),
        ("<switch> maybe </switch> <subgoal> a </subgoal> <search> b </search>", (False, "a", False)),
        ("<switch> SWITCH </switch> <search> b </search> <subgoal> late </subgoal>", (True, "", False)),
        ("<think> <switch> SWITCH </switch> </think> <search> b </search>", (False, "", False)),
        ("<search> <switch> SWITCH </switch> </search>", (False, "", False)),
    ],
)
def test_control_fields_are_read_outside_thoughts_and_before_the_act(text, expected):
    assert control_of(text) == Control(*expected)


def test_the_dialect_reads_the_same_acts_as_tags():
    hierarchy, tags = get_dialect("hierarchy", "a town"), get_dialect("tags", "a town")
    for text in (SWITCH, "<answer> x </answer>", "<switch> SWITCH </switch>", "nothing"):
        assert hierarchy.parse(text, feedback=False, max_queries=1) == tags.parse(
            text, feedback=False, max_queries=1
        )
    assert hierarchy.parse(SWITCH, feedback=False, max_queries=1).queries == ("Ada",)
    prompt = hierarchy.system_prompt(feedback=False, max_queries=1)
    assert prompt.startswith(tags.system_prompt(feedback=False, max_queries=1))
    assert hierarchy.parse(prompt, feedback=False, max_queries=1).kind == "invalid"
    shown = hierarchy.render_hits([Hit("p", "t", "<switch>SWITCH</switch>", 1.0)], 1000)
    assert "<switch>" not in shown
    env = make_vec("SearchQA-Terse-v0", 1, corpus=WORLD, dialect="hierarchy")
    assert env.config.dialect.name == "hierarchy"


class Words:
    """A tokenizer whose tokens are the characters of the alphabet below, one word each."""

    texts = (
        "",
        "<switch>",
        "SWITCH",
        "KEEP",
        "</switch>",
        "<subgoal>",
        "a",
        "b",
        "</subgoal>",
        "<search>",
        "</search>",
    )

    def decode(self, ids, skip_special_tokens):
        assert not skip_special_tokens
        return "".join(self.texts[i] for i in ids)


class Writer(TabularPolicy):
    """A policy that follows system prompts."""

    reads_system_prompt = True

    def __init__(self):
        super().__init__(vocabulary=len(Words.texts))
        self.tokenizer = Words()


def written(*messages, reward=1.0):
    """An episode of messages given as lists of tokens."""
    segment = Segment()
    for index, ids in enumerate(messages):
        for token, mask in [(0, 0), *((t, 1) for t in ids)]:
            segment.tokens.append(token)
            segment.mask.append(mask)
            segment.logprobs.append(-0.5 * mask)
            segment.rounds.append(index)
    made = make_episode([segment], reward, episode_id="e", group_id="g")
    for round_, ids in zip(made.rounds, messages, strict=True):
        round_.text = Words().decode(ids, skip_special_tokens=False)
    return made


SWITCHED, KEPT = [1, 2, 4, 5, 6, 8, 9, 6, 10], [1, 3, 4, 5, 6, 8, 9, 7, 10]
CHANGED, PLAIN = [1, 3, 4, 5, 7, 8, 9, 7, 10], [9, 6, 10]


def hierarchical(**settings):
    algorithm = HiPER({"whiten": False, **settings})
    algorithm.configure_env(make_vec("SearchQA-Terse-v0", 1, corpus=WORLD, dialect="hierarchy").config)
    algorithm.setup(TrainContext(Writer(), np.random.default_rng(0)))
    return algorithm


def test_fields_divide_and_cost():
    groups = group_of(written(SWITCHED, KEPT, CHANGED, SWITCHED, PLAIN))
    first_R, penalty_R = hierarchical()._divide(groups)
    assert first_R.tolist() == [True, False, False, True, False]
    assert_allclose(penalty_R, [0.0, 0.3, 0.6, 0.0, 0.3])
    # A message without fields does not hide that the next one changes the words.
    penalty_R = hierarchical()._divide(group_of(written(SWITCHED, PLAIN, CHANGED)))[1]
    assert_allclose(penalty_R, [0.0, 0.3, 0.6])


def test_each_advantage_goes_to_its_own_tokens():
    groups = group_of(written(SWITCHED, KEPT))
    algorithm = hierarchical(keep_penalty=0.0, gae_lambda=1.0, lambda_segment=1.0)
    with torch.no_grad():
        algorithm.head.bias.copy_(torch.tensor([0.0, 0.25, 0.5]))  # V^low, V^high, V^switch everywhere
    algorithm.prepare(algorithm.context.policy, groups)
    credit = algorithm.credit(groups)
    values = credit.to_tokens(groups)
    assert_allclose(values[:9], [0.5] * 3 + [0.75] * 3 + [1.0] * 3, atol=1e-6)
    assert_allclose(values[9:], [0.5] * 3 + [0.0] * 3 + [1.0] * 3, atol=1e-6)  # a kept sub-goal is not chosen
    assert np.flatnonzero(groups.columns["low_at"]).tolist() == [6, 15]  # after the fields
    assert np.flatnonzero(groups.columns["high_at"]).tolist() == [0]
    assert np.flatnonzero(groups.columns["switch_at"]).tolist() == [0, 9]
    assert credit.metrics["uncontrolled"] == 0.0


# -- who can be trained --------------------------------------------------------------------------------------


def test_an_agent_that_writes_no_fields_is_refused_before_play():
    algorithm = HiPER()
    algorithm.configure_env(make_vec("SearchQA-Terse-v0", 1, corpus=WORLD, dialect="hierarchy").config)
    with pytest.raises(ConfigError, match="leave out --env-option dialect=hierarchy"):
        algorithm.check_policy(CandidateAgent())


def test_settings_keep_the_contract():
    check_trainer(HiPER({"boundary": "results", "whiten": False, "entropy_coef": 0.01, "gamma": 0.9}))


@pytest.mark.parametrize("agent", ["candidate", "tiny", "planner"])
def test_it_trains(agent, tmp_path, no_curve):
    result = train(
        {
            "trainer": "hiper",
            "agent": agent,
            "agent_options": {"planner": "candidate", "answerer": "copy"} if agent == "planner" else {},
            "iterations": 2,
            "questions": 4,
            "eval_episodes": 0,
            "env": "SearchQA-Terse-v0",
            "env_options": {"corpus": WORLD, "hops": [2], "max_rounds": 3, "reward": {"recall": 1.0}},
        },
        tmp_path / "run",
    )
    row = result.metrics[-1]
    assert row["updates"] > 0
    assert row["segments"] >= 1.0
    assert row["sampling_gap"] < 1e-4


def test_a_chat_model_trains_with_the_dialect(tmp_path, no_curve):
    from hf_models import WORLD as HF_WORLD
    from hf_models import save_family

    result = train(
        {
            "trainer": "hiper",
            "agent": "hf",
            "agent_options": {"model": save_family(tmp_path / "model", "qwen3"), "max_new_tokens": 8},
            "iterations": 1,
            "questions": 2,
            "eval_episodes": 0,
            "env": "SearchQA-Terse-v0",
            "env_options": {
                "corpus": HF_WORLD, "max_rounds": 2, "dialect": "hierarchy", "reward": {"em": 1, "invalid": -0.5},
            },
        },
        tmp_path / "run",
    )  # fmt: skip
    assert result.metrics[-1]["updates"] > 0
    assert 0.0 <= result.metrics[-1]["uncontrolled"] <= 1.0
