"""A program for `torchrun`: trains what its arguments name, as a JSON list of [run directory, configuration].

A configuration may hold "fail": what process 1 does in the second iteration ("raise" or "exit").
"""

from __future__ import annotations

import json
import os
import sys

from searchgym.errors import SearchGymError, TrainingError
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.processes import world
from searchgym.trainers.training import recorder
from searchgym.trainers.training.api import resume, train


def fail_in_process_1(how: str) -> None:
    credit, calls = GRPO.credit, []

    def failing(self, groups):
        calls.append(1)
        if world().rank == 1 and len(calls) == 2:
            if how == "exit":
                os._exit(3)
            raise TrainingError("process 1 has had enough")
        return credit(self, groups)

    GRPO.credit = failing


def main() -> None:
    recorder.draw_curve = lambda *_: None  # drawing takes longer than these runs
    for path, config in json.loads(sys.argv[1]):
        how = config.pop("fail", None)
        if how:
            fail_in_process_1(how)
        try:
            resume(path, config["iterations"]) if config.pop("resume", False) else train(config, path)
        except SearchGymError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(2)


if __name__ == "__main__":
    main()
