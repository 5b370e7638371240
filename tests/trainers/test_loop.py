"""The loop learns, is deterministic, and stops where it must."""

import gc
import json

import numpy as np
import pytest
import torch
from toy_bandit import TASKS, VOCABULARY, ToyGRPO, make_trainer, play, run_toy

from searchgym.errors import TrainingError
from searchgym.records.episode import load_episodes
from searchgym.trainers.conformance import TabularPolicy
from searchgym.trainers.core.algorithm import Algorithm, Loss, TrainContext
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.loop import Loop

pytestmark = pytest.mark.usefixtures("no_curve")
LEARNS = {"iterations": 18, "lr": 0.3, "checkpoint_every": 18}
"""Enough for every variant to answer all six tasks."""


def test_it_learns(tmp_path):
    result = run_toy(tmp_path, **LEARNS)
    assert result.before["em"].value <= 0.2
    assert result.after["em"].value == 1.0
    assert result.metrics[-1]["em"] > 0.8


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "dr-grpo", "aggregation": "seq-mean-token-sum-norm", "loss_length": 2},
        {"advantage": "rloo", "kl_coef": 0.01, "kl_estimator": "k3+"},
        {"clip_high": 0.28, "aggregation": "token-mean", "entropy_coef": 0.001, "dual_clip": 3.0},
    ],
)
def test_variants_learn(tmp_path, settings):
    result = run_toy(tmp_path, **LEARNS, settings={"group_size": 8, **settings})
    assert result.after["em"].value >= 5 / 6


def test_rewards_permuted_inside_groups_teach_nothing(tmp_path):
    result = run_toy(tmp_path, **LEARNS, settings={"group_size": 8, "permute_rewards": True})
    assert result.after["em"].value <= 0.5


class Plain(Algorithm):
    """The two abstract methods and nothing else: rewards minus their group's mean, and the policy gradient."""

    collect = ToyGRPO.collect
    uses_ratio = False

    def credit(self, groups):
        return Credit.per_episode([r_G - r_G.mean() for r_G in groups.rewards])

    def loss(self, batch, outputs):
        return Loss(batch.total(-batch.advantages_N * outputs.logprobs_N))


def test_plain_algorithm_learns_too(tmp_path):
    with RunDirectory.create(tmp_path, {}) as run:
        result = make_trainer(run, Plain({"group_size": 8}), **LEARNS).run_to_end()
    assert result.after["em"].value == 1.0


