"""GRPO's variants by name: a table of what each paper changes, and the pieces that only variants use.

The setting `variant` gives other settings other defaults; a setting that is given wins over its variant's.

- dr-grpo (arXiv 2503.20783): Â = r − mean(r); the sum over tokens is divided by a constant, not by |o_i|.
- dapo (arXiv 2503.14476): clip-higher, ε_high = 0.28; the mean over all tokens; groups of equal accuracy are dropped and
  further questions played in their place, up to 10 batches. Its penalty for long episodes applies once
  `overlong_length` is set to what counts as long for the policy (the paper: 20480 tokens, buffer 4096).
- rloo (arXiv 2402.14740): Â = r minus the mean of the other rewards of the group.
- reinforce++ (arXiv 2501.03262): no group; Â = (r − mean) / (std + 1e-8) over all tokens of the iteration.
- reinforce++-baseline (same paper): r minus the group's mean, then the same normalization.
- gspo (arXiv 2507.18071): one ratio per sequence, exp(mean_t log ρ_i,t), clipped at 3e-4 and 4e-4. These widths are the
  paper's, for answers of thousands of tokens; the mean over few tokens varies more and needs wider ones.

Departures from the papers:
1. seq-mean-token-sum-norm (Dr.GRPO) also divides by the number of episodes; verl's leaves that factor out.
2. DAPO's resampling uses every group with unequal rewards; verl discards the surplus of the last batch. If ten batches
   hold too few such groups, training continues with those; verl stops.
3. The reinforce++ variants keep groups of equal rewards: their advantages do not depend on the group alone.
4. REINFORCE++ credits an episode with its whole reward (γ = 1, rewards at the end); reinforce.py has rewards to go. Its KL
   penalty inside the reward is left out; kl_coef is the weight of the one in the loss.
5. GSPO's ratio is always that of a segment, which the model saw as one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.groups import Group, Groups
from ..core.objective import group_advantages, whiten

__all__ = ["VARIANTS", "Variant", "normalized_over_tokens", "rewards_differ"]

Variant = Literal["grpo", "dr-grpo", "dapo", "rloo", "reinforce++", "reinforce++-baseline", "gspo"]

VARIANTS: Mapping[Variant, Mapping[str, Any]] = {
    "grpo": {},
    "dr-grpo": {"advantage": "dr-grpo", "aggregation": "seq-mean-token-sum-norm"},
    "dapo": {"clip_high": 0.28, "aggregation": "token-mean", "resample": 9},
    "rloo": {"advantage": "rloo"},
    "reinforce++": {"advantage": "reinforce++", "aggregation": "token-mean", "skip_equal": False},
    "reinforce++-baseline": {
        "advantage": "reinforce++-baseline",
        "aggregation": "token-mean",
        "skip_equal": False,
    },
    "gspo": {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
}
"""The settings of each variant."""


def normalized_over_tokens(groups: Groups, baseline: bool) -> list[NDArray[np.float64]]:
    """REINFORCE++'s advantage of each episode, one array per group: every sampled token of the iteration counts once.

    Args:
        groups: the episodes and their rewards.
        baseline: subtract the group's mean first.
    """
    values: Sequence[NDArray[np.float64]] = groups.rewards
    if baseline:
        values = [group_advantages(r_G, "dr-grpo") for r_G in groups.rewards]
    tokens_E = np.bincount(groups.tokens.episode_N, minlength=len(groups.episodes))
    normalized_E = whiten(np.concatenate([np.zeros(0), *values]), tokens_E)
    return np.split(normalized_E, np.cumsum([len(group) for group in groups])[:-1]) if len(groups) else []


def rewards_differ(group: Group) -> bool:
    """Whether the environment paid the valid episodes of a group differently (DAPO's dynamic sampling)."""
    rewards = [episode.reward for episode in group if episode.valid_for_training]
    return bool(rewards) and min(rewards) < max(rewards)
