"""The dialect `hierarchy`: tags, with two control fields before the act that say what sub-goal it serves (HiPER).

    <switch> SWITCH </switch> <subgoal> find the employer of Mira </subgoal> <search> Mira employer </search>

Acts, observations and scoring are those of `tags`: a message without fields, or with fields that cannot be read, is as valid as
in that dialect. `control_of` reads the fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from .scanner import THOUGHT_NAMES, Block, Grammar, Scanner
from .tags import TagsDialect

__all__ = ["Control", "HierarchyDialect", "control_blocks", "control_of"]

_FIELDS = ("switch", "subgoal")
_GRAMMAR = Grammar((*_FIELDS, "search", "answer", "feedback"))


class Control(NamedTuple):
    """The control fields of a message.

    Attributes:
        switch: whether the message begins a new sub-goal: `SWITCH`, in any case. Anything else, or no field, keeps the old one.
        subgoal: the sub-goal; "" if there is none.
        written: whether both fields were there and could be read.
    """

    switch: bool
    subgoal: str
    written: bool


@dataclass(frozen=True)
class HierarchyDialect(TagsDialect):
    """`TagsDialect` with the fields `<switch>` and `<subgoal>`; see the module docstring.

    Args:
        corpus_description: how the system prompt names the corpus, a noun phrase.
    """

    name: ClassVar[str] = "hierarchy"
    has_control: ClassVar[bool] = True
    _OWN_TAG: ClassVar[re.Pattern[str]] = re.compile(
        rf"<(?=/?(?:information|search|answer|feedback|switch|subgoal|(?i:{THOUGHT_NAMES}))>)"
    )

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        return (
            f"{super().system_prompt(feedback=feedback, max_queries=max_queries)}\n"
            "Work by sub-goals: small objectives that take one or a few searches, not the whole question. Before the action of "
            "every round write two fields.\n"
            "- <switch>SWITCH</switch> if the round begins a new sub-goal, as the first one does, or <switch>KEEP</switch>.\n"
            "- <subgoal>…</subgoal> with the sub-goal in it, the same words as long as you keep it."
        )


def control_blocks(text: str) -> dict[str, Block]:
    """The first block of each field, outside thoughts and acts and before the act; by the name of the field.

    Args:
        text: a message.
    """
    scanner = Scanner(_GRAMMAR)
    scanner.feed(text)
    scanner.finish(text)
    found: dict[str, Block] = {}
    for block in scanner.blocks:
        if block.name not in _FIELDS:
            break
        found.setdefault(block.name, block)
    return found


def control_of(text: str) -> Control:
    """The control fields of a message.

    Args:
        text: a message.
    """
    found = control_blocks(text)
    bodies = {name: " ".join(block.body.split()) for name, block in found.items()}
    decision = bodies.get("switch", "").upper()
    written = decision in ("SWITCH", "KEEP") and bool(bodies.get("subgoal"))
    return Control(decision == "SWITCH", bodies.get("subgoal", ""), written)
