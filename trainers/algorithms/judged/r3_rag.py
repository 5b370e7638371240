"""R3-RAG as a baseline of CW-GRPO: PPO in which a judge grades every retrieval and every round is credited for itself.

Source: the baseline of that name in the code of CW-GRPO (arXiv 2604.14267, zsxmwjz/CW-GRPO at 11508ad:
`reward_manager/r3_rag.py`, the estimator `gae-round`). u_t in [0, 1] is the judge's utility of search t; f_t = 1 if round t is one valid
act, else 0; the answer is right (r = 1) or wrong (0):

    φ   = 1.0 if any round is invalid, else 1.6 if the answer is right, else 0.8
    r_t = φ (f_t (u_t + 1) − 1)                                            for every round but the answer
    r_T = φ (f_T (r + 1) − 1)                                             for the answer; 0 in an episode without a search

So a valid search is paid φ u_t, an invalid act −φ, the answer φ r. Then PPO with GAE, γ = λ = 1. The released estimator sets value
and advantage to 0 at every token that the policy did not sample, so nothing flows from one round to another: with tokens
k of round t, Â_k = r_t − V_k (`flow=round`). `flow=episode` is GAE over the whole episode, in which a search also answers for
what follows.

Departures, in addition to those of ppo.py:
1. What the paper of R3-RAG itself does (a retriever and a reasoner trained from a cold start) was not available to us: this is the
   baseline of the CW-GRPO table, nothing else.
2. The released judge is one language model with a prompt of its own (helpfulness of the new passages compared with the
   earlier ones, 0 to 1); here it is the environment's judge, and u its utility.
3. A missing verdict is not a zero: the round is left out of the loss and counted (`unjudged`). The released code gives 0.
4. Whether the answer is right is the environment's reward of the episode (EM by default), in proportion; above 0 it counts as
   right for φ.
5. An episode that ends on a budget has no answer round: all of its rounds are searches. An episode with nothing but
   invalid acts has no search either, and is paid −φ for each of them; the released code trains on it, too.
6. The released runs: 128 questions per iteration in 4 minibatches, lr 5e-7 (critic 9e-6), KL 0.001 (k3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig

from ...components.evidence import require_judge, verdicts
from ...config import option
from ...core.credit import Credit
from ...core.groups import Groups
from ..ppo import PPO, PPOSettings

__all__ = ["R3RAG", "R3RAGSettings"]


@dataclass(frozen=True)
class R3RAGSettings(PPOSettings):
    """Settings of `R3RAG`; those of PPO first."""

    flow: Literal["round", "episode"] = option(
        "round", "a round is credited with its own reward alone (as released), or with all that follow, too"
    )
    right: float = option(1.6, "factor of an episode that is answered right")
    wrong: float = option(0.8, "factor of an episode that is not")
    malformed: float = option(1.0, "factor of an episode with an invalid act")


class R3RAG(PPO):
    """PPO on graded retrievals; see the head of this file."""

    settings_class = R3RAGSettings
    settings: R3RAGSettings

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        require_judge(env_config, "r3-rag", "grades retrievals")
        return env_config

    def round_rewards(self, groups: Groups) -> NDArray[np.float64]:
        s = self.settings
        if s.permute_rewards:
            return super().round_rewards(groups)
        episode_R = groups.episode_R
        kinds = np.array([r.action.kind for episode in groups.episodes for r in episode.rounds], dtype=object)
        right_E = np.concatenate([*groups.rewards, np.zeros(0)])
        count = len(groups.episodes)
        invalid_E = np.bincount(episode_R, kinds == "invalid", count) > 0
        searched_E = np.bincount(episode_R, kinds != "answer", count) > 0
        factor_E = np.where(invalid_E, s.malformed, np.where(right_E > 0.0, s.right, s.wrong))
        u_R = np.nan_to_num(verdicts(groups, "utility"))  # rounds without a verdict are not in the loss
        answer_R = np.where(searched_E, right_E, 0.0)[episode_R]
        graded_R = np.where(kinds == "answer", answer_R, np.where(kinds == "invalid", -1.0, u_R))
        return factor_E[episode_R] * graded_R

    def chains(self, groups: Groups) -> NDArray[np.int64]:
        return groups.round_of_token_N if self.settings.flow == "round" else super().chains(groups)

    def credit(self, groups: Groups) -> Credit:
        credit = super().credit(groups)
        if self.settings.permute_rewards:
            return credit
        rounds = [r for episode in groups.episodes for r in episode.rounds]
        unknown_R = np.isnan(verdicts(groups, "utility")) & np.array(
            [r.action.kind == "search" for r in rounds], dtype=bool
        )
        unjudged = {"unjudged": float(unknown_R.mean())} if len(rounds) else {}
        return replace(
            credit, metrics={**credit.metrics, **unjudged}, loss_mask_N=~unknown_R[groups.round_of_token_N]
        )
