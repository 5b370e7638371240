"""Any model behind an OpenAI-compatible chat API, for evaluation.

    searchgym eval --agent api --agent-option model=NAME --agent-option base_url=https://…/v1

All running episodes ask at once, within the limits of concurrency and rate. Every reply is kept on disk under endpoint,
model, sampling settings, conversation and the number of the sample; an evaluation that was broken off, or whose budget
was spent, goes on where it stopped when it is run again.

Tags dialect: acts are plain text, stopped at a closing tag. Tools dialect: the API's own tool calls, translated into the
dialect's text for the environment (or, with native_tools=False, plain text too).

A request that is not answered after the client's retries loses its episode to infrastructure (`AGENT_FAILED`), which is
not scored. It records no tokens, so it cannot be trained.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.dialects import ToolsDialect
from searchgym.episode import StopReason
from searchgym.errors import BudgetSpentError, ConfigError, MissingExtraError

try:
    from searchgym.endpoint import event_loop
    from searchgym.endpoint.client import Endpoint, Reply, RequestError, ToolCall
    from searchgym.endpoint.metering import Usage
    from searchgym.endpoint.options import cache_directory, endpoint_settings, make_meter, whole_number
    from searchgym.endpoint.store import Saver, Store, open_store
except ModuleNotFoundError as missing:
    raise MissingExtraError("agent 'api'", missing.name or "openai", "api") from missing

__all__ = ["APIAgent"]

_log = logging.getLogger(__name__)
_OWNER = "agent 'api'"


@dataclass(slots=True)
class _Chat:
    """A running episode.

    Attributes:
        sample: how many episodes of the same question began before it.
        messages: the conversation as the API takes it.
        open_calls: tool calls of the last message, to be answered by the next observation.
    """

    sample: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    open_calls: tuple[ToolCall, ...] = ()


class APIAgent(Agent):
    """Acts by asking a language model behind an OpenAI-compatible chat endpoint.

    Args:
        model: the model's name at the endpoint. Required.
        base_url: the address, usually ending in /v1; by default `OPENAI_BASE_URL`, else OpenAI's.
        api_key_env: name of the environment variable that holds the key; None for a server without keys.
        native_tools: in the tools dialect, use the API's own tool calls.
        stop: in the tags dialect, ask the server to stop at a closing tag; False for models that refuse the field.
        concurrency: requests in flight at most.
        requests_per_minute, tokens_per_minute: rates to stay under; None for no limit.
        timeout: seconds for one try.
        retries: more tries after a failed connection, a timeout, 408, 409, 429 or 5xx.
        temperature: sent as it is; None for models that take none.
        max_tokens: the longest act; None for models that want `max_completion_tokens` in `extra_body`.
        extra_body: more fields of the request.
        sample: added to the number of each episode's sample: another one draws anew instead of reading the cache.
        usd_per_million_input, usd_per_million_output: prices, for `usd` in `costs`.
        max_usd, max_total_tokens: ceilings of this object. A request that could pass one is not sent; the evaluation
            stops with `BudgetSpentError`.
        cache: True keeps replies under the home, a path keeps them there, False keeps none.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name = "api"
    reads_system_prompt = True

    def __init__(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        native_tools: bool = True,
        stop: bool = True,
        concurrency: int = 64,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        temperature: float | None = 0.0,
        max_tokens: int | None = 1024,
        extra_body: dict[str, Any] | None = None,
        sample: int = 0,
        usd_per_million_input: float | None = None,
        usd_per_million_output: float | None = None,
        max_usd: float | None = None,
        max_total_tokens: int | None = None,
        cache: bool | str = True,
    ) -> None:
        self._options = endpoint_settings(
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
            response_format=False,
            extra_body=extra_body,
        )
        self._meter = make_meter(
            self._options, usd_per_million_input, usd_per_million_output, max_usd, max_total_tokens
        )
        directory = cache_directory(_OWNER, cache, "replies")
        self._store: Store | None = None if directory is None else open_store(directory)
        if isinstance(cache, str) and self._store is not None and self._store.problem:
            raise ConfigError(f"{_OWNER}: cache {cache!r} cannot be used: {self._store.problem}")
        self._first_sample = whole_number(_OWNER, "sample", sample, 0)
        self._native_tools, self._stop = native_tools, stop
        self._settings = self._options
        self._sessions: dict[int, _Session] = {}  # by process: a child has its own event loop and sockets
        self._chats: dict[int, _Chat] = {}
        self._begun: Counter[str] = Counter()
        self._cached = 0
        self._hopeless = ""  # why nothing more is asked in this evaluation

    def costs(self) -> dict[str, float]:
        """See `Agent`: calls, input_tokens, output_tokens, usd, and the replies that were cached."""
        return {**self._meter.counts, "cached": self._cached}

    def bind(self, agent_context: AgentContext) -> None:
        """Take the environment's setting; samples are counted from the start again."""
        super().bind(agent_context)
        self._chats.clear()
        self._begun.clear()
        self._hopeless = ""
        dialect = agent_context.dialect
        more: dict[str, Any] = {}
        self._system = agent_context.system_prompt
        self._uses_tools = self._native_tools and isinstance(dialect, ToolsDialect)
        if isinstance(dialect, ToolsDialect) and self._native_tools:
            feedback, queries = agent_context.feedback_calls > 0, agent_context.max_queries
            more["tools"] = dialect.tools(feedback=feedback, max_queries=queries)
            listed = dialect.tool_section(feedback=feedback, max_queries=queries)
            self._system = self._system.replace(listed, "")
        elif self._stop:
            more["stop"] = list(dialect.stop_strings)
        self._hang_up()
        self._settings = replace(self._options, request={**self._options.request, **more})
        parts = [self._settings.address, self._settings.model, dict(self._settings.request)]
        self._key = blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=32).digest()

    def begin(self, slots: Sequence[int]) -> None:
        self._chats.update((slot, _Chat()) for slot in slots)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Copy a conversation; each copy continues with replies of its own."""
        origin = self._chats[source]
        question = origin.messages[1]["content"]
        for target in targets:
            self._chats[target] = replace(
                origin, sample=self._next_sample(question), messages=list(origin.messages)
            )

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        """See `Agent`.

        Raises:
            ConfigError: the endpoint answered none of the first requests, so none will be.
            BudgetSpentError: the next request could pass a ceiling. What was answered is in the cache.
        """
        chats = [self._chats[slot] for slot in slots]
        for chat, observation in zip(chats, observations, strict=True):
            self._hear(chat, observation)
        turns: list[str | Turn] = []
        for chat, reply in zip(chats, self._replies(chats), strict=True):
            if isinstance(reply, RequestError):
                turns.append(Turn("", stop=StopReason.AGENT_FAILED))
            else:
                turns.append(self._say(chat, reply))
        return turns

    def _next_sample(self, question: str) -> int:
        self._begun[question] += 1
        return self._first_sample + self._begun[question] - 1

    def _hear(self, chat: _Chat, observation: str) -> None:
        """Add an observation to the conversation."""
        if not chat.messages:
            chat.sample = self._next_sample(observation)
            chat.messages.append({"role": "system", "content": self._system})
        elif chat.open_calls:
            before, after = ToolsDialect.response
            said = observation.removeprefix(before).removesuffix(after)
            for call in chat.open_calls:
                chat.messages.append({"role": "tool", "tool_call_id": call.id, "content": said})
            chat.open_calls = ()
            return
        chat.messages.append({"role": "user", "content": observation})

    def _say(self, chat: _Chat, reply: Reply) -> str:
        """Add a reply to the conversation; the message for the environment."""
        if self._uses_tools and reply.calls:
            chat.open_calls = reply.calls
            calls = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in reply.calls
            ]
            chat.messages.append({"role": "assistant", "content": reply.text or None, "tool_calls": calls})
            return "\n".join([reply.text, *map(_written_call, reply.calls)]).lstrip()
        text = reply.text
        if not self._uses_tools:
            text = _closed(text, self.agent_context.dialect.stop_strings, self._stop and not reply.cut_off)
        chat.messages.append({"role": "assistant", "content": text})
        return text

    def _replies(self, chats: list[_Chat]) -> list[Reply | RequestError]:
        keys = [
            blake2b(json.dumps([c.sample, c.messages]).encode(), key=self._key, digest_size=32).digest()
            for c in chats
        ]
        kept = [None] * len(keys) if self._store is None else self._store.get(keys)
        replies = [None if value is None else _read(value) for value in kept]
        self._cached += sum(reply is not None for reply in replies)
        missing = [n for n, reply in enumerate(replies) if reply is None]
        before = self._meter.calls
        asked = event_loop.run(self._ask([(keys[n], chats[n].messages) for n in missing])) if missing else []
        failed = [reply for reply in asked if isinstance(reply, RequestError)]
        if failed and before == self._meter.calls == 0:
            raise ConfigError(f"{_OWNER}: {failed[0]}")
        for problem in dict.fromkeys(map(str, failed)):
            _log.warning("%s: episodes are lost: %s", _OWNER, problem)
        fresh = iter(asked)
        return [next(fresh) if reply is None else reply for reply in replies]

    async def _ask(self, asked: list[tuple[bytes, list[dict[str, Any]]]]) -> list[Reply | RequestError]:
        """Ask at once; what is answered is on its way to the disk as soon as it is there."""
        session = self._session()
        saving: set[asyncio.Task[None]] = set()

        async def one(key: bytes, messages: list[dict[str, Any]]) -> Reply | RequestError:
            try:
                reply = await session.endpoint.ask(messages)
            except RequestError as error:
                if error.hopeless and self._meter.calls:
                    self._hopeless = str(error)
                return error
            if session.saver is not None:
                saving.add(session.saver.put(key, json.dumps(asdict(reply)).encode()))
            return reply

        replies: dict[int, Reply | RequestError] = {}
        left = iter(enumerate(asked))

        async def work() -> None:
            for n, item in left:
                replies[n] = RequestError(self._hopeless) if self._hopeless else await one(*item)

        workers = [work() for _ in range(min(self._settings.concurrency, len(asked)))]
        try:
            problems = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            if saving:
                await asyncio.wait(saving)
        for problem in problems:
            if isinstance(problem, BudgetSpentError):
                raise BudgetSpentError(
                    f"{_OWNER}: {problem}. Raise the ceiling and run it again: replies so far "
                    + ("are in the cache" if self._store is not None else "were not kept (cache=false)")
                )
            if problem is not None:
                raise problem
        return [replies[n] for n in range(len(asked))]

    def _session(self) -> _Session:
        """What belongs to this process; called on the background loop only."""
        session = self._sessions.get(os.getpid())
        if session is None:
            self._meter.forget_reservations()
            endpoint = Endpoint(self._settings, self._meter)
            session = _Session(endpoint, Saver(self._store) if self._store is not None else None)
            self._sessions[os.getpid()] = session
        return session

    def _hang_up(self) -> None:
        """Close the connections; the next request opens new ones."""
        session = self._sessions.pop(os.getpid(), None)
        if session is not None:
            event_loop.run_later(session.endpoint.close())


@dataclass(frozen=True, slots=True)
class _Session:
    endpoint: Endpoint
    saver: Saver | None


def _closed(text: str, closings: Sequence[str], stopped: bool) -> str:
    """A message without what follows its first closing; with the closing that a server left out where it stopped."""
    ends = [text.find(closing) + len(closing) for closing in closings if closing in text]
    if ends:
        return text[: min(ends)]
    opened, closing = max((text.rfind(closing.replace("/", "")), closing) for closing in closings)
    return text + closing if stopped and opened >= 0 else text


def _written_call(call: ToolCall) -> str:
    """A call in the tools dialect. Arguments that are no JSON stay so: the environment says it cannot read them."""
    try:
        arguments = json.dumps(json.loads(call.arguments))
    except ValueError:
        arguments = call.arguments
    body = f'{{"name": {json.dumps(call.name)}, "arguments": {arguments}}}'
    return f"<tool_call>\n{body.replace('<', chr(92) + 'u003c')}\n</tool_call>"


def _read(value: bytes) -> Reply | None:
    """A kept reply; None for what this version does not write."""
    try:
        data = json.loads(value)
        calls = tuple(ToolCall(**call) for call in data["calls"])
        return Reply(str(data["text"]), bool(data["cut_off"]), Usage(**data["usage"]), calls)
    except (ValueError, TypeError, KeyError):
        return None
