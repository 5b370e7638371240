"""CW-GRPO: the worked numbers, the slow plain version, and what happens where verdicts or rounds are missing."""

import json
import math

import numpy as np
import pytest
from helpers import small_world
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose

from searchgym.errors import ConfigError, TrainingError
from searchgym.trainers.algorithms.cw_grpo import CWGRPO, round_weights
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.conformance import TabularPolicy, check_trainer, synthetic_groups
from searchgym.trainers.core.groups import Groups
from searchgym.trainers.training.api import train

INFINITY = math.inf


def weights(p, answer_p=0.0, **options):
    """Weights of the search rounds of one episode, and of its answer round."""
    p_R = np.array([*p, answer_p])
    search_R = np.array([True] * len(p) + [False])
    result = round_weights(p_R, search_R, np.zeros(len(p_R), dtype=np.int64), **options)
    return result[:-1].tolist(), result[-1]


@pytest.mark.parametrize(
    ("p", "alpha", "expected"),
    [
        ((1, 0, 0), INFINITY, (3, 0, 0)),
        ((1, 0, 0), 1.0, (1.7284, 0.6358, 0.6358)),
        ((1, 0, 0), 0.0, (1, 1, 1)),
        ((0, 0, 0), INFINITY, (0, 0, 0)),
        ((0, 0, 0), 1.0, (1, 1, 1)),
        ((0, 0, 0), 1e6, (1, 1, 1)),
        ((1, 1, 0), INFINITY, (1.5, 1.5, 0)),
        ((0.5, 0.25, 0.25), INFINITY, (1.5, 0.75, 0.75)),
    ],
)
def test_worked_numbers(p, alpha, expected):
    search, answer = weights(p, alpha=alpha)
    assert_allclose(search, expected, atol=5e-5)
    assert answer == 1.0


def test_a_failure_spreads_its_advantage_evenly_whatever_the_verdicts():
    groups = group_of(*(episode(p, 0.0) for p in [(1, 0, 0, 0), (1, 1, 1, 1)]), episode((0, 0), 1.0))
    for alpha in ("inf", 1.0, 0.0):
        (group,) = CWGRPO({"alpha": alpha}).credit(groups).values
        for credit in group[:2]:
            assert_allclose(credit, np.full(len(credit), -1 / math.sqrt(3)), rtol=1e-5)


def test_the_answers_own_contribution_counts_only_where_asked_for():
    assert weights((1, 0), 1.0, alpha=INFINITY) == ([2, 0], 1)
    assert weights((1, 0), 1.0, alpha=INFINITY, count_answer=True) == ([1, 0], 1)
    assert_allclose(weights((1, 0), 1.0, alpha=2.0, count_answer=True)[0], weights((1, 0), alpha=2.0)[0])


def test_no_contribution_as_released_or_uniform():
    assert weights((0, 0), alpha=INFINITY, uniform=True) == ([1, 1], 1)
    assert weights((0, 0), 1.0, alpha=INFINITY, uniform=True, count_answer=True) == ([1, 1], 1)
    assert weights((0, 1), alpha=INFINITY, uniform=True) == ([0, 2], 1)
    groups = group_of(episode((0, 0, 0), 1.0), episode((0, 0), 0.0))
    (released,) = CWGRPO().credit(groups).values
    assert_allclose(released[0], [0, 0, math.sqrt(0.5)], rtol=1e-5)
    (uniform,) = CWGRPO({"no_contribution": "uniform"}).credit(groups).values
    assert_allclose(uniform[0], np.full(3, math.sqrt(0.5)), rtol=1e-5)


def plainly(groups, alpha, no_contribution, weigh, count_answer):
    """The formula, episode by episode and round by round."""
    values = []
    for group, r_G in zip(groups, groups.rewards, strict=True):
        mean, std = sum(r_G) / len(r_G), 1.0
        if len(r_G) > 1:
            std = math.sqrt(sum((r - mean) ** 2 for r in r_G) / (len(r_G) - 1))
        values.append([])
        for one, reward in zip(group, r_G, strict=True):
            advantage = (reward - mean if len(r_G) > 1 else reward) / (std + 1e-6)
            credit = [advantage] * len(one.rounds)
            p = []
            for round_ in one.rounds:
                if round_.action.kind == "feedback":
                    p.append(0.0)
                elif round_.judge.status == "ok":
                    p.append(round_.judge.utility * round_.judge.reasoning)
                else:
                    p.append(None)
            search = [t for t, r in enumerate(one.rounds) if r.action.kind != "answer"]
            needed = range(len(p)) if count_answer else search
            chosen = advantage > 0 if weigh == "positive" else one.outcome.em > 0
            if chosen and search and all(p[t] is not None for t in needed):
                total = sum(p[t] for t in needed)
                if alpha == INFINITY and no_contribution == "uniform" and not sum(p[t] for t in search):
                    share = {t: 1 / len(search) for t in search}
                elif alpha == INFINITY:
                    share = {t: p[t] / max(total, 1e-6) for t in search}
                else:
                    total = sum(math.exp(alpha * p[t]) for t in search)
                    share = {t: math.exp(alpha * p[t]) / total for t in search}
                for t in search:
                    credit[t] = advantage * share[t] * len(search)
            values[-1].append(credit)
    return values


