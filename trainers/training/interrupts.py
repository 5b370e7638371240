"""Ctrl-C during training: the iteration in progress is finished and saved; a second Ctrl-C stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupts"]


class Interrupts:
    """Takes the first SIGINT as a request; a context manager around the run. Only the main thread can do this.

    Attributes:
        requested: whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._installed = False
        self.requested = False

    def __enter__(self) -> Self:
        # A process that ignores SIGINT, or that has a handler of its own, keeps it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._before = signal.signal(signal.SIGINT, self._request)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.requested = True
        with suppress(RuntimeError):  # raised if the signal interrupts a write to the same stream
            print(
                "\nCtrl-C: the run stops after the iteration in progress, which is then saved; press Ctrl-C again to stop at once",
                file=sys.stderr,
                flush=True,
            )

    def _restore(self) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)
            self._installed = False
