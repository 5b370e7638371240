"""What was fetched, kept on disk as one JSON file per request, so that an episode can be played again without the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from searchgym.files import json_digest, read_json, seal, unseal, write_text
from searchgym.home import home

__all__ = ["Answers"]


class Answers:
    """JSON values by JSON keys. Several processes may share a directory.

    Args:
        directory: where the files are; None: `SEARCHGYM_HOME`/web.
        enabled: whether anything is read or kept.
    """

    def __init__(self, directory: Path | None, enabled: bool = True) -> None:
        self.directory = directory or home() / "web"
        self._enabled = enabled

    def get(self, key: Any) -> Any:
        """The value of a key; None without one, or if its file is damaged."""
        if not self._enabled:
            return None
        try:
            entry = unseal(read_json(self._file(key)))
        except (OSError, ValueError):
            return None
        return entry.get("value") if entry.get("key") == key else None

    def put(self, key: Any, value: Any) -> None:
        """Keep a value.

        Raises:
            OSError: it cannot be written.
        """
        if self._enabled:
            file = self._file(key)
            file.parent.mkdir(parents=True, exist_ok=True)
            # Not durable: after a power cut it is fetched again.
            write_text(file, json.dumps(seal({"key": key, "value": value})), durable=False)

    def _file(self, key: Any) -> Path:
        name = json_digest(key)
        return self.directory / name[:2] / f"{name[2:]}.json"
