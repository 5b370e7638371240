"""The update: from an iteration's batch to new weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.errors import ConfigError, TrainingError

from ..config import TrainConfig
from ..core.algorithm import Algorithm, Loss
from ..core.batch import Batch, micro_batches, minibatches
from ..core.objective import kl_estimate
from ..processes import world
from .failures import ADVICE, NonFiniteError, are_finite
from .importance import TRAINER_LOGPROBS
from .master_weights import MasterWeights
from .metrics import UpdateMetrics
from .optimizers import lr_factor, make_optimizer

__all__ = ["Learner"]


class Learner:
    """Owns weights, optimizer and learning rate, and makes the optimizer steps.

    Args:
        policy: its weights that require gradients are trained.
        algorithm: has been set up; its extra modules are trained together with the policy.
        config: learning rate, minibatches and so on.

    Attributes:
        extra: the algorithm's extra modules.
        names: names of all trained weights, the policy's first.
        parameters: what the optimizer steps on, in the same order: the weights, or their float32 copies.
        master_weights: float32 copies of weights of lower precision.
        optimizer: one parameter group per module, or two if only some of its weights are sharded.

    Raises:
        ConfigError: the policy has nothing to train.
    """

    def __init__(self, policy: Policy, algorithm: Algorithm, config: TrainConfig) -> None:
        self.policy, self.algorithm, self.config = policy, algorithm, config
        self.extra: dict[str, nn.Module] = algorithm.extra_modules()
        parts = {
            name: world().by_mesh({f"{name}.{n}": p for n, p in module.named_parameters() if p.requires_grad})
            for name, module in {"policy": policy.module, **self.extra}.items()
        }
        if not parts["policy"]:
            raise ConfigError(
                f"agent {policy.name!r} has no weights that require gradients: nothing to train"
            )
        self.names = [name for part in parts.values() for alike in part for name in alike]
        self.master_weights = MasterWeights(
            [p for part in parts.values() for alike in part for p in alike.values()]
        )
        self.parameters = self.master_weights.parameters
        stepped = dict(zip(self.names, self.parameters, strict=True))
        self.optimizer = make_optimizer(
            config.optimizer,
            config.optimizer_options,
            [
                {"params": [stepped[n] for n in alike], "lr": config.lr * algorithm.module_lr.get(name, 1.0)}
                for name, part in parts.items()
                for alike in part
            ],
            config.lr,
            config.weight_decay,
        )
        self._modules = [[stepped[n] for alike in part for n in alike] for part in parts.values() if part]
        self._full_lr = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate changes during the run."""
        return self.config.lr_schedule != "constant" or self.config.lr_warmup > 0

    def set_lr(self, iteration: int) -> float:
        """Set the learning rates of an iteration, which depend on its number alone; returns the policy's."""
        c = self.config
        factor = lr_factor(c.lr_schedule, iteration, c.iterations, c.lr_warmup, c.lr_floor)
        for group, full in zip(self.optimizer.param_groups, self._full_lr, strict=True):
            group["lr"] = full * factor
        return c.lr * factor

    def update(
        self, batch: Batch, metrics: UpdateMetrics, iteration: int, shuffle: np.random.Generator
    ) -> None:
        """Make the optimizer steps of an iteration: `epochs` times all minibatches.

        Each of several processes evaluates its share of a minibatch; token weights are those of the whole minibatch, so
        that gradients and metrics add up.

        Args:
            batch: all tokens to learn from in this iteration; the same in all processes.
            metrics: is filled.
            iteration: number of the iteration, from 1.
            shuffle: draws the minibatches.

        Raises:
            NonFiniteError: a loss or gradient (the weights are those before the step) or a weight (those after it).
            TrainingError: the algorithm's `loss` did not return a `Loss`.
        """
        with self.master_weights.accumulating_grads():
            self._update(batch, metrics, iteration, shuffle)

    def _update(
        self, batch: Batch, metrics: UpdateMetrics, iteration: int, shuffle: np.random.Generator
    ) -> None:
        config, settings = self.config, self.algorithm.settings
        device = self.parameters[0].device
        for _ in range(config.epochs):
            for minibatch in minibatches(
                batch, config.minibatches, settings.aggregation, settings.loss_length, shuffle
            ):
                self.optimizer.zero_grad(set_to_none=True)
                bad: Batch | None = None
                for part, counts in world().pad_passes(self._micro_batches(minibatch), minibatch.take([0])):
                    micro = part.to(device)
                    outputs = self.policy.evaluate_tokens(micro.samples)
                    loss = self.algorithm.loss(micro, outputs)
                    if not isinstance(loss, Loss):
                        raise TrainingError(
                            f"{type(self.algorithm).__name__}.loss() returned {loss!r:.60}: return a Loss, e.g. "
                            "Loss(batch.total(loss_N))"
                        )
                    if bad is None and not torch.isfinite(loss.total):
                        bad = part
                    scale = world().gradient_scale if counts else 0.0
                    (scale * loss.total).backward()  # type: ignore[no-untyped-call]
                    if counts:
                        self._measure(metrics, micro, outputs, loss)
                if world().any(bad is not None):  # in any process: the others would wait for it
                    raise self._not_finite("loss", iteration, bad or minibatch)
                world().sum_gradients(self.parameters)
                norms = self._clip_gradients()
                if not all(torch.isfinite(norm) for norm in norms):
                    raise self._not_finite("gradient", iteration, minibatch)
                self.optimizer.step()
                self.master_weights.copy_to_model()
                if world().any(not are_finite([world().local(p) for p in self.parameters])):
                    raise self._not_finite("update", iteration, minibatch)
                self.policy.version += 1
                metrics.updates += 1
                if world().main:  # the norm of the whole minibatch, equal in all processes
                    metrics.add({"grad_norm": norms[0]})

    def _micro_batches(self, minibatch: Batch) -> list[Batch]:
        """The forward passes of this process."""
        mine = world().assign(self.policy, minibatch.samples)
        if not mine:
            return []
        share = minibatch if len(mine) == len(minibatch.samples) else minibatch.take(mine)
        return list(micro_batches(share, self.policy, self.config.token_budget))

    def _clip_gradients(self) -> Sequence[Tensor]:
        """Clip each module's gradient norm separately: a critic's error must not shorten the policy's step."""
        return [world().clip(weights, self.config.grad_clip) for weights in self._modules]

    @torch.no_grad()
    def _measure(self, metrics: UpdateMetrics, batch: Batch, outputs: TokenOutputs, loss: Loss) -> None:
        metrics.add({"loss": loss.total, "entropy": batch.mean(outputs.entropy_N), **loss.metrics})
        if not self.algorithm.on_policy:
            return
        old_N, new_N = batch.old_logprobs_N, outputs.logprobs_N
        metrics.add({"step_kl": batch.mean(kl_estimate(old_N, new_N, "k3"))})
        metrics.largest("log_ratio_max", (new_N - old_N).abs().max())
        if (
            metrics.updates == 0 and TRAINER_LOGPROBS not in batch.columns
        ):  # the weights are still those before the update
            metrics.compare(old_N, new_N)

    def _not_finite(self, what: str, iteration: int, batch: Batch) -> NonFiniteError:
        return NonFiniteError(
            f"the {what} of iteration {iteration} is not finite with lr={self.config.lr}: {ADVICE}", batch
        )
