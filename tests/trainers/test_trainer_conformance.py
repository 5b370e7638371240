"""Every registered trainer passes the conformance checks, and trainers that break the contract do not."""

import dataclasses

import numpy as np
import pytest
import torch

from searchgym.errors import TrainingError
from searchgym.options import plugins
from searchgym.rollouts import Start
from searchgym.trainers.algorithms.gigpo import GiGPO
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.conformance import check_trainer
from searchgym.trainers.core.algorithm import Algorithm, Loss, TrainContext
from searchgym.trainers.core.credit import Credit


@pytest.mark.parametrize("name", plugins.names("trainers"))
def test_registered_trainers(name):
    check_trainer(plugins.load("trainers", name)())


def test_who_declares_to_be_relative_to_the_group():
    relative = {name for name in plugins.names("trainers") if plugins.load("trainers", name)().group_relative}
    assert relative >= {"grpo", "cw-grpo", "capf", "tree-grpo"}
    assert not relative & {"reinforce", "ppo", "mt-ppo", "gigpo"}
    assert GiGPO({"omega": 0}).group_relative
    assert not GRPO({"variant": "reinforce++"}).group_relative


class Plain(Algorithm):
    """The two abstract methods and nothing else."""

    uses_ratio = False

    def credit(self, groups):
        return Credit.per_episode([r_G - r_G.mean() for r_G in groups.rewards])

    def loss(self, batch, outputs):
        return Loss(batch.total(-batch.advantages_N * outputs.logprobs_N))


class Branches(GRPO):
    """Adds a branch to each group, and spoils it."""

    spoil = staticmethod(lambda branch: branch)

    def play(self, policy, envs, task_ids):
        groups = super().play(policy, envs, task_ids)
        parents = [max(group, key=lambda e: len(e.rounds)) for group in groups]
        starts = [Start(e.task_id, prefix=e, fork_round=len(e.rounds) - 1) for e in parents]
        branches = self.context.play.branch(policy, envs, starts, self.context.rng)
        return [[*group, self.spoil(b)] for group, b in zip(groups, branches, strict=True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parent_id": "x"}, "without its parent in its group and tree"),
        ({"tree_id": "x"}, "without its parent in its group and tree"),
        ({"fork_round": 9}, r"does not share the first 9 rounds \(uids\)"),
        ({"segments": []}, "does not have its parent's tokens"),
        ({"parent_id": None, "fork_round": None}, "share round .* neither continues the other"),
    ],
)
def test_branches_keep_their_contract(changes, message):
    class Spoilt(Branches):
        spoil = staticmethod(lambda branch: dataclasses.replace(branch, **changes))

    check_trainer(Branches())
    with pytest.raises(TrainingError, match=message):
        check_trainer(Spoilt())


def test_the_plain_algorithm():
    check_trainer(Plain())


def test_credit_and_loss_are_abstract():
    with pytest.raises(TypeError, match=r"abstract methods.*credit.*loss"):
        Algorithm()


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "rloo", "aggregation": "token-mean", "clip_high": 0.28, "dual_clip": 3.0},
        {"advantage": "dr-grpo", "aggregation": "seq-mean-token-sum-norm", "loss_length": 16},
        *({"kl_coef": 0.1, "kl_estimator": e} for e in ("k1", "k2", "k3", "k1+", "k3+")),
        {"overlong_length": 12, "overlong_buffer": 6, "entropy_coef": 0.01, "skip_equal": False},
    ],
)
def test_settings_of_grpo(settings):
    check_trainer(GRPO(settings))


class Uneven(GRPO):
    def credit(self, groups):
        return Credit.per_episode([[1.0] * (len(g) - 1) for g in groups])


class Infinite(GRPO):
    def credit(self, groups):
        return Credit.per_episode([np.log(r_G) for r_G in groups.rewards])


class FirstIsBest(GRPO):
    def credit(self, groups):
        return Credit.per_episode([np.arange(len(g), dtype=float) for g in groups])


