"""What was imported, per source: agreement with what the records say, and what the searches returned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..records.episode import Episode
from ..records.retriever import Hit
from ..scoring import normalize_answer
from .rollouts import Imported

__all__ = ["SourceReport", "new_gold_rounds", "report"]


@dataclass(slots=True)
class SourceReport:
    """Counts of one source; a pair "x_of" is what x is a part of.

    Attributes:
        source, format: as the rows say.
        rows, imported: rows in the file, and episodes made of them.
        rounds, searches: of the imported episodes; parallel calls are one round.
        searches_agree, searches_agree_of: rows where as many queries were found as recorded.
        answers_agree, answers_agree_of: rows where the same answer was found as recorded, after normalisation.
        em_agree, em_agree_of: rows where exact match by this scorer says what the authors' verdict says.
        matched: episodes whose question the corpus has.
        matched_searches, new_gold: their search rounds, and those that returned a gold passage not returned before.
        answer_searches, new_answer: search rounds of all episodes whose gold answer is more than yes or no, and
            those that were the episode's first to return a text with it.
    """

    source: str
    format: str
    rows: int = 0
    imported: int = 0
    rounds: int = 0
    searches: int = 0
    searches_agree: int = 0
    searches_agree_of: int = 0
    answers_agree: int = 0
    answers_agree_of: int = 0
    em_agree: int = 0
    em_agree_of: int = 0
    matched: int = 0
    matched_searches: int = 0
    new_gold: int = 0
    answer_searches: int = 0
    new_answer: int = 0

    @property
    def new_gold_share(self) -> float | None:
        """Share of search rounds that returned a new gold passage; None where no question was matched."""
        return self.new_gold / self.matched_searches if self.matched_searches else None

    @property
    def new_answer_share(self) -> float | None:
        """Share of search rounds that were the first to return the answer's words; None without searches."""
        return self.new_answer / self.answer_searches if self.answer_searches else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, shares included."""
        return {
            **asdict(self),
            "new_gold_share": self.new_gold_share,
            "new_answer_share": self.new_answer_share,
        }


def report(imported: Imported) -> list[SourceReport]:
    """One report per source, in the order of the file."""
    reports: dict[str, SourceReport] = {}
    for episode in imported.episodes:
        recorded = episode.extra["recorded"]
        one = reports.setdefault(recorded["source"], SourceReport(recorded["source"], recorded["format"]))
        _count(one, episode, recorded)
    for skipped in imported.skipped:
        reports.setdefault(skipped.source, SourceReport(skipped.source, skipped.format)).rows += 1
    return list(reports.values())


def _count(one: SourceReport, episode: Episode, recorded: dict[str, Any]) -> None:
    one.rows += 1
    one.imported += 1
    one.rounds += len(episode.rounds)
    one.searches += episode.outcome.searches
    if recorded.get("searches") is not None:
        one.searches_agree_of += 1
        one.searches_agree += recorded["searches"] == episode.outcome.searches
    if "predicted" in recorded:
        one.answers_agree_of += 1
        predicted = recorded["predicted"] or ""
        one.answers_agree += normalize_answer(predicted) == normalize_answer(episode.outcome.answer)
    if recorded["correct"] is not None:
        one.em_agree_of += 1
        one.em_agree += recorded["correct"] == bool(episode.outcome.em)
    asked = sum(r.action.kind == "search" for r in episode.rounds)
    if episode.gold["supporting_ids"]:
        one.matched += 1
        one.matched_searches += asked
        one.new_gold += len(new_gold_rounds(episode))
    keys = [normalize_answer(a) for a in episode.gold["answers"]]
    keys = [key for key in keys if key not in ("", "yes", "no")]
    if keys:
        one.answer_searches += asked
        one.new_answer += any(_holds(r.hits, keys) for r in episode.rounds)


def new_gold_rounds(episode: Episode) -> list[int]:
    """The rounds (from 0) that returned a gold passage which no earlier round had returned."""
    gold, seen, found = set(episode.gold["supporting_ids"]), set[str](), []
    for index, round_ in enumerate(episode.rounds):
        new = gold.intersection(hit.id for hit in round_.hits) - seen
        seen |= new
        if new:
            found.append(index)
    return found


def _holds(hits: Iterable[Hit], keys: list[str]) -> bool:
    texts = [f" {normalize_answer(h.title)} {normalize_answer(h.text)} " for h in hits]
    return any(f" {key} " in text for text in texts for key in keys)
