"""vLLM in the trainer's process, with a stand-in for the module `vllm` that samples from a real model."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures.stub_vllm import StubVLLM
from hf_models import save_family
from peft import LoraConfig, PeftModel, get_peft_model
from test_vllm_server import PROMPTS, drawn, logprobs_of
from transformers import AutoModelForCausalLM

from searchgym.agents.hf.engines import open_vllm
from searchgym.agents.lm.generation import Ending
from searchgym.agents.lm.vllm import VLLMEngine
from searchgym.errors import ConfigError, MissingExtraError

PARAMS = (  # of vLLM 0.32's SamplingParams, those that are used
    *(
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ),
    *("seed", "max_tokens", "stop_token_ids", "stop", "include_stop_str_in_output", "skip_special_tokens"),
    "logprobs",
)


class LLM:
    """What is used of `vllm.LLM`."""

    def __init__(self, **options: Any) -> None:
        self.options, self.asleep, self.removed = options, False, []
        self.stub = StubVLLM(options["model"])
        self.stub._loop.close()
        self.llm_engine = SimpleNamespace(remove_lora=self.removed.append)
        self.aborts = False

    def generate(self, prompts: list[Any], params: list[Any], lora_request: Any, use_tqdm: bool) -> list[Any]:
        assert not self.asleep
        model = self.stub.network
        if lora_request is not None:
            model = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(self.options["model"]), lora_request.lora_path
            )
        outputs = []
        for prompt, fields in zip(prompts, params, strict=True):
            request = {**fields, "prompt": prompt["prompt_token_ids"], "logprobs": 1}
            ids, values, _, reason, stop = self.stub._sample(model, request, 0)
            act = SimpleNamespace(
                token_ids=ids,
                logprobs=[{i: SimpleNamespace(logprob=v)} for i, v in zip(ids, values, strict=True)],
                finish_reason="abort" if self.aborts else reason,
                stop_reason=stop,
            )
            outputs.append(
                SimpleNamespace(outputs=[act], prompt_token_ids=request["prompt"], num_cached_tokens=16)
            )
        return outputs

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        self.stub.network.load_state_dict(dict(kwargs["weights_iterator"]))

    def reset_prefix_cache(self) -> None:
        self.options["reset"] = True

    def sleep(self, level: int) -> None:
        assert level == 1
        self.asleep = True

    def wake_up(self) -> None:
        self.asleep = False


def sampling_params(**fields: Any) -> dict[str, Any]:
    assert set(fields) == set(PARAMS)
    return fields


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_family(tmp_path_factory.mktemp("model"), initializer_range=0.4)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in where `vllm` is imported from."""

    def lora(name: str, number: int, path: str) -> SimpleNamespace:
        return SimpleNamespace(lora_name=name, lora_int_id=number, lora_path=path)

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=sampling_params))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=lora))


@pytest.fixture
def _vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def opened(model: str, lora_rank: int | None = None, **options: Any) -> Any:
    return open_vllm(
        "vllm",
        model,
        max_new_tokens=10,
        max_context=200,
        dtype="float32",
        seed=3,
        lora_rank=lora_rank,
        options=options,
    )


@pytest.mark.usefixtures("_vllm")
def test_all_weights_are_handed_over_in_memory(model_dir: str) -> None:
    engine = opened(model_dir, enforce_eager=True)
    asked = engine._llm.options
    assert asked["logprobs_mode"] == "processed_logprobs"
    assert (asked["max_model_len"], asked["enable_prefix_caching"], asked["enforce_eager"]) == (
        200,
        True,
        True,
    )
    assert "enable_lora" not in asked
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.2)
    engine.sync(model, 1)
    assert asked["reset"]
    for generation, prompt in zip(drawn(engine, temperature=0.7), PROMPTS, strict=True):
        expected = logprobs_of(model, generation, prompt, 0.7)
        assert generation.logprobs == pytest.approx(expected, abs=1e-5)
    assert engine.stats.copied_tokens == 16 * len(PROMPTS)
    assert engine.stats.prefilled_tokens == sum(map(len, PROMPTS)) - 16 * len(PROMPTS)


