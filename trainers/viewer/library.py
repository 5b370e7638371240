"""What is viewed, as the page asks for it: sources, files, blocks of rows, search, episodes. Server and export share it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from searchgym._version import __version__
from searchgym.errors import EpisodeFileError, get_logger

from .episodes import EpisodeReader
from .index import Index, index_path
from .sources import EpisodeFile, Source, describe, find_sources

__all__ = ["Library"]

_EVERY = 1.0  # seconds between two looks at the files
_log = get_logger("searchgym.viewer")


class Library:
    """The sources of some paths and their index.

    Args:
        paths: see `find_sources`.

    Raises:
        ConfigError: a path holds nothing to view.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.sources: list[Source] = find_sources(paths)
        self.index = Index(index_path([source.path for source in self.sources]))
        self._reader = EpisodeReader(self.sources)
        self._files: dict[str, EpisodeFile] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = ""
        self._listed = False

    def refresh(self) -> None:
        """Look for new files and rows, and index them."""
        files = [file for source in self.sources for file in source.episode_files()]
        self._files = {file.key: file for file in files}
        self._listed = True
        self.index.update(files)

    def follow(self) -> None:
        """Refresh again and again in a thread, until `close`."""
        self._thread = threading.Thread(target=self._follow, name="viewer-index", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                if self._problem or self.index.damaged:
                    self.index.remake()
                self.refresh()
                self._problem = ""
            except Exception as error:  # e.g. a full disk, or somebody has emptied the cache: try again
                problem = f"The episode files could not be indexed: {error}"
                if problem != self._problem:
                    _log.exception("the episode files could not be indexed")
                self._problem = problem
            self._stop.wait(_EVERY)

    def close(self) -> None:
        """End the thread; what is indexed is kept."""
        self._stop.set()
        self.index.stop()
        if self._thread is not None:
            self._thread.join()

    def state(self) -> dict[str, Any]:
        """What there is to show: sources, episode files with the ids of their blocks, and whether all have been read."""
        indexed = self.index.files()
        none = {"read": 0, "ended": False, "lines": 0, "problems": [], "blocks": []}
        files = [
            {
                "key": file.key,
                "source": file.source,
                "kind": file.kind,
                "iteration": file.iteration,
                "trainer": file.trainer,
                **indexed.get(str(file.path), none),
                "size": _size(file.path),
            }
            for file in list(self._files.values())
        ]
        ready = self._listed and all(file["ended"] for file in files)
        sources = [
            {"label": source.label, "kind": source.kind, "path": str(source.path), "changed": source.changed}
            for source in self.sources
        ]
        return {
            "version": __version__,
            "sources": sources,
            "files": files,
            "ready": ready,
            "problem": self._problem,
        }

    def about(self, label: str) -> dict[str, Any] | None:
        """The description of a source; None if there is no such source.

        Args:
            label: of the source.
        """
        return next((describe(source) for source in self.sources if source.label == label), None)

    def episode(self, key: str, line: int) -> dict[str, Any]:
        """An episode, see `EpisodeReader.read`.

        Args:
            key: of its file.
            line: its number in the file, from 0.

        Raises:
            EpisodeFileError: there is no such episode (any more), or it is damaged.
        """
        file = self._files.get(key)
        place = self.index.place(file.path, line) if file is not None else None
        if file is None or place is None:
            raise EpisodeFileError(
                f"there is no episode {line + 1} of {key!r} (any more): a run keeps its newest training episodes"
            )
        return self._reader.read(file, *place)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
