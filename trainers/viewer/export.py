"""`searchgym view --export`: what the server would answer, in one HTML file."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, EpisodeFileError
from searchgym.files import write_text

from .blocks import encode_columns
from .library import Library
from .page import standalone
from .rows import COLUMNS

__all__ = ["export"]


def export(library: Library, path: Path, limit: int, *, force: bool = False) -> tuple[int, int]:
    """Write the page with its data.

    Args:
        library: what is viewed; read to its end here.
        path: the HTML file.
        limit: number of episodes at most; of the newest iterations if there are more.
        force: replace a file that exists.

    Returns:
        The number of episodes in the file, and of all.

    Raises:
        ConfigError: the file exists, or it cannot be written.
    """
    check_target(path, force=force)
    library.refresh()
    state = library.state()
    if not state["ready"]:
        raise ConfigError(
            "another viewer is reading these files for the first time: export them when it has finished"
        )
    left = limit
    episodes: dict[str, dict[int, Any]] = {}
    blocks: dict[int, str] = {}
    newest = sorted(state["files"], key=lambda file: -(file["iteration"] or 0))
    for file in newest:
        rows = []
        for row in _rows(library, file)[:left] if left else ():
            try:
                episodes.setdefault(file["key"], {})[row[0]] = library.episode(file["key"], row[0])
            except EpisodeFileError as error:
                file["problems"] = [*file["problems"], f"line {row[0] + 1}: {error}"]
                continue
            rows.append(row)
        left -= len(rows)
        number = len(blocks) + 1
        file["blocks"] = [[number, len(rows)]] if rows else []
        if rows:
            blocks[number] = encode_columns(rows)
    kept, every = limit - left, sum(file["lines"] for file in state["files"])
    for source in state["sources"]:
        source["path"] = Path(
            source["path"]
        ).name  # the file is for others: it does not tell where it was made
    about = {source.label: library.about(source.label) for source in library.sources}
    for source in about.values():
        assert source is not None
        source["path"] = Path(source["path"]).name
    data = {
        "state": {**state, "ready": True, "of": every},
        "blocks": blocks,
        "about": about,
        "episodes": episodes,
    }
    try:
        write_text(path, standalone(data))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    return kept, every


def check_target(path: Path, *, force: bool) -> None:
    """Refuse a file that must not be replaced, or whose folder is missing.

    Raises:
        ConfigError: so it is.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--export {path}: name a file in a folder that exists")
    if path.exists() and not force:
        raise ConfigError(f"--export {path}: the file exists; add --force to replace it, or name another one")


def _rows(library: Library, file: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a file, from its blocks."""
    columns: dict[str, list[Any]] = defaultdict(list)
    ids = [block for block, _ in file["blocks"]]
    texts = library.index.blocks(ids)
    for block in ids:
        for name, values in json.loads(texts[block]).items():
            plain = (
                values if isinstance(values, list) else [values["values"][code] for code in values["codes"]]
            )
            columns[name] += plain
    return list(zip(*(columns[name] for name in COLUMNS), strict=True)) if columns else []
