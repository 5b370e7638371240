"""The judge `local`: the prompt of the `llm` judge, put to a Hugging Face causal language model in this process.

Two ways to read a verdict:

    probabilities  For each criterion the reply is begun up to its number, `{"code": "…", "utility": `, and the
                   number is P(1) / (P(0) + P(1)) of the next token: one forward pass, a graded u and v. The
                   model writes no analysis first, and neither criterion sees the other's number.
    json           The model writes its reply (greedy); the shared reader reads it, and after one failed repair
                   the verdict is an error. u and v are what the model wrote, usually 0 or 1.

Nothing is sampled. Batches are padded, so the numbers of `probabilities` can differ in the last digits with the
batch. A prompt that does not fit the model's context is an error of that verdict; nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig

from searchgym.errors import ConfigError, did_you_mean
from searchgym.judges.llm.prompt import Prompt, grade_prompt, round_prompt
from searchgym.judges.protocol import Grade, Trace, Verdict
from searchgym.question import Corpus, Question

from .chat_encoder import ChatEncoder
from .judge_readers import JsonReader, LanguageModel, ProbabilityReader, Reading
from .loading import check_dtype, check_path, open_device, open_model, open_tokenizer

__all__ = ["LocalJudge"]

_READERS = ("probabilities", "json")


class LocalJudge:
    """See the module docstring. Grades answers too, by the same means.

    Code that comes with a model is never run, and weights are read from safetensors files only.
    """

    name = "local"

    def __init__(
        self,
        corpus: Corpus | None,
        path: str,
        *,
        revision: str | None = None,
        verdict: str = "probabilities",
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = 16_384,
        max_new_tokens: int = 512,
        min_mass: float = 0.5,
    ) -> None:
        """Load the model.

        Args:
            corpus: not needed.
            path: a directory with model and tokenizer, or the id of one on the Hugging Face hub.
            revision: branch, tag or commit on the hub.
            verdict: "probabilities" or "json".
            device: a torch device, or "auto": a GPU where there is one.
            dtype: "float32", "bfloat16", "float16", or "auto": the one the weights are stored in.
            batch_tokens: tokens of prompt put through the model at once, padding included; more than one prompt
                only while they fit.
            max_new_tokens: longest reply (verdict "json").
            min_mass: P(0) + P(1) below which a verdict is an error, because the model would have written
                something else (verdict "probabilities").

        Raises:
            ConfigError: an option that cannot be used, no model there, or one that is no chat model.
        """
        del corpus
        if verdict not in _READERS:
            raise ConfigError(
                f"judge 'local': verdict is {verdict!r}.{did_you_mean(str(verdict), _READERS)} "
                f"Known: {', '.join(_READERS)}."
            )
        for option, value in (("batch_tokens", batch_tokens), ("max_new_tokens", max_new_tokens)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"judge 'local': {option} is {value!r}: give a whole number >= 1")
        if not isinstance(min_mass, int | float) or not 0.0 <= min_mass <= 1.0:
            raise ConfigError(f"judge 'local': min_mass is {min_mass!r}: give a number in [0, 1]")
        model = _load(path, revision, open_device("judge 'local'", device), dtype, batch_tokens)
        self._reader = (
            ProbabilityReader(model, min_mass)
            if verdict == "probabilities"
            else JsonReader(model, max_new_tokens)
        )

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        prompts = [round_prompt(trace) for trace in traces]
        readings = iter(self._read([prompt for prompt in prompts if prompt is not None]))
        return [_NOTHING if prompt is None else _verdict(next(readings)) for prompt in prompts]

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        readings = self._read([grade_prompt(q, a) for q, a in zip(questions, answers, strict=True)])
        return [
            Grade.error(reading.reason, reading.cost)
            if reading.numbers is None
            else Grade.ok(reading.numbers["correct"], reading.reason, reading.cost)
            for reading in readings
        ]

    def _read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """One reading per prompt; equal prompts are read, and paid for, once."""
        asked = {prompt.digest: prompt for prompt in prompts}
        read = dict(zip(asked, self._reader.read(list(asked.values())), strict=True))
        paid: set[bytes] = set()
        readings = []
        for prompt in prompts:
            reading = read[prompt.digest]
            readings.append(replace(reading, cost={}) if prompt.digest in paid else reading)
            paid.add(prompt.digest)
        return readings


_NOTHING = Verdict.ok(0.0, 0.0, "no search and no answer")


def _verdict(reading: Reading) -> Verdict:
    if reading.numbers is None:
        return Verdict.error(reading.reason, reading.cost)
    utility = reading.numbers.get("utility", 0.0)  # an answer retrieves nothing
    return Verdict.ok(utility, reading.numbers["reasoning"], reading.reason, reading.cost)


def _load(
    path: str, revision: str | None, device: torch.device, dtype: str, batch_tokens: int
) -> LanguageModel:
    owner = "judge 'local'"
    check_path(owner, "path", path)
    check_dtype(owner, dtype)
    tokenizer = open_tokenizer(owner, path, revision)
    model = open_model(owner, path, dtype, revision)
    try:
        encoder = ChatEncoder(tokenizer)
    except ConfigError as error:
        raise ConfigError(f"{owner}: {error}") from error
    model.requires_grad_(False).to(device)
    model.generation_config = _greedy(model, tokenizer)
    return LanguageModel(model, tokenizer, encoder, _context(model, tokenizer), batch_tokens)


def _greedy(model: Any, tokenizer: Any) -> GenerationConfig:
    """Greedy, with the model's own ends of a message and nothing else of its defaults (penalties, sampling)."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    config: Any = GenerationConfig  # untyped in transformers
    greedy: GenerationConfig = config(
        do_sample=False,
        eos_token_id=sorted(id for id in ends if id is not None),
        pad_token_id=0 if padding is None else padding,
    )
    return greedy


def _context(model: Any, tokenizer: Any) -> int:
    """Tokens the model can read: what its configuration and its tokenizer's say, whichever is less."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [n for n in (positions, tokenizer.model_max_length) if isinstance(n, int)]
    return min(known)
