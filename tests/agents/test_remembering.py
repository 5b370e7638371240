"""Contexts that an engine was told to remember are computed once, and continue as if they had been computed again."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from test_engine import build_engine, sampling

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.prefix_store import PrefixStore
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.env.vector import make_vec
from searchgym.rollouts.collection import collect
from searchgym.trainers.credit_audit.monte_carlo import Precision, continue_episodes

CONTEXTS = [[1, *range(2, 30)], [1, *range(2, 20), 50, 51, 52], [1, 40, 41, 42, 43], [1, 40, 41]]


def test_the_store_finds_the_longest_common_beginning() -> None:
    store = PrefixStore()
    assert store.find([1, 2]) == (0, [])
    rng = random.Random(0)
    contexts = {tuple(rng.choices(range(3), k=rng.randint(1, 12))) for _ in range(200)}
    for context in contexts:
        store.add(context, [])
    for _ in range(300):
        wanted = rng.choices(range(3), k=rng.randint(1, 14))
        best = max(
            next(
                (i for i, (a, b) in enumerate(zip(c, wanted, strict=False)) if a != b),
                min(len(c), len(wanted)),
            )
            for c in contexts
        )
        assert store.find(wanted)[0] == best


def test_remembered_contexts_continue_like_computed_ones() -> None:
    plain, other = build_engine(), build_engine()
    other.remember(CONTEXTS)
    tokens = 29 + 3 + 4  # each position once: [1, 40, 41] begins another context
    assert other.stats.prefilled_tokens == tokens
    for engine in (plain, other):
        for slot, context in enumerate(CONTEXTS):
            engine.resume(slot, context[:-1])
    acts = [
        engine.generate(list(range(4)), [context[-1:] for context in CONTEXTS], sampling(3))
        for engine in (plain, other)
    ]
    for one, two in zip(*acts, strict=True):
        assert one.token_ids == two.token_ids
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
    assert other.stats.prefilled_tokens == tokens + 4  # the last token of each, whose logits are needed
    assert plain.stats.prefilled_tokens > 50
    other.forget()
    other.clear()
    other.resume(0, CONTEXTS[0])
    other.generate([0], [[3]], sampling(3))
    assert other.stats.prefilled_tokens == tokens + 4 + 30


def test_no_continuation_prefills_what_was_prefilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts every position of the recorded contexts that the engine computes during an estimate."""
    envs = make_vec(
        "SearchQA-Terse-v0", 32, types=["chain"], hops=[2], max_rounds=4, autoreset_mode="Disabled"
    )
    agent = TinyAgent(seed=3)
    episodes = collect(envs, agent, [task for task in envs.task_ids()[:3] for _ in range(3)])
    known = {
        tuple(segment.tokens[:end])
        for episode in episodes
        for segment in episode.segments
        for end in range(1, len(segment.tokens) + 1)
    }
    computed: Counter[tuple[int, ...]] = Counter()
    last: Counter[tuple[int, ...]] = Counter()
    prefill = Engine._prefill_batch

    def counting(self: Engine, slots: list[Any], end: int | None = None) -> Any:
        for slot in slots:
            context = tuple(slot.context[:end])
            computed.update(context[: i + 1] for i in range(slot.cached, len(context) - 1))
            last[context] += 1
        return prefill(self, slots, end)

    monkeypatch.setattr(Engine, "_prefill_batch", counting)
    found = continue_episodes(agent, envs, episodes, Precision(error=0.2), seed=1)
    assert found.counts["restores"] > 50
    of_records = {context: count for context, count in computed.items() if context in known}
    assert len(of_records) > 200
    assert set(of_records.values()) == {1}
    assert not agent.engine._prefixes.bytes
