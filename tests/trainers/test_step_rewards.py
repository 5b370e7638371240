"""Trainers on step rewards: numbers worked by hand, what they learn from, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from helpers import small_world
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose

from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.algorithms.step_rewards.grounded_prm import (
    GroundedPRM,
    fidelity_returns,
    node_means,
)
from searchgym.trainers.algorithms.step_rewards.istar import IStar
from searchgym.trainers.algorithms.step_rewards.prorag import ProRAG
from searchgym.trainers.algorithms.step_rewards.spa_rl import SPARL, ProgressEstimator, round_features
from searchgym.trainers.algorithms.step_rewards.steporlm import StepORLM
from searchgym.trainers.components.trajectory_pairs import pairs_by_score, preference_slopes
from searchgym.trainers.conformance import TabularPolicy, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.groups import Groups

HALF = math.sqrt(0.5)


def set_up(algorithm, policy=None):
    algorithm.setup(TrainContext(policy or TabularPolicy(), np.random.default_rng(0)))
    return algorithm


def fit(algorithm, groups, steps, lr):
    """Optimize the extra modules and the policy on the same groups, as the loop does; the credit's metrics of each step."""
    policy = algorithm.context.policy
    modules = [policy.module, *algorithm.extra_modules().values()]
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], lr=lr)
    rows = []
    for _ in range(steps):
        algorithm.prepare(policy, groups)
        credit = algorithm.credit(groups)
        rows.append(credit.metrics)
        batch = pack(groups, credit).weighted("token-mean", 1)
        optimizer.zero_grad()
        algorithm.loss(batch, policy.evaluate_tokens(batch.samples)).total.backward()
        optimizer.step()
    return rows


# -- ProRAG --------------------------------------------------------------------------------------------------


def test_prorag_adds_z_scores_to_the_outcome():
    # Searches are scored u v = p, answers v = 1: scores 1, 1 and 0, 1 have mean 0.75 and standard deviation 0.5.
    groups = group_of(episode((1, 0), 1.0), episode((0, 0), 0.0))
    first, second = ProRAG().credit(groups).values[0]
    assert_allclose(first, [HALF + 0.25, HALF + 0.25], rtol=1e-5)
    assert_allclose(second, [-HALF - 0.75, -HALF + 0.25], rtol=1e-5)


def test_prorag_counts_a_score_once_per_token():
    groups = group_of(episode((1, 0), 1.0), episode((0, 0), 0.0, tokens=3))
    # 1, 1, 0, 0, 0, 1, 1, 1: mean 0.625, standard deviation 0.517549
    _, second = ProRAG({"beta": 1.0}).credit(groups).values[0]
    assert_allclose(second + HALF, [-0.625 / 0.517549, 0.375 / 0.517549], rtol=1e-5)


def test_prorag_leaves_rounds_without_a_verdict_to_the_outcome():
    groups = group_of(episode(("error", 0), 1.0), episode((0, 0), 0.0))
    first, _ = ProRAG().credit(groups).values[0]
    assert_allclose(first[0], HALF, rtol=1e-5)
    plain = ProRAG({"permute_rewards": True}).credit(groups)
    assert_allclose(plain.to_tokens(groups), GRPO().credit(groups).to_tokens(groups))


# -- preferences between episodes ----------------------------------------------------------------------------


def test_the_slopes_are_the_gradient_of_dpo():
    scores_E = np.array([1, 0, 0.5, 2, 2, np.nan])
    pairs = pairs_by_score(Groups(synthetic_groups(TabularPolicy(), 2, 3)), scores_E, weighted=True)
    found_P = zip(pairs.chosen_P.tolist(), pairs.rejected_P.tolist(), pairs.weight_P.tolist(), strict=True)
    assert set(found_P) == {(0, 1, 1.0), (0, 2, 0.5), (2, 1, 0.5)}
    ratio_E = torch.tensor([2.0, 0.0, 1.0, 5.0, 5.0, 5.0], dtype=torch.float64, requires_grad=True)
    h_P = 0.5 * (ratio_E[pairs.chosen_P] - ratio_E[pairs.rejected_P])
    loss = -(pairs.weight_P * torch.nn.functional.logsigmoid(h_P)).sum() / pairs.weight_P.sum()
    loss.backward()
    slope_E, found = preference_slopes(ratio_E.detach(), pairs, 0.5)
    assert_allclose(slope_E, -ratio_E.grad, rtol=1e-9)
    assert found == {"pairs": 3.0, "dpo_loss": pytest.approx(loss.item()), "dpo_accuracy": 1.0}


