"""The credit of an iteration: what each round and each sampled token received, saved with the training episodes.

    episodes/train-000010.jsonl                  the episodes that were played
    credit/train-000010.safetensors              the credit they received

    record = load_credit("runs/mine")            the newest; load_credit("runs/mine", 10) that of iteration 10
    record["e3f0…"].rounds_R                     one episode's credit, round by round

The record holds the credit as the algorithm's `credit` returned it: before truncated importance sampling weights it, and
before the copies of a shared round are merged. No torch in this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from searchgym.errors import RunDirectoryError
from searchgym.files import arrays_check, open_regular, replacing

if TYPE_CHECKING:
    from searchgym.records.episode import Episode

    from ..core.credit import Credit
    from ..core.groups import Groups

__all__ = [
    "CreditRecord",
    "EpisodeCredit",
    "credit_metrics",
    "credit_path",
    "load_credit",
    "make_record",
    "save_credit",
]

_SCHEMA = 1
_FOLDER, _SUFFIX = "credit", ".safetensors"
_FILE = re.compile(r"train-(\d{6,})" + re.escape(_SUFFIX))

Status = Literal["learned", "skipped", "invalid"]


@dataclass(frozen=True, slots=True)
class EpisodeCredit:
    """The credit of one episode.

    Attributes:
        episode_id: the episode, as in the episode file.
        group_id: its group.
        status: "learned"; "skipped" (its group was not selected, or nothing was left to compare it with); "invalid" (an
            infrastructure failure cut the episode short).
        reward: raw reward, the sum of the step rewards.
        trained_reward: the reward that credit is computed from: with the algorithm's own terms, or permuted by the
            control; NaN for invalid episodes.
        relative_reward: `trained_reward` minus the mean over the group's valid episodes; NaN for invalid episodes.
        tokens_N: credit of each sampled token, in order; empty unless the status is "learned".
        round_N: the round of each of these tokens.
        loss_mask_N: False for tokens that did not enter the loss.
        rounds_R: mean credit of each round's sampled tokens, [R]; NaN for rounds without credit.
    """

    episode_id: str
    group_id: str
    status: Status
    reward: float
    trained_reward: float
    relative_reward: float
    tokens_N: NDArray[np.float32]
    round_N: NDArray[np.int32]
    loss_mask_N: NDArray[np.bool_]
    rounds_R: NDArray[np.float64]


@dataclass(frozen=True)
class CreditRecord:
    """The credit of an iteration; `record[episode_id]` is that of one episode.

    Attributes:
        iteration: the iteration.
        trainer: the trainer, as the run's configuration names it.
        algorithm: the class of the trainer.
        unit: resolution of the credit: "episode", "round" or "token"; "" where no episode was learned from.
        episodes: all episodes that were played, in the order of the episode file.
    """

    iteration: int
    trainer: str
    algorithm: str
    unit: str
    episodes: list[EpisodeCredit]

    def __getitem__(self, episode_id: str) -> EpisodeCredit:
        for episode in self.episodes:
            if episode.episode_id == episode_id:
                return episode
        raise KeyError(episode_id)

    def __len__(self) -> int:
        return len(self.episodes)


def make_record(
    origin: tuple[int, str, str],
    played: Sequence[Sequence[Episode]],
    rewarded: Groups,
    learned: Groups,
    credit: Credit | None,
) -> CreditRecord:
    """The record of an iteration.

    Args:
        origin: iteration, trainer and class of the trainer.
        played: all groups that were played.
        rewarded: the valid groups with the rewards that credit is computed from.
        learned: the groups that were learned from.
        credit: their credit; None where nothing was learned from.
    """
    rewards: dict[int, tuple[float, float]] = {}
    for group, r_G in zip(rewarded, rewarded.rewards, strict=True):
        relative_G = r_G - r_G.mean()
        rewards |= {id(e): (float(r), float(c)) for e, r, c in zip(group, r_G, relative_G, strict=True)}
    given: dict[int, tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]] = {}
    if credit is not None:
        tokens = learned.tokens
        mask_N = (
            np.ones(len(tokens.round_N), dtype=bool) if credit.loss_mask_N is None else credit.loss_mask_N
        )
        credit_N = credit.to_tokens(learned)
        cuts = np.searchsorted(tokens.episode_N, np.arange(len(learned.episodes) + 1)).tolist()
        given = {
            id(e): (credit_N[a:b], tokens.round_N[a:b], mask_N[a:b])
            for e, (a, b) in zip(learned.episodes, pairwise(cuts), strict=True)
        }
    none = (np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))
    episodes = []
    for episode in chain.from_iterable(played):
        status: Status = "invalid" if not episode.valid_for_training else "skipped"
        reward, relative = rewards.get(id(episode), (np.nan, np.nan))
        credit_N, round_N, mask_N = given.get(id(episode), none)
        episodes.append(
            EpisodeCredit(
                episode.episode_id,
                episode.group_id,
                "learned" if id(episode) in given else status,
                episode.reward,
                reward,
                relative,
                credit_N.astype(np.float32),
                round_N.astype(np.int32),
                mask_N,
                _by_round(credit_N, round_N, len(episode.rounds)),
            )
        )
    return CreditRecord(*origin, credit.unit if credit is not None else "", episodes)


def credit_metrics(groups: Groups, credit: Credit) -> dict[str, Any]:
    """The summary of an iteration's credit for `metrics.jsonl`, over the sampled tokens in the loss."""
    credit_N = credit.to_tokens(groups)
    kept_N = slice(None) if credit.loss_mask_N is None else credit.loss_mask_N
    values_N, episode_N = credit_N[kept_N], groups.tokens.episode_N[kept_N]
    if not len(values_N):
        return {}
    group_E = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    credited_N = values_N != 0.0
    by_group = np.bincount(group_E[episode_N], credited_N, len(groups))
    return {
        "credit_mean": float(values_N.mean()),
        "credit_std": float(values_N.std()),
        "credit_min": float(values_N.min()),
        "credit_max": float(values_N.max()),
        "zero_credit_tokens": float(1.0 - credited_N.mean()),
        "zero_credit_groups": float((by_group == 0).mean()),
        "credit_by_round": [
            None if np.isnan(mean) else float(mean)
            for mean in _by_round(values_N, groups.tokens.round_N[kept_N])
        ],
    }


