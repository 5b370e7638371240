"""The options of the agent `hf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchgym.errors import ConfigError, did_you_mean

from ..options import read_options
from .lora import LoraOptions
from .prompts import PROMPTS, DemonstrationOptions

__all__ = ["OWNER", "HFOptions"]

OWNER = "agent 'hf'"
_DTYPES = ("auto", "float32", "bfloat16")
_ENGINES = ("transformers", "vllm", "vllm-server")
_ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class HFOptions:
    """Keyword arguments of `HFAgent`.

    Attributes:
        seed: seed of the sampling and of a new adapter's initial weights.
        temperature: temperature of the sampling.
        top_p: probability mass of the nucleus that is sampled from; below 1 only for evaluation.
        greedy: take the most likely token.
        max_new_tokens: longest act in tokens; a longer one is sent as far as it got (the environment calls it invalid).
        max_context: longest episode in tokens; beyond it the episode ends with `StopReason.TOKEN_BUDGET`. None: all
            positions of the model.
        thinking: whether the model thinks before it acts, for templates that offer the choice.
        dtype: "float32" or "bfloat16", of weights, keys and values; logits and log-probabilities are always float32.
            "auto": bfloat16 on a GPU, and on a processor with matrix units (AMX) for models of 64 million weights and
            more; float32 elsewhere.
        device: a torch device, or "auto": a GPU if there is one.
        lora: options of a new adapter (`LoraOptions`), whose weights are then the only ones that are trained. None:
            all weights are trained, or the adapter's if `model` is an adapter.
        gradient_checkpointing: keep only the input of each layer for the backward pass.
        engine: what samples the acts: "transformers" (in this process, with the trained weights), "vllm" or
            "vllm-server".
        engine_options: options of the engine.
        attention: "sdpa" or "eager": use the model's own forward with transformers' implementation of that name. None:
            our own pass where the architecture allows it, which computes less.
        gguf_file: name of the GGUF file in the directory `model` that holds weights and tokenizer.
        chat_template: "chatml", "gemma", "llama3", "plain" (no marks, for base models) or a file with a Jinja template;
            None: the model's own.
        prompt: "instructions", the dialect's system prompt, or "completion", a short instruction and a transcript whose
            texts are "…", for base models.
        demonstrations: {"episodes": FILE, "count": 2}: episodes of that file (`searchgym eval --save`) that the prompt
            shows. None: none.

    Raises:
        ConfigError: a value that cannot be used.
    """

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    max_new_tokens: int = 512
    max_context: int | None = None
    thinking: bool = False
    dtype: str = "auto"
    device: str = "auto"
    lora: Mapping[str, Any] | None = None
    gradient_checkpointing: bool = False
    engine: str = "transformers"
    engine_options: Mapping[str, Any] | None = None
    attention: str | None = None
    gguf_file: str | None = None
    chat_template: str | None = None
    prompt: str = "instructions"
    demonstrations: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, _DTYPES)
        _one_of("engine", self.engine, _ENGINES)
        if self.attention is not None:
            _one_of("attention", self.attention, _ATTENTIONS)
        _one_of("prompt", self.prompt, PROMPTS)
        self.shown()
        self.adapter()

    def shown(self) -> DemonstrationOptions | None:
        """The demonstrations that the prompt shows; None where there are none."""
        given = self.demonstrations
        return None if given is None else read_options("demonstrations", DemonstrationOptions, given)

    def adapter(self) -> LoraOptions | None:
        """The options of a new adapter; None where none is added."""
        return None if self.lora is None else LoraOptions.read(self.lora)


def _one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{OWNER}: {option} is {value!r}.{did_you_mean(str(value), known)} Known: {', '.join(known)}."
        )
