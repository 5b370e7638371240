"""Agents without weights: two controls that test the environment, two baselines, and one for audits that errs at random.

| name   | reads gold data | shows                                                                      |
|--------|-----------------|----------------------------------------------------------------------------|
| random | no              | the score of chance                                                        |
| gold   | yes             | that the scorer credits every gold answer                                  |
| oracle | yes             | that every answer can be read from what the gold queries retrieve          |
| copy   | no              | the score of one search for the question and an answer copied from it      |
| stumbling | optional     | what mistakes cost: it finds gold passages or follows links, and errs now and then |
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.dialects import Act
from searchgym.errors import ConfigError
from searchgym.options import choice, number
from searchgym.records.episode import Episode
from searchgym.records.question import find_passage

from .passages import NUMBER, SPAN, YEAR, contains_phrase, read_passages

__all__ = ["CopyAgent", "GoldAgent", "OracleAgent", "RandomAgent", "StumblingAgent"]


class RandomAgent(Agent):
    """Searches for and answers with random titles and words of the corpus; half of its acts are answers.

    Args:
        seed: seed of its generator; two agents with equal seeds act alike.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return [self._act() for _ in slots]

    def _act(self) -> str:
        passages = self.agent_context.corpus.passages
        passage = passages[self._random.randrange(len(passages))]
        words = passage.text.split()
        phrase = self._random.choice(words) if words and self._random.random() < 0.5 else passage.title
        phrase = phrase.strip() or "nothing"
        if self._random.random() < 0.5:
            return self.agent_context.dialect.write(Act("answer", answer=phrase))
        return self.agent_context.dialect.write(Act("search", queries=(phrase,)))

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`: there is no state, because no act depends on an earlier one."""

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `fork`."""


class GoldAgent(Agent):
    """Answers with the gold answer at once: an EM below 1.0 on any corpus is a fault of the scorer."""

    name = "gold"
    needs_gold = True

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return [self.agent_context.dialect.write(Act("answer", answer=_gold(i)["answers"][0])) for i in infos]

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`: there is no state, because every info holds the gold answer."""

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `fork`."""


