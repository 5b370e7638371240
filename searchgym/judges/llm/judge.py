"""The judge `llm`: any OpenAI-compatible endpoint judges rounds and grades answers.

The prompt stands in `judges.prompt`, the reader of replies in `judges.reading`. Here: the options, one question
per distinct content, the cache, and what a failure becomes (an error with its reason, never a number).

A judgement is cached under endpoint, model, prompt version, sampling settings, sample counter and content.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from ...endpoint import event_loop
from ...endpoint.client import Endpoint, RequestError, dearest_usage
from ...endpoint.metering import total
from ...endpoint.options import cache_directory, endpoint_settings, make_meter, whole_number
from ...endpoint.store import Saver, open_store
from ...errors import BudgetSpentError, ConfigError
from ...question import Corpus, Question
from ...scoring import exact_match
from ..protocol import Grade, Trace, Verdict
from .dispatch import Answer, Reader, ask_all
from .prompt import PROMPT_VERSION, Prompt, grade_prompt, round_prompt
from .replies import read_grade, read_verdict

__all__ = ["LLMJudge"]

_log = logging.getLogger(__name__)
_OWNER = "judge 'llm'"
_Result = TypeVar("_Result", Verdict, Grade)
_READY = [{"role": "user", "content": 'Reply with this JSON object and nothing else: {"ready": 1}'}]


class LLMJudge:
    """Judges rounds and grades answers by asking a language model behind an OpenAI-compatible endpoint.

    Safe to use from several threads, from inside a running event loop, and after a fork.
    """

    name = "llm"

    def __init__(
        self,
        corpus: Corpus | None = None,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 64,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        temperature: float | None = 0.0,
        max_tokens: int | None = 2048,
        response_format: bool = True,
        extra_body: dict[str, Any] | None = None,
        sample: int = 0,
        usd_per_million_input: float | None = None,
        usd_per_million_output: float | None = None,
        max_usd: float | None = None,
        max_total_tokens: int | None = None,
        cache: bool | str = True,
    ) -> None:
        """Take the options; nothing is sent and no key is read before `check`, `judge` or `grade`.

        Args:
            corpus: not used; the trace holds what the judge may know.
            model: the model's name at the endpoint. Required.
            base_url: the address, usually ending in /v1; by default `OPENAI_BASE_URL`, else OpenAI's.
            api_key_env: name of the environment variable that holds the key; None for a server without keys.
            concurrency: requests in flight at most.
            requests_per_minute, tokens_per_minute: rates to stay under; None for no limit. First tries count,
                the client's retries do not.
            timeout: seconds for one try.
            retries: more tries after a failed connection, a timeout, 408, 409, 429 or 5xx.
            temperature: sent as it is; None for models that take none.
            max_tokens: the longest reply; None for models that want `max_completion_tokens` in `extra_body`.
            response_format: ask the server for a JSON object; False for servers that refuse the field.
            extra_body: more fields of the request, e.g. {"chat_template_kwargs": {"enable_thinking": false}}.
            sample: a counter; judges that differ in it ask and remember separately.
            usd_per_million_input, usd_per_million_output: prices, for `usd` in costs.
            max_usd, max_total_tokens: ceilings of this object, never passed as far as the endpoint counts.
            cache: True keeps judgements under the home, a path keeps them there, False keeps none.

        Raises:
            ConfigError: an option that cannot be used.
        """
        del corpus
        self._settings = endpoint_settings(
            _OWNER,
            model=model,
            base_url=base_url,
            api_key_env=api_key_env,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout=timeout,
            retries=retries,
            temperature=temperature,
            max_tokens=max_tokens,
            response_format=response_format,
            extra_body=extra_body,
        )
        self._meter = make_meter(
            self._settings, usd_per_million_input, usd_per_million_output, max_usd, max_total_tokens
        )
        self._directory = cache_directory(_OWNER, cache, "judgements")
        self._cache_chosen = isinstance(cache, str)
        self._key = self._cache_key(whole_number(_OWNER, "sample", sample, 0))
        self._sessions: dict[int, _Session] = {}  # by process: a child has its own event loop and sockets
        weakref.finalize(self, _hang_up, self._sessions).atexit = False
        self._checked = False
        self._lock = threading.Lock()
        self._counts = {"cached": 0, "repairs": 0, "errors": 0}
        self._told: set[str] = set()

    def _cache_key(self, sample: int) -> bytes:
        """32 bytes that stand for all that a judgement depends on, beside what is judged."""
        settings = self._settings
        parts = [PROMPT_VERSION, settings.address, settings.model, dict(settings.request), sample]
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=32).digest()

    @property
    def stats(self) -> dict[str, float]:
        """What this object did: calls, input_tokens, output_tokens, usd, cached, repairs, errors."""
        return {**self._meter.counts, **self._counts}

    @property
    def in_flight(self) -> int:
        """Requests under way now, those that wait for a rate limit included."""
        session = self._sessions.get(os.getpid())
        return session.endpoint.in_flight if session is not None else 0

    def check(self) -> None:
        """Find out whether judging can work: one tiny request, and only until one succeeded.

        Raises:
            ConfigError: no key, no such model, nobody there, the budget is spent, or the cache directory that
                was asked for cannot be used.
        """
        _ = self._settings.key
        if self._cache_chosen and (problem := self._store_problem()):
            raise ConfigError(f"judge 'llm': cache {str(self._directory)!r} cannot be used: {problem}")
        refusal = self._meter.refused or self._meter.refusal(dearest_usage(_READY, self._settings))
        if refusal:
            raise ConfigError(f"judge 'llm': {refusal}: raise the ceiling, or open the judge anew")
        if self._checked:
            return
        try:
            event_loop.run(self._try())
        except (RequestError, BudgetSpentError) as error:
            raise ConfigError(f"judge 'llm': {error}") from None
        self._checked = True

    async def _try(self) -> None:
        await self._session().endpoint.ask(_READY, retries=min(1, self._settings.retries))

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        prompts = [round_prompt(trace) for trace in traces]
        results = iter(self._results([p for p in prompts if p is not None], _ROUNDS))
        return [
            next(results) if prompt is not None else Verdict.ok(0.0, 0.0, "no search and no answer", _free())
            for prompt in prompts
        ]

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        """Whether answers say the same as the gold ones. Without a request, an empty answer is wrong and one
        that matches exactly (the score EM) is right."""
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
            self._tell(answers.values())
        if len(distinct) == len(keys):
            return list(map(results.__getitem__, keys))
        listed = []
        for key in keys:
            listed.append(results[key])
            results[key] = replace(results[key], cost=_free())
        return listed

    def _kept(self, keys: list[bytes], kind: _Kind[_Result]) -> dict[bytes, _Result]:
        """What is in the cache."""
        results: dict[bytes, _Result] = {}
        if self._directory is None or not keys:
            return results
        for key, value in zip(keys, open_store(self._directory).get(keys), strict=True):
            if value is not None:
                try:
                    results[key] = kind.ok(json.loads(value), _free())
                except (ValueError, TypeError, LookupError):
                    continue  # not what this version writes: ask again
        return results

    async def _ask(self, missing: dict[bytes, Prompt], read: Reader) -> dict[bytes, Answer]:
        """Ask about each; a judgement is on its way to the disk as soon as it is there."""
        try:
            session = self._session()
        except ConfigError as error:  # no key
            return dict.fromkeys(missing, Answer(None, str(error), hopeless=True))
        saving: set[asyncio.Task[None]] = set()

        def answered(key: bytes, answer: Answer) -> None:
            if answer.values is not None and session.saver is not None:
                saving.add(session.saver.put(key, json.dumps(answer.values).encode()))

        answers = await ask_all(session.endpoint, missing, read, self._settings.concurrency, answered)
        if saving:
            await asyncio.wait(saving)
        return answers

    def _result(self, answer: Answer, kind: _Kind[_Result]) -> _Result:
        used = total(answer.usages)
        cost = {
            "calls": float(len(answer.usages)),
            "input_tokens": float(used.input_tokens),
            "output_tokens": float(used.output_tokens),
            "usd": self._meter.prices.usd(used),
        }
        with self._lock:
            self._counts["repairs"] += max(0, len(answer.usages) - 1)
            self._counts["errors"] += answer.values is None
        if answer.values is None:
            return kind.error(answer.problem, cost)
        return kind.ok(answer.values, cost)

    def _session(self) -> _Session:
        """What belongs to this process; called on the background loop only."""
        session = self._sessions.get(os.getpid())
        if session is None:
            self._meter.forget_reservations()
            store = open_store(self._directory) if self._directory is not None else None
            session = _Session(Endpoint(self._settings, self._meter), Saver(store) if store else None)
            self._sessions[os.getpid()] = session
        return session

    def _store_problem(self) -> str | None:
        return open_store(self._directory).problem if self._directory is not None else None

    def _tell(self, answers: Iterable[Answer]) -> None:
        """Log, once each, that judging stopped, and that judgements are not kept."""
        stopped = next((answer.problem for answer in answers if answer.hopeless), None)
        problem = self._store_problem()
        unkept = problem and f"judgements are not kept: {self._directory} cannot be used: {problem}"
        for kind, message in (("stopped", stopped), ("unkept", unkept)):
            with self._lock:
                fresh = bool(message) and kind not in self._told
                if fresh:
                    self._told.add(kind)
            if fresh:
                _log.warning("judge 'llm': %s", message)


@dataclass(frozen=True, slots=True)
class _Kind(Generic[_Result]):
    """How a reply or a kept value becomes a verdict or a grade."""

    read: Reader
    ok: Callable[[Sequence[Any], dict[str, float]], _Result]
    error: Callable[[str, dict[str, float]], _Result]


_ROUNDS = _Kind(
    read_verdict, lambda found, cost: Verdict.ok(found[0], found[1], str(found[2]), cost), Verdict.error
)
_ANSWERS = _Kind(read_grade, lambda found, cost: Grade.ok(found[0], str(found[1]), cost), Grade.error)


@dataclass(frozen=True, slots=True)
class _Session:
    endpoint: Endpoint
    saver: Saver | None


def _hang_up(sessions: dict[int, _Session]) -> None:
    """Close the connections of a judge that nobody holds any more, on the loop that they belong to."""
    session = sessions.get(os.getpid())
    if session is not None:
        event_loop.run_later(session.endpoint.close())


def _free() -> dict[str, float]:
    return {"calls": 0.0}


def _plain_grade(question: Question, answer: str) -> Grade | None:
    """The grade of an answer that needs no reading."""
    if not answer.strip():
        return Grade.ok(0.0, "no answer", _free())
    if exact_match(answer, question.answers):
        return Grade.ok(1.0, "exact match", _free())
    return None
