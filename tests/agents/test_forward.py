"""The training forward against transformers' own, one sequence at a time: values, gradients, common beginnings."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.forward import causal_mask, hidden_states
from searchgym.agents.lm.network import DecoderNetwork
from searchgym.agents.lm.prefix_tree import PrefixTree, split_by_budget
from searchgym.agents.tiny.model import TinyConfig, build_model

VOCAB = 70


def build(kv_heads: int = 4, layers: int = 2) -> Qwen3ForCausalLM:
    config = TinyConfig(VOCAB, width=32, layers=layers, heads=4, kv_heads=kv_heads, head_dim=8, init_std=0.2)
    return build_model(config, seed=7)


def draw_sequences(
    count: int, seed: int, temperatures: tuple[float, ...] = (1.0, 0.7), beginning: tuple[int, ...] = ()
) -> list[TokenSequence]:
    """Random sequences after a common beginning (nothing of which is a target)."""
    rng = random.Random(seed)
    sequences = []
    for _ in range(count):
        length = rng.randint(4, 60)
        targets = sorted(rng.sample(range(1, length), rng.randint(1, min(12, length - 1))))
        sequences.append(
            TokenSequence(
                (*beginning, *(rng.randrange(VOCAB) for _ in range(length))),
                tuple(len(beginning) + target for target in targets),
                tuple(rng.choice(temperatures) for _ in targets),
            )
        )
    return sequences


def group(first: TokenSequence) -> list[TokenSequence]:
    """Rollouts that begin as another: with a trunk, a branch of a branch, and the cases at the ends of paths."""
    trunk = draw_sequences(3, seed=5, beginning=first.tokens)
    boughs = draw_sequences(3, seed=6, beginning=trunk[0].tokens)
    tokens, last = boughs[0].tokens, boughs[0].targets[-1]
    return [
        *trunk,
        *boughs,
        TokenSequence(
            tokens, (1, last - 1), (0.5, 1.0)
        ),  # a path that ends within another, with other targets
        TokenSequence(tokens, (1, last), (1.0, 2.0)),  # the same path, tokens drawn at another temperature
        TokenSequence((*tokens[:last], (tokens[last] + 1) % VOCAB), (last,), (1.0,)),  # another last token
    ]


def naive(
    model: Qwen3ForCausalLM, sequences: list[TokenSequence], cap: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """One sequence at a time through transformers' forward; `cap` is that of its logits."""
    logprobs, entropies, hidden = [], [], []
    for s in sequences:
        hidden_T = model.model(torch.tensor([s.tokens])).last_hidden_state[0]
        logits_T = model.lm_head(hidden_T)
        logits_T = logits_T if cap is None else torch.tanh(logits_T / cap) * cap
        for target, temperature in zip(s.targets, s.temperatures, strict=True):
            row = torch.log_softmax(logits_T[target - 1] / temperature, -1)
            logprobs.append(row[s.tokens[target]])
            entropies.append(torch.distributions.Categorical(logits=row).entropy())
            hidden.append(hidden_T[target - 1])
    return torch.stack(logprobs), torch.stack(entropies), torch.stack(hidden)


