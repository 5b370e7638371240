"""PPO: proximal policy optimization with a value head, on tokens.

Source: Schulman et al., arXiv 1707.06347; generalized advantage estimation, arXiv 1506.02438. The sampled tokens of
an episode, k = 0..K − 1 in order, are the time steps; what was retrieved between two of them is part of the next
state. With V_k the value head's estimate before token k and V_K = 0:

    r_k = the reward of the round whose last token k is, else 0
    δ_k = r_k + γ V_{k+1} − V_k
    Â_k = δ_k + γ λ Â_{k+1}                       then over all tokens of the iteration: (Â − mean) / (std + 1e-8)
    R_k = Â_k + V_k                               with Â before that normalization
    L   = mean_k max(−ρ Â, −clip(ρ, 1 − ε, 1 + ε) Â) + mean_k ½ max((V_θ − R)², (V_clip − R)²)
    V_clip = V + clip(V_θ − V, −ε_V, ε_V)         ρ = π_θ / π_old

γ = λ = 1, as in Search-R1 and the PPO baseline of CW-GRPO (arXiv 2604.14267): then Â_k = (rewards still to come) − V_k.

Departures:
1. The critic is a linear head on the policy's last hidden states, which it cannot change; verl's is a second language
   model. It starts at zero, and its learning rate is `value_lr` times the policy's (CW-GRPO's PPO: 10).
2. A round's reward is given at its last token, and so in the middle of an episode if rounds are paid. A round
   without sampled tokens pays at the last token before it.
3. An episode that exhausted a budget ends there: the value after its last token is 0, not an estimate.
4. Episodes that infrastructure failures cut short are dropped; groups have no other function (`group_size` 1).
5. No KL term, and no adaptive one; the learning rate is constant. No dual clip (verl caps the loss at -3 Â).
6. The value loss has no coefficient: the head has a learning rate and a gradient clip of its own, and Adam's steps do
   not depend on the scale of a loss.
7. The control `permute_rewards` (it needs a `group_size` above 1) pays the permuted reward at the last token; rewards of
   rounds would still tell episodes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from searchgym.agents.policy import Policy, TokenOutputs

from ..config import option
from ..core.algorithm import Algorithm, AlgorithmConfig, Loss, TrainContext, each_token
from ..core.batch import Batch
from ..core.credit import Credit
from ..core.groups import Groups
from ..core.objective import Aggregation, clipped_surrogate, discounted_sums

__all__ = ["PPO", "PPOSettings", "gae"]


@dataclass(frozen=True)
class PPOSettings(AlgorithmConfig):
    """Settings of `PPO`; the inherited ones first."""

    group_size: int = option(1, "episodes per question", low=1)
    aggregation: Aggregation = option("token-mean", "how token losses become one loss")
    gamma: float = option(1.0, "discount per token", low=0.0, high=1.0)
    gae_lambda: float = option(1.0, "lambda of generalized advantage estimation", low=0.0, high=1.0)
    value_clip: float = option(
        0.5, "values move at most this far from those before the update; 0: no limit", low=0.0
    )
    value_lr: float = option(1.0, "learning rate of the value head, as a multiple of the policy's", low=0.0)
    whiten: bool = option(True, "normalize advantages over all tokens of the iteration")
    entropy_coef: float = option(0.0, "weight of the entropy bonus", low=0.0)


class PPO(Algorithm):
    """Proximal policy optimization; see the head of this file."""

    settings_class = PPOSettings
    settings: PPOSettings
    heads: ClassVar[int] = 1
    """Number of values that the head estimates before each token."""

    @property
    def module_lr(self) -> dict[str, float]:
        return {"value_head": self.settings.value_lr}

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        width = context.policy.evaluate_tokens([]).hidden_N.shape[1]
        device = next(context.policy.module.parameters()).device
        self.head = nn.Linear(width, self.heads, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def extra_modules(self) -> dict[str, nn.Module]:
        return {"value_head": self.head}

    def prepare(self, policy: Policy, groups: Groups) -> None:
        groups.columns["values"] = each_token(policy, groups.samples, self.context.token_budget, self._values)

    def round_rewards(self, groups: Groups) -> NDArray[np.float64]:
        """The reward of each round, all rounds in order; methods with rewards of their own override it."""
        return groups.round_rewards(at_end=self.settings.permute_rewards)

    def chains(self, groups: Groups) -> NDArray[np.int64]:
        """The chain of time steps that each token belongs to, [N], non-decreasing: by default its episode."""
        return groups.tokens.episode_N

    def credit(self, groups: Groups) -> Credit:
        s = self.settings
        values_N = groups.columns["values"].double().numpy()
        rewards_N = groups.at_last_tokens(self.round_rewards(groups))
        advantages_N = gae(rewards_N, values_N, self.chains(groups), s.gamma, s.gae_lambda)
        returns_N = advantages_N + values_N
        groups.columns["returns"] = torch.from_numpy(returns_N).float()
        error, spread = float(np.var(returns_N - values_N)), float(np.var(returns_N))
        metrics = {"value_mean": float(values_N.mean()), "return_mean": float(returns_N.mean())}
        if spread > 0.0:
            metrics["explained_variance"] = 1.0 - error / spread
        if s.whiten and len(advantages_N) > 1:
            advantages_N = (advantages_N - advantages_N.mean()) / (advantages_N.std(ddof=1) + 1e-8)
        return Credit.flat("token", advantages_N, groups, metrics)

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        s = self.settings
        loss_N, clipped_N = clipped_surrogate(
            outputs.logprobs_N, batch.old_logprobs_N, batch.advantages_N, s.clip_low, s.clip_high
        )
        if s.entropy_coef > 0.0:
            loss_N = loss_N - s.entropy_coef * outputs.entropy_N
        error_N = self.value_errors(self._values(outputs), batch.columns["values"], batch.columns["returns"])
        metrics = {"clip_fraction": batch.mean(clipped_N), "value_loss": batch.mean(0.5 * error_N)}
        return Loss(batch.total(loss_N + 0.5 * error_N), metrics)

    def value_errors(self, values_N: Tensor, old_N: Tensor, returns_N: Tensor) -> Tensor:
        """The squared errors of values, clipped by `value_clip`, [N].

        Args:
            values_N: V_θ, with gradients.
            old_N: V, before the update.
            returns_N: R, their targets.
        """
        error_N = (values_N - returns_N).square()
        clip = self.settings.value_clip
        if clip > 0.0:
            near_N = old_N + (values_N - old_N).clamp(-clip, clip)
            error_N = torch.maximum(error_N, (near_N - returns_N).square())
        return error_N

    def _values(self, outputs: TokenOutputs) -> Tensor:
        """The head's estimate before each token; it sends no gradient into the policy."""
        values_N: Tensor = self.head(outputs.hidden_N.detach().to(self.head.weight.dtype))[:, 0]
        return values_N


def gae(
    rewards_N: NDArray[np.float64],
    values_N: NDArray[np.float64],
    episode_N: NDArray[np.int64],
    gamma: float = 1.0,
    lam: float = 1.0,
) -> NDArray[np.float64]:
    """Generalized advantage estimates (arXiv 1506.02438) of the tokens of many episodes at once.

    Args:
        rewards_N: reward after each token.
        values_N: value before each token; after an episode's last token it is 0.
        episode_N: which episode (or other chain of time steps) each token belongs to; non-decreasing.
        gamma: γ.
        lam: λ.

    Returns:
        Â before any normalization, [N].
    """
    same_N = np.append(episode_N[1:] == episode_N[:-1], False)[: len(episode_N)]
    after_N = np.where(same_N, np.append(values_N[1:], 0.0)[: len(values_N)], 0.0)
    return discounted_sums(rewards_N + gamma * after_N - values_N, episode_N, gamma * lam)
