"""The trainable agent: what a trainer needs beyond `Agent`.

A trainer never looks inside a policy. It plays episodes with it (`act` fills in token ids and
log-probabilities), later asks it for the log-probabilities of those same ids under its current weights
(`evaluate_tokens`), and steps an optimizer over `module`. Nothing is decoded and tokenised again.

Axis suffixes: _N sampled tokens, flattened over a list of samples in order; _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from searchgym.agent import Agent, AgentContext
from searchgym.episode import Episode, Segment
from searchgym.errors import ConfigError

from .rng_streams import RngStreams

__all__ = ["Policy", "Sample", "TokenOutputs"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sequence: a segment and the episode it belongs to."""

    episode: Episode
    segment: Segment


@dataclass(slots=True)
class TokenOutputs:
    """What the current weights say about the sampled tokens of some samples.

    Attributes:
        logprobs_N: log-probability of each sampled token under the tempered distribution; carries gradients.
        entropy_N: entropy in nats of the tempered distribution each was drawn from; carries gradients.
        hidden_N: last hidden state at the position that predicts each token, [N, width]; for value heads.
    """

    logprobs_N: Tensor
    entropy_N: Tensor
    hidden_N: Tensor


class Policy(Agent):
    """Base class of trainable agents.

    Attributes:
        module: the weights; a trainer optimises `module.parameters()` that require gradients.
        version: counts optimizer updates; recorded in every round. The trainer increments it.
        temperature, top_p: sampling distribution; log-probabilities are of the tempered one. top_p < 1 is
            for evaluation only (a truncated distribution has no importance ratio).
        greedy: take the most likely token (evaluation).
        generator: the one source of randomness of `act`; its state is saved in checkpoints.
        rng_streams: one random stream per running episode, while episodes are collected with seeds; `act` then draws
            from it in place of `generator`.
    """

    module: nn.Module
    version: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    generator: torch.Generator
    rng_streams: RngStreams | None = None

    def bind(self, agent_context: AgentContext) -> None:
        super().bind(agent_context)
        self.rng_streams = None

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        self.rng_streams = self.rng_streams or RngStreams()
        self.rng_streams.start(slots, seeds)

    def _fork_streams(self, source: int, targets: Sequence[int]) -> None:
        """Give forked slots random streams of their own, where episodes have them."""
        if self.rng_streams is not None:
            self.rng_streams.fork(source, targets)

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        """Log-probabilities, entropies and hidden states of all tokens with mask 1, in the order of `samples`.

        Gradients flow unless the caller disabled them. The values equal those recorded by `act` (same weights)
        to float tolerance. No samples give empty tensors; `hidden_N` then still has its width.
        """
        raise NotImplementedError

    def freeze_reference(self) -> Callable[[], AbstractContextManager[None]]:
        """Remember the policy as it is now, for the KL to it.

        Here the trainable weights are copied; frozen ones are shared.

        Returns:
            a function whose context makes `evaluate_tokens` answer for the remembered policy.
        """
        pairs = [(p, p.detach().clone()) for p in self.module.parameters() if p.requires_grad]

        @contextmanager
        def reference() -> Iterator[None]:
            _exchange(pairs)
            try:
                yield
            finally:
                _exchange(pairs)

        return reference

    def shardable(self) -> nn.Module | None:
        """The part of `module` that may be cut into shards (FSDP): every pass over its weights goes through its
        `forward`, and it has `get_input_embeddings`. None where there is no such part."""
        return None

    def encode(self, episode: Episode) -> list[Segment]:
        """The tokens of an episode that somebody else played, as this policy would have sampled them; for supervised
        training. Their log-probabilities are 0. Acts it could not have written have no sampled tokens.

        Raises:
            ConfigError: the policy cannot learn from texts.
        """
        raise ConfigError(
            f"agent {self.name!r} cannot learn from recorded texts: it has no encode(); let it learn from episodes it "
            "plays itself"
        )

    def cost(self, sample: Sample) -> int:
        """Number of tokens `evaluate_tokens` must compute for a sample alone."""
        return len(sample.segment.tokens)

    def cut(self, samples: Sequence[Sample], budget: int) -> list[list[int]]:
        """Which samples go through `evaluate_tokens` together, where all at once would take too much memory.

        Here in order of falling cost (little padding), in parts whose costs add up to at most `budget` tokens; a
        sample that costs more is a part of its own.

        Returns:
            positions in `samples`, each in one part.
        """
        parts: list[list[int]] = []
        costs = [self.cost(sample) for sample in samples]
        spent = 0
        for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
            if not parts or spent + costs[i] > budget:
                parts.append([])
                spent = 0
            parts[-1].append(i)
            spent += costs[i]
        return parts

    def save(self, directory: Path) -> None:
        """Write weights (safetensors) and configuration (JSON) so that `load` gives an equal policy."""
        raise NotImplementedError

    def load_weights(self, directory: Path) -> None:
        """Load weights saved by `save` into this policy.

        Raises:
            CheckpointError: damaged, or of another architecture or tokenizer.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Architecture and size, as JSON, for the run's config and the checkpoint's compatibility check."""
        raise NotImplementedError


@torch.no_grad()
def _exchange(pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Exchange contents, not tensors: what holds on to the weights' memory (FSDP) sees it too."""
    for parameter, other in pairs:
        before = parameter.detach().clone()
        parameter.copy_(other)
        other.copy_(before)