class OracleAgent(Agent):
    """Searches for the gold sub-queries, one per round, and answers only from text it was shown.

    After each search the hop's bridge must occur, as whole words, in the passages that this search returned.
    At the end the answer must occur in a shown passage or, where the question offers the alternatives (as
    in comparisons), in the question. Otherwise it answers "unknown". So its EM is 1.0 only if
    questions, passages, index and scorer agree, and near 0 if the index is shuffled.
    """

    name = "oracle"
    needs_gold = True

    def __init__(self) -> None:
        self._states: dict[int, _OracleState] = {}

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._states.pop(slot, None)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return [self._act(*turn) for turn in zip(slots, observations, infos, strict=True)]

    def _act(self, slot: int, observation: str, info: dict[str, Any]) -> str:
        dialect = self.agent_context.dialect
        gold = _gold(info)
        chain = gold["chain"]
        state = self._states.get(slot)
        if state is None:
            if not chain:
                raise ConfigError(
                    f"corpus {self.agent_context.corpus.name!r} has no gold sub-queries for its questions, so the "
                    "oracle agent cannot play it: use the agent 'gold' or 'copy', or a generated world"
                )
            if self.agent_context.max_rounds <= len(chain):
                raise ConfigError(
                    f"max_rounds is {self.agent_context.max_rounds}, but a question needs {len(chain)} searches and "
                    f"an answer: set max_rounds to at least {len(chain) + 1}"
                )
            state = self._states[slot] = _OracleState(shown=[observation])
        else:
            state.read(observation, chain)
        if state.derived and state.hop < len(chain):
            return dialect.write(Act("search", queries=(chain[state.hop]["query"],)))
        readable = [a for a in gold["answers"] if any(contains_phrase(text, a) for text in state.shown)]
        return dialect.write(Act("answer", answer=readable[0] if state.derived and readable else "unknown"))

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`."""
        state = self._states.get(source)
        for target in targets:
            self._states.pop(target, None)
            if state is not None:
                self._states[target] = _OracleState(list(state.shown), state.hop, state.derived)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`."""
        state = self._states[slot] = _OracleState(shown=[prefix.question])
        for done in prefix.rounds[: fork_round - 1]:
            state.read(done.observation, prefix.gold["chain"])


class _OracleState:
    """A running episode of the oracle.

    Args:
        shown: the texts it was shown, the question first.
        hop: index of the hop that it looks up.
        derived: whether all bridges so far were found.
    """

    def __init__(self, shown: list[str], hop: int = 0, derived: bool = True) -> None:
        self.shown, self.hop, self.derived = shown, hop, derived

    def read(self, observation: str, chain: Sequence[dict[str, Any]]) -> None:
        """Take in what the search for the current hop returned.

        Args:
            observation: the search result.
            chain: the gold sub-queries with their bridges.
        """
        text = "\n".join(f"{p.title}\n{p.text}" for p in read_passages(observation))
        self.shown.append(text)
        self.derived &= self.hop < len(chain) and contains_phrase(text, chain[self.hop]["bridge"])
        self.hop += 1


class CopyAgent(Agent):
    """Searches once for the question's own words and copies an answer from the passages.

    What it copies depends on the form of the question (passages in order of rank, title before text):

    1. a question that starts with an auxiliary verb ("Are", "Did" …): "yes";
    2. "… A or B …", "Of A and B, …": the one of the first two names that the passages mention first;
    3. "when", "what year", "which year": the first year;
    4. "how many", "how long" and the like: the first number that is not a year;
    5. any other question: the first name that is not in the question.

    If nothing fits, it answers with the title of the best passage.
    """

    name = "copy"

    _YES_NO = re.compile(r"(?:is|are|was|were|do|does|did|has|have|had|can|could)\b", re.IGNORECASE)
    _CHOICE = re.compile(r"^Of |\bor\b")
    _WHEN = re.compile(r"\b(?:when|what year|which year)\b", re.IGNORECASE)
    _HOW_MUCH = re.compile(r"\bhow (?:many|much|long|high|tall|large|big|far|old)\b", re.IGNORECASE)

    def __init__(self) -> None:
        self._questions: dict[int, str] = {}

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._questions.pop(slot, None)

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Nothing to seed: the agent draws no random numbers."""

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return [self._act(slot, text) for slot, text in zip(slots, observations, strict=True)]

    def _act(self, slot: int, observation: str) -> str:
        if slot not in self._questions:
            self._questions[slot] = observation
            # On one line: where several queries are allowed, each line is a query.
            query = " ".join(observation.split()) or "nothing"
            return self.agent_context.dialect.write(Act("search", queries=(query,)))
        answer = self.copy(self._questions[slot], observation)
        return self.agent_context.dialect.write(Act("answer", answer=answer))

    def copy(self, question: str, observation: str) -> str:
        """The answer copied from a search result; "unknown" if the result has no passages.

        Args:
            question: the question.
            observation: the search result.
        """
        if self._YES_NO.match(question):
            return "yes"
        passages = read_passages(observation)
        texts = [part for passage in passages for part in passage]
        names = SPAN.findall(question)
        if len(names) > 1 and self._CHOICE.search(question):
            text = "\n".join(texts)
            return str(min(names[:2], key=lambda name: text.find(name) % (len(text) + 1)))  # absent is last
        if self._WHEN.search(question):
            found = [year for text in texts for year in YEAR.findall(text)]
        elif self._HOW_MUCH.search(question):
            found = [n for text in texts for n in NUMBER.findall(text) if not YEAR.fullmatch(n)]
        else:
            found = [s for text in texts for s in SPAN.findall(text) if not contains_phrase(question, s)]
        if found:
            return str(found[0])
        return passages[0].title if passages else "unknown"

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`."""
        question = self._questions.get(source)
        for target in targets:
            self._questions.pop(target, None)
            if question is not None:
                self._questions[target] = question

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`."""
        self._questions[slot] = prefix.question


class StumblingAgent(Agent):
    """Searches passage after passage and answers, with mistakes: for credit audits on text without a learned policy.

    Without a mistake, skill "oracle" searches the title of a gold passage that it was not shown yet, and gives the gold
    answer when it was shown all; skill "greedy" searches the question, then a name in what it found, and copies an answer
    like `CopyAgent`. A mistake is one of three, equally likely: searching a name on a page that it was shown (of the question
    before the first search), searching the same again, or answering with what `CopyAgent` copies from what it was shown last.

    Args:
        skill: "oracle", which reads gold data, or "greedy".
        mistakes: probability of a mistake in each round.
        seed: seed of its choices.

    Raises:
        ConfigError: an unknown skill, or a probability outside [0, 1].
    """

    name = "stumbling"

    def __init__(self, skill: str = "oracle", mistakes: float = 0.3, seed: int = 0) -> None:
        self.skill = choice("skill", skill, ("oracle", "greedy"))
        self.mistakes = number("mistakes", mistakes, 0.0, 1.0)
        self.needs_gold = skill == "oracle"
        self._copy = CopyAgent()
        self._random = random.Random(seed)
        self._streams: dict[int, random.Random] = {}
        self._shown: dict[int, tuple[str, ...]] = {}
        self._queries: dict[int, tuple[str, ...]] = {}

    def bind(self, agent_context: AgentContext) -> None:
        super().bind(agent_context)
        self._streams.clear()

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._shown[slot] = self._queries[slot] = ()

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        self._streams.update((slot, random.Random(seed)) for slot, seed in zip(slots, seeds, strict=True))

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        return [self._act(*turn) for turn in zip(slots, observations, infos, strict=True)]

    def _act(self, slot: int, observation: str, info: dict[str, Any]) -> str:
        shown = self._shown[slot] = (*self._shown[slot], observation)
        question, newest = shown[0], shown[-1]
        draw, queries = self._streams.get(slot, self._random), self._queries[slot]
        last = self.agent_context.max_rounds == len(shown)
        names = [n for n in dict.fromkeys(SPAN.findall(newest)) if n not in queries]
        if draw.random() < self.mistakes:
            mistake = draw.choice(("wander", "repeat", "answer"))
            if mistake == "wander" and names and not last:
                return self._search(slot, draw.choice(names))
            if mistake == "repeat" and queries and not last:
                return self._search(slot, queries[-1])
            return self._answer(self._copy.copy(question, newest if queries else ""))
        if self.skill == "oracle":
            gold = _gold(info)
            corpus = self.agent_context.corpus
            titles = [find_passage(corpus, passage_id).title for passage_id in gold["supporting_ids"]]
            lacking = [title for title in titles if not any(title in text for text in shown[1:])]
            if lacking and not last:
                return self._search(slot, draw.choice(lacking))
            return self._answer(gold["answers"][0] if not lacking else self._copy.copy(question, newest))
        if not queries and not last:
            return self._search(slot, " ".join(question.split()) or "nothing")
        if len(queries) < 2 and names and not last:
            return self._search(slot, names[0])
        return self._answer(self._copy.copy(question, newest))

    def _search(self, slot: int, query: str) -> str:
        self._queries[slot] = (*self._queries[slot], query)
        return self.agent_context.dialect.write(Act("search", queries=(query,)))

    def _answer(self, answer: str) -> str:
        return self.agent_context.dialect.write(Act("answer", answer=answer))

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`."""
        for target in targets:
            self._shown[target], self._queries[target] = self._shown[source], self._queries[source]

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`."""
        done = prefix.rounds[: fork_round - 1]
        self._shown[slot] = (prefix.question, *(record.observation for record in done))
        self._queries[slot] = tuple(q for record in prefix.rounds[:fork_round] for q in record.action.queries)


def _gold(info: dict[str, Any]) -> dict[str, Any]:
    gold: dict[str, Any] | None = info.get("gold")
    if gold is None:
        raise ConfigError(
            'info["gold"] is missing: this agent is a control, build its environment with reveal_gold=True'
        )
    return gold
