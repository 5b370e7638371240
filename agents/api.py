"""The agent `api`: a model behind any OpenAI-compatible chat API, for evaluation.

    searchgym eval --agent api --agent-option model=NAME --agent-option base_url=https://…/v1

All running episodes send their requests at once, within the limits of concurrency and rate. Every reply is kept on disk;
its key covers the endpoint, the model, the sampling fields, the conversation and the number of the sample. An evaluation
that was interrupted, or whose budget was spent, continues where it stopped when it is run again.

In the tags dialect, actions are plain text, stopped at a closing tag. In the tools dialect, the API's own tool calls are
translated into the dialect's text for the environment (with native_tools=False, actions are plain text there too; a server
that sends tool calls nevertheless is understood).

A server applies a stop string anywhere, also where a thought only quotes a closing tag. If a reply stopped there, it is
asked for again without stop strings, and cut at the end of its act here.

If a request is not answered after the client's retries, its episode ends with `AGENT_FAILED` and is not scored: an
infrastructure failure says nothing about the model. Episodes hold no tokens, so the agent cannot be trained.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.dialects import Dialect, Scanner, ToolsDialect, begins_inside, call_arguments, json_text
from searchgym.errors import BudgetSpentError, ConfigError, MissingExtraError, get_logger
from searchgym.options import boolean, takes_options
from searchgym.records.episode import Episode, StopReason

try:
    from searchgym.endpoint import event_loop
    from searchgym.endpoint.cached import CachedEndpoint, digest
    from searchgym.endpoint.client import Reply, RequestError, ToolCall
    from searchgym.endpoint.metering import Usage
    from searchgym.endpoint.options import EndpointOptions
except ModuleNotFoundError as missing:
    raise MissingExtraError("agent 'api'", missing.name or "openai", "api") from missing

__all__ = ["APIAgent"]

_log = get_logger(__name__)
_OWNER = "agent 'api'"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(slots=True)
class _Chat:
    """A running episode.

    Attributes:
        sample: the number of episodes of the same question that began earlier.
        messages: the conversation as the API takes it.
        open_calls: tool calls of the last message, to be answered by the next observation.
    """

    sample: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    open_calls: tuple[ToolCall, ...] = ()


@takes_options(EndpointOptions)
class APIAgent(Agent):
    """Acts by asking a language model behind an OpenAI-compatible chat endpoint.

    Args:
        native_tools: in the tools dialect, use the API's own tool calls.
        stop: where actions are plain text, ask the server to stop at a closing tag; False for models that refuse the field.
        **endpoint: the options of `EndpointOptions`. `model` is required. `sample` is added to the number of each
            episode's sample. When the budget is spent, the evaluation stops with `BudgetSpentError`.

    Raises:
        UnknownIdError: an unknown option.
        ConfigError: an option has a value that cannot be used.
    """

    name = "api"
    reads_text = True
    reads_system_prompt = True

    def __init__(self, *, native_tools: bool = True, stop: bool = True, **endpoint: Any) -> None:
        self._endpoint = self._unstopped = CachedEndpoint(
            EndpointOptions.from_mapping(_OWNER, endpoint), "replies"
        )
        self._endpoint.check_store()
        self._native_tools = boolean(f"{_OWNER}: native_tools", native_tools)
        self._stop = boolean(f"{_OWNER}: stop", stop)
        self._chats: dict[int, _Chat] = {}
        self._begun: Counter[str] = Counter()
        self._cached = 0
        self._fatal_error = ""  # why nothing more is sent in this evaluation
        self._hides_thoughts: bool | None = (
            None  # whether replies begin inside a thought; None: not known yet
        )

    def costs(self) -> dict[str, float]:
        """See `Agent`: calls, input_tokens, output_tokens, usd, and the replies found in the cache."""
        return {**self._endpoint.meter.counts, "cached": self._cached}

    def bind(self, agent_context: AgentContext) -> None:
        """Take the environment's context; samples are counted from the start again."""
        super().bind(agent_context)
        self._chats.clear()
        self._begun.clear()
        self._fatal_error = ""
        self._hides_thoughts = None
        dialect = agent_context.dialect
        fields: dict[str, Any] = {}
        self._system = agent_context.system_prompt
        self._uses_tools = self._native_tools and isinstance(dialect, ToolsDialect)
        if isinstance(dialect, ToolsDialect) and self._native_tools:
            feedback, queries = agent_context.feedback_calls > 0, agent_context.max_queries
            fields["tools"] = dialect.tools(feedback=feedback, max_queries=queries)
            listed = dialect.tool_section(feedback=feedback, max_queries=queries)
            self._system = self._system.replace(listed, "")
        self._stops = self._stop and not self._uses_tools
        self._endpoint.close()
        self._unstopped.close()
        self._unstopped = self._endpoint.with_request(fields)
        stopping = fields | {"stop": list(dialect.stop_strings)} if self._stops else fields
        self._endpoint = self._endpoint.with_request(stopping)

    def begin(self, slots: Sequence[int]) -> None:
        """See `Agent`."""
        self._chats.update((slot, _Chat()) for slot in slots)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Copy a conversation; each copy continues with its own replies."""
        origin = self._chats[source]
        question = origin.messages[1]["content"]
        for target in targets:
            self._chats[target] = replace(
                origin, sample=self._next_sample(question), messages=list(origin.messages)
            )

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """Rebuild a conversation from the recorded messages.

        Raises:
            ConfigError: with the API's own tool calls, whose form is not recorded.
        """
        if self._uses_tools:
            raise ConfigError(
                f"{_OWNER}: an episode with native tool calls cannot be continued from its record, which does not hold them: "
                "use native_tools=False, or the tags dialect"
            )
        chat = self._chats[slot] = _Chat()
        self._append_observation(chat, prefix.question)
        for index, record in enumerate(prefix.rounds[:fork_round]):
            if index:
                self._append_observation(chat, prefix.rounds[index - 1].observation)
            chat.messages.append({"role": "assistant", "content": record.text})

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        """See `Agent`.

        Raises:
            ConfigError: the endpoint answered none of the first requests, so it will not answer others.
            BudgetSpentError: the next request could exceed the budget. Earlier replies are in the cache.
        """
        chats = [self._chats[slot] for slot in slots]
        for chat, observation in zip(chats, observations, strict=True):
            self._append_observation(chat, observation)
        turns: list[str | Turn] = []
        for chat, reply in zip(chats, self._whole_replies(chats), strict=True):
            if isinstance(reply, RequestError):
                turns.append(Turn("", stop=StopReason.AGENT_FAILED))
            else:
                turns.append(self._append_reply(chat, reply))
        return turns

    def _next_sample(self, question: str) -> int:
        self._begun[question] += 1
        return self._endpoint.options.sample + self._begun[question] - 1

    def _append_observation(self, chat: _Chat, observation: str) -> None:
        """Add an observation to the conversation."""
        if not chat.messages:
            chat.sample = self._next_sample(observation)
            chat.messages.append({"role": "system", "content": self._system})
        elif chat.open_calls:
            before, after = ToolsDialect.response
            result = observation.removeprefix(before).removesuffix(after)
            for call in chat.open_calls:
                chat.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            chat.open_calls = ()
            return
        chat.messages.append({"role": "user", "content": observation})

    def _append_reply(self, chat: _Chat, reply: Reply) -> str:
        """Add a reply to the conversation; returns the message for the environment."""
        dialect, text = self.agent_context.dialect, reply.text
        if reply.calls and not dialect.read(text).blocks:  # some servers leave the calls in the text, too
            text = "\n".join([text, *map(_written_call, reply.calls)]).lstrip()
        opening = "<think>" if self._hides_thoughts and begins_inside(text) else ""
        text = opening + text
        if not self._uses_tools:
            text = dialect.cut(text)
        if self._uses_tools and reply.calls:
            chat.open_calls, sent = _sendable(reply.calls)
            chat.messages.append({"role": "assistant", "content": reply.text, "tool_calls": sent})
        else:
            chat.messages.append({"role": "assistant", "content": text.removeprefix(opening)})
        return text

    def _whole_replies(self, chats: list[_Chat]) -> list[Reply | RequestError]:
        """One reply to each conversation, asked for again without stop strings where it stopped inside something."""
        if not self._stops or self._hides_thoughts:
            return self._replies(chats, self._unstopped)
        replies = self._replies(chats, self._endpoint)
        dialect = self.agent_context.dialect
        stopped: dict[int, Reply] = {}
        for n, reply in enumerate(replies):
            if isinstance(reply, Reply) and not (reply.cut_off or reply.calls):
                replies[n] = stopped[n] = replace(reply, text=dialect.close(reply.text))
        if any(begins_inside(reply.text) for reply in stopped.values()):
            self._hides_thoughts = True
        for n, reply in stopped.items():
            if self._hides_thoughts is None and _is_bare(dialect.read(reply.text), reply.text):
                (whole,) = self._replies([chats[n]], self._unstopped)
                if isinstance(whole, Reply) and not whole.cut_off:
                    self._hides_thoughts = begins_inside(whole.text)
        again = [n for n, reply in stopped.items() if self._hides_thoughts or _is_open(dialect, reply.text)]
        fresh = self._replies([chats[n] for n in again], self._unstopped) if again else []
        whole_replies = dict(zip(again, fresh, strict=True))
        return [whole_replies.get(n, reply) for n, reply in enumerate(replies)]

    def _replies(self, chats: list[_Chat], endpoint: CachedEndpoint) -> list[Reply | RequestError]:
        """One reply to each conversation, from the cache or from the server."""
        key = digest(endpoint.identity)
        keys = [
            blake2b(json.dumps([c.sample, c.messages]).encode(), key=key, digest_size=32).digest()
            for c in chats
        ]
        replies = [None if value is None else _read(value) for value in endpoint.kept(keys)]
        self._cached += sum(reply is not None for reply in replies)
        missing = [n for n, reply in enumerate(replies) if reply is None]
        meter = endpoint.meter
        before = meter.calls
        fetched = (
            event_loop.run(self._ask([(keys[n], chats[n].messages) for n in missing], endpoint))
            if missing
            else []
        )
        failed = [reply for reply in fetched if isinstance(reply, RequestError)]
        if failed and before == meter.calls == 0:
            raise ConfigError(f"{_OWNER}: {failed[0]}")
        for problem in dict.fromkeys(map(str, failed)):
            _log.warning("%s: episodes are lost: %s", _OWNER, problem)
        fresh = iter(fetched)
        return [next(fresh) if reply is None else reply for reply in replies]

    async def _ask(
        self, requests: list[tuple[bytes, list[dict[str, Any]]]], endpoint: CachedEndpoint
    ) -> list[Reply | RequestError]:
        """Send requests at once; a reply is on its way to the disk as soon as it has arrived."""
        saving: list[asyncio.Task[None]] = []

        async def ask_one(key: bytes, messages: list[dict[str, Any]]) -> Reply | RequestError:
            try:
                reply = await endpoint.ask(messages)
            except RequestError as error:
                if error.fatal and endpoint.meter.calls:
                    self._fatal_error = str(error)
                return error
            task = endpoint.keep(key, asdict(reply))
            if task is not None:
                saving.append(task)
            return reply

        replies: dict[int, Reply | RequestError] = {}
        left = iter(enumerate(requests))

        async def work() -> None:
            for n, request in left:
                if self._fatal_error:
                    replies[n] = RequestError(self._fatal_error)
                else:
                    replies[n] = await ask_one(*request)

        workers = [work() for _ in range(min(endpoint.options.concurrency, len(requests)))]
        try:
            problems = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            if saving:
                await asyncio.wait(saving)
        for problem in problems:
            if isinstance(problem, BudgetSpentError):
                kept = "were not kept (cache=false)" if endpoint.store is None else "are in the cache"
                raise BudgetSpentError(
                    f"{_OWNER}: {problem}. Raise the ceiling and run it again: replies so far {kept}"
                )
            if problem is not None:
                raise problem
        return [replies[n] for n in range(len(requests))]


def _is_open(dialect: Dialect, text: str) -> bool:
    """Whether a reply that stopped at a closing tag is still inside a thought or an act, or shows nothing of either."""
    scanner = dialect.scanner()
    return not scanner.feed(text) and (scanner.depth > 0 or scanner.name != "" or not text.strip())


def _is_bare(scanner: Scanner, text: str) -> bool:
    """Whether a reply that a stop string may have ended has words before its act, or no act, and no thought tag.

    Either they are no thought, or the server's chat template has opened one, and the closing tag is quoted in it.
    """
    if scanner.thoughts:
        return False
    if not scanner.blocks:
        return True
    return not text.lstrip().startswith(f"<{scanner.blocks[0].name}>")


def _written_call(call: ToolCall) -> str:
    """A call in the tools dialect. Arguments that are not JSON stay as they are; the environment reports them."""
    try:
        # A number with a point stays as it was written: 3.50 is another answer than 3.5.
        written = json_text({"name": call.name, "arguments": json.loads(call.arguments, parse_float=str)})
    except (ValueError, RecursionError):
        written = f'{{"name": {json_text(call.name)}, "arguments": {call.arguments}}}'.replace("<", "\\u003c")
    return f"<tool_call>\n{written}\n</tool_call>"


def _sendable(calls: Sequence[ToolCall]) -> tuple[tuple[ToolCall, ...], list[dict[str, Any]]]:
    """Calls in the form in which a server takes them back, however broken they came; and as messages hold them.

    Every call gets an id of its own, a name that is one, and an object as arguments: servers refuse a conversation with
    other calls, or fail on it, and the episode would be lost. What was wrong is in the result that answers the call.
    """
    kept: list[ToolCall] = []
    for number, call in enumerate(calls):
        id_ = call.id if call.id not in ("", "None", *(c.id for c in kept)) else f"call{number:05d}"
        name = _NOT_IN_NAMES.sub("_", call.name)[:64] or "unknown"
        arguments = call_arguments(call.arguments)
        kept.append(
            ToolCall(id_, name, call.arguments if _is_object(call.arguments) else json_text(arguments or {}))
        )
    sent = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in kept
    ]
    return tuple(kept), sent


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _read(value: bytes) -> Reply | None:
    """A stored reply; None for what this version does not write."""
    try:
        data = json.loads(value)
        calls = tuple(ToolCall(**call) for call in data["calls"])
        return Reply(str(data["text"]), bool(data["cut_off"]), Usage(**data["usage"]), calls)
    except (ValueError, TypeError, KeyError):
        return None
