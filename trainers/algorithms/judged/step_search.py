"""StepSearch: PPO with a reward for every search, by what it adds to the gold passages, and for the gold sub-queries.

Source: arXiv 2505.15107 and its code, Zillwang/StepSearch at 43215ba (`verl/utils/reward_score/qa_step.py`). A question has n
gold passages and K gold sub-queries. Search t returns the passages D_t:

    gain_t = 1/n Σ_i max(c_i,t − M_i,t, 0)     c_i,t: best TF-IDF cosine of D_t to gold passage i; M_i,t: best so far
    red_t  = share of D_t that an earlier search had already returned
    r_t    = gain_t − red_t                                              at the last token of search t
    r_T    = F1(answer) + 0.618 · 1/K Σ_k max_t F1(query_t, key_k)       at the last token of the answer
    r_T    = −1, and r_t = 0 for every search                            if the episode ends without an answer

Then PPO with GAE, γ = λ = 1 (ppo.py). The environment pays gain, redundancy, F1 and the search-key score
(`reward={"stepsearch": 1, "f1": 1, "search_key": 0.618}`, see docs/rewards.md); this file pays broken episodes.

Departures, in addition to those of ppo.py:
1. Gold sub-queries are the queries of the question's derivation, one for each hop; the paper generates several phrasings
   of each with a language model.
2. A sub-query's score is that of the best query. In the released code a query counts for the sub-query that it is
   closest to, and a later one replaces an earlier one, also if it is worse.
3. A broken format is an episode without an answer. The released code also requires that nothing follows the answer;
   here an answer ends the episode.
4. The document frequencies of TF-IDF come from at most 20,000 passages of the corpus; in the released code from the gold
   passages and the passage that is compared with them, so that they change from passage to passage.
5. The weights are those of the environment's reward: 0.618 is the paper's, and other weights are accepted.
6. The released runs: 5 turns, top-k 3, batches of 128 questions, lr 5e-7, 1,120 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError

from ...components.evidence import require_derivation, require_gold
from ...config import option
from ...core.groups import Group, Groups
from ..ppo import PPO, PPOSettings

__all__ = ["StepSearch", "StepSearchSettings"]

_REWARD = {"stepsearch": 1.0, "f1": 1.0, "search_key": 0.618}


@dataclass(frozen=True)
class StepSearchSettings(PPOSettings):
    """Settings of `StepSearch`; those of PPO first."""

    broken: float = option(-1.0, "reward of an episode that ends without an answer, in place of all others")


class StepSearch(PPO):
    """PPO on StepSearch's rewards; see the head of this file."""

    settings_class = StepSearchSettings
    settings: StepSearchSettings
    audit_env = {"reward": _REWARD}  # noqa: RUF012  (read only)

    @property
    def told(self) -> str:
        return "gold passages and gold sub-queries"

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        missing = [term for term in _REWARD if term not in env_config.reward]
        if missing:
            raise ConfigError(
                f"step-search learns from the reward terms {', '.join(_REWARD)}, and this environment does not pay "
                f'{", ".join(missing)}: add --env-option \'reward={{"stepsearch": 1, "f1": 1, "search_key": 0.618}}\''
            )
        require_gold(env_config, "step-search", "pays searches for what they add to gold passages")
        require_derivation(env_config, "step-search", "compares queries with gold sub-queries")
        return env_config

    def rewards(self, group: Group) -> NDArray[np.float64]:
        answered_G = np.array([episode.terminated for episode in group], dtype=bool)
        return np.where(answered_G, super().rewards(group), self.settings.broken)

    def round_rewards(self, groups: Groups) -> NDArray[np.float64]:
        paid_R = groups.round_rewards(at_end=True)
        if self.settings.permute_rewards:
            return paid_R
        answered_E = np.array([episode.terminated for episode in groups.episodes], dtype=bool)
        return np.where(answered_E[groups.episode_R], groups.round_rewards(), paid_R)
