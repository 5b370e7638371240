"""Groups and credit become flat arrays, minibatches and micro-batches.

A `Batch` holds samples and, for their N sampled tokens, what a loss needs. Minibatches consist of whole sequences (one
optimizer step each; a sequence is an episode, unless the settings say otherwise), micro-batches of as many tokens as the
budget allows (one forward and backward pass each). Every token carries its weight in the minibatch's loss, so the
division into micro-batches changes the result by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searchgym.agents.policy import Policy, Sample
from searchgym.errors import TrainingError

from .credit import Credit
from .groups import Groups
from .objective import Aggregation, token_weights

__all__ = ["Batch", "Sequences", "micro_batches", "minibatches", "pack"]

Sequences = Literal["episode", "segment"]
"""The unit of a loss's mean over sequences and of minibatches: an episode, or each of its segments."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Training sequences and their N sampled tokens, flattened in order.

    Attributes:
        samples: the sequences, as `Policy.evaluate_tokens` takes them.
        sample_N: index into `samples`, non-decreasing.
        sequence_N: the sequence of each token (a number unique in the iteration), see `Sequences`.
        round_N: the round of each token inside its episode.
        loss_mask_N: False for a token that does not enter the loss: its credit excludes it, or another sample already
            contributes it (a round that branches share). Its weight is 0.
        old_logprobs_N: log-probability recorded when the token was sampled.
        advantages_N: the credit.
        loss_weight_N: weight of each token in the minibatch's loss (see `objective.token_weights`).
        mean_weight_N: weight of each token in a mean over the minibatch: 1 / (number of tokens in the loss), or 0.
        columns: what `Algorithm.prepare` added, [N] each.
    """

    samples: list[Sample]
    sample_N: Tensor
    sequence_N: Tensor
    round_N: Tensor
    loss_mask_N: Tensor
    old_logprobs_N: Tensor
    advantages_N: Tensor
    loss_weight_N: Tensor
    mean_weight_N: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def total(self, loss_N: Tensor) -> Tensor:
        """This batch's part of the minibatch's aggregated loss; the parts of the micro-batches add up to it."""
        return (self.loss_weight_N * loss_N).sum()

    def mean(self, values_N: Tensor) -> Tensor:
        """This batch's part of the minibatch's mean over tokens, without gradient; for metrics."""
        return (self.mean_weight_N * values_N.detach()).sum()

    def take(self, indices: Sequence[int]) -> Batch:
        """The batch of some of the samples, in the given order; weights stay unchanged."""
        at_S = np.asarray(indices, dtype=np.int64)
        counts_S = np.bincount(self.sample_N.numpy(), minlength=len(self.samples))
        first_S, counts = (np.cumsum(counts_S) - counts_S)[at_S], counts_S[at_S]
        shift_S = first_S - (np.cumsum(counts) - counts)
        at_N = torch.from_numpy(np.repeat(shift_S, counts) + np.arange(counts.sum()))
        lengths = torch.from_numpy(counts)
        return Batch(
            [self.samples[i] for i in indices],
            torch.repeat_interleave(torch.arange(len(lengths)), lengths),
            self.sequence_N[at_N],
            self.round_N[at_N],
            self.loss_mask_N[at_N],
            self.old_logprobs_N[at_N],
            self.advantages_N[at_N],
            self.loss_weight_N[at_N],
            self.mean_weight_N[at_N],
            {name: column[at_N] for name, column in self.columns.items()},
        )

    def weighted(self, aggregation: Aggregation, length: int) -> Batch:
        """This batch as a minibatch: the weights of its tokens make up one aggregated loss.

        Args:
            aggregation: see `objective.token_weights`.
            length: see there.
        """
        loss_mask_N = self.loss_mask_N.numpy()
        weights_N = token_weights(self.sequence_N.numpy(), loss_mask_N, aggregation, length)
        mean_weight_N = loss_mask_N.astype(np.float32) / max(int(loss_mask_N.sum()), 1)
        return replace(
            self, loss_weight_N=torch.from_numpy(weights_N), mean_weight_N=torch.from_numpy(mean_weight_N)
        )

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on another device."""
        if self.sample_N.device == device:
            return self
        moved = {
            name: getattr(self, name).to(device)
            for name in self.__dataclass_fields__
            if name not in ("samples", "columns")
        }
        return replace(self, **moved, columns={n: c.to(device) for n, c in self.columns.items()})


