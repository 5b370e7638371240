"""What a run that stops over a number that is not finite leaves behind can be loaded and looked at."""

import math

import numpy as np
import pytest
import torch
from toy_bandit import VOCABULARY, ToyGRPO, make_trainer

from searchgym.errors import CheckpointError, TrainingError
from searchgym.trainers.algorithms.ppo import PPO
from searchgym.trainers.conformance import TabularPolicy
from searchgym.trainers.core.algorithm import Loss, TrainContext
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.learner.failures import load_failure
from searchgym.trainers.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("no_curve")


def fail(path, algorithm, message, policy=None, **changes):
    """Run until it stops; the directory that the error names."""
    with RunDirectory.create(path, {}) as run, pytest.raises(TrainingError, match=message) as caught:
        make_trainer(run, algorithm, policy, **changes).run_to_end()
    (directory,) = path.glob("failed-*")
    assert str(directory) in str(caught.value)
    return directory


class Exploding(ToyGRPO):
    """In iteration 3 the loss becomes infinite."""

    calls = 0

    def loss(self, batch, outputs):
        loss = super().loss(batch, outputs)
        self.calls += 1
        if self.calls > 4:
            loss.total = loss.total + (0.0 * outputs.logprobs_N[0]).log()
        return loss


def test_the_minibatch_gives_the_same_loss_again(tmp_path):
    policy, algorithm = (
        TabularPolicy(VOCABULARY),
        Exploding({"group_size": 8, "kl_coef": 0.1, "skip_equal": False}),
    )
    directory = fail(tmp_path, algorithm, "the loss of iteration 3 is not finite", policy, minibatches=2)
    assert directory.name == "failed-000003"
    again = TabularPolicy(VOCABULARY, seed=9)
    failure = load_failure(directory, again)
    assert torch.equal(again.module.weight, policy.module.weight)
    assert "the loss of iteration 3" in failure.message
    batch = failure.batch
    assert len(batch.samples) == len(failure.episodes) == 24  # half of 6 questions x 8
    assert all(sample.episode in failure.episodes for sample in batch.samples)
    assert batch.advantages_N.abs().sum() > 0
    assert set(batch.columns) == {"ref_logprobs"}
    outputs = again.evaluate_tokens(batch.samples)
    torch.testing.assert_close(outputs.logprobs_N.detach(), batch.old_logprobs_N, atol=0.5, rtol=0.0)
    assert not torch.isfinite(algorithm.loss(batch, outputs).total)
    healthy = ToyGRPO({"group_size": 8})
    healthy.setup(TrainContext(again, np.random.default_rng(0)))
    assert torch.isfinite(healthy.loss(batch, outputs).total)


def test_a_gradient_that_is_not_finite(tmp_path):
    class Corner(ToyGRPO):
        def loss(self, batch, outputs):
            corner = (outputs.logprobs_N[0] - outputs.logprobs_N[0].detach()).abs().sqrt()
            return Loss(super().loss(batch, outputs).total + corner)

    failure = load_failure(fail(tmp_path, Corner(), "the gradient of iteration 1 is not finite"))
    assert failure.batch is not None


def test_weights_that_are_not_finite_after_an_update(tmp_path):
    directory = fail(tmp_path, ToyGRPO({"group_size": 8}), "the update of iteration 1 is not finite", lr=1e39)
    assert load_failure(directory).batch is not None
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000"]


def test_a_metric_that_is_not_finite(tmp_path):
    class Measuring(ToyGRPO):
        def credit(self, groups):
            return Credit.per_episode(self.advantages(groups), {"odd": math.inf})

    directory = fail(tmp_path, Measuring({"group_size": 8}), "metric 'odd' of iteration 1 is inf")
    assert len(load_failure(directory).episodes) == 48
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_reward_or_a_credit_that_is_not_finite_saves_all_episodes(tmp_path):
    class NaNReward(ToyGRPO):
        def rewards(self, group):
            return super().rewards(group) * math.nan

    class InfiniteCredit(ToyGRPO):
        def credit(self, groups):
            return Credit.per_episode([np.full(len(group), np.inf) for group in groups])

    for kind, message in ((NaNReward, "the reward of episode"), (InfiniteCredit, "credit of episode")):
        failure = load_failure(fail(tmp_path / kind.__name__, kind({"group_size": 8}), message))
        assert len(failure.episodes) == 48
        assert failure.batch is None


def test_the_algorithms_modules_are_saved(tmp_path):
    class Broken(PPO):
        collect = ToyGRPO.collect

        def loss(self, batch, outputs):
            return Loss(super().loss(batch, outputs).total * math.nan)

    failure = load_failure(fail(tmp_path, Broken({"group_size": 8}), "the loss"))
    assert failure.modules["value_head"].keys() == {"weight", "bias"}
    assert set(failure.batch.columns) == {"values", "returns"}


def test_no_failure_there(tmp_path):
    with pytest.raises(CheckpointError, match="does not hold a complete failure"):
        load_failure(tmp_path)
