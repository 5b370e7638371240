"""GRPO's variants: each against a slow plain version of its paper's formula, DAPO's four pieces, and learning."""

import inspect
import math

import numpy as np
import pytest
import torch
from helpers import small_world
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_episodes import episode, group_of
from numpy.testing import assert_allclose

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, TrainingError
from searchgym.trainers.algorithms.grpo import GRPO, naked_grpo
from searchgym.trainers.algorithms.variants import VARIANTS
from searchgym.trainers.conformance import TabularPolicy, check_trainer, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import pack
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.core.groups import Groups, drop_invalid
from searchgym.trainers.core.objective import discounted_sums, sequence_log_ratio, whiten
from searchgym.trainers.training.api import train

WORLD = small_world("country-terse", train=300, dev=400)


def ended(reward, tokens=1):
    return episode((None,), reward, tokens=tokens)


@pytest.mark.parametrize("name", VARIANTS)
def test_conformance(name):
    check_trainer(GRPO({"variant": name}))


def test_a_setting_that_is_given_wins_over_its_variant():
    assert GRPO({"variant": "dapo"}).settings.clip_high == 0.28
    assert GRPO({"variant": "dapo", "clip_high": 0.5}).settings.clip_high == 0.5
    assert GRPO({"variant": "dapo"}).settings.aggregation == "token-mean"
    assert GRPO().settings == GRPO({"variant": "grpo"}).settings
    for name in VARIANTS:
        assert GRPO({"variant": name}).settings.variant == name


@pytest.mark.parametrize("value", ["dapo2", None, 3, []])
def test_an_unknown_variant_is_refused(value):
    with pytest.raises(ConfigError, match=r"'variant' is .* Choose one of: grpo, dr-grpo"):
        GRPO({"variant": value})


# -- advantages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("grpo", [1.5, -0.5, -0.5, -0.5]),
        ("dapo", [1.5, -0.5, -0.5, -0.5]),
        ("gspo", [1.5, -0.5, -0.5, -0.5]),
        ("rloo", [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("dr-grpo", [0.75, -0.25, -0.25, -0.25]),
        ("reinforce++", [1.5, -0.5, -0.5, -0.5]),  # equal lengths, one group: what GRPO gives
        ("reinforce++-baseline", [1.5, -0.5, -0.5, -0.5]),
    ],
)
def test_worked_number_of_each_variant(variant, expected):
    groups = group_of(ended(1.0), ended(0.0), ended(0.0), ended(0.0))
    (advantages,) = GRPO({"variant": variant}).advantages(groups)
    assert_allclose(advantages, expected, rtol=3e-6)


GROUPS = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 0.5]), st.integers(1, 4)), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
)


