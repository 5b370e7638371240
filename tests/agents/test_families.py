"""Families whose rows keep more than keys and values of one size: played and learned from as a plain forward computes."""

from __future__ import annotations

import random

import pytest
import torch
import transformers
from families import HYBRIDS, SHAPE, UNEQUAL, build_family
from packaging import version
from test_network import own_logprobs
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from searchgym.agents.hf.loading import freeze_other_towers
from searchgym.agents.hf.lora import Adapter, LoraOptions
from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.generation import Ending, Generation
from searchgym.agents.lm.network import open_network
from searchgym.agents.lm.sampling import Sampling
from searchgym.errors import ConfigError

pytestmark = pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.24"),
    reason="older versions of transformers keep the states of hybrids in other caches",
)
VOCAB = 70
TEMPERATURE = 0.8
CLOSE = dict.fromkeys([*HYBRIDS, *UNEQUAL], 2e-4) | {"nemotron_h": 3e-3}
"""Nemotron-H: transformers' own step of one token differs by that from its own pass over the whole context."""


def paused_acts(
    engine: Engine, slots: list[int], prompts: list[list[int]], how: Sampling
) -> dict[int, Generation]:
    """One act per slot, in calls that pause the longer acts."""
    acts: dict[int, Generation] = {}
    waiting = dict(zip(slots, prompts, strict=True))
    while waiting:
        found = engine.generate(list(waiting), list(waiting.values()), how, pause=True)
        ended = {s: act for s, act in zip(waiting, found, strict=True) if act.ending is not Ending.PAUSED}
        acts |= ended
        waiting = {s: [] for s in waiting if s not in ended}
    return {slot: acts[slot] for slot in slots}


def play(engine: Engine) -> dict[int, list[float | None]]:
    """Ragged prompts and observations, paused acts, a slot that starts later, a fork; log-probabilities by slot."""
    rng = random.Random(2)
    how = Sampling(torch.Generator().manual_seed(3), temperature=TEMPERATURE)
    slots = list(range(4))
    engine.begin(slots)
    prompts = {s: [9, 8, 7, 6, 5, 4, *([3] * (s // 2)), 11] for s in slots}
    recorded: dict[int, list[float | None]] = {s: [] for s in slots}
    for round_ in range(3):
        chosen = rng.sample(slots, 3)
        for slot, act in paused_acts(engine, chosen, [prompts[s] for s in chosen], how).items():
            recorded[slot] += [None] * len(act.prompt_ids) + list(act.logprobs)
            prompts[slot] = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))]
        if round_ == 1:
            engine.fork(chosen[0], [9, chosen[1]])
            slots.append(9)
            for copy in (9, chosen[1]):
                recorded[copy] = list(recorded[chosen[0]])
                prompts[copy] = [rng.randrange(VOCAB) for _ in range(5)]
    return recorded


@pytest.mark.parametrize("family", [*HYBRIDS, *UNEQUAL])
def test_sampled_and_learned_logprobs_are_those_of_a_plain_forward_also_after_a_fork(family: str) -> None:
    model = build_family(family)
    network = open_network(model)
    assert network.pads == (family in UNEQUAL)
    engine = Engine(network, (5, 6), max_new_tokens=4, max_context=200, batch_tokens=64, share_from=4)
    recorded = play(engine)
    if family in HYBRIDS:
        assert engine.stats.padded_tokens == 0
    sequences, wanted = [], []
    for slot, logprobs in recorded.items():
        context = engine.context(slot)[: len(logprobs)]
        targets = tuple(i for i, logprob in enumerate(logprobs) if logprob is not None)
        own = own_logprobs(model, context, TEMPERATURE)
        wanted += own[[t - 1 for t in targets]].tolist()
        sequences.append(TokenSequence(tuple(context), targets, (TEMPERATURE,) * len(targets)))
    sampled = [x for logprobs in recorded.values() for x in logprobs if x is not None]
    assert len(sampled) > 30
    assert sampled == pytest.approx(wanted, abs=CLOSE[family])
    logprobs_N, _, _ = evaluate(network, sequences, EvaluationStats())
    assert logprobs_N.tolist() == pytest.approx(wanted, abs=2e-4)
    logprobs_N.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", ["qwen3_5_text", "falcon_h1"])
def test_gradients_through_shared_beginnings_are_those_of_one_sequence_at_a_time(family: str) -> None:
    sequences = [
        TokenSequence((4, 9, 2, 7, 7, 3, *tail), (3, 6, 8), (1.0, 0.7, 1.0))
        for tail in ((5, 6, 1), (5, 6, 2), (8, 8, 8, 1))
    ]
    gradients = []
    for parts in ([sequences], [[s] for s in sequences]):
        model = build_family(family)
        network = open_network(model)
        for part in parts:
            evaluate(network, part, EvaluationStats())[0].sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    together, apart = gradients
    assert together.keys() == apart.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "family", ["qwen3_next", "nemotron_h", "falcon_h1", "granitemoehybrid", "bamba", "lfm2", "llama4_text"]
)
def test_an_adapter_for_all_linear_layers_is_sampled_from_and_leaves_routers_alone(family: str) -> None:
    model = build_family(family)
    adapter = Adapter.add(model, LoraOptions(rank=2), "base", seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapter.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=generator)
    adapter.model.eval()
    adapted = adapter.model.base_model.targeted_module_names
    assert adapted
    assert not [name for name in adapted if {"gate", "router", "experts"} & set(name.split("."))]
    modules = dict(model.named_modules())
    states = [name for name, module in modules.items() if hasattr(module, "A_log") and hasattr(module, "D")]
    assert not {f"{name}.out_proj" for name in states} & set(adapted)
    engine = Engine(open_network(model), (5, 6), max_new_tokens=4, max_context=200, share_from=4)
    for slot, logprobs in play(engine).items():
        own = own_logprobs(model, engine.context(slot)[: len(logprobs)], TEMPERATURE).tolist()
        for position, logprob in enumerate(logprobs):
            assert logprob is None or logprob == pytest.approx(own[position - 1], abs=CLOSE[family])


def test_a_vision_tower_gets_no_adapter_and_no_gradient() -> None:
    text = {**SHAPE, "query_pre_attn_scalar": 8, "vocab_size": VOCAB}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval()
    freeze_other_towers(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if "vision" in n or "projector" in n}
    adapter = Adapter.add(model, LoraOptions(rank=2), "base", seed=0)
    adapted = adapter.model.base_model.targeted_module_names
    assert len(adapted) == 2 * 7  # attention and feed-forward of two layers
    assert all("language_model" in name for name in adapted)


def test_a_slot_that_begins_again_has_no_state_of_the_episode_before() -> None:
    network = open_network(build_family("qwen3_next"))
    engine = Engine(network, (5,), max_new_tokens=3, max_context=100)
    greedy = Sampling(torch.Generator(), greedy=True)
    engine.begin([0])
    first = engine.generate([0], [[9, 8, 7]], greedy)[0]
    engine.generate([0], [[30, 31, 32]], greedy)
    engine.begin([0])
    assert engine.generate([0], [[9, 8, 7]], greedy)[0].logprobs == first.logprobs


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [("minimax", {}, "cache of its own"), ("jamba", {"num_experts": 2}, "kept states its logits differ")],
)
def test_what_cannot_be_played_is_refused_with_the_reason(
    family: str, changes: dict[str, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import families

    monkeypatch.setitem(families.FAMILIES, family, changes)
    with pytest.raises(ConfigError, match=rf"models of type '{family}' cannot be used: .*{reason}"):
        open_network(build_family(family))
