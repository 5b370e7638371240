"""CAPF: the worked number, the slow plain version, and an act that exists while collecting and never in evaluations."""

import json
import typing

import numpy as np
import pytest
from helpers import small_world
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose

from searchgym.agent import FunctionAgent
from searchgym.env.feedback import FEEDBACK_LEVELS
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.records.episode import load_episodes
from searchgym.trainers.algorithms.capf import CAPF, CAPFSettings, retention_weights
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.conformance import TabularPolicy, check_trainer, synthetic_groups
from searchgym.trainers.core.algorithm import training_envs
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.core.objective import group_advantages
from searchgym.trainers.training.api import train

WORLD = small_world("country-terse", train=100)
S, F, A = "search", "feedback", "answer"


def test_worked_number():
    assert retention_weights([0, 1, 0, 1, 0], 0.5).tolist() == [0.25, 0.25, 0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("asked", "retention", "expected"),
    [
        ([0, 0, 0], 0.0, [1, 1, 1]),
        ([0, 1, 0], 0.0, [0, 0, 1]),
        ([0, 1, 0], 1.0, [1, 1, 1]),
        ([1], 0.5, [0.5]),
        ([0, 0, 1], 0.25, [0.25, 0.25, 0.25]),
    ],
)
def test_edges_of_the_retention(asked, retention, expected):
    assert retention_weights(asked, retention).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_weights_equal_the_plain_formula(seed):
    rng = np.random.default_rng(seed)
    asked = rng.random(rng.integers(1, 12)) < 0.4
    rho = float(rng.choice([0.0, 0.3, 0.5, 1.0]))
    plain = [
        rho ** sum(1 for k, is_call in enumerate(asked) if is_call and k >= t) for t in range(len(asked))
    ]
    assert_allclose(retention_weights(asked, rho), plain)


def mixed():
    """A repaired success, an unassisted success, an assisted failure, an unassisted failure."""
    return group_of(
        episode([None] * 4, 1.0, [S, F, S, A]),
        episode([None] * 2, 1.0, [S, A]),
        episode([None] * 3, 0.0, [F, S, A]),
        episode([None] * 2, 0.0, [S, A]),
    )


def test_credit_up_to_the_feedback_is_attenuated_once_and_what_follows_is_not():
    groups = mixed()
    credit = CAPF().credit(groups)
    a = group_advantages([1, 1, 0, 0])
    repaired, alone, failed, plain = credit.values[0]
    assert_allclose(repaired, a[0] * np.array([0.5, 0.5, 1, 1]))
    assert_allclose(alone, [a[1]] * 2)
    assert_allclose(failed, a[2] * np.array([0.5, 1, 1]))
    assert_allclose(plain, [a[3]] * 2)
    assert credit.metrics == {"feedback_calls": 0.5, "retained": pytest.approx((2 * 0.5 + 2 + 0.5 + 2) / 7)}


def test_only_positive_advantages():
    _, _, failed, _ = CAPF({"attenuate": "positive"}).credit(mixed()).values[0]
    assert_allclose(failed, [group_advantages([1, 1, 0, 0])[2]] * 3)
    repaired, *_ = CAPF({"attenuate": "positive"}).credit(mixed()).values[0]
    assert repaired[0] < repaired[-1]


def test_retention_one_is_grpo():
    groups = Groups(synthetic_groups(TabularPolicy(), groups=6))
    assert any(r.action.kind == F for e in groups.episodes for r in e.rounds)
    assert_allclose(
        CAPF({"retention": 1.0}).credit(groups).to_tokens(groups), GRPO().credit(groups).to_tokens(groups)
    )


def test_the_baseline_of_those_who_asked_for_nothing():
    groups = group_of(
        episode([None] * 3, 1.0, [S, F, A]),
        episode([None] * 2, 1.0, [S, A]),
        episode([None] * 2, 0.0, [S, A]),
        episode([None] * 2, 0.0, [S, A]),
    )
    plain = CAPF({"baseline": "unassisted", "advantage": "dr-grpo"}).advantages(groups)[0]
    assert_allclose(plain, np.array([1, 1, 0, 0]) - 1 / 3)
    scaled = CAPF({"baseline": "unassisted"}).advantages(groups)[0]
    assert_allclose(scaled, plain / (np.std([1, 1, 0, 0], ddof=1) + 1e-6))
    assert_allclose(CAPF().advantages(groups)[0], group_advantages([1, 1, 0, 0]))


