"""IGPO and SPAE: credit from the policy's own probability of the gold answer, with numbers worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from searchgym.agents.answer_probes import ProbedAnswers
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.scripted import StumblingAgent
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, TrainingError
from searchgym.records.episode import Segment
from searchgym.rollouts.collection import collect
from searchgym.trainers.algorithms.probes.igpo import IGPO
from searchgym.trainers.algorithms.probes.spae import SPAE, potential, saturation_factors
from searchgym.trainers.components.answer_probes import PROBED, change_after, probe_rounds, read_probes
from searchgym.trainers.conformance import TabularPolicy, make_episode
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.credit_audit.trainer_credit import trainer_credit
from searchgym.trainers.credit_audit.weightless import WeightlessPolicy


class Said(TabularPolicy):
    """Says given numbers: (episode, round) -> log-probabilities and entropies of the answer's tokens."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def probe_answers(self, probes, evaluate):
        tokens = [
            (logprob, entropy, i)
            for i, probe in enumerate(probes)
            for logprob, entropy in self.said.get((probe.episode.episode_id, probe.round_index), [])
        ]
        logprobs, entropies, owners = zip(*tokens, strict=True)
        return ProbedAnswers(np.array(logprobs), np.array(entropies), np.array(owners), 7 * len(probes))


def values(name, numbers):
    return {(name, t): [(math.log(v) if v else -math.inf, 0.0)] for t, v in enumerate(numbers)}


def episode(name, rounds, reward, lengths=None):
    lengths = lengths or [1] * rounds
    owner = [t for t, length in enumerate(lengths) for _ in range(length + 1)]
    mask = [int(k > 0) for length in lengths for k in range(length + 1)]
    made = make_episode(
        [Segment([0] * len(owner), mask, [-1.0 * m for m in mask], owner)],
        reward,
        episode_id=name,
        group_id="g",
    )
    made.outcome.f1 = reward
    return made


def credit(algorithm, policy, *groups):
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    made = Groups(groups, [algorithm.rewards(group) for group in groups])
    algorithm.prepare(policy, made)
    return made, algorithm.credit(made)


# v = 0.1, 0.3, 0.8 and F1 = 1: gains 0.2 and 0.5, returns 1.7, 1.5, 1. The other: gain -0.05, returns -0.05, 0.
SAID = Said(values("a", [0.1, 0.3, 0.8]) | values("b", [0.1, 0.05]))


def test_igpo_by_hand():
    group = [episode("a", 3, 1.0), episode("b", 2, 0.0)]
    _, given = credit(IGPO(), SAID, group)
    a, b = given.values[0]
    np.testing.assert_allclose(a, [0.875, 0.75, 0.0], atol=1e-12)
    np.testing.assert_allclose(b, [-0.875, -0.75], atol=1e-12)
    assert given.metrics["probe_tokens"] == 35
    assert given.metrics["gain"] == pytest.approx((0.2 + 0.5 - 0.05) / 3)


def test_igpo_with_a_standard_deviation_and_a_discount():
    group = [episode("a", 3, 1.0), episode("b", 2, 0.0)]
    _, given = credit(IGPO({"advantage": "grpo", "gamma": 0.5}), SAID, group)
    # returns 0.2 + 0.5 (0.5 + 0.5) = 0.7, 1, 1 and -0.05, 0; of two numbers, the z-scores are +-1/sqrt(2)
    np.testing.assert_allclose(given.values[0][0], [1 / math.sqrt(2), 1 / math.sqrt(2), 0.0], rtol=1e-5)
    np.testing.assert_allclose(given.values[0][1], [-1 / math.sqrt(2)] * 2, rtol=1e-5)


def test_igpo_compares_rounds_token_positions_or_all():
    group = [episode("a", 3, 1.0, [2, 1, 1]), episode("b", 2, 0.0, [1, 3])]
    _, by_token = credit(IGPO({"compare": "token"}), SAID, group)
    # a: 1.7 1.7 1.5 1, b: -0.05 0 0 0
    np.testing.assert_allclose(by_token.values[0][0], [0.875, 0.85, 0.75, 0.5], atol=1e-12)
    np.testing.assert_allclose(by_token.values[0][1], [-0.875, -0.85, -0.75, -0.5], atol=1e-12)
    _, by_group = credit(IGPO({"compare": "group"}), SAID, group)
    mean = (1.7 + 1.5 + 1.0 - 0.05 + 0.0) / 5
    np.testing.assert_allclose(
        np.concatenate(by_group.values[0]), np.array([1.7, 1.5, 1.0, -0.05, 0.0]) - mean
    )


def test_igpo_pays_f1_or_what_the_environment_pays():
    half = episode("a", 2, 0.0)
    half.outcome.f1 = 0.5
    half.rounds[0].reward = 0.25
    other = episode("b", 2, 0.0)
    said = Said(values("a", [0.1, 0.1]) | values("b", [0.1, 0.1]))
    _, given = credit(IGPO(), said, [half, other])
    np.testing.assert_allclose(given.values[0][0], [0.25, 0.25])
    _, given = credit(IGPO({"outcome": "reward"}), said, [half, other])
    np.testing.assert_allclose(given.values[0][0], [0.125, 0.0])


