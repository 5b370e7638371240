"""A small run directory for tests of the viewer: two iterations of training, an evaluation, credit, metrics; made in a moment."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np

from searchgym.records.episode import Episode, Segment
from searchgym.rollouts.collection import rollout
from searchgym.trainers.runs.credit_record import CreditRecord, EpisodeCredit
from searchgym.trainers.runs.directory import RunDirectory

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> \x1b[31mred \u202egnp.exe\u2069 \ud800 &amp;'
"""Markup, an ANSI escape, bidirectional controls and a lone surrogate."""


def played(toy: str, agent: str, start: int = 0) -> list[Episode]:
    """Four episodes of the toy corpus, two of each of two questions, with one token per round."""
    found = []
    for i, one in enumerate(
        rollout("SearchQA-v0", agent, corpus=toy, split="train", episodes=2, judge="oracle") * 2
    ):
        episode = deepcopy(one)
        rounds = len(episode.rounds)
        segment = Segment(list(range(rounds)), [1] * rounds, [-0.5] * rounds, list(range(rounds)))
        name = f"e{start + i}"
        found.append(
            replace(episode, episode_id=name, group_id=f"g{i % 2}", tree_id=name, segments=[segment])
        )
    return sorted(found, key=lambda episode: episode.group_id)


def credit(episodes: list[Episode], iteration: int) -> CreditRecord:
    """Credit 0.5 for the first round of every episode, −0.25 for the others."""
    given = []
    for episode in episodes:
        values = np.array([0.5, *[-0.25] * (len(episode.rounds) - 1)])
        rounds = np.arange(len(values), dtype=np.int32)
        mask = np.ones(len(values), dtype=bool)
        given.append(
            EpisodeCredit(
                episode.episode_id, episode.group_id, "learned", episode.reward, episode.reward, 0.1,
                values.astype(np.float32), rounds, mask, values,
            )
        )  # fmt: skip
    return CreditRecord(iteration, "cw-grpo", "CWGRPO", "round", given)


def metrics(iteration: int, em: float) -> dict[str, object]:
    """A row of metrics.jsonl."""
    counts = {"episodes": 4, "invalid_episodes": 0, "groups": 2, "equal_groups": 0}
    interval = {"mean": em, "low": em / 2, "high": 1.0}
    return {
        "iteration": iteration,
        **counts,
        "em": em,
        "reward": em,
        "step_kl": 0.5,
        "alarms": [],
        "eval": {"metrics": {"em": interval}},
    }


def write_run(path: Path, toy: str) -> Path:
    """The run."""
    config = {"trainer": "cw-grpo", "agent": "tiny", "env": "SearchQA-v0", "iterations": 2}
    with RunDirectory.create(path, {"config": config, "settings": {"group_size": 2}}) as run:
        for iteration, agent in ((1, "random"), (2, "oracle")):
            episodes = played(toy, agent, 10 * iteration)
            run.save_episodes(f"train-{iteration:06}", episodes, credit(episodes, iteration))
            run.append("metrics.jsonl", metrics(iteration, iteration / 2))
        run.save_episodes("eval-000002", played(toy, "copy", 30))
    return path


def hostile(episode: Episode) -> Episode:
    """The episode with hostile text wherever a model, a corpus or a judge may write."""
    record = episode.rounds[0]
    record.text = f"<think>{HOSTILE}</think><search>{HOSTILE}</search>"
    record.action = record.action._replace(queries=(HOSTILE,))
    record.results = [[hit._replace(title=HOSTILE, text=HOSTILE) for hit in hits] for hits in record.results]
    record.judge = replace(record.judge, reason=HOSTILE)
    record.observation = HOSTILE
    outcome = replace(episode.outcome, answer=HOSTILE)
    return replace(
        episode,
        question=HOSTILE,
        task_id=HOSTILE,
        outcome=outcome,
        gold=episode.gold | {"answers": [HOSTILE]},
    )
