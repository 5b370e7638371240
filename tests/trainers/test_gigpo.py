"""GiGPO: the worked numbers, the slow plain version, states and their clusters, both layouts, and the edges."""

import math
import random
from difflib import SequenceMatcher

import numpy as np
import pytest
import torch
from helpers import small_world
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_episodes import group_of
from numpy.testing import assert_allclose

from searchgym.agents.tiny.agent import TinyAgent
from searchgym.agents.tiny.model import TinyConfig
from searchgym.agents.tiny.tokenizer import Tokenizer
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, TrainingError
from searchgym.records.episode import Segment, load_episodes
from searchgym.trainers.algorithms.gigpo import GiGPO, anchor_states, cluster_texts, state_advantages
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.config import make_config
from searchgym.trainers.conformance import TabularPolicy, check_trainer, make_episode, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.groups import Groups, drop_invalid
from searchgym.trainers.core.objective import group_advantages
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.api import train
from searchgym.trainers.training.parts import Parts
from searchgym.trainers.training.trainer import Trainer


def walk(states, rewards, name="e", apart=False):
    """An episode through named states, one reward per round, one sampled token per round.

    Args:
        states: names, equal for equal observations; the first is that of the question.
        rewards: paid in each round; one number: paid in the last.
        name: episode id.
        apart: a segment per round instead of one.
    """
    if not isinstance(rewards, (list, tuple)):
        rewards = [0.0] * (len(states) - 1) + [rewards]
    n = len(states)
    each = [Segment([1, 1], [0, 1], [0.0, -0.5], [t, t]) for t in range(n)]
    joined = Segment([1, 1] * n, [0, 1] * n, [0.0, -0.5] * n, [t for t in range(n) for _ in range(2)])
    made = make_episode(each if apart else [joined], float(sum(rewards)), episode_id=name, group_id="g")
    made.question = states[0]
    for t, (round_, state, reward) in enumerate(zip(made.rounds, states, rewards, strict=True)):
        round_.anchor, round_.reward = f"digest of {state}", float(reward)
        round_.observation = states[t + 1] if t + 1 < len(states) else ""
    return made


def credit_of(algorithm, *episodes):
    return [c.tolist() for c in algorithm.credit(group_of(*episodes)).values[0]]


def test_worked_number_of_the_step_term():
    returns = np.array([0.95, 0.0, 0.95])
    step = state_advantages(returns, np.array([0, 0, 1]), scaled=False)
    assert_allclose(step, [0.475, -0.475, 0.0], atol=1e-15)
    scaled = state_advantages(returns, np.array([0, 0, 1]), scaled=True)
    assert_allclose(scaled, [math.sqrt(0.5), -math.sqrt(0.5), 0.0], rtol=1e-5)


def test_the_same_number_in_whole_episodes():
    # Both saw state "a" in their second round; one answered right a round later, the other wrong.
    right, wrong = walk(["q", "a", "b"], 1.0), walk(["q", "a", "c"], 0.0)
    values = credit_of(GiGPO({"advantage": "dr-grpo"}), right, wrong)
    assert_allclose(values[0], [0.5 + 0.95**2 / 2, 0.5 + 0.475, 0.5])
    assert_allclose(values[1], [-0.5 - 0.95**2 / 2, -0.5 - 0.475, -0.5])


def test_both_normalisations():
    right, wrong, other = walk(["q", "a"], 1.0), walk(["q", "a"], 0.0), walk(["q", "b"], 0.0)
    mean = credit_of(GiGPO({"advantage": "dr-grpo", "gamma": 1.0}), right, wrong, other)
    assert_allclose(mean, [[2 / 3 + 2 / 3, 2 / 3 + 0.5], [-2 / 3, -1 / 3 - 0.5], [-2 / 3, -1 / 3]])
    scaled = credit_of(GiGPO({"gamma": 1.0}), right, wrong, other)
    std = math.sqrt(1 / 3)
    assert_allclose(scaled[0], [4 / 3 / std, 2 / 3 / std + math.sqrt(0.5)], rtol=1e-5)


