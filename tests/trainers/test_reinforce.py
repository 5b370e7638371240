"""REINFORCE: the naked loop and the trainer make the same weights; credit against the plain formula; edges."""

import math

import numpy as np
import pytest
import torch
from helpers import small_world
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, TrainingError
from searchgym.trainers.algorithms.reinforce import Reinforce, naked_loop
from searchgym.trainers.conformance import TabularPolicy, check_trainer
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.groups import Groups, drop_invalid
from searchgym.trainers.training.api import train

WORLD = small_world("country-terse", train=300, dev=400)
ENVIRONMENT = {"corpus": WORLD, "types": ["chain"], "hops": [1], "reward": {"em": 1.0, "recall": 0.5}}


def paid(rewards, tokens=1, name="e"):
    made = episode((None,) * len(rewards), 0.0, name=name, tokens=tokens)
    for round_, reward in zip(made.rounds, rewards, strict=True):
        round_.reward = float(reward)
    return made


@pytest.mark.usefixtures("no_curve")
def test_the_naked_loop_and_the_trainer_make_the_same_weights(tmp_path):
    envs = make_vec("SearchQA-Terse-v0", 16, **ENVIRONMENT)
    naked = CandidateAgent()
    rewards = naked_loop(naked, envs, iterations=4, questions=32, lr=0.15, gamma=0.9, seed=3)
    result = train(
        {
            "trainer": "reinforce", "agent": "candidate", "iterations": 4, "questions": 32, "lr": 0.15, "seed": 3,
            "minibatches": 1, "grad_clip": 1e9, "num_envs": 16, "eval_episodes": 10, "env_options": ENVIRONMENT,
            "settings": {"gamma": 0.9},
        },
        tmp_path / "run",
    )  # fmt: skip
    assert rewards == pytest.approx([row["reward"] for row in result.metrics[1:]])
    assert any(reward > 0 for reward in rewards)
    assert naked.version == result.policy.version == 4
    assert naked.module.weight.abs().max() > 0.1
    torch.testing.assert_close(naked.module.weight, result.policy.module.weight, atol=1e-4, rtol=1e-3)


def test_the_naked_loop_learns():
    envs = make_vec("SearchQA-Terse-v0", 64, corpus=WORLD, types=["chain"], hops=[1])
    rewards = naked_loop(CandidateAgent(), envs, iterations=24, questions=96)
    assert np.mean(rewards[:3]) < 0.1
    assert np.mean(rewards[-3:]) > 0.7


def test_worked_number():
    groups = group_of(paid([0.5, 0.0, 1.0]), paid([0.0]))
    first, second = Reinforce({"gamma": 0.5, "baseline": "none"}).credit(groups).values[0]
    assert_allclose(first, [0.75, 0.5, 1.0])
    assert_allclose(second, [0.0])
    credit = Reinforce({"gamma": 0.5}).credit(groups)
    assert_allclose(np.concatenate(credit.values[0]), np.array([0.75, 0.5, 1.0, 0.0]) - 0.5625)
    assert credit.metrics == {"baseline": 0.5625}


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([0.0, 1.0, -0.5]), min_size=1, max_size=4), st.integers(1, 3)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from(["mean", "none"]),
)
@settings(max_examples=80, deadline=None)
def test_credit_equals_a_loop_over_tokens(drawn, gamma, baseline):
    groups = Groups([[paid(rewards, n, f"e{i}")] for i, (rewards, n) in enumerate(drawn)])
    tokens = []
    for rewards, n in drawn:
        for t in range(len(rewards)):
            tokens += [sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards)))] * n
    mean = sum(tokens) / len(tokens) if baseline == "mean" else 0.0
    credit = Reinforce({"gamma": gamma, "baseline": baseline}).credit(groups)
    assert_allclose(credit.to_tokens(groups), [x - mean for x in tokens], atol=1e-12)


def test_the_loss_is_the_mean_of_credit_times_log_probability():
    policy, algorithm = TabularPolicy(), Reinforce({"entropy_coef": 0.5})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    groups = group_of(paid([0.0, 1.0]), paid([0.0], tokens=3))
    batch = pack(groups, algorithm.credit(groups)).weighted("token-mean", 1)
    outputs = policy.evaluate_tokens(batch.samples)
    credit = torch.tensor([0.6, 0.6, -0.4, -0.4, -0.4])
    wanted = -(credit * outputs.logprobs_N + 0.5 * outputs.entropy_N).mean()
    torch.testing.assert_close(algorithm.loss(batch, outputs).total, wanted)


def test_rewards_of_the_algorithm_and_of_the_control_are_paid_at_the_end():
    group = list(group_of(paid([0.5, 0.5]), paid([0.0, 0.0]))[0])
    penalised = Groups([group], [[0.8, -0.2]])
    assert penalised.round_rewards().tolist() == pytest.approx([0.5, 0.3, 0.0, -0.2])
    control = Reinforce({"permute_rewards": True, "group_size": 2, "baseline": "none"})
    permuted = Groups([group], [[0.0, 1.0]])
    assert np.concatenate(control.credit(permuted).values[0]).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_edges():
    algorithm = Reinforce()
    equal = group_of(paid([1.0]), paid([1.0]))
    assert algorithm.select(equal) == [True]
    assert not algorithm.credit(equal).to_tokens(equal).any()
    lost = paid([1.0])
    lost.valid_for_training = False
    empty = Groups(drop_invalid([[lost]])[0])
    assert algorithm.select(empty) == []
    assert len(pack(empty, algorithm.credit(empty)).samples) == 0
    with pytest.raises(TrainingError, match="rewards must be finite"):
        group_of(paid([math.nan]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "'gamma' is 1.5: it must be between 0.0 and 1.0"),
        ({"gamma": math.nan}, "'gamma' is nan"),
        ({"baseline": "median"}, "'baseline' is 'median'"),
        ({"clip_low": 0.1}, "no ratio to clip: leave clip_low out"),
        ({"clip_high": 0.1}, "no ratio to clip: leave clip_high out"),
        ({"permute_rewards": True}, "group_size is 1"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ConfigError, match=message):
        Reinforce(settings)


@pytest.mark.parametrize(
    "settings", [{"baseline": "none", "gamma": 0.5}, {"group_size": 4, "entropy_coef": 0.1}]
)
def test_conformance(settings):
    check_trainer(Reinforce(settings))


def test_the_naked_loop_leaves_out_what_was_cut_short(monkeypatch):
    import searchgym.trainers.algorithms.reinforce as module

    envs = make_vec("SearchQA-Terse-v0", 4, corpus=WORLD)
    playing = module.collect

    def failing(*arguments):
        episodes = playing(*arguments)
        for one in episodes[: 4 if failing.calls else 2]:
            one.valid_for_training = False
        failing.calls += 1
        return episodes

    failing.calls = 0
    monkeypatch.setattr(module, "collect", failing)
    assert len(naked_loop(CandidateAgent(), envs, iterations=2, questions=4)) == 1


@pytest.mark.usefixtures("no_curve")
def test_it_learns(tmp_path):
    result = train(
        {
            "trainer": "reinforce", "agent": "candidate", "iterations": 16, "questions": 128, "lr": 0.15,
            "eval_episodes": 20, "checkpoint_every": 100,
            "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1]}, "settings": {"entropy_coef": 0.01},
        },
        tmp_path / "run",
    )  # fmt: skip
    assert result.before["em"].value <= 0.1
    assert result.after["em"].value >= 0.8
