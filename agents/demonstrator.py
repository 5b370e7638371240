"""Demonstrations for a warm start: search, read, answer, with thoughts that quote what was read.

| questions with          | it searches for                                                                    |
|-------------------------|------------------------------------------------------------------------------------|
| gold sub-queries        | these, in order                                                                    |
| gold passages           | the title of one that the question or an earlier passage mentions, else the question |
| neither                 | the question                                                                       |

Every query is made of words that the model has seen by then, and every answer stands in a passage that was found (or is one
of the alternatives of the question, or yes or no), so that nothing has to be known by heart. Otherwise the answer is
"unknown": SFT leaves such episodes out (`min_reward`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

from searchgym.agent import Agent, Turn
from searchgym.dialects import Act
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode
from searchgym.records.question import find_passage

from .passages import ShownPassage, contains_phrase, read_passages

__all__ = ["DemonstratorAgent"]

_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z0-9\"“(])")  # not after an initial
_QUALIFIER = re.compile(r" \([^()]*\)$")
_LONGEST = 240  # characters of a quoted sentence


@dataclass(slots=True)
class _Reading:
    """What a running episode has read.

    Attributes:
        question: the question.
        found: the passages that searches returned, the latest first.
        asked: the queries so far.
    """

    question: str
    found: list[ShownPassage] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def mentions(self, phrase: str) -> bool:
        """Whether a phrase stands in the question or in a passage that was found."""
        return any(contains_phrase(text, phrase) for text in (self.question, *(p.text for p in self.found)))

    def sentence_with(self, phrase: str, titles: Sequence[str]) -> str:
        """The first sentence with a phrase, of the passages with these titles before others; "" if there is none."""
        for passage in sorted(self.found, key=lambda p: p.title not in titles):
            for sentence in _SENTENCE_END.split(passage.text):
                if contains_phrase(sentence, phrase):
                    return shorten(sentence, _LONGEST, placeholder=" …")
        return ""


class DemonstratorAgent(Agent):
    """Plays episodes to learn from; see the head of this file. It reads gold data.

    Args:
        thoughts: whether a message begins with a thought; without one it is the act alone, about a third of the tokens.

    Raises:
        ConfigError: `thoughts` is not a boolean.
    """

    name = "demonstrator"
    needs_gold = True

    def __init__(self, thoughts: bool = True) -> None:
        if type(thoughts) is not bool:
            raise ConfigError(f"agent 'demonstrator': thoughts is {thoughts!r}: give true or false")
        self._thoughts = thoughts
        self._readings: dict[int, _Reading] = {}

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._readings.pop(slot, None)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return [self._act(*turn) for turn in zip(slots, observations, infos, strict=True)]

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`."""
        reading = self._readings.get(source)
        for target in targets:
            self._readings.pop(target, None)
            if reading is not None:
                self._readings[target] = replace(
                    reading, found=list(reading.found), asked=list(reading.asked)
                )

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`."""
        reading = self._readings[slot] = _Reading(prefix.question)
        for number, done in enumerate(prefix.rounds[:fork_round]):
            reading.asked += done.action.queries
            if number + 1 < fork_round:  # the last observation comes with the next act
                reading.found[:0] = read_passages(done.observation)

    def _act(self, slot: int, observation: str, info: dict[str, Any]) -> str:
        gold = info.get("gold")
        if gold is None:
            raise ConfigError(
                'info["gold"] is missing: demonstrations need it, build the environment with reveal_gold=True'
            )
        reading = self._readings.get(slot)
        if reading is None:
            reading = self._readings[slot] = _Reading(observation)
        else:
            reading.found[:0] = read_passages(observation)
        titles = [find_passage(self.agent_context.corpus, id).title for id in gold["supporting_ids"]]
        query, thought = ("", "")
        if len(reading.asked) + 1 < self.agent_context.max_rounds:
            query, thought = self._next_query(reading, gold["chain"], titles)
        if query:
            reading.asked.append(query)
            return self._write(Act("search", queries=(query,)), thought)
        answer, thought = self._answer(reading, gold["answers"], titles)
        return self._write(Act("answer", answer=answer), thought)

    def _write(self, act: Act, thought: str) -> str:
        return self.agent_context.dialect.write(act, thought if self._thoughts else "")

    def _next_query(
        self, reading: _Reading, chain: Sequence[dict[str, Any]], titles: Sequence[str]
    ) -> tuple[str, str]:
        """The next query and the thought before it; "" if there is nothing left to look up."""
        hop = len(reading.asked)
        if chain:
            if hop == len(chain):
                return "", ""
            query = str(chain[hop]["query"])
            known = reading.sentence_with(chain[hop - 1]["bridge"], titles) if hop else ""
            return query, f"{known} I need to find {query}.".strip()
        read = {passage.title for passage in reading.found}
        for title in titles:
            name = title if reading.mentions(title) else _QUALIFIER.sub("", title)
            if title not in read and name not in reading.asked and reading.mentions(name):
                known = "" if contains_phrase(reading.question, name) else reading.sentence_with(name, titles)
                return name, f"{known} I need to read about {name}.".strip()
        on_one_line = " ".join(reading.question.split())
        if on_one_line in reading.asked or (titles and read.issuperset(titles)):
            return "", ""
        return on_one_line, "I search for what the question asks."

    def _answer(self, reading: _Reading, answers: Sequence[str], titles: Sequence[str]) -> tuple[str, str]:
        """The answer and the thought before it."""
        for answer in answers:
            sentence = reading.sentence_with(answer, titles)
            if sentence:
                return answer, f"{sentence} So the answer is {answer}."
        read = [p for title in titles for p in reading.found if p.title == title]
        decided = answers[0].lower() in ("yes", "no") or contains_phrase(reading.question, answers[0])
        if decided and read and {p.title for p in read}.issuperset(titles):
            first = [_SENTENCE_END.split(passage.text)[0] for passage in dict.fromkeys(read)]
            opening = " ".join(shorten(sentence, _LONGEST, placeholder=" …") for sentence in first)
            return answers[0], f"{opening} So the answer is {answers[0]}."
        return "unknown", "Nothing that I found says it."
