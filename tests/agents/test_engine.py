"""Generation with kept keys and values against full recomputation by transformers; counts, limits, determinism."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.generation import Ending, EngineStats, Generation
from searchgym.agents.lm.kv_cache import KVCache
from searchgym.agents.lm.network import DecoderNetwork
from searchgym.agents.lm.sampling import Sampling, sample
from searchgym.agents.rng_streams import RngStreams
from searchgym.agents.tiny.model import TinyConfig, build_model
from searchgym.errors import ConfigError, TrainingError

VOCAB = 60
STOPS = (5, 6, 7)


def build_engine(
    max_new_tokens: int = 12, max_context: int = 400, kv_heads: int = 4, stops: tuple[int, ...] = STOPS
) -> Engine:
    config = TinyConfig(VOCAB, width=32, layers=2, heads=4, kv_heads=kv_heads, head_dim=8, init_std=0.25)
    model = build_model(config, seed=11)
    network = DecoderNetwork(model, whole_logits=True)
    return Engine(network, stops, max_new_tokens=max_new_tokens, max_context=max_context, batch_tokens=64)


def sampling(seed: int = 0, **options: Any) -> Sampling:
    return Sampling(torch.Generator().manual_seed(seed), **options)


def play(
    engine: Engine, how: Sampling, seed: int = 0, groups: int = 3, rounds: int = 4
) -> list[list[Generation]]:
    """Groups of three slots with a common question; ragged observations; slots fall out one by one."""
    rng = random.Random(seed)
    slots = list(range(3 * groups))
    engine.begin(slots)
    questions = [[rng.randrange(VOCAB) for _ in range(rng.randint(3, 9))] for _ in range(groups)]
    prompts = {slot: questions[slot // 3] for slot in slots}
    history = []
    for _ in range(rounds):
        history.append(engine.generate(slots, [prompts[s] for s in slots], how))
        slots.remove(rng.choice(slots))
        rng.shuffle(slots)
        prompts = {s: [rng.randrange(VOCAB) for _ in range(rng.randint(1, 50))] for s in slots}
    return history


@torch.no_grad()
def recomputed(engine: Engine, context: list[int]) -> Tensor:
    """Logits of transformers' own forward over a whole context."""
    logits: Tensor = engine.network.model(torch.tensor([context])).logits[0]
    return logits


@pytest.mark.parametrize(("temperature", "kv_heads"), [(1.0, 4), (0.7, 2), (1.6, 1)])
def test_recorded_logprobs_are_those_of_a_full_recomputation(temperature: float, kv_heads: int) -> None:
    engine = build_engine(kv_heads=kv_heads)
    rng = random.Random(1)
    how = sampling(3, temperature=temperature)
    slots = list(range(9))
    engine.begin(slots)
    recorded: dict[int, list[float | None]] = {s: [] for s in slots}
    question = [3, 9, 14, 22]
    prompts = {
        s: question if s < 4 else [rng.randrange(VOCAB) for _ in range(rng.randint(1, 30))] for s in slots
    }
    for _ in range(5):
        chosen = rng.sample(slots, rng.randint(4, 9))
        for slot, generation in zip(
            chosen, engine.generate(chosen, [prompts[s] for s in chosen], how), strict=True
        ):
            assert generation.prompt_ids == prompts[slot]
            recorded[slot] += [None] * len(generation.prompt_ids) + list(generation.logprobs)
            prompts[slot] = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 45))]
    compared = 0
    for slot in slots:
        context = engine.context(slot)
        assert len(context) == len(recorded[slot])
        expected = torch.log_softmax(recomputed(engine, context) / temperature, -1) if context else None
        for position, logprob in enumerate(recorded[slot]):
            if logprob is not None and expected is not None:
                assert logprob == pytest.approx(float(expected[position - 1, context[position]]), abs=1e-4)
                compared += 1
    assert compared > 100


