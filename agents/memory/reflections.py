"""Reflections: what went wrong in earlier trials of the same question. The memory of Reflexion.

Source: Shinn et al., Reflexion, arXiv 2303.11366 (from memory of the paper; its text was not at hand). A trial that fails is
followed by a self-critique in words, which the next trial of the same task reads; there is no gradient.

Departures:
1. [OURS] The critique is written by a rule from the episode: what was searched, what was answered, how it ended. It reads no gold
   data but the fact that the trial failed. `writer` puts a function of yours, e.g. one that asks a model, in its place.
2. The last three critiques of a question are kept, as in the paper's programming tasks.
3. A success removes the critiques of its question: what it reads next would be the same trial again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from searchgym.options import integer
from searchgym.records.episode import Episode

from .protocol import write_message

__all__ = ["Reflections", "critique"]


class Reflections:
    """Critiques of failed trials, by question; implements `Memory`.

    Args:
        last: critiques of one question that are kept and shown.
        writer: (episode) -> critique; default: `critique`.

    Raises:
        ConfigError: `last` is not a number of at least 1.
    """

    name = "reflections"

    def __init__(self, last: int = 3, writer: Callable[[Episode], str] | None = None) -> None:
        self._last = integer("last", last, 1, 100)
        self._writer = writer or critique
        self._critiques: dict[str, list[str]] = {}

    def observe(self, episode: Episode, scores: Sequence[float] | None = None) -> None:
        """See `Memory.observe`."""
        if not episode.valid_for_training:
            return
        if episode.outcome.em:
            self._critiques.pop(episode.question, None)
            return
        kept = self._critiques.setdefault(episode.question, [])
        kept.append(self._writer(episode))
        del kept[: -self._last]

    def recall(self, question: str, observation: str) -> str:
        """See `Memory.recall`: in the first round."""
        kept = self._critiques.get(question, [])
        if not kept or observation != question:
            return ""
        return "\n".join(["Earlier trials of this question failed:", *(f"- {text}" for text in kept)])

    def to_json(self) -> dict[str, Any]:
        """See `Memory.to_json`."""
        return {"critiques": self._critiques}

    def load_json(self, data: dict[str, Any]) -> None:
        """See `Memory.load_json`."""
        self._critiques = {str(q): [str(text) for text in texts] for q, texts in data["critiques"].items()}


def critique(episode: Episode) -> str:
    """What an agent could say of a failed trial of its own.

    Args:
        episode: the trial.
    """
    done = ", then ".join(write_message(episode, i) for i in range(len(episode.rounds)))
    if not episode.terminated:
        advice = "No answer was given in time: answer earlier."
    elif episode.outcome.searches == 0:
        advice = "Nothing was searched: search before you answer."
    else:
        advice = f"The answer was wrong: do not answer {episode.outcome.answer} again, and search for something else."
    return f"I did: {done}. {advice}"
