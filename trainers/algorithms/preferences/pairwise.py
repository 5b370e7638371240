"""What methods have in common that learn from pairs: a frozen reference, sums over sides, and DPO's gradient at every step.

    L = Σ_p w_p · (−log σ(h_p)) / Σ_p w_p        over all pairs of an iteration; see trainers/components/preference.py

The loss that the loop sees is −a_S log π for every token of side S, with the coefficients a_S of `dpo_coefficients`: its gradient
is exactly L's. An iteration may make several optimizer steps (`minibatches`, `epochs`); a_S depends on the weights, so it is
computed again after each of them, with one forward pass over the sides. Pairs need not be in one minibatch or in one pass.
The value of `loss` in the log is that of −Σ a log π, which means little; `preference_loss` is L before the update.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searchgym.agents.policy import Policy, Sample, TokenOutputs

from ...components.preference import Pairs, dpo_coefficients, dpo_loss, dpo_margins
from ...config import option
from ...core.algorithm import Algorithm, AlgorithmConfig, Loss, TrainContext, token_logprobs
from ...core.batch import Batch, Sequences
from ...core.credit import Credit
from ...core.groups import Groups
from ...core.objective import Aggregation

__all__ = ["PairwiseAlgorithm", "PairwiseSettings", "sequence_count"]


@dataclass(frozen=True)
class PairwiseSettings(AlgorithmConfig):
    """Settings of `PairwiseAlgorithm`; the inherited ones first."""

    aggregation: Aggregation = option(
        "seq-mean-token-sum-norm",
        "how token losses become one loss; the default sums over the tokens of a side",
    )
    loss_length: int = option(1, "the constant of seq-mean-token-sum-norm, in tokens", low=1)
    beta: float = option(
        0.1, "beta: how strongly the reference holds; small values let the policy go far", low=1e-6
    )


class PairwiseAlgorithm(Algorithm):
    """Base of methods that learn from pairs of sides. A method says what its sides and pairs are."""

    settings: PairwiseSettings
    uses_ratio = False
    supports_tis = False
    _sides: _Sides | None = None

    @property
    def uses_reference(self) -> bool:
        """Whether pairs are compared with a frozen reference; otherwise credit is a method's own, and final."""
        return True

    @abstractmethod
    def sides(self, groups: Groups) -> tuple[NDArray[np.int64], Pairs]:
        """The sides of an iteration and the pairs among them.

        Returns:
            The side of each sampled token (−1: of none), [N], and pairs of sides that have tokens.
        """

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        if self.uses_reference:
            self._reference = context.policy.freeze_reference()

    def prepare(self, policy: Policy, groups: Groups) -> None:
        if not self.uses_reference:
            return
        budget = self.context.token_budget
        groups.columns["logprobs"] = token_logprobs(policy, groups.samples, budget)
        with self._reference():
            groups.columns["ref_logprobs"] = token_logprobs(policy, groups.samples, budget)

    def credit(self, groups: Groups) -> Credit:
        side_N, pairs = self.sides(groups)
        used_S = np.zeros(side_N.max(initial=-1) + 2, dtype=bool)  # the last one is for the side -1
        used_S[pairs.chosen_P.numpy()] = used_S[pairs.rejected_P.numpy()] = True
        side_N = np.where(used_S[side_N], side_N, -1)
        groups.columns["side"] = torch.from_numpy(side_N)
        mask_N = side_N >= 0
        if not len(pairs):
            return Credit.flat("token", np.zeros(len(side_N)), groups, {"pairs": 0.0}, mask_N)
        scale = sequence_count(groups, mask_N, self.settings.sequence)
        self._sides = _Sides(groups, side_N, pairs, self.context.policy.version, scale)
        logprobs_S = self._sides.sums(groups.columns["logprobs"][mask_N])
        a_S = self._coefficients(self._sides, logprobs_S)
        margins_P = dpo_margins(logprobs_S, self._sides.reference_S, pairs, self.settings.beta)
        metrics = {
            "pairs": float(len(pairs)),
            "compared": float(pairs.weight_P.sum()),
            "preference_loss": float(dpo_loss(margins_P, pairs.weight_P)),
            "preference_margin": float(margins_P.mean()),
            "preferred": float((margins_P > 0.0).double().mean()),
        }
        advantages_N = np.where(mask_N, a_S.numpy()[side_N], 0.0)
        return Credit.flat("token", advantages_N, groups, metrics, mask_N)

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        policy, sides, advantages_N = self.context.policy, self._sides, batch.advantages_N
        if sides is not None and policy.version != sides.version:  # an optimizer step has been made since
            self._coefficients(sides, sides.evaluate(policy, self.context.token_budget))
            sides.version, sides.moved = policy.version, True
        if sides is not None and sides.moved:
            side_N = batch.columns["side"]
            a_N = sides.coefficients_S.to(advantages_N.dtype).to(side_N.device)[side_N.clamp(min=0)]
            advantages_N = torch.where(side_N >= 0, a_N, 0.0)
        return Loss(batch.total(-advantages_N * outputs.logprobs_N))

    def _coefficients(self, sides: _Sides, logprobs_S: Tensor) -> Tensor:
        a_S = dpo_coefficients(logprobs_S, sides.reference_S, sides.pairs, self.settings.beta)
        sides.coefficients_S = a_S * sides.scale
        return sides.coefficients_S