def pack(groups: Groups, credit: Credit, sequences: Sequences = "episode") -> Batch:
    """All tokens of an iteration with their advantages; weights are set later, minibatch by minibatch.

    A round that several branches share (same `Round.uid`) enters the loss once, with the mean of the advantages of its
    copies, so the order of the branches has no effect. A sample without tokens in the loss is dropped.

    Args:
        groups: the episodes, with the columns that `prepare` added.
        credit: their advantages.
        sequences: the unit of `sequence_N`.

    Raises:
        TrainingError: the credit does not fit, a column has the wrong length, or copies of a shared round
            have different tokens.
    """
    advantages_N = credit.to_tokens(groups)
    tokens = groups.tokens
    for name, column in groups.columns.items():
        column = groups.columns[name] = torch.as_tensor(column)
        if column.shape[:1] != advantages_N.shape:
            raise TrainingError(
                f"column {name!r} has shape {tuple(column.shape)}, not ({len(advantages_N)},): prepare() must "
                "give one value per sampled token, in the order of groups.samples"
            )
    loss_mask_N = np.ones(len(advantages_N), dtype=bool) if credit.loss_mask_N is None else credit.loss_mask_N
    if loss_mask_N.shape != advantages_N.shape:
        raise TrainingError(f"credit.loss_mask_N has shape {loss_mask_N.shape}, not ({len(advantages_N)},)")
    loss_mask_N, advantages_N = _merge_shared_rounds(groups, advantages_N, loss_mask_N)
    zeros_N = torch.zeros(len(advantages_N))
    whole = Batch(
        groups.samples,
        torch.from_numpy(tokens.sample_N),
        torch.from_numpy(tokens.episode_N if sequences == "episode" else tokens.sample_N),
        torch.from_numpy(tokens.round_N),
        torch.from_numpy(loss_mask_N),
        torch.from_numpy(tokens.logprobs_N),
        torch.from_numpy(advantages_N.astype(np.float32)),
        zeros_N,
        zeros_N,
        {name: column.detach().cpu() for name, column in groups.columns.items()},
    )
    if loss_mask_N.all():
        return whole
    return whole.take(np.unique(tokens.sample_N[loss_mask_N]).tolist())


def minibatches(
    batch: Batch, count: int, aggregation: Aggregation, length: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch: sequences in random order, in nearly equal parts.

    Args:
        batch: the tokens of an iteration.
        count: number of parts; fewer if there are fewer sequences.
        aggregation: see `objective.token_weights`.
        length: see there.
        rng: draws the order.
    """
    if not batch.samples:
        return
    owner_S = np.zeros(len(batch.samples), dtype=np.int64)
    owner_S[batch.sample_N.numpy()] = batch.sequence_N.numpy()
    _, index_S, counts_Q = np.unique(owner_S, return_inverse=True, return_counts=True)
    order_Q = rng.permutation(len(counts_Q))
    samples = np.argsort(np.argsort(order_Q)[index_S], kind="stable")  # in the order of their sequences
    ends_Q = np.cumsum(counts_Q[order_Q])
    cuts = np.cumsum([len(part) for part in np.array_split(order_Q, min(count, len(order_Q)))])[:-1]
    for part in np.split(samples, ends_Q[cuts - 1]):
        yield batch.take(part.tolist()).weighted(aggregation, length)


def micro_batches(batch: Batch, policy: Policy, budget: int) -> Iterator[Batch]:
    """Split a minibatch so that the policy computes at most `budget` tokens for each part (at least one sample)."""
    parts = policy.micro_batches(batch.samples, budget)
    if len(parts) <= 1:
        yield batch
        return
    for part in parts:
        yield batch.take(part)


def _merge_shared_rounds(
    groups: Groups, advantages_N: NDArray[np.float64], loss_mask_N: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The loss mask and the advantages, with each shared round kept in one copy that has the mean of all copies."""
    uids = [round_.uid for episode in groups.episodes for round_ in episode.rounds]
    if len(set(uids)) == len(uids):
        return loss_mask_N, advantages_N
    copies: dict[str, list[tuple[int, int]]] = {}
    for e, episode in enumerate(groups.episodes):
        for r, round_ in enumerate(episode.rounds):
            copies.setdefault(round_.uid, []).append((e, r))
    shared = {uid: places for uid, places in copies.items() if len(places) > 1}
    advantages_N, loss_mask_N = advantages_N.copy(), loss_mask_N.copy()
    tokens = groups.tokens
    bounds = np.searchsorted(tokens.episode_N, np.arange(len(groups.episodes) + 1))
    for uid, places in shared.items():
        spans = [
            bounds[e] + np.flatnonzero(tokens.round_N[bounds[e] : bounds[e + 1]] == r) for e, r in places
        ]
        if len({len(span) for span in spans}) > 1:
            raise TrainingError(
                f"round {uid!r} is shared by {len(places)} episodes but has {[len(s) for s in spans]} sampled "
                "tokens in them: branches that share a round must share its tokens"
            )
        copies_CN = np.stack(spans)
        kept_CN = loss_mask_N[copies_CN]
        at = np.arange(kept_CN.shape[1])[kept_CN.any(axis=0)]
        first_N = copies_CN[kept_CN.argmax(axis=0), np.arange(kept_CN.shape[1])][at]
        sums_N = np.where(kept_CN, advantages_N[copies_CN], 0.0).sum(axis=0)
        advantages_N[first_N] = sums_N[at] / kept_CN.sum(axis=0)[at]
        loss_mask_N[copies_CN] = False
        loss_mask_N[first_N] = True
    return loss_mask_N, advantages_N