def test_omega_weighs_the_step_term_and_0_is_grpo():
    episodes = [walk(["q", "a"], 1.0), walk(["q", "a"], 0.0), walk(["q", "b", "a"], 0.0)]
    one, two = (np.concatenate(credit_of(GiGPO({"omega": w}), *episodes)) for w in (1.0, 2.0))
    plain = GiGPO({"omega": 0.0}).credit(group_of(*episodes))
    assert_allclose(two - one, one - np.concatenate(plain.values[0]))
    groups = Groups(synthetic_groups(TabularPolicy(), groups=6))
    none = GiGPO({"omega": 0.0})
    assert_allclose(none.credit(groups).to_tokens(groups), GRPO().credit(groups).to_tokens(groups))
    assert none.select(groups) == GRPO().select(groups)


def test_rewards_of_rounds_are_discounted():
    episodes = walk(["q", "a", "b"], [0.5, 0.0, 1.0]), walk(["q", "c"], [0.0, 0.0])
    values = credit_of(GiGPO({"advantage": "dr-grpo", "gamma": 0.5}), *episodes)
    first = (0.5 + 0.0 + 0.25 * 1.0) / 2
    assert_allclose(values[0], [0.75 + first, 0.75, 0.75])
    assert_allclose(values[1], [-0.75 - first, -0.75])


def test_statistics_over_rounds_let_long_episodes_count_more():
    long, short = walk(["q", "a", "b"], 0.0), walk(["q"], 1.0)
    settings = {"omega": 0.0, "advantage": "dr-grpo"}
    assert_allclose(GiGPO(settings).advantages(group_of(long, short))[0], [-0.5, 0.5])
    over_rounds = GiGPO({**settings, "statistics": "rounds"}).advantages(group_of(long, short))[0]
    assert_allclose(over_rounds, [-0.25, 0.75])  # rewards per round: 0, 0, 0, 1
    scaled = GiGPO({"omega": 0.0, "statistics": "rounds"}).advantages(group_of(long, short))[0]
    assert_allclose(scaled, np.array([-0.25, 0.75]) / 0.5, rtol=1e-5)


def test_a_state_is_the_newest_observation_of_one_question_whatever_led_to_it():
    groups = Groups([
        [walk(["q", "x", "y"], 1.0, "a"), walk(["q", "z", "x"], 0.0, "b")],
        [walk(["q", "x"], 1.0, "c"), walk(["p", "x"], 0.0, "d")],
    ])  # fmt: skip
    assert anchor_states(groups).tolist() == [0, 1, 2, 0, 3, 1, 4, 5, 6, 5]


def test_similar_observations_are_one_state_whatever_the_order():
    texts = ["the river is 12 miles long", "the river is 13 miles long", "no such page"]
    episodes = [walk(["q", t], float(i == 0), f"e{i}") for i, t in enumerate(texts)]
    assert len(set(anchor_states(Groups([episodes]), 1.0).tolist())) == 4
    assert len(set(anchor_states(Groups([episodes]), 0.9).tolist())) == 3
    assert len(set(anchor_states(Groups([episodes]), 0.0).tolist())) == 1


def test_sorting_makes_the_clusters_independent_of_the_order():
    # b is near both a and c, which are not near each other: the first of the two would take it.
    a, b, c = "aaaa bbbb cccc dddd", "aaaa bbbb cccc eeee", "ffff bbbb cccc eeee"
    assert SequenceMatcher(None, a, b, autojunk=False).ratio() > 0.75
    assert SequenceMatcher(None, b, c, autojunk=False).ratio() > 0.75
    assert SequenceMatcher(None, a, c, autojunk=False).ratio() < 0.75
    clusters = {
        tuple(sorted(cluster_texts(order, 0.75).items())) for order in ([a, b, c], [b, c, a], [c, b, a])
    }
    assert clusters == {((a, a), (b, a), (c, c))}


def test_long_texts_are_compared_whole():
    # Above 200 characters difflib by default ignores frequent letters; these two differ in their first one.
    text = "of all the towns along the river this one is the oldest " * 5
    one, other = "A" + text, "B" + text
    assert SequenceMatcher(None, one, other).ratio() < 0.5
    assert len(set(cluster_texts([one, other], 0.9).values())) == 1


