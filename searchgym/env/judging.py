"""Runs a judge for environments: in every step, or after the episodes. `judges.protocol` defines what a judge is.

- Searches, answers and invalid acts are judged. A `feedback` act, an end from outside and a round whose retrieval
  failed have status "off".
- A failed judgement has status "error" and no number. It never ends an episode; if the reward needs it, the episode
  is not valid for training.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import PluginError, UnknownIdError
from ..judges import Grade, Verdict, no_verdict
from ..judges.protocol import Judge, Trace, traces_of
from ..records.episode import Episode, RoundRecord
from ..records.question import Question
from .config import JUDGE_WHEN, EnvConfig
from .episode_state import EpisodeState

__all__ = ["Costs", "ask_judge", "finish_steps", "judge_episodes"]


class Costs:
    """What judging cost so far: counts, seconds, and the costs that the verdicts report (calls, tokens, usd)."""

    def __init__(self) -> None:
        self.judgements = self.errors = 0
        self.seconds = 0.0
        self.named: dict[str, float] = {"calls": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0.0}

    def add(self, results: Iterable[Verdict | Grade], seconds: float) -> None:
        """Count the results of one call."""
        self.seconds += seconds
        for result in results:
            self.judgements += 1
            self.errors += result.status == "error"
            for name, value in result.cost.items():
                self.named[name] = self.named.get(name, 0) + value

    def to_stats(self) -> dict[str, float]:
        """For `env.unwrapped.stats`: judgements, judge_errors, judge_seconds, judge_calls, …; all 0 without a judge."""
        own = {"judgements": self.judgements, "judge_errors": self.errors, "judge_seconds": self.seconds}
        return own | {f"judge_{name}": value for name, value in self.named.items()}


def finish_steps(config: EnvConfig, states: Sequence[EpisodeState], costs: Costs) -> list[RoundRecord]:
    """Finish the step of each episode with the verdict it waits for; one call of the judge for all of them.

    Args:
        config: its judge is called.
        states: episodes whose results have been applied.
        costs: counts what the judge cost.
    """
    assert config.judge is not None
    traces = [state.to_judge() for state in states]
    verdicts = iter(ask_judge(config.judge, [trace for trace in traces if trace is not None], costs))
    answers = [state.to_grade() for state in states]
    graded = [
        (state.question, answer) for state, answer in zip(states, answers, strict=True) if answer is not None
    ]
    grades = iter(_grade(config.judge, graded, costs))
    return [
        state.finish_step(
            None if trace is None else next(verdicts),
            None if answer is None else next(grades),
        )
        for state, trace, answer in zip(states, traces, answers, strict=True)
    ]


def judge_episodes(
    judge: Judge, episodes: Sequence[Episode], when: str = "end", costs: Costs | None = None
) -> None:
    """Fill `episode.rounds[t].judge` of the rounds that a verdict is pending for; one call of the judge.

    Args:
        judge: returns the verdicts.
        episodes: all episodes of the groups they belong to: "unequal" compares rewards within `group_id`.
        when: "end": all episodes; "success": episodes with an exact match; "unequal": episodes of groups whose valid
            episodes have unequal rewards; "unequal-success": both. Rounds of other episodes, and of episodes that
            are not valid for training, get status "off" and the reason.
        costs: counts what the judge cost.

    Raises:
        UnknownIdError: an unknown `when`, or "step", which only an environment can do.
        PluginError: the judge did not return one verdict per trace.
    """
    if when not in JUDGE_WHEN[1:]:
        raise UnknownIdError("judge_when", when, JUDGE_WHEN[1:])
    waiting: list[tuple[RoundRecord, Trace]] = []
    unequal = _unequal_groups(episodes)
    for episode in episodes:
        reason = _not_judged(episode, when, unequal)
        pending = [t for t, r in enumerate(episode.rounds) if r.judge.status == "pending"]
        traces = traces_of(episode) if pending and not reason else []
        for t in pending:
            if reason:
                episode.rounds[t].judge = no_verdict("off", reason)
            else:
                waiting.append((episode.rounds[t], traces[t]))
    verdicts = ask_judge(judge, [trace for _, trace in waiting], costs or Costs())
    for (record, _), verdict in zip(waiting, verdicts, strict=True):
        record.judge = verdict.without_cost()


def _not_judged(episode: Episode, when: str, unequal: set[str]) -> str:
    """Why an episode is not judged; "" if it is judged."""
    if not episode.valid_for_training:
        return "not judged: the episode is not valid"
    if when in ("success", "unequal-success") and not episode.outcome.em:
        return "not judged: the answer is not right"
    if when in ("unequal", "unequal-success") and episode.group_id not in unequal:
        return "not judged: the group's rewards are equal"
    return ""


def _unequal_groups(episodes: Sequence[Episode]) -> set[str]:
    """Ids of the groups whose valid episodes have unequal rewards."""
    rewards: dict[str, set[float]] = {}
    for episode in episodes:
        if episode.valid_for_training:
            rewards.setdefault(episode.group_id, set()).add(episode.reward)
    return {group for group, found in rewards.items() if len(found) > 1}


def ask_judge(judge: Judge, traces: list[Trace], costs: Costs) -> list[Verdict]:
    """One call of the judge, timed, counted and checked.

    Args:
        judge: returns the verdicts.
        traces: what to judge; without any, nothing is called.
        costs: counts what it cost.

    Raises:
        PluginError: the judge did not return one verdict per trace.
    """
    if not traces:
        return []
    started = time.perf_counter()
    verdicts = list(judge.judge(traces))
    _check_answer(judge, verdicts, len(traces), Verdict)
    costs.add(verdicts, time.perf_counter() - started)
    return verdicts


def _grade(judge: Any, graded: list[tuple[Question, str]], costs: Costs) -> list[Grade]:
    if not graded:
        return []
    started = time.perf_counter()
    grades = list(judge.grade([question for question, _ in graded], [answer for _, answer in graded]))
    _check_answer(judge, grades, len(graded), Grade)
    costs.add(grades, time.perf_counter() - started)
    return grades


def _check_answer(judge: Judge, results: list[Any], count: int, kind: type) -> None:
    if len(results) != count or not all(isinstance(result, kind) for result in results):
        raise PluginError(
            f"judge {judge.name!r} gave {len(results)} results ({', '.join({type(r).__name__ for r in results})}) for "
            f"{count} questions: give one {kind.__name__} for each (searchgym.conformance.check_judge checks it)"
        )