def test_equal_outcomes_are_kept_and_gains_decide():
    group = [episode("a", 2, 0.0), episode("b", 2, 0.0)]
    algorithm = IGPO()
    assert algorithm.select(Groups([group])) == [True]
    said = Said(values("a", [0.1, 0.6]) | values("b", [0.1, 0.1]))
    _, given = credit(algorithm, said, group)
    np.testing.assert_allclose(given.values[0][0], [0.25, 0.0], atol=1e-12)
    _, nothing = credit(IGPO(), Said(values("a", [0.1, 0.6]) | values("b", [0.2, 0.7])), group)
    assert np.abs(np.concatenate(nothing.values[0])).max() < 1e-12


def test_a_round_that_cannot_be_probed_changed_nothing():
    said = {**values("a", [0.1, 0.3, 0.8]), **values("b", [0.1, 0.05])}
    del said["a", 1], said["b", 0]
    groups = Groups([[episode("a", 3, 1.0), episode("b", 2, 0.0)]])
    probe_rounds(Said(said), groups, 1)
    np.testing.assert_allclose(read_probes(groups).probability_R, [0.1, 0.1, 0.8, 0.0, 0.05])


def test_an_answer_of_several_tokens():
    groups = Groups([[episode("a", 1, 1.0)]])
    probe_rounds(Said({("a", 0): [(math.log(0.5), 0.0), (math.log(0.125), math.log(2))]}), groups, 1)
    kept = groups.episodes[0].extra[PROBED]
    assert kept["probability"] == pytest.approx([0.25])  # the geometric mean
    assert kept["accuracy"] == pytest.approx([0.3125])
    assert kept["confidence"] == pytest.approx([0.75])
    json.dumps(kept, allow_nan=False)


def test_potential_and_saturation_by_hand():
    phi = potential(np.array([1.0, 0.0, 0.0, 0.5]), np.array([1.0, 1.0, 0.0, 0.8]))
    np.testing.assert_allclose(phi, [1.0, -1.0, 0.0, 0.05])
    f = saturation_factors(
        np.array([False, True, False, True, True, True]),
        np.array([False, False, False, False, True, False]),
        np.array([0, 0, 0, 0, 0, 1]),
        0.5,
    )
    one, two = 0.5 + 0.5 / math.e, 0.5 + 0.5 / math.e**2
    np.testing.assert_allclose(f, [1.0, one, one, two, 1.0, one])


def test_spae_by_hand():
    # confidence 1 throughout, so the potential is 2 Acc - 1: -0.8, 0.2, 1 and -0.8, -1; changes 1, 0.8 and -0.2
    said = Said(values("a", [0.1, 0.6, 1.0]) | values("b", [0.1, 0.0]))
    group = [episode("a", 3, 1.0), episode("b", 2, 0.0)]
    _, given = credit(SPAE({"saturation": 0.1}), said, group)
    raised = np.exp([1.0, 0.8, -0.2])
    g = 0.5 * (raised - raised.mean())
    outcome, saturated = 1 / math.sqrt(2), 0.5 + 0.5 / math.e
    np.testing.assert_allclose(
        given.values[0][0], [outcome + g[0], outcome * saturated + g[1], outcome], rtol=1e-5
    )
    np.testing.assert_allclose(given.values[0][1], [-outcome + g[2], -outcome], rtol=1e-5)
    assert given.metrics["saturated"] == pytest.approx(0.2)
    _, plain = credit(SPAE({"xi": 0, "alpha": 0}), said, group)
    np.testing.assert_allclose(np.concatenate(plain.values[0]), [outcome] * 3 + [-outcome] * 2, rtol=1e-5)


def test_changes_stay_inside_episodes():
    assert change_after(np.array([1.0, 3.0, 7.0, 8.0]), np.array([0, 0, 1, 1])).tolist() == [
        2.0,
        0.0,
        1.0,
        0.0,
    ]
    assert len(change_after(np.zeros(0), np.zeros(0, dtype=np.int64))) == 0


@pytest.mark.parametrize("trainer", [IGPO, SPAE])
def test_an_agent_without_probes_is_refused_by_name(trainer):
    with pytest.raises(ConfigError, match=r"'stumbling' has no probe_answers"):
        trainer().check_policy(WeightlessPolicy(StumblingAgent()))


def test_what_cannot_be_compared_or_probed():
    for trainer in (IGPO, SPAE):
        with pytest.raises(ConfigError, match="group_size"):
            trainer({"group_size": 1})
    without = episode("a", 2, 1.0)
    without.gold["answers"] = []
    with pytest.raises(TrainingError, match="no gold answer"):
        probe_rounds(SAID, Groups([[without]]), 1)


def test_the_audit_counts_what_was_probed():
    policy = CandidateAgent(start="lookup", memory=False)
    envs = make_vec(
        "SearchQA-Forks-v0", 4, corpus={"name": "forks", "family": "decoys", "train": 4, "dev": 1, "test": 1}
    )
    group = collect(envs, policy, [envs.task_ids()[0]] * 4, group_ids=["g"] * 4)
    given = trainer_credit(IGPO(), policy, [group], np.random.default_rng(0))
    assert given.pass_tokens == sum(len(e.rounds) for e in group)
    assert "probe_answers" not in vars(policy)
