"""Policies whose every act and probability can be listed, so that values can be computed exactly."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from searchgym.dialects import Act

__all__ = ["EnumerablePolicy"]


@runtime_checkable
class EnumerablePolicy(Protocol):
    """What a `Policy` offers in addition if it chooses among a list of acts.

    A state is whatever the policy acts on, an opaque value. States, their keys and the acts do not depend on the policy's
    weights, the log-probabilities alone do: what follows from an act is played once and serves later versions of the policy. The
    same policy must play recorded episodes: in an episode
    played by `act`, every message is `dialect.write(act)` of an act that is listed here.
    """

    def start_state(self, question: str, feedback_calls: int) -> Any:
        """The state before the first act.

        Args:
            question: the first observation.
            feedback_calls: feedback acts that the environment allows.
        """

    def next_state(self, state: Any, action: Act, observation: str) -> Any:
        """The state after an act that did not end the episode.

        Args:
            state: the state before it.
            action: the act.
            observation: what the environment returned.
        """

    def state_key(self, state: Any) -> Hashable:
        """Equal for states in which the policy behaves alike from here on, whatever follows."""

    def act_logprobs(self, states: Sequence[Any]) -> tuple[list[tuple[Act, ...]], Tensor]:
        """All acts in each state and their log-probabilities.

        Args:
            states: B states.

        Returns:
            The acts of each state, and [B, C] log-probabilities under the sampling distribution: column c belongs to the
            c-th act, -inf beyond the last one. They carry gradients. An act may be listed more than once.
        """
