"""Labels of rounds, from which a step reward model learns: a directory of two files.

    episodes.jsonl   the episodes
    labels.json      {"schema": 2, "kind": …, "made_with": {…}, "labels": [[…], …], "advantages": …, "errors": …, "pairs": …}

labels.json also holds the digest of the labels with the episodes, and one of itself.

Three kinds, one list of `labels` per episode of R rounds:

    values        R + 1 levels: level t = rewards so far + the true value of the state after round t, level 0 that of the question.
                  So the advantage of round t is level t − level t − 1, and the last level is the episode's return. True values
                  come from enumeration or from continuations (trainers/credit_audit). Values of a search tree (trainers/components/search_tree.py) are
                  those of the search, which returns to acts that did well: they have levels, and no true advantages.
    verdicts      R scores of a judge in [0, 1] (`round_score`); null where its verdict failed.
    preferences   nothing; `pairs` holds [episode, round] that is better and [episode, round] that is worse.

Preferences between rounds that were chosen in the same state (the same question and the same messages before them) also follow
from values and from verdicts: `StepLabels.comparisons`.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, EpisodeFileError
from searchgym.files import json_digest, parse_json, read_bytes, read_json, seal, unseal, write_text
from searchgym.judges import Judge, traces_of
from searchgym.records.episode import Episode, load_episodes, save_episodes

from ..credit_audit.truth import TrueCredit
from .scores import round_score

__all__ = ["EPISODES_FILE", "LABELS_FILE", "Kind", "Place", "StepLabels"]

EPISODES_FILE, LABELS_FILE = "episodes.jsonl", "labels.json"
_SCHEMA = 2
_JUDGED_AT_ONCE = 256

Kind = Literal["values", "verdicts", "preferences"]
Place = tuple[int, int]
"""An episode, and a round of it, both counted from 0."""


@dataclass(frozen=True)
class StepLabels:
    """Episodes and what their rounds are worth; see the module docstring.

    Attributes:
        kind: of the labels.
        episodes: E episodes.
        labels: one array per episode, [R + 1], [R] or empty; NaN where a verdict failed.
        advantages: true advantage of each round, [R] per episode; empty unless the values are true ones.
        errors: their standard errors.
        pairs: the better place and the worse one (preferences).
        made_with: what the labels depend on, as JSON.
    """

    kind: Kind
    episodes: list[Episode]
    labels: list[NDArray[np.float64]]
    advantages: list[NDArray[np.float64]] = field(default_factory=list)
    errors: list[NDArray[np.float64]] = field(default_factory=list)
    pairs: list[tuple[Place, Place]] = field(default_factory=list)
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_truth(
        cls, episodes: Sequence[Episode], truth: Sequence[TrueCredit], made_with: Mapping[str, Any]
    ) -> StepLabels:
        """Labels from true values.

        Args:
            episodes: the episodes.
            truth: the true credit of each.
            made_with: see `StepLabels`.
        """
        levels = [np.cumsum([t.values_R[0], *t.advantages_R]) for t in truth]
        advantages, errors = [t.advantages_R for t in truth], [t.errors_R for t in truth]
        return cls("values", list(episodes), levels, advantages, errors, made_with=made_with)

    @classmethod
    def from_verdicts(
        cls, episodes: Sequence[Episode], judge: Judge, made_with: Mapping[str, Any]
    ) -> StepLabels:
        """Labels from a judge.

        Args:
            episodes: the episodes; verdicts that are recorded in them are not used.
            judge: judges their rounds.
            made_with: see `StepLabels`.
        """
        traces = [trace for episode in episodes for trace in traces_of(episode)]
        scores: list[float] = []
        for begin in range(0, len(traces), _JUDGED_AT_ONCE):
            part = traces[begin : begin + _JUDGED_AT_ONCE]
            verdicts = judge.judge(part)
            scores += [round_score(t.rounds[-1], v) for t, v in zip(part, verdicts, strict=True)]
        ends = np.cumsum([len(episode.rounds) for episode in episodes])
        return cls("verdicts", list(episodes), np.split(np.array(scores), ends[:-1]), made_with=made_with)

    @classmethod
    def from_preferences(
        cls, episodes: Sequence[Episode], path: Path, made_with: Mapping[str, Any]
    ) -> StepLabels:
        """Labels from a file of preferences: JSON lines {"better": [episode id, round], "worse": [episode id, round]}.

        Args:
            episodes: the episodes that the file speaks of; their ids must differ.
            path: the file; rounds count from 1.
            made_with: see `StepLabels`.

        Raises:
            ConfigError: a line that is no preference, names an unknown round, or two rounds of different questions.
        """
        numbers = {episode.episode_id: i for i, episode in enumerate(episodes)}
        if len(numbers) < len(episodes):
            raise ConfigError(
                f"{len(episodes)} episodes have {len(numbers)} ids: preferences need ids that differ"
            )
        pairs = []
        try:
            lines = read_bytes(path).splitlines()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
        for line, text in enumerate(lines, 1):
            try:
                row = parse_json(text)
                better, worse = (_place(row[key], numbers, episodes) for key in ("better", "worse"))
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(
                    f'{path}, line {line}: {error}; give {{"better": [episode id, round], "worse": [episode id, round]}} with '
                    "rounds of the episodes, from 1"
                ) from error
            if episodes[better[0]].task_id != episodes[worse[0]].task_id:
                raise ConfigError(
                    f"{path}, line {line} compares rounds of different questions: compare acts of one"
                )
            pairs.append((better, worse))
        return cls(
            "preferences", list(episodes), [np.zeros(0)] * len(episodes), pairs=pairs, made_with=made_with
        )

    @property
    def count(self) -> int:
        """Number of labelled rounds, or of preferences."""
        if self.kind == "preferences":
            return len(self.pairs)
        return sum(int(np.isfinite(scores).sum()) for scores in self._scores())

    @property
    def digest(self) -> str:
        """Digest of what a model learns from these labels."""
        texts = [[e.task_id, e.question, [[r.text, r.observation] for r in e.rounds]] for e in self.episodes]
        labels = [[None if math.isnan(x) else x for x in row] for row in self.labels]
        return json_digest([self.kind, texts, labels, self.pairs])

    def comparisons(self, margin: float) -> list[tuple[Place, Place]]:
        """Pairs of rounds, the better one first: the preferences, or different acts in one state with different labels.

        Args:
            margin: labels that differ by less are not compared.
        """
        if self.kind == "preferences":
            return self.pairs
        acts: dict[tuple[str, ...], dict[str, Place]] = {}
        scores = self._scores()
        for e, episode in enumerate(self.episodes):
            texts = [record.text for record in episode.rounds]
            for t, text in enumerate(texts):
                if not math.isnan(scores[e][t]):
                    acts.setdefault((episode.task_id, *texts[:t]), {}).setdefault(text, (e, t))
        found = []
        for places in acts.values():
            for one, other in itertools.combinations(places.values(), 2):
                gap = scores[one[0]][one[1]] - scores[other[0]][other[1]]
                if abs(gap) >= margin and gap != 0.0:
                    found.append((one, other) if gap > 0.0 else (other, one))
        return found

    def save(self, directory: Path) -> None:
        """Write the two files; labels.json last, so that a directory with it is complete."""
        directory.mkdir(parents=True, exist_ok=True)
        save_episodes(directory / EPISODES_FILE, self.episodes)
        data = {
            "schema": _SCHEMA,
            "kind": self.kind,
            "made_with": dict(self.made_with),
            "labels": [[None if math.isnan(x) else x for x in row] for row in self.labels],
            "advantages": [row.tolist() for row in self.advantages],
            "errors": [row.tolist() for row in self.errors],
            "pairs": self.pairs,
            "digest": self.digest,
        }
        write_text(directory / LABELS_FILE, json.dumps(seal(data), allow_nan=False) + "\n")

    @classmethod
    def load(cls, directory: Path) -> StepLabels:
        """Read what `save` wrote.

        Raises:
            ConfigError: there is no labels.json.
            EpisodeFileError: it or the episodes are damaged, or they do not belong together.
        """
        path = directory / LABELS_FILE
        if not path.is_file():
            raise ConfigError(
                f"{directory} holds no {LABELS_FILE}: make one with `searchgym prm label --out {directory}`"
            )
        episodes = list(load_episodes(directory / EPISODES_FILE))
        try:
            data = read_json(path)
            if data["schema"] != _SCHEMA:
                raise EpisodeFileError(
                    f"{path} has schema {data['schema']!r}, this version reads {_SCHEMA}: use the version of searchgym that "
                    "wrote it, or make the labels again with `searchgym prm label`"
                )
            data = unseal(data)
            rows = [np.array([math.nan if x is None else x for x in row]) for row in data["labels"]]
            advantages, errors = ([np.array(row) for row in data[key]] for key in ("advantages", "errors"))
            pairs = [((a, s), (b, t)) for (a, s), (b, t) in data["pairs"]]
            loaded = cls(data["kind"], episodes, rows, advantages, errors, pairs, data["made_with"])
            if loaded.digest != data["digest"]:
                raise ValueError("its digest is another one than that of the labels and episodes")
        except EpisodeFileError:
            raise
        except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
            raise EpisodeFileError(f"{path} is damaged or was made with other episodes: {error}") from error
        return loaded

    def _scores(self) -> list[NDArray[np.float64]]:
        """What a round's act is worth in comparison with others in its state, [R] per episode."""
        return [row[1:] for row in self.labels] if self.kind == "values" else self.labels


def _place(given: Any, numbers: Mapping[str, int], episodes: Sequence[Episode]) -> Place:
    name, number = given
    if name not in numbers:
        raise ValueError(f"there is no episode {name!r}")
    episode = numbers[name]
    if type(number) is not int or not 1 <= number <= len(episodes[episode].rounds):
        raise ValueError(
            f"episode {name!r} has {len(episodes[episode].rounds)} rounds, and no round {number!r}"
        )
    return episode, number - 1