def play_streams(engine: Engine, pause: bool, rounds: int = 5) -> dict[int, list[Generation]]:
    """Slots with random streams of their own; each is asked again as soon as its act is complete."""
    rngs = {slot: random.Random(slot // 2) for slot in range(9)}
    streams = RngStreams()
    streams.start(list(rngs), list(rngs))
    engine.begin(rngs)
    acts: dict[int, list[Generation]] = {slot: [] for slot in rngs}
    waiting = {slot: [rng.randrange(VOCAB) for _ in range(6)] for slot, rng in rngs.items()}
    while waiting:
        found = engine.generate(
            list(waiting), list(waiting.values()), sampling(rng_streams=streams), pause=pause
        )
        for slot, act in zip(list(waiting), found, strict=True):
            waiting[slot] = []
            if act.ending is Ending.PAUSED:
                continue
            acts[slot].append(act)
            waiting[slot] = [rngs[slot].randrange(VOCAB) for _ in range(rngs[slot].randint(1, 30))]
            if len(acts[slot]) == rounds:
                del waiting[slot]
    return acts


def test_paused_acts_are_those_of_one_call_in_fewer_steps() -> None:
    whole, paused = build_engine(max_new_tokens=40), build_engine(max_new_tokens=40)
    expected = play_streams(whole, pause=False)
    for slot, acts in play_streams(paused, pause=True).items():
        for act, other in zip(acts, expected[slot], strict=True):
            assert (act.prompt_ids, act.token_ids, act.ending) == (
                other.prompt_ids,
                other.token_ids,
                other.ending,
            )
            assert act.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    lengths = {len(act.token_ids) for acts in expected.values() for act in acts}
    assert max(lengths) > 3 * min(lengths)
    assert paused.stats.sampled_tokens == whole.stats.sampled_tokens
    assert paused.stats.prompt_tokens == whole.stats.prompt_tokens
    assert paused.stats.decode_steps < 0.85 * whole.stats.decode_steps


def test_a_paused_act_is_neither_fed_nor_copied() -> None:
    engine = build_engine(stops=(), max_new_tokens=3)
    engine.watch = lambda: lambda token: token % 2 == 0
    engine.begin(range(2))
    for seed in range(50):
        acts = engine.generate(range(2), [[1], [2]], sampling(seed), pause=True)
        if acts[1].ending is Ending.PAUSED:
            break
        engine.begin(range(2))
    with pytest.raises(ConfigError, match="slot 1 has a paused act: give an empty prompt"):
        engine.generate([1], [[3]], sampling())
    with pytest.raises(ConfigError, match="slot 1 has a paused act: complete it"):
        engine.fork(1, [0])
    engine.release()  # what is kept of its context is computed again
    before = list(acts[1].token_ids)
    (act,) = engine.generate([1], [[]], sampling())
    assert act.token_ids[: len(before)] == before
    assert act.ending is not Ending.PAUSED
    assert engine.context(1) == [2, *act.token_ids]
    engine.begin([1])
    assert engine.generate([1], [[3]], sampling())[0].prompt_ids == [3]


def test_greedy_takes_the_most_likely_token() -> None:
    engine = build_engine()
    play(engine, sampling(greedy=True))
    history = play(engine, sampling(greedy=True), seed=5)
    for slot in range(9):
        context = engine.context(slot)
        best = recomputed(engine, context).argmax(-1).tolist()
        opening = history[0][slot]
        start = len(opening.prompt_ids)
        assert opening.token_ids == best[start - 1 : start - 1 + len(opening.token_ids)]


def test_every_position_is_computed_once() -> None:
    engine = build_engine()
    history = play(engine, sampling(2))
    stats = engine.stats
    contexts = [engine.context(s) for s in range(9)]
    fed = sum(len(g.prompt_ids) for turn in history for g in turn)
    drawn = sum(len(g.token_ids) for turn in history for g in turn)
    assert (stats.prompt_tokens, stats.sampled_tokens) == (fed, drawn)
    assert sum(map(len, contexts)) == fed + drawn
    # The last token of each act waits for the next observation.
    assert stats.prefilled_tokens + stats.copied_tokens + stats.decoded_tokens == fed + drawn - len(contexts)
    # Three groups of three: two of three first prompts are copies. Later contexts differ.
    assert stats.copied_tokens == 2 * sum(len(history[0][3 * g].prompt_ids) for g in range(3))


def test_the_cache_grows_by_more_and_more() -> None:
    """What is copied to make room stays in proportion to the cache, however many rounds there are."""
    engine = build_engine(max_new_tokens=4, max_context=1000)
    engine.begin(range(2))
    sizes = [0]
    for _ in range(40):
        engine.generate(range(2), [[1] * 18, [2] * 20], sampling(2))
        (columns,) = {layer.shape[2] for layer in engine._cache._layers}
        if columns != sizes[-1]:
            sizes.append(columns)
    assert sizes[-1] >= len(engine.context(0)) > 750
    assert sum(sizes[:-1]) < 2.5 * sizes[-1]
    act = engine.generate([1], [[3] * 5], sampling(1))[0]
    context = engine.context(1)
    expected = torch.log_softmax(recomputed(engine, context), -1)
    own = [float(expected[i - 1, context[i]]) for i in range(len(context) - len(act.logprobs), len(context))]
    assert act.logprobs == pytest.approx(own, abs=1e-4)


def test_later_rounds_of_slots_that_did_the_same_are_copied_too() -> None:
    engine = build_engine()
    engine.begin(range(4))
    how = sampling(greedy=True)
    first = engine.generate(range(4), [[1, 2, 3]] * 4, how)
    assert len({tuple(g.token_ids) for g in first}) == 1
    engine.stats = EngineStats()
    second = engine.generate(range(4), [[8, 9, 10, 11]] * 3 + [[8, 9, 10, 12]], how)
    assert (engine.stats.prefilled_tokens, engine.stats.copied_tokens) == (2 * 5, 2 * 5)
    assert second[0] == second[1] == second[2]
    for slot in (0, 2, 3):
        context, sampled = engine.context(slot), len(second[slot].token_ids)
        best = recomputed(engine, context).argmax(-1).tolist()
        assert context[-sampled:] == best[-sampled - 1 : -1]


def test_twin_runs_are_equal_and_the_past_of_an_engine_leaves_no_trace() -> None:
    twins = [play(build_engine(), sampling(4)) for _ in range(2)]
    used = build_engine()
    used.begin(range(40, 60))
    used.generate(range(40, 60), [[s] * (s - 30) for s in range(40, 60)], sampling(9))
    play(used, sampling(8), seed=8, groups=5)
    assert twins[0] == twins[1] == play(used, sampling(4))
    assert twins[0] != play(build_engine(), sampling(5))


def test_a_restored_generator_continues_as_before() -> None:
    engine = build_engine()
    generator = torch.Generator().manual_seed(6)
    play(engine, Sampling(generator))
    state = generator.get_state()
    expected = play(engine, Sampling(generator), seed=1)
    other = torch.Generator()
    other.set_state(state)
    assert play(build_engine(), Sampling(other), seed=1) == expected


def test_a_fork_continues_like_its_source_and_leaves_it_alone() -> None:
    engine = build_engine()
    engine.begin([0, 1, 2])
    engine.generate([0, 1, 2], [[3, 4, 9], [8, 8], [20, 21, 22, 23]], sampling(1))
    engine.fork(1, [17, 2, 1])  # a new slot, a running one, and the source itself
    assert engine.context(17) == engine.context(2) == engine.context(1)
    engine.stats = EngineStats()
    forked = engine.generate([2], [[30, 31]], sampling(greedy=True))
    assert engine.stats.prefilled_tokens == 3  # the observation and the token before it, nothing again
    engine.generate([17], [[40] * 7], sampling(7))
    assert engine.generate([1], [[30, 31]], sampling(greedy=True))[0].token_ids == forked[0].token_ids
    for slot in (1, 2, 17):
        context = engine.context(slot)
        assert len(context) > 5
    assert engine.context(0)[:3] == [3, 4, 9]
    again = engine.generate([0], [[30, 31]], sampling(greedy=True))[0]
    context = engine.context(0)
    best = recomputed(engine, context).argmax(-1).tolist()
    assert again.token_ids == best[-len(again.token_ids) - 1 : -1]


def test_memory_that_was_given_back_is_filled_again() -> None:
    engines = build_engine(), build_engine()
    for engine in engines:
        engine.begin(range(3))
        engine.generate(range(3), [[3, 4, 9], [8, 8], [20, 21, 22, 23]], sampling(1))
    engines[1].release()
    assert sum(layer.numel() for layer in engines[1]._cache._layers) == 0
    kept, computed = (e.generate([2, 0], [[30], [31, 32]], sampling(greedy=True)) for e in engines)
    assert [g.token_ids for g in kept] == [g.token_ids for g in computed]
    assert engines[1].context(1) == engines[0].context(1)


def test_acts_end_at_the_token_that_closes_them_or_at_a_limit() -> None:
    engine = build_engine(max_new_tokens=10)
    acts = [g for turn in play(engine, sampling(2), groups=8) for g in turn]
    for act in acts:
        assert len(act.token_ids) == len(act.logprobs) <= 10
        assert not set(act.token_ids[:-1]) & set(STOPS)
        assert act.ending is (Ending.CLOSED if act.token_ids[-1] in STOPS else Ending.ROUND_LIMIT)
        assert act.ending is Ending.CLOSED or len(act.token_ids) == 10
    assert {a.ending for a in acts} == {Ending.CLOSED, Ending.ROUND_LIMIT}


def test_a_full_context_ends_the_episode_of_its_slot_only() -> None:
    engine = build_engine(max_new_tokens=10, max_context=30, stops=())
    engine.begin([0, 1, 2])
    lengths = {0: 5, 1: 25, 2: 30}
    short, long, refused = engine.generate([0, 1, 2], [[9] * n for n in lengths.values()], sampling())
    assert (short.ending, len(short.token_ids)) == (Ending.ROUND_LIMIT, 10)
    assert (long.ending, len(long.token_ids)) == (Ending.CONTEXT_LIMIT, 5)
    assert refused == Generation([], ending=Ending.CONTEXT_LIMIT)
    assert len(engine.context(1)) == 30
    short, long = engine.generate([0, 1], [[9] * 14, [9]], sampling())
    assert (short.ending, len(short.token_ids)) == (Ending.CONTEXT_LIMIT, 1)
    assert long.token_ids == long.prompt_ids == []
    assert engine.generate([], [], sampling()) == []


def test_an_act_closed_by_the_last_token_that_fits_is_whole() -> None:
    engine = build_engine(max_context=4, stops=tuple(range(VOCAB)))
    engine.begin([0])
    (act,) = engine.generate([0], [[9] * 3], sampling())
    assert (act.ending, len(act.token_ids)) == (Ending.CLOSED, 1)


def test_sampling_follows_the_tempered_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, float("-1e9"), 0.0, -1.0])
    for temperature in (1.0, 0.7):
        how = sampling(1, temperature=temperature)
        tokens, logprobs = sample(logits.expand(40_000, -1), how)
        expected = torch.softmax(logits / temperature, -1)
        frequency = torch.bincount(tokens, minlength=5) / 40_000
        assert frequency[2] == 0
        torch.testing.assert_close(frequency, expected, atol=0.01, rtol=0)
        torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_a_cache_of_as_many_rows_as_before_begins_with_the_columns_it_had() -> None:
    cache = KVCache(build_engine().network)
    first = torch.zeros(1, 1, dtype=torch.long)
    cache.reserve(3, 300, 1000, 0)
    cache.clear()
    cache.reserve(2, 10, 1000, 0)
    with pytest.raises(IndexError, match="300 columns of a cache that has 128"):
        cache.at(None, first, 300)
    cache.clear()
    cache.reserve(3, 10, 1000, 0)
    assert cache.at(None, first, 300).columns == 300
    cache.clear()
    cache.reserve(3, 10, 200, 0)  # a shorter limit of contexts
    with pytest.raises(IndexError, match="300 columns of a cache that has 256"):
        cache.at(None, first, 300)


