"""Log-probabilities of recorded tokens under the current weights, for training.

Sequences that begin with the same tokens are laid out as a prefix tree, so the shared positions are computed once.

Axis suffixes as in `interface`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .interface import Network
from .prefix_tree import PrefixTree, split_by_budget

__all__ = ["EvaluationStats", "TokenSequence", "evaluate"]


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One sequence to evaluate.

    Attributes:
        tokens: token ids.
        targets: indices of the tokens whose log-probability is needed, ascending, none of them 0.
        temperatures: temperature of the distribution that each target was drawn from.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    temperatures: tuple[float, ...]


@dataclass(slots=True)
class EvaluationStats:
    """Work of `evaluate`, summed over calls; there is no padding.

    Attributes:
        computed_tokens: positions computed.
        shared_tokens: positions not computed because another sequence begins with the same tokens.
        target_tokens: tokens whose log-probability was requested.
    """

    computed_tokens: int = 0
    shared_tokens: int = 0
    target_tokens: int = 0

    @property
    def shared(self) -> float:
        """Fraction of all positions that were not computed."""
        return self.shared_tokens / max(1, self.computed_tokens + self.shared_tokens)


def evaluate(
    network: Network,
    sequences: Sequence[TokenSequence],
    stats: EvaluationStats,
    *,
    batch_tokens: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy and hidden state of all targets, flattened in the order of `sequences`.

    Common beginnings are computed once, and the passes are split so that they stay together. Tokens after the last
    target, and the last target itself, are not computed.

    Args:
        network: the model.
        sequences: the sequences; equal ones are computed once.
        stats: the work done is added here.
        batch_tokens: tokens of one pass; None: `network.pass_tokens`.

    Returns:
        logprobs_N, entropy_N (nats) and hidden_NW; gradients flow unless the caller disabled them.
    """
    requested = list(dict.fromkeys(s for s in sequences if s.targets))
    if not requested:
        empty, device = torch.zeros(0, device=network.device), network.device
        return empty, empty, torch.zeros(0, network.width, device=device, dtype=network.dtype)
    starts: dict[TokenSequence, int] = {}
    total = computed = 0
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in split_by_budget(
        [s.tokens[: s.targets[-1]] for s in requested], batch_tokens or network.pass_tokens
    ):
        tree = PrefixTree.grow([requested[i].tokens[: requested[i].targets[-1]] for i in part])
        outputs.append(_evaluate_tree(network, tree, [requested[i] for i in part]))
        computed += len(tree.ids_T)
        for i in part:
            starts[requested[i]] = total
            total += len(requested[i].targets)
    picked = [starts[s] + i for s in sequences for i in range(len(s.targets))]
    stats.computed_tokens += computed
    stats.shared_tokens += sum(s.targets[-1] for s in sequences if s.targets) - computed
    stats.target_tokens += len(picked)
    index_N = torch.tensor(picked, device=network.device)
    logprobs_N, entropy_N, hidden_NW = (torch.cat(parts)[index_N] for parts in zip(*outputs, strict=True))
    return logprobs_N, entropy_N, hidden_NW


def _evaluate_tree(
    network: Network, tree: PrefixTree, sequences: list[TokenSequence]
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs of `evaluate` for the sequences that the tree is made of."""
    device = network.device
    at_N = np.concatenate(
        [columns[np.array(s.targets) - 1] for columns, s in zip(tree.columns, sequences, strict=True)]
    )
    temperature_N = np.array([t for s in sequences for t in s.temperatures])
    target_N = torch.tensor([s.tokens[t] for s in sequences for t in s.targets], device=device)
    keep_Q, rank_N = np.unique(at_N, return_inverse=True)
    hidden_QW = network.paths(tree, keep_Q)
    pairs_U2, which_N = np.unique(np.stack([rank_N, temperature_N], axis=1), axis=0, return_inverse=True)
    at_U, temperature_U = (
        torch.from_numpy(x).to(device)
        for x in (pairs_U2[:, 0].astype(np.int64), pairs_U2[:, 1].astype(np.float32))
    )
    rows_N = torch.from_numpy(which_N.reshape(-1)).to(device)
    logprobs_N, entropy_N = network.token_logprobs(hidden_QW[at_U], target_N, rows_N, temperature_U)
    return logprobs_N, entropy_N, hidden_QW[torch.from_numpy(rank_N).to(device)]
