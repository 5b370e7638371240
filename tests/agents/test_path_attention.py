"""Training passes attend path by path, and sliding layers read their window only: less work, the same numbers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from families import build_family
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from searchgym.agents.lm import blockwise_attention
from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.network import ModelNetwork
from searchgym.agents.lm.path_attention import attention_by_paths
from searchgym.agents.lm.prefix_tree import PrefixTree
from searchgym.agents.lm.sampling import Sampling

Shapes = list[tuple[int, int, int]]


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Layer, queries and keys of every call of transformers' attention."""
    calls: Shapes = []
    registry: Any = ALL_ATTENTION_FUNCTIONS
    real = registry["sdpa"]

    def counted(module: Any, query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
        calls.append((module.layer_idx, query.shape[2], key.shape[2]))
        return real(module, query, key, *rest, **options)

    monkeypatch.setitem(registry, "sdpa", counted)
    return calls


def test_a_pass_scores_the_pairs_of_each_path_and_not_those_of_the_row(
    attended: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ModelNetwork(build_family("gemma3_text"))
    common = tuple(range(10, 30))
    sequences = [
        TokenSequence((*common, *(number + 40 for _ in range(30))), (25, 40), (1.0, 1.0))
        for number in range(4)
    ]
    scored: list[tuple[int, int]] = []
    score = blockwise_attention._scores

    def counted(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        scored.append((query.shape[2], key.shape[1]))
        return score(query, key, *rest)

    monkeypatch.setattr(blockwise_attention, "_scores", counted)
    registry: Any = ALL_ATTENTION_FUNCTIONS
    before = registry["sdpa"]
    attended.clear()
    logprobs = evaluate(network, sequences, EvaluationStats())[0]
    assert registry["sdpa"] is before
    row = 20 + 4 * 20  # tokens after the last target are not computed
    # One layer sees the path, the other its window of 8.
    assert not attended
    assert sorted(scored) == sorted([(40, 40), *[(20, 40)] * 3, (40, 40), *[(20, 27)] * 3])
    assert sum(q * k for q, k in scored) <= 2 * row**2 * 0.4
    logprobs.sum().backward()
    assert len(scored) == 16  # the backward pass computes the scores again


def test_the_attention_is_restored_when_a_pass_fails() -> None:
    registry: Any = ALL_ATTENTION_FUNCTIONS
    before = registry["sdpa"]
    tree = PrefixTree.grow([(1, 2, 3), (1, 2, 4)])
    paths = attention_by_paths(tree)
    with pytest.raises(RuntimeError, match="no memory"), paths:
        raise RuntimeError(f"no memory for {registry['sdpa']}")
    assert registry["sdpa"] is before


def test_a_sliding_layer_reads_its_window_and_the_other_layer_everything(attended: Shapes) -> None:
    engine = Engine(ModelNetwork(build_family("gemma3_text")), (), max_new_tokens=3, max_context=100)
    engine.begin(range(2))
    attended.clear()
    engine.generate(
        range(2), [list(range(30, 60)), list(range(30, 58))], Sampling(torch.Generator(), greedy=True)
    )
    decoded = [call for call in attended if call[1] == 1]
    assert decoded
    # The window of 8 reaches back from the shorter of two rows, whose lengths differ by 2.
    assert {keys for layer, _, keys in decoded if layer == 0} == {10}
    assert {keys for layer, _, keys in decoded if layer == 1} == {31, 32}


def test_another_thread_attends_as_before_and_contexts_may_end_in_any_order(attended: Shapes) -> None:
    registry: Any = ALL_ATTENTION_FUNCTIONS
    before = registry["sdpa"]
    model = build_family("gemma3_text")
    row = torch.arange(10, 18).unsqueeze(0)
    with torch.no_grad():
        alone = model(input_ids=row).logits
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:  # a row of the same length, whose paths would cut the other thread's row
        with attention_by_paths(PrefixTree.grow([(1, 2, 3, 4, 5), (1, 2, 6, 7, 8)])):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    assert entered.wait(60)
    with attention_by_paths(PrefixTree.grow([(1, 2, 3), (1, 2, 4)])):
        leave.set()
        other.join()
        attended.clear()
        with torch.no_grad():
            beside = model(input_ids=row).logits
    assert {(queries, keys) for _, queries, keys in attended} == {(8, 8)}
    assert torch.equal(alone, beside)
    assert registry["sdpa"] is before
