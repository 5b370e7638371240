"""The directory of everything that is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["home"]


def home() -> Path:
    """The directory of all caches: `SEARCHGYM_HOME`, else the platform's user cache directory.

    It need not exist; this function creates nothing.
    """
    chosen = os.environ.get("SEARCHGYM_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("searchgym"))
