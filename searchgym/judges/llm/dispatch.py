"""Asks one model about many prompts at once, and a second time about a prompt whose reply cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...endpoint.cached import CachedEndpoint
from ...endpoint.client import RequestError
from ...endpoint.metering import Usage
from ...errors import BudgetSpentError
from .prompt import Prompt
from .replies import UnreadableReplyError

__all__ = ["Answer", "Reader", "ask_all"]

Reader = Callable[[str, Prompt], tuple[Any, ...]]
"""`read_verdict` or `read_grade`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of asking about one prompt.

    Attributes:
        values: what the reader found; None if there is no judgement.
        problem: why there is no judgement; "" if there is one.
        usages: the tokens that each answered request took.
        fatal: no other prompt will be answered either.
    """

    values: tuple[Any, ...] | None
    problem: str = ""
    usages: tuple[Usage, ...] = ()
    fatal: bool = False


async def ask_all(
    endpoint: CachedEndpoint,
    prompts: Mapping[bytes, Prompt],
    read: Reader,
    answered: Callable[[bytes, Answer], None],
) -> dict[bytes, Answer]:
    """Ask about each prompt, at most `concurrency` (an endpoint option) of them at once.

    After a fatal answer nothing more is sent: the prompts that are left get the same problem.

    Args:
        endpoint: where to ask.
        prompts: by key.
        read: finds the judgement in a reply.
        answered: called with key and answer as soon as a prompt is answered.

    Returns:
        The answers, by key.
    """
    answers: dict[bytes, Answer] = {}
    left = iter(prompts.items())
    stop: Answer | None = None

    async def work() -> None:
        nonlocal stop
        for key, prompt in left:
            if stop is not None:
                answers[key] = Answer(None, stop.problem)
                continue
            answer = answers[key] = await _ask(endpoint, prompt, read)
            answered(key, answer)
            if answer.fatal:
                stop = answer

    await asyncio.gather(*[work() for _ in range(min(endpoint.options.concurrency, len(prompts)))])
    return answers


async def _ask(endpoint: CachedEndpoint, prompt: Prompt, read: Reader) -> Answer:
    messages = prompt.messages()
    usages: tuple[Usage, ...] = ()
    try:
        for _ in range(2):
            reply = await endpoint.ask(messages)
            usages += (reply.usage,)
            try:
                return Answer(read(reply.text, prompt), "", usages)
            except UnreadableReplyError as error:
                problem = "it was cut off at max_tokens" if reply.cut_off else str(error)
                messages = prompt.repair(reply.text, problem)
    except BudgetSpentError as error:
        return Answer(None, str(error), usages, fatal=True)
    except RequestError as error:
        return Answer(None, str(error), usages, fatal=error.fatal)
    began = " ".join(reply.text.split())[:80]
    return Answer(None, f"no verdict in two replies: {problem}; the second began {began!r}", usages)
