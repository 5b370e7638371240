"""SPAE: step potential advantage estimation. Rounds that make a forced answer surer and righter gain; later ones lose.

Source: arXiv 2601.03823, known to us from a third party's notes (its repository holds no training code). In the state s_t
before round t the policy is forced to answer:

    Conf_t = mean exp(−entropy) of the forced answer's tokens             Acc_t = mean probability of the gold tokens
    Φ_t    = 1.5 Acc_t Conf_t + 0.5 Acc_t − Conf_t                       in [−1, 1]: 1 sure and right, −1 sure and wrong
    f_t    = 1 − α (1 − exp(−C_t))                                       saturation penalty, C_t below
    g_t    = exp(n_t) − mean exp(n)                                      n_t: normalised change of Φ that round t brought
    A_t    = A_i f_t + ξ g_t,        α = ξ = 0.5                         A_i: GRPO's advantage of the episode

Then GRPO's clipped surrogate. A round that changes Φ most gains most, whatever the outcome; rounds after the policy could
already have answered keep less of the outcome.

Ours, because the notes do not say it:
1. [OURS] C_t counts the states s_1..s_t with Φ ≥ `saturation` (0.8); for the round that answers it is 0, because answering is
   what a saturated state asks for.
2. [OURS] n_t = (Φ_{t+1} − Φ_t) / the largest absolute change among the rounds of the iteration, so that exp(n) lies between
   1/e and e. The mean runs over all rounds of the iteration that are followed by another.
3. [OURS] The last round of an episode is followed by no state: its g is 0.
4. [OURS] No answers are sampled. The notes have five of ten tokens; here Conf is computed along the gold answer, in the same
   forward pass as Acc. For the candidate policy both are exact, over all its answers.
5. The coefficients of Φ are the notes' inference, not the paper's statement.
6. The paper's tasks are mathematics: its steps are parts of one text, ours are rounds.
7. Groups of equal outcomes are kept (skip_equal=false): their A_i is 0 and their g is not.
8. The control `permute_rewards` permutes the outcomes. The probes know the answer, so the control learns, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy

from ...components.answer_probes import change_after, check_prober, followed, probe_rounds, read_probes
from ...config import option
from ...core.credit import Credit
from ...core.groups import Groups
from ..grpo import GRPO, GRPOSettings

__all__ = ["SPAE", "SPAESettings", "potential", "saturation_factors"]


@dataclass(frozen=True)
class SPAESettings(GRPOSettings):
    """Settings of `SPAE`; those of GRPO first."""

    skip_equal: bool = option(False, "skip groups whose rewards are all equal")
    alpha: float = option(
        0.5, "largest share of the outcome's credit that saturation takes", low=0.0, high=1.0
    )
    xi: float = option(0.5, "weight of the change of the potential; 0: no change counts", low=0.0)
    saturation: float = option(0.8, "potential from which on the policy could answer", low=-1.0, high=1.0)
    phrase: str = option("", "thought that the policy is made to think before the forced answer")


class SPAE(GRPO):
    """Step potential advantage estimation; see the head of this file."""

    settings_class = SPAESettings
    settings: SPAESettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._refuse_single_episodes()

    @property
    def told(self) -> str:
        return "the gold answer"

    @property
    def group_relative(self) -> bool:
        return self.settings.xi == 0.0

    def check_policy(self, policy: Policy) -> None:
        check_prober(policy, "spae")

    def prepare(self, policy: Policy, groups: Groups) -> None:
        super().prepare(policy, groups)
        self._tokens = probe_rounds(policy, groups, self.context.token_budget, thought=self.settings.phrase)

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        probes, episode_R = read_probes(groups), groups.episode_R
        phi_R = potential(probes.accuracy_R, probes.confidence_R)
        answers_R = np.array(
            [r.action.kind == "answer" for e in groups.episodes for r in e.rounds], dtype=bool
        )
        f_R = saturation_factors(phi_R >= s.saturation, answers_R, episode_R, s.alpha)
        g_R = _gains(phi_R, episode_R)
        advantages_E = np.concatenate(self.advantages(groups)) if len(groups) else np.zeros(0)
        metrics = {
            "potential": float(phi_R.mean()),
            "saturated": float((f_R < 1.0).mean()),
            "probe_tokens": float(self._tokens),
        }
        return Credit.flat("round", advantages_E[episode_R] * f_R + s.xi * g_R, groups, metrics)


def potential(accuracy_R: NDArray[np.float64], confidence_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Φ = 1.5 Acc Conf + 0.5 Acc − Conf.

    Args:
        accuracy_R: Acc.
        confidence_R: Conf.
    """
    return 1.5 * accuracy_R * confidence_R + 0.5 * accuracy_R - confidence_R


def saturation_factors(
    saturated_R: NDArray[np.bool_],
    answers_R: NDArray[np.bool_],
    episode_R: NDArray[np.int64],
    alpha: float,
) -> NDArray[np.float64]:
    """f_t = 1 − α (1 − exp(−C_t)), with C_t the number of saturated states up to round t; 1 for rounds that answer.

    Args:
        saturated_R: whether the state before each round is saturated.
        answers_R: whether the round answers.
        episode_R: which episode each round belongs to; non-decreasing.
        alpha: α.
    """
    total_R = np.cumsum(saturated_R)
    first_R = np.searchsorted(episode_R, episode_R)
    count_R: NDArray[np.int64] = total_R - (total_R - saturated_R)[first_R]
    return np.where(answers_R, 1.0, 1.0 - alpha * (1.0 - np.exp(-count_R)))


def _gains(phi_R: NDArray[np.float64], episode_R: NDArray[np.int64]) -> NDArray[np.float64]:
    """g of each round: 0 in the last round of an episode, and everywhere if no round changes Φ."""
    change_R, inner_R = change_after(phi_R, episode_R), followed(episode_R)
    largest = np.abs(change_R).max(initial=0.0)
    if largest == 0.0:
        return np.zeros(len(phi_R))
    raised_R = np.exp(change_R / largest)
    return np.where(inner_R, raised_R - raised_R[inner_R].mean(), 0.0)
