"""The client of one model behind one OpenAI-compatible address: its limits, and what its failures mean.

The `openai` client retries by itself (connection errors, timeouts, 408, 409, 429, 5xx; exponential back-off, or the
delay that a Retry-After header requests). On top of it, `Endpoint` limits the requests in flight, the requests and
tokens per minute, and the budget.
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from .metering import Meter, RateLimit, Usage, total
from .options import EndpointOptions
from .streamed import joined_stream

__all__ = ["Endpoint", "Messages", "Reply", "RequestError", "ToolCall", "open_client", "worst_case_usage"]

Messages = Sequence[Mapping[str, Any]]
"""A conversation as the API takes it."""

# Estimates that the token rate limit uses until the first reply arrives.
_TOKENS_PER_CHARACTER, _TOKENS_PER_REPLY = 0.3, 150.0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call; `arguments` is the text that the model wrote, JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the model.

    Attributes:
        text: what it wrote; "" if it wrote nothing.
        cut_off: whether `max_tokens` cut it off.
        usage: the tokens it took.
        calls: the tools it called.
    """

    text: str
    cut_off: bool
    usage: Usage
    calls: tuple[ToolCall, ...] = ()


class RequestError(Exception):
    """A request that was not answered. The message names the endpoint and what came back.

    Attributes:
        fatal: no other request will be answered either (no key, unknown model, no server).
    """

    def __init__(self, reason: str, *, fatal: bool = False) -> None:
        super().__init__(reason)
        self.fatal = fatal


def open_client(address: str, key: str, timeout: float, retries: int) -> openai.AsyncOpenAI:
    """A client of an OpenAI-compatible server.

    Args:
        address: its base URL.
        key: the API key.
        timeout: seconds for one attempt.
        retries: further attempts after a failure.
    """
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=address,
        timeout=timeout,
        max_retries=retries,
        http_client=openai.DefaultAsyncHttpxClient(verify=_certificates()),
    )


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading the trusted certificates takes 27 ms, which each client would do anew."""
    return httpx.create_ssl_context()


class Endpoint:
    """Sends requests on one event loop; see the module docstring.

    Args:
        options: where to send requests, and the limits.
        request: all fields of a request but the model and the messages.
        meter: counts usage and holds the budget.

    Attributes:
        in_flight: requests under way, those that wait for a rate limit included.
    """

    def __init__(self, options: EndpointOptions, request: Mapping[str, Any], meter: Meter) -> None:
        self.in_flight = 0
        self._options = options
        self._request = request
        self._meter = meter
        self._key = options.key
        self._client = open_client(options.address, self._key, options.timeout, options.retries)
        self._slots = asyncio.Semaphore(options.concurrency)
        self._requests = RateLimit(options.requests_per_minute)
        self._tokens = RateLimit(options.tokens_per_minute)
        self._characters = self._answers = 0
        self._seen = Usage()

    async def ask(self, messages: Messages, retries: int | None = None) -> Reply:
        """One chat completion.

        Args:
            messages: the conversation.
            retries: further attempts after a failure; None for the number in the options.

        Raises:
            RequestError: it failed, after the client's retries.
            BudgetSpentError: it was not sent, because it could exceed the budget.
        """
        options = self._options
        characters = sum(len(_written(message)) for message in messages)
        most = worst_case_usage(messages, self._request, options.longest_reply)
        async with self._slots:
            await self._meter.reserve(most)
            reply: Reply | None = None
            self.in_flight += 1
            try:
                await self._requests.take(1)
                await self._tokens.take(self._expected(characters))
                reply = await self._send(messages, options.retries if retries is None else retries)
            finally:
                self.in_flight -= 1
                usage = reply.usage if reply is not None else Usage()
                await self._meter.settle(most, usage, answered=reply is not None)
        self._characters += characters
        self._answers += 1
        self._seen = total([self._seen, reply.usage])
        return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _expected(self, characters: int) -> float:
        """Tokens that a request with a prompt of this length will take, estimated from earlier ones."""
        if not self._answers:
            return characters * _TOKENS_PER_CHARACTER + _TOKENS_PER_REPLY
        per_character = self._seen.input_tokens / self._characters
        return characters * per_character + self._seen.output_tokens / self._answers

    async def _send(self, messages: Messages, retries: int) -> Reply:
        options = self._options
        client = self._client
        if retries != options.retries:
            client = client.with_options(max_retries=retries)
        try:
            completion: Any = await client.chat.completions.create(
                model=str(options.model),
                messages=messages,  # type: ignore[arg-type]  # plain dicts of role and content
                **self._request,
            )
            if isinstance(completion, str) and completion.lstrip().startswith("data:"):
                completion = joined_stream(completion)
                if completion is None:
                    raise RequestError(f"{options} ended its answer before the finish reason")
            choice = completion.choices[0]
            text = _text(choice.message.content) or str(getattr(choice.message, "refusal", None) or "")
            calls = tuple(
                ToolCall(str(call.id), str(call.function.name), _arguments(call.function.arguments))
                for call in getattr(choice.message, "tool_calls", None) or ()
            )
        except openai.OpenAIError as error:
            raise self._explained(error, retries + 1) from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            # A web page, or JSON of another shape: not this kind of server.
            raise RequestError(
                f"{options} answered with something other than a chat completion "
                f"({type(error).__name__}): is the base URL right? It usually ends in /v1",
                fatal=True,
            ) from None
        usage = _usage(completion, worst_case_usage(messages, self._request, 0).input_tokens, text)
        return Reply(text, choice.finish_reason == "length", usage, calls)

    def _explained(self, error: openai.OpenAIError, attempts: int) -> RequestError:
        """The client's error in terms of our options."""
        options, fatal = self._options, False
        if isinstance(error, openai.APITimeoutError):
            reason = f"gave no answer within timeout={options.timeout:g} s, {attempts} tries"
        elif isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            fatal = type(cause).__name__ == "ConnectError"  # no server, unlike a connection that broke
            problem = "cannot be reached" if fatal else "broke the connection"
            detail = str(cause or "") or type(cause).__name__
            reason = f"{problem}, {attempts} tries ({detail}): is the server up, and base_url right?"
        elif isinstance(error, openai.APIStatusError):
            status = error.status_code
            fatal = status in (401, 403, 404)
            reason = f"answered {status} ({_detail(error)}){self._next_move(status, attempts)}"
        else:
            reason = f"failed: {type(error).__name__}: {error}"
        text = f"{options} {reason}"
        if options.api_key_env is not None:
            text = text.replace(self._key, "…")  # a server may repeat the key it was sent
        return RequestError(text, fatal=fatal)

    def _next_move(self, status: int, attempts: int) -> str:
        key = self._options.api_key_env
        if status in (401, 403):
            return f": check the key in {key}" if key else ": name the variable with its key in api_key_env"
        if status == 404:
            return ": check the model's name, and that base_url ends as the server expects, usually in /v1"
        if status == 400:
            return ": check response_format, stop, temperature, max_tokens and extra_body"
        return f", {attempts} tries"


