"""Reads a graph: triples from TSV, JSONL or Parquet, or the links of a corpus. The first bad row is refused.

| input | a row |
|---|---|
| `.tsv`, `.tsv.gz` | subject, relation, object, separated by tabs |
| `.jsonl`, `.jsonl.gz`, `.parquet` | `{"subject": …, "relation": …, "object": …}` |
| a corpus directory | a passage with `"links": [{"relation": …, "id": PASSAGE ID}, {"relation": …, "value": TEXT}]` |

Self-loops and repeated triples are dropped and counted. A link of a corpus is dropped and counted too if the text of its passage
does not contain the title or value it leads to: reading the passage would not show it.
"""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import CorpusError
from searchgym.records.question import Passage
from searchgym.scoring import contains_answer

from ..datasets.fields import Source, read_passage
from ..datasets.lines import MAX_LINE, SUFFIXES, Line, read_lines, shorten

__all__ = ["GRAPH_SUFFIXES", "Triples", "read_corpus_links", "read_labels", "read_triples"]

GRAPH_SUFFIXES = (".tsv", ".tsv.gz", *SUFFIXES)
"""The kinds of files that can hold triples."""
_MOVE = "Write subject, relation and object, separated by tabs."


@dataclass
class Triples:
    """A graph as columns of integers.

    Attributes:
        names: each node's name, as passages and questions word it.
        aliases: node -> further names, for nodes that have some.
        relations: each relation's name.
        subjects: node of each triple, int32; the triples are sorted by subject, relation and object.
        predicates: relation of each triple, int32.
        objects: node of each triple, int32.
        notes: how many rows were dropped, by reason.
        passages: node -> its passage, where the graph is the links of a corpus.
    """

    names: list[str]
    aliases: dict[int, tuple[str, ...]]
    relations: list[str]
    subjects: NDArray[np.int32]
    predicates: NDArray[np.int32]
    objects: NDArray[np.int32]
    notes: Counter[str] = field(default_factory=Counter[str])
    passages: dict[int, Passage] = field(default_factory=dict)


class _Names(dict[str, int]):
    """Numbers names in the order in which they are first asked for."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


class _Columns:
    """Triples as they are read."""

    def __init__(self) -> None:
        self.nodes, self.relations = _Names(), _Names()
        self.cells = array("i")

    def add(self, subject: str, relation: str, object_: str) -> None:
        nodes = self.nodes
        self.cells.extend((nodes[subject], self.relations[relation], nodes[object_]))

    def finish(
        self, place: Path, notes: Counter[str], renumbered: Sequence[int] = ()
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The sorted columns without self-loops and repeated triples.

        Args:
            place: the input, for the message of an error.
            notes: counts of what is dropped are added here.
            renumbered: the number of each relation in the result; as they are by default.
        """
        table = np.array(self.cells, np.int32).reshape(-1, 3)
        rows = len(table)
        if len(renumbered):
            table[:, 1] = np.asarray(renumbered, np.int32)[table[:, 1]]
        table = table[table[:, 0] != table[:, 2]]
        notes["self-loops: dropped"] += rows - len(table)
        # One integer per triple where that fits: sorting these is several times faster than sorting rows.
        sizes = len(self.nodes), max(1, len(self.relations))
        if sizes[0] ** 2 * sizes[1] < 2**63:
            keys = (table[:, 0].astype(np.int64) * sizes[1] + table[:, 1]) * sizes[0] + table[:, 2]
            unique = np.unique(keys)
            first, second, third = (
                unique // (sizes[0] * sizes[1]),
                unique // sizes[0] % sizes[1],
                unique % sizes[0],
            )
        else:
            first, second, third = np.unique(table, axis=0).astype(np.int64).T
        notes["repeated triples: dropped"] += len(table) - len(first)
        if not len(first):
            raise CorpusError(
                f"{place} contains no triple that joins two nodes: give at least one row of subject, relation and object"
            )
        return first.astype(np.int32), second.astype(np.int32), third.astype(np.int32)


def read_triples(file: Path, labels: Iterable[Path] = ()) -> Triples:
    """Read a file of triples.

    Args:
        file: see the head of this file.
        labels: files of names for the identifiers in it; see `read_labels`.

    Raises:
        CorpusError: the file cannot be read, or a row is bad; names file, row, reason and next move.
    """
    if not file.is_file() or not file.name.endswith(GRAPH_SUFFIXES):
        raise CorpusError(
            f"{file} is not a {', '.join(GRAPH_SUFFIXES)} file: give one of triples, or a corpus directory with links"
        )
    columns, notes = _Columns(), Counter[str]()
    tabular = file.name.endswith((".tsv", ".tsv.gz"))
    for row in _tsv_rows(file) if tabular else _object_rows(file):
        columns.add(*row)
    known: dict[str, tuple[str, ...]] = {}
    for one in labels:
        known |= read_labels(one, {*columns.nodes, *columns.relations})
    names = [known.get(name, (name,)) for name in columns.nodes]
    aliases = {node: worded[1:] for node, worded in enumerate(names) if len(worded) > 1}
    relations = _Names()  # two relations with one name are one: a question could not tell them apart
    numbers = [relations[known.get(name, (name,))[0]] for name in columns.relations]
    sorted_columns = columns.finish(file, notes, numbers)
    return Triples([worded[0] for worded in names], aliases, list(relations), *sorted_columns, notes)


