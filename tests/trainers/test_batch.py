"""Packing, minibatches and micro-batches against a slow version that loops over tokens."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from searchgym.agents.policy import Sample
from searchgym.errors import TrainingError
from searchgym.records.episode import Segment
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.conformance import TabularPolicy, make_episode, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.batch import micro_batches, minibatches, pack
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.core.groups import Groups, drop_invalid, sampled_tokens
from searchgym.trainers.core.objective import group_advantages


@pytest.fixture
def policy():
    return TabularPolicy(seed=3)


@pytest.fixture
def groups(policy):
    return Groups(synthetic_groups(policy, groups=3, group_size=4, seed=5))


def slow_loss(policy, groups, aggregation, length):
    """GRPO's loss, token by token, straight from the formula."""
    with torch.no_grad():
        table = policy.module.weight.double().log_softmax(-1)
    sequences, tokens = [], []
    for group in groups:
        advantages = group_advantages([e.reward for e in group])
        for episode, advantage in zip(group, advantages, strict=True):
            losses = []
            for segment in episode.segments:
                for i, sampled in enumerate(segment.mask):
                    if sampled:
                        logprob = table[segment.tokens[i - 1], segment.tokens[i]].item()
                        ratio = math.exp(logprob - segment.logprobs[i])
                        clipped = min(max(ratio, 0.8), 1.2)
                        losses.append(-min(ratio * advantage, clipped * advantage))
            sequences.append(losses)
            tokens += losses
    if aggregation == "token-mean":
        return sum(tokens) / len(tokens)
    if aggregation == "seq-mean-token-mean":
        return sum(sum(s) / len(s) for s in sequences) / len(sequences)
    return sum(sum(s) / length for s in sequences) / len(sequences)


def loss_of(algorithm, policy, batch):
    return algorithm.loss(batch, policy.evaluate_tokens(batch.samples)).total


@pytest.mark.parametrize("aggregation", ["seq-mean-token-mean", "token-mean", "seq-mean-token-sum-norm"])
def test_loss_equals_the_slow_version(policy, groups, aggregation):
    algorithm = GRPO({"aggregation": aggregation, "loss_length": 20})
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    with torch.no_grad():  # move away from the weights that sampled, so that ratios differ from 1 and clip
        policy.module.weight += torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    batch = pack(groups, algorithm.credit(groups)).weighted(aggregation, 20)
    expected = slow_loss(policy, groups, aggregation, 20)
    assert loss_of(algorithm, policy, batch).item() == pytest.approx(expected, rel=1e-5)


def test_micro_batches_change_nothing(policy, groups):
    algorithm = GRPO()
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    batch = pack(groups, algorithm.credit(groups)).weighted("seq-mean-token-mean", 1)
    parts = list(micro_batches(batch, policy, 30))
    assert len(parts) > 3
    assert sum(len(p.samples) for p in parts) == len(batch.samples)
    whole = torch.autograd.grad(loss_of(algorithm, policy, batch), policy.module.weight)[0]
    summed = sum(torch.autograd.grad(loss_of(algorithm, policy, p), policy.module.weight)[0] for p in parts)
    torch.testing.assert_close(summed, whole)


def test_recorded_logprobs_are_the_current_ones_before_any_step(policy, groups):
    outputs = policy.evaluate_tokens(groups.samples)
    np.testing.assert_allclose(outputs.logprobs_N.detach().numpy(), groups.tokens.logprobs_N, atol=1e-6)


def test_gradient_is_zero_on_tokens_that_were_not_sampled():
    """A row of the table that only leads to prompt tokens must not move."""
    policy = TabularPolicy(vocabulary=6)
    segment = Segment(
        [0, 1, 2, 3, 4, 2], [0, 0, 1, 0, 0, 1], [0.0, 0.0, -1.0, 0.0, 0.0, -1.0], [0] * 3 + [1] * 3
    )
    group = [
        make_episode([segment], reward, episode_id=f"e{reward}", group_id="g") for reward in (1.0, 0.0, 0.0)
    ]
    algorithm = GRPO()
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    groups = Groups([group])
    batch = pack(groups, algorithm.credit(groups)).weighted("token-mean", 1)
    # Advantages of a group add up to zero and the three episodes are alike: weigh one, or all gradients vanish.
    batch = batch.take([0])
    gradient = torch.autograd.grad(loss_of(algorithm, policy, batch), policy.module.weight)[0]
    moved = gradient.abs().sum(1) > 0
    assert moved.tolist() == [False, True, False, False, True, False]  # only 1 -> 2 and 4 -> 2 were sampled


