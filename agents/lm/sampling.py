"""Sampling the next token of every row: temperature, top-p, greedy, random numbers from outside.

Axis suffixes: _B rows, _V words of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from searchgym.errors import ConfigError, TrainingError

from ..rng_streams import RngStreams

__all__ = ["Sampling", "sample"]

_BLOCK = 1024  # words
_BLOCK_FROM = 2**15  # words; below, summing all of them is as fast
_LIKELIEST = 512


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: from softmax(logits / temperature), restricted to the `top_p` nucleus, or its mode.

    Attributes:
        generator: source of randomness of all slots, row by row.
        temperature: of the softmax.
        top_p: probability mass of the nucleus.
        greedy: take the most likely token.
        rng_streams: one stream per slot, used in place of `generator`.

    Raises:
        ConfigError: temperature or `top_p` out of range.
    """

    generator: torch.Generator
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    rng_streams: RngStreams | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature!r}: give a positive number, or greedy=True")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p!r}: give a number above 0, at most 1")


def sample(logits_BV: Tensor, sampling: Sampling, uniform_B1: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    The cumulative distribution is inverted in float64 with one float32 uniform number per row, so a token of
    probability 0 is never drawn. A large vocabulary is summed up block by block, the result is the same distribution; on a
    CPU it is done row by row, because a row of 262,144 words fits a cache and a batch of them does not.

    Args:
        logits_BV: one row per slot.
        sampling: temperature, nucleus and generator.
        uniform_B1: the numbers to draw with; None draws them from the generator.

    Returns:
        tokens_B, and logprobs_B under softmax(logits / temperature), independent of `top_p` and `greedy`.

    Raises:
        TrainingError: the logits are not finite.
    """
    if uniform_B1 is None and not sampling.greedy:
        uniform_B1 = torch.rand(len(logits_BV), 1, generator=sampling.generator)
    if logits_BV.shape[-1] <= _BLOCK_FROM or logits_BV.device.type != "cpu":
        return _sample(logits_BV, sampling, uniform_B1)
    rows = range(len(logits_BV))
    uniforms = [None if uniform_B1 is None else uniform_B1[i : i + 1] for i in rows]
    tokens, logprobs = zip(*(_sample(logits_BV[i : i + 1], sampling, uniforms[i]) for i in rows), strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _sample(logits_BV: Tensor, sampling: Sampling, uniform_B1: Tensor | None) -> tuple[Tensor, Tensor]:
    """`sample` of some rows, with the numbers to draw with unless it is greedy."""
    logits_BV = logits_BV.float()
    if sampling.temperature != 1:
        logits_BV = logits_BV / sampling.temperature
    logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
    if not bool(torch.isfinite(logprobs_BV.sum())):
        raise TrainingError(
            "the model's logits are not finite: its weights have diverged; resume from an earlier checkpoint "
            "with a lower learning rate"
        )
    if uniform_B1 is None:
        tokens_B = logprobs_BV.argmax(-1)
    else:
        tokens_B = _invert(logprobs_BV, sampling.top_p, uniform_B1)
    return tokens_B, logprobs_BV.gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)


def _invert(logprobs_BV: Tensor, top_p: float, uniform_B1: Tensor) -> Tensor:
    """The words at which the cumulative distribution of the nucleus passes a share of its mass."""
    words = logprobs_BV.shape[-1]
    if words <= _BLOCK_FROM:
        return _passed(_nucleus(logprobs_BV.double().exp(), top_p), uniform_B1)[0]
    # Of a large vocabulary only the block in which the word lies is summed up word by word.
    weights_BV = _nucleus(logprobs_BV.exp(), top_p)
    if words % _BLOCK:
        weights_BV = functional.pad(weights_BV, (0, -words % _BLOCK))
    blocks_BMC = weights_BV.view(len(weights_BV), -1, _BLOCK)
    block_B, left_B1 = _passed(blocks_BMC.sum(-1).double(), uniform_B1)
    inside_BC = blocks_BMC[torch.arange(len(block_B), device=block_B.device), block_B].double()
    cumulative_BC = inside_BC.cumsum(-1)
    # A sum in another order may end a rounding below the aim: the last word with any mass, then.
    aims_B1 = torch.minimum(left_B1, cumulative_BC[:, -1:].nextafter(torch.zeros(())))
    return block_B * _BLOCK + torch.searchsorted(cumulative_BC, aims_B1, right=True).squeeze(-1)


def _passed(masses_BV: Tensor, uniform_B1: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum passes a share of the total, and the mass that is then left, [B] and [B, 1]."""
    cumulative_BV = masses_BV.cumsum(-1)
    aims_B1 = uniform_B1.to(cumulative_BV) * cumulative_BV[:, -1:]
    at_B1 = torch.searchsorted(cumulative_BV, aims_B1, right=True)
    before_B1 = (cumulative_BV - masses_BV).gather(-1, at_B1)
    return at_B1.squeeze(-1), (aims_B1 - before_B1).clamp(min=0.0)


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of most likely tokens whose probabilities reach `top_p`; equal ones in order of id."""
    if top_p == 1:
        return probabilities_BV
    words, count = probabilities_BV.shape[-1], _LIKELIEST
    while True:  # most nuclei are small, and sorting a large vocabulary is dear
        count = min(count, words)
        ordered_BC = probabilities_BV.topk(count, dim=-1).values
        before_BC = ordered_BC.cumsum(-1, dtype=torch.float64) - ordered_BC
        if count == words or bool((before_BC[:, -1] >= top_p).all()):
            break
        count *= 8
    kept_B1 = (before_BC < top_p).sum(-1, keepdim=True)
    least_B1 = ordered_BC.gather(-1, kept_B1 - 1)
    above_BV, equal_BV = probabilities_BV > least_B1, probabilities_BV == least_B1
    room_B1 = kept_B1 - above_BV.sum(-1, keepdim=True)
    return probabilities_BV.where(above_BV | (equal_BV & (equal_BV.cumsum(-1) <= room_B1)), 0.0)
