"""The trainable agent: what a trainer needs beyond `Agent`.

A trainer treats a policy as a black box. It plays episodes with it (`act` records token ids and log-probabilities),
later computes the log-probabilities of the same ids under the current weights (`evaluate_tokens`), and steps an
optimizer over `module`. Nothing is decoded and tokenised again.

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
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Segment

from .rng_streams import RngStreams

__all__ = ["Policy", "Sample", "TokenOutputs"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sequence.

    Attributes:
        episode: the episode.
        segment: one of its segments.
    """

    episode: Episode
    segment: Segment


class TokenOutputs:
    """Outputs of the current weights for the sampled tokens of a list of samples.

    Args:
        logprobs_N: log-probability of each sampled token under the tempered distribution; carries gradients.
        entropy_N: entropy, in nats, of the tempered distribution it was drawn from; carries gradients.
        hidden_N: last hidden state at the position that predicts it, [N, width]; for value heads. Where computing it takes
            time of its own: a function that does, which is called when it is read.
    """

    __slots__ = ("_hidden_N", "entropy_N", "logprobs_N")

    def __init__(
        self, logprobs_N: Tensor, entropy_N: Tensor, hidden_N: Tensor | Callable[[], Tensor]
    ) -> None:
        self.logprobs_N, self.entropy_N = logprobs_N, entropy_N
        self._hidden_N = hidden_N

    @property
    def hidden_N(self) -> Tensor:
        """Last hidden state at the position that predicts each token, [N, width]."""
        if not isinstance(self._hidden_N, Tensor):
            self._hidden_N = self._hidden_N()
        return self._hidden_N


class Policy(Agent):
    """Base class of trainable agents.

    Attributes:
        module: the weights; a trainer optimises those of `module.parameters()` that require gradients.
        version: number of optimizer updates; the trainer increments it, and every round records it.
        temperature: temperature of the sampling distribution; log-probabilities belong to the tempered distribution.
        top_p: probability mass of the nucleus that is sampled from; below 1 only for evaluation, because a truncated
            distribution has no importance ratio.
        greedy: take the most likely token (evaluation).
        generator: the source of randomness of `act`; its state is saved in checkpoints.
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

        Gradients flow unless the caller disabled them. With the same weights, the values equal those that `act`
        recorded up to float tolerance. An empty list gives empty tensors; `hidden_N` then still has its width.
        """
        raise NotImplementedError

    @contextmanager
    def remembering(self, episodes: Sequence[Episode]) -> Iterator[None]:
        """A context in which continuing these episodes computes nothing again that was computed for them.

        The weights must not change in it. By default nothing is remembered.

        Args:
            episodes: episodes that this policy played.
        """
        yield

    def freeze_reference(self) -> Callable[[], AbstractContextManager[None]]:
        """Remember the policy as it is now, as the reference of a KL term.

        By default the trainable weights are copied and frozen ones are shared.

        Returns:
            A function that returns a context in which `evaluate_tokens` uses the remembered weights.
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

    def fsdp_module(self) -> nn.Module | None:
        """The part of `module` that FSDP can shard, or None.

        Every pass over its weights must go through its `forward`, and it must have `get_input_embeddings`.
        """
        return None

    def encode(self, episode: Episode) -> list[Segment]:
        """The tokens of an episode of another agent, as this policy would have sampled them, for supervised training.

        Log-probabilities are 0. Acts that this policy cannot write have no sampled tokens.

        Raises:
            ConfigError: the policy cannot learn from texts.
        """
        raise ConfigError(
            f"agent {self.name!r} cannot learn from recorded texts: it has no encode(); let it learn from episodes "
            "that it plays itself"
        )

    def cost(self, sample: Sample) -> int:
        """Number of tokens that `evaluate_tokens` computes for a single sample."""
        return len(sample.segment.tokens)

    def micro_batches(self, samples: Sequence[Sample], budget: int) -> list[list[int]]:
        """Split samples into parts that go through `evaluate_tokens` one at a time, to limit memory.

        By default in order of falling cost (little padding), in parts whose costs sum to at most `budget` tokens; a
        sample that costs more is a part of its own.

        Args:
            samples: the samples.
            budget: tokens of one part.

        Returns:
            Positions in `samples`, each in exactly one part.
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
        """Write weights (safetensors) and configuration (JSON) to a directory."""
        raise NotImplementedError

    def load_weights(self, directory: Path) -> None:
        """Load weights that `save` wrote.

        Raises:
            CheckpointError: they are damaged, or belong to another architecture or tokenizer.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Architecture and size, as JSON, for the run's configuration and the check that a checkpoint fits."""
        raise NotImplementedError


@torch.no_grad()
def _exchange(pairs: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Exchange the contents, not the tensors, because FSDP keeps references to the weights' memory."""
    for parameter, other in pairs:
        before = parameter.detach().clone()
        parameter.copy_(other)
        other.copy_(before)