def worst_case_usage(messages: Messages, request: Mapping[str, Any], longest_reply: int) -> Usage:
    """The most tokens that a request can take.

    No tokenizer in use makes more than one token of a byte; 16 more per message cover the marks around it.

    Args:
        messages: the conversation.
        request: the other fields of the request.
        longest_reply: tokens of the reply at most.
    """
    tools = json.dumps(request.get("tools", ""))
    prompt = len(tools.encode()) + sum(len(_written(message).encode()) + 16 for message in messages)
    return Usage(prompt, longest_reply)


def _detail(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(message or error.message).split())[:200]


def _text(content: Any) -> str:
    """The text of a message; of one in parts, only the parts of type "text", not a thought."""
    if not isinstance(content, list):
        return str(content or "")
    parts = [part if isinstance(part, dict) else vars(part) for part in content]
    return "".join(str(part.get("text") or "") for part in parts if part.get("type") == "text")


def _arguments(given: Any) -> str:
    """The arguments of a tool call as text; some servers send the object itself."""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _usage(completion: Any, most: int, text: str) -> Usage:
    counted = getattr(completion, "usage", None)
    given = getattr(counted, "prompt_tokens", None), getattr(counted, "completion_tokens", None)
    if isinstance(given[0], int) and isinstance(given[1], int):
        return Usage(given[0], given[1])
    # A server that does not count tokens: assume the most there can be, so that the budget still holds.
    return Usage(most, len(text.encode()))


def _written(message: Mapping[str, Any]) -> str:
    """All text of a message that becomes tokens."""
    calls = message.get("tool_calls")
    return (message["content"] or "") + (json.dumps(calls) if calls else "")
