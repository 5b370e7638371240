"""A world as a corpus: passages computed on demand, questions drawn once and cached."""

from __future__ import annotations

import hashlib
import inspect
import json
import operator
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import integer
from searchgym.records.question import Hop, Passage, Question

from ..indexing.cache import cached_directory
from .drawing import DEFAULT, HARD, draw_plans
from .facts import Country, Entity, Value, aliases
from .plans import Plan, Step
from .prose import Prose
from .terse import Terse

__all__ = ["SPLITS", "World", "open_country", "open_country_hard", "open_country_terse", "write_world"]

VERSION = 2
"""Part of every digest; increased whenever any passage or question of any world changes."""
SPLITS = {"train": 2_000, "dev": 600, "test": 600}
_HOMONYMS, _HARD_HOMONYMS = 0.15, 0.40
_ID_DIGITS = 8
_SAMPLE = 64  # passages that enter the corpus hash


class _Passages(Sequence[Passage]):
    """All passages of a world in the order of their ids, each computed on access."""

    def __init__(self, country: Country, style: Prose | Terse) -> None:
        self._country, self._style = country, style

    def __len__(self) -> int:
        return self._country.size

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"passage {index} of {len(self)}")
        entity = self._country.at(position)
        return Passage(passage_id(position), entity.title, self._style.text(entity))


def passage_id(position: int) -> str:
    """The id of the passage at a position, zero-padded so that the order of ids is that of positions."""
    return f"{position:0{_ID_DIGITS}d}"


