"""The agent protocol: what answers observations. The core knows agents only through it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .records.acts import Act
from .records.episode import StopReason

if TYPE_CHECKING:
    from .dialects import Dialect
    from .records.episode import Episode
    from .records.question import Corpus

__all__ = ["Agent", "AgentContext", "FunctionAgent", "Turn", "played_act"]


def __getattr__(name: str) -> Any:
    """`Setting`, which is `AgentContext` now."""
    if name == "Setting":
        warnings.warn("searchgym.agent.Setting is AgentContext now", DeprecationWarning, stacklevel=2)
        return AgentContext
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent may know of the environment it is about to act in.

    Attributes:
        dialect: parser and renderer of acts; an agent writes acts with `dialect.write(...)`.
        system_prompt: the instructions for a language model.
        corpus: the indexed passages (for agents that need a vocabulary; never its questions).
        max_rounds: rounds per episode.
        feedback_calls: feedback acts per episode; 0 if the act is disabled.
        max_queries: queries allowed in one search act.
    """

    dialect: Dialect
    system_prompt: str
    corpus: Corpus
    max_rounds: int
    feedback_calls: int = 0
    max_queries: int = 1


@dataclass(slots=True)
class Turn:
    """One act, with its tokens if the agent has them.

    Attributes:
        text: the message passed to `env.step`.
        prompt_ids: tokens fed to the model since its previous act (system text and question, or the
            observation with its template); never sampled.
        token_ids: the sampled tokens of this act.
        logprobs: one log-probability per sampled token, under the tempered distribution it was drawn from.
        new_segment: True if the model's context was rebuilt for this round (`prompt_ids` is then the whole context).
        stop: set if the agent cannot continue (token limit, engine failure): the loop ends the episode with this
            reason instead of stepping, and keeps the tokens.
        policy_version: version of the weights that sampled the act.
        temperature: sampling temperature.
        top_p: nucleus size.
        earlier: turns sampled in this round before this act and not sent to the environment (a planner's decision to
            stop searching); their tokens are recorded with the round, before this act's.
    """

    text: str
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    new_segment: bool = False
    stop: StopReason | None = None
    policy_version: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    earlier: Sequence[Turn] = ()


class Agent:
    """Base class of agents. One instance serves many episodes at once, identified by slot numbers.

    Subclasses implement `act`; stateful ones also `begin` and, for branching methods, `fork` and `resume`.
    """

    name: str = "agent"
    needs_gold: bool = False
    """True for controls that read `info["gold"]`; the rollout then builds the environment with reveal_gold."""
    reads_text: bool = False
    """True for language models: a text that is added to an observation tells them something."""
    reads_system_prompt: bool = False
    """True for language models that follow `AgentContext.system_prompt`; other agents know how acts are written."""

    def bind(self, agent_context: AgentContext) -> None:
        """Called once before a collection.

        Args:
            agent_context: the environment's context.
        """
        self.agent_context = agent_context

    def begin(self, slots: Sequence[int]) -> None:
        """New episodes start: forget the earlier ones in these slots.

        Args:
            slots: slot numbers.
        """

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        """Called after `begin` or `fork` if episodes have seeds: each episode must draw from its own random stream.

        Args:
            slots: slot numbers.
            seeds: one per slot, below 2**64.
        """
        raise NotImplementedError(
            f"agent {self.name!r} has no random stream per episode: implement Agent.seed"
        )

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        """Answer one observation per slot.

        Args:
            slots: slot numbers.
            observations: one per slot; the first one after `begin` is the question.
            infos: one per slot, each built when it is read.

        Returns:
            One message, or `Turn`, per slot.
        """
        raise NotImplementedError

    def act_some(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[Turn | None]:
        """Answer at least one of the observations: what rollouts call.

        A language model that decodes in batches need not keep complete messages waiting for the longest one. A slot that is not
        answered is in the next call again, with the same observation. By default all are answered.

        Args:
            slots: see `act`.
            observations: see `act`.
            infos: see `act`.

        Returns:
            One `Turn` per slot; None for messages that are not complete.
        """
        acts = self.act(slots, observations, infos)
        return [act if isinstance(act, Turn) else Turn(act) for act in acts]

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Copy the state of a slot to others, whose episodes then continue like the source's.

        If episodes have seeds, `seed` is called for the targets next, so that each draws its own numbers.

        Args:
            source: slot to copy from.
            targets: slots to copy to.
        """
        raise NotImplementedError(f"agent {self.name!r} cannot fork an episode: implement Agent.fork")

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """Put a slot into the state in which this agent would be after it had played these rounds.

        The next `act` gets the observation that the last of them returned. Called after `begin`; where several slots
        continue the same rounds, one of them resumes and `fork` copies it to the others.

        Args:
            slot: the slot.
            prefix: a recorded episode, whose first `fork_round` rounds were played.
            fork_round: number of rounds, at least 1.

        Raises:
            ConfigError: the record lacks what the agent needs, e.g. its tokens.
        """
        raise NotImplementedError(
            f"agent {self.name!r} cannot continue a recorded episode: implement Agent.resume"
        )

    def costs(self) -> dict[str, float]:
        """The costs of all acts so far, for agents that are paid for: "calls", "input_tokens", "output_tokens", "usd", and
        "cached" replies, which cost nothing."""
        return {}


def played_act(infos: Sequence[dict[str, Any]], index: int) -> Act:
    """The act that a slot played last: what its info says, read without building the info where that is possible.

    Args:
        infos: what `Agent.act` was given.
        index: position in it; not of an episode that has just begun.
    """
    known: Callable[[int], Act] | None = getattr(infos, "act", None)
    return Act(**infos[index]["action"]) if known is None else known(index)


class FunctionAgent(Agent):
    """Wraps a plain function.

    Args:
        policy: called as `policy(observation, info)`; returns a message.
        name: name of the agent; default: the function's.
    """

    def __init__(self, policy: Callable[[str, dict[str, Any]], str], name: str | None = None) -> None:
        self._policy = policy
        self.name = name or str(getattr(policy, "__name__", "function"))

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        return [self._policy(o, i) for o, i in zip(observations, infos, strict=True)]

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`: there is no state, because the function is not told the slot."""

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `fork`."""
