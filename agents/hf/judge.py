"""The judge `local`: the prompt of the `llm` judge, answered by a Hugging Face causal language model in this process.

Two ways to read a verdict:

    probabilities  For each criterion the reply is prefilled up to its number, `{"code": "…", "utility": `, and the
                   number is P(1) / (P(0) + P(1)) of the next token: one forward pass, graded u and v. The
                   model writes no analysis first, and neither criterion sees the number of the other.
    json           The model writes its reply (greedy), and the reader of the `llm` judge reads it; after one failed
                   repair the verdict is an error. u and v are what the model wrote, usually 0 or 1.

Nothing is sampled. Batches are padded, so the numbers of `probabilities` can differ in the last digits between
batches. A prompt that does not fit the model's context is an error of that verdict; prompts are never truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import GenerationConfig

from searchgym.errors import ConfigError, did_you_mean
from searchgym.judges.llm.prompt import Prompt, grade_prompt, round_prompt
from searchgym.judges.protocol import Grade, Trace, Verdict
from searchgym.records.question import Corpus, Question

from ..lm.huge_pages import place_model
from ..options import read_options, takes_options
from .chat_encoder import ChatEncoder
from .judge_readers import JsonReader, LanguageModel, ProbabilityReader, Reading
from .loading import check_dtype, check_path, open_device, open_model, open_tokenizer

__all__ = ["LocalJudge"]

_OWNER = "judge 'local'"
_READERS = ("probabilities", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalJudgeOptions:
    """Keyword arguments of `LocalJudge`.

    Attributes:
        revision: branch, tag or commit on the Hub.
        verdict: "probabilities" or "json".
        device: a torch device, or "auto": a GPU if there is one.
        dtype: "float32", "bfloat16", "float16", or "auto": the data type in which the weights are stored.
        batch_tokens: tokens of one batch of prompts, padding included; a longer prompt is a batch of its own.
        max_new_tokens: longest reply in tokens (verdict "json").
        min_mass: P(0) + P(1) below which a verdict is an error, because the model would have written something else
            (verdict "probabilities").

    Raises:
        ConfigError: a value that cannot be used.
    """

    revision: str | None = None
    verdict: str = "probabilities"
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = 16_384
    max_new_tokens: int = 512
    min_mass: float = 0.5

    def __post_init__(self) -> None:
        if self.verdict not in _READERS:
            raise ConfigError(
                f"{_OWNER}: verdict is {self.verdict!r}.{did_you_mean(str(self.verdict), _READERS)} "
                f"Known: {', '.join(_READERS)}."
            )
        for option in ("batch_tokens", "max_new_tokens"):
            value = getattr(self, option)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{_OWNER}: {option} is {value!r}: give a whole number >= 1")
        if not isinstance(self.min_mass, int | float) or not 0.0 <= self.min_mass <= 1.0:
            raise ConfigError(f"{_OWNER}: min_mass is {self.min_mass!r}: give a number in [0, 1]")
        check_dtype(_OWNER, self.dtype)


@takes_options(LocalJudgeOptions)
class LocalJudge:
    """Judges rounds and grades answers with a local model.

    Code that comes with a model is never run, and weights are read from safetensors files only.
    """

    name = "local"

    def __init__(self, corpus: Corpus | None, path: str, **options: Any) -> None:
        """Load the model.

        Args:
            corpus: not used.
            path: a directory with model and tokenizer, or the id of a model on the Hugging Face Hub.
            **options: the fields of `LocalJudgeOptions`.

        Raises:
            ConfigError: an unknown option or a value that cannot be used, or a model that cannot be loaded or is not a
                chat model.
        """
        del corpus
        given = read_options(_OWNER, LocalJudgeOptions, options)
        model = _load(path, given)
        self._reader = (
            ProbabilityReader(model, given.min_mass)
            if given.verdict == "probabilities"
            else JsonReader(model, given.max_new_tokens)
        )

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        """One verdict per round; see `searchgym.judges.Judge`."""
        prompts = [round_prompt(trace) for trace in traces]
        readings = iter(self._read([prompt for prompt in prompts if prompt is not None]))
        return [_NOTHING if prompt is None else _verdict(next(readings)) for prompt in prompts]

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        """One grade per answer; see `searchgym.judges.Grader`."""
        readings = self._read([grade_prompt(q, a) for q, a in zip(questions, answers, strict=True)])
        return [
            Grade.error(reading.reason, reading.cost)
            if reading.numbers is None
            else Grade.ok(reading.numbers["correct"], reading.reason, reading.cost)
            for reading in readings
        ]

    def _read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """One reading per prompt; equal prompts are read, and counted as cost, once."""
        distinct = {prompt.digest: prompt for prompt in prompts}
        read = dict(zip(distinct, self._reader.read(list(distinct.values())), strict=True))
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


def _load(path: str, options: LocalJudgeOptions) -> LanguageModel:
    device = open_device(_OWNER, options.device)
    check_path(_OWNER, "path", path)
    tokenizer = open_tokenizer(_OWNER, path, options.revision)
    model = open_model(_OWNER, path, options.dtype, options.revision)
    try:
        encoder = ChatEncoder(tokenizer)
    except ConfigError as error:
        raise ConfigError(f"{_OWNER}: {error}") from error
    model = place_model(model.requires_grad_(False), device)
    model.generation_config = _greedy(model, tokenizer)
    return LanguageModel(model, tokenizer, encoder, _context(model, tokenizer), options.batch_tokens)


def _greedy(model: Any, tokenizer: Any) -> GenerationConfig:
    """Greedy generation with the model's end-of-message tokens and none of its other defaults (penalties, sampling)."""
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
    """Longest context in tokens: the lesser of the limits of the model's and the tokenizer's configuration."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [n for n in (positions, tokenizer.model_max_length) if isinstance(n, int)]
    return min(known)