@given(st.lists(st.text("ab ", max_size=6), max_size=12), st.sampled_from([0.3, 0.6, 0.9, 1.0]))
@settings(max_examples=150, deadline=None)
def test_clusters_equal_the_greedy_rule_said_plainly(texts, threshold):
    leaders, wanted = [], {}
    for text in sorted(set(texts)):
        near = [x for x in leaders if SequenceMatcher(None, x, text, autojunk=False).ratio() >= threshold]
        if not near:
            leaders.append(text)
        wanted[text] = near[0] if near else text
    assert cluster_texts(texts, threshold) == wanted
    random.Random(0).shuffle(texts)
    assert cluster_texts(texts, threshold) == wanted


def plainly(groups, gamma, omega, scaled, statistics, similarity):
    """The formulas, round by round."""

    def normalised(x, values, alone_mean):
        if len(values) == 1:
            return (x - alone_mean) / ((1 + 1e-6) if scaled else 1.0)
        mean = sum(values) / len(values)
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        return (x - mean) / (std + 1e-6) if scaled else x - mean

    result = []
    for group, r_G in zip(groups, groups.rewards, strict=True):
        returns, texts = [], []
        for episode in group:
            rewards = [r.reward for r in episode.rounds]
            returns.append([
                sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))
            ])  # fmt: skip
            texts.append([episode.question] + [r.observation for r in episode.rounds[:-1]])
        state_of = {text: text for row in texts for text in row}
        if similarity < 1.0:
            leaders = []
            for text in sorted(state_of):
                near = [
                    x for x in leaders if SequenceMatcher(None, x, text, autojunk=False).ratio() >= similarity
                ]
                leaders += [] if near else [text]
                state_of[text] = near[0] if near else text
        if statistics == "rounds" and len(group) > 1:
            base = [r for r, row in zip(r_G, returns, strict=True) for _ in row]
        else:
            base = list(r_G)
        values = []
        for i in range(len(group)):
            values.append([])
            for t in range(len(returns[i])):
                state = state_of[texts[i][t]]
                same = [
                    returns[j][s]
                    for j in range(len(group))
                    for s in range(len(returns[j]))
                    if state_of[texts[j][s]] == state
                ]
                step = normalised(returns[i][t], same, returns[i][t])
                values[-1].append(normalised(r_G[i], base, 0.0) + omega * step)
        result.append(values)
    return result


STATES = st.lists(st.sampled_from(["abcd", "abce", "xyz", "xy"]), max_size=4)
EPISODES = st.tuples(STATES, st.sampled_from([0.0, 1.0, 0.5]), st.booleans())