def test_one_pair_by_hand():
    groups = group_of(episode((0, 0), 1.0), episode((0, 0), 0.0))
    pairs = pairs_by_score(groups, np.array([1.0, 0.0]))
    slope_E, found = preference_slopes(torch.tensor([2.0, 0.0]).double(), pairs, beta=0.5)
    assert_allclose(slope_E, [0.1344707, -0.1344707], rtol=1e-6)  # 0.5 σ(−1)
    assert found["dpo_loss"] == pytest.approx(math.log(1 + math.exp(-1)))
    equal, found = preference_slopes(torch.zeros(2).double(), pairs_by_score(groups, np.ones(2)), 0.5)
    assert (equal.tolist(), found) == ([0.0, 0.0], {"pairs": 0.0})


# -- iStar ---------------------------------------------------------------------------------------------------


def test_istar_adds_z_scores_of_implicit_rewards():
    groups = group_of(episode((0, 0), 1.0), episode((0, 0), 0.0))
    algorithm = set_up(IStar())
    algorithm.prepare(algorithm.context.policy, groups)
    assert_allclose(algorithm.credit(groups).to_tokens(groups), GRPO().credit(groups).to_tokens(groups))
    groups.columns["implicit_reward"] = torch.tensor([0.1, 0.3, 0.2, 0.2])
    first, second = algorithm.credit(groups).values[0]  # standard deviation 0.0816497
    assert_allclose(first, [HALF - 1.2247449, HALF + 1.2247449], rtol=1e-4)
    assert_allclose(second, [-HALF, -HALF], rtol=1e-4)


