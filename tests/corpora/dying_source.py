"""What a worker of the service opens, when opening it kills the worker; in a module of its own so that it pickles."""

from __future__ import annotations

import os
import signal
from typing import Any

from searchgym.corpora.indexing.source import Source


class DyingSource(Source):
    """Opening it is like running out of memory."""

    def open(self, *, cached: bool = True) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
