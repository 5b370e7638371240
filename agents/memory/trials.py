"""Several trials of the same questions, with a memory between them and without: what the memory is worth.

The control plays the same number of trials of the same questions with an equal agent that is shown nothing. What both gain from
trial to trial is luck, the choice of the best of several samples included; what only the first gains is the memory's share.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.options import check_count
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import collect
from searchgym.statistics import Interval, bootstrap

from .agent import MemoryAgent

__all__ = ["Trials", "run_trials"]


@dataclass(frozen=True, slots=True)
class Trials:
    """What several trials gave.

    Attributes:
        solved: share of questions solved in one of the first t trials, with the memory; one entry per t.
        control: the same without.
        share: the difference of their last entries, with its interval over questions.
        episodes: the trials with the memory, by trial; a question that is solved is not played again.
        failed: episodes lost to infrastructure, of both; their question counts as not solved in that trial.
    """

    solved: list[Interval]
    control: list[Interval]
    share: Interval
    episodes: list[list[Episode]]
    failed: int

    def to_json(self) -> dict[str, Any]:
        """Everything but the episodes, as JSON data."""
        return {
            "solved": [one.to_json() for one in self.solved],
            "control": [one.to_json() for one in self.control],
            "share": self.share.to_json(),
            "failed": self.failed,
        }


def run_trials(
    envs: SearchVectorEnv, agent: MemoryAgent, tasks: Sequence[str], trials: int = 3, seed: int = 0
) -> Trials:
    """Play questions up to `trials` times, until they are solved; the memory is told of every trial.

    Args:
        envs: where the episodes are played.
        agent: plays; its memory learns. `recall` is as it was afterwards.
        tasks: ids of the questions, each once.
        trials: trials of a question at most.
        seed: of the episodes' ids, and of a policy's sampling, which both series begin with.

    Raises:
        ConfigError: `trials` is not a number of at least 1, no question, one that is given twice, or an environment in which no
            answer is given.
    """
    check_count("trials", trials, 1)
    if envs.config.task == "query":
        raise ConfigError(
            "a question is solved by its answer, and task 'query' has none: choose an environment with answers"
        )
    if not tasks or len(set(tasks)) != len(tasks):
        raise ConfigError(f"{len(tasks)} tasks, {len(set(tasks))} of them different: give each question once")
    recall = agent.recall
    try:
        agent.recall = "never"
        control_QT, _, lost = _series(envs, agent, tasks, trials, seed, learn=False)
        agent.recall = "always"
        solved_QT, episodes, also_lost = _series(envs, agent, tasks, trials, seed, learn=True)
    finally:
        agent.recall = recall
    share = bootstrap((solved_QT[:, -1].astype(float) - control_QT[:, -1]).tolist())
    return Trials(
        [bootstrap(column.astype(float).tolist()) for column in solved_QT.T],
        [bootstrap(column.astype(float).tolist()) for column in control_QT.T],
        share,
        episodes,
        lost + also_lost,
    )


def _series(
    envs: SearchVectorEnv, agent: MemoryAgent, tasks: Sequence[str], trials: int, seed: int, *, learn: bool
) -> tuple[Any, list[list[Episode]], int]:
    """Whether each question was solved by trial t, [Q, T]; the episodes by trial; how many were lost."""
    generator = getattr(agent, "generator", None)
    if generator is not None:
        generator.manual_seed(seed)
    source = random.Random(seed)
    solved_QT = np.zeros((len(tasks), trials), bool)
    played: list[list[Episode]] = []
    for trial in range(trials):
        if trial:
            solved_QT[:, trial] = solved_QT[:, trial - 1]
        open_Q = [q for q in range(len(tasks)) if not solved_QT[q, trial]]
        episodes = collect(envs, agent, [tasks[q] for q in open_Q], ids=source) if open_Q else []
        for q, episode in zip(open_Q, episodes, strict=True):
            solved_QT[q, trial] = episode.valid_for_training and bool(episode.outcome.em)
            if learn:
                agent.memory.observe(episode)
        played.append(episodes)
    lost = sum(not episode.valid_for_training for episodes in played for episode in episodes)
    return solved_QT, played, lost
