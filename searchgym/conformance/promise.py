"""How every check says that a promise is broken."""

from __future__ import annotations

from ..errors import ConformanceError

__all__ = ["require"]


def require(kept: bool, message: str) -> None:
    """Raise `ConformanceError` with the message unless the promise was kept."""
    if not kept:
        raise ConformanceError(message)