def read_labels(file: Path, wanted: set[str]) -> dict[str, tuple[str, ...]]:
    """Names of identifiers, from a TSV file of rows "identifier, name, alias, alias, …".

    Args:
        file: `.tsv`, `.tsv.gz` or `.txt`; the form of Wikidata5M's files of entities and relations.
        wanted: identifiers to keep.

    Raises:
        CorpusError: the file cannot be read, or a row has no name.
    """
    found = {}
    for line, cells in _tsv_lines(file):
        if len(cells) < 2:
            raise line.error(
                "no name behind the identifier", "Write identifier and name, separated by a tab."
            )
        if cells[0] in wanted:
            found[cells[0]] = tuple(dict.fromkeys(cells[1:]))
    return found


def read_corpus_links(file: Path) -> Triples:
    """Read a corpus's passages and the links between them.

    Args:
        file: the file of passages.

    Raises:
        CorpusError: a row is bad, or no passage has a link.
    """
    source, notes = Source(file), Counter[str]()
    passages: dict[str, Passage] = {}
    links: list[tuple[str, list[tuple[str, str, bool]]]] = []
    linked = False
    for line in read_lines(file):
        passage = read_passage(line, source, Counter())
        assert passage is not None  # only published files have passages to skip
        if passage.id in passages:
            raise line.error(f"id {shorten(passage.id)} was already used", "Give each line its own id.")
        passages[passage.id] = passage
        entries = line.get("links", list, [])
        linked |= bool(entries)
        links.append((passage.id, [_read_link(line, entry) for entry in entries]))
    if not linked:
        raise CorpusError(
            f'{file} has no passage with links: add "links": [{{"relation": …, "id": …}}] to its passages, or give triples'
        )
    columns = _Columns()
    for id in passages:  # so that a node of a passage has the number of the passage
        columns.nodes[f"p{id}"]
    for id, entries in links:
        for relation, target, is_passage in entries:
            if is_passage and target not in passages:
                raise CorpusError(
                    f"{file}: passage {id!r} links to {target!r}, which is not the id of a passage. Add it, or remove the link"
                )
            worded = passages[target].title if is_passage else target
            if worded and contains_answer(passages[id].text, worded):
                columns.add(f"p{id}", relation, f"{'p' if is_passage else 'v'}{target}")
            else:
                notes["links to what the passage does not mention: dropped"] += 1
    sorted_columns = columns.finish(file, notes)
    order = list(passages.values())
    names = [order[node].title if node < len(order) else key[1:] for node, key in enumerate(columns.nodes)]
    return Triples(names, {}, list(columns.relations), *sorted_columns, notes, dict(enumerate(order)))


def _read_link(line: Line, entry: Any) -> tuple[str, str, bool]:
    """(relation, target, whether the target is a passage) of one link."""
    if not isinstance(entry, dict):
        raise line.error(f"field 'links' contains {shorten(entry)}", 'Write {"relation": …, "id": …}.')
    link = Line(line.file, line.number, entry)
    is_passage = not link.lacks("id")
    if is_passage == (not link.lacks("value")):
        raise line.error(
            f"a link is {shorten(entry)}",
            'Give it either "id", a passage, or "value", a text, and "relation".',
        )
    return link.text("relation").strip(), link.text("id" if is_passage else "value").strip(), is_passage


def _object_rows(file: Path) -> Iterator[tuple[str, str, str]]:
    for line in read_lines(file):
        yield (line.text("subject").strip(), line.text("relation").strip(), line.text("object").strip())


def _tsv_rows(file: Path) -> Iterator[tuple[str, str, str]]:
    for line, cells in _tsv_lines(file):
        if len(cells) != 3:
            raise line.error(f"{len(cells)} columns, not 3", _MOVE)
        yield cells[0], cells[1], cells[2]


def _tsv_lines(file: Path) -> Iterator[tuple[Line, list[str]]]:
    """The rows of a TSV file, with stripped cells that are not blank."""
    number = 0
    try:
        with _open(file) as stream:
            while raw := stream.readline(MAX_LINE + 1):
                number += 1
                line = Line(file, number, {})
                if len(raw) > MAX_LINE:
                    raise line.error(f"longer than {MAX_LINE:,} bytes", "Check that the file has line ends.")
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise line.error(
                        f"not UTF-8 (byte 0x{raw[error.start]:02x})", "Save the file as UTF-8."
                    ) from None
                cells = [cell.strip() for cell in text.split("\t")]
                if "" in cells:
                    raise line.error("a column is empty" if len(cells) > 1 else "empty", _MOVE)
                yield line, cells
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Line(file, number + 1, {}).error(
            f"the compressed data ends or is damaged here ({error})", "Copy the file again."
        ) from None
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}. Check the path.") from None


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]
