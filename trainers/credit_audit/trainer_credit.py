"""The credit that a trainer gives recorded episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.answer_probes import AnswerProbe, AnswerProber, Evaluate, ProbedAnswers
from searchgym.agents.policy import Policy, Sample, TokenOutputs

from ..core.algorithm import Algorithm, TrainContext
from ..core.groups import Group, Groups, drop_invalid

__all__ = ["Given", "trainer_credit"]


@dataclass(frozen=True)
class Given:
    """What a trainer gave.

    Attributes:
        credit_R: its credit of each round: the mean over the round's tokens, 0 for rounds that it does not learn from.
        unit: what it gives one value to: "episode", "round" or "token".
        pass_tokens: tokens of the forward passes that it made.
    """

    credit_R: NDArray[np.float64]
    unit: str
    pass_tokens: int


def trainer_credit(
    algorithm: Algorithm, policy: Policy, groups: Sequence[Group], rng: np.random.Generator
) -> Given:
    """The credit that an algorithm gives each round.

    Rounds of episodes that the algorithm does not learn from get 0, because they do not move the policy.

    Args:
        algorithm: not set up yet, or set up with this policy.
        policy: played the episodes.
        groups: the episodes.
        rng: the algorithm's source of randomness.

    Raises:
        ConfigError: it needs forward passes of a policy that has no weights.
    """
    algorithm.setup(TrainContext(policy, rng))
    algorithm.extra_modules()
    valid, _ = drop_invalid(groups)
    rewarded = Groups(valid, [algorithm.rewards(group) for group in valid])
    chosen = algorithm.select(rewarded)
    kept = Groups(
        [group for group, keep in zip(rewarded, chosen, strict=True) if keep],
        [r_G for r_G, keep in zip(rewarded.rewards, chosen, strict=True) if keep],
    )
    episodes = [episode for group in groups for episode in group]
    first = dict(
        zip(map(id, episodes), np.cumsum([0, *(len(e.rounds) for e in episodes)]).tolist(), strict=False)
    )
    credit_R = np.zeros(sum(len(episode.rounds) for episode in episodes))
    if not kept.samples:
        return Given(credit_R, "episode", 0)
    with _counting(policy) as passed:
        algorithm.prepare(policy, kept)
        given = algorithm.credit(kept)
    tokens, values_N = kept.tokens, given.to_tokens(kept)
    if given.loss_mask_N is not None:
        values_N = np.where(given.loss_mask_N, values_N, 0.0)
    owner_E = np.array([first[id(episode)] for episode in kept.episodes])
    place_N = owner_E[tokens.episode_N] + tokens.round_N
    counts_R = np.bincount(place_N, minlength=len(credit_R))
    sums_R = np.bincount(place_N, values_N, minlength=len(credit_R))
    credit_R = np.where(counts_R > 0, sums_R / np.maximum(counts_R, 1), 0.0)
    return Given(credit_R, given.unit, sum(passed))


@contextmanager
def _counting(policy: Policy) -> Iterator[list[int]]:
    """The number of tokens of each forward pass that the policy makes meanwhile."""
    passed: list[int] = []
    evaluate = policy.evaluate_tokens

    def counted(samples: Sequence[Sample]) -> TokenOutputs:
        passed.append(sum(len(sample.segment.tokens) for sample in samples))
        return evaluate(samples)

    policy.evaluate_tokens = counted  # type: ignore[method-assign]
    if isinstance(policy, AnswerProber):
        probe = policy.probe_answers

        def probed(probes: Sequence[AnswerProbe], evaluate: Evaluate) -> ProbedAnswers:
            before = len(passed)
            said = probe(probes, evaluate)
            if len(passed) == before:  # without forward passes: the candidate policy's
                passed.append(said.tokens)
            return said

        policy.probe_answers = probed  # type: ignore[method-assign]
    try:
        yield passed
    finally:
        del policy.evaluate_tokens
        if isinstance(policy, AnswerProber):
            del policy.probe_answers
