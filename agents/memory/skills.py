"""A skill bank: general skills, skills for a kind of question, and common mistakes. The memory of SkillRL.

Source: SkillRL, arXiv 2602.08234, and its code, aiming-lab/SkillRL at 48c8446, as summarised by a third party. The six most
fitting skills are put into the prompt; where success is below 0.4, at most three new skills are distilled from the episodes.

Departures:
1. [OURS] Skills are written by rules: of successes, where each query was taken from; of failures, advice by their cause
   (`searchgym.tables.failures`, which reads gold data, in training only). The paper asks a model; `writer` puts yours in their place.
2. [OURS] Skills are ranked by the words that their questions share with the new one. The paper uses templates or an embedding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from searchgym.options import integer
from searchgym.records.episode import Episode
from searchgym.tables.failures import cause_of

from ..passages import FUNCTION_WORDS, contains_phrase

__all__ = ["Skill", "SkillBank", "write_skills"]

_WORD = re.compile(r"\w+")
_NEW = 3  # skills that one update adds at most, as in the paper
_ADVICE = {
    "malformed_act": "Write exactly one search or one answer in a message.",
    "budget": "Answer before the rounds are used up.",
    "no_gold_retrieved": "Search for a name in the question, not for the whole question.",
    "wrong_hop": "Do not stop at a page in between: follow every relation of the question to the end.",
    "gold_not_used": "The answer stood in a result: read the newest result again before you answer.",
}


@dataclass(frozen=True, slots=True)
class Skill:
    """One entry of the bank.

    Attributes:
        kind: "general", "task" or "mistake".
        text: the advice.
        question: a question that it came from; "" for general ones.
    """

    kind: Literal["general", "task", "mistake"]
    text: str
    question: str = ""


_GENERAL = (
    Skill("general", "Search for one fact at a time, and use what was found for the next search."),
    Skill("general", "Answer only with what stands in a result."),
)


class SkillBank:
    """Skills, shown with the question; implements `Memory`.

    Args:
        top: skills shown at most.
        size: skills of questions and mistakes kept at most; the oldest go first.
        writer: (episodes) -> skills; default: `write_skills`.

    Attributes:
        skills: the bank, the oldest first.

    Raises:
        ConfigError: an argument out of range.
    """

    name = "skills"

    def __init__(
        self,
        top: int = 6,
        size: int = 100,
        writer: Callable[[Sequence[Episode]], Sequence[Skill]] | None = None,
    ) -> None:
        self._top, self._size = integer("top", top, 1, 100), integer("size", size, 1, 10_000)
        self._writer = writer or write_skills
        self.skills: list[Skill] = list(_GENERAL)

    def observe(self, episode: Episode, scores: Sequence[float] | None = None) -> None:
        """See `Memory.observe`; `update` looks at several episodes at once."""
        self.update([episode])

    def update(self, episodes: Sequence[Episode]) -> int:
        """Distil skills from episodes; returns how many are new, at most three.

        Args:
            episodes: those lost to infrastructure are ignored.
        """
        known = {skill.text for skill in self.skills}
        found = self._writer([episode for episode in episodes if episode.valid_for_training])
        new = list({skill.text: skill for skill in found if skill.text not in known}.values())[:_NEW]
        general = [skill for skill in self.skills if skill.kind == "general"]
        learned = [skill for skill in (*self.skills, *new) if skill.kind != "general"]
        self.skills = general + [s for s in new if s.kind == "general"] + learned[-self._size :]
        return len(new)

    def recall(self, question: str, observation: str) -> str:
        """See `Memory.recall`: in the first round."""
        if observation != question:
            return ""
        words = _words(question)
        ranked = sorted(
            enumerate(self.skills),
            key=lambda entry: (
                entry[1].kind != "general",
                -len(words & _words(entry[1].question)),
                -entry[0],
            ),
        )
        shown = [skill for _, skill in ranked[: self._top]]
        marks = {"general": "", "task": "", "mistake": "Avoid: "}
        return "\n".join(["Skills:", *(f"- {marks[skill.kind]}{skill.text}" for skill in shown)])

    def to_json(self) -> dict[str, Any]:
        """See `Memory.to_json`."""
        return {"skills": [asdict(skill) for skill in self.skills]}

    def load_json(self, data: dict[str, Any]) -> None:
        """See `Memory.load_json`."""
        self.skills = [Skill(**fields) for fields in data["skills"]]


def write_skills(episodes: Sequence[Episode]) -> list[Skill]:
    """Skills from what succeeded and from why others failed, the most frequent first, failures before successes.

    Args:
        episodes: of training.
    """
    failed: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    example: dict[str, str] = {}
    for episode in episodes:
        cause = cause_of(episode)
        text = _ADVICE.get(cause, "") if cause else _plan(episode)
        if text:
            (failed if cause else succeeded)[text] += 1
            example.setdefault(text, episode.question)
    return [
        *(Skill("mistake", text, example[text]) for text, _ in failed.most_common()),
        *(Skill("task", text, example[text]) for text, _ in succeeded.most_common()),
    ]


def _plan(episode: Episode) -> str:
    """Where each query of a success was taken from."""
    steps, seen = [], episode.question
    for round_ in episode.rounds:
        if round_.action.kind == "search":
            known = all(contains_phrase(episode.question, query) for query in round_.action.queries)
            read = all(contains_phrase(seen, query) for query in round_.action.queries)
            source = "a name in the question" if known else "a name in the newest result"
            steps.append(source if known or read else "words of your own")
            seen = round_.observation
    if not steps:
        return ""
    return f"In questions of this form, search for {', then for '.join(steps)}; then answer."


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in FUNCTION_WORDS}
