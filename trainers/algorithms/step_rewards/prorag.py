"""ProRAG: a process reward model scores every round, beside the outcome of the episode ("dual granularity").

Source: arXiv 2601.21912 and its code, lilinwz/ProRAG at c7a6411. For a question the policy plays episodes with rewards R_i; the
process reward model scores round t of episode i with s_i,t, and each of its tokens has that score:

    A_i^O   = (R_i − mean_G R) / (std_G R + 1e-6)                       GRPO's advantage
    z_i,t   = (s_i,t − mean_G s) / (std_G s + 1e-6)                     mean and std over all scored tokens of the group
    A_i,t   = A_i^O + β z_i,t                                           β = 0.5

Then GRPO's clipped surrogate. The scores are the verdicts of the environment's judge: `judge=prm` with a model that `searchgym prm
train` made (stage 2 of the paper), or any other judge, whose u · v (of answers: v) then stands for the process reward.

The four stages of the paper: SFT (`searchgym train --trainer sft`), the process reward model from tree search (`searchgym prm
label` and `train`: here from Monte Carlo values, or with loss=pairwise from preferences between acts in one state), fine-tuning on what
the model likes (`sft` with `rounds=contributing` learns from the searches that a judge of 0 and 1 found contributing), and this file.

Departures from the paper and its code:
1. Eps is 1e-6 and the standard deviation unbiased in both terms; the code has 1e-4 outside (outcome) and 1e-8 inside the root,
   biased (steps).
2. A round without a verdict has z = 0 and does not enter mean and standard deviation. A judge of successes only is refused.
3. A judge's verdict lies in [0, 1]. For a pairwise model it is σ(score), which z-scores compress at the ends.
4. The reward is the environment's, EM by default. The paper's is 2 F1 (0 below an F1 of 0.2) plus a format reward of ±1.
5. The paper labels with 200 simulations of tree search per question and GPT-4o's choice among siblings.
6. `permute_rewards` leaves the scores out, because they would still tell the episodes apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig

from ...components.evidence import require_judge, verdicts
from ...components.round_scores import standardize
from ...core.groups import Groups
from ..scored import ScoredRounds

__all__ = ["ProRAG"]


class ProRAG(ScoredRounds):
    """GRPO with the scores of a process reward model; see the head of this file."""

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if self.settings.beta:
            require_judge(env_config, "prorag", "scores rounds")
        return env_config

    def scores(self, groups: Groups) -> NDArray[np.float64]:
        return verdicts(groups, "contribution")

    def standardized(self, scores_R: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
        tokens_R = np.bincount(groups.round_of_token_N, minlength=len(scores_R)).astype(np.float64)
        scored_R = np.where(tokens_R > 0.0, scores_R, np.nan)
        return standardize(scored_R, groups.group_R, weights_R=tokens_R)
