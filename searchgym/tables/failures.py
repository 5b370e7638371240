"""Why an episode failed: one cause for each episode without an exact match.

The causes are tried in the order of `CAUSES`; the first that applies is the episode's. All are read from the record, so that
an old file can be analysed without its environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import EpisodeFileError, SearchGymError
from ..records.episode import Episode, StopReason
from ..scoring import DEFAULT_SEGMENTATION, contains_answer, exact_match

__all__ = ["CAUSES", "INFRASTRUCTURE", "cause_of", "named"]

INFRASTRUCTURE = "infrastructure"

CAUSES = {
    INFRASTRUCTURE: "the retriever, the agent or a judge that the reward needs failed, or the episode was aborted; it is not scored",
    "malformed_act": "no answer; the last message, or at least half of all messages, was not a valid act",
    "budget": "no answer; a budget of rounds, searches, characters or tokens was spent on valid acts",
    "no_gold_retrieved": "a wrong answer; no gold passage was retrieved",
    "wrong_hop": "a wrong answer; only some gold passages were retrieved, or the answer is that of an earlier hop",
    "gold_not_used": "a wrong answer, although every gold passage was retrieved",
}
"""Each cause with its definition."""


@contextmanager
def named(episode: Episode) -> Iterator[None]:
    """Reports what a record of a foreign tool does not have, with the id of the episode.

    Args:
        episode: what the block reads.

    Raises:
        EpisodeFileError: in place of the error of a missing or wrong value.
    """
    try:
        yield
    except SearchGymError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise EpisodeFileError(
            f"episode {episode.episode_id!r} lacks what is read from it ({error!r}): use a file that searchgym wrote"
        ) from error


def cause_of(episode: Episode) -> str:
    """The cause of an episode's failure; "" for an exact match, and for a query that is the episode and found a gold passage.

    Where the gold passages are unknown (`gold["supporting_ids"]` is empty), a passage that contains a gold answer counts as
    all of them.

    Args:
        episode: the record.

    Returns:
        A key of `CAUSES`, or "".
    """
    outcome = episode.outcome
    if outcome.stop_reason.is_failure or episode.lost:
        return INFRASTRUCTURE
    if outcome.em >= 1.0:
        return ""
    if outcome.stop_reason is StopReason.QUERIED:
        if not episode.outcome.searches:
            return "malformed_act"
        return "" if _gold_found(episode)[0] else "no_gold_retrieved"
    if outcome.stop_reason is not StopReason.ANSWERED:
        return "malformed_act" if _is_malformed(episode) else "budget"
    found, needed = _gold_found(episode)
    if not found:
        return "no_gold_retrieved"
    return "wrong_hop" if found < needed or _answers_earlier_hop(episode) else "gold_not_used"


def _is_malformed(episode: Episode) -> bool:
    kinds = [record.action.kind for record in episode.rounds if record.action.kind != "none"]
    return bool(kinds) and (kinds[-1] == "invalid" or 2 * kinds.count("invalid") >= len(kinds))


def _gold_found(episode: Episode) -> tuple[int, int]:
    """How many gold passages were retrieved, and how many there are."""
    hits = [hit for record in episode.rounds for hit in record.hits]
    if gold := set(episode.gold.get("supporting_ids", ())):
        return len(gold.intersection(hit.id for hit in hits)), len(gold)
    segmentation = episode.env.get("segmentation", DEFAULT_SEGMENTATION)
    texts = {f"{hit.title}\n{hit.text}" for hit in hits}
    answers = episode.gold.get("answers", ())
    return int(any(contains_answer(text, gold, segmentation) for text in texts for gold in answers)), 1


def _answers_earlier_hop(episode: Episode) -> bool:
    bridges = [hop["bridge"] for hop in episode.gold.get("chain", ())[:-1]]
    return exact_match(episode.outcome.answer, bridges) == 1.0
