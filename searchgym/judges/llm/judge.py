"""The judge `llm`: a model behind any OpenAI-compatible endpoint judges rounds and grades answers.

The prompt is in `prompt`, the reader of replies in `replies`. Here: the options, one question per distinct content,
the cache, and what a failure becomes (an error with its reason, never a number).

The cache key of a judgement covers the endpoint, the model, the version of the prompt, the sampling fields, the option
`sample` and the content.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from ...endpoint import event_loop
from ...endpoint.cached import CachedEndpoint, digest
from ...endpoint.client import RequestError
from ...endpoint.metering import total
from ...endpoint.options import EndpointOptions
from ...errors import BudgetSpentError, ConfigError, get_logger
from ...options import boolean, takes_options
from ...records.question import Corpus, Question
from ...scoring import exact_match
from ..protocol import Grade, Trace, Verdict
from .dispatch import Answer, Reader, ask_all
from .prompt import PROMPT_VERSION, Prompt, grade_prompt, round_prompt
from .replies import read_grade, read_verdict

__all__ = ["LLMJudge"]

_log = get_logger(__name__)
_OWNER = "judge 'llm'"
_Result = TypeVar("_Result", Verdict, Grade)
_READY = [{"role": "user", "content": 'Reply with this JSON object and nothing else: {"ready": 1}'}]


@takes_options(EndpointOptions)
class LLMJudge:
    """Judges rounds and grades answers by asking a language model behind an OpenAI-compatible endpoint.

    Safe to use from several threads, while an event loop is running, and after a fork.
    """

    name = "llm"

    def __init__(
        self,
        corpus: Corpus | None = None,
        *,
        response_format: bool = True,
        max_tokens: int | None = 2048,
        **endpoint: Any,
    ) -> None:
        """Take the options. Nothing is sent and no key is read before `check`, `judge` or `grade`.

        Args:
            corpus: not used; the trace holds everything the judge may know.
            response_format: ask the server for a JSON object; False for servers that refuse the field.
            max_tokens: tokens of a reply at most; None for models that take `max_completion_tokens` in `extra_body`.
            **endpoint: the options of `EndpointOptions`. `model` is required.

        Raises:
            UnknownIdError: an unknown option.
            ConfigError: an option has a value that cannot be used.
        """
        del corpus
        options = EndpointOptions.from_mapping(_OWNER, {"max_tokens": max_tokens, **endpoint})
        json_object = {"response_format": {"type": "json_object"}}
        wants_json = boolean(f"{_OWNER}: response_format", response_format)
        self._endpoint = CachedEndpoint(options, "judgements", json_object if wants_json else None)
        # 32 bytes that name everything a judgement depends on, apart from what is judged.
        self._key = digest([PROMPT_VERSION, *self._endpoint.identity, options.sample])
        self._checked = False
        self._lock = threading.Lock()
        self._counts = {"cached": 0, "repairs": 0, "errors": 0}
        self._logged: set[str] = set()

    @property
    def stats(self) -> dict[str, float]:
        """Totals of this object: calls, input_tokens, output_tokens, usd, cached, repairs, errors."""
        return {**self._endpoint.meter.counts, **self._counts}

    @property
    def in_flight(self) -> int:
        """Requests under way, those that wait for a rate limit included."""
        return self._endpoint.in_flight

    def check(self) -> None:
        """Find out whether judging can work: one tiny request, unless an earlier one succeeded.

        Raises:
            ConfigError: no key, an unknown model, no server, the budget is spent, or the directory given as `cache`
                cannot be used.
        """
        options = self._endpoint.options
        _ = options.key
        self._endpoint.check_store()
        problem = self._endpoint.budget_error(_READY)
        if problem:
            raise ConfigError(f"{_OWNER}: {problem}: raise the ceiling, or open the judge anew")
        if self._checked:
            return
        try:
            event_loop.run(self._endpoint.ask(_READY, retries=min(1, options.retries)))
        except (RequestError, BudgetSpentError) as error:
            raise ConfigError(f"{_OWNER}: {error}") from None
        self._checked = True

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        """Judge the last round of each trace; see `searchgym.judges.Judge.judge`."""
        prompts = [round_prompt(trace) for trace in traces]
        results = iter(self._results([p for p in prompts if p is not None], _ROUNDS))
        return [
            next(results) if prompt is not None else Verdict.ok(0.0, 0.0, "no search and no answer", _free())
            for prompt in prompts
        ]

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        """Whether answers say the same as the gold answers.

        Without a request, an empty answer is wrong and one that matches exactly (the score EM) is right.
        """
        pairs = list(zip(questions, answers, strict=True))
        plain = [_plain_grade(question, answer) for question, answer in pairs]
        prompts = [grade_prompt(*pair) for pair, grade in zip(pairs, plain, strict=True) if grade is None]
        results = iter(self._results(prompts, _ANSWERS))
        return [next(results) if grade is None else grade for grade in plain]

    def _results(self, prompts: list[Prompt], kind: _Kind[_Result]) -> list[_Result]:
        """One result per prompt. Equal prompts are asked once; the first of them bears the cost."""
        keys = [blake2b(prompt.digest, key=self._key, digest_size=32).digest() for prompt in prompts]
        distinct = dict(zip(keys, prompts, strict=True))
        results = self._kept(list(distinct), kind)
        missing = {key: prompt for key, prompt in distinct.items() if key not in results}
        with self._lock:
            self._counts["cached"] += len(results)
        if missing:
            answers = event_loop.run(self._ask(missing, kind.read))
            results.update({key: self._result(answer, kind) for key, answer in answers.items()})
            self._log_problems(answers.values())
        if len(distinct) == len(keys):
            return list(map(results.__getitem__, keys))
        listed = []
        for key in keys:
            listed.append(results[key])
            results[key] = replace(results[key], cost=_free())
        return listed

    def _kept(self, keys: list[bytes], kind: _Kind[_Result]) -> dict[bytes, _Result]:
        """The results that are in the cache."""
        results: dict[bytes, _Result] = {}
        for key, value in zip(keys, self._endpoint.kept(keys) if keys else (), strict=True):
            if value is not None:
                try:
                    results[key] = kind.ok(json.loads(value), _free())
                except (ValueError, TypeError, LookupError):
                    continue  # not what this version writes: ask again
        return results

    async def _ask(self, missing: dict[bytes, Prompt], read: Reader) -> dict[bytes, Answer]:
        """Ask about each prompt; a judgement is on its way to the disk as soon as it has arrived."""
        saving: list[asyncio.Task[None]] = []

        def answered(key: bytes, answer: Answer) -> None:
            if answer.values is not None and (task := self._endpoint.keep(key, answer.values)) is not None:
                saving.append(task)

        try:
            self._endpoint.connect()
        except ConfigError as error:  # no key
            return dict.fromkeys(missing, Answer(None, str(error), fatal=True))
        answers = await ask_all(self._endpoint, missing, read, answered)
        if saving:
            await asyncio.wait(saving)
        return answers

    def _result(self, answer: Answer, kind: _Kind[_Result]) -> _Result:
        used = total(answer.usages)
        cost = {
            "calls": float(len(answer.usages)),
            "input_tokens": float(used.input_tokens),
            "output_tokens": float(used.output_tokens),
            "usd": self._endpoint.meter.prices.usd(used),
        }
        with self._lock:
            self._counts["repairs"] += max(0, len(answer.usages) - 1)
            self._counts["errors"] += answer.values is None
        if answer.values is None:
            return kind.error(answer.problem, cost)
        return kind.ok(answer.values, cost)

    def _log_problems(self, answers: Iterable[Answer]) -> None:
        """Log that judging stopped, and that judgements are not kept."""
        self._log_once("stopped", next((answer.problem for answer in answers if answer.fatal), ""))
        problem = self._endpoint.store_problem
        self._log_once("unkept", problem and f"judgements are not kept: {problem}")

    def _log_once(self, kind: str, message: str) -> None:
        with self._lock:
            new = bool(message) and kind not in self._logged
            if new:
                self._logged.add(kind)
        if new:
            _log.warning("%s: %s", _OWNER, message)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_Result]):
    """How a reply or a stored value becomes a verdict or a grade."""

    read: Reader
    ok: Callable[[Sequence[Any], dict[str, float]], _Result]
    error: Callable[[str, dict[str, float]], _Result]


_ROUNDS = _Kind(
    read_verdict, lambda found, cost: Verdict.ok(found[0], found[1], str(found[2]), cost), Verdict.error
)
_ANSWERS = _Kind(read_grade, lambda found, cost: Grade.ok(found[0], str(found[1]), cost), Grade.error)


def _free() -> dict[str, float]:
    return {"calls": 0.0}


def _plain_grade(question: Question, answer: str) -> Grade | None:
    """The grade of an answer for which no model is needed; None for any other."""
    if not answer.strip():
        return Grade.ok(0.0, "no answer", _free())
    if exact_match(answer, question.answers):
        return Grade.ok(1.0, "exact match", _free())
    return None