def random_groups(rng):
    groups = []
    for _ in range(rng.integers(1, 4)):
        group = []
        for _ in range(rng.integers(1, 6)):
            count = int(rng.integers(1, 6))
            p = [
                None if rng.random() < 0.05 else float(rng.choice([0.0, 0.0, 1.0, 0.3])) for _ in range(count)
            ]
            kinds = rng.choice(["search", "search", "feedback", "invalid"], count).tolist()
            kinds[-1] = "answer" if rng.random() < 0.8 else kinds[-1]
            reward = float(rng.choice([0.0, 1.0, 0.5]))
            group.append(episode(p, reward, kinds, f"e{len(groups)}-{len(group)}", em=rng.random() < 0.5))
        groups.append(group)
    return Groups(groups)


@pytest.mark.parametrize("seed", range(40))
def test_vectorised_credit_equals_the_plain_one(seed):
    rng = np.random.default_rng(seed)
    groups = random_groups(rng)
    options = {
        "alpha": [0.5, 3.0, INFINITY][seed % 3],
        "no_contribution": ["zero", "uniform"][seed % 2],
        "weigh": ["positive", "success"][seed // 2 % 2],
        "count_answer": bool(seed % 5 == 0),
    }
    credit = CWGRPO(options).credit(groups)
    for got, wanted in zip(credit.values, plainly(groups, **options), strict=True):
        for one, other in zip(got, wanted, strict=True):
            assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    credit.to_tokens(groups)


def test_weights_redistribute_and_add_nothing():
    groups = Groups(synthetic_groups(TabularPolicy(), groups=12))
    plain = GRPO().credit(groups).values
    for settings in ({"alpha": 2.0}, {"no_contribution": "uniform"}):
        for group, weighed, before in zip(groups, CWGRPO(settings).credit(groups).values, plain, strict=True):
            for one, credit, advantage in zip(group, weighed, before, strict=True):
                if len(one.rounds) > 1:
                    assert_allclose(credit[:-1].mean(), advantage[0], rtol=1e-9, atol=1e-12)
                assert credit[-1] == advantage[0]


def test_alpha_zero_is_grpo_and_needs_no_verdicts():
    groups = group_of(episode((None, None), 1.0), episode((None,), 0.0))
    algorithm = CWGRPO({"alpha": 0})
    assert_allclose(algorithm.credit(groups).to_tokens(groups), GRPO().credit(groups).to_tokens(groups))
    assert algorithm.credit(groups).metrics == {}


@pytest.mark.parametrize("missing", [None, "error"])
def test_a_missing_verdict_leaves_grpos_credit_and_is_counted(missing):
    groups = group_of(episode((1, missing, 0), 1.0), episode((1, 0, 0), 1.0), episode((missing, 0), 0.0))
    credit = CWGRPO().credit(groups)
    plain = GRPO().advantages(groups)[0]
    assert_allclose(credit.values[0][0], [plain[0]] * 3)
    assert_allclose(credit.values[0][1], np.array([2, 0, 1]) * plain[1])
    assert_allclose(credit.values[0][2], [plain[2]] * 2)
    assert (credit.metrics["weighed"], credit.metrics["unjudged"]) == (1, 1)


def test_the_answers_verdict_is_needed_only_where_it_counts():
    groups = group_of(episode((1, 0, None), 1.0), episode((0,), 0.0))
    assert CWGRPO().credit(groups).metrics["unjudged"] == 0
    assert CWGRPO({"count_answer": True}).credit(groups).metrics["unjudged"] == 1


def test_feedback_acts_contribute_nothing_and_need_no_verdict():
    groups = group_of(
        episode((1, None, 0), 1.0, ["search", "feedback", "answer"]),
        episode((1, None), 1.0, ["search", "none"]),
        episode((0,), 0.0),
    )
    first, second, _ = CWGRPO().credit(groups).values[0]
    assert_allclose(first / first[-1], [2, 0, 1])
    assert_allclose(second / second[0], [1, 0])


def test_without_an_answer_all_rounds_share():
    kinds = ["search", "search", "invalid"]
    groups = group_of(episode((0, 1, 0), 0.5, kinds), episode((0, 0), 0.0))
    (credit, _) = CWGRPO().credit(groups).values[0]
    assert_allclose(credit, [0, 3 * math.sqrt(0.5), 0], rtol=1e-5)


def test_an_answer_without_any_search_keeps_grpos_credit():
    groups = group_of(episode((0,), 1.0), episode((1, 0), 0.0))
    credit = CWGRPO().credit(groups)
    assert_allclose(credit.values[0][0], [math.sqrt(0.5)], rtol=1e-5)
    assert credit.metrics == {"weighed": 0.0, "unjudged": 0.0}


def test_whom_to_weigh_when_reward_and_answer_disagree():
    # Right with a low reward, wrong with a high one: the code weighs the second, the paper's formula the first.
    groups = group_of(episode((1, 0, 0), 0.2, em=1), episode((1, 0, 0), 0.8, em=0))
    right, wrong = CWGRPO().credit(groups).values[0]
    assert len(set(right)) == 1 < len(set(wrong))
    right, wrong = CWGRPO({"weigh": "success"}).credit(groups).values[0]
    assert len(set(wrong)) == 1 < len(set(right))


def test_equal_rewards_and_groups_of_one():
    equal = group_of(episode((1, 0), 1.0), episode((0, 0), 1.0))
    assert not CWGRPO().credit(equal).to_tokens(equal).any()
    alone = group_of(episode((1, 0, 0), 1.0))
    assert_allclose(CWGRPO().credit(alone).values[0][0], [2, 0, 1], rtol=1e-5)


def test_concentration():
    groups = group_of(
        episode((1, 0, 0, 0, 0), 1.0), episode((1, 1, 0), 1.0), episode((0, 0, 0), 1.0), episode((1, 0), 0.0)
    )
    metrics = CWGRPO().credit(groups).metrics
    assert metrics["weighed"] == 3
    assert metrics["contributing_rounds"] == 3 / 8
    assert metrics["without_contribution"] == pytest.approx(1 / 3)
    assert metrics["credit_on_contributing"] == 1.0
    assert metrics["effective_rounds"] == 1.5  # one round of four, two of two
    spread = CWGRPO({"alpha": 0.001}).credit(groups).metrics
    assert spread["credit_on_contributing"] == pytest.approx(3 / 8, abs=1e-3)
    assert spread["effective_rounds"] == pytest.approx(8 / 3, abs=1e-3)


@pytest.mark.parametrize("value", [math.inf, "inf", 0, 3, 1e3])
def test_alpha_may_be_infinite_and_stays_json(value):
    settings = CWGRPO({"alpha": value}).settings
    assert json.loads(json.dumps(settings.alpha, allow_nan=False)) == (
        "inf" if value in ("inf", math.inf) else value
    )


@pytest.mark.parametrize("value", [-1, math.nan, "infinite", -math.inf, True])
def test_alpha_out_of_range(value):
    with pytest.raises(ConfigError, match="trainer setting 'alpha' is"):
        CWGRPO({"alpha": value})


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.0, "advantage": "rloo"},
        {"no_contribution": "uniform", "weigh": "success", "advantage": "dr-grpo"},
        {"count_answer": True, "kl_coef": 0.001, "skip_equal": False},
    ],
)
def test_conformance(settings):
    check_trainer(CWGRPO(settings))


