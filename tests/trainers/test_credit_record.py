"""The credit an iteration gave is saved next to its episodes, loads again, and is summarized in the metrics."""

import json
import math

import numpy as np
import pytest
from toy_bandit import TASKS, ToyGRPO, make_trainer, run_toy

from searchgym.errors import RunDirectoryError
from searchgym.records.episode import load_episodes
from searchgym.trainers import load_credit
from searchgym.trainers.algorithms.ppo import PPO
from searchgym.trainers.algorithms.sft import SFT
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.runs.credit_record import credit_metrics
from searchgym.trainers.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("no_curve")


class Seen(ToyGRPO):
    """Keeps what it gave."""

    def credit(self, groups):
        self.groups, self.given = groups, super().credit(groups)
        return self.given


def run_one(path, algorithm, iterations=2, **changes):
    with RunDirectory.create(path, {}) as run:
        return make_trainer(run, algorithm, iterations=iterations, checkpoint_every=1, **changes).run_to_end()


def test_what_is_loaded_is_what_was_given(tmp_path):
    algorithm = Seen({"group_size": 8, "overlong_length": 4, "overlong_buffer": 4})
    run_one(tmp_path, algorithm)
    record = load_credit(tmp_path)
    assert (record.iteration, record.trainer, record.algorithm, record.unit) == (2, "grpo", "Seen", "episode")
    episodes = list(load_episodes(tmp_path / "episodes" / "train-000002.jsonl"))
    assert [e.episode_id for e in record.episodes] == [e.episode_id for e in episodes]
    assert [e.reward for e in record.episodes] == [e.reward for e in episodes]
    given_N, owner_N = algorithm.given.to_tokens(algorithm.groups), algorithm.groups.tokens.episode_N
    for e, episode in enumerate(algorithm.groups.episodes):
        found = record[episode.episode_id]
        assert found.status == "learned"
        np.testing.assert_allclose(found.tokens_N, given_N[owner_N == e], rtol=1e-6)
        assert found.rounds_R.tolist() == pytest.approx([given_N[owner_N == e].mean()])
        assert found.trained_reward < found.reward  # the penalty for long episodes
    learned = {episode.episode_id for episode in algorithm.groups.episodes}
    skipped = [e for e in record.episodes if e.episode_id not in learned]
    assert skipped
    for episode in skipped:
        assert (episode.status, len(episode.tokens_N)) == ("skipped", 0)
        assert np.isnan(episode.rounds_R).all()
        assert episode.relative_reward == pytest.approx(0.0)
    with pytest.raises(KeyError):
        record["nobody"]


def test_relative_rewards_add_up_to_nothing_in_each_group(tmp_path):
    run_one(tmp_path, ToyGRPO({"group_size": 8}))
    sums = {}
    for episode in load_credit(tmp_path, 1).episodes:
        sums[episode.group_id] = sums.get(episode.group_id, 0.0) + episode.relative_reward
    assert list(sums.values()) == pytest.approx([0.0] * len(TASKS))


class ToyPPO(PPO):
    collect = ToyGRPO.collect


class ToySFT(SFT):
    collect = ToyGRPO.collect


def test_a_critics_credit_is_per_token(tmp_path):
    run_one(tmp_path, ToyPPO({"group_size": 8}))
    record = load_credit(tmp_path)
    assert record.unit == "token"
    assert {len(e.tokens_N) for e in record.episodes} == {2}
    assert any(e.tokens_N[0] != e.tokens_N[1] for e in record.episodes)


def test_tokens_that_did_not_enter_the_loss_are_marked(tmp_path):
    run_one(tmp_path, ToySFT({"group_size": 8, "deduplicate": False}), iterations=1)
    for episode in load_credit(tmp_path).episodes:
        if episode.status == "learned":
            assert episode.loss_mask_N.all() == (episode.reward == 1.0)


def test_invalid_episodes_have_no_credit(tmp_path):
    class Flaky(ToyGRPO):
        def collect(self, policy, envs, tasks):
            groups = super().collect(policy, envs, tasks)
            groups[0][0].valid_for_training = False
            return groups

    run_one(tmp_path, Flaky({"group_size": 8}), iterations=1)
    first = load_credit(tmp_path).episodes[0]
    assert first.status == "invalid"
    assert math.isnan(first.trained_reward)


def test_the_control_is_visible(tmp_path):
    run_one(tmp_path, ToyGRPO({"group_size": 8, "permute_rewards": True}), iterations=1)
    episodes = load_credit(tmp_path).episodes
    assert [e.reward for e in episodes] != [e.trained_reward for e in episodes]
    assert sum(e.reward for e in episodes) == sum(e.trained_reward for e in episodes)