@given(
    st.lists(st.lists(EPISODES, min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.booleans(),
    st.sampled_from(["episodes", "rounds"]),
    st.sampled_from([1.0, 0.7, 0.0]),
)
@settings(max_examples=150, deadline=None)
def test_vectorised_credit_equals_the_plain_one(drawn, gamma, omega, scaled, statistics, similarity):
    groups = Groups([
        [
            walk(["q", *states], [0.25] * len(states) + [r] if paid else r, f"e{g}-{i}", apart=paid)
            for i, (states, r, paid) in enumerate(group)
        ]
        for g, group in enumerate(drawn)
    ])  # fmt: skip
    algorithm = GiGPO({
        "gamma": gamma, "omega": omega, "advantage": "grpo" if scaled else "dr-grpo",
        "statistics": statistics, "similarity": similarity,
    })  # fmt: skip
    wanted = plainly(groups, gamma, omega, scaled, statistics, similarity)
    credit = algorithm.credit(groups)
    for got, row in zip(credit.values, wanted, strict=True):
        for one, other in zip(got, row, strict=True):
            # Dividing rounding errors by 1e-6 makes about 1e-10 of them.
            assert_allclose(one, other, rtol=1e-7, atol=1e-8)
    credit.to_tokens(groups)


def test_both_layouts_get_the_same_credit_and_the_same_loss():
    policy, algorithm = TabularPolicy(), GiGPO()
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    losses = []
    for apart in (False, True):
        groups = Groups([[
            walk(["q", "a", "b"], 1.0, "x", apart), walk(["q", "a"], 0.0, "y", apart), walk(["q"], 0.0, "z", apart),
        ]])  # fmt: skip
        credit = algorithm.credit(groups)
        assert [len(s.segment.tokens) for s in groups.samples] == ([2] * 6 if apart else [6, 4, 2])
        batch = pack(groups, credit, "segment").weighted("token-mean", 1)
        losses.append(algorithm.loss(batch, policy.evaluate_tokens(batch.samples)).total)
    torch.testing.assert_close(losses[0], losses[1])


def test_equal_rewards_still_differ_in_how_soon_they_came():
    fast, slow = walk(["q", "a"], 1.0), walk(["q", "b", "a"], 1.0)
    groups = group_of(fast, slow)
    algorithm = GiGPO({"advantage": "dr-grpo"})
    assert_allclose(algorithm.advantages(groups)[0], [0, 0])
    assert_allclose(algorithm.credit(groups).values[0][0], [(0.95 - 0.95**2) / 2, 0.0])
    assert algorithm.select(groups) == [True]
    assert GiGPO({"gamma": 1.0}).select(groups) == [False]
    failures = group_of(walk(["q", "a"], 0.0), walk(["q", "a", "b"], 0.0))
    assert GiGPO().select(failures) == [False]
    assert GiGPO({"skip_equal": False}).select(failures) == [True]
    assert not GiGPO().credit(failures).to_tokens(failures).any()


def test_a_group_of_one():
    groups = group_of(walk(["q", "a", "q"], 1.0))
    assert GiGPO().select(groups) == [True]
    (credit,) = GiGPO({"advantage": "dr-grpo"}).credit(groups).values[0]
    half = (1 - 0.95**2) / 2  # it was in state "q" twice
    assert_allclose(credit, [1 - half, 1, 1 + half])
    for statistics in ("episodes", "rounds"):
        (alone,) = GiGPO({"statistics": statistics}).advantages(groups)
        assert_allclose(alone, group_advantages([1.0]))


def test_answers_without_any_search_are_compared_in_the_first_state():
    values = credit_of(
        GiGPO({"advantage": "dr-grpo"}), walk(["q"], 1.0), walk(["q", "a"], 0.0), walk(["q"], 0.0)
    )
    assert_allclose(values[0], [2 / 3 + 2 / 3])
    assert_allclose(values[2], [-1 / 3 - 1 / 3])


def test_groups_without_any_valid_episode_leave_nothing_to_credit():
    episodes = [walk(["q", "a"], 1.0, f"e{i}") for i in range(3)]
    for episode in episodes:
        episode.valid_for_training = False
    kept, counts = drop_invalid([episodes])
    groups = Groups(kept)
    assert counts["empty_groups"] == 1
    assert GiGPO().select(groups) == []
    assert len(pack(groups, GiGPO().credit(groups)).samples) == 0
    assert len(pack(groups, GiGPO({"similarity": 0.5, "statistics": "rounds"}).credit(groups)).samples) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_a_number_stops(value):
    with pytest.raises(TrainingError, match=r"the reward of episode 'e0' .* rewards must be finite"):
        group_of(walk(["q", "a"], value), walk(["q", "a"], 0.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("omega", -0.1), ("omega", math.nan), ("omega", math.inf), ("gamma", -0.1), ("gamma", 1.01), ("gamma", "high"),
        ("similarity", 1.5), ("similarity", -1), ("statistics", "steps"), ("advantage", "rloo"), ("variant", "rloo"),
    ],
)  # fmt: skip
def test_settings_out_of_range(name, value):
    wanted = "advantage" if name == "variant" else name
    with pytest.raises(ConfigError, match=f"trainer setting '{wanted}' is"):
        GiGPO({name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "dr-grpo", "statistics": "rounds", "gamma": 0.5},
        {"similarity": 0.3, "omega": 2.0},
        {"sequence": "segment", "aggregation": "seq-mean-token-mean", "kl_coef": 0.001},
        {"skip_equal": False, "ratio": "sequence", "omega": 0.0},
    ],
)
def test_conformance(settings):
    check_trainer(GiGPO(settings))


def test_the_control_hides_which_rounds_were_paid():
    episodes = [walk(["q", "a"], [0.5, 0.5]), walk(["q", "a"], [0.0, 0.0])]
    episodes = list(group_of(*episodes)[0])
    permuted = Groups([episodes], [[0.0, 1.0]])
    control = GiGPO({"permute_rewards": True, "advantage": "dr-grpo"}).credit(permuted).values[0]
    assert_allclose(control[0], [-0.5 - 0.475, -0.5 - 0.5])
    assert_allclose(control[1], [0.5 + 0.475, 0.5 + 0.5])


def test_metrics_of_the_states():
    groups = group_of(walk(["q", "a"], 1.0), walk(["q", "a", "b"], 0.0), walk(["q", "c"], 0.0))
    metrics = GiGPO({"gamma": 0.0}).credit(groups).metrics
    assert metrics["state_size"] == 7 / 4  # q, a, b, c
    assert metrics["shared_states"] == 5 / 7
    assert metrics["state_credit"] == 2 / 7  # the two rounds in "a": at gamma 0 there is no credit in "q"


WORLD = small_world("country-terse", train=300, dev=400)


class EvenIds(GiGPO):
    """Pays for the share of sampled tokens with an even id: something that random weights do half the time."""

    def rewards(self, group):
        ids = [[t for s in e.segments for t, m in zip(s.tokens, s.mask, strict=True) if m] for e in group]
        return np.array([np.mean([t % 2 == 0 for t in row]) for row in ids])


@pytest.mark.usefixtures("no_curve")
def test_a_language_model_learns_round_by_round_from_rebuilt_contexts(toy, tmp_path):
    tokenizer = Tokenizer.build(["Anna", "Reed", "Corvin", "Mills", "town", "river"], ["velm"])
    config = TinyConfig(tokenizer.size, width=16, heads=2, kv_heads=2, head_dim=8, max_positions=512)
    policy = TinyAgent.random(config, tokenizer, max_new_tokens=8, history=1)
    envs = make_vec("SearchQA-v0", 8, corpus=toy, max_rounds=2)
    options = make_config({"iterations": 12, "questions": 2, "lr": 3e-2, "eval_episodes": 0})
    algorithm = EvenIds({"group_size": 8, "sequence": "segment"})
    with RunDirectory.create(tmp_path / "run", {}) as run:
        result = Trainer(
            Parts(policy, algorithm, envs, TaskSampler(envs.task_ids(), 2, 0)), options, run
        ).run_to_end()
    assert all(row["sampling_gap"] < 1e-4 for row in result.metrics[1:])
    assert all(row["shared_states"] > 0 for row in result.metrics[1:])
    episodes = list(load_episodes(tmp_path / "run" / "episodes" / "train-000012.jsonl"))
    assert {len(e.segments) for e in episodes} == {2}
    assert np.mean(algorithm.rewards(episodes)) > 0.6


@pytest.mark.usefixtures("no_curve")
def test_states_are_shared_in_the_environment(tmp_path):
    result = train(
        {
            "trainer": "gigpo", "agent": "candidate", "iterations": 1, "questions": 4, "eval_episodes": 0,
            "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1], "reward": {"em": 1.0, "invalid": -0.01, "recall": 0.5}},
            "settings": {"group_size": 32, "similarity": 0.9, "statistics": "rounds"},
        },
        tmp_path / "run",
    )  # fmt: skip
    row = result.metrics[-1]
    assert row["state_size"] > 1.5
    assert 0.5 < row["shared_states"] < 1.0
    assert 0.0 < row["state_credit"] <= row["shared_states"]


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(
    "settings", [{}, {"advantage": "dr-grpo", "statistics": "rounds", "sequence": "segment"}]
)
def test_it_learns(settings, tmp_path):
    result = train(
        {
            "trainer": "gigpo", "agent": "candidate", "iterations": 16, "questions": 16, "lr": 0.15,
            "eval_episodes": 20, "checkpoint_every": 100,
            "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1]},
            "settings": {"group_size": 8, "entropy_coef": 0.01, "skip_equal": False, **settings},
        },
        tmp_path / "run",
    )  # fmt: skip
    assert result.before["em"].value <= 0.1
    assert result.after["em"].value >= 0.9