def test_minibatches_cover_every_episode_once_and_keep_its_segments_together(groups):
    batch = pack(groups, Credit.per_episode([[1.0] * 4] * 3))
    seen = []
    for part in minibatches(batch, 3, "token-mean", 1, np.random.default_rng(0)):
        assert part.loss_weight_N.sum().item() == pytest.approx(1.0)
        seen.append({s.episode.episode_id for s in part.samples})
    assert sorted(len(s) for s in seen) == [4, 4, 4]
    assert len(set().union(*seen)) == 12


def test_minibatches_are_shuffled_by_the_generator(groups):
    batch = pack(groups, Credit.per_episode([[1.0] * 4] * 3))

    def order(seed):
        parts = minibatches(batch, 2, "token-mean", 1, np.random.default_rng(seed))
        return [[s.episode.episode_id for s in p.samples] for p in parts]

    assert order(1) == order(1) != order(2)


def test_cutting_an_episode_into_segments_does_not_change_the_loss(policy):
    first = Segment([1, 2, 3], [0, 1, 1], [0.0, -1.5, -2.0], [0, 0, 0])
    second = Segment([4, 5], [0, 1], [0.0, -1.0], [1, 1])
    joined = Segment([1, 2, 3, 4, 5], [0, 1, 1, 0, 1], [0.0, -1.5, -2.0, 0.0, -1.0], [0, 0, 0, 1, 1])
    other = Segment([1, 3], [0, 1], [0.0, -2.0], [0, 0])
    algorithm = GRPO()
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    losses = []
    for segments in ([first, second], [joined]):
        groups = Groups([[
            make_episode(segments, 1.0, episode_id="a", group_id="g"),
            make_episode([other], 0.0, episode_id="b", group_id="g"),
        ]])  # fmt: skip
        batch = pack(groups, algorithm.credit(groups)).weighted("seq-mean-token-mean", 1)
        losses.append(loss_of(algorithm, policy, batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def branches(rewards):
    """Episodes that share their first round (same uid, same tokens) and differ in the second."""
    made = []
    for i, reward in enumerate(rewards):
        segment = Segment([0, 1, 2, 0, 3 + i], [0, 1, 1, 0, 1], [0.0, -2.0, -2.0, 0.0, -2.0], [0, 0, 0, 1, 1])
        episode = make_episode([segment], reward, episode_id=f"b{i}", group_id="g")
        episode.rounds[0].uid = "shared"
        made.append(episode)
    return made


def test_a_round_shared_by_branches_enters_the_loss_once_with_the_mean_of_its_credit():
    groups = Groups([branches([1.0, 0.0, 0.0])])
    batch = pack(groups, Credit.per_round([[[0.9, 0.1], [0.3, 0.2], [0.0, 0.3]]]))
    counted = batch.advantages_N[batch.loss_mask_N]
    assert counted.tolist() == pytest.approx([0.4, 0.4, 0.1, 0.2, 0.3])
    assert batch.weighted("token-mean", 1).loss_weight_N[~batch.loss_mask_N].tolist() == [0.0] * 4


def test_masked_tokens_of_a_shared_round_enter_the_loss_once_too():
    groups = Groups([branches([1.0, 0.0])])
    credit = Credit.per_episode([[0.5, -0.1]])
    # the first copy leaves out token 0 of the shared round, the second copy token 1
    some = replace(credit, loss_mask_N=np.array([False, True, True, True, False, True]))
    batch = pack(groups, some)
    assert batch.loss_mask_N.tolist() == [False, True, True, True, False, True]
    both = replace(credit, loss_mask_N=np.array([False, True, True, False, True, True]))
    batch = pack(groups, both)
    assert batch.loss_mask_N.tolist() == [False, True, True, False, False, True]
    assert batch.advantages_N[batch.loss_mask_N].tolist() == pytest.approx([0.2, 0.5, -0.1])


def test_a_loss_mask_holds_booleans():
    with pytest.raises(TrainingError, match="loss_mask_N has dtype int64"):
        Credit("episode", [[np.ones(1)]], loss_mask_N=np.ones(3, dtype=np.int64))
    assert Credit("episode", [[np.ones(1)]], loss_mask_N=[True, False]).loss_mask_N.dtype == np.bool_


def test_a_sample_whose_tokens_all_stand_elsewhere_is_dropped():
    twins = branches([1.0, 0.0])
    twins[1].segments = [Segment([0, 1, 2], [0, 1, 1], [0.0, -2.0, -2.0], [0, 0, 0])]
    batch = pack(Groups([twins]), Credit.per_episode([[1.0, -1.0]]))
    assert len(batch.samples) == 1
    assert batch.advantages_N.tolist() == [0.0, 0.0, 1.0]


def test_shared_rounds_must_have_the_same_tokens():
    twins = branches([1.0, 0.0])
    twins[1].segments[0].mask[1] = 0
    with pytest.raises(TrainingError, match="'shared' is shared by 2 episodes"):
        pack(Groups([twins]), Credit.per_episode([[1.0, -1.0]]))


def test_credit_resolutions_agree(groups):
    per_episode = Credit.per_episode([[1.0, 2.0, 3.0, 4.0]] * 3).to_tokens(groups)
    per_round = Credit.per_round(
        [[[v] * len(e.rounds) for v, e in zip((1.0, 2.0, 3.0, 4.0), g, strict=True)] for g in groups]
    ).to_tokens(groups)
    per_token = Credit.per_token(
        [[[v] * sampled_tokens(e) for v, e in zip((1.0, 2.0, 3.0, 4.0), g, strict=True)] for g in groups]
    ).to_tokens(groups)
    np.testing.assert_array_equal(per_episode, per_round)
    np.testing.assert_array_equal(per_episode, per_token)


def test_credit_per_round_reaches_the_rounds_tokens(groups):
    values = [[list(range(len(e.rounds))) for e in g] for g in groups]
    np.testing.assert_array_equal(Credit.per_round(values).to_tokens(groups), groups.tokens.round_N)


@pytest.mark.parametrize(
    ("credit", "message"),
    [
        (Credit.per_episode([[1.0] * 4] * 2), "one entry for every episode of every group"),
        (Credit.per_episode([[1.0] * 3, [1.0] * 4, [1.0] * 4]), "one entry for every episode"),
        (Credit.per_round([[[1.0] * 99] * 4] * 3), "credit per round of episode 'e5-0-0' has shape"),
        (Credit.per_token([[[1.0]] * 4] * 3), "credit per token of episode"),
        (Credit.per_episode([[1.0, float("nan"), 1.0, 1.0]] + [[1.0] * 4] * 2), "'e5-0-1' is not finite"),
    ],
)
def test_bad_credit_is_refused(groups, credit, message):
    with pytest.raises(TrainingError, match=message):
        credit.to_tokens(groups)


def test_a_column_may_be_a_numpy_array(groups):
    count = len(groups.tokens.round_N)
    groups.columns["x"] = np.arange(count, dtype=np.float32)
    assert pack(groups, Credit.per_episode([np.zeros(len(g)) for g in groups])).columns["x"].shape == (count,)


def test_a_column_of_the_wrong_length_is_refused(groups):
    groups.columns["values"] = torch.zeros(3)
    with pytest.raises(TrainingError, match="column 'values' has shape"):
        pack(groups, Credit.per_episode([[1.0] * 4] * 3))


def test_columns_follow_their_tokens(groups):
    groups.columns["number"] = torch.arange(len(groups.tokens.sample_N))
    batch = pack(groups, Credit.per_token(
        [[np.flatnonzero(groups.tokens.episode_N == 4 * g + i).astype(float) for i in range(4)] for g in range(3)]
    ))  # fmt: skip
    for part in minibatches(batch, 2, "token-mean", 1, np.random.default_rng(0)):
        assert torch.equal(part.columns["number"].float(), part.advantages_N)


def test_tokens_of_a_round_that_is_missing_are_refused(groups):
    episode = replace(groups[0][0])
    episode.rounds = episode.rounds[:-1]
    with pytest.raises(TrainingError, match="tokens of a round it does not have"):
        Groups([[episode]]).tokens  # noqa: B018


def test_invalid_episodes_are_dropped_and_counted():
    segment = Segment([0, 1], [0, 1], [0.0, -1.0], [0, 0])

    def group(*valid):
        return [
            make_episode([segment], 1.0, episode_id=str(i), group_id="g", valid=v)
            for i, v in enumerate(valid)
        ]

    kept, counts = drop_invalid([group(1, 1, 0), group(1, 0, 0), group(0, 0), group(1), group(1, 1)])
    assert [len(g) for g in kept] == [2, 1, 2]
    assert counts == {"invalid_episodes": 5, "singleton_groups": 1, "empty_groups": 1}


def test_parts_stay_within_the_budget(policy):
    segments = [Segment([1] * n, [0] + [1] * (n - 1), [0.0] * n, [0] * n) for n in (5, 9, 2, 30, 4)]
    samples = [Sample(make_episode([s], 0.0, episode_id="e", group_id="g"), s) for s in segments]
    assert policy.micro_batches(samples, 12) == [[3], [1], [0, 4, 2]]
    assert policy.micro_batches([], 12) == []


def test_sample_without_sampled_tokens_is_no_sample():
    silent = Segment([0, 1], [0, 0], [0.0, 0.0], [0, 0])
    acting = Segment([0, 1], [0, 1], [0.0, -1.0], [0, 0])
    episode = make_episode([silent, acting], 1.0, episode_id="e", group_id="g")
    assert Groups([[episode]]).samples == [Sample(episode, acting)]
