"""One model behind one OpenAI-compatible address: the client, its limits, and what its failures mean.

The `openai` client retries by itself (connection errors, timeouts, 408, 409, 429, 5xx; exponential back-off, or
the delay that a Retry-After header asks for). Around it stand a limit on requests in flight, limits per minute,
and the budget. An `Endpoint` belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from ..errors import ConfigError
from .metering import Meter, RateLimit, Usage, total

__all__ = ["Endpoint", "EndpointSettings", "Messages", "Reply", "RequestError", "ToolCall", "dearest_usage"]

Messages = Sequence[Mapping[str, Any]]
"""A conversation as the API takes it."""

_TOKENS_PER_CHARACTER, _TOKENS_PER_REPLY = 0.3, 150.0  # only until the first reply says better
_USUAL_ADDRESS = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where to ask and how; see `LLMJudge` for each value. `owner` is who asks, as errors name it."""

    owner: str
    model: str
    base_url: str | None
    api_key_env: str | None
    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    timeout: float
    retries: int
    request: Mapping[str, Any]
    """The sampling part of the request body, sent as it is."""
    longest_reply: int
    """Tokens; what a reply may take at most, as far as the request says."""

    @property
    def address(self) -> str:
        """The base URL: the option, else the variable that the client reads, else OpenAI's own."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or _USUAL_ADDRESS).rstrip("/")

    @property
    def key(self) -> str:
        """The key, read from the environment.

        Raises:
            ConfigError: the variable is not set.
        """
        if self.api_key_env is None:
            return "none"
        key = os.environ.get(self.api_key_env, "")
        if not key.strip():
            raise ConfigError(
                f"{self.owner}: the environment variable {self.api_key_env}, which should hold the key for "
                f"{self.address}, is not set: export it, name another with api_key_env, or give "
                "api_key_env=null for a server that wants no key"
            )
        return key.strip()

    def __str__(self) -> str:
        return f"model {self.model!r} at {self.address}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; `arguments` is the text that the model wrote, JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote ("" if it wrote nothing), whether `max_tokens` cut it off, what it took, and the tools it
    called."""

    text: str
    cut_off: bool
    usage: Usage
    calls: tuple[ToolCall, ...] = ()


class RequestError(Exception):
    """A request that was not answered. The message names what was asked and what came back.

    Attributes:
        hopeless: no other request will be answered either (no key, no such model, nobody listening).
    """

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