def test_a_drawn_word_has_the_logprob_of_its_unrounded_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build_engine(stops=())
    network, sums, drawn = engine.network, [], []

    def rounded(hidden: Tensor) -> Tensor:
        logits = network.logits(hidden).bfloat16().float()
        sums.append((logits / 0.7).logsumexp(-1))
        return logits

    def exact(hidden: Tensor, words: Tensor) -> Tensor:
        drawn.append(network.logits(hidden).gather(-1, words.unsqueeze(-1)).squeeze(-1))
        return drawn[-1]

    monkeypatch.setattr(network, "logits_to_sample", rounded)
    monkeypatch.setattr(network, "drawn_logits", exact)
    engine.begin([0, 1, 2])  # two contexts are equal, so their logits are computed once
    acts = engine.generate([0, 1, 2], [[9, 8], [10], [9, 8]], sampling(temperature=0.7))
    sums[0] = sums[0][[1, 0, 1]]  # the shorter context comes first
    found = torch.tensor([act.logprobs for act in acts])
    expected = torch.stack(drawn) / 0.7 - torch.stack(sums)
    torch.testing.assert_close(found, expected.T, atol=1e-5, rtol=0)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    kept = {0.3: {1}, 0.41: {1, 3}, 0.7: {1, 3}, 0.75: {1, 2, 3}, 0.95: {0, 1, 2, 3}}
    for top_p, nucleus in kept.items():
        tokens, logprobs = sample(logits.expand(2_000, -1), sampling(2, top_p=top_p - 1e-6))
        assert set(tokens.tolist()) == nucleus
        torch.testing.assert_close(logprobs, logits[tokens])  # of the whole distribution


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_large_vocabulary_is_sampled_by_blocks_from_the_same_distribution(top_p: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 40_000, generator=generator) * 3
    logits[:, 100:3000] = float("-inf")  # whole blocks without mass
    logits[1, 5], logits[2, -1] = 30.0, 30.0
    logits[3] = logits[3].round()  # many equal words at the edge of the nucleus
    logprobs = torch.log_softmax(logits, -1)
    ordered, order = logprobs.double().exp().sort(dim=-1, descending=True, stable=True)
    outside = (ordered.cumsum(-1) - ordered >= top_p) & (top_p < 1)
    wanted = torch.zeros_like(ordered).scatter(-1, order, ordered.masked_fill(outside, 0.0)).cumsum(-1)
    drawn = []
    for uniform in torch.linspace(0, 1 - 2**-24, 41).tolist():
        uniform_B1 = torch.full((6, 1), uniform)
        how = sampling(1, top_p=top_p)
        tokens, _ = sample(logits.masked_fill(logits.isinf(), -1e9), how, uniform_B1)
        best = torch.searchsorted(wanted, uniform_B1.double() * wanted[:, -1:], right=True).squeeze(-1)
        masses = wanted.gather(-1, torch.stack([tokens, best], 1)) / wanted[:, -1:]
        assert float((masses[:, 0] - masses[:, 1]).abs().max()) < 1e-5  # the same place of the distribution
        drawn.append(tokens)
    assert set(torch.stack(drawn)[1:-1, 1].tolist()) == {5}
    assert set(torch.stack(drawn)[1:-1, 2].tolist()) == {39_999}


