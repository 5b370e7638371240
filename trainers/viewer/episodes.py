"""One episode with everything that belongs to it: the record, its stored credit, its true advantages, its tokens as text."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import EpisodeFileError, MissingExtraError, SearchGymError
from searchgym.files import open_regular, parse_json, read_json
from searchgym.records.episode import Episode, verify_line

from .sources import EpisodeFile, Source

__all__ = ["EpisodeReader"]

_Decoder = Any  # token id -> text


class EpisodeReader:
    """Reads episodes of some sources; keeps the credit and the tokenizers that were used last.

    Args:
        sources: what is viewed.
    """

    def __init__(self, sources: list[Source]) -> None:
        self._sources = {source.label: source for source in sources}
        self._credit = lru_cache(maxsize=4)(_load_credit)
        self._advantages = lru_cache(maxsize=2)(_load_advantages)
        self._decoder = lru_cache(maxsize=4)(_load_decoder)

    def read(self, file: EpisodeFile, offset: int, length: int) -> dict[str, Any]:
        """An episode as the page shows it.

        Args:
            file: its file.
            offset: of its line, in bytes.
            length: of its line, in bytes.

        Returns:
            "episode" (the JSON form of this version), "credit" (None without a stored one), "advantages" (None without an
            audit), "pieces" (the text of each token, by segment; None without a tokenizer), "problems".

        Raises:
            EpisodeFileError: there is no such episode (any more).
        """
        line = _read_line(file.path, offset, length)
        data = parse_json_line(line)
        episode = Episode.from_json(data)
        verify_line(line, data)
        problems: list[str] = []
        source = self._sources[file.source]
        credit = advantages = decoder = None
        if source.kind == "run":
            credit = self._stored_credit(file, source, episode, problems)
            decoder = self._decoder(source.path) if episode.segments else None
        elif source.kind == "audit" and source.advantages.is_file():
            found, problem = self._advantages(source.advantages, source.advantages.stat().st_mtime_ns)
            advantages = found.get(episode.episode_id)
            problems += [problem] if problem else []
        pieces = None
        if decoder is not None:
            pieces = [[decoder(token) for token in segment.tokens] for segment in episode.segments]
        return {
            "episode": episode.to_json(),
            "credit": credit,
            "advantages": advantages,
            "pieces": pieces,
            "problems": problems,
        }

    def _stored_credit(
        self, file: EpisodeFile, source: Source, episode: Episode, problems: list[str]
    ) -> dict[str, Any] | None:
        path = source.path / "credit" / f"{file.path.stem}.safetensors"
        if file.kind != "train" or file.iteration is None or not path.is_file():
            return None
        try:
            credit = self._credit(source.path, file.iteration, path.stat().st_mtime_ns)
            return credit.get(episode.episode_id)
        except (SearchGymError, OSError) as error:
            problems.append(str(error))
            return None


def parse_json_line(line: bytes) -> Any:
    """The JSON value of a line.

    Raises:
        EpisodeFileError: it is not JSON.
    """
    try:
        return parse_json(line)
    except ValueError as error:
        raise EpisodeFileError(f"the file has changed, its episodes must be listed again: {error}") from error


def _read_line(path: Path, offset: int, length: int) -> bytes:
    try:
        with open_regular(path) as handle:
            handle.seek(offset)
            return handle.read(length)
    except OSError as error:
        raise EpisodeFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _load_credit(run: Path, iteration: int, changed: int) -> dict[str, dict[str, Any]]:
    """The credit of an iteration by episode, as JSON."""
    try:
        from ..runs.credit_record import load_credit
    except ModuleNotFoundError as error:
        raise MissingExtraError("stored credit", error.name or "safetensors", "view") from error
    record = load_credit(run, iteration)
    limit = _limit([credit.tokens_N for credit in record.episodes])
    return {
        credit.episode_id: {
            "trainer": record.trainer,
            "unit": record.unit,
            "limit": limit,
            "status": credit.status,
            "reward": _number(credit.reward),
            "trained_reward": _number(credit.trained_reward),
            "relative_reward": _number(credit.relative_reward),
            "rounds": _numbers(credit.rounds_R),
            "tokens": _numbers(credit.tokens_N),
            "in_loss": [bool(value) for value in credit.loss_mask_N],
        }
        for credit in record.episodes
    }


def _load_advantages(path: Path, changed: int) -> tuple[dict[str, dict[str, Any]], str]:
    """The true advantages of an audit by episode, and what is wrong with the file."""
    try:
        rows = read_json(path)["episodes"]
        columns: dict[str, list[Any]] = {
            "true advantage": [np.array(row["advantages"], float) for row in rows]
        }
        for rule in rows[0]["credit"] if rows else ():
            columns[rule] = [np.array(row["credit"][rule], float) for row in rows]
        limits = {name: _limit(values) for name, values in columns.items()}
        return {row["episode_id"]: {**row, "limits": limits} for row in rows}, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, f"{path.name} cannot be read ({error})"


def _load_decoder(run: Path) -> _Decoder | None:
    """What turns a token of a run into text: the tokenizer beside its newest weights."""
    for path in sorted(run.glob("checkpoints/step-*/policy/tokenizer.json"), reverse=True):
        try:
            data = read_json(path)
            if "vocabulary" in data:
                from searchgym.agents.tiny.tokenizer import Tokenizer

                tiny = Tokenizer.from_json(data)
                return lambda token: tiny.decode([token])
            import tokenizers

            fast = tokenizers.Tokenizer.from_file(str(path))
            return lambda token: fast.decode([token], skip_special_tokens=False)
        except Exception:  # a tokenizer that cannot be read costs the text of tokens, nothing else
            return None
    return None


def _limit(values: list[NDArray[np.floating[Any]]]) -> float:
    """The largest size of a credit in a file: the end of the colour scale, so that its episodes can be compared."""
    return max((float(np.nanmax(np.abs(some))) for some in values if len(some)), default=0.0)


def _numbers(values: NDArray[np.floating[Any]]) -> list[float | None]:
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
