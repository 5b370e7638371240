"""Where everything lives that is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["home"]


def home() -> Path:
    """The directory all caches live under: `SEARCHGYM_HOME`, else the platform's user cache directory.

    It need not exist; nothing is created here.
    """
    chosen = os.environ.get("SEARCHGYM_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("searchgym"))