def credit_path(episodes: Path) -> Path:
    """The credit file that belongs to an episode file."""
    return episodes.parent.parent / _FOLDER / (episodes.stem + _SUFFIX)


def save_credit(path: Path, record: CreditRecord) -> None:
    """Write a record.

    Raises:
        OSError: the file cannot be written.
    """
    episodes = record.episodes
    index = {
        "schema": _SCHEMA,
        "iteration": record.iteration,
        "trainer": record.trainer,
        "algorithm": record.algorithm,
        "unit": record.unit,
        "episodes": [e.episode_id for e in episodes],
        "groups": [e.group_id for e in episodes],
        "status": [e.status for e in episodes],
    }
    tensors = {
        "credit_N": np.concatenate([np.zeros(0, np.float32), *(e.tokens_N for e in episodes)]),
        "round_N": np.concatenate([np.zeros(0, np.int32), *(e.round_N for e in episodes)]),
        "loss_mask_N": np.concatenate([np.zeros(0, bool), *(e.loss_mask_N for e in episodes)]),
        "tokens_E": np.array([len(e.tokens_N) for e in episodes], dtype=np.int64),
        "rounds_E": np.array([len(e.rounds_R) for e in episodes], dtype=np.int64),
        "reward_E": np.array([e.reward for e in episodes], dtype=np.float64),
        "trained_reward_E": np.array([e.trained_reward for e in episodes], dtype=np.float64),
        "relative_reward_E": np.array([e.relative_reward for e in episodes], dtype=np.float64),
    }
    index["check"] = arrays_check(index, tensors)
    path.parent.mkdir(exist_ok=True)
    with replacing(path, alone=True) as temporary:
        save_file(tensors, temporary, {"searchgym": json.dumps(index)})


def load_credit(run_dir: str | Path, step: int | None = None) -> CreditRecord:
    """The credit that a training run gave in an iteration.

    A run keeps the records of its newest saved training episodes (see `checkpoint_every`).

    Args:
        run_dir: a run directory.
        step: the iteration; by default the newest that is saved.

    Raises:
        RunDirectoryError: no credit of this iteration is saved, or the file is damaged.
    """
    folder = Path(run_dir) / _FOLDER
    saved = {
        int(match[1]): path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if (match := _FILE.fullmatch(path.name))
    }
    if not saved:
        raise RunDirectoryError(
            f"{str(run_dir)!r} holds no credit: give the directory of a training run that has saved training episodes "
            "(checkpoint_every) with this version of searchgym"
        )
    if step is None:
        step = max(saved)
    if step not in saved:
        raise RunDirectoryError(
            f"{str(run_dir)!r} holds no credit of iteration {step}: choose one of {', '.join(map(str, saved))}"
        )
    try:
        open_regular(saved[step]).close()  # a pipe would block
        with safe_open(saved[step], "numpy") as file:
            index = json.loads(file.metadata()["searchgym"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if index["schema"] != _SCHEMA:
            raise RunDirectoryError(
                f"{saved[step]} has schema {index['schema']!r}, this version reads {_SCHEMA}: read it with the version "
                "of searchgym that wrote it"
            )
        check = index.pop("check", None)  # absent in files of earlier versions
        if check is not None and check != arrays_check(index, tensors):
            raise ValueError("its checksum differs")
        return _unpack(index, tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise RunDirectoryError(f"{saved[step]} is damaged ({error}): remove it") from error


def _unpack(index: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> CreditRecord:
    ends = np.cumsum(tensors["tokens_E"])
    episodes = []
    for i, (end, count) in enumerate(zip(ends, tensors["tokens_E"], strict=True)):
        credit_N, round_N, mask_N = (
            tensors[name][end - count : end] for name in ("credit_N", "round_N", "loss_mask_N")
        )
        episodes.append(
            EpisodeCredit(
                index["episodes"][i],
                index["groups"][i],
                index["status"][i],
                float(tensors["reward_E"][i]),
                float(tensors["trained_reward_E"][i]),
                float(tensors["relative_reward_E"][i]),
                credit_N,
                round_N,
                mask_N,
                _by_round(credit_N, round_N, int(tensors["rounds_E"][i])),
            )
        )
    return CreditRecord(index["iteration"], index["trainer"], index["algorithm"], index["unit"], episodes)


def _by_round(credit_N: NDArray[Any], round_N: NDArray[Any], rounds: int = 0) -> NDArray[np.float64]:
    """Mean credit by round, at least `rounds` values; NaN where a round has no tokens."""
    counts_R = np.bincount(round_N, minlength=rounds)
    sums_R = np.bincount(round_N, credit_N, minlength=rounds)
    return np.where(counts_R > 0, sums_R / np.maximum(counts_R, 1), np.nan)
