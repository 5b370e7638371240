"""Layers with a sliding window keep its columns only, and every number stays that of a plain forward pass."""

from __future__ import annotations

import random

import pytest
import torch
from families import build_family

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.network import open_network
from searchgym.agents.lm.sampling import Sampling

VOCAB, WINDOW, NEW = 70, 8, 4


def build_engine() -> Engine:
    model = build_family("gemma3_text", VOCAB, max_position_embeddings=2048)
    return Engine(open_network(model), (), max_new_tokens=NEW, max_context=1000)


def play(
    engine: Engine, slots: list[int], prompts: list[list[int]], recorded: dict[int, list[float | None]]
) -> None:
    how = Sampling(torch.Generator().manual_seed(len(recorded)))
    for slot, done in zip(slots, engine.generate(slots, prompts, how), strict=True):
        recorded.setdefault(slot, []).extend([None] * len(done.prompt_ids) + list(done.logprobs))


def check(engine: Engine, recorded: dict[int, list[float | None]]) -> None:
    for slot, logprobs in recorded.items():
        context = engine.context(slot)
        with torch.no_grad():
            expected = torch.log_softmax(engine.network.model(torch.tensor([context])).logits[0], -1)
        for at, logprob in enumerate(logprobs):
            if logprob is not None:
                assert logprob == pytest.approx(float(expected[at - 1, context[at]]), abs=1e-4)


def columns(engine: Engine) -> list[int]:
    """Of the keys of the windowed and of the full layer."""
    return [layer.shape[2] for layer in engine._cache._layers[::2]]


def test_columns_before_every_window_are_dropped() -> None:
    engine = build_engine()
    assert (engine.network.windowed, engine.network.window) == ({0}, WINDOW)
    rng = random.Random(0)
    recorded: dict[int, list[float | None]] = {}

    def round_of(slots: list[int], tokens: int) -> None:
        prompts = [[rng.randrange(VOCAB) for _ in range(tokens + rng.randrange(9))] for _ in slots]
        play(engine, slots, prompts, recorded)

    engine.begin(range(4))
    for _ in range(4):
        round_of([0, 1, 2, 3], 90)
    assert columns(engine)[1] >= 384
    assert columns(engine)[0] <= columns(engine)[1] - 128
    for _ in range(3):  # slot 3 stays behind, and its columns are dropped
        round_of([0, 1, 2], 90)
    engine.fork(1, [4])
    recorded[4] = list(recorded[1])
    round_of([4, 0, 2], 40)
    before = engine.stats.prefilled_tokens
    round_of([3], 10)  # it comes back, and is computed again
    assert engine.stats.prefilled_tokens - before > 300
    engine.begin([5])  # a new episode among old ones
    round_of([5, 0, 3], 60)
    engine.fork(5, [6])
    recorded[6] = list(recorded[5])
    round_of([6, 5, 4], 30)
    check(engine, recorded)


def test_remembered_contexts_longer_than_the_window() -> None:
    engine = build_engine()
    rng = random.Random(1)
    context = [rng.randrange(VOCAB) for _ in range(300)]
    engine.remember([context])
    engine.resume(0, context[:250])
    recorded: dict[int, list[float | None]] = {0: [None] * 250}
    engine.generate([0], [[3, 4]], Sampling(torch.Generator().manual_seed(0)))
    recorded[0] = [None] * len(engine.context(0))
    for _ in range(3):
        play(engine, [0], [[rng.randrange(VOCAB) for _ in range(100)]], recorded)
    assert engine.stats.copied_tokens >= 249
    assert columns(engine)[0] < columns(engine)[1]
    check(engine, recorded)
