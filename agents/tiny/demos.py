"""Demonstrations for the tiny language model: texts that it learns to write before reinforcement learning.

All texts come from the real dialect, corpus and retriever, on worlds other than the default one, so the model sees no
fact of the default world. There are three kinds of increasing difficulty:

1. `name_list`: a list of names, then the same names shuffled. It teaches to continue a name that occurred before.
2. `lookup_drill`: a search result, then questions about its lines. It teaches relation and line -> value.
3. `demonstrate`: a whole episode. Each round first thinks in the form of a lookup, then does one act:

        Mira Vogack : mentor : birthplace ?
        <think> Mira Vogack </think> <search> Mira Vogack </search>
        <information> ... </information>
        <think> 1 mentor Jan Kerberg (poet) </think> <search> Jan Kerberg (poet) </search>
        <information> ... </information>
        <think> 2 birthplace Oldmoor </think> <answer> Oldmoor </answer>

   "2" is the rank of the line that was read: where two entities share a name, the choice of the line is one token.

Episodes are perfect or show `Habits`: bad choices that depend on the context, while every copy stays exact. They leave
reinforcement learning something to select: each bad choice is slightly likelier than the right one, and which one it is
depends on the relation just read, so a general preference for one act does not undo them.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from searchgym.corpora.bm25.index import BM25
from searchgym.corpora.world import World, name_classes, terse_pieces
from searchgym.dialects import Act, TagsDialect
from searchgym.env.feedback import FEEDBACK_LEVELS, write_feedback
from searchgym.errors import RetrievalError
from searchgym.records.question import Passage, Question
from searchgym.records.retriever import CachedRetriever, Hit

from .agent import prompt_ids
from .tokenizer import Tokenizer

__all__ = [
    "FLAWS",
    "Demo",
    "Habits",
    "Library",
    "Part",
    "Renaming",
    "build_tokenizer",
    "can_demonstrate",
    "demonstrate",
    "encode_parts",
    "flaw_of",
    "lookup_drill",
    "name_list",
    "read_line",
]

TOP_K = 3
_DIALECT = TagsDialect()
_MAX_CHARS = 16_384


class Part(NamedTuple):
    """A piece of an episode's text.

    Attributes:
        text: the text.
        learned: whether the agent wrote it and should learn to write it.
    """

    text: str
    learned: bool


class Demo(NamedTuple):
    """One training sequence.

    Attributes:
        tokens: token ids.
        mask: 1 where the token should be predicted, else 0.
    """

    tokens: list[int]
    mask: list[int]


def build_tokenizer() -> Tokenizer:
    """The tokenizer for terse worlds of the default size and all messages of the environment about them."""
    pieces = terse_pieces()
    errors = [_DIALECT.render_invalid(e, feedback=f) for e in _INVALID for f in (False, True)]
    fixed = [
        *errors,
        "Nothing was found.",
        "The draft is right. The draft is an earlier step, not the answer. The draft is wrong. The answer is",
        "Everything needed has been found. Step 1 of 2 has not been found. Read",
    ]
    return Tokenizer.build(
        [*pieces["words"], *pieces["names"], *pieces["glued"], *pieces["heads"], *fixed], pieces["tails"]
    )


_INVALID = ("no_act", "several_acts", "empty_act", "nested_act", "feedback_off", "too_long")


def encode_parts(tokenizer: Tokenizer, parts: Sequence[Part]) -> Demo:
    """Encode parts as the tiny agent does: each part separately, after one start token."""
    tokens, mask = [tokenizer.bos_id], [0]
    for text, learned in parts:
        ids = tokenizer.encode(text) if learned else prompt_ids(tokenizer, text, first=False)
        tokens += ids
        mask += [int(learned)] * len(ids)
    return Demo(tokens, mask)


class Renaming:
    """Gives each demonstration names of its own, so that names cannot be memorised, only copied.

    Within each class of tokens (given names, surnames, places, title words, pairs of digits) the tokens of a
    demonstration are permuted at random, consistently throughout it. Ranks, relations, professions and
    all other tokens that the policy must understand stay. Without this the model memorises the worlds' names:
    it copied 92 % of the name tokens correctly in the worlds of its demonstrations and 84 % in others.

    Args:
        tokenizer: the tokenizer of the demonstrations.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._classes = [
            np.array(sorted({ids[0] for word in words if len(ids := tokenizer.encode(word)) == 1}))
            for words in name_classes()
        ]
        self._size = tokenizer.size

    def permutation(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """The new token of each token, under a new permutation."""
        renamed = np.arange(self._size)
        for ids in self._classes:
            renamed[ids] = generator.permutation(ids)
        return renamed

    def apply(self, demo: Demo, draw: random.Random) -> Demo:
        """The demonstration under a new permutation."""
        renamed = self.permutation(np.random.default_rng(draw.getrandbits(64)))
        return Demo(renamed[demo.tokens].tolist(), demo.mask)


class Library:
    """One generated world with its index, the source of demonstrations.

    Args:
        seed: seed of the world; 0, the default world, is refused because it must stay unseen.
        size: number of passages.
        questions: number of train questions to draw.

    Raises:
        ValueError: the seed is 0.
    """

    def __init__(self, seed: int, size: int = 5_000, questions: int = 2_000) -> None:
        if seed == 0:
            raise ValueError("world 0 is the default world: demonstrations must not show it")
        self.world = World(size=size, seed=seed, style="terse", train=questions, dev=0, test=0)
        self.questions = [q for q in self.world.questions("train") if can_demonstrate(q)]
        self._retriever = CachedRetriever(BM25.build(self.world), size=2**30)
        self._passages = self.world.passages
        queries = {hop.query for q in self.questions for hop in q.chain}
        self._retriever.search(sorted(queries), TOP_K)

    def search(self, query: str) -> list[Hit]:
        """The environment's hits for a query."""
        (result,) = self._retriever.search([query], TOP_K)
        if isinstance(result, RetrievalError):
            raise result
        return result

    def page(self, draw: random.Random) -> Hit:
        """A random passage."""
        passage = self._passages[draw.randrange(len(self._passages))]
        return Hit(passage.id, passage.title, passage.text, 0.0)


def can_demonstrate(question: Question) -> bool:
    """Whether `demonstrate` supports the question: one start (named, or described by its theme), then relations."""
    return question.type == "chain" or (question.type == "obscured" and "theme" in question.metadata["plan"])


def read_line(text: str) -> list[tuple[str, str]]:
    """The (relation, value) pairs of a terse passage."""
    pairs = [part.split(" ", 1) for part in text.split(" ; ")[1:]]
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _is_entity(value: str) -> bool:
    return value[:1].isupper() and " , " not in value


def _base(title: str) -> str:
    return title.partition(" (")[0]


# -- drills ---------------------------------------------------------------------------------------------------


def name_list(library: Library, draw: random.Random, tokenizer: Tokenizer) -> Demo:
    """Two to eight names, then the same shuffled; all tokens of a repeated name except the first are learned."""
    names = [library.page(draw).title for _ in range(draw.randint(2, 8))]
    line_break = tokenizer.encode("\n")
    tokens, mask = [tokenizer.bos_id], [0]
    for again in (0, 1):
        for name in draw.sample(names, len(names)):
            ids = tokenizer.encode(name) + line_break
            tokens += ids
            mask += [0] + [again] * (len(ids) - 1)
    return Demo(tokens, mask)


def lookup_drill(library: Library, draw: random.Random, tokenizer: Tokenizer, questions: int = 6) -> Demo:
    """One search result and several questions about its lines, the first line about as often as all others together."""
    page = library.page(draw)
    if draw.random() < 0.5:
        hits = library.search(page.title)
    else:
        hits = [page, *(library.page(draw) for _ in range(draw.randint(0, TOP_K - 1)))]
    parts = [Part(_DIALECT.render_hits(hits, _MAX_CHARS), False)]
    for _ in range(questions):
        rank = 0 if draw.random() < 0.4 else draw.randrange(len(hits))
        relation, value = draw.choice(read_line(hits[rank].text))
        if " , " in value:
            continue
        thought = f"{rank + 1} {relation} {value}"
        parts.append(Part(f"{hits[rank].title} : {relation} ?", False))
        parts.append(Part(_DIALECT.write(Act("answer", answer=value), thought), True))
    return encode_parts(tokenizer, parts)


# -- episodes -------------------------------------------------------------------------------------------------

FLAWS = ("stop", "slip", "overshoot", "repeat", "homonym", "feedback")
"""stop: answers one step early. slip: reads the relation next to the right one. overshoot: follows the answer's own
page and answers from it. repeat: sends the same query again. homonym: reads the line of the other entity with
that name. feedback: submits its value for feedback first."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How often a demonstration shows each flaw.

    Attributes:
        rate: probability of the context's flaw where `flaw_of` names one.
        homonym: probability of reading the wrong line where two lines share the name.
        feedback: probability of a feedback act after a lookup.
        mishap: probability per episode of a message that fails (not learned) and is then corrected (learned).
    """

    rate: float = 0.0
    homonym: float = 0.0
    feedback: float = 0.0
    mishap: float = 0.0


_LAST = (("slip", 30), ("overshoot", 25))
_EARLIER = (("stop", 22), ("slip", 22), ("repeat", 8))


def flaw_of(relation: str, last: bool, entity: bool) -> str | None:
    """The flaw of a context, from a fixed, arbitrary table that no single habit explains.

    Args:
        relation: the relation that the question asks for in this round.
        last: whether it is the question's last relation.
        entity: whether its value has a page.
    """
    ticket = zlib.crc32(f"{relation}/{last}".encode()) % 100
    for flaw, share in _LAST if last else _EARLIER:
        if ticket < share:
            return flaw if entity or flaw == "slip" else None
        ticket -= share
    return None


def demonstrate(
    question: Question,
    search: Callable[[str], Sequence[Hit]],
    draw: random.Random,
    habits: Habits = Habits(),
    max_rounds: int = 8,
) -> list[Part]:
    """Play one episode with perfect copying and the given habits.

    Args:
        question: one that `can_demonstrate` accepts.
        search: returns the hits of a query.
        draw: source of all randomness.
        habits: the flaws to show; by default none, and the last act is the right answer.
        max_rounds: the environment's budget; a longer episode ends without an answer.
    """
    return _Episode(question, search, draw, habits).play(max_rounds)


class _Episode:
    def __init__(
        self, question: Question, search: Callable[[str], Sequence[Hit]], draw: random.Random, habits: Habits
    ) -> None:
        self.question, self.search, self.draw, self.habits = question, search, draw, habits
        self.parts = [Part(question.text, False)]
        self.wanted = [hop.relation for hop in question.chain]
        self.hop = 0
        self.seen: dict[str, str] = {}
        self.query = ""
        self.hits: Sequence[Hit] = ()
        self.calm = False  # after a repeated search or feedback, the round shows no further flaw

    def play(self, max_rounds: int) -> list[Part]:
        if self.chance(self.habits.mishap):
            self.mishap()
        start = self.question.chain[0].query
        self.look_for(start, start)
        for _ in range(max_rounds):
            if self.round():
                return self.parts
        return self.parts

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.draw.random() < probability

    def round(self) -> bool:
        """Play one round that reads the newest hits; returns True after an answer."""
        line, confused = self.choose_line()
        facts = read_line(self.hits[line].text)
        last = self.hop == len(self.wanted) - 1
        found = dict(facts)
        if self.hop >= len(self.wanted) or self.wanted[self.hop] not in found:
            return self.give_up(line, facts)
        relation = self.wanted[self.hop]
        flaw = flaw_of(relation, last, _is_entity(found[relation]))
        if confused or self.calm or not self.chance(self.habits.rate):
            flaw = None
        if flaw == "slip":
            relation = _next_relation(facts, relation)
        value = found[relation]
        thought = f"{line + 1} {relation} {value}"
        if flaw == "repeat":
            self.calm = True
            self.look_for(self.query, thought)
            return False
        if not self.calm and self.chance(self.habits.feedback):
            self.calm = True
            self.ask_feedback(value, thought)
            return self.act_on(value, thought, last, None)
        return self.act_on(value, thought, last, flaw)

    def act_on(self, value: str, thought: str, last: bool, flaw: str | None) -> bool:
        if (last and flaw != "overshoot") or flaw == "stop" or not _is_entity(value):
            return self.answer(value, thought)
        self.hop += 1
        self.calm = False
        self.look_for(value, thought)
        return False

    def choose_line(self) -> tuple[int, bool]:
        wanted = self.query
        gold = {hop.passage_ids[0] for hop in self.question.chain if hop.query == wanted}
        right = next((i for i, hit in enumerate(self.hits) if hit.id in gold or hit.title == wanted), 0)
        others = [
            i
            for i, hit in enumerate(self.hits)
            if i != right and _base(hit.title) == _base(self.hits[right].title)
        ]
        if others and self.chance(self.habits.homonym):
            return others[0], True
        return right, False

    def give_up(self, line: int, facts: list[tuple[str, str]]) -> bool:
        """Answer with the first value on a page that does not have the relation the question asks for."""
        relation, value = next((pair for pair in facts if _is_entity(pair[1])), facts[0])
        return self.answer(value, f"{line + 1} {relation} {value}")

    def look_for(self, query: str, thought: str) -> None:
        self.say(Act("search", queries=(query,)), thought)
        self.query, self.hits = query, self.search(query)
        self.seen.update((hit.id, hit.title) for hit in self.hits)
        self.hear(_DIALECT.render_hits(self.hits, _MAX_CHARS))

    def answer(self, value: str, thought: str) -> bool:
        self.say(Act("answer", answer=value), thought)
        return True

    def ask_feedback(self, draft: str, thought: str) -> None:
        self.say(Act("feedback", draft=draft), thought)
        if self.draw.random() < 0.25:
            self.hear(_DIALECT.render_invalid("feedback_off", feedback=False))
            return
        level = self.draw.choice(FEEDBACK_LEVELS)
        pages = {
            hop.passage_ids[0]: Passage(hop.passage_ids[0], hop.query, "") for hop in self.question.chain
        }
        text = write_feedback(self.question, draft, self.seen, level, pages.__getitem__)
        self.hear(_DIALECT.render_feedback(text))

    def mishap(self) -> None:
        """A failed message before the first search; only what follows is learned."""
        error = self.draw.choice((*_INVALID, "nothing"))
        if error == "nothing":
            self.say(Act("search", queries=("theme",)), "theme", learned=False)
            self.hear(_DIALECT.render_hits((), _MAX_CHARS))
        else:
            self.parts.append(Part(f"<think> {self.question.chain[0].query} </think>", False))
            self.hear(_DIALECT.render_invalid(error, feedback=self.draw.random() < 0.5))

    def say(self, act: Act, thought: str, learned: bool = True) -> None:
        self.parts.append(Part(_DIALECT.write(act, thought), learned))

    def hear(self, observation: str) -> None:
        self.parts.append(Part(observation, False))


def _next_relation(facts: list[tuple[str, str]], relation: str) -> str:
    """The next relation in the line, without lists; the first follows the last."""
    names = [name for name, value in facts if " , " not in value or name == relation]
    return names[(names.index(relation) + 1) % len(names)]
