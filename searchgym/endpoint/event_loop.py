"""One event loop per process, in its own thread, for everything that waits for an endpoint.

Synchronous callers pass it coroutines, from any thread, also while another loop is running (in a notebook).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run", "run_later"]

_Result = TypeVar("_Result")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_inherited: list[asyncio.AbstractEventLoop] = []


def run(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine on the background loop and wait for its result; an interrupt cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _running_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def run_later(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine on the background loop without waiting for it."""
    asyncio.run_coroutine_threadsafe(coroutine, _running_loop())


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="searchgym-endpoint", daemon=True).start()
        return _loop


def _after_fork_in_child() -> None:
    global _lock, _loop
    _lock = threading.Lock()
    if _loop is not None:
        # Its thread stayed in the parent. Keep the loop: closing it would close the parent's selector.
        _inherited.append(_loop)
        _loop = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
