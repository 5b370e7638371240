"""ReAct transcripts: thoughts, actions in brackets and observations.

    react           messages [{role, content}] or one text with "### Instruction:" and "### Response:";
                    "Thought: …", "Action: search[QUERY]", "Observation: …", "Action: finish[ANSWER]"
    react numbered  one text; "Question: …", "Thought 1: …", "Action 1: Search[TITLE]", "Observation 1: …"
    react steps     {"observations": ["Question: …", …], "actions": ["search[TITLE]", …]}, without thoughts

A thought and its action are one round. An observation may run over many lines and may look like anything: in a
numbered text it ends only at the thought or action of the next number; in messages, at the next message; in a plain
text, at the next line that opens with "Thought:" or "Action:", which an observation could forge.

An observation is one hit. `Search[TITLE]` of the numbered format asks an encyclopedia for a page, so the hit has that
title; "Could not find [TITLE]" is not a hit. `search[QUERY]` asks a web search engine whose snippet has no title.
`Lookup[WORDS]` continues in the page last found.
"""

from __future__ import annotations

import re
from typing import Any

from ..dialects import Act, after_thoughts
from ..records.episode import RoundRecord
from ..records.retriever import Hit
from .parsed import Parsed, RolloutTextError, act, hit

__all__ = ["parse_react", "parse_react_numbered", "parse_react_steps"]

_INSTRUCTION = re.compile(r"^### Instruction:\n(.*?)\n+### Response:\n", re.MULTILINE | re.DOTALL)
_QUESTION = re.compile(r"\A\s*Question: (.*?)\n(?=Thought 1:|Action 1:)", re.DOTALL)
_ACTION_LINE = re.compile(r"^Action(?: \d+)?:[ \t]*", re.MULTILINE)
_ACTION_ANYWHERE = re.compile(r"\bAction(?: \d+)?:[ \t]*")
_CALL = re.compile(r"\s*(\w+)\s*\[(.*)\]\s*", re.DOTALL)
_OBSERVATION = re.compile(r"^Observation:", re.MULTILINE)
_NEXT = re.compile(r"^(?:Thought|Action):", re.MULTILINE)
_OBSERVATION_NUMBERED = re.compile(r"^Observation (\d+):", re.MULTILINE)
_NEXT_NUMBERED = r"^(?:Thought|Action) %d:"
_KEY = re.compile(r"^Correct answer:[^\n]*\s*\Z", re.MULTILINE)
_VERDICT = re.compile(r"\b(?:reward = (?:(True)|False)|Answer is (?:(CORRECT)|INCORRECT))\b")
_LABEL = re.compile(r"\AObservation(?: \d+)?:")


def parse_react(text: Any) -> Parsed:
    """Take a transcript apart, given as messages or as one text.

    Raises:
        RolloutTextError: neither, or no act of the agent in it.
    """
    if isinstance(text, list):
        question, turns = _message_turns(text)
    elif isinstance(text, str):
        head = _INSTRUCTION.search(text)
        question, body = (head[1].strip(), text[head.end() :]) if head else ("", text)
        turns = _turns(body, numbered=False)
    else:
        raise RolloutTextError(f"the text is a {type(text).__name__}, neither a string nor messages")
    return _parse(question, turns, pages=False)


def parse_react_numbered(text: Any) -> Parsed:
    """Take a numbered transcript apart.

    Raises:
        RolloutTextError: not a string, or no act of the agent in it.
    """
    if not isinstance(text, str):
        raise RolloutTextError(f"the text is a {type(text).__name__}, not a string")
    head = _QUESTION.match(text)
    question, body = (head[1].strip(), text[head.end() :]) if head else ("", text)
    # The record ends with the key, which the agent did not see.
    return _parse(question, _turns(_KEY.sub("", body), numbered=True), pages=True)