def test_weights_that_diverged_are_an_error() -> None:
    engine = build_engine()
    engine.begin([0])
    with torch.no_grad():
        engine.network.model.model.norm.weight[0] = float("nan")
    with pytest.raises(TrainingError, match="logits are not finite"):
        engine.generate([0], [[1, 2]], sampling())


def test_wrong_use_is_named() -> None:
    engine = build_engine()
    engine.begin([3])
    with pytest.raises(ConfigError, match=r"slot 4 has no episode: call begin\(\[4\]\) first"):
        engine.generate([4], [[1]], sampling())
    with pytest.raises(ConfigError, match="slot 9 has no episode"):
        engine.fork(9, [3])
    with pytest.raises(ConfigError, match="name one twice"):
        engine.generate([3, 3], [[1], [1]], sampling())
    with pytest.raises(ConfigError, match="empty prompt"):
        engine.generate([3], [[]], sampling())
    with pytest.raises(ConfigError, match="temperature is 0"):
        sampling(temperature=0)
    with pytest.raises(ConfigError, match=r"top_p is 1\.5"):
        sampling(top_p=1.5)
    with pytest.raises(ConfigError, match="max_context is 5000: this model takes 2 to 1024 tokens"):
        build_engine(max_context=5000)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        build_engine(max_new_tokens=0)
