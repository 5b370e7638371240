"""Recompute the outcome of a saved episode from its raw messages and hits."""

from __future__ import annotations

import dataclasses

from ..dialects import get_dialect
from ..errors import EpisodeFileError
from ..records.episode import Episode, Outcome, StopReason
from ..scoring import DEFAULT_SEGMENTATION, recall, score_answer

__all__ = ["rescore"]


def rescore(episode: Episode) -> Outcome:
    """The outcome by the scorer of this version.

    The final message is parsed again and scored against the recorded gold answers; recall is computed from the
    recorded hits. Counters and the stop reason are facts of the run and are kept. The answer of an imported rollout is the one
    that was read from it: its messages are not in a dialect of this package.

    Args:
        episode: is not changed.

    Raises:
        UnknownIdError: the episode's dialect is unknown.
        EpisodeFileError: the record does not have what the scorer reads.
    """
    try:
        return _rescore(episode)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise EpisodeFileError(f"episode {episode.episode_id!r} cannot be rescored: {error!r}") from error


def _rescore(episode: Episode) -> Outcome:
    answer = ""
    if episode.imported:
        answer = episode.outcome.answer
    elif episode.outcome.stop_reason is StopReason.ANSWERED:
        dialect = get_dialect(episode.env["dialect"])
        act = dialect.parse(
            episode.rounds[-1].text,
            feedback=episode.env.get("feedback", "off") != "off",
            max_queries=episode.env.get("max_queries", 1),
        )
        answer = act.answer
    golds, segmentation = episode.gold["answers"], episode.env.get("segmentation", DEFAULT_SEGMENTATION)
    found = [hit.id for round_ in episode.rounds for hit in round_.hits]
    return dataclasses.replace(
        episode.outcome,
        answer=answer,
        recall=recall(found, episode.gold["supporting_ids"]),
        **score_answer(answer, golds, segmentation)._asdict(),
    )