def test_an_iteration_without_anything_to_learn_from_has_a_record(tmp_path):
    class Hopeless(ToyGRPO):
        def rewards(self, group):
            return np.zeros(len(group))

    result = run_one(tmp_path, Hopeless({"group_size": 4}), iterations=1)
    record = load_credit(tmp_path)
    assert record.unit == ""
    assert {e.status for e in record.episodes} == {"skipped"}
    assert "credit_mean" not in result.metrics[1]


def test_the_newest_records_are_kept_and_a_resumed_run_has_the_same(tmp_path):
    run_toy(tmp_path / "a", iterations=6, checkpoint_every=1)
    run_toy(tmp_path / "b", iterations=4, checkpoint_every=1)
    run_toy(tmp_path / "b", iterations=6, checkpoint_every=1)
    a, b = (sorted((tmp_path / n / "credit").glob("*.safetensors")) for n in "ab")
    assert [p.name for p in a] == [p.name for p in b] == [
        f"train-00000{i}.safetensors" for i in (4, 5, 6)
    ]  # fmt: skip
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]


def test_what_comes_after_the_checkpoint_is_forgotten_on_resuming(tmp_path):
    run_toy(tmp_path, iterations=4, checkpoint_every=2)
    import shutil

    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")
    assert load_credit(tmp_path).iteration == 4
    with RunDirectory.open(tmp_path) as run:
        make_trainer(run, iterations=4, checkpoint_every=2)
    assert load_credit(tmp_path).iteration == 2
    assert not (tmp_path / "episodes" / "train-000004.jsonl").exists()


def test_the_summary(tmp_path):
    row = run_one(tmp_path, Seen({"group_size": 8}), iterations=1).metrics[1]
    tokens_N = np.concatenate([e.tokens_N for e in load_credit(tmp_path).episodes])
    assert row["credit_mean"] == pytest.approx(tokens_N.mean(), abs=1e-6)
    assert row["credit_std"] == pytest.approx(tokens_N.std(), rel=1e-5)
    assert (row["credit_min"], row["credit_max"]) == pytest.approx((tokens_N.min(), tokens_N.max()))
    assert (row["zero_credit_tokens"], row["zero_credit_groups"]) == (0.0, 0.0)
    assert row["credit_by_round"] == pytest.approx([tokens_N.mean()], abs=1e-6)
    json.dumps(row, allow_nan=False)


def test_the_summary_by_hand():
    from judged_episodes import episode

    groups = Groups([[episode((None,) * 3, 1.0), episode((None,), 0.0, name="f")]])
    row = credit_metrics(groups, Credit.per_round([[[1.0, 0.0, 3.0], [0.0]]]))
    assert row["credit_mean"] == 1.0
    assert row["zero_credit_tokens"] == 0.5
    assert row["credit_by_round"] == [0.5, 0.0, 3.0]
    assert credit_metrics(groups, Credit.per_episode([[0.0, 0.0]]))["zero_credit_groups"] == 1.0
    masked = Credit(
        "round", [[np.array([1.0, 5.0, 3.0]), np.array([0.0])]], {}, np.array([True, False, True, True])
    )
    assert credit_metrics(groups, masked)["credit_by_round"] == [0.5, None, 3.0]


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(RunDirectoryError, match="holds no credit"):
        load_credit(tmp_path / "missing")
    run_toy(tmp_path / "run", iterations=2, checkpoint_every=1)
    with pytest.raises(RunDirectoryError, match=r"iteration 7: choose one of 1, 2"):
        load_credit(tmp_path / "run", 7)
    path = tmp_path / "run" / "credit" / "train-000002.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunDirectoryError, match="is damaged"):
        load_credit(tmp_path / "run")


def test_a_run_directory_from_before_continues(tmp_path):
    run_toy(tmp_path, iterations=2, checkpoint_every=1)
    for path in (tmp_path / "credit").glob("*.safetensors"):
        path.unlink()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    old = [{k: v for k, v in row.items() if "credit" not in k and "singleton" not in k} for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert len(run_toy(tmp_path, iterations=4, checkpoint_every=1).metrics) == 5
    assert load_credit(tmp_path).iteration == 4


def test_it_is_small(tmp_path):
    run_toy(tmp_path, iterations=1, checkpoint_every=1)
    credit = (tmp_path / "credit" / "train-000001.safetensors").stat().st_size
    assert credit < (tmp_path / "episodes" / "train-000001.jsonl").stat().st_size
