"""PPO and MT-PPO: advantages against the plain recursion, where rewards stand, the value head's life, refusals."""

import math

import numpy as np
import pytest
import torch
from helpers import small_world
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose
from safetensors.torch import load_file
from toy_bandit import VOCABULARY, ToyGRPO, make_trainer

from searchgym.errors import ConfigError
from searchgym.trainers.algorithms.mt_ppo import MTPPO
from searchgym.trainers.algorithms.ppo import PPO, gae
from searchgym.trainers.conformance import TabularPolicy, check_trainer, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.api import train

WORLD = small_world("country-terse", train=100)


def ready(settings=None, kind=PPO):
    algorithm, policy = kind(settings), TabularPolicy(VOCABULARY)
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    return algorithm, policy


def plain_gae(rewards, values, gamma, lam):
    """The recursion, token by token, of one episode."""
    advantages, later = [0.0] * len(rewards), 0.0
    for k in reversed(range(len(rewards))):
        after = values[k + 1] if k + 1 < len(values) else 0.0
        later = rewards[k] + gamma * after - values[k] + gamma * lam * later
        advantages[k] = later
    return advantages


@pytest.mark.parametrize("seed", range(20))
def test_gae_equals_the_plain_recursion(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, rng.integers(1, 7))
    gamma, lam = (1.0, 1.0) if seed % 4 == 0 else rng.random(2)
    rewards, values = rng.normal(size=lengths.sum()), rng.normal(size=lengths.sum())
    numbers = np.repeat(np.sort(rng.choice(50, len(lengths), replace=False)), lengths)
    ends = np.cumsum(lengths)
    plain = [
        a
        for s, e in zip(ends - lengths, ends, strict=True)
        for a in plain_gae(rewards[s:e], values[s:e], gamma, lam)
    ]
    assert_allclose(gae(rewards, values, numbers, gamma, lam), plain, atol=1e-12)


def test_gae_of_nothing_and_of_one_token():
    nothing = np.zeros(0)
    assert gae(nothing, nothing, np.zeros(0, dtype=np.int64)).shape == (0,)
    assert gae(np.array([1.0]), np.array([0.25]), np.array([7]), 0.5, 0.5).tolist() == [0.75]


