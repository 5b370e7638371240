"""The training forward against transformers' own, one sequence at a time: values, gradients, padding."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from searchgym.agents.forward import EvaluationStats, TokenSequence, causal_mask, evaluate, hidden_states
from searchgym.agents.model import TinyConfig, build_model

VOCAB = 70


def build(kv_heads: int = 4, layers: int = 2) -> Qwen3ForCausalLM:
    config = TinyConfig(VOCAB, width=32, layers=layers, heads=4, kv_heads=kv_heads, head_dim=8, init_std=0.2)
    return build_model(config, seed=7)


def draw_sequences(
    count: int, seed: int, temperatures: tuple[float, ...] = (1.0, 0.7)
) -> list[TokenSequence]:
    rng = random.Random(seed)
    sequences = []
    for _ in range(count):
        length = rng.randint(4, 60)
        targets = sorted(rng.sample(range(1, length), rng.randint(1, min(12, length - 1))))
        sequences.append(
            TokenSequence(
                tuple(rng.randrange(VOCAB) for _ in range(length)),
                tuple(targets),
                tuple(rng.choice(temperatures) for _ in targets),
            )
        )
    return sequences


def naive(model: Qwen3ForCausalLM, sequences: list[TokenSequence]) -> tuple[Tensor, Tensor, Tensor]:
    """One sequence at a time through transformers' forward."""
    logprobs, entropies, hidden = [], [], []
    for s in sequences:
        hidden_T = model.model(torch.tensor([s.tokens])).last_hidden_state[0]
        logits_T = model.lm_head(hidden_T)
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
        for given in (None, mask):
            everywhere = hidden_states(model, ids, positions, mask_BTK=given)
            some = hidden_states(model, ids, positions, mask_BTK=given, keep_BQ=keep)
            torch.testing.assert_close(everywhere, expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(some, picked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_are_those_of_one_sequence_at_a_time(kv_heads: int) -> None:
    model = build(kv_heads)
    sequences = draw_sequences(17, seed=1)
    sequences += sequences[2:5]  # equal sequences are computed once, and must count as often as they occur
    weights = torch.randn(sum(len(s.targets) for s in sequences), generator=torch.Generator().manual_seed(2))
    gradients = []
    outputs = []
    for run in (
        lambda: evaluate(model, sequences, EvaluationStats(), batch_tokens=150),
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


def test_padding_stays_under_a_tenth_and_the_counts_add_up() -> None:
    model = build()
    sequences = draw_sequences(60, seed=3)
    stats = EvaluationStats()
    with torch.no_grad():
        evaluate(model, [*sequences, *sequences[:10]], stats, batch_tokens=200)
    assert stats.computed_tokens - stats.padded_tokens == sum(s.targets[-1] for s in sequences)
    assert stats.shared_tokens == sum(s.targets[-1] for s in sequences[:10])
    assert stats.target_tokens == sum(len(s.targets) for s in sequences)
    assert 0 < stats.padding <= 0.1


def test_sequences_without_targets_add_nothing() -> None:
    model = build()
    bare = TokenSequence((1, 2, 3), (), ())
    (one,) = draw_sequences(1, seed=4)
    with torch.no_grad():
        alone, between = (evaluate(model, s, EvaluationStats()) for s in ([one], [bare, one, bare]))
        nothing = evaluate(model, [bare], EvaluationStats())
    assert all(torch.equal(a, b) for a, b in zip(alone, between, strict=True))
    assert [list(t.shape) for t in nothing] == [[0], [0], [0, 32]]