def sequence_count(groups: Groups, mask_N: NDArray[np.bool_], unit: Sequences) -> int:
    """Number of sequences with a token in the loss. Credit is multiplied by it, because the aggregation takes the mean over
    sequences where a method means the sum over sides.

    Args:
        groups: the episodes.
        mask_N: which tokens enter the loss.
        unit: the setting `sequence`.
    """
    owner_N = groups.tokens.episode_N if unit == "episode" else groups.tokens.sample_N
    return len(np.unique(owner_N[mask_N]))


class _Sides:
    """The sides of an iteration while it is learned from.

    Args:
        groups: the episodes.
        side_N: the side of each token, −1 for none.
        pairs: the pairs.
        version: version of the policy that the coefficients belong to.
        scale: what they are multiplied by.

    Attributes:
        coefficients_S: a of each side, scaled.
        moved: whether they are newer than the credit.
    """

    coefficients_S: Tensor

    def __init__(
        self, groups: Groups, side_N: NDArray[np.int64], pairs: Pairs, version: int, scale: int
    ) -> None:
        kept_N = side_N >= 0
        self.pairs, self.version, self.scale, self.moved = pairs, version, scale, False
        self._side_M = torch.from_numpy(side_N[kept_N])  # M: tokens of any side
        self._count = int(side_N.max()) + 1
        self.reference_S = self.sums(groups.columns["ref_logprobs"][kept_N])
        order = np.unique(groups.tokens.sample_N[kept_N])
        self._samples: list[Sample] = [groups.samples[i] for i in order]
        inside_N = np.isin(groups.tokens.sample_N, order)
        self._kept_N = torch.from_numpy(kept_N[inside_N])  # among the tokens of these samples

    def sums(self, values_M: Tensor) -> Tensor:
        """The sum over each side's tokens, [S]."""
        return torch.zeros(self._count, dtype=torch.float64).index_add_(0, self._side_M, values_M.double())

    @torch.no_grad()
    def evaluate(self, policy: Policy, budget: int) -> Tensor:
        """Log-probability of each side under the current weights, [S].

        Every process of a run computes all of them: `loss` is called a different number of times in each.
        """
        parts: dict[int, Tensor] = {}
        for indices in policy.micro_batches(self._samples, budget):
            outputs = policy.evaluate_tokens([self._samples[i] for i in indices])
            lengths = [sum(self._samples[i].segment.mask) for i in indices]
            parts |= zip(indices, torch.split(outputs.logprobs_N.cpu(), lengths), strict=True)
        values_N = torch.cat([parts[i] for i in range(len(self._samples))])
        return self.sums(values_N[self._kept_N])
