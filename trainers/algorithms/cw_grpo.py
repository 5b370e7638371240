"""CW-GRPO: contribution-weighted GRPO. Credit goes to the rounds that, according to a judge, contributed.

Source: arXiv 2604.14267 (ACL 2026) and its code, zsxmwjz/CW-GRPO at 11508ad. In episode i the rounds t = 1..T_i − 1
search and round T_i answers; a judge gave round t a retrieval utility u and a reasoning correctness v:

    p_i^t = u_i^t · v_i^t                                                         contribution
    A_i^O = (r_i − mean(r)) / (std(r) + 1e-6)                                     GRPO's advantage
    c_i^t = exp(α p_i^t) / Σ_{s<T_i} exp(α p_i^s)      if the episode succeeded, else 1 / (T_i − 1)
    A_i^t = A_i^O · c_i^t · (T_i − 1)                  for t < T_i;    A_i^{T_i} = A_i^O

Every token of a round gets its round's value; then GRPO's clipped surrogate. The mean of A_i^t over the search
rounds is A_i^O: weights redistribute credit and add none. α = 0 is GRPO.

α = ∞, the released setting and the default here, is c_i^t = p_i^t / max(Σ_s p_i^s, 1e-6). If no round
contributed (all p = 0), that gives the search rounds nothing and only the answer round is trained, while any finite α
gives them equal shares. `no_contribution=zero` keeps this, because it is what the published numbers were made with;
`no_contribution=uniform` gives such an episode GRPO's credit.

Departures from the paper and its code:
1. α = ∞ is written alpha=inf, and alpha=10 means 10. The released code treats α ≥ 10 as ∞ (its script says 100).
2. Rounds are weighted in episodes with A_i^O > 0, as in the code (`weigh=positive`), or in those answered right, as in
   the paper's formula (`weigh=success`). With EM as the reward both are the same.
3. The answer round does not enter the denominator. In the released code it does at α = ∞, because the judge sees it
   too and the sum runs over all rounds; `count_answer=true` does the same.
4. A missing verdict (the judge failed, or was not called) is not a zero: the episode keeps GRPO's credit and is
   counted (`unjudged`). The released judge gives u = v = 0 after three tries.
5. The answer round is the round that answers. An episode that ran out of a budget has none, so all its rounds share;
   the released code always takes the last round.
6. Feedback acts and acts truncated by a token limit are rounds without contribution: they are not judged.
   An invalid act is judged like a search.
7. Only weighted episodes need verdicts. With EM as the reward, judge_when=unequal-success requests no others; with
   another reward a wrong answer can have A > 0, and judge_when=unequal requests those verdicts too.
8. u and v may lie between 0 and 1. At α = ∞ shares are then proportional to p, as the code's formula says; the
   softmax's limit would be the largest p alone.
9. The loss is grpo.py's by default: no KL term, the mean over an episode's tokens first, no dual clip. The released
   runs: group_size=4 kl_coef=0.001 aggregation=token-mean dual_clip=3 (the last two are verl's defaults).
10. The control `permute_rewards` permutes rewards and leaves the verdicts as they are. Weights apply to positive
   advantages only, so under the control contributing rounds still gain a little: anything it learns then comes from the
   judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Round

from ..config import option
from ..core.credit import Credit
from ..core.groups import Groups
from .grpo import GRPO, GRPOSettings

__all__ = ["CWGRPO", "CWGRPOSettings", "round_weights"]


@dataclass(frozen=True)
class CWGRPOSettings(GRPOSettings):
    """Settings of `CWGRPO`; those of GRPO first."""

    alpha: float | Literal["inf"] = option(
        "inf", "how strongly contributions decide; 0: plain GRPO, inf: shares in proportion to them", low=0.0
    )
    no_contribution: Literal["zero", "uniform"] = option(
        "zero", "alpha=inf and no round contributed: no credit for search rounds (as released), or GRPO's"
    )
    weigh: Literal["positive", "success"] = option(
        "positive", "weight the rounds of episodes with A > 0 (code), or of those answered right (paper)"
    )
    count_answer: bool = option(
        False, "alpha=inf: the answer round's contribution enters the denominator (as released)"
    )


class CWGRPO(GRPO):
    """Contribution-weighted GRPO; see the head of this file."""

    settings_class = CWGRPOSettings
    settings: CWGRPOSettings

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if env_config.judge is None and self.settings.alpha != 0.0:
            raise ConfigError(
                "cw-grpo weights rounds by a judge's verdicts, and this environment has no judge: add "
                "--env-option judge=oracle --env-option judge_when=unequal-success, or another judge"
            )
        return env_config

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        if s.alpha == 0.0:
            return super().credit(groups)
        advantages_E = np.concatenate(self.advantages(groups))
        episode_R, count = groups.episode_R, len(groups.episodes)
        p_R, known_R, search_R = _read_verdicts(groups.episodes)

        if s.weigh == "positive":
            chosen_E = advantages_E > 0.0
        else:
            right_E = np.array([episode.outcome.em > 0.0 for episode in groups.episodes], dtype=bool)
            chosen_E = right_E & (advantages_E != 0.0)
        chosen_E &= np.bincount(episode_R, search_R, count) > 0
        needed_R = np.ones_like(known_R) if s.count_answer else search_R
        missing_E = chosen_E & (np.bincount(episode_R, needed_R & ~known_R, count) > 0)
        weighed_E = chosen_E & ~missing_E

        weights_R = round_weights(
            p_R, search_R, episode_R, float(s.alpha), s.no_contribution == "uniform", s.count_answer
        )
        weights_R = np.where(weighed_E[episode_R], weights_R, 1.0)
        metrics = _concentration(p_R, search_R & weighed_E[episode_R], episode_R, weights_R)
        metrics |= {"weighed": float(weighed_E.sum()), "unjudged": float(missing_E.sum())}
        return Credit.flat("round", advantages_E[episode_R] * weights_R, groups, metrics)


def round_weights(
    p_R: NDArray[np.float64],
    search_R: NDArray[np.bool_],
    episode_R: NDArray[np.int64],
    alpha: float,
    uniform: bool = False,
    count_answer: bool = False,
) -> NDArray[np.float64]:
    """c_i^t · (T_i − 1) for search rounds, 1 for answer rounds, of any number of episodes at once.

    Args:
        p_R: contribution of each round, in [0, 1].
        search_R: False for answer rounds.
        episode_R: which episode each round belongs to; numbers from 0.
        alpha: α; may be infinite.
        uniform: at α = ∞, give the search rounds of an episode without any contribution equal shares.
        count_answer: at α = ∞, let p of the answer round enter the denominator.
    """
    count_E = np.bincount(episode_R, search_R)
    if math.isinf(alpha):
        own_E = np.bincount(episode_R, p_R * search_R)
        total_E = np.bincount(episode_R, p_R) if count_answer else own_E
        share_R = p_R / np.maximum(total_E, 1e-6)[episode_R]
        if uniform:
            share_R = np.where(own_E[episode_R] > 0.0, share_R, 1.0 / np.maximum(count_E, 1)[episode_R])
    else:
        peak_E = np.zeros(len(count_E))
        np.maximum.at(peak_E, episode_R[search_R], p_R[search_R])
        raised_R = np.where(search_R, np.exp(np.minimum(alpha * (p_R - peak_E[episode_R]), 0.0)), 0.0)
        total_E = np.bincount(episode_R, raised_R)
        share_R = raised_R / np.where(total_E > 0.0, total_E, 1.0)[episode_R]
    weights_R: NDArray[np.float64] = np.where(search_R, share_R * count_E[episode_R], 1.0)
    return weights_R


def _read_verdicts(
    episodes: Sequence[Episode],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """For all rounds in order: the contribution, whether it is known, and whether the round is not an answer."""
    rounds = [round_ for episode in episodes for round_ in episode.rounds]
    p_R = np.array([_contribution(round_) for round_ in rounds], dtype=np.float64)
    known_R = ~np.isnan(p_R)
    search_R = np.array([round_.action.kind != "answer" for round_ in rounds], dtype=bool)
    return np.where(known_R, p_R, 0.0), known_R, search_R


def _contribution(round_: Round) -> float:
    """p = u · v; 0 for acts that are not judged, NaN if a verdict is missing."""
    if round_.action.kind in ("feedback", "none"):
        return 0.0
    contribution = round_.judge.contribution
    return math.nan if contribution is None else contribution


def _concentration(
    p_R: NDArray[np.float64],
    weighed_R: NDArray[np.bool_],
    episode_R: NDArray[np.int64],
    weights_R: NDArray[np.float64],
) -> dict[str, float]:
    """How strongly the weights concentrate the credit of search rounds in weighted episodes; {} if there are none."""
    p_W, weight_W, episode_W = p_R[weighed_R], weights_R[weighed_R], episode_R[weighed_R]
    if not len(p_W):
        return {}
    _, episode_W = np.unique(episode_W, return_inverse=True)
    given_E, squares_E = np.bincount(episode_W, weight_W), np.bincount(episode_W, weight_W**2)
    paid_E = given_E > 0.0
    metrics = {
        "contributing_rounds": float((p_W > 0.0).mean()),
        "without_contribution": float((np.bincount(episode_W, p_W) == 0.0).mean()),
    }
    if paid_E.any():
        metrics["credit_on_contributing"] = float(weight_W[p_W > 0.0].sum() / weight_W.sum())
        metrics["effective_rounds"] = float((given_E[paid_E] ** 2 / squares_E[paid_E]).mean())
    return metrics
