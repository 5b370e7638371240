"""Tree-GRPO: which nodes are expanded, what a tree is worth, and that shared rounds are learned from and paid for once."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import chain

import numpy as np
import pytest

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, TrainingError
from searchgym.records.episode import Segment, load_episodes
from searchgym.rollouts import Start
from searchgym.trainers.algorithms.tree_grpo import TreeGRPO, draw_nodes, tree_advantages
from searchgym.trainers.conformance import make_episode
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.groups import Groups, new_tokens, sampled_tokens
from searchgym.trainers.core.rollouts import LocalRollouts, RolloutRequest, SeededRollouts, run_requests
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.runs.metrics import collection_metrics
from searchgym.trainers.training.api import resume, train

pytestmark = pytest.mark.usefixtures("no_curve")
CONFIG = {
    "trainer": "tree-grpo",
    "agent": "candidate",
    "env_options": {"types": ["chain"], "hops": [2], "reward": {"recall": 1.0, "f1": 1.0}},
    "settings": {"group_size": 6},
    "questions": 4,
    "iterations": 3,
    "lr": 0.1,
    "eval_episodes": 0,
    "checkpoint_every": 1,
    "keep_checkpoints": 9,
}


@pytest.fixture(scope="module")
def envs():
    return make_vec("SearchQA-Terse-v0", 8, types=["chain"], hops=[2])


def episode(name, tree, reward, rounds=2, parent=None, fork_round=None):
    tokens = list(range(2 * rounds))
    segment = Segment(tokens, [0, 1] * rounds, [0.0, -1.0] * rounds, [r // 2 for r in tokens])
    made = make_episode([segment], reward, episode_id=name, group_id="g")
    made.tree_id, made.parent_id, made.fork_round = tree, parent, fork_round
    return made


def branch(name, parent, fork_round, reward, rounds=2):
    made = episode(name, parent.tree_id, reward, rounds, parent.episode_id, fork_round)
    made.rounds[:fork_round] = parent.rounds[:fork_round]
    return made


def forest():
    """Two trees of two episodes: rewards 1 and 0 (a branch after the first round), 0 and 0."""
    a, c = episode("a", "a", 1.0), episode("c", "c", 0.0)
    return [a, branch("b", a, 1, 0.0), c, branch("d", c, 1, 0.0)]


def test_worked_numbers():
    # Group: mean 1/4, std sqrt(3/12) = 1/2. Tree a: mean 1/2, std sqrt(1/2). Tree c: equal rewards.
    groups = Groups([forest()])
    inner = [2**-0.5, -(2**-0.5), 0.0, 0.0]
    outer = [1.5, -0.5, -0.5, -0.5]
    sums = [x + y for x, y in zip(inner, outer, strict=True)]
    for estimator, expected in (("tree", sums), ("tree-inner", inner), ("group", outer)):
        (values,) = TreeGRPO({"estimator": estimator}).advantages(groups)
        assert values == pytest.approx(expected, abs=1e-5)
    # In the loss: a's first round has the mean of a and b, and b's copy of it is not learned from.
    algorithm = TreeGRPO()
    batch = pack(groups, algorithm.credit(groups))
    shared = (sums[0] + sums[1]) / 2
    assert shared == pytest.approx(0.5)
    weighted = batch.advantages_N[batch.loss_mask_N].tolist()
    assert weighted == pytest.approx([shared, sums[0], sums[1], -0.5, -0.5, -0.5], abs=1e-5)
    assert batch.loss_mask_N.tolist() == [True, True, False, True, True, True, False, True]


def test_a_tree_of_one_or_of_equals_has_no_advantage_inside_it():
    alone, pair = episode("x", "x", 1.0), [episode("y", "y", 1.0), episode("z", "y", 1.0)]
    assert tree_advantages(np.ones(3), [alone, *pair]).tolist() == [0.0, 0.0, 0.0]


def test_nodes_are_rounds_that_do_not_end_an_episode_each_once():
    a = episode("a", "a", 1.0, rounds=3)
    tree = [a, branch("b", a, 1, 0.0, rounds=4)]
    nodes = [("a", 1), ("a", 2), ("b", 2), ("b", 3)]
    rng = np.random.default_rng(0)
    drawn = [[(s.prefix.episode_id, s.fork_round) for s in draw_nodes(tree, 4, rng)] for _ in range(20)]
    assert all(sorted(starts) == nodes for starts in drawn)
    assert len({tuple(starts) for starts in drawn}) > 5
    six = [(s.prefix.episode_id, s.fork_round) for s in draw_nodes(tree, 6, rng)]
    assert sorted(six[:4]) == nodes
    assert sorted(Counter(six).values()) == [1, 1, 2, 2]
    (root,) = draw_nodes([episode("r", "r", 0.0, rounds=1)], 1, rng)
    assert (root.prefix.episode_id, root.fork_round) == ("r", 0)


@pytest.mark.parametrize(
    ("settings", "trees"),
    [({}, 2), ({"group_size": 8, "nodes": 1, "expansions": 3}, 2), ({"expansions": 0}, 6)],
)
@pytest.mark.parametrize(
    "play", [LocalRollouts(), SeededRollouts(np.random.default_rng(5))], ids=["run", "seeded"]
)
def test_the_group_is_a_forest(envs, settings, trees, play):
    algorithm, policy = TreeGRPO(settings), CandidateAgent(init_std=0.5)
    algorithm.setup(TrainContext(policy, np.random.default_rng(0), play=play))
    played = algorithm.collect(policy, envs, TaskSampler(envs.task_ids(), 3, 0))
    s = algorithm.settings
    for group in played:
        assert len(group) == s.group_size
        by_tree = Counter(e.tree_id for e in group)
        assert list(by_tree.values()) == [s.group_size // trees] * trees
        assert sum(e.parent_id is None for e in group) == trees
        assert len({e.task_id for e in group}) == len({e.group_id for e in group}) == 1
    everything = list(chain.from_iterable(played))
    sampled = {(r.uid, i) for e in everything for i, r in enumerate(e.rounds)}
    assert sum(map(new_tokens, everything)) == len(sampled), "a round of the candidate policy is one token"
    if s.expansions:
        assert sum(map(sampled_tokens, everything)) > len(sampled)
    assert collection_metrics(played)["tokens"] * len(everything) == pytest.approx(len(sampled))


def test_settings_that_make_no_whole_trees_are_refused():
    with pytest.raises(ConfigError, match="group_size is 8, but a tree has 3 episodes"):
        TreeGRPO({"group_size": 8})


def test_branches_need_a_prefix(envs):
    for play in (LocalRollouts(), SeededRollouts(np.random.default_rng(0))):
        with pytest.raises(TrainingError, match="no prefix"):
            play.branch(CandidateAgent(), envs, [Start(envs.task_ids()[0])], np.random.default_rng(0))


def test_a_request_of_branches_gives_the_same_episodes_wherever_it_is_played(envs):
    policy = CandidateAgent(init_std=0.5)
    (group,) = run_requests(policy, envs, [RolloutRequest(envs.task_ids()[0], 4, 1)])
    parent = max(group, key=lambda e: len(e.rounds))
    start = Start(parent.task_id, prefix=parent, fork_round=len(parent.rounds) - 1)
    requests = [RolloutRequest(parent.task_id, 3, 7, start), RolloutRequest(envs.task_ids()[1], 2, 8)]
    together = run_requests(policy, envs, requests)
    for request, expected in zip(requests, together, strict=True):
        assert run_requests(policy, envs, [pickle.loads(pickle.dumps(request))]) == [expected]
    assert {e.group_id for e in together[0]} == {parent.group_id}
    assert len({e.episode_id for e in together[0]}) == 3


def test_a_run_saves_its_trees_resumes_and_can_be_branched_from_its_files(tmp_path, envs):
    straight = train(CONFIG, tmp_path / "straight")
    train({**CONFIG, "iterations": 2}, tmp_path / "cut")
    resumed = resume(tmp_path / "cut", 3)
    assert straight.metrics[-1] == resumed.metrics[-1]
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert [row["episodes"] for row in rows[1:]] == [24, 24, 24]
    played = list(load_episodes(tmp_path / "straight" / "episodes" / "train-000003.jsonl"))
    assert rows[3]["tokens"] == pytest.approx(np.mean([new_tokens(e) for e in played]))
    child = next(e for e in played if e.parent_id is not None and len(e.rounds) > 1)
    start = Start(child.task_id, prefix=child, fork_round=1)
    same = make_vec("SearchQA-Terse-v0", 2, **CONFIG["env_options"])
    (again,) = LocalRollouts().branch(straight.policy, same, [start], np.random.default_rng(0))
    assert (again.tree_id, again.group_id, again.parent_id) == (
        child.tree_id,
        child.group_id,
        child.episode_id,
    )


def test_trees_are_collected_ahead(tmp_path):
    one, two = (train({**CONFIG, "rollout_lag": 1}, tmp_path / name).metrics for name in ("one", "two"))
    assert one == two
    assert one[-1]["staleness"] > 0
