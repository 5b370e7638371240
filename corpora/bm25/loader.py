"""Brings in the compiled search while numpy answers.

Importing numba takes a second, and compiling for the first time on a machine some ten; after that numba's cache on
disk serves. So a large index asks for it after its first answer, and a thread in the background fetches it.

A fork waits until that thread is done. A child would otherwise inherit the locks of numba's compiler and of the
import system, held by a thread that it does not have.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["fetch", "installed", "ready", "wait"]

_search: Callable[..., int] | None = None
_thread: threading.Thread | None = None
_lock = threading.Lock()


def installed() -> bool:
    """Whether there is a numba to compile with."""
    return importlib.util.find_spec("numba") is not None


def ready() -> Callable[..., int] | None:
    """The compiled search, if it is there."""
    return _search


def fetch() -> None:
    """See to it that the compiled search will be there, if numba is installed."""
    global _thread
    if _thread is None:
        with _lock:
            if _thread is None:
                _thread = threading.Thread(target=_load, name="searchgym-numba", daemon=True)
                _thread.start()


def wait() -> bool:
    """Wait until the compiled search is there; False when there will be none."""
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
    except Exception as error:  # numba too old for this Python or numpy: numpy goes on answering
        warnings.warn(f"numba cannot be used, searching with numpy: {error}", RuntimeWarning, stacklevel=2)
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