def test_a_baseline_of_none_of_one_and_of_equals():
    algorithm = CAPF({"baseline": "unassisted"})
    assisted = group_of(episode([None] * 2, 1.0, [F, A]), episode([None] * 2, 0.0, [F, A]))
    assert_allclose(algorithm.advantages(assisted)[0], group_advantages([1, 0]))
    alone = group_of(episode([None] * 2, 1.0, [S, A]))
    assert_allclose(algorithm.advantages(alone)[0], group_advantages([1]))
    # Only failures went without: the one success must not be divided by their standard deviation of 0.
    rescued = group_of(
        episode([None] * 2, 1.0, [F, A]), *(episode([None] * 2, 0.0, [S, A]) for _ in range(3))
    )
    assert_allclose(algorithm.advantages(rescued)[0], [2, 0, 0, 0], rtol=1e-5)
    equal = group_of(episode([None] * 2, 1.0, [F, A]), episode([None] * 2, 1.0, [S, A]))
    assert not algorithm.credit(equal).to_tokens(equal).any()


def test_a_leave_one_out_baseline_has_no_mean_to_replace():
    with pytest.raises(ConfigError, match="advantage=rloo does not subtract"):
        CAPF({"baseline": "unassisted", "advantage": "rloo"})


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_retention_out_of_range(value):
    with pytest.raises(ConfigError, match=r"'retention' is .* must be between 0.0 and 1.0"):
        CAPF({"retention": value})


@pytest.mark.parametrize(
    "settings",
    [{"retention": 0.0}, {"baseline": "unassisted", "attenuate": "positive", "advantage": "dr-grpo"}],
)
def test_conformance(settings):
    check_trainer(CAPF(settings))


def test_levels_are_those_of_the_environment():
    assert typing.get_args(typing.get_type_hints(CAPFSettings)["level"]) == FEEDBACK_LEVELS


def test_the_act_is_switched_on_for_collecting_and_off_for_evaluations():
    envs = make_vec("SearchQA-Terse-v0", 3, corpus=WORLD)
    algorithm = CAPF({"level": "hop", "calls": 2})
    training = training_envs(algorithm, envs)
    assert (training.config.feedback_level, training.config.feedback_calls, training.num_envs) == (
        "hop",
        2,
        3,
    )
    assert "feedback" in training.system_prompt
    assert training_envs(algorithm, training) is training
    assert not envs.config.has_feedback
    evaluation = training.config.for_evaluation()
    assert not evaluation.has_feedback
    assert "feedback" not in evaluation.system_prompt


def test_feedback_of_another_level_is_refused():
    envs = make_vec("SearchQA-Terse-v0", 1, corpus=WORLD, feedback={"level": "gold", "calls": 1})
    with pytest.raises(ConfigError, match="level 'gold' and 1 calls, capf's settings say 'kind' and 1"):
        training_envs(CAPF(), envs)


@pytest.mark.usefixtures("no_curve")
def test_a_training_run_with_feedback(tmp_path):
    attenuated = []

    def probe(iteration, policy, groups, credit):
        """Of every episode with feedback and an advantage: what rounds up to it got of what the others got."""
        for group, values in zip(groups, credit.values, strict=True):
            for played, credit_R in zip(group, values, strict=True):
                asked = [i for i, r in enumerate(played.rounds) if r.action.kind == "feedback"]
                if asked and asked[0] + 1 < len(credit_R) and credit_R[-1]:
                    assert_allclose(credit_R[asked[0] + 1 :], credit_R[-1])
                    attenuated.append(credit_R[: asked[0] + 1] / credit_R[-1])
        return {}

    result = train(
        {
            "trainer": "capf",
            "agent": "candidate",
            "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1], "reward": {"recall": 1.0}},
            "iterations": 2,
            "questions": 4,
            "eval_episodes": 10,
            "settings": {"group_size": 8, "level": "gold", "retention": 0.25},
        },
        tmp_path / "run",
        probe=probe,
    )
    assert len(attenuated) >= 10
    assert_allclose(np.concatenate(attenuated), 0.25)
    for row in result.metrics[1:]:
        assert row["assisted"] >= 0.1
        assert row["feedback_calls"] >= 0.1
        assert row["assisted_em"] is not None
        assert row["unassisted_em"] is not None
        assert 0.25 < row["retained"] < 1.0
    (trained, *_) = load_episodes(tmp_path / "run" / "episodes" / "train-000002.jsonl")
    assert (trained.env["feedback"], trained.env["feedback_calls"]) == ("gold", 1)
    for evaluated in load_episodes(tmp_path / "run" / "episodes" / "eval-000002.jsonl"):
        assert evaluated.env["feedback"] == "off"
        assert not evaluated.outcome.assisted
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["level"] == "gold"


def test_an_evaluation_refuses_the_act():
    envs = make_vec("SearchQA-Terse-v0", 1, corpus=WORLD)
    env_config = training_envs(CAPF(), envs).config.for_evaluation()
    from searchgym.env.vector import SearchVectorEnv
    from searchgym.rollouts.collection import collect

    agent = FunctionAgent(lambda observation, info: "<feedback>a</feedback>")
    (played,) = collect(SearchVectorEnv.from_config(env_config, 1), agent, envs.task_ids()[:1])
    assert {r.action.kind for r in played.rounds} == {"invalid"}
    assert {r.action.error for r in played.rounds} == {"feedback_off"}