class World:
    """The generated encyclopedia of a fictional country, a `searchgym.Corpus`.

    Args:
        size: number of passages, 1,000 to 10,000,000.
        seed: any integer; another seed gives another country.
        style: "encyclopedia" (paragraphs of 20-100 words) or "terse" (lines of 15-25 short pieces). Both have the same
            facts, question ids and answers.
        hard: questions of 3-4 hops only, and more homonyms.
        train: questions of the split train.
        dev: questions of the split dev.
        test: questions of the split test.

    Raises:
        ConfigError: an argument out of range, or more questions than a world of this size has.
    """

    description = "an encyclopedia"

    def __init__(
        self,
        size: int = 5_000,
        seed: int = 0,
        style: str = "encyclopedia",
        hard: bool = False,
        train: int = SPLITS["train"],
        dev: int = SPLITS["dev"],
        test: int = SPLITS["test"],
    ) -> None:
        if style not in _STYLES:
            raise UnknownIdError("style", style, _STYLES)
        for split, count in (("train", train), ("dev", dev), ("test", test)):
            integer(f"number of {split} questions", count, 0)
        self.country = Country(size, seed, _HARD_HOMONYMS if hard else _HOMONYMS)
        self._counts = {"train": train, "dev": dev, "test": test}
        self._profile = HARD if hard else DEFAULT
        self._style_name, self._hard = style, hard
        self._style = _STYLES[style](self.country)
        self.name = self._profile.name + ("-terse" if style == "terse" else "")
        self.hash = self._digest()

    def __reduce__(self) -> tuple[Any, ...]:
        c = self._counts
        arguments = (self.country.size, self.country.seed, self._style_name, self._hard)
        return World, (*arguments, c["train"], c["dev"], c["test"])

    def _digest(self) -> str:
        # The arguments determine every passage; the sample detects a change of the code without a new `VERSION`.
        c, passages = self.country, self.passages
        described: list[Any] = [VERSION, c.size, c.seed, c.homonyms, self._style_name]
        for i in range(_SAMPLE):
            p = passages[i * c.size // _SAMPLE]
            described.append([p.id, p.title, p.text])
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]

    @property
    def passages(self) -> Sequence[Passage]:
        """All passages, ordered by id, each computed on access (tens of microseconds)."""
        return _Passages(self.country, self._style)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have questions."""
        return tuple(split for split, count in self._counts.items() if count)

    def questions(self, split: str) -> Sequence[Question]:
        """The questions of one split, in a fixed order that mixes kinds and lengths; raises `UnknownIdError`."""
        if split not in self.splits:
            raise UnknownIdError("split", split, self.splits)
        return self._questions[split]

    def question(self, task_id: str) -> Question:
        """One question of any split; raises `UnknownIdError`."""
        found = self._by_id.get(task_id)
        if found is None:
            raise UnknownIdError("task id", task_id, self._by_id)
        return found

    # -- questions -----------------------------------------------------------------------------------------

    @cached_property
    def _by_id(self) -> dict[str, Question]:
        return {q.id: q for questions in self._questions.values() for q in questions}

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        key = {"corpus": self.hash, "counts": dict(self._counts), "format": VERSION}
        directory = cached_directory("world-questions", key, self._build)
        questions: dict[str, list[Question]] = {split: [] for split in self.splits}
        with open(directory / "questions.jsonl", encoding="utf-8") as file:
            for line in file:
                question = _from_row(json.loads(line))
                questions[question.split].append(question)
        return questions

    def _build(self, directory: Path) -> None:
        with open(directory / "questions.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for question in self._drawn():
                file.write(json.dumps(_to_row(question), ensure_ascii=False, separators=(",", ":")) + "\n")

    def _drawn(self) -> list[Question]:
        drawn: dict[str, list[tuple[int, Plan, list[Step], Value]]] = {s: [] for s in self._counts}
        for split, number, plan, steps, answer in draw_plans(self.country, self._profile, self._counts):
            drawn[split].append((number, plan, steps, answer))
        questions = []
        for split, wanted in self._counts.items():
            if len(drawn[split]) < wanted:
                raise ConfigError(
                    f"a world of {self.country.size:,} passages has only {len(drawn[split]):,} of the {wanted:,} "
                    f"{split} questions requested: request fewer, or use a larger world"
                )
            prefix = f"{self._profile.name}-{self.country.seed}-{split}"
            for i, (number, plan, steps, answer) in enumerate(sorted(drawn[split], key=lambda row: row[0])):
                questions.append(self._question(f"{prefix}-{i:06d}", split, number, plan, steps, answer))
        return questions

    def _question(
        self, id_: str, split: str, number: int, plan: Plan, steps: list[Step], answer: Value
    ) -> Question:
        style, position = self._style, self.country.position
        chain = []
        for i, step in enumerate(steps):
            described = plan.theme and i == 0
            chain.append(
                Hop(
                    style.theme_query(plan) if described else style.query(step.entity),
                    step.relation.name,
                    (passage_id(position(step.entity)),),
                    style.bridge(step.relation, step.value),
                )
            )
        answers = _answers(answer, steps[-1] if plan.path and not plan.compare else None)
        return Question(
            id=id_,
            text=style.question(plan, number),
            answers=answers,
            split=split,
            type=plan.kind,
            hops=len(steps),
            supporting_ids=tuple(hop.passage_ids[0] for hop in chain),
            chain=tuple(chain),
            metadata={"plan": plan.to_json()},
        )


_UNITS = {
    "area": ("square kilometres", "km2"),
    "length": ("kilometres", "km"),
    "height": ("metres", "m"),
    "population": ("people", "inhabitants"),
}


def _answers(value: Value, last: Step | None) -> tuple[str, ...]:
    """The accepted answers, the same in every rendering."""
    if isinstance(value, Entity):
        return tuple(dict.fromkeys((value.title, *aliases(value))))
    assert isinstance(value, int)
    plain, spaced = str(value), f"{value:,}"
    units = _UNITS.get(last.relation.name, ()) if last else ()
    if not units:
        return (plain,)
    return tuple(dict.fromkeys((plain, spaced, *(f"{n} {unit}" for unit in units for n in (plain, spaced)))))


def _to_row(q: Question) -> list[Any]:
    chain = [[h.query, h.relation, list(h.passage_ids), h.bridge] for h in q.chain]
    return [q.id, q.text, list(q.answers), q.split, q.type, q.hops, list(q.supporting_ids), chain, q.metadata]


def _from_row(row: list[Any]) -> Question:
    id_, text, answers, split, kind, hops, ids, chain, metadata = row
    steps = tuple(Hop(query, relation, tuple(pages), bridge) for query, relation, pages, bridge in chain)
    return Question(id_, text, tuple(answers), split, kind, hops, tuple(ids), steps, metadata)


# -- entry points -------------------------------------------------------------------------------------------

_STYLES: Mapping[str, type[Prose] | type[Terse]] = {"encyclopedia": Prose, "terse": Terse}


_OPTIONS = ("size", "seed", "train", "dev", "test")
_Opener = TypeVar("_Opener", bound=Callable[..., "World"])


def _takes_world_options(function: _Opener) -> _Opener:
    """Show the options, which are arguments of `World`, in the signature of an entry point."""
    arguments = inspect.signature(World).parameters
    shown = [arguments[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in _OPTIONS]
    function.options_class = World  # type: ignore[attr-defined]
    function.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return function


@_takes_world_options
def open_country(**options: Any) -> World:
    """A generated encyclopedia of a fictional country.

    The entry point `country` of `searchgym.corpora`.
    """
    return _open("country", {"style": "encyclopedia"}, options)


@_takes_world_options
def open_country_terse(**options: Any) -> World:
    """The same facts and questions as `country`, in terse lines.

    The entry point `country-terse` of `searchgym.corpora`.
    """
    return _open("country-terse", {"style": "terse"}, options)


@_takes_world_options
def open_country_hard(**options: Any) -> World:
    """The generated encyclopedia with questions of 3-4 hops and more homonyms.

    The entry point `country-hard` of `searchgym.corpora`.
    """
    return _open("country-hard", {"style": "encyclopedia", "hard": True}, options)


def _open(name: str, fixed: dict[str, Any], options: dict[str, Any]) -> World:
    for option in options:
        if option not in _OPTIONS:
            raise UnknownIdError(f"option of the corpus {name!r}", option, _OPTIONS)
    return World(**fixed, **options)


def write_world(directory: str | Path, **options: Any) -> Path:
    """Write a world to disk as `passages.jsonl` and `questions.jsonl`, one passage at a time.

    Memory use does not grow with the size. The files are written to a temporary directory next to `directory`, which is
    renamed at the end: the directory is complete or absent.

    Args:
        directory: the directory; absent or empty.
        **options: the arguments of `World`.

    Returns:
        The directory.

    Raises:
        ConfigError: the directory is not empty, or a bad option.
    """
    world = World(**options)
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is not an empty directory: name another one for the world")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with open(temporary / "questions.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for split in world.splits:
                for q in world.questions(split):
                    file.write(json.dumps(_record(q), ensure_ascii=False) + "\n")
        with open(temporary / "passages.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for p in world.passages:
                row = {"id": p.id, "title": p.title, "text": p.text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _record(q: Question) -> dict[str, Any]:
    return {
        "id": q.id,
        "question": q.text,
        "answers": list(q.answers),
        "supporting_ids": list(q.supporting_ids),
        "hops": q.hops,
        "type": q.type,
        "split": q.split,
        "chain": [
            {"query": h.query, "relation": h.relation, "passage_ids": list(h.passage_ids), "bridge": h.bridge}
            for h in q.chain
        ],
        "metadata": dict(q.metadata),
    }
