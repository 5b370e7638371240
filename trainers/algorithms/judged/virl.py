"""ViRL's acts on text: every round is a correct, a redundant or a wrong act, and is paid for it beside the outcome.

Source: "Visual Rationale Learning", arXiv 2511.23031, of which the abstract alone was available to us: visual acts (crops) are
steps of reasoning, supervised with gold rationales, and credit tells correct, redundant and erroneous acts apart. Its formulas
are not known to us. [OURS], on text, where gold passages are the gold rationales:

    correct     a search that returns a gold passage which no earlier search had returned; an answer that is right
    redundant   a search that returns no passage which had not been returned before, that has the words of an earlier one, or
                that comes when every gold passage has been found
    wrong       any other search; an answer that is wrong; an invalid act
    s_t         1, 0 or −1                                                settings correct, redundant, wrong
    A_i,t = A_i^O + β · z_t            z: z-score of s over the rounds of the group; A^O: GRPO's advantage

Then GRPO's clipped surrogate. Feedback acts have no score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.judges.grounding import repeats
from searchgym.records.episode import Episode

from ...components.evidence import new_gold, require_gold
from ...config import option
from ...core.groups import Groups
from ..scored import ScoredRounds, ScoredRoundsSettings

__all__ = ["ViRL", "ViRLSettings", "label_acts"]

Label = Literal["correct", "redundant", "wrong", ""]


@dataclass(frozen=True)
class ViRLSettings(ScoredRoundsSettings):
    """Settings of `ViRL`; those of GRPO and of scored rounds first."""

    correct: float = option(1.0, "score of a correct act")
    redundant: float = option(0.0, "score of a redundant act")
    wrong: float = option(-1.0, "score of a wrong act")


class ViRL(ScoredRounds):
    """GRPO with scores of correct, redundant and wrong acts; see the head of this file."""

    settings_class = ViRLSettings
    settings: ViRLSettings

    @property
    def told(self) -> str:
        return "gold passages"

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        require_gold(env_config, "virl", "labels acts by the gold passages that they return")
        return env_config

    def scores(self, groups: Groups) -> NDArray[np.float64]:
        s = self.settings
        value = {"correct": s.correct, "redundant": s.redundant, "wrong": s.wrong, "": np.nan}
        return np.array([value[label] for episode in groups.episodes for label in label_acts(episode)])


def label_acts(episode: Episode) -> list[Label]:
    """What each act of an episode was; "" for feedback acts and rounds that were ended from outside.

    Args:
        episode: of a question with gold passages.
    """
    labels: list[Label] = []
    missing, seen = set(episode.gold["supporting_ids"]), set[str]()
    for index, (round_, new) in enumerate(zip(episode.rounds, new_gold(episode), strict=True)):
        kind, ids = round_.action.kind, {hit.id for hit in round_.hits}
        if kind == "answer":
            labels.append("correct" if episode.outcome.em > 0.0 else "wrong")
        elif kind == "invalid":
            labels.append("wrong")
        elif kind != "search":
            labels.append("")
        elif new:
            labels.append("correct")
        elif not missing or ids <= seen or repeats(round_.action.queries, episode.rounds[:index]):
            labels.append("redundant")
        else:
            labels.append("wrong")
        missing -= new
        seen |= ids
    return labels
