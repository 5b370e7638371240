"""The continuations of an audit, in a file: an interrupted audit continues with what was played.

    {"schema": 4, "made_with": {…}}                                                      what the returns depend on
    {"returns": {"5f…": {"0": 1.0, "5": 0.0}, …}, "cost": {"continuations": 2, …}, "check": "…"}    what was played in one go

Each line of returns carries a digest of itself. A line that was cut off by a crash at the end of the file is dropped; its continuations are played again. Continuation i of a
state has a seed of its own, so it returns what it would have returned without the interruption. The cost is kept with the
returns, so that an audit that was interrupted reports what it took in all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from searchgym.errors import RunDirectoryError
from searchgym.files import lock_file, parse_json, read_bytes, seal, unseal

__all__ = ["ContinuationStore"]

_SCHEMA = 4


class ContinuationStore:
    """Opens or creates the file; a context manager, because it holds a lock.

    Args:
        path: the file.
        made_with: what the returns depend on, as JSON: the policy's weights, the environment, seeds.

    Attributes:
        cost: what all continuations in the file took, summed by name.

    Raises:
        RunDirectoryError: the file was made with something else, is damaged, or is in use by another process.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        import filelock

        self._path = path
        self.cost: dict[str, float] = {}
        self._returns: dict[str, dict[int, float]] = {}
        try:
            self._lock = lock_file(path.with_name(f".{path.name}.lock"))
        except filelock.Timeout:
            raise RunDirectoryError(
                f"{path} is in use by another audit: wait for it, or give another --out"
            ) from None
        try:
            self._open(json.loads(json.dumps(made_with)))
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> ContinuationStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def returns(self, state: str) -> dict[int, float]:
        """The returns of a state's continuations so far, by number."""
        return dict(self._returns.get(state, {}))

    def add(self, returns: Mapping[str, Mapping[int, float]], cost: Mapping[str, float]) -> None:
        """Append continuations that were played together.

        Args:
            returns: state -> number of the continuation -> return; none of them is stored yet.
            cost: what they took, by name.

        Raises:
            OSError: the file cannot be written.
        """
        row = seal({"returns": returns, "cost": cost})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._take(returns, cost)

    def _take(self, returns: Mapping[str, Mapping[int, float]], cost: Mapping[str, float]) -> None:
        for state, values in returns.items():
            self._returns.setdefault(state, {}).update(values)
        for name, amount in cost.items():
            self.cost[name] = self.cost.get(name, 0.0) + amount

    def _open(self, made_with: Any) -> None:
        try:
            content = read_bytes(self._path) if self._path.exists() else b""
        except OSError as error:
            raise RunDirectoryError(
                f"{self._path} cannot be read ({error.strerror or error}): give another --out"
            ) from error
        end = content.rfind(b"\n") + 1
        lines = content[:end].decode("utf-8", "replace").splitlines()
        if not lines:
            self._path.write_text(json.dumps({"schema": _SCHEMA, "made_with": made_with}) + "\n", "utf-8")
            return
        try:
            head, *rows = map(parse_json, lines)
            schema, was = head["schema"], head["made_with"]
            if schema == _SCHEMA:
                for row in rows:
                    self._take(*self._checked(row))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(
                f"{self._path} is damaged ({error}): remove it to play the continuations again"
            ) from error
        if schema != _SCHEMA or was != made_with:
            keys = [key for key in made_with if not isinstance(was, dict) or was.get(key) != made_with[key]]
            raise RunDirectoryError(
                f"{self._path} holds continuations that were made with another {', '.join(keys) or 'schema'}: give "
                "another --out, or remove the file"
            )
        if end < len(content):
            with self._path.open("r+b") as file:
                file.truncate(end)

    def _checked(self, row: Any) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
        row = unseal(row)
        returns = {
            state: {int(i): float(value) for i, value in values.items()}
            for state, values in row["returns"].items()
        }
        cost = {name: float(amount) for name, amount in row["cost"].items()}
        for state, values in returns.items():
            if self._returns.get(state, {}).keys() & values.keys() or not all(
                map(math.isfinite, values.values())
            ):
                raise ValueError(f"continuations of state {state} are wrong")
        if not all(map(math.isfinite, cost.values())):
            raise ValueError(f"the cost {cost} is not finite")
        return returns, cost
