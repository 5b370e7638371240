"""TP-GRPO, thought-level process rewards: consecutive rounds of equal correctness are one thought, which is paid once.

Source: the paper with this title at ICLR 2026 (OpenReview LZZENDlZt9), of which a summary alone was available to us: a generative
process reward model merges consecutive steps of equal correctness into thoughts, so that many small steps cannot collect more
than one large one, and the process reward adapts to the difficulty of the question. Its formulas are not known to us.
The unrelated TurningPoint-GRPO (arXiv 2602.06422, for flow models) has the same initials and is not this method.

[OURS] The verdict of a judge says whether round t is right (c_t = 1) or wrong (0); of an answer, its reward does. A thought k is a maximal run of rounds of an
episode with equal c; it has L_k rounds and the score s_k = c. Of the K thoughts of a group each counts once:

    z_k    = (s_k − mean s) / (std s + 1e-6)                              over the thoughts of the group
    λ_q    = 1 − mean r                                                   difficulty of the question, in the group
    A_i,t  = A_i^O + β λ_q z_k / L_k           for the rounds t of thought k; A^O: GRPO's advantage

Then GRPO's clipped surrogate. A thought's rounds share z_k, so that its length gains nothing (`share=false`: each gets z_k).

Special cases: a round without a verdict (the judge failed, feedback acts) ends a thought and has no score. Mean rewards are
limited to [0, 1]. `difficulty=false` sets λ = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig

from ...components.evidence import require_judge, verdicts
from ...components.round_scores import standardize
from ...config import option
from ...core.groups import Groups
from ..scored import ScoredRounds, ScoredRoundsSettings

__all__ = ["TPGRPO", "TPGRPOSettings", "merge_rounds"]


@dataclass(frozen=True)
class TPGRPOSettings(ScoredRoundsSettings):
    """Settings of `TPGRPO`; those of GRPO and of scored rounds first."""

    criterion: Literal["contribution", "reasoning"] = option(
        "contribution",
        "a round is right if this of its verdict is at least 0.5: u times v (of answers: v), or v",
    )
    share: bool = option(True, "the rounds of a thought share its reward; false: each gets all of it")
    difficulty: bool = option(True, "weight by the question's difficulty, 1 minus the group's mean reward")


class TPGRPO(ScoredRounds):
    """GRPO with thought-level process rewards; see the head of this file."""

    settings_class = TPGRPOSettings
    settings: TPGRPOSettings

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self.settings.beta:
            require_judge(env_config, "tp-grpo", "merges rounds")
        return env_config

    def scores(self, groups: Groups) -> NDArray[np.float64]:
        v_R = verdicts(groups, self.settings.criterion)
        answer_R = np.array(
            [r.action.kind == "answer" for e in groups.episodes for r in e.rounds], dtype=bool
        )
        right_R = np.concatenate([*groups.rewards, np.zeros(0)])[groups.episode_R] > 0.0
        return np.where(answer_R, right_R, np.where(np.isnan(v_R), np.nan, v_R >= 0.5))

    def standardized(self, scores_R: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
        if not len(scores_R):
            return scores_R
        thought_R = merge_rounds(scores_R, groups.episode_R)
        _, first_T, length_T = np.unique(thought_R, return_index=True, return_counts=True)
        z_T = standardize(scores_R[first_T], groups.group_R[first_T])
        if self.settings.share:
            z_T = z_T / length_T
        if self.settings.difficulty:
            solved_G = np.array([float(np.clip(r_G.mean(), 0.0, 1.0)) for r_G in groups.rewards])
            z_T = z_T * (1.0 - solved_G)[groups.group_R[first_T]]
        return z_T[thought_R]


def merge_rounds(scores_R: NDArray[np.float64], episode_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """The thought of each round, numbers from 0: runs of equal scores inside an episode.

    Args:
        scores_R: 1, 0, or NaN, which is equal to nothing.
        episode_R: which episode each round belongs to; non-decreasing.
    """
    begins_R = np.append(True, (episode_R[1:] != episode_R[:-1]) | (scores_R[1:] != scores_R[:-1]))[
        : len(scores_R)
    ]
    number_R: NDArray[np.int64] = np.cumsum(begins_R) - 1
    return number_R
