"""What else this package writes and reads again: each kind of file is made once, and opened as its reader opens it.

Used by `damage_runs.py`: an opener gives everything that the files say, comparable by ==.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.agents.memory.policy import MEMORY_FILE
from searchgym.agents.policy import Policy
from searchgym.corpora.web.answers import Answers
from searchgym.errors import CheckpointError
from searchgym.files import write_checksums
from searchgym.records.episode import load_episodes, save_episodes
from searchgym.rollouts.collection import open_agent
from searchgym.trainers.course.leaderboard import leaderboard_html, read_grades
from searchgym.trainers.credit_audit.store import ContinuationStore
from searchgym.trainers.prm.backbones import open_backbone
from searchgym.trainers.prm.labelling import LabelRequest, make_labels
from searchgym.trainers.prm.labels import StepLabels
from searchgym.trainers.prm.model import Reading, RewardModel, load_reward_model
from searchgym.trainers.prm.training import PRMSettings, train_reward_model
from searchgym.trainers.viewer.index import Index
from searchgym.trainers.viewer.sources import EpisodeFile, find_sources

FORKS = {"name": "forks", "family": "decoys", "train": 3, "dev": 1, "test": 1}
EDITED = ("grades", "preferences")
"""Files that people write and edit: other content is not damage, but must be read or refused."""

_PLAYED = LabelRequest(
    agent_options={"start": "lookup", "memory": False},
    env="SearchQA-Forks-v0",
    env_options={"corpus": FORKS, "split": "train", "max_rounds": 4},
    questions=3,
    group_size=3,
)
_MEMORY = {"name": "memory", "agent": "tiny", "memory": "skills"}
_WEB_KEYS = [{"api": "searxng", "query": f"query {number}", "k": 3} for number in range(8)]
_MADE_WITH = {"policy": "a", "seed": 1}


class Product:
    """A kind of files.

    Args:
        make: writes them into an existing directory.
        read: gives their content; called with the directory.
    """

    def __init__(self, make: Callable[[Path], None], read: Callable[[Path], Any]) -> None:
        self.make, self.read = make, read

    def files(self, place: Path) -> list[Path]:
        """The files that may be damaged."""
        found = sorted(p for p in place.rglob("*") if p.is_file() or p.is_symlink())
        return [p for p in found if not p.name.startswith(".") and not p.name.endswith(("-wal", "-shm"))]


def _labels() -> StepLabels:
    made = make_labels(_PLAYED)
    return StepLabels(
        made.kind, made.episodes, made.labels, made.advantages, made.errors, made_with=made.made_with
    )


def _read_labels(place: Path) -> Any:
    read = StepLabels.load(place)
    numbers = [[row.tolist() for row in part] for part in (read.labels, read.advantages, read.errors)]
    return read.kind, read.digest, read.made_with, read.pairs, numbers


def _make_model(place: Path) -> None:
    train_reward_model(
        _labels(), open_backbone("tiny", {"start": "forks"}), place, PRMSettings(epochs=1, batch_tokens=1024)
    )


def _read_model(place: Path) -> Any:
    model: RewardModel = load_reward_model(place)
    levels = model.levels([Reading((0, 5, 9, 40, 7, 300), (2, 5))])
    return model.loss, model.kind, model.changes, model.notes, [level.tolist() for level in levels]


def _make_continuations(place: Path) -> None:
    rng = np.random.default_rng(0)
    with ContinuationStore(place / "continuations.jsonl", _MADE_WITH) as store:
        for row in range(12):
            returns = {f"{row:02}{state}": {i: float(rng.integers(2)) for i in range(4)} for state in "abc"}
            store.add(returns, {"continuations": 12.0, "tokens": float(rng.integers(999))})


def _read_continuations(place: Path) -> Any:
    """A line at the end that is cut off is played again, as a whole one."""
    with ContinuationStore(place / "continuations.jsonl", _MADE_WITH) as store:
        rows = [f"{row:02}{state}" for row in range(12) for state in "abc"]
        missing = [state for state in rows if not store.returns(state)]
        if missing and missing != rows[-len(missing) :]:
            raise AssertionError(f"{missing} are gone")
        return _AnyBeginning([store.returns(state) for state in rows])


class _AnyBeginning(list[Any]):
    """Equal to a list that it begins; what follows is played again."""

    def __eq__(self, other: object) -> bool:
        known = [one for one in self if one]
        return isinstance(other, list) and known == list(other)[: len(known)]

    __hash__ = None  # type: ignore[assignment]


def _make_answers(place: Path) -> None:
    answers = Answers(place)
    for number, key in enumerate(_WEB_KEYS):
        answers.put(key, [{"url": f"https://a.example/{number}", "title": "T", "text": f"text {number}"}] * 3)


def _read_answers(place: Path) -> Any:
    """A damaged answer is fetched again."""
    expected = [
        [{"url": f"https://a.example/{number}", "title": "T", "text": f"text {number}"}] * 3
        for number in range(len(_WEB_KEYS))
    ]
    kept = [Answers(place).get(key) for key in _WEB_KEYS]
    return [was if now is None else now for now, was in zip(kept, expected, strict=True)]


def _episode_file(place: Path) -> EpisodeFile:
    """Episodes beside the directory, which are not damaged."""
    path = place.parent / "viewed.jsonl"
    if not path.exists():
        save_episodes(path, _labels().episodes * 40)
    (source,) = find_sources([path])
    (file,) = source.episode_files()
    return file


def _make_viewer(place: Path) -> None:
    Index(place / "index.sqlite").update([_episode_file(place)])


def _read_viewer(place: Path) -> Any:
    file = _episode_file(place)
    index = Index(place / "index.sqlite")
    index.update([file])
    (about,) = index.files().values()
    blocks = [json.loads(text) for text in index.blocks([block for block, _ in about["blocks"]]).values()]
    places = [index.place(file.path, line) for line in (0, 7, 100)]
    return about["lines"], about["problems"], blocks, places


def _make_grades(place: Path) -> None:
    measures = {"agreement": 0.5, "order": 0.25, "probes": 3.0}
    students = [
        {"student": name, "score": 80.0, "max_score": 100.0, "tests": [], "measures": measures, "files": {}}
        for name in ("alice", "bob")
    ]
    grades = {"schema": 1, "seed": 0, "references": {"uniform": measures}, "submissions": students}
    (place / "grades.json").write_text(json.dumps(grades, indent=1), "utf-8")


def _make_preferences(place: Path) -> None:
    episodes = _labels().episodes
    save_episodes(place.parent / "compared.jsonl", episodes)
    one, other = episodes[0].episode_id, episodes[1].episode_id
    rows = [{"better": [one, 1], "worse": [other, 1]}, {"better": [other, 1], "worse": [one, 1]}]
    (place / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _read_preferences(place: Path) -> Any:
    episodes = list(load_episodes(place.parent / "compared.jsonl"))
    return StepLabels.from_preferences(episodes, place / "preferences.jsonl", {}).pairs


def _memory_agent() -> Policy:
    agent = open_agent(_MEMORY)
    assert isinstance(agent, Policy)
    return agent


def _make_memory(place: Path) -> None:
    agent = _memory_agent()
    for episode in _labels().episodes:
        agent.memory.observe(episode)  # type: ignore[attr-defined]
    agent.save(place)
    write_checksums(place)
    assert (place / MEMORY_FILE).exists()


def _read_memory(place: Path) -> Any:
    if not place.is_dir():
        raise CheckpointError(f"{place} is gone")
    agent = _memory_agent()
    agent.load_weights(place)
    weights = {name: float(value.double().sum()) for name, value in agent.module.state_dict().items()}
    return weights, agent.memory.to_json()  # type: ignore[attr-defined]


PRODUCTS = {
    "labels": Product(lambda place: _labels().save(place), _read_labels),
    "reward model": Product(_make_model, _read_model),
    "continuations": Product(_make_continuations, _read_continuations),
    "web answers": Product(_make_answers, _read_answers),
    "viewer index": Product(_make_viewer, _read_viewer),
    "memory": Product(_make_memory, _read_memory),
    "grades": Product(_make_grades, lambda place: leaderboard_html(read_grades([place / "grades.json"]))),
    "preferences": Product(_make_preferences, _read_preferences),
}


def make_products(root: Path) -> None:
    """Write all kinds below a directory.

    Args:
        root: exists.
    """
    os.environ["SEARCHGYM_HOME"] = str(root / "home")
    for name, product in PRODUCTS.items():
        (root / name).mkdir()
        product.make(root / name)
