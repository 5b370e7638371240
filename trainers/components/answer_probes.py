"""Probes of the policy in every round of an iteration: the probability of the gold answer, and its confidence.

Axis suffixes as in `groups`: _R rounds of all episodes in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searchgym.agents.answer_probes import AnswerProbe, AnswerProber
from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.errors import ConfigError, TrainingError

from ..core.algorithm import each_token
from ..core.groups import Groups

__all__ = ["PROBED", "RoundProbes", "change_after", "check_prober", "followed", "probe_rounds", "read_probes"]

PROBED = "answer_probes"
"""Key of `Episode.extra` under which an episode keeps what its probes said."""


@dataclass(frozen=True)
class RoundProbes:
    """What the policy said in the state in which the act of each round was chosen.

    Attributes:
        probability_R: exp of the mean log-probability of the tokens of the gold answer.
        accuracy_R: mean probability of these tokens.
        confidence_R: mean over these tokens of exp(−entropy).
    """

    probability_R: NDArray[np.float64]
    accuracy_R: NDArray[np.float64]
    confidence_R: NDArray[np.float64]


def check_prober(policy: Policy, trainer: str) -> None:
    """Refuse a policy whose answers cannot be probed.

    Args:
        policy: the policy.
        trainer: who probes.

    Raises:
        ConfigError: names the agent.
    """
    if not isinstance(policy, AnswerProber):
        raise ConfigError(
            f"{trainer} asks the policy for the probability of the gold answer after every round, and agent {policy.name!r} "
            "has no probe_answers: use --agent candidate, tiny or hf"
        )


def probe_rounds(
    policy: Policy, groups: Groups, budget: int, *, forced: bool = True, thought: str = ""
) -> int:
    """Probe the gold answer in all rounds, and keep what the policy said with the episodes, see `read_probes`.

    A round that cannot be probed (it has no tokens, or the answer does not fit into the context) has the numbers of the
    round before it; with no such round, 0.

    Args:
        policy: see `check_prober`; evaluated without gradients.
        groups: the episodes.
        budget: tokens per forward pass.
        forced: see `AnswerProbe`.
        thought: see `AnswerProbe`.

    Returns:
        Number of tokens of the sequences that were evaluated.

    Raises:
        TrainingError: a question without gold answers.
    """
    assert isinstance(policy, AnswerProber)
    probes = []
    for episode in groups.episodes:
        golds = tuple(episode.gold["answers"])
        if not golds:
            raise TrainingError(
                f"question {episode.task_id!r} has no gold answer to probe: leave it out, or use another trainer"
            )
        probes += [AnswerProbe(episode, t, golds, forced, thought) for t in range(len(episode.rounds))]

    def both(outputs: TokenOutputs) -> Tensor:
        return torch.stack([outputs.logprobs_N.float(), outputs.entropy_N.float()], dim=1)

    said = policy.probe_answers(probes, lambda samples: each_token(policy, samples, budget, both))
    count_R = np.bincount(said.probe_N, minlength=len(probes))
    known_R, divisor_R = count_R > 0, np.maximum(count_R, 1)

    def mean(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(said.probe_N, values_N, len(probes)) / divisor_R

    columns = {
        "probability": np.exp(mean(said.logprobs_N)),
        "accuracy": mean(np.exp(said.logprobs_N)),
        "confidence": mean(np.exp(-said.entropy_N)),
    }
    start = 0
    for episode in groups.episodes:
        rounds = np.arange(start, start + len(episode.rounds))
        # The newest probed round up to each one.
        newest = np.maximum.accumulate(np.where(known_R[rounds], rounds, -1))
        episode.extra[PROBED] = {
            name: np.where(newest >= 0, column_R[newest], 0.0).tolist() for name, column_R in columns.items()
        }
        start += len(rounds)
    return said.tokens


def read_probes(groups: Groups) -> RoundProbes:
    """What `probe_rounds` kept with these episodes."""
    kept = [episode.extra[PROBED] for episode in groups.episodes]
    return RoundProbes(
        *(
            np.array([value for values in kept for value in values[name]], dtype=np.float64)
            for name in ("probability", "accuracy", "confidence")
        )
    )


def change_after(values_R: NDArray[np.float64], episode_R: NDArray[np.int64]) -> NDArray[np.float64]:
    """The change of a value that each round brought: its successor's minus its own; 0 in the last round of an episode.

    Args:
        values_R: the value before each round.
        episode_R: which episode each round belongs to; non-decreasing.
    """
    change_R = np.zeros(len(values_R))
    change_R[:-1] = np.diff(values_R)
    change_R[~followed(episode_R)] = 0.0
    return change_R


def followed(episode_R: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether another round of the same episode follows each round.

    Args:
        episode_R: which episode each round belongs to; non-decreasing.
    """
    return np.append(episode_R[1:] == episode_R[:-1], False)[: len(episode_R)]
