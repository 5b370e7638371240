"""What benchmarks share that measure in processes of their own."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["figures_of", "peak_memory"]


@contextmanager
def peak_memory(held: Callable[[], int]) -> Iterator[list[int]]:
    """The greatest `held()`, in bytes, while the block runs; it is looked at twenty times a second."""
    peak, over = [held()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], held())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def figures_of(command: Sequence[str]) -> dict[str, Any]:
    """The JSON in the last line that a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
