"""Two processes that `torchrun` might have started: each trains what the argument names.

The argument is a JSON list of [run directory, configuration]. A configuration may hold "fail": what process 1 does in the
second iteration ("raise" or "exit"). Both processes are forks of this one, so that the libraries, whose import takes longer
than the runs, are imported once. Prints the exit status and the output of each as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from typing import IO, Any

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


def train_all(jobs: list[tuple[str, dict[str, Any]]]) -> None:
    recorder.draw_curve = lambda *_: None  # drawing takes longer than these runs
    for path, config in jobs:
        how = config.pop("fail", None)
        if how:
            fail_in_process_1(how)
        try:
            resume(path, config["iterations"]) if config.pop("resume", False) else train(config, path)
        except SearchGymError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(2)


def main() -> None:
    jobs = json.loads(sys.argv[1])
    modules = ["accelerate", "searchgym.trainers.distributed.fsdp"]
    modules += [f"searchgym.agents.{config['agent']}.agent" for _, config in jobs if "agent" in config]
    for module in dict.fromkeys(modules):
        importlib.import_module(module)
    with tempfile.TemporaryFile("w+") as zero, tempfile.TemporaryFile("w+") as one:
        children = [(forked(jobs, rank, output), output) for rank, output in enumerate((zero, one))]
        print(json.dumps([(wait(child), read(output)) for child, output in children]))


def forked(jobs: list[tuple[str, dict[str, Any]]], rank: int, output: IO[str]) -> int:
    """The id of a process of that rank, which writes to a file."""
    child = os.fork()
    if not child:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        train_all(jobs)
        sys.exit()
    return child


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read(output: IO[str]) -> str:
    output.seek(0)
    return output.read()


if __name__ == "__main__":
    main()