def test_twin_runs_are_equal_and_other_seeds_differ(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_toy(tmp_path / name, iterations=6, seed=seed, minibatches=3, epochs=2)
    a, b, c = ((tmp_path / n / "metrics.jsonl").read_bytes() for n in "abc")
    assert a == b != c


def test_how_often_it_is_evaluated_does_not_change_training(tmp_path):
    run_toy(tmp_path / "a", iterations=4)
    run_toy(tmp_path / "b", iterations=4, eval_every=1)
    a, b = (
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in "ab"
    )
    for row in a + b:
        row.pop("eval", None)
    assert a == b


def test_the_token_budget_changes_only_rounding(tmp_path):
    policies = [run_toy(tmp_path / str(b), iterations=3, token_budget=b).policy for b in (7, 10_000)]
    torch.testing.assert_close(policies[0].module.weight, policies[1].module.weight, atol=1e-4, rtol=1e-3)


def test_metrics_of_an_iteration(tmp_path):
    row = run_toy(tmp_path, iterations=1, minibatches=3, epochs=2).metrics[1]
    assert row["iteration"] == 1
    assert row["groups"] == 6
    assert row["episodes"] == 48
    assert row["tokens"] == 2.0
    assert row["tasks_drawn"] == 6
    assert row["updates"] == row["policy_version"] == 2 * min(3, 48)
    assert 0 < row["entropy"] <= np.log(VOCABULARY)
    assert row["sampling_gap"] < 1e-5 < row["log_ratio_max"]
    assert row["invalid_rounds"] == row["invalid_episodes"] == 0


def test_groups_with_equal_rewards_are_skipped_and_counted(tmp_path):
    class Hopeless(ToyGRPO):
        def rewards(self, group):
            return np.zeros(len(group))

    policy = TabularPolicy(VOCABULARY)
    before = policy.module.weight.detach().clone()
    with RunDirectory.create(tmp_path, {}) as run:
        result = make_trainer(run, Hopeless({"group_size": 4}), policy, iterations=2).run_to_end()
    assert result.metrics[-1]["equal_groups"] == result.metrics[-1]["skipped_groups"] == 6
    assert result.metrics[-1]["updates"] == 0
    assert torch.equal(before, policy.module.weight)


def test_invalid_episodes_are_dropped_and_counted(tmp_path):
    class Flaky(ToyGRPO):
        def collect(self, policy, envs, tasks):
            groups = super().collect(policy, envs, tasks)
            groups[0][0].valid_for_training = False
            for episode in groups[1][1:]:
                episode.valid_for_training = False
            return groups

        def credit(self, groups):
            assert all(episode.valid_for_training for episode in groups.episodes)
            return super().credit(groups)

    with RunDirectory.create(tmp_path, {}) as run:
        row = make_trainer(run, Flaky({"group_size": 4}), iterations=1).run_to_end().metrics[-1]
    assert row["invalid_episodes"] == 4
    assert row["singleton_groups"] == 1


class ExplodingLoss(ToyGRPO):
    def loss(self, batch, outputs):
        return Loss(super().loss(batch, outputs).total * float("nan"))


class ExplodingGradient(ToyGRPO):
    def loss(self, batch, outputs):
        total = super().loss(batch, outputs).total
        return Loss(total + (outputs.logprobs_N[0] - outputs.logprobs_N[0].detach()).abs().sqrt())


@pytest.mark.parametrize(("kind", "what"), [(ExplodingLoss, "loss"), (ExplodingGradient, "gradient")])
def test_not_finite_stops_before_the_weights_change_and_saves_the_episodes(tmp_path, kind, what):
    policy = TabularPolicy(VOCABULARY)
    before = policy.module.weight.detach().clone()
    with (
        RunDirectory.create(tmp_path, {}) as run,
        pytest.raises(TrainingError, match=f"the {what} of iteration 1 is not finite"),
    ):
        make_trainer(run, kind({"group_size": 8}), policy).run_to_end()
    assert torch.equal(before, policy.module.weight)
    assert len(list(load_episodes(tmp_path / "failed-000001" / "episodes.jsonl"))) >= 1


def test_numpy_and_torch_numbers_are_metrics_and_arrays_are_not(tmp_path):
    class Measured(ToyGRPO):
        def credit(self, groups):
            credit = super().credit(groups)
            credit.metrics.update(a=np.float32(0.5), b=torch.tensor(2.0), c=np.array([3]))
            return credit

    class Array(ToyGRPO):
        def credit(self, groups):
            credit = super().credit(groups)
            credit.metrics["many"] = np.zeros(3)
            return credit

    with RunDirectory.create(tmp_path / "a", {}) as run:
        row = make_trainer(run, Measured({"group_size": 4, "skip_equal": False})).loop.iterate().metrics
        assert {name: row[name] for name in "abc"} == {"a": 0.5, "b": 2.0, "c": 3}
        json.dumps(row)
    wrong = pytest.raises(TrainingError, match="metric 'many'")
    with RunDirectory.create(tmp_path / "b", {}) as run, wrong:
        make_trainer(run, Array({"group_size": 4, "skip_equal": False})).loop.iterate()


def test_a_setup_that_forgets_the_context_is_told_so(tmp_path):
    class Forgetful(ToyGRPO):
        def setup(self, context):
            self.mine = 1

    with RunDirectory.create(tmp_path, {}) as run, pytest.raises(TrainingError, match=r"Forgetful.setup\(\)"):
        make_trainer(run, Forgetful())


def test_credit_of_the_wrong_shape_stops_the_run(tmp_path):
    class Wrong(ToyGRPO):
        def credit(self, groups):
            return Credit.per_episode([[1.0]] * len(groups))

    with RunDirectory.create(tmp_path, {}) as run, pytest.raises(TrainingError, match="credit has"):
        make_trainer(run, Wrong({"group_size": 8})).run_to_end()


def test_extra_modules_are_optimised_saved_and_resumed(tmp_path):
    class WithCritic(ToyGRPO):
        def setup(self, context):
            super().setup(context)
            self.critic = torch.nn.Linear(VOCABULARY, 1, bias=False)
            torch.nn.init.zeros_(self.critic.weight)

        def extra_modules(self):
            return {"critic": self.critic}

        def loss(self, batch, outputs):
            loss = super().loss(batch, outputs)
            error_N = self.critic(outputs.hidden_N)[:, 0] - batch.advantages_N
            return Loss(loss.total + 0.5 * batch.total(error_N**2), loss.metrics)

    def final(path, *stops):
        for stop in stops:
            algorithm = WithCritic({"group_size": 8})
            opener = RunDirectory.open if path.exists() else lambda p: RunDirectory.create(p, {})
            with opener(path) as run:
                make_trainer(run, algorithm, iterations=stop).run_to_end()
        return algorithm.critic.weight.detach()

    straight, stopped = final(tmp_path / "a", 5), final(tmp_path / "b", 2, 5)
    assert straight.abs().sum() > 0
    assert torch.equal(straight, stopped)


def test_resample_draws_until_enough_groups_differ():
    class Counting(ToyGRPO):
        calls = 0

        def collect(self, policy, envs, tasks):
            return super(ToyGRPO, self).collect(policy, envs, tasks)

    policy, tasks = TabularPolicy(VOCABULARY), TaskSampler(TASKS, 6, 0)
    algorithm = Counting({"group_size": 4, "resample": 9})
    drawn = []

    def play_groups(policy, envs, task_ids, size, rng):
        drawn.append(list(task_ids))
        return [[play(policy, t, f"{i}", t) for i in range(size)] for t in task_ids]

    algorithm.setup(TrainContext(policy, np.random.default_rng(0), play=play_groups))
    groups = algorithm.collect(policy, None, tasks)
    unequal = [g for g in groups if len({e.reward for e in g}) > 1]
    assert len(drawn) > 1
    assert len(groups) == 6 * len(drawn) == tasks.drawn
    assert len(unequal) >= 6 or len(drawn) == 10


def test_every_question_comes_once_before_any_comes_twice():
    sampler = TaskSampler([str(i) for i in range(10)], 4, seed=3)
    drawn = [t for _ in range(5) for t in sampler.draw()]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == [str(i) for i in range(10)]
    assert drawn[:10] != drawn[10:]
    later = TaskSampler([str(i) for i in range(10)], 4, seed=3)
    later.drawn = 8
    assert later.draw() == drawn[8:12]


def test_training_leaves_the_garbage_collector_as_it_was(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Loop,
        "iterate",
        lambda self, watch, real=Loop.iterate: seen.append(gc.get_threshold()) or real(self, watch),
    )
    before = gc.get_threshold(), gc.get_freeze_count()
    assert before[1] == 0
    run_toy(tmp_path / "plain", iterations=1)
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
    assert seen[0][0] > before[0][0]
    gc.freeze()
    try:
        run_toy(tmp_path / "frozen", iterations=1)
        assert gc.get_freeze_count() > 0, "what the caller froze stays frozen"
    finally:
        gc.unfreeze()  # each later run would count what is frozen, one object at a time


def test_what_is_only_looked_at_can_be_left_out(tmp_path):
    for name, browsable in (("kept", True), ("left-out", False)):
        with RunDirectory.create(tmp_path / name, {}) as run:
            make_trainer(run, iterations=4).run_to_end(browsable)
    kept, left_out = (tmp_path / name for name in ("kept", "left-out"))
    assert {"episodes", "credit"} <= {path.name for path in kept.iterdir()}
    assert {"episodes", "credit", "curve.png"}.isdisjoint(path.name for path in left_out.iterdir())
    for name in ("metrics.jsonl", *(p.relative_to(kept) for p in kept.glob("checkpoints/*/*.safetensors"))):
        assert (kept / name).read_bytes() == (left_out / name).read_bytes()
    for path in (kept, left_out):  # what was left out is not needed to continue
        run_toy(path, iterations=6)
    assert (kept / "metrics.jsonl").read_bytes() == (left_out / "metrics.jsonl").read_bytes()