def test_a_reward_that_is_not_a_number_stops():
    one = episode((1, 0), 1.0)
    one.rounds[-1].reward = math.nan
    with pytest.raises(TrainingError, match=r"the reward of episode 'e0' .* is nan: rewards must be finite"):
        group_of(one, episode((1, 0), 0.0))


WORLD = small_world("country-terse", train=100)
CONFIG = {"trainer": "cw-grpo", "agent": "candidate", "iterations": 1, "questions": 2, "eval_episodes": 0}


@pytest.mark.usefixtures("no_curve")
def test_an_environment_without_a_judge_is_refused_before_anything_is_written(tmp_path):
    config = {**CONFIG, "env_options": {"corpus": WORLD}, "settings": {"group_size": 4}}
    with pytest.raises(ConfigError, match="has no judge: add --env-option judge=oracle"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train({**config, "settings": {"group_size": 2, "alpha": 0}}, tmp_path / "run")


@pytest.mark.usefixtures("no_curve")
def test_the_documented_options_judge_only_what_is_needed(tmp_path):
    options = {
        "corpus": WORLD,
        "types": ["chain"],
        "hops": [1],
        "judge": "oracle",
        "judge_when": "unequal-success",
    }
    settings = {"group_size": 16, "entropy_coef": 0.01, "skip_equal": False}
    result = train(
        {
            **CONFIG,
            "env_options": options,
            "iterations": 7,
            "questions": 16,
            "lr": 0.15,
            "settings": settings,
        },
        tmp_path / "run",
    )
    weighed = [row for row in result.metrics if row.get("weighed")]
    assert weighed
    assert all(row["unjudged"] == row["judge_errors"] == 0 for row in weighed)
    assert any(0 < row["judged"] < 0.5 for row in weighed)
