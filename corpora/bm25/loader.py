"""Loads the compiled search in the background while numpy searches.

Importing numba takes a second, and compiling for the first time on a machine about ten; after that numba's cache on
disk is used. So a large index starts a background thread after its first results, which loads the compiled search.

A fork waits until that thread has finished. Otherwise the child would inherit the locks of numba's compiler and of the
import system, held by a thread that it does not have.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable
from typing import Any

from searchgym.errors import warn

__all__ = ["fetch", "installed", "ready", "wait"]

_search: Callable[..., int] | None = None
_thread: threading.Thread | None = None
_lock = threading.Lock()


def installed() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def ready() -> Callable[..., int] | None:
    """The compiled search; None if it is not loaded."""
    return _search


def fetch() -> None:
    """Start to load the compiled search, if numba is installed."""
    global _thread
    if _thread is None:
        with _lock:
            if _thread is None:
                _thread = threading.Thread(target=_load, name="searchgym-numba", daemon=True)
                _thread.start()


def wait() -> bool:
    """Wait until the compiled search is loaded; returns False if it cannot be loaded."""
    fetch()
    assert _thread is not None
    _thread.join()
    return _search is not None


def _load() -> None:
    global _search
    if not installed():
        return
    try:
        from . import compiled
    except Exception as error:  # e.g. a numba that does not fit this Python or numpy: continue with numpy
        warn(f"numba cannot be used, searching with numpy: {error}", RuntimeWarning, stacklevel=2)
        return
    _search = compiled.search


def _before_fork() -> None:
    _lock.acquire()
    if _thread is not None and _thread is not threading.current_thread():
        _thread.join()


def _after_fork(*_: Any) -> None:
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
