"""The update: from an iteration's batch to new weights. What is learned from what is the algorithm's to say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.errors import ConfigError

from .algorithm import Algorithm, Loss
from .batch import Batch, micro_batches, minibatches
from .config import TrainConfig
from .failures import ADVICE, NotFinite, are_finite
from .metrics import UpdateMetrics
from .objective import kl_estimate

__all__ = ["Learner"]


class Learner:
    """Owns what an optimizer step needs.

    Args:
        policy: its weights that require gradients are trained.
        algorithm: has been set up; its extra modules are trained along.
        config: learning rate, minibatches and so on.

    Attributes:
        extra: the algorithm's modules.
        parameters: all weights trained, the policy's first.
        names: of them, in the same order.
        optimizer: one parameter group per module.

    Raises:
        ConfigError: the policy has nothing to train.
    """

    def __init__(self, policy: Policy, algorithm: Algorithm, config: TrainConfig) -> None:
        self.policy, self.algorithm, self.config = policy, algorithm, config
        self.extra: dict[str, nn.Module] = algorithm.extra_modules()
        parts = {
            name: {f"{name}.{n}": p for n, p in module.named_parameters() if p.requires_grad}
            for name, module in {"policy": policy.module, **self.extra}.items()
        }
        if not parts["policy"]:
            raise ConfigError(
                f"agent {policy.name!r} has no weights that require gradients: nothing to train"
            )
        self.names = [name for part in parts.values() for name in part]
        self.parameters = [p for part in parts.values() for p in part.values()]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [
                {"params": list(part.values()), "lr": config.lr * algorithm.module_lr.get(name, 1.0)}
                for name, part in parts.items()
                if part
            ],
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=_can_fuse(self.parameters),
        )

    def update(
        self, batch: Batch, metrics: UpdateMetrics, iteration: int, shuffle: np.random.Generator
    ) -> None:
        """Epochs of minibatches; one optimizer step each.

        Args:
            batch: everything there is to learn from in this iteration.
            metrics: is filled.
            iteration: from 1.
            shuffle: draws the minibatches.

        Raises:
            NotFinite: a loss, gradient or weight; the weights are those before the step, or (weight) after it.
        """
        config, settings = self.config, self.algorithm.settings
        device = self.parameters[0].device
        for _ in range(config.epochs):
            for minibatch in minibatches(
                batch, config.minibatches, settings.aggregation, settings.loss_length, shuffle
            ):
                self.optimizer.zero_grad(set_to_none=True)
                for part in micro_batches(minibatch, self.policy, config.token_budget):
                    micro = part.to(device)
                    outputs = self.policy.evaluate_tokens(micro.samples)
                    loss = self.algorithm.loss(micro, outputs)
                    if not torch.isfinite(loss.total):
                        raise self._not_finite("loss", iteration, part)
                    loss.total.backward()  # type: ignore[no-untyped-call]
                    self._measure(metrics, micro, outputs, loss)
                norms = self._clip_gradients()
                if not all(torch.isfinite(norm) for norm in norms):
                    raise self._not_finite("gradient", iteration, minibatch)
                self.optimizer.step()
                if not are_finite(self.parameters):
                    raise self._not_finite("update", iteration, minibatch)
                self.policy.version += 1
                metrics.updates += 1
                metrics.add({"grad_norm": norms[0]})

    def _clip_gradients(self) -> Sequence[Tensor]:
        """Each module's own norm is clipped: a critic's error must not shorten the policy's step."""
        groups = self.optimizer.param_groups
        return [torch.nn.utils.clip_grad_norm_(g["params"], self.config.grad_clip) for g in groups]

    @torch.no_grad()
    def _measure(self, metrics: UpdateMetrics, batch: Batch, outputs: TokenOutputs, loss: Loss) -> None:
        metrics.add({"loss": loss.total, "entropy": batch.mean(outputs.entropy_N), **loss.metrics})
        if not self.algorithm.on_policy:
            return
        old_N, new_N = batch.old_logprobs_N, outputs.logprobs_N
        metrics.add({"step_kl": batch.mean(kl_estimate(old_N, new_N, "k3"))})
        gap = (new_N - old_N).abs().max()
        metrics.largest("log_ratio_max", gap)
        if metrics.updates == 0:  # still the weights that sampled: what is left is numerical disagreement
            metrics.largest("sampling_gap", gap)

    def _not_finite(self, what: str, iteration: int, batch: Batch) -> NotFinite:
        return NotFinite(
            f"the {what} of iteration {iteration} is not finite with lr={self.config.lr}: {ADVICE}", batch
        )


def _can_fuse(parameters: Sequence[nn.Parameter]) -> bool:
    """The fused AdamW is the fastest of the three on these devices; it takes floating-point weights only."""
    return all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for p in parameters)
