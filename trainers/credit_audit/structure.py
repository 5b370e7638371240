"""What a set of questions is made of under a policy, measured by enumeration: how much its rounds decide.

By the law of total variance, for the return R of an episode of one question and the advantage A_t of its t-th act,

    Var(R) = Σ_t E[A_t²]

so the variance of outcomes divides exactly among rounds, and in each round among acts that search and acts that end.

    fork share        share of the visited states in which the standard deviation of Q over the policy's acts exceeds `fork`
    recoverability    mean of Q(s, a) / V(s) over the wrong turns at forks: acts that do not end the episode and have A < −`neutral`.
                      0: a wrong turn loses the answer; 1: it costs nothing
    decisive share    E[A_t²] / Var(R) of the round t in which it is largest
    search share      E[A_t²] / Var(R) of the acts that do not end the episode, over all rounds
    right searches    mean number of searches in episodes that are answered rightly
    evidence share    share of them that return a gold page for the first time: what the oracle judge counts as contributing
    credited share    share of them with A > `neutral`: those that made the right answer likelier

Means over visits weigh each state with the probability of reaching it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.options import number

from .exact import ExactValues

__all__ = ["Structure", "measure_structure"]


@dataclass(frozen=True, slots=True)
class Structure:
    """See the module docstring.

    Attributes:
        questions: number of questions.
        value: expected return.
        rounds: expected rounds of an episode.
        variance: Var(R) of one question's episodes, mean over the questions.
        fork_share: see above.
        recoverability: see above; None if no fork has a wrong turn.
        decisive_round: number of the round that decides most, from 1; None if nothing is decided.
        decisive_share: see above; None if nothing is decided.
        search_share: see above; None if nothing is decided.
        right_searches: see above; None if no answer is right.
        evidence_share: see above; None without searches in right answers.
        credited_share: see above; None without searches in right answers.
        round_shares: E[A_t²] / Var(R) of each round; they sum to 1, or are empty if nothing is decided.
    """

    questions: int
    value: float
    rounds: float
    variance: float
    fork_share: float
    recoverability: float | None
    decisive_round: int | None
    decisive_share: float | None
    search_share: float | None
    right_searches: float | None
    evidence_share: float | None
    credited_share: float | None
    round_shares: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON value."""
        return {**asdict(self), "round_shares": list(self.round_shares)}


def measure_structure(
    policy: Policy,
    envs: SearchVectorEnv,
    task_ids: Sequence[str],
    *,
    fork: float = 0.15,
    neutral: float = 0.02,
    max_states: int = 300_000,
) -> Structure:
    """Enumerate what the policy can do on some questions and measure what it is made of.

    Args:
        policy: an `EnumerablePolicy`.
        envs: an environment that pays 1 for a right answer and 0 for all else.
        task_ids: distinct questions.
        fork: standard deviation of Q above which a state is a fork.
        neutral: advantages of at most this size change nothing.
        max_states: see `ExactValues`.

    Raises:
        ConfigError: the reward is not EM alone, a threshold is negative, or see `ExactValues`.
    """
    number("fork", fork, 0.0)
    number("neutral", neutral, 0.0)
    if dict(envs.config.reward) != {"em": 1.0}:
        raise ConfigError(
            f'reward is {dict(envs.config.reward)}: the structure is measured on right and wrong answers; use reward="em"'
        )
    values = ExactValues(policy, envs, max_states, track_gold=True)
    values.solve(task_ids)
    squares = np.zeros(envs.config.max_rounds)
    visits = forks = of_searches = 0.0
    wrong_turns = kept = right = searches = evidence = credited = 0.0
    for state in values.decisions():
        advantages_C = state.q_C - state.value
        square_C = state.reach * state.probs_C * advantages_C**2
        squares[state.round - 1] += square_C.sum()
        of_searches += square_C[state.continues_C].sum()
        visits += state.reach
        is_fork = square_C.sum() > state.reach * fork**2
        forks += state.reach * is_fork
        if is_fork:
            wrong_C = state.reach * state.probs_C * (state.continues_C & (advantages_C < -neutral))
            wrong_turns += float(wrong_C.sum())
            kept += float(wrong_C @ state.q_C) / state.value
        # Q is the probability of a right answer from here on, so these are sums over episodes with a right answer.
        right_C = state.reach * state.probs_C * state.q_C
        right += right_C[~state.continues_C].sum()
        searches += right_C[state.continues_C].sum()
        evidence += right_C[state.new_gold_C].sum()
        credited += right_C[state.continues_C & (advantages_C > neutral)].sum()
    variance = float(squares.sum())
    decided = variance > 0
    return Structure(
        questions=len(task_ids),
        value=float(np.mean([values.value(task_id) for task_id in task_ids])),
        rounds=float(visits),
        variance=variance,
        fork_share=float(forks / visits),
        recoverability=float(kept / wrong_turns) if wrong_turns else None,
        decisive_round=int(squares.argmax()) + 1 if decided else None,
        decisive_share=float(squares.max() / variance) if decided else None,
        search_share=float(of_searches / variance) if decided else None,
        right_searches=float(searches / right) if right else None,
        evidence_share=float(evidence / searches) if searches else None,
        credited_share=float(credited / searches) if searches else None,
        round_shares=tuple((squares / variance).tolist()) if decided else (),
    )
