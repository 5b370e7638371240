"""Makes a corpus directory of a graph: passages, questions with gold paths, and a card that says what was dropped."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, CorpusError
from searchgym.options import checks
from searchgym.records.question import Passage, Question

from ..datasets.jsonl import find_passages
from ..indexing.backend import Progress, quiet
from ..indexing.cache import output_directory
from .index import Graph
from .triples import Triples, read_corpus_links, read_triples
from .walks import Walk, Walker
from .wording import passages_of, question_of

__all__ = ["WalkOptions", "questions_from_graph"]

_FORMAT = 1
_SHOWN = 500  # questions between two reports of progress


@dataclass(frozen=True)
class WalkOptions:
    """How many questions are drawn, and of which kind.

    Attributes:
        train: questions of the split train.
        dev: questions of the split dev.
        test: questions of the split test.
        hops: the least and the most hops of a question.
        obscure: whether a question states classes of values (a decade, an initial) where these identify its start.
        seed: any integer; equal seeds give equal questions.

    Raises:
        ConfigError: a value out of range.
    """

    train: int = 1000
    dev: int = 100
    test: int = 100
    hops: tuple[int, int] = (5, 9)
    obscure: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, count in self.splits.items():
            checks.integer(f"number of {name} questions", count, 0)
        if not sum(self.splits.values()):
            raise ConfigError("train, dev and test are 0: request at least one question")
        low, high = self.hops
        checks.integer("least number of hops", low, 1, 20)
        checks.integer("largest number of hops", high, low, 20)
        checks.boolean("obscure", self.obscure)
        checks.integer("seed", self.seed)

    @property
    def splits(self) -> dict[str, int]:
        """Split -> its number of questions."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def questions_from_graph(
    graph: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: WalkOptions | None = None,
    *,
    labels: Iterable[str | os.PathLike[str]] = (),
    progress: Progress = quiet,
) -> Path:
    """Make a corpus of questions whose answers are reached by walking through a graph.

    No two questions start from one node. See `walks` for what makes a question unique, and docs/from-graph.md.

    Args:
        graph: a file of triples, or a corpus directory whose passages have links; see `triples`.
        out: a directory, absent or empty; it appears when it is complete.
        options: how many questions of which kind.
        labels: files of names for the identifiers of the triples; see `triples.read_labels`.
        progress: called as (phase, questions so far, questions).

    Returns:
        The directory: `passages.jsonl`, `questions.jsonl`, `card.json` and its manifest.

    Raises:
        CorpusError: a bad row, or the graph has too few walks; says how many it has. Nothing is left.
        ConfigError: an option out of range, or a directory with other content.
    """
    place = Path(graph).expanduser().resolve()
    options = options or WalkOptions()
    names = [Path(one).expanduser().resolve() for one in labels]
    source = find_passages(place).file if place.is_dir() else place
    if source != place and names:
        raise ConfigError(
            "labels name the identifiers of triples: a corpus with links has titles, leave them out"
        )
    files = [_facts(file) for file in (source, *names)]
    key = {
        "format": _FORMAT,
        "files": files,
        "options": {**dataclasses.asdict(options), "hops": list(options.hops)},
    }

    def build(work: Path) -> None:
        triples = read_triples(place, names) if source == place else read_corpus_links(source)
        index = Graph(triples)
        walks = _draw(place, index, options, progress)
        ids = _write_passages(work / "passages.jsonl", index)
        _write(work / "questions.jsonl", map(_question_row, _questions(index, walks, ids, options)))
        card = {
            "source": place.name,
            "options": key["options"],
            "passages": len(ids),
            **_counts(triples, walks),
        }
        (work / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")

    return output_directory(Path(out), "graph", key, build)


def _facts(file: Path) -> list[Any]:
    try:
        found = file.stat()
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}. Check the path.") from None
    return [str(file), found.st_size, found.st_mtime_ns]


def _draw(place: Path, graph: Graph, options: WalkOptions, progress: Progress) -> list[Walk]:
    """As many walks as the options request."""
    wanted = sum(options.splits.values())
    walker = Walker(graph, options.hops, options.obscure, options.seed)
    walks: list[Walk] = []
    for walk in islice(walker.walks(), wanted):
        walks.append(walk)
        if len(walks) % _SHOWN == 0 or len(walks) == wanted:
            progress("questions", len(walks), wanted)
    low, high = options.hops
    if len(walks) == wanted:
        return walks
    if walker.longest < low:
        raise CorpusError(
            f"{place} has no walk of {low} hops without a shortcut, the longest that was found has {walker.longest}: "
            "request fewer hops, or give a graph with longer paths"
        )
    raise CorpusError(
        f"{place} gave {len(walks):,} of {wanted:,} questions: other starts have no walk of {low} to {high} hops with a "
        "unique question. Request fewer questions or fewer hops, or give a graph with more attributes"
    )


def _questions(
    graph: Graph, walks: list[Walk], ids: dict[int, str], options: WalkOptions
) -> Iterator[Question]:
    remaining = iter(walks)
    for split, count in options.splits.items():
        for number, walk in enumerate(islice(remaining, count)):
            yield question_of(graph, walk, ids, f"walk-{split}-{number:06d}", split)


def _write_passages(file: Path, graph: Graph) -> dict[int, str]:
    """Write the passages; returns the id of each node's passage."""
    given = graph.triples.passages
    ids: dict[int, str] = {}

    def rows() -> Iterator[dict[str, Any]]:
        passages: Iterable[tuple[int, Passage]] = given.items() if given else passages_of(graph)
        for node, passage in passages:
            ids[node] = passage.id
            yield {"id": passage.id, "title": passage.title, "text": passage.text}

    _write(file, rows())
    return ids


def _question_row(question: Question) -> dict[str, Any]:
    row = dataclasses.asdict(question)
    row["question"] = row.pop("text")
    return row


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _counts(triples: Triples, walks: list[Walk]) -> dict[str, Any]:
    hops: dict[int, int] = {}
    for walk in walks:
        hops[len(walk.steps)] = hops.get(len(walk.steps), 0) + 1
    exact = sum(one.exact for walk in walks for one in walk.description)
    return {
        "triples": len(triples.subjects),
        "nodes": len(triples.names),
        "relations": len(triples.relations),
        "notes": {reason: count for reason, count in triples.notes.items() if count},
        "questions": len(walks),
        "questions_by_hops": {str(count): hops[count] for count in sorted(hops)},
        "constraints_per_description": sum(len(walk.description) for walk in walks) / len(walks),
        "exact_share_of_constraints": exact / sum(len(walk.description) for walk in walks),
    }