@given(GROUPS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_reinforce_plus_plus_equals_a_loop_over_tokens(drawn, baseline):
    groups = Groups([
        [episode((None,), r, name=f"e{g}-{i}", tokens=n) for i, (r, n) in enumerate(group)]
        for g, group in enumerate(drawn)
    ])  # fmt: skip
    tokens = []
    for group in drawn:
        mean = sum(r for r, _ in group) / len(group) if baseline and len(group) > 1 else 0.0
        tokens += [r - mean for r, n in group for _ in range(n)]
    mean = sum(tokens) / len(tokens)
    spread = sum((x - mean) ** 2 for x in tokens) / max(len(tokens) - 1, 1)
    wanted = [(x - mean) / (math.sqrt(spread) + 1e-8) for x in tokens]
    if max(tokens) - min(tokens) < 1e-9:
        wanted = [0.0] * len(tokens)
    algorithm = GRPO({"variant": "reinforce++-baseline" if baseline else "reinforce++"})
    assert_allclose(algorithm.credit(groups).to_tokens(groups), wanted, rtol=1e-6, atol=1e-6)


def test_reinforce_plus_plus_learns_from_groups_of_equal_rewards():
    groups = Groups([[ended(1.0), ended(1.0)], [ended(0.0), ended(0.0)]])
    plain, batch = GRPO(), GRPO({"variant": "reinforce++"})
    assert (plain.select(groups), batch.select(groups)) == ([False] * 2, [True] * 2)
    credit = batch.credit(groups).to_tokens(groups)
    assert_allclose(credit, np.array([1, 1, -1, -1]) * math.sqrt(3) / 2, rtol=1e-6)
    equal = Groups([[ended(1.0), ended(1.0)]])
    assert not batch.credit(equal).to_tokens(equal).any()


def test_whitening_counts_tokens_and_gives_exact_zeros_for_equals():
    assert_allclose(whiten(np.array([1.0, 0.0]), np.array([1, 3])), [1.5, -0.5])
    assert whiten(np.array([0.1, 0.1, 0.1]), np.array([1, 2, 3])).tolist() == [0.0] * 3
    assert whiten(np.array([0.7]), np.array([1])).tolist() == [0.0]
    assert whiten(np.zeros(0), np.zeros(0, dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize("seed", range(10))
def test_discounted_sums_equal_the_plain_formula(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 7, rng.integers(1, 6))
    values, discount = rng.normal(size=lengths.sum()), rng.random()
    owner = np.repeat(np.sort(rng.choice(30, len(lengths), replace=False)), lengths)
    plain = [
        sum(discount**j * values[k + j] for j in range(len(values) - k) if owner[k + j] == owner[k])
        for k in range(len(values))
    ]
    assert_allclose(discounted_sums(values, owner, discount), plain)
    assert discounted_sums(np.zeros(0), np.zeros(0, dtype=np.int64), 0.5).shape == (0,)


# -- GSPO ----------------------------------------------------------------------------------------------------------


def test_gspos_ratio_is_the_geometric_mean_of_a_sequences_ratios():
    new, old = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.7])
    log_ratio = sequence_log_ratio(new, old, torch.tensor([0, 0, 1]))
    assert_allclose(log_ratio.exp(), np.exp([-0.25, -0.25, 0.2]), rtol=1e-6)
    assert sequence_log_ratio(new[:0], old[:0], torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_gspos_loss_and_gradient_are_those_of_the_paper():
    """With one advantage per sequence the token form has the gradient of the sequence form."""
    policy = TabularPolicy(seed=3)
    groups = Groups(synthetic_groups(policy, groups=3, seed=5))
    algorithm = GRPO({"variant": "gspo", "clip_low": 0.1, "clip_high": 0.15, "sequence": "segment"})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    with torch.no_grad():  # away from the weights that sampled
        policy.module.weight += torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    batch = pack(groups, algorithm.credit(groups), "segment").weighted("seq-mean-token-mean", 1)
    weight = policy.module.weight
    loss = algorithm.loss(batch, policy.evaluate_tokens(batch.samples))

    logprobs, plain, clipped = policy.evaluate_tokens(batch.samples).logprobs_N, 0.0, 0
    for s in range(len(batch.samples)):
        here = batch.sample_N == s
        ratio = (logprobs[here] - batch.old_logprobs_N[here]).mean().exp()
        advantage = batch.advantages_N[here][0]
        bounded = ratio.clamp(0.9, 1.15)
        plain = plain - torch.minimum(ratio * advantage, bounded * advantage) / len(batch.samples)
        clipped += int(bounded * advantage < ratio * advantage)
    assert 0 < clipped < len(batch.samples)
    torch.testing.assert_close(loss.total, plain)
    gradients = [torch.autograd.grad(x, weight)[0] for x in (loss.total, plain)]
    torch.testing.assert_close(*gradients)


# -- DAPO's pieces -------------------------------------------------------------------------------------------------


def test_dapo_clips_higher_above_than_below():
    policy, algorithm = TabularPolicy(), GRPO({"variant": "dapo"})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    groups = group_of(ended(1.0), ended(1.0), ended(1.0), ended(1.0))
    batch = pack(groups, Credit.per_episode([[1.0, 1.0, -1.0, -1.0]])).weighted("token-mean", 1)
    outputs = policy.evaluate_tokens(batch.samples)
    outputs.logprobs_N = batch.old_logprobs_N + torch.tensor([1.27, 1.29, 0.81, 0.79]).log()
    loss = algorithm.loss(batch, outputs)
    assert loss.total.item() == pytest.approx((-1.27 - 1.28 + 0.81 + 0.80) / 4)
    assert loss.metrics["clip_fraction"].item() == 0.5


def test_dapo_counts_tokens_and_not_episodes():
    policy, algorithm = TabularPolicy(), GRPO({"variant": "dapo"})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    groups = group_of(ended(1.0, tokens=1), ended(0.0, tokens=3))
    settings = algorithm.settings
    batch = pack(groups, algorithm.credit(groups)).weighted(settings.aggregation, settings.loss_length)
    assert_allclose(batch.loss_weight_N, [0.25] * 4)
    assert_allclose(GRPO().credit(groups).to_tokens(groups), algorithm.credit(groups).to_tokens(groups))


def test_dapos_penalty_grows_over_the_buffer_and_makes_no_group_worth_learning_from():
    dapo = GRPO({"variant": "dapo", "overlong_length": 10, "overlong_buffer": 4})
    lengths = (6, 8, 10, 12)
    group = list(group_of(*(ended(1.0, tokens=n) for n in lengths))[0])
    assert_allclose(dapo.rewards(group), [1.0, 0.5, 0.0, -0.5])
    correct = Groups([group], [dapo.rewards(group)])
    mixed = list(group_of(ended(1.0, tokens=8), ended(0.0, tokens=6))[0])
    unequal = Groups([mixed], [dapo.rewards(mixed)])
    assert (dapo.select(correct), dapo.select(unequal)) == ([False], [True])


@pytest.mark.usefixtures("no_curve")
def test_dapo_plays_other_questions_in_place_of_groups_of_equal_accuracy(tmp_path):
    """An untrained policy seldom answers: with 4 episodes per question most groups hold failures only."""
    config = {
        "trainer": "grpo", "agent": "candidate", "iterations": 1, "questions": 2, "eval_episodes": 0, "num_envs": 32,
        "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1]},
    }  # fmt: skip
    rows = {}
    for name in ("grpo", "dapo"):
        settings = {"group_size": 8, "variant": name}
        rows[name] = train({**config, "settings": settings}, tmp_path / name).metrics[-1]
    assert rows["grpo"]["tasks_drawn"] == 2
    assert rows["dapo"]["tasks_drawn"] > 2
    kept = rows["dapo"]["groups"] - rows["dapo"]["skipped_groups"]
    assert kept >= 2 or rows["dapo"]["tasks_drawn"] == 20  # ten batches at most
    assert rows["dapo"]["skipped_groups"] == rows["dapo"]["equal_groups"]


# -- edges and learning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_groups_of_one_of_equals_and_empty(name):
    algorithm = GRPO({"variant": name})
    alone = group_of(ended(1.0))
    assert algorithm.select(alone) == [True]
    expected = 0.0 if name.startswith("reinforce++") else 1.0  # nothing to compare it with, or its own reward
    assert_allclose(algorithm.credit(alone).to_tokens(alone), [expected], rtol=1e-5)
    equal = group_of(ended(0.3), ended(0.3), ended(0.3))
    assert algorithm.credit(equal).to_tokens(equal).tolist() == [0.0] * 3
    lost = [ended(1.0), ended(0.0)]
    for one in lost:
        one.valid_for_training = False
    empty = Groups(drop_invalid([lost])[0])
    assert algorithm.select(empty) == []
    assert len(pack(empty, algorithm.credit(empty)).samples) == 0


def test_a_reward_that_is_not_a_number_stops():
    with pytest.raises(TrainingError, match=r"the reward of episode 'e1' .* is nan: rewards must be finite"):
        group_of(ended(1.0), ended(math.nan))


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in ("grpo", "dapo")])
def test_each_variant_learns(name, tmp_path):
    # GSPO's clip is made for long answers: with these one-token acts one step per iteration is what it allows.
    minibatches = 1 if name == "gspo" else 2
    result = train(
        {
            "trainer": "grpo", "agent": "candidate", "iterations": 18, "questions": 16, "lr": 0.15,
            "minibatches": minibatches, "eval_episodes": 20, "checkpoint_every": 100,
            "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1]},
            "settings": {"variant": name, "group_size": 8, "entropy_coef": 0.01, "skip_equal": False},
        },
        tmp_path / "run",
    )  # fmt: skip
    assert result.before["em"].value <= 0.1
    assert result.after["em"].value >= 0.8


