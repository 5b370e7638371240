"""Runs jobs in parallel processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self

from searchgym.errors import TrainingError

from .worker import Job, run_job, start_process

__all__ = ["Workers", "duration"]

Done = Callable[[Job, dict[str, Any]], None]


class Workers:
    """A few worker processes that live as long as the benchmark: they keep the code they began with.

    Args:
        count: how many; 1: jobs run one after another in this process.
        places: the environments of all jobs, see `load_parts`.
    """

    def __init__(self, count: int, places: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> None:
        self.count, self._places = count, places
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count > 1:
            context = multiprocessing.get_context("spawn")  # torch does not fork well
            self._pool = ProcessPoolExecutor(self.count, context, start_process, (self._places,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            if kind is not None:  # what is under way continues from its checkpoint another time
                for process in multiprocessing.active_children():
                    process.terminate()
            self._pool.shutdown(cancel_futures=True)

    def execute(self, jobs: Sequence[Job], done: Done, deadline: float | None = None) -> bool:
        """Run jobs; each that ends is sealed on disk.

        Args:
            jobs: in the order they are begun.
            done: called with each result, in the order of completion.
            deadline: in seconds of `time.monotonic`: none is begun after it.

        Returns:
            Whether all were run.

        Raises:
            TrainingError: a worker process was killed. Exceptions of jobs are raised as they are.
        """
        waiting = list(reversed(jobs))
        if self._pool is None:
            while waiting and not _over(deadline):
                job = waiting.pop()
                done(job, run_job(job))
            return not waiting
        under_way: dict[Future[dict[str, Any]], Job] = {}
        try:
            while True:
                while waiting and len(under_way) < self.count and not _over(deadline):
                    job = waiting.pop()
                    under_way[self._pool.submit(run_job, job)] = job
                if not under_way:
                    return not waiting
                ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in ended:
                    done(under_way.pop(future), future.result())
        except BrokenProcessPool as error:
            raise TrainingError(
                "a worker process of the benchmark was killed (out of memory?): start it again, it continues; or take "
                "fewer --processes"
            ) from error


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def duration(seconds: float) -> str:
    """For people: "40 s", "12 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
