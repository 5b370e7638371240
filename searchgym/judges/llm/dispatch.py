"""Asks one model about many prompts at once, and about one prompt a second time if the reply cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...endpoint.client import Endpoint, RequestError
from ...endpoint.metering import Usage
from ...errors import BudgetSpentError
from .prompt import Prompt
from .replies import UnreadableReplyError

__all__ = ["Answer", "Reader", "ask_all"]

Reader = Callable[[str, Prompt], tuple[Any, ...]]
"""`read_verdict` or `read_grade`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What asking about one prompt came to.

    Attributes:
        values: what the reader found; None if there is no judgement.
        problem: why there is none.
        usages: what each answered request took.
        hopeless: nothing else will be answered either.
    """

    values: tuple[Any, ...] | None
    problem: str = ""
    usages: tuple[Usage, ...] = ()
    hopeless: bool = False


async def ask_all(
    endpoint: Endpoint,
    prompts: Mapping[bytes, Prompt],
    read: Reader,
    concurrency: int,
    answered: Callable[[bytes, Answer], None],
) -> dict[bytes, Answer]:
    """Ask about each prompt, at most `concurrency` of them at once, and call `answered` with each as it is done.

    After a hopeless answer nothing more is sent: what is left gets the same problem.
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
            if answer.hopeless:
                stop = answer

    await asyncio.gather(*[work() for _ in range(min(concurrency, len(prompts)))])
    return answers


async def _ask(endpoint: Endpoint, prompt: Prompt, read: Reader) -> Answer:
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
        return Answer(None, str(error), usages, hopeless=True)
    except RequestError as error:
        return Answer(None, str(error), usages, hopeless=error.hopeless)
    began = " ".join(reply.text.split())[:80]
    return Answer(None, f"no verdict in two replies: {problem}; the second began {began!r}", usages)
