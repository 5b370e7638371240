"""Free disk space, checked before long work starts rather than in the middle of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from searchgym.errors import ConfigError

__all__ = ["free_disk", "human", "require_disk"]

_KEPT_FREE = 100 * 2**20  # bytes that always stay free


def human(size: float) -> str:
    """A number of bytes in readable form: "512 B", "4.9 GB" (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def free_disk(directory: str | os.PathLike[str]) -> int:
    """The bytes that this user can still write to the disk of a directory, which need not exist."""
    place = Path(directory).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_disk(directory: str | os.PathLike[str], need: int, what: str) -> None:
    """Refuse work that would fill the disk.

    Args:
        directory: where the work writes; it need not exist.
        need: bytes that the work writes.
        what: the work, as the message names it.

    Raises:
        ConfigError: fewer than `need` bytes and 100 MiB are free; says how many are missing.
    """
    free = free_disk(directory)
    if free < need + _KEPT_FREE:
        raise ConfigError(
            f"{what} needs {human(need)} in {directory}, beside {human(_KEPT_FREE)} that stay free, and {human(free)} are free: "
            f"free {human(need + _KEPT_FREE - free)}, or choose another disk (SEARCHGYM_HOME is the directory of all caches)"
        )