@pytest.mark.parametrize("reference", ["initial", "behaviour"])
def test_istars_reward_model_learns_which_episodes_succeed(reference):
    policy = TabularPolicy()
    groups = Groups(synthetic_groups(policy))
    algorithm = set_up(IStar({"reference": reference, "prm_beta": 0.5}), policy)
    rows = fit(algorithm, groups, steps=30, lr=0.05)
    assert rows[0]["dpo_loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert rows[-1]["dpo_accuracy"] > 0.9
    assert rows[-1]["dpo_loss"] < 0.5


# -- SPA-RL --------------------------------------------------------------------------------------------------


def test_the_shares_are_read_behind_the_act_and_behind_what_it_brought():
    groups = group_of(episode((0, 0), 1.0, tokens=2), episode((0,), 0.0, tokens=2))
    hidden_NW = torch.tensor([[1.0], [2], [3], [4], [5], [6]])
    assert round_features(groups, hidden_NW).tolist() == [[2, 3, 1], [4, 0, 1], [6, 0, 1]]


def test_the_estimator_is_a_ridge_regression_that_forgets():
    x_ED, y_E = torch.tensor([[1.0, 0], [1, 1]]).double(), torch.tensor([2.0, 5]).double()
    estimator = ProgressEstimator(2)
    assert_allclose(estimator.fit(x_ED, y_E, 0.5, 1e-9).numpy(), [2, 3], rtol=1e-6)
    assert_allclose(estimator.fit(x_ED, y_E + 1.0, 0.0, 1e-9).numpy(), [3, 3], rtol=1e-6)
    heavy = ProgressEstimator(2).fit(x_ED, y_E, 0.5, 1.0)  # (X'X + 1.5 I) w = X'y
    assert_allclose(heavy.numpy(), np.linalg.solve([[3.5, 1], [1, 2.5]], [7, 5]), rtol=1e-9)


def test_the_shares_of_an_episode_add_up_to_its_reward():
    policy = TabularPolicy()
    groups = Groups(synthetic_groups(policy))
    exact = set_up(SPARL({"grounding": 0.0, "ridge": 1e-6}), policy)
    exact.prepare(policy, groups)  # 17 features can fit 16 episodes
    paid_R = exact.round_rewards(groups)
    assert_allclose(np.bincount(groups.episode_R, paid_R), np.concatenate(groups.rewards), atol=0.02)
    nothing = set_up(SPARL({"grounding": 0.5, "ridge": 1e9}), policy)
    nothing.prepare(policy, groups)  # the ridge leaves nothing of the estimator
    assert_allclose(nothing.round_rewards(groups), 0.5, atol=1e-6)
    assert nothing.credit(groups).metrics["progress_error"] > 0.1


def test_acts_that_cannot_be_executed_earn_no_grounding():
    groups = group_of(episode((0, 0), 0.0, ["invalid", "answer"]))
    algorithm = set_up(SPARL())
    algorithm.prepare(algorithm.context.policy, groups)
    assert_allclose(algorithm.round_rewards(groups), [0.0, 0.5], atol=1e-9)


# -- GroundedPRM ---------------------------------------------------------------------------------------------


def test_fidelity_returns_by_hand():
    v_R, rounds_E = np.array([1.0, -1, 1, 1, 1, -1]), np.array([4, 2])
    # Episode 1, round 1: (2/2)(−1)/2 + (1/2)(1)/2 + 1/2; round 2: 1 + 1. Episode 2 has no round between the first and the last.
    assert_allclose(fidelity_returns(v_R, np.array([1.0, -1.0]), rounds_E), [0.25, 2, 1, 1, -1, -1])
    assert_allclose(fidelity_returns(v_R, np.array([1.0, -1.0]), rounds_E, full=True)[:2], [0.75, 2])


def test_rounds_with_the_same_messages_are_one_node():
    groups = group_of(*(episode((0, 0), r) for r in (1.0, 0.0, 0.0)))
    texts = [("a", "x"), ("a", "y"), ("b", "x")]
    for one, messages in zip(groups.episodes, texts, strict=True):
        for record, text in zip(one.rounds, messages, strict=True):
            record.text = text
    assert node_means(np.array([1.0, 5, 3, 6, 7, 8]), groups).tolist() == [2, 5, 2, 6, 7, 8]
    again = Groups([groups[0], groups[0]])  # other questions have nodes of their own
    assert node_means(np.arange(12.0), again).tolist() == [1, 1, 1, 3, 4, 5, 7, 7, 7, 9, 10, 11]


def test_grounded_prm_rewards_rounds_that_verified_ones_follow():
    groups = group_of(episode((1, 1, 0), 1.0), episode((1, 0, 0), 1.0))
    for i, one in enumerate(groups.episodes):
        for record in one.rounds:
            record.text = f"{i}"
    # u = 1 + 1, 1, 1 and −1 + 1, 1, 1: mean 1, standard deviation 0.6324555; equal outcomes say nothing.
    first, second = GroundedPRM({"beta": 1.0}).credit(groups).values[0]
    assert_allclose(first, [1.5811388, 0, 0], rtol=1e-4, atol=1e-9)
    assert_allclose(second, [-1.5811388, 0, 0], rtol=1e-4, atol=1e-9)


# -- StepORLM ------------------------------------------------------------------------------------------------


def test_steporlm_weighs_pairs_by_outcome_and_critique():
    groups = group_of(episode((0, 0), 1.0), episode((1, 0), 0.0), episode((None, None), 1.0))
    groups.episodes[0].rounds[1].judge = groups.episodes[0].rounds[1].judge.ok(0.0, 1.0)
    algorithm = set_up(StepORLM())
    assert_allclose(algorithm.scores(groups), [1 + 0.5 * 0.5, 0.5 * 1.0, np.nan])
    algorithm.prepare(algorithm.context.policy, groups)
    credit = algorithm.credit(groups)
    assert_allclose(credit.to_tokens(groups), [0.05, 0.05, -0.05, -0.05, 0, 0])  # β σ(0)
    assert credit.metrics["unjudged"] == 1
    assert StepORLM({"critique": 0.0}).scores(groups).tolist() == [1, 0, 1]


def test_steporlm_learns_to_prefer_what_scores_higher():
    policy = TabularPolicy()
    groups = Groups(synthetic_groups(policy))
    rows = fit(set_up(StepORLM({"dpo_beta": 0.5}), policy), groups, steps=30, lr=0.05)
    assert rows[-1]["dpo_loss"] < 0.8 * rows[0]["dpo_loss"]


# -- what they refuse ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config():
    return make_vec("SearchQA-v0", 1, corpus=small_world(), split="train").config


@pytest.mark.parametrize("kind", [ProRAG, GroundedPRM, StepORLM])
def test_a_missing_judge_is_refused_before_play(kind, config):
    with pytest.raises(ConfigError, match="judge=oracle"):
        kind().configure_env(config)
    off = {"critique": 0.0} if kind is StepORLM else {"beta": 0.0}
    assert kind(off).configure_env(config) is config


def test_a_judge_of_successes_alone_is_refused():
    judged = make_vec(
        "SearchQA-v0", 1, corpus=small_world(), split="train", judge="oracle", judge_when="unequal-success"
    ).config
    for kind in (ProRAG, GroundedPRM, StepORLM):
        with pytest.raises(ConfigError, match="judge_when"):
            kind().configure_env(judged)


def test_groups_of_one_are_refused():
    for kind in (ProRAG, StepORLM):
        with pytest.raises(ConfigError, match="group_size"):
            kind({"group_size": 1})
    with pytest.raises(ConfigError, match="group_size"):
        IStar({"group_size": 1, "advantage": "reinforce++"})
