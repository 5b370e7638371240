"""One run directory for several processes: the main process writes it, the others only read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchgym.records.episode import Episode

from ..processes import world
from .credit_record import CreditRecord
from .directory import RunDirectory

__all__ = ["open_run"]


@contextmanager
def open_run(open_directory: Callable[[], RunDirectory]) -> Iterator[RunDirectory]:
    """Open or create a run directory in the main process; the others see it as it is then and write nothing.

    Raises:
        SearchGymError: what `open_directory` raises, in all processes.
    """
    opened: list[RunDirectory] = []

    def said() -> tuple[Path, dict[str, Any], list[int], dict[str, list[dict[str, Any]]]]:
        run = open_directory()
        opened.append(run)
        rows = {name: run.rows(name) for name in ("metrics.jsonl", "timings.jsonl")}
        return run.path, run.metadata, run.steps(), rows

    seen = world().from_main(said)
    with opened[0] if opened else _SeenRun(*seen) as run:
        yield run


class _SeenRun(RunDirectory):
    """A run directory as the main process found it; methods that would write do nothing."""

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Any],
        steps: list[int],
        rows: dict[str, list[dict[str, Any]]],
    ) -> None:
        self.path, self.metadata, self._steps, self._rows = path, metadata, steps, rows

    def __exit__(self, *_: object) -> None: ...

    def steps(self) -> list[int]:
        return self._steps

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self._rows[name]

    def truncate(self, iteration: int) -> None:
        self._rows = {
            name: [row for row in rows if row["iteration"] <= iteration] for name, rows in self._rows.items()
        }

    def update_metadata(self, **values: Any) -> None: ...

    def write_json(self, name: str, data: Any) -> None: ...

    def append(self, name: str, row: dict[str, Any]) -> None: ...

    def save_episodes(
        self,
        name: str,
        episodes: Iterable[Episode],
        credit: CreditRecord | None = None,
        keep: int | None = None,
    ) -> Path:
        return self.path / "episodes" / f"{name}.jsonl"

    @contextmanager
    def checkpoint(self, iteration: int) -> Iterator[Path]:
        yield self.step_path(iteration)

    def prune(self, keep: int, spare: Collection[int] = ()) -> None: ...
