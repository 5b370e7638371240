"""What several test files need: the command line, conditions to wait for, small worlds and runs, played groups.

Nothing here imports torch, so that tests of the core can use all of it.
"""

from __future__ import annotations

import base64
import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import preloaded
import pytest

from searchgym.files import replacing
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import collect, open_envs

if TYPE_CHECKING:
    from searchgym.agent import Agent
    from searchgym.env.env import SearchEnv

SEARCHGYM = [sys.executable, "-m", "searchgym"]
"""The command line in a process that starts anew."""


_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="


class Result(NamedTuple):
    """What a command returned and printed."""

    status: int
    out: str
    err: str


class CommandLine(Protocol):
    """The fixture `cli`: runs the command line in this process."""

    def __call__(self, *arguments: str, stdin: str = "") -> Result: ...


def skip_without(module: str, reason: str) -> None:
    """Skip a test file without a library, which is not imported: every process of a run reads every file."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(reason, allow_module_level=True)


def run_searchgym(*arguments: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run the command line in a process that starts anew, with the options of `subprocess.run`."""
    return subprocess.run([*SEARCHGYM, *arguments], capture_output=True, check=False, **options)


def start_searchgym(*arguments: str, **options: Any) -> subprocess.Popen[Any]:
    """Start the command line in a preloaded process, with the options of `subprocess.Popen`."""
    return preloaded.PreloadedPopen([*SEARCHGYM, *arguments], **options)


def sketch_curve(path: Path, *_: object) -> None:
    """Write a picture of one white dot as `draw_curve` writes its own."""
    with replacing(path, alone=True) as temporary:
        temporary.write_bytes(base64.b64decode(_DOT))


def wait_until(
    condition: Callable[[], object],
    what: str,
    process: subprocess.Popen[Any] | None = None,
    timeout: float = 120,
) -> None:
    """Wait for a condition.

    Args:
        condition: polled until it is true.
        what: the awaited event, for the message of a failure.
        process: who brings it about; its end without the condition is a failure at once.
        timeout: seconds; generous, because tests share their machine.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert process is None or process.poll() is None or condition(), f"the process ended before {what}"
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.005)


def small_world(
    name: str = "country", train: int = 50, dev: int = 20, test: int = 20, **options: Any
) -> dict[str, Any]:
    """The argument `corpus` for a generated world that opens in a moment."""
    return {"name": name, "size": 1000, "train": train, "dev": dev, "test": test, **options}


def candidate_run(**changes: Any) -> dict[str, Any]:
    """A training configuration of seconds: the candidate policy on two-hop chains.

    Recall and F1 are rewarded, so that the episodes of an untrained policy differ and there is something to learn.

    Args:
        **changes: training options that replace or extend these.
    """
    return {
        "agent": "candidate",
        "env_options": {"types": ["chain"], "hops": [2], "reward": {"recall": 1.0, "f1": 1.0}},
        "settings": {"group_size": 4},
        "questions": 4,
        "iterations": 4,
        "lr": 0.1,
        "eval_episodes": 0,
        **changes,
    }


def play_groups(env: SearchEnv, agent: Agent, tasks: int = 3, group: int = 3, seed: int = 0) -> list[Episode]:
    """Episodes of the first training questions, `group` of each, with seeded ids."""
    ids = [question.id for question in env.config.tasks("train")[:tasks] for _ in range(group)]
    groups = [f"g{i // group}" for i in range(len(ids))]
    envs = open_envs(env, agent, len(ids))
    return collect(envs, agent, ids, group_ids=groups, ids=random.Random(seed))
