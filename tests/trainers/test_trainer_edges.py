"""What every trainer does with groups it can learn little or nothing from; each goes through the loop."""

import math

import pytest
from judged_episodes import episode
from toy_bandit import make_trainer

from searchgym.errors import ConfigError, TrainingError
from searchgym.options import plugins
from searchgym.trainers.conformance import TabularPolicy
from searchgym.trainers.runs.directory import RunDirectory

GROUP_RELATIVE = ["grpo", "cw-grpo", "capf"]
ACTOR_CRITIC = ["ppo", "mt-ppo"]
TRAINERS = [*GROUP_RELATIVE, *ACTOR_CRITIC]
ALL = [*TRAINERS, "sft"]


def iterate(path, name, *groups):
    """One iteration on given groups; the metrics, and whether the weights changed."""

    def collect(self, policy, envs, tasks):
        for g, group in enumerate(groups):
            for i, one in enumerate(group):
                one.episode_id, one.group_id = f"e{g}-{i}", f"g{g}"
                for t, round_ in enumerate(one.rounds):
                    round_.uid = f"e{g}-{i}/{t}"
        return groups

    kind = type("Given", (plugins.load("trainers", name),), {"collect": collect})
    policy = TabularPolicy()
    before = policy.module.weight.detach().clone()
    with RunDirectory.create(path, {}) as run:
        row = make_trainer(run, kind(), policy).loop.iterate().metrics
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    return row, bool((policy.module.weight != before).any())


def judged(reward, searches=2):
    return episode([1.0] + [0.0] * (searches - 1) + [0.0] if searches else [0.0], reward)


@pytest.mark.parametrize("name", ALL)
def test_all_invalid_groups_are_counted_and_nothing_is_learned(tmp_path, name):
    groups = [[judged(1.0), judged(0.0)] for _ in range(3)]
    for group in groups:
        for one in group:
            one.valid_for_training = False
    row, changed = iterate(tmp_path, name, *groups)
    assert (row["empty_groups"], row["invalid_episodes"], row["updates"]) == (3, 6, 0)
    assert row["reward"] is row["em"] is row["repetition"] is None
    assert not changed


@pytest.mark.parametrize("name", TRAINERS)
def test_equal_rewards(tmp_path, name):
    row, changed = iterate(tmp_path, name, [judged(1.0), judged(1.0)], [judged(0.0), judged(0.0)])
    assert row["equal_groups"] == 2
    assert changed == (name in ACTOR_CRITIC)  # whose baseline is not the group's mean
    assert row["skipped_groups"] == (0 if changed else 2)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_group_of_one(tmp_path, name):
    row, changed = iterate(tmp_path, name, [judged(1.0)])
    # Mean 0 and deviation 1, as in verl; PPO whitens, and equal advantages leave its value head alone to learn.
    assert changed == (name in GROUP_RELATIVE)
    assert row["updates"] == 1
    assert row["equal_groups"] == 0


@pytest.mark.parametrize("name", ALL)
def test_no_search_at_all(tmp_path, name):
    row, changed = iterate(tmp_path, name, [judged(1.0, 0), judged(0.0, 0)])
    assert changed
    assert row["repeated_searches"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ALL)
def test_a_reward_that_is_not_finite_names_its_episode(tmp_path, name, value):
    with pytest.raises(TrainingError, match=r"the reward of episode 'e0-1' \(task 'task'\) is"):
        iterate(tmp_path, name, [judged(1.0), judged(value), judged(0.0)])


@pytest.mark.parametrize("name", ALL)
def test_the_control_needs_groups_to_permute_in(name):
    with pytest.raises(ConfigError, match="group_size is 1: the control would be the run"):
        plugins.load("trainers", name)({"permute_rewards": True, "group_size": 1})