def parse_react_steps(text: Any) -> Parsed:
    """Take the lists of a logged trajectory apart: one observation more than actions, the first is the question.

    Raises:
        RolloutTextError: not such lists, or no act of the agent in them.
    """
    observations, actions = (
        text.get(k) if isinstance(text, dict) else None for k in ("observations", "actions")
    )
    if not isinstance(observations, list) or not isinstance(actions, list):
        raise RolloutTextError("the text does not hold a list of observations and a list of actions")
    if not all(isinstance(entry, str) for entry in (*observations, *actions)):
        raise RolloutTextError("an observation or an action is not a string")
    if not len(actions) <= len(observations) <= len(actions) + 1:
        raise RolloutTextError(f"{len(observations)} observations do not fit {len(actions)} actions")
    question = re.sub(r"\A(?:Question|Claim): ", "", observations[0]).strip() if observations else ""
    seen = [*observations[1:], None]
    turns = [(f"Action: {said}", after) for said, after in zip(actions, seen, strict=False)]
    return _parse(question, turns, pages=True)


def _turns(body: str, numbered: bool) -> list[tuple[str, str | None]]:
    """(message, observation) pairs of a text; None: the text ends before an observation."""
    turns: list[tuple[str, str | None]] = []
    position = 0
    while body[position:].strip():
        mark = (_OBSERVATION_NUMBERED if numbered else _OBSERVATION).search(body, position)
        if mark is None:
            turns.append((body[position:], None))
            break
        following = re.compile(_NEXT_NUMBERED % (int(mark[1]) + 1), re.MULTILINE) if numbered else _NEXT
        end = following.search(body, mark.end())
        stop = len(body) if end is None else end.start()
        turns.append((body[position : mark.start()], body[mark.start() : stop]))
        position = stop
    return turns


def _message_turns(messages: list[Any]) -> tuple[str, list[tuple[str, str | None]]]:
    question = ""
    turns: list[tuple[str, str | None]] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RolloutTextError(f"a message is {message!r:.60}, not {{role, content}}")
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise RolloutTextError(f"a message holds a {type(content).__name__}, not text")
        if message["role"] == "assistant":
            turns.append((content, None))
        elif not turns:
            question = content.strip() if message["role"] == "user" else question
        else:
            said, seen = turns[-1]
            turns[-1] = (said, content if seen is None else f"{seen}\n{content}")
    return question, turns


def _parse(question: str, turns: list[tuple[str, str | None]], pages: bool) -> Parsed:
    rounds: list[RoundRecord] = []
    page = ""
    for message, seen in turns:
        if not message.strip() and rounds:  # two observations in a row: the second belongs to the same act
            rounds[-1].observation += seen or ""
            continue
        name, argument, action = _action(message)
        if name == "finish":  # an empty one, too: the environment ends there
            rounds.append(RoundRecord(message, action))
            closing = (seen or "").strip()
            said = _VERDICT.search(closing)
            correct = None if said is None else any(said.groups())
            return Parsed(rounds, question, closing=closing, correct=correct)
        found = _LABEL.sub("", seen or "").strip()
        results: list[list[Hit]] = []
        if action.kind == "search" and found and not found.startswith("Could not find ["):
            page = argument.strip(' "') if pages and name == "search" else page
            results = [[hit(page if pages else "", found, 1)]]
        rounds.append(RoundRecord(message, action, results, seen or ""))
    if not rounds or not rounds[0].text.strip():
        raise RolloutTextError("no thought and no action in it")
    last = rounds[-1]
    return Parsed(rounds, question, cut=last.action.kind == "invalid" and last.observation == "")


def _action(message: str) -> tuple[str, str, Act]:
    """(name, argument, action) of the agent's message."""
    message = after_thoughts(message)
    lines = list(_ACTION_LINE.finditer(message)) or list(_ACTION_ANYWHERE.finditer(message))[-1:]
    if not lines:
        return "", "", act("invalid", error="no_act")
    if len(lines) > 1:
        return "", "", act("invalid", error="several_acts")
    call = _CALL.fullmatch(message[lines[0].end() :])
    if call is None:
        return "", "", act("invalid", error="malformed_call")
    name, argument = call[1].lower(), call[2]
    if name == "finish":
        return name, argument, act("answer", answer=argument)
    if name in ("search", "lookup"):
        return name, argument, act("search", queries=[argument])
    return name, argument, act("invalid", error="unknown_tool")
