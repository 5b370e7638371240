"""What the end-to-end tests of adapters share: a small world, the messages of the oracle, a retriever that is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import searchgym
from searchgym.audit import audit
from searchgym.errors import RetrievalError
from searchgym.importing import import_rollouts

WORLD = {"name": "country", "size": 1000, "train": 200, "dev": 50, "test": 50}
ARGUMENTS: dict[str, Any] = {"corpus": WORLD, "top_k": 3}


class Down:
    """A retriever whose server does not answer."""

    name, index_hash = "down", "down"

    def search(self, queries: Any, k: int) -> Any:
        raise RetrievalError("connection refused by http://secret")


def oracle_messages(split: str, count: int, dialect: str = "tags") -> dict[str, list[str]]:
    """The oracle's messages for the first questions of a split, by task id; each answers its question."""
    episodes = searchgym.rollout("SearchQA-v0", "oracle", count, split=split, dialect=dialect, **ARGUMENTS)
    assert all(one.outcome is not None and one.outcome.em == 1 for one in episodes)
    return {one.task_id: [round_.text for round_ in one.rounds] for one in episodes}


def check_imported(file: Path) -> int:
    """Import a rollout file that another project wrote of right answers, and judge it.

    Args:
        file: played on questions of `WORLD`.

    Returns:
        The number of episodes.
    """
    corpus = searchgym.open_corpus(WORLD)
    imported = import_rollouts(file, corpus)
    assert not imported.skipped, imported.reasons
    for episode in imported.episodes:
        assert (episode.outcome.em, episode.outcome.recall) == (1.0, 1.0), episode
        assert episode.extra["recorded"].get("correct") in (True, None), episode
    judged = audit("rules", imported.episodes, corpus=corpus)
    assert (judged.compared, judged.errors) == (sum(len(one.rounds) for one in imported.episodes), 0), judged
    return len(imported.episodes)