@pytest.mark.usefixtures("_vllm")
def test_adapters_follow_one_another(model_dir: str) -> None:
    engine = opened(model_dir, lora_rank=4)
    assert engine._llm.options["max_lora_rank"] == 8
    paths = []
    for version in (0, 1):
        torch.manual_seed(version)
        base = AutoModelForCausalLM.from_pretrained(model_dir)
        model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        engine.sync(model, version)
        generation = drawn(engine)[0]
        expected = logprobs_of(model, generation, PROMPTS[0], 1.0)
        assert generation.logprobs == pytest.approx(expected, abs=1e-5)
        paths.append(Path(engine._adapter.lora_path))
    assert engine._adapter.lora_int_id == 2
    assert engine._llm.removed == [1]
    assert [path.is_dir() for path in paths] == [False, True]


@pytest.mark.usefixtures("_vllm")
def test_memory_is_given_back_between_rollouts(model_dir: str) -> None:
    engine = opened(model_dir, sleep=True)
    assert engine._llm.options["enable_sleep_mode"]
    engine.release()
    engine.release()
    assert engine._llm.asleep
    assert drawn(engine)[0].token_ids  # it woke up
    engine.release()
    engine.sync(AutoModelForCausalLM.from_pretrained(model_dir), 1)
    assert not engine._llm.asleep
    always = opened(model_dir)
    always.release()
    assert not always._llm.asleep


@pytest.mark.usefixtures("_vllm")
def test_an_act_that_was_aborted_has_failed(model_dir: str) -> None:
    engine = opened(model_dir)
    engine._llm.aborts = True
    assert {g.ending for g in drawn(engine)} == {Ending.FAILED}


@pytest.mark.usefixtures("_vllm")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "logprobs_mode is not an option"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size is not an option"),
        ({"lora_rank": 1000}, "lora rank is 1000: vLLM takes at most 512"),
    ],
)
def test_mistakes_are_named(model_dir: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(model_dir, **options)


def test_without_vllm_the_error_names_the_extra(model_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"searchgym\[vllm\]"):
        VLLMEngine(model_dir, max_new_tokens=1, max_context=10)


def quoting(ids: list[int], tokenizer: Any) -> Any:
    """A stop rule for which the first closing is quoted and the second one completes the act."""
    closing, seen = tokenizer.decode(ids), []

    def completes(token: int) -> bool:
        seen.append(token)
        return str(tokenizer.decode(seen)).count(closing) > 1

    return completes


@pytest.mark.usefixtures("_vllm")
def test_an_act_goes_on_after_a_quoted_closing_tag(model_dir: str) -> None:
    """vLLM ends the request there; the act is continued, from the same distribution and up to the same limits."""
    engine = opened(model_dir)
    (whole,) = drawn(engine, PROMPTS[2:], greedy=True)
    engine.stop_strings = (engine._llm.stub.tokenizer.decode(whole.token_ids[2:4]),)
    stopped = drawn(engine, PROMPTS[2:], greedy=True)[0]
    assert len(stopped.token_ids) < len(whole.token_ids)
    engine.watch = lambda: quoting(whole.token_ids[2:4], engine._llm.stub.tokenizer)
    (continued,) = drawn(engine, PROMPTS[2:], greedy=True)
    assert continued.token_ids == whole.token_ids[: len(continued.token_ids)]
    assert len(continued.token_ids) > len(stopped.token_ids)
    assert continued.logprobs == pytest.approx(whole.logprobs[: len(continued.token_ids)], abs=1e-5)
    assert continued.prompt_ids == PROMPTS[2]
    assert engine.context(0) == [*PROMPTS[2], *continued.token_ids]
    sampled = drawn(engine, PROMPTS[2:], seed=3)[0]
    expected = logprobs_of(engine._llm.stub.network, sampled, PROMPTS[2], 1.0)
    assert sampled.logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("_vllm")
def test_an_act_whose_continuation_fails_leaves_its_slot_as_it_was(model_dir: str) -> None:
    engine = opened(model_dir)
    (whole,) = drawn(engine, PROMPTS[2:], greedy=True)
    engine.stop_strings = (engine._llm.stub.tokenizer.decode(whole.token_ids[2:4]),)
    engine.watch = lambda: quoting(whole.token_ids[2:4], engine._llm.stub.tokenizer)
    sample = engine._llm.generate

    def once(*args: Any, **options: Any) -> Any:
        outputs = sample(*args, **options)
        engine._llm.aborts = True
        return outputs

    engine._llm.generate = once
    (failed,) = drawn(engine, PROMPTS[2:], greedy=True)
    assert (failed.ending, failed.prompt_ids, failed.token_ids, failed.logprobs) == (
        Ending.FAILED,
        [],
        [],
        [],
    )
    assert engine.context(0) == []
