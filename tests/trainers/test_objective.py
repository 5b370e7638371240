"""The formulas against hand-worked numbers, slow plain versions and exact enumeration."""

import math

import numpy as np
import pytest
import torch

from searchgym.trainers.core.objective import (
    clipped_surrogate,
    group_advantages,
    kl_estimate,
    overlong_penalty,
    token_weights,
)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("grpo", [1.5, -0.5, -0.5, -0.5]),
        ("rloo", [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("dr-grpo", [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_worked_advantages(estimator, expected):
    np.testing.assert_allclose(group_advantages([1, 0, 0, 0], estimator), expected, rtol=3e-6)


def test_rloo_is_the_reward_minus_the_mean_of_the_others():
    rewards = np.array([0.3, 1.0, 0.0, 0.7, 0.2])
    others = [(rewards.sum() - r) / 4 for r in rewards]
    np.testing.assert_allclose(group_advantages(rewards, "rloo"), rewards - others, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["grpo", "dr-grpo", "rloo"])
def test_equal_rewards_give_exact_zeros(estimator):
    assert group_advantages([0.1] * 7, estimator).tolist() == [0.0] * 7


def test_group_of_one_has_mean_0_and_std_1():
    assert group_advantages([0.5]) == pytest.approx([0.5], rel=1e-5)
    assert group_advantages([0.5], "dr-grpo").tolist() == [0.5]


def test_overlong_penalty_with_the_papers_numbers():
    penalties = overlong_penalty([16384, 18432, 20480, 21504], max_length=20480, buffer=4096, factor=1.0)
    np.testing.assert_allclose(penalties, [0.0, -0.5, -1.0, -1.25])


def slow_surrogate(logprob, old, advantage, low, high, dual):
    ratio = math.exp(logprob - old)
    loss = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
    if dual and advantage < 0:
        loss = min(loss, -advantage * dual)
    return loss


@pytest.mark.parametrize(("low", "high", "dual"), [(0.2, 0.2, 0.0), (0.2, 0.28, 0.0), (0.2, 0.2, 3.0)])
def test_surrogate_equals_a_plain_loop(low, high, dual):
    rng = np.random.default_rng(0)
    new, old, advantage = rng.normal(-1, 1, 500), rng.normal(-1, 1, 500), rng.normal(0, 1, 500)
    loss_N, _ = clipped_surrogate(*map(torch.tensor, (new, old, advantage)), low, high, dual)
    expected = [slow_surrogate(n, o, a, low, high, dual) for n, o, a in zip(new, old, advantage, strict=True)]
    np.testing.assert_allclose(loss_N.numpy(), expected, rtol=1e-12)


def test_clipped_tokens_are_those_without_gradient():
    rng = np.random.default_rng(1)
    logprobs = torch.tensor(rng.normal(0, 0.8, 400), requires_grad=True)
    advantages = torch.tensor(rng.normal(0, 1, 400))
    loss_N, clipped_N = clipped_surrogate(logprobs, torch.zeros(400).double(), advantages, 0.2, 0.2, 3.0)
    loss_N.sum().backward()
    assert 0 < clipped_N.sum() < 400
    np.testing.assert_array_equal((logprobs.grad == 0).numpy(), clipped_N.bool().numpy())


def test_kl_estimators_by_hand():
    logprobs, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    delta = -math.log(2)
    for name, value in {"k1": -delta, "k2": 0.5 * delta**2, "k3": 0.5 - delta - 1}.items():
        assert kl_estimate(logprobs, reference, name).item() == pytest.approx(value, rel=1e-6)


def test_k3_is_clamped():
    far = kl_estimate(torch.tensor([-100.0]), torch.tensor([0.0]), "k3")
    assert far.item() == 10.0


def test_kl_values_are_unbiased_by_enumeration():
    torch.manual_seed(0)
    log_p, log_q = torch.randn(6).double().log_softmax(0), torch.randn(6).double().log_softmax(0)
    exact = (log_p.exp() * (log_p - log_q)).sum()
    for name in ("k1", "k3"):
        mean = (log_p.exp() * kl_estimate(log_p, log_q, name)).sum()
        assert mean.item() == pytest.approx(exact.item(), rel=1e-12)
    assert (log_p.exp() * kl_estimate(log_p, log_q, "k2")).sum().item() != pytest.approx(
        exact.item(), rel=1e-3
    )


def test_only_k2s_gradient_is_the_gradient_of_the_kl():
    """As a loss, an estimator is differentiated at sampled tokens while the sampling stays fixed."""
    torch.manual_seed(1)
    logits = torch.randn(6).double().requires_grad_()
    log_q = torch.randn(6).double().log_softmax(0)

    def gradient(loss):
        return torch.autograd.grad(loss, logits)[0]

    log_p = logits.log_softmax(0)
    exact = gradient((log_p.exp() * (log_p - log_q)).sum())
    for name, right in {"k1": False, "k2": True, "k3": False, "k1+": True, "k3+": True}.items():
        log_p = logits.log_softmax(0)
        mean = (log_p.exp().detach() * kl_estimate(log_p, log_q, name)).sum()
        assert torch.allclose(gradient(mean), exact, atol=1e-12) is right, name


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_straight_through_keeps_the_value(name):
    log_p, log_q = torch.randn(5), torch.randn(5)
    assert torch.allclose(kl_estimate(log_p, log_q, name + "+"), kl_estimate(log_p, log_q, name), atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("seq-mean-token-mean", ((1 + 2) / 2 + (3 + 4 + 5 + 6) / 4) / 2),
        ("token-mean", 21 / 6),
        ("seq-mean-token-sum-norm", (3 / 10 + 18 / 10) / 2),
    ],
)
def test_aggregation_modes(mode, expected):
    loss = np.array([1, 2, 3, 4, 5, 6, 99.0])
    counted = np.array([True] * 6 + [False])
    weights = token_weights(np.array([7, 7, 9, 9, 9, 9, 9]), counted, mode, 10)
    assert (weights * loss).sum() == pytest.approx(expected, rel=1e-6)
    assert weights[-1] == 0.0


def test_an_episode_without_counted_tokens_does_not_dilute_the_mean():
    counted = np.array([True, True, False])
    weights = token_weights(np.array([0, 0, 1]), counted, "seq-mean-token-mean", 1)
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.0])
