"""Probes of a policy: how likely is a given answer in a state of a recorded episode? The episode stays as it is.

An optional ability next to `Policy`: language models read the answer behind the recorded context (`lm.token_policy`), the
candidate policy sums the probabilities of its acts (`candidate.agent`).

Axis suffixes: _N probed tokens, flattened over the probes in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from searchgym.records.episode import Episode

from .policy import Sample

__all__ = ["AnswerProbe", "AnswerProber", "Evaluate", "ProbedAnswers"]


@dataclass(frozen=True, slots=True)
class AnswerProbe:
    """One question to a policy.

    Attributes:
        episode: an episode that the policy played.
        round_index: the state is the one in which the act of this round was chosen.
        answers: the accepted answers, at least one. A language model is asked for the first; the candidate policy for any
            answer that equals one of them after normalization.
        forced: whether the policy has already begun to answer (the probability of the answer, given that the act is one),
            or chooses freely (the probability that its next act is this answer).
        thought: what it is made to think before; "": nothing. Policies that do not write thoughts ignore it.
    """

    episode: Episode
    round_index: int
    answers: tuple[str, ...]
    forced: bool = True
    thought: str = ""


@dataclass(frozen=True, slots=True)
class ProbedAnswers:
    """What a policy said.

    Attributes:
        logprobs_N: log-probability of each token of the answers; one token per probe for the candidate policy. -inf where
            the policy cannot give the answer.
        entropy_N: entropy, in nats, of the distribution that each would be drawn from.
        probe_N: index of the probe that each belongs to, non-decreasing. A probe without tokens could not be made: its
            round has no tokens of this policy, or its answer does not fit into the context.
        tokens: length of all sequences that were evaluated, common beginnings counted every time.
    """

    logprobs_N: NDArray[np.float64]
    entropy_N: NDArray[np.float64]
    probe_N: NDArray[np.int64]
    tokens: int


Evaluate = Callable[[Sequence[Sample]], Tensor]
"""Log-probability and entropy of the tokens with mask 1 of some samples, [N, 2], without gradients. The trainer gives it:
it divides the work into passes that fit into memory, and over the processes of a run."""


@runtime_checkable
class AnswerProber(Protocol):
    """What a `Policy` offers in addition if its answers can be probed."""

    def probe_answers(self, probes: Sequence[AnswerProbe], evaluate: Evaluate) -> ProbedAnswers:
        """Probe answers under the current weights. Nothing is sampled, and running episodes are not touched.

        Args:
            probes: the probes. Those of one episode share what they have in common.
            evaluate: makes the forward passes of a policy that needs them.
        """
