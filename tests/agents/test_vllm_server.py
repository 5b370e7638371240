"""The client of a vLLM server, against a server that samples from a real model with vLLM's protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.stub_vllm import StubVLLM
from hf_models import save_family
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from searchgym.agents.lm.generation import Ending, Generation
from searchgym.agents.lm.sampling import Sampling
from searchgym.agents.lm.vllm_server import VLLMServerEngine
from searchgym.errors import ConfigError, EngineError

PROMPTS = [list(range(5, 45)), list(range(5, 45)), [7, 8, 9]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_family(tmp_path_factory.mktemp("model"), initializer_range=0.4)


@pytest.fixture
def stub(model_dir: str) -> Iterator[StubVLLM]:
    with StubVLLM(model_dir) as server:
        yield server


def engine_at(stub: StubVLLM, **options: Any) -> VLLMServerEngine:
    usual = {"base_url": stub.url, "max_new_tokens": 12, "max_context": 200, "patience": 0.5}
    return VLLMServerEngine(**{**usual, **options})


def sampling(temperature: float = 1.0, seed: int = 0, **more: Any) -> Sampling:
    return Sampling(torch.Generator().manual_seed(seed), temperature, **more)


def drawn(engine: VLLMServerEngine, prompts: list[list[int]] = PROMPTS, **how: Any) -> list[Generation]:
    slots = list(range(len(prompts)))
    engine.begin(slots)
    return engine.generate(slots, prompts, sampling(**how))


@torch.inference_mode()
def logprobs_of(model: Any, generation: Generation, before: list[int], temperature: float) -> list[float]:
    """What the model itself says of the sampled ids."""
    ids = torch.tensor([[*before, *generation.token_ids]])
    values = (model(ids).logits[0].float() / temperature).log_softmax(-1)
    first = len(before) - 1
    return [float(values[first + n, token]) for n, token in enumerate(generation.token_ids)]


def random_adapter(stub: StubVLLM, seed: int) -> Any:
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(stub._directory)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(base, config)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_ids_come_back_with_the_models_own_tempered_logprobs(stub: StubVLLM, temperature: float) -> None:
    for generation, prompt in zip(drawn(engine_at(stub), temperature=temperature), PROMPTS, strict=True):
        assert generation.prompt_ids == prompt
        assert 1 <= len(generation.token_ids) <= 12
        expected = logprobs_of(stub.network, generation, prompt, temperature)
        assert generation.logprobs == pytest.approx(expected, abs=1e-5)


def test_the_agents_generator_decides_what_is_drawn(stub: StubVLLM) -> None:
    engine = engine_at(stub)
    first, again, other = (drawn(engine, seed=seed) for seed in (1, 1, 2))
    assert [g.token_ids for g in first] == [g.token_ids for g in again]
    assert [g.token_ids for g in first] != [g.token_ids for g in other]
    assert first[0].token_ids != first[1].token_ids  # one prompt, two draws
    greedy = drawn(engine, greedy=True)
    assert greedy[0].token_ids == greedy[1].token_ids


def test_the_servers_own_sampling_defaults_do_not_reach_the_tokens(model_dir: str) -> None:
    with StubVLLM(model_dir, defaults={"top_k": 1, "top_p": 0.1, "temperature": 0.2}) as stub:
        generations = drawn(engine_at(stub))
        assert generations[0].token_ids != generations[1].token_ids
        assert generations[2].logprobs == pytest.approx(
            logprobs_of(stub.network, generations[2], PROMPTS[2], 1.0), abs=1e-5
        )
        asked = stub.bodies[-1]
    for name, neutral in (("repetition_penalty", 1.0), ("presence_penalty", 0.0), ("min_p", 0.0)):
        assert asked[name] == neutral


def test_a_temperature_needs_a_server_that_gives_tempered_logprobs(model_dir: str) -> None:
    with StubVLLM(model_dir, processed=False) as stub:
        engine = engine_at(stub)
        with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
            drawn(engine, temperature=0.7)
        (generation,) = drawn(engine, PROMPTS[:1])  # at temperature 1 both are the same
        expected = logprobs_of(stub.network, generation, PROMPTS[0], 1.0)
        assert generation.logprobs == pytest.approx(expected, abs=1e-5)


def closes_with(tokenizer: Any, closing: str) -> Callable[[int], bool]:
    """A stop rule: the act is complete when its text holds this one."""
    ids: list[int] = []

    def completes(token: int) -> bool:
        ids.append(token)
        return closing in tokenizer.decode(ids)

    return completes


@pytest.mark.parametrize("behaviour", ["ok", "overrun"])
def test_an_act_is_cut_after_the_id_that_closes_it(model_dir: str, behaviour: str) -> None:
    with StubVLLM(model_dir, lambda number, body: behaviour) as stub:
        engine = engine_at(stub)
        whole = drawn(engine)[2].token_ids
        closing = stub.tokenizer.decode(whole[3:5])
        engine.stop_strings = (closing,)
        engine.watch = lambda: closes_with(stub.tokenizer, closing)
        (generation,) = drawn(engine, PROMPTS)[2:]
        assert generation.ending is Ending.CLOSED
        assert generation.token_ids == whole[: len(generation.token_ids)]
        assert len(generation.token_ids) == len(generation.logprobs) <= 5
        assert closing in stub.tokenizer.decode(generation.token_ids)
        assert engine.context(2) == [*PROMPTS[2], *generation.token_ids]
        engine.stop_ids = {whole[1]}
        (generation,) = drawn(engine, PROMPTS)[2:]
        assert generation.token_ids == whole[: whole.index(whole[1]) + 1]
        assert generation.ending is Ending.CLOSED


def test_contexts_grow_and_the_prefix_cache_holds_them(stub: StubVLLM) -> None:
    engine = engine_at(stub)
    first = drawn(engine)
    assert engine.stats.copied_tokens == 32  # the second of two equal prompts of 40: two blocks of 16
    engine.fork(2, [3])
    again = engine.generate([0, 3], [[50, 51], [60]], sampling())
    assert engine.context(0) == [*PROMPTS[0], *first[0].token_ids, 50, 51, *again[0].token_ids]
    assert engine.context(3)[: 3 + len(first[2].token_ids)] == [*PROMPTS[2], *first[2].token_ids]
    asked = [body["prompt"] for body in stub.bodies if len(body["prompt"]) > 45]
    assert asked == [engine.context(0)[: len(asked[0])]]
    assert engine.stats.copied_tokens >= 32 + 48
    assert engine.stats.prompt_tokens == 83 + 3
    assert engine.started(0)
    engine.begin([0])
    assert not engine.started(0)
    engine.clear()
    with pytest.raises(ConfigError, match="begin"):
        engine.context(0)


def test_limits_of_act_and_context(stub: StubVLLM) -> None:
    engine = engine_at(stub, max_new_tokens=3, max_context=45)
    first = drawn(engine, PROMPTS[:1])
    assert (first[0].ending, len(first[0].token_ids)) == (Ending.ROUND_LIMIT, 3)
    assert engine.generate([0], [[9]], sampling())[0].ending is Ending.CONTEXT_LIMIT
    assert len(engine.context(0)) == 45
    full = engine.generate([0], [[9]], sampling())
    assert full == [Generation([], ending=Ending.CONTEXT_LIMIT)]
    engine.begin([0, 1])
    with pytest.raises(ConfigError, match="twice"):
        engine.generate([0, 0], [[1], [1]], sampling())
    with pytest.raises(ConfigError, match="empty prompt"):
        engine.generate([0], [[]], sampling())


def test_an_adapter_is_sampled_from_once_it_is_synced(stub: StubVLLM) -> None:
    engine = engine_at(stub)
    salts = []
    for version in (0, 1):
        model = random_adapter(stub, seed=version)
        engine.sync(model, version)
        generation = drawn(engine, temperature=0.8)[0]
        expected = logprobs_of(model, generation, PROMPTS[0], 0.8)
        assert generation.logprobs == pytest.approx(expected, abs=1e-5)
        base = logprobs_of(stub.network, generation, PROMPTS[0], 0.8)
        assert generation.logprobs != pytest.approx(base, abs=1e-2)
        salts.append(stub.bodies[-1]["cache_salt"])
    assert salts[0] != salts[1]  # the other version's keys and values are not found
    assert list(stub.adapters) == [salts[1]]
    assert [Path(path).is_dir() for path in stub.loaded] == [False, True]


def test_all_weights_are_sampled_from_once_they_are_synced(stub: StubVLLM, tmp_path: Path) -> None:
    engine = engine_at(stub, sync_dir=str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(stub._directory)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.2)
    engine.sync(model, 3)
    generation = drawn(engine)[0]
    expected = logprobs_of(model, generation, PROMPTS[0], 1.0)
    assert generation.logprobs == pytest.approx(expected, abs=1e-5)
    assert Path(stub.loaded[-1]).parent == tmp_path
    assert stub.bodies[-1]["cache_salt"]


@pytest.mark.parametrize("behaviour", ["server_error", "cut"])
def test_what_passes_is_asked_for_again_and_changes_nothing(model_dir: str, behaviour: str) -> None:
    with StubVLLM(model_dir) as stub:
        expected = drawn(engine_at(stub))
    bad = iter([True, False, True])
    with StubVLLM(model_dir) as stub:
        engine = engine_at(stub, patience=5.0)
        stub.act = lambda number, body: behaviour if next(bad, False) else "ok"
        assert drawn(engine) == expected


@pytest.mark.parametrize("behaviour", ["bad_request", "abort", "no_ids"])
def test_an_act_that_is_not_given_fails_alone(
    model_dir: str, behaviour: str, caplog: pytest.LogCaptureFixture
) -> None:
    with StubVLLM(model_dir) as stub:
        engine = engine_at(stub)
        stub.act = lambda number, body: behaviour if len(body["prompt"]) == 3 else "ok"
        one, two, three = drawn(engine)
        assert three == Generation([], ending=Ending.FAILED)
        assert engine.context(2) == []
        assert one.token_ids
        assert two.token_ids
        stub.act = lambda number, body: "ok"
        assert engine.generate([2], [[7, 8, 9]], sampling())[0].token_ids
    assert "its episode is lost" in caplog.text


def test_a_server_that_dies_loses_acts_and_comes_back_with_the_weights(stub: StubVLLM) -> None:
    engine = engine_at(stub, patience=0.6)
    model = random_adapter(stub, seed=5)
    engine.sync(model, 5)
    before = drawn(engine)
    stub.hang_up()
    start = time.monotonic()
    assert {g.ending for g in drawn(engine)} == {Ending.FAILED}
    patient = time.monotonic() - start
    start = time.monotonic()
    assert {g.ending for g in drawn(engine)} == {Ending.FAILED}
    assert time.monotonic() - start < patient  # it is not waited for a second time
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.sync(model, 6)
    stub.start_anew()
    stub.listen()
    assert [g.token_ids for g in drawn(engine)] == [g.token_ids for g in before]
    assert len(stub.adapters) == 1


def test_a_server_that_is_back_in_time_loses_nothing(stub: StubVLLM) -> None:
    engine = engine_at(stub, patience=10.0)
    model = AutoModelForCausalLM.from_pretrained(stub._directory)
    engine.sync(model, 1)
    expected = drawn(engine)
    stub.hang_up()
    stub.start_anew()
    threading.Timer(0.5, stub.listen).start()
    assert drawn(engine) == expected
    assert len(stub.loaded) == 2  # before the first act, by the request that came first
    assert stub.loaded[0] == stub.loaded[1]


def test_an_adapter_the_server_forgot_is_loaded_again(stub: StubVLLM) -> None:
    engine = engine_at(stub)
    engine.sync(random_adapter(stub, seed=5), 5)
    expected = drawn(engine)
    stub.adapters.clear()
    stub._blocks.clear()
    assert drawn(engine) == expected


def test_a_dead_server_is_a_mistake_before_anything_is_played(stub: StubVLLM) -> None:
    stub.hang_up()
    with pytest.raises(
        ConfigError, match=r"no vLLM server answers at http://.*Start one \(vllm serve MODEL\)"
    ):
        engine_at(stub)


@pytest.mark.parametrize(
    ("server", "options", "message"),
    [
        ({}, {"served_model": "big"}, "serves tiny, not 'big'"),
        ({"max_model_len": 100}, {}, "takes 100 tokens: start it with --max-model-len 200"),
        ({"behave": lambda number, body: "no_ids"}, {}, "0.10.2 or later"),
        ({}, {"base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ({}, {"patience": 0}, "patience is 0"),
        ({}, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({}, {"max_context": 1}, "max_context is 1"),
    ],
)
def test_mistakes_are_named(
    model_dir: str, server: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with StubVLLM(model_dir, **server) as stub, pytest.raises(ConfigError, match=message):
        engine_at(stub, **options)


@pytest.mark.parametrize(
    ("server", "adapter", "message"),
    [
        ({"lora": False}, True, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora"),
        ({"dev": False}, False, "VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_a_server_that_takes_no_weights_says_how_it_would(
    model_dir: str, server: dict[str, Any], adapter: bool, message: str
) -> None:
    with StubVLLM(model_dir, **server) as stub:
        engine = engine_at(stub)
        model = random_adapter(stub, 0) if adapter else AutoModelForCausalLM.from_pretrained(model_dir)
        with pytest.raises(EngineError, match=message):
            engine.sync(model, 0)


def test_the_key_comes_from_the_environment(model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with StubVLLM(model_dir, key="sesame") as stub:
        monkeypatch.setenv("VLLM_KEY", "sesame")
        assert drawn(engine_at(stub, api_key_env="VLLM_KEY"))[0].token_ids
        monkeypatch.setenv("VLLM_KEY", "wrong-key")
        with pytest.raises(ConfigError, match="401") as refused:
            engine_at(stub, api_key_env="VLLM_KEY")
        assert "wrong-key" not in str(refused.value)