def test_with_gamma_and_lambda_one_it_is_what_is_still_to_come_minus_the_value():
    algorithm, policy = ready({"whiten": False})
    one = episode((None,) * 3, 1.0, tokens=2)
    one.rounds[0].reward, one.rounds[1].reward = 0.5, -0.25
    groups = group_of(one)
    algorithm.prepare(policy, groups)
    groups.columns["values"] = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    credit = algorithm.credit(groups)
    to_come = np.array([1.25, 1.25, 0.75, 0.75, 1.0, 1.0])
    assert_allclose(credit.to_tokens(groups), to_come - [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    assert_allclose(groups.columns["returns"], to_come, rtol=1e-6)
    assert credit.metrics["return_mean"] == pytest.approx(1.0)


def test_rewards_stand_at_the_last_token_of_their_round():
    algorithm, policy = ready({"whiten": False, "gamma": 0.0})
    one = episode((None,) * 3, 1.0, tokens=2)
    one.rounds[0].reward, one.rounds[1].reward = 0.5, -0.25
    groups = group_of(one)
    algorithm.prepare(policy, groups)
    assert algorithm.credit(groups).to_tokens(groups).tolist() == [0, 0.5, 0, -0.25, 0, 1]


def test_a_round_without_sampled_tokens_pays_at_the_token_before():
    algorithm, policy = ready({"whiten": False, "gamma": 0.0})
    one = episode((None,) * 3, -1.0, ["search", "search", "none"])
    one.rounds[0].reward = 0.25
    segment = one.segments[0]
    segment.mask = [0, 1, 0, 1, 0, 0]
    groups = group_of(one)
    algorithm.prepare(policy, groups)
    assert algorithm.credit(groups).to_tokens(groups).tolist() == [0.25, -1.0]


def test_what_rewards_adds_stands_at_the_end():
    class Bonus(PPO):
        def rewards(self, group):
            return super().rewards(group) + 10.0

    algorithm, policy = ready({"whiten": False, "gamma": 0.0}, Bonus)
    one = episode((None,) * 2, 1.0)
    one.rounds[0].reward = 0.5
    groups = Groups([[one]], [algorithm.rewards([one])])
    algorithm.prepare(policy, groups)
    assert algorithm.credit(groups).to_tokens(groups).tolist() == [0.5, 11.0]


def test_the_control_pays_nothing_but_the_permuted_reward():
    algorithm, policy = ready({"whiten": False, "gamma": 0.0, "permute_rewards": True, "group_size": 2})
    one = episode((None,) * 2, 1.0)
    one.rounds[0].reward = 0.5
    groups = Groups([[one]], [[-3.0]])
    algorithm.prepare(policy, groups)
    assert algorithm.credit(groups).to_tokens(groups).tolist() == [0.0, -3.0]


def test_whitened_over_the_iteration():
    algorithm, policy = ready()
    groups = Groups(synthetic_groups(policy, groups=5))
    algorithm.prepare(policy, groups)
    advantages_N = algorithm.credit(groups).to_tokens(groups)
    assert advantages_N.mean() == pytest.approx(0.0, abs=1e-12)
    assert advantages_N.std(ddof=1) == pytest.approx(1.0, abs=1e-6)


def test_equal_rewards_a_single_episode_and_a_single_token():
    algorithm, policy = ready()
    for made in ([episode((None,), 1.0)], [episode((None,) * 3, 0.0) for _ in range(4)]):
        groups = group_of(*made)
        assert algorithm.select(groups) == [True]
        algorithm.prepare(policy, groups)
        assert np.isfinite(algorithm.credit(groups).to_tokens(groups)).all()


def test_the_value_loss_and_its_clip():
    for clip, expected in ((0.0, 0.5 * 0.3**2), (0.1, 0.5 * 0.9**2)):
        algorithm, policy = ready({"value_clip": clip, "whiten": False})
        groups = group_of(episode((None,), 1.0))
        algorithm.prepare(policy, groups)
        assert groups.columns["values"].tolist() == [0.0]
        batch = pack(groups, algorithm.credit(groups)).weighted("token-mean", 1)
        with torch.no_grad():
            algorithm.head.bias.fill_(0.7)  # 0.3 from the return, and 0.6 further than a clip of 0.1 lets it
        loss = algorithm.loss(batch, policy.evaluate_tokens(batch.samples))
        assert loss.metrics["value_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_policy_gets_no_gradient_from_the_value_loss():
    algorithm, policy = ready({"whiten": False})
    groups = group_of(episode((None,) * 2, 1.0))
    algorithm.prepare(policy, groups)
    batch = pack(groups, algorithm.credit(groups)).weighted("token-mean", 1)
    with torch.no_grad():
        algorithm.head.weight.fill_(0.1)
    batch.advantages_N.zero_()
    algorithm.loss(batch, policy.evaluate_tokens(batch.samples)).total.backward()
    assert not policy.module.weight.grad.any()
    assert algorithm.head.weight.grad.any()


@pytest.mark.parametrize(
    "settings",
    [{"gamma": 0.9, "gae_lambda": 0.5}, {"whiten": False, "value_clip": 0.0, "entropy_coef": 0.01}],
)
def test_conformance(settings):
    check_trainer(PPO(settings))


@pytest.mark.parametrize(
    "settings", [{"gamma": 1.01}, {"gae_lambda": -0.1}, {"value_clip": math.inf}, {"value_lr": -1}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match=r"trainer setting '.*' is .*: it must be"):
        PPO(settings)


class ToyPPO(PPO):
    collect = ToyGRPO.collect


def run_ppo(path, *stops, **settings):
    for stop in stops:
        algorithm = ToyPPO({"group_size": 8, **settings})
        opener = RunDirectory.open if path.exists() else lambda p: RunDirectory.create(p, {})
        with opener(path) as run:
            result = make_trainer(run, algorithm, iterations=stop, eval_every=2).run_to_end()
    return algorithm, result


@pytest.mark.usefixtures("no_curve")
def test_it_learns(tmp_path):
    algorithm, result = run_ppo(tmp_path / "run", 40)
    assert result.before["em"].value <= 0.2
    assert result.after["em"].value == 1.0
    assert algorithm.head.weight.abs().sum() > 0
    assert result.metrics[-1]["value_loss"] < result.metrics[3]["value_loss"]


@pytest.mark.usefixtures("no_curve")
def test_a_stopped_run_continues_bit_for_bit_with_its_value_head(tmp_path):
    run_ppo(tmp_path / "a", 6)
    run_ppo(tmp_path / "b", 2, 6)
    last = "checkpoints/step-000006/tensors.safetensors"
    a, b = load_file(tmp_path / "a" / last), load_file(tmp_path / "b" / last)
    assert a["module/value_head/weight"].any()
    assert a["optimizer/value_head.weight/exp_avg"].any()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


@pytest.mark.usefixtures("no_curve")
def test_the_heads_learning_rate_and_gradient_clip_are_its_own(tmp_path):
    still, _ = run_ppo(tmp_path / "still", 2, value_lr=0.0)
    assert not still.head.weight.any()
    moved, _ = run_ppo(tmp_path / "moved", 2)
    assert moved.head.weight.any()

    class Shouting(ToyPPO):
        """A value loss a million times as large: Adam's steps and the policy must not notice."""

        def loss(self, batch, outputs):
            loss = super().loss(batch, outputs)
            quiet = loss.metrics["value_loss"]
            error_N = (self._values(outputs) - batch.columns["returns"]).square()
            loss.total = loss.total + 1e6 * batch.total(error_N)
            loss.metrics["value_loss"] = quiet
            return loss

    def weights(kind, path):
        policy = TabularPolicy(VOCABULARY)
        with RunDirectory.create(path, {}) as run:
            make_trainer(run, kind({"group_size": 8}), policy, iterations=1, minibatches=1).run_to_end()
        return policy.module.weight

    assert torch.equal(weights(ToyPPO, tmp_path / "x"), weights(Shouting, tmp_path / "y"))


MT = {"trainer": "mt-ppo", "agent": "candidate", "iterations": 2, "questions": 16, "eval_episodes": 0}


def test_mt_ppo_refuses_environments_that_do_not_pay_its_term(tmp_path):
    with pytest.raises(ConfigError, match="reward term 'mt_ppo', and this environment pays em: add"):
        train({**MT, "env_options": {"corpus": WORLD, "judge": "oracle"}}, tmp_path / "run")
    with pytest.raises(ConfigError, match="reward term 'mt_ppo' needs a judge"):
        train({**MT, "env_options": {"corpus": WORLD, "reward": "mt_ppo"}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_curve")
def test_mt_ppo_pays_every_round(tmp_path):
    result = train(
        {**MT, "env_options": {"corpus": WORLD, "reward": "mt_ppo", "judge": "oracle"}}, tmp_path / "run"
    )
    row = result.metrics[-1]
    assert row["judged"] == 1.0
    assert row["reward"] != row["em"]
    assert row["updates"] == 2
    assert MTPPO().settings.group_size == 1