@pytest.mark.parametrize(("kv_heads", "layers"), [(4, 2), (2, 3), (1, 1)])
def test_hidden_states_are_those_of_transformers(kv_heads: int, layers: int) -> None:
    model = build(kv_heads, layers)
    ids = torch.randint(VOCAB, (3, 41), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(41).expand(3, -1)
    keep = torch.tensor([[0, 3, 40], [7, 7, 9], [39, 2, 0]])
    with torch.no_grad():
        expected = model.model(ids).last_hidden_state
        picked = torch.stack([row[columns] for row, columns in zip(expected, keep, strict=True)])
        mask = causal_mask(positions, 41)
        everywhere = hidden_states(model, ids, positions, mask_BTK=mask)
        some = hidden_states(model, ids, positions, mask_BTK=mask, keep_BQ=keep)
        torch.testing.assert_close(everywhere, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(some, picked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_are_those_of_one_sequence_at_a_time(kv_heads: int) -> None:
    model = build(kv_heads)
    sequences = draw_sequences(17, seed=1)
    sequences += sequences[2:5]  # equal sequences are computed once, and must count as often as they occur
    sequences += group(sequences[0])
    weights = torch.randn(sum(len(s.targets) for s in sequences), generator=torch.Generator().manual_seed(2))
    gradients = []
    outputs = []
    for run in (
        lambda: evaluate(
            DecoderNetwork(model, whole_logits=True), sequences, EvaluationStats(), batch_tokens=150
        ),
        lambda: naive(model, sequences),
    ):
        model.zero_grad()
        logprobs, entropy, hidden = run()
        loss = (weights * logprobs).sum() + 0.3 * (weights * entropy).sum() + 0.1 * (hidden**2).sum()
        loss.backward()
        outputs.append((logprobs.detach(), entropy.detach(), hidden.detach()))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert gradients[0].keys() == gradients[1].keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_long_common_beginning_gets_the_gradients_of_all_that_follows(kv_heads: int) -> None:
    model = build(kv_heads)
    beginning = tuple(random.Random(8).randrange(VOCAB) for _ in range(150))
    sequences = draw_sequences(12, seed=9, beginning=beginning)
    gradients = []
    for run in (
        lambda: evaluate(DecoderNetwork(model, whole_logits=True), sequences, EvaluationStats()),
        lambda: evaluate(
            DecoderNetwork(model, whole_logits=True), sequences, EvaluationStats(), batch_tokens=1
        ),  # one sequence in a pass
        lambda: naive(model, sequences),
    ):
        model.zero_grad()
        run()[0].sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[2].items():
        for ours in gradients[:2]:
            torch.testing.assert_close(ours[name], expected, atol=5e-4, rtol=2e-3, msg=name)


@torch.no_grad()
def test_no_token_is_computed_twice() -> None:
    model = build()
    apart = draw_sequences(60, seed=3)
    sequences = [*apart, *apart[:10], *group(apart[0]), *group(apart[1])]
    paths = [s.tokens[: s.targets[-1]] for s in sequences]
    tree = {path[: i + 1] for path in paths for i in range(len(path))}
    whole, pieces = EvaluationStats(), EvaluationStats()
    evaluate(DecoderNetwork(model, whole_logits=True), sequences, whole)
    assert whole.computed_tokens == len(tree) < 0.7 * sum(map(len, paths))
    evaluate(DecoderNetwork(model, whole_logits=True), sequences, pieces, batch_tokens=300)
    assert len(tree) < pieces.computed_tokens < len(tree) + 10 * max(map(len, paths))
    for stats in (whole, pieces):
        assert stats.computed_tokens + stats.shared_tokens == sum(map(len, paths))
        assert stats.target_tokens == sum(len(s.targets) for s in sequences)


def test_parts_keep_groups_together_and_within_the_budget() -> None:
    rng = random.Random(0)
    groups = [[rng.randrange(9) for _ in range(50)] for _ in range(6)]
    paths = [(*groups[i % 6], *(rng.randrange(9) for _ in range(rng.randrange(5, 40)))) for i in range(48)]
    parts = split_by_budget(paths, 500)
    assert sorted(i for part in parts for i in part) == list(range(48))
    for part in parts:
        assert len(PrefixTree.grow([paths[i] for i in part]).ids_T) <= 500
    assert sum(len({i % 6 for i in part}) for part in parts) < 6 + len(parts)
    assert split_by_budget([(1, 2, 3), (1, 2), (4,)], 1) == [
        [1],
        [0],
        [2],
    ]  # longer than the budget: one by one
    assert split_by_budget([], 5) == []


def test_sequences_without_targets_add_nothing() -> None:
    model = build()
    bare = TokenSequence((1, 2, 3), (), ())
    (one,) = draw_sequences(1, seed=4)
    with torch.no_grad():
        alone, between = (
            evaluate(DecoderNetwork(model, whole_logits=True), s, EvaluationStats())
            for s in ([one], [bare, one, bare])
        )
        nothing = evaluate(DecoderNetwork(model, whole_logits=True), [bare], EvaluationStats())
    assert all(torch.equal(a, b) for a, b in zip(alone, between, strict=True))
    assert [list(t.shape) for t in nothing] == [[0], [0], [0, 32]]