class Endpoint:
    """See the module docstring.

    Attributes:
        in_flight: requests under way, those that wait for a rate limit included.
    """

    def __init__(self, settings: EndpointSettings, meter: Meter) -> None:
        self.in_flight = 0
        self._settings = settings
        self._meter = meter
        self._key = settings.key
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=settings.address,
            timeout=settings.timeout,
            max_retries=settings.retries,
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._requests = RateLimit(settings.requests_per_minute)
        self._tokens = RateLimit(settings.tokens_per_minute)
        self._characters = self._answers = 0
        self._seen = Usage()

    async def ask(self, messages: Messages, retries: int | None = None) -> Reply:
        """One chat completion; `retries` instead of the settings' own, if given.

        Raises:
            RequestError: it failed, after the client's retries.
            BudgetSpentError: it was not sent, because it could pass the ceiling.
        """
        settings = self._settings
        characters = sum(len(_written(message)) for message in messages)
        dearest = dearest_usage(messages, settings)
        async with self._slots:
            await self._meter.reserve(dearest)
            reply: Reply | None = None
            self.in_flight += 1
            try:
                await self._requests.take(1)
                await self._tokens.take(self._expected(characters))
                reply = await self._send(messages, settings.retries if retries is None else retries)
            finally:
                self.in_flight -= 1
                usage = reply.usage if reply is not None else Usage()
                await self._meter.settle(dearest, usage, answered=reply is not None)
        self._characters += characters
        self._answers += 1
        self._seen = total([self._seen, reply.usage])
        return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _expected(self, characters: int) -> float:
        """Tokens that a request with so long a prompt will take, going by the earlier ones."""
        if not self._answers:
            return characters * _TOKENS_PER_CHARACTER + _TOKENS_PER_REPLY
        per_character = self._seen.input_tokens / self._characters
        return characters * per_character + self._seen.output_tokens / self._answers

    async def _send(self, messages: Messages, retries: int) -> Reply:
        settings = self._settings
        client = self._client
        if retries != settings.retries:
            client = client.with_options(max_retries=retries)
        try:
            completion: Any = await client.chat.completions.create(
                model=settings.model,
                messages=messages,  # type: ignore[arg-type]  # plain dicts of role and content
                **settings.request,
            )
            choice = completion.choices[0]
            text = str(choice.message.content or getattr(choice.message, "refusal", None) or "")
            calls = tuple(
                ToolCall(str(call.id), str(call.function.name), str(call.function.arguments))
                for call in getattr(choice.message, "tool_calls", None) or ()
            )
        except openai.OpenAIError as error:
            raise self._explained(error, retries + 1) from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            # A web page, or JSON of another shape: not this kind of server.
            raise RequestError(
                f"{settings} answered with something else than a chat completion "
                f"({type(error).__name__}): is the base URL right? It usually ends in /v1",
                hopeless=True,
            ) from None
        usage = _usage(completion, _most_tokens(messages, settings), text)
        return Reply(text, choice.finish_reason == "length", usage, calls)

    def _explained(self, error: openai.OpenAIError, tries: int) -> RequestError:
        """The client's error in the words of this judge's options."""
        settings, hopeless = self._settings, False
        if isinstance(error, openai.APITimeoutError):
            reason = f"gave no answer within timeout={settings.timeout:g} s, {tries} tries"
        elif isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            hopeless = type(cause).__name__ == "ConnectError"  # nobody there, unlike a connection that broke
            problem = "cannot be reached" if hopeless else "broke the connection"
            detail = str(cause or "") or type(cause).__name__
            reason = f"{problem}, {tries} tries ({detail}): is the server up, and base_url right?"
        elif isinstance(error, openai.APIStatusError):
            status = error.status_code
            hopeless = status in (401, 403, 404)
            reason = f"answered {status} ({_said(error)}){self._next_move(status, tries)}"
        else:
            reason = f"failed: {type(error).__name__}: {error}"
        text = f"{settings} {reason}"
        if settings.api_key_env is not None:
            text = text.replace(self._key, "…")  # a server may repeat the key it was sent
        return RequestError(text, hopeless=hopeless)

    def _next_move(self, status: int, tries: int) -> str:
        key = self._settings.api_key_env
        if status in (401, 403):
            return f": check the key in {key}" if key else ": name the variable with its key in api_key_env"
        if status == 404:
            return ": check the model's name, and that base_url ends as the server wants it, usually in /v1"
        if status == 400:
            return ": check response_format, stop, temperature, max_tokens and extra_body"
        return f", {tries} tries"


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error.message).split())[:200]


def _usage(completion: Any, most: int, text: str) -> Usage:
    counted = getattr(completion, "usage", None)
    given = getattr(counted, "prompt_tokens", None), getattr(counted, "completion_tokens", None)
    if isinstance(given[0], int) and isinstance(given[1], int):
        return Usage(given[0], given[1])
    # A server that does not count: as many tokens as there can be, so that a budget still holds.
    return Usage(most, len(text.encode()))


def dearest_usage(messages: Messages, settings: EndpointSettings) -> Usage:
    """The most that a request can take."""
    return Usage(_most_tokens(messages, settings), settings.longest_reply)


def _most_tokens(messages: Messages, settings: EndpointSettings) -> int:
    """No tokenizer in use makes more than one token of a byte; some more mark the messages."""
    tools = json.dumps(settings.request.get("tools", ""))
    return len(tools.encode()) + sum(len(_written(message).encode()) + 16 for message in messages)


def _written(message: Mapping[str, Any]) -> str:
    """All text of a message that becomes tokens."""
    calls = message.get("tool_calls")
    return (message["content"] or "") + (json.dumps(calls) if calls else "")
