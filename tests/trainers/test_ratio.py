"""Engine against trainer: statistics and truncated importance sampling, against numbers worked by hand."""

import math

import numpy as np
import pytest
import torch
from toy_bandit import VOCABULARY, ToyGRPO, make_trainer, run_toy

from searchgym.agents.policy import TokenOutputs
from searchgym.errors import ConfigError, TrainingError
from searchgym.options import plugins
from searchgym.trainers.algorithms.ppo import PPO
from searchgym.trainers.algorithms.reinforce import Reinforce
from searchgym.trainers.algorithms.sft import SFT
from searchgym.trainers.conformance import TabularPolicy
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import Batch
from searchgym.trainers.learner.importance import (
    TRAINER_LOGPROBS,
    ratio_statistics,
    truncated_importance_sampling,
)
from searchgym.trainers.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("no_curve")

ENGINE, TRAINED = torch.tensor([0.5, 0.25, 0.8]).log(), torch.tensor([0.25, 0.5, 0.8]).log()


def make_batch(old_N, advantages_N, **columns):
    count = len(old_N)
    index_N = torch.arange(count)
    mean_weight_N = torch.full((count,), 1.0 / count)
    return Batch(
        [], index_N, index_N, torch.zeros_like(index_N), torch.ones(count, dtype=torch.bool),
        old_N, advantages_N, mean_weight_N, mean_weight_N, columns,
    )  # fmt: skip


def test_statistics_by_hand():
    found = ratio_statistics(ENGINE, TRAINED)  # ratios 1/2, 2 and 1
    assert found["sampling_gap"] == found["sampling_gap_p95"] == pytest.approx(math.log(2.0))
    assert found["sampling_gap_mean"] == pytest.approx(2.0 * math.log(2.0) / 3.0)
    assert found["sampling_kl"] == pytest.approx(0.5 / 3.0)  # (1/2 - 1 + ln 2 + 2 - 1 - ln 2) / 3
    assert found["sampling_ess"] == pytest.approx(3.5**2 / (3 * 5.25))


def test_the_95th_percentile_is_no_maximum():
    found = ratio_statistics(torch.zeros(100), torch.arange(100.0) / 100.0)
    assert found["sampling_gap_p95"] == pytest.approx(0.94)
    assert found["sampling_gap"] == pytest.approx(0.99)


def test_rounding_is_not_reported():
    assert set(ratio_statistics(ENGINE, ENGINE + 1e-5)) == {"sampling_gap"}


def test_weights_by_hand():
    batch = make_batch(ENGINE, torch.tensor([1.0, 1.0, -2.0]), **{TRAINER_LOGPROBS: TRAINED})
    corrected, metrics = truncated_importance_sampling(batch, 1.5)
    torch.testing.assert_close(corrected.advantages_N, torch.tensor([0.5, 1.5, -2.0]))
    assert torch.equal(corrected.old_logprobs_N, TRAINED)
    assert metrics == pytest.approx({"tis_weight": 1.0, "tis_capped": 1 / 3})


def test_without_a_cap_that_bites_the_gradient_is_the_trainers_own():
    """All acts of a bandit, as often as a wrong engine samples them: the corrected gradient is the exact one."""
    logits_V = torch.tensor([0.3, -0.2, 0.9, 0.1], requires_grad=True)
    advantages_V = torch.tensor([1.0, -1.0, 0.5, 2.0])
    engine_V = torch.tensor([0.7, 0.1, 0.1, 0.1])
    logprobs_V = logits_V.log_softmax(0)
    (exact,) = torch.autograd.grad(-(logprobs_V.exp() * advantages_V).sum(), logits_V, retain_graph=True)
    batch = make_batch(engine_V.log(), advantages_V, **{TRAINER_LOGPROBS: logprobs_V.detach()})

    def gradient(batch):
        ratio_V = (logprobs_V - batch.old_logprobs_N).exp()
        loss = -(engine_V * batch.advantages_N * ratio_V).sum()  # at ratio 1 the clip is off
        return torch.autograd.grad(loss, logits_V, retain_graph=True)[0]

    torch.testing.assert_close(gradient(truncated_importance_sampling(batch, 100.0)[0]), exact)
    assert (gradient(truncated_importance_sampling(batch, 1.0)[0]) - exact).abs().max() > 0.05


# iStar's second model learns in the same loss from its own tokens, which a batch without samples does not have.
CORRECTED = [
    n for n in plugins.names("trainers") if plugins.load("trainers", n).supports_tis and n != "istar"
]


