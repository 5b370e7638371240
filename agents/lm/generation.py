"""What an engine is asked for and gives: the protocol of engines, one generated act, counts."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .sampling import Sampling

__all__ = ["Ending", "EngineStats", "Generation", "GenerationEngine"]


class Ending(enum.StrEnum):
    """Why the sampling of an act ended."""

    CLOSED = "closed"
    """A token that closes an act, or ends the message, was sampled."""
    ROUND_LIMIT = "round_limit"
    """`max_new_tokens` tokens were sampled."""
    CONTEXT_LIMIT = "context_limit"
    """The context is full: the episode cannot continue."""
    PAUSED = "paused"
    """The act is not complete: the slot's next `generate` continues it."""
    FAILED = "failed"
    """The engine returned no act (infrastructure failure). The context is as it was before."""


@dataclass(slots=True)
class Generation:
    """One sampled act.

    Attributes:
        prompt_ids: tokens fed before it; empty when they did not fit the context.
        token_ids: the sampled tokens.
        logprobs: their log-probabilities.
        ending: why sampling ended.
    """

    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ending: Ending = Ending.ROUND_LIMIT


@dataclass(slots=True)
class EngineStats:
    """Work done, summed over calls.

    Attributes:
        prompt_tokens: tokens fed by the caller.
        prefilled_tokens: positions computed in prefill (prompts, and the last token of the previous act).
        copied_tokens: positions copied from a slot with the same context instead.
        padded_tokens: positions of padding in prefill.
        sampled_tokens: tokens sampled.
        decoded_tokens: positions computed while sampling.
        decode_steps: forward passes while sampling.
        prefill_seconds: wall time of prefill.
        decode_seconds: wall time of sampling.
    """

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    copied_tokens: int = 0
    padded_tokens: int = 0
    sampled_tokens: int = 0
    decoded_tokens: int = 0
    decode_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


class GenerationEngine(Protocol):
    """Samples the acts of running episodes, each in its own slot: `Engine`, or an engine in another process.

    Attributes:
        max_new_tokens: limit of one act, in tokens.
        max_context: limit of an episode, in tokens, prompts included.
        stop_ids: tokens that end a message.
        watch: makes a function for a new act that takes its tokens one by one and tells whether the act is complete; None
            if only `stop_ids` end acts.
        stop_strings: the closing tags of an act, for engines in which generation stops by text.
        stats: work done.
    """

    max_new_tokens: int
    max_context: int
    stop_ids: Collection[int]
    watch: Callable[[], Callable[[int], bool]] | None
    stop_strings: tuple[str, ...]
    stats: EngineStats

    def clear(self) -> None:
        """Forget all slots."""

    def remember(self, contexts: Iterable[Sequence[int]]) -> None:
        """Compute contexts that later ones begin with, and keep them until `forget`.

        Nothing is computed for them again, whatever `clear` and `release` forget. The weights must not change meanwhile.
        An engine that finds known prefixes by itself ignores it.

        Args:
            contexts: token ids of each.
        """

    def forget(self) -> None:
        """Free what `remember` keeps."""

    def begin(self, slots: Iterable[int]) -> None:
        """Start empty contexts in these slots."""

    def started(self, slot: int) -> bool:
        """Whether the slot was fed any tokens since `begin`."""

    def paused(self, slot: int) -> bool:
        """Whether the slot's last act is not complete."""

    def context(self, slot: int) -> list[int]:
        """All tokens of a slot so far, fed and sampled."""

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Copy the context of slot `source` to each target slot; a target need not be begun."""

    def resume(self, slot: int, context: Sequence[int]) -> None:
        """Begin the slot with these tokens as its context."""

    def generate(
        self,
        slots: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        pause: bool = False,
    ) -> list[Generation]:
        """Feed one prompt to each slot and sample one act after it.

        Args:
            slots: the slots, each once.
            prompts: token ids to feed, one list per slot; empty for a slot whose act is paused, which is continued.
            sampling: how tokens are drawn.
            pause: return once a quarter of the acts is complete; the others end with `Ending.PAUSED`. An engine that replaces
                complete rows by itself ignores it.
        """

    def sync(self, model: Any, version: int) -> None:
        """Sample from new weights from now on.

        Args:
            model: transformers' or peft's model. An engine that reads the trainer's own weights ignores it.
            version: number of optimizer updates.
        """

    def release(self) -> None:
        """Rollouts are over for now: the engine may free memory until the next `generate`."""