@pytest.mark.usefixtures("no_curve")
def test_dapo_learns(tmp_path):
    result = train(
        {
            "trainer": "grpo", "agent": "candidate", "iterations": 16, "questions": 8, "lr": 0.15, "num_envs": 64,
            "eval_episodes": 20, "checkpoint_every": 100,
            "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1]},
            "settings": {"variant": "dapo", "group_size": 8, "entropy_coef": 0.01, "resample": 3},
        },
        tmp_path / "run",
    )  # fmt: skip
    assert result.before["em"].value <= 0.1
    assert result.after["em"].value >= 0.8


ENVIRONMENT = {"corpus": WORLD, "types": ["chain"], "hops": [1], "reward": {"em": 1.0, "recall": 0.5}}


@pytest.mark.usefixtures("no_curve")
def test_the_naked_loop_and_the_trainer_make_the_same_weights(tmp_path):
    envs = make_vec("SearchQA-Terse-v0", 16, **ENVIRONMENT)
    naked = CandidateAgent()
    rewards = naked_grpo(naked, envs, iterations=4, questions=12, group_size=4, lr=0.15, epsilon=0.1, seed=3)
    result = train(
        trainer="grpo", agent="candidate", iterations=4, questions=12, lr=0.15, seed=3, num_envs=16, eval_episodes=0,
        env_options=ENVIRONMENT, settings={"group_size": 4, "clip_low": 0.1, "clip_high": 0.1}, run_dir=tmp_path / "run",
    )  # fmt: skip
    assert rewards == pytest.approx([row["reward"] for row in result.metrics[1:]])
    assert naked.version == result.policy.version == 8
    assert any(row["clip_fraction"] > 0.05 for row in result.metrics[1:])
    assert any(row["skipped_groups"] > 0 for row in result.metrics[1:])
    assert naked.module.weight.abs().max() > 0.1
    torch.testing.assert_close(naked.module.weight, result.policy.module.weight, atol=1e-4, rtol=1e-3)


def test_the_naked_loop_is_short():
    assert len(inspect.getsource(naked_grpo).splitlines()) <= 90


def test_the_naked_loop_learns():
    envs = make_vec("SearchQA-Terse-v0", 64, corpus=WORLD, types=["chain"], hops=[1])
    rewards = naked_grpo(CandidateAgent(), envs, iterations=16, questions=48, group_size=4)
    assert np.mean(rewards[:2]) < 0.15
    assert np.mean(rewards[-2:]) > 0.6
