"""Models whose forward names the cache differently, or ignores it: right numbers or a typed error, never other numbers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import make_tokenizer, save_chat_model
from families import build_family
from test_network import VOCAB, own_logprobs, play

from searchgym.agents.hf.judge import LocalJudge
from searchgym.agents.lm.cached_forward import CachedForward
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.network import ModelNetwork, open_network
from searchgym.conformance.traces import ordinary_traces
from searchgym.errors import ConfigError

NAMES = ("cache", "past_key_values")


class Outputs:
    """A model's outputs whose cache is called `name`."""

    def __init__(self, outputs: Any, name: str, cache: Any) -> None:
        self._outputs = outputs
        setattr(self, name, cache)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outputs, name)


def cache_of(outputs: Any) -> Any:
    return next((found for name in NAMES if (found := getattr(outputs, name, None)) is not None), None)


def renamed(module: torch.nn.Module, name: str) -> None:
    """Let a module's forward take the cache as `name` only; like transformers', it ignores arguments it does not know.

    So does transformers 5.40 with `past_key_values`, which 5.24 announces to remove.
    """
    original = module.forward
    (known,) = [known for known in NAMES if known in inspect.signature(original).parameters]

    def run(cache: Any, /, **others: Any) -> Any:
        outputs = original(**{known: cache}, **{k: v for k, v in others.items() if k not in NAMES})
        return Outputs(outputs, name, cache_of(outputs))

    def new(input_ids=None, attention_mask=None, position_ids=None, cache=None, logits_to_keep=0, **kwargs):  # type: ignore[no-untyped-def]
        if logits_to_keep:
            kwargs["logits_to_keep"] = logits_to_keep
        return run(
            cache, input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )

    def old(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **kwargs):  # type: ignore[no-untyped-def]
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return run(past_key_values, **inputs, **kwargs)

    module.forward = new if name == "cache" else old


def swallowing(module: torch.nn.Module, *, named: bool) -> None:
    """Let a module's forward ignore the cache: in `**kwargs`, or although it names the argument."""
    original = module.forward

    def unnamed(input_ids=None, attention_mask=None, position_ids=None, **kwargs):  # type: ignore[no-untyped-def]
        kwargs = {k: v for k, v in kwargs.items() if k not in NAMES}
        return original(input_ids=input_ids, attention_mask=None, position_ids=position_ids, **kwargs)

    def ignoring(input_ids=None, attention_mask=None, position_ids=None, cache=None, **kwargs):  # type: ignore[no-untyped-def]
        outputs = unnamed(input_ids, attention_mask, position_ids, **kwargs)
        return Outputs(outputs, "cache", cache_of(outputs))

    module.forward = ignoring if named else unnamed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_engine_and_learning_are_right_under_both_names(family: str, name: str) -> None:
    model = build_family(family)
    renamed(model.get_decoder(), name)
    network = open_network(model, own_forward=True)
    assert isinstance(network, ModelNetwork)
    engine, recorded = play(network)
    plain = build_family(family)
    for slot, logprobs in recorded.items():
        context = engine.context(slot)
        own = own_logprobs(plain, context, 0.8).tolist()
        targets = [i for i, logprob in enumerate(logprobs) if logprob is not None]
        assert [logprobs[i] for i in targets] == pytest.approx([own[i - 1] for i in targets], abs=2e-4)
        sequence = TokenSequence(tuple(context), tuple(targets), (0.8,) * len(targets))
        learned, _, _ = evaluate(network, [sequence], EvaluationStats())
        assert learned.tolist() == pytest.approx([own[i - 1] for i in targets], abs=2e-4)


@pytest.mark.parametrize("named", [True, False])
def test_a_decoder_that_ignores_its_cache_is_refused(named: bool) -> None:
    model = build_family("llama")
    swallowing(model.get_decoder(), named=named)
    with pytest.raises(
        ConfigError, match="ignored the argument cache" if named else "cache or past_key_values"
    ):
        open_network(model, own_forward=True)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return save_chat_model(tmp_path, make_tokenizer(digits=True))


def change_models(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let every model that the judge opens be changed first."""
    from searchgym.agents.hf import judge

    def opened(*args: Any, **kwargs: Any) -> Any:
        model = open_model(*args, **kwargs)
        change(model)
        return model

    open_model = judge.open_model
    monkeypatch.setattr(judge, "open_model", opened)


@pytest.mark.parametrize("name", NAMES)
def test_the_local_judge_gives_the_same_numbers_under_both_names(
    path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = ordinary_traces()[:4]
    expected = LocalJudge(None, path, min_mass=0.0).judge(traces)
    change_models(monkeypatch, lambda model: renamed(model, name))
    assert LocalJudge(None, path, min_mass=0.0).judge(traces) == expected
    assert all(verdict.status == "ok" for verdict in expected)


@pytest.mark.parametrize("named", [True, False])
def test_the_local_judge_refuses_a_model_that_ignores_its_cache(
    path: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(model: torch.nn.Module) -> None:
        swallowing(model, named=named)
        model.get_decoder = lambda: model  # type: ignore[assignment]

    change_models(monkeypatch, change)
    with pytest.raises(ConfigError, match=r"judge 'local': .*transformers \d.*verdict='json'"):
        LocalJudge(None, path)


def test_an_argument_that_only_the_decoder_names_is_handed_down() -> None:
    model = build_family("llama")

    def forward(input_ids, **kwargs):  # type: ignore[no-untyped-def]
        return decoder(input_ids=input_ids, **kwargs)

    decoder = model.get_decoder()
    model.forward = forward
    ids_1T = torch.arange(6).unsqueeze(0) % VOCAB
    call = CachedForward(model)
    assert call.takes("position_ids")
    assert not call.takes("pixel_values")
    inputs = {"attention_mask": torch.ones(1, 4), "position_ids": torch.arange(4).unsqueeze(0)}
    _, cache = call(input_ids=ids_1T[:, :4], **inputs)
    inputs = {"attention_mask": torch.ones(1, 6), "position_ids": torch.tensor([[4, 5]])}
    outputs, same = call(cache, input_ids=ids_1T[:, 4:], **inputs)
    assert same is cache
    whole = decoder(input_ids=ids_1T, use_cache=False).last_hidden_state[:, 4:]
    torch.testing.assert_close(outputs.last_hidden_state, whole, atol=1e-5, rtol=1e-4)