@pytest.mark.parametrize("name", CORRECTED)
def test_every_loss_is_linear_in_the_advantage(name):
    """What makes weighing advantages the same as weighing each token's policy gradient."""
    algorithm = plugins.load("trainers", name)({})
    algorithm.setup(TrainContext(TabularPolicy(VOCABULARY), np.random.default_rng(0)))
    random = torch.Generator().manual_seed(0)
    old_N, advantages_N, weight_N = (torch.randn(40, generator=random) for _ in range(3))
    weight_N = weight_N.exp()
    logprobs_N = (old_N + 0.5 * torch.randn(40, generator=random)).requires_grad_()
    levels = ("", "low_", "high_", "switch_")  # of ppo's critic, and of hiper's
    columns = {f"{level}{name}": torch.zeros(40) for level in levels for name in ("values", "returns", "at")}
    outputs = TokenOutputs(logprobs_N, torch.zeros(40), torch.zeros(40, VOCABULARY))

    def gradient(advantages_N):
        loss = algorithm.loss(make_batch(old_N, advantages_N, **columns), outputs)
        return torch.autograd.grad(loss.total, logprobs_N)[0]

    torch.testing.assert_close(gradient(advantages_N * weight_N), gradient(advantages_N) * weight_N)


class Corrupted(TabularPolicy):
    """An engine that is wrong about its log-probabilities by -0.5 nats."""

    shift = -0.5

    def sample(self, previous):
        token, logprob = super().sample(previous)
        return token, logprob + self.shift


def step(path, policy, settings, algorithm=ToyGRPO, **changes):
    """One optimizer step of plain gradient descent; how far it went, and the metrics."""
    before = policy.module.weight.detach().clone()
    with RunDirectory.create(path, {}) as run:
        result = make_trainer(
            run, algorithm({"group_size": 8, **settings}), policy, iterations=1, minibatches=1, optimizer="sgd", grad_clip=1e9,
            eval_episodes=0, **changes,
        ).run_to_end()  # fmt: skip
    return policy.module.weight.detach() - before, result.metrics[1]


@pytest.mark.parametrize("algorithm", ["grpo", "reinforce", "ppo"])
def test_a_corrupted_engine_is_seen_and_its_weights_are_capped(tmp_path, algorithm):
    kind = {
        "grpo": ToyGRPO,
        "reinforce": type("ToyReinforce", (Reinforce,), {"collect": ToyGRPO.collect}),
        "ppo": type("ToyPPO", (PPO,), {"collect": ToyGRPO.collect}),
    }[algorithm]
    honest, _ = step(tmp_path / "honest", TabularPolicy(VOCABULARY), {}, kind)
    capped, row = step(tmp_path / "capped", Corrupted(VOCABULARY), {"tis_cap": 1.25}, kind)
    assert row["sampling_gap"] == pytest.approx(0.5, abs=1e-5)
    assert row["sampling_gap_mean"] == pytest.approx(0.5, abs=1e-5)
    assert row["sampling_gap_p95"] == pytest.approx(0.5, abs=1e-5)
    assert row["sampling_kl"] == pytest.approx(math.exp(0.5) - 1.5, rel=1e-4)
    assert row["sampling_ess"] == pytest.approx(1.0)  # all weights are wrong by the same factor
    assert row["tis_weight"] == pytest.approx(1.25)  # the ratio is e^0.5 = 1.65
    assert row["tis_capped"] == 1.0
    assert row["step_kl"] == pytest.approx(0.0, abs=1e-9)  # against the trainer's own: nothing has moved yet
    assert honest.abs().max() > 0
    torch.testing.assert_close(capped, 1.25 * honest, atol=1e-6, rtol=1e-4)


def test_uncorrected_the_same_engine_has_its_tokens_clipped_away(tmp_path):
    honest, _ = step(tmp_path / "honest", TabularPolicy(VOCABULARY), {})
    lost, row = step(tmp_path / "lost", Corrupted(VOCABULARY), {})
    assert row["clip_fraction"] > 0.05  # e^0.5 is beyond the clip for all tokens with A > 0
    assert row["sampling_kl"] == pytest.approx(math.exp(0.5) - 1.5, rel=1e-4)
    assert "tis_weight" not in row
    assert (lost - honest).abs().max() > 0.1 * honest.abs().max()


def test_a_correct_engine_is_left_alone(tmp_path):
    plain, row = step(tmp_path / "plain", TabularPolicy(VOCABULARY), {})
    weighed, corrected = step(tmp_path / "weighed", TabularPolicy(VOCABULARY), {"tis_cap": 2.0})
    assert "sampling_ess" not in row | corrected
    assert corrected["tis_weight"] == pytest.approx(1.0)
    torch.testing.assert_close(plain, weighed, atol=1e-6, rtol=1e-4)


def test_off_is_off(tmp_path):
    run_toy(tmp_path / "a", iterations=3)
    run_toy(tmp_path / "b", iterations=3, settings={"group_size": 8, "tis_cap": 0.0})
    a, b = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in "ab")
    assert a == b


def test_an_engine_that_calls_its_own_token_impossible_stops_the_run(tmp_path):
    policy = Corrupted(VOCABULARY)
    policy.shift = -math.inf
    with pytest.raises(TrainingError, match=r"not finite|is inf"):
        step(tmp_path, policy, {"tis_cap": 2.0})


def test_what_has_no_advantages_refuses_the_cap():
    with pytest.raises(ConfigError, match=r"sft has no advantages .*leave tis_cap out"):
        SFT({"tis_cap": 2.0})