class MeanOfTheMicroBatch(GRPO):
    def loss(self, batch, outputs):
        return Loss(-(batch.advantages_N * outputs.logprobs_N).mean())


class NotAScalar(GRPO):
    def loss(self, batch, outputs):
        return Loss(-batch.advantages_N * outputs.logprobs_N)


class Detached(GRPO):
    def loss(self, batch, outputs):
        return Loss(batch.total(outputs.logprobs_N) * 0.0)


class Meddling(GRPO):
    def prepare(self, policy, groups):
        with torch.no_grad():
            next(iter(policy.module.parameters())).add_(1.0)


class ShortColumn(GRPO):
    def prepare(self, policy, groups):
        groups.columns["x"] = torch.zeros(2)


class FirstComeFirstServed(GiGPO):
    """Clusters observations in order of arrival, as the released code does."""

    def __init__(self):
        super().__init__({"similarity": 0.75})

    def credit(self, groups):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "searchgym.agents.memory.clusters.sorted", lambda texts: self._in_order, raising=False
            )
            self._in_order = list(
                dict.fromkeys(
                    t
                    for g in groups
                    for e in g
                    for t in [e.question, *(r.observation for r in e.rounds[:-1])]
                )
            )
            return super().credit(groups)


class ClaimsToBeRelative(GRPO):
    group_relative = True

    def credit(self, groups):
        return Credit.per_episode(groups.rewards)


class PicksNothing(GRPO):
    def select(self, groups):
        return [False] * len(groups)


class RewardPerGroup(GRPO):
    def rewards(self, group):
        return np.array([1.0])


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Uneven, "credit has"),
        (Infinite, "is not finite"),
        (FirstIsBest, "put in another order"),
        (MeanOfTheMicroBatch, "in micro-batches"),
        (NotAScalar, "one finite number"),
        (Detached, "no gradient at all"),
        (Meddling, "changed the policy's weights"),
        (ShortColumn, "column 'x' has shape"),
        (PicksNothing, "no group at all"),
        (FirstComeFirstServed, "put in another order"),
        (ClaimsToBeRelative, "rewards are all equal was given credit"),
        (RewardPerGroup, "one finite number per episode"),
    ],
)
def test_broken_trainers_are_caught(kind, message):
    with pytest.raises(TrainingError, match=message):
        check_trainer(kind())


def test_the_reference_is_the_initial_policy_and_leaves_the_weights_alone():
    from searchgym.trainers.conformance import TabularPolicy, synthetic_groups
    from searchgym.trainers.core.groups import Groups

    policy = TabularPolicy()
    algorithm = GRPO({"kl_coef": 0.1})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    groups = Groups(synthetic_groups(policy))
    with torch.no_grad():
        initial = policy.evaluate_tokens(groups.samples).logprobs_N
        policy.module.weight += 1.0 * torch.arange(8)
        moved = policy.module.weight.clone()
    algorithm.prepare(policy, groups)
    torch.testing.assert_close(groups.columns["ref_logprobs"], initial)
    assert torch.equal(policy.module.weight, moved)
    assert policy.module.weight.requires_grad


def test_the_kl_term_pulls_towards_the_reference():
    from searchgym.trainers.conformance import TabularPolicy, synthetic_groups
    from searchgym.trainers.core.batch import pack
    from searchgym.trainers.core.groups import Groups

    policy = TabularPolicy()
    algorithm = GRPO({"kl_coef": 1.0, "kl_estimator": "k2"})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    with torch.no_grad():
        policy.module.weight += torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    groups = Groups(synthetic_groups(policy))
    algorithm.prepare(policy, groups)
    no_credit = Credit.per_episode([np.zeros(len(g)) for g in groups])
    batch = pack(groups, no_credit).weighted("token-mean", 1)
    optimizer = torch.optim.SGD(policy.module.parameters(), lr=5.0)
    distances = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = algorithm.loss(batch, policy.evaluate_tokens(batch.samples))
        loss.total.backward()
        optimizer.step()
        distances.append(loss.metrics["kl"].item())
    assert distances[-1] < 0.2 * distances[0]
