"""Damage to run directories, checkpoints, weights, episodes, credit records, snapshots and all other results: found, or without effect.

python tests/campaigns/damage_runs.py [MUTATIONS] [SEED] [KIND …]     (default 3000, 0 and all kinds)

Kinds: "run directory", checkpoint, weights, episodes, credit, snapshot, and those of `products.py`: labels, "reward model",
continuations, "web answers", "viewer index", memory, grades, preferences.

Every mutation is applied to a fresh copy: a flipped bit, a cut, other content, another JSON value, a pipe, a device, a
directory or nothing in the place of the file. What then opens it must raise a `SearchGymError`, warn, or give exactly what the
undamaged one gives. Another exception, a process that hangs, and another result without a word are faults: they are printed,
and the status is 1. Files that people edit (grades, preferences) may say something else.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from products import EDITED, PRODUCTS, make_products

from searchgym.agents.candidate import CandidateAgent
from searchgym.env.env import SearchEnv
from searchgym.errors import SearchGymError
from searchgym.records.episode import load_episodes
from searchgym.trainers import load_credit
from searchgym.trainers.training import recorder, resume, train

WORLD = {"name": "country-terse", "size": 1000, "train": 20, "dev": 5, "test": 5}
CONFIG = {
    "agent": "candidate",
    "env_options": {"corpus": WORLD, "reward": {"recall": 1.0}},
    "settings": {"group_size": 2, "skip_equal": False},
    "questions": 2,
    "iterations": 2,
    "eval_episodes": 2,
    "eval_every": 1,
    "keep_best": "em",
    "checkpoint_every": 1,
    "rollout_lag": 1,
    "streams": "episode",
}
SECONDS = 60  # after which an opening hangs
MEMORY = 4 * 2**30  # bytes

JUNK: tuple[Any, ...] = (None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", [], {}, [[]])


class Hang(BaseException):
    """Raised by the alarm clock."""


@contextmanager
def alarm_clock() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


class Heard(logging.Handler):
    """Counts warnings of this package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


# -- mutations ------------------------------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def overwrite(path: Path, rng: random.Random) -> None:
    """A block of other bytes, as a torn page leaves."""
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 600))
    data[start:end] = rng.choice([bytes(end - start), rng.randbytes(end - start)])
    path.write_bytes(data)


def other_value(path: Path, rng: random.Random) -> None:
    """Another value, a missing or a new key somewhere in a JSON file or in a line of it."""
    lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    places = list(walk(value))
    container, key = rng.choice(places)
    if isinstance(container, dict) and rng.random() < 0.15:
        del container[key]
    elif isinstance(container, dict) and rng.random() < 0.1:
        container["surprise"] = rng.choice(JUNK)
    else:
        container[key] = rng.choice(JUNK)
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield value, key
        yield from walk(part)


def instead(path: Path, rng: random.Random) -> None:
    """Something else in the place of the file."""
    kind = rng.choice(["pipe", "device", "directory", "nothing", "empty", "endless"])
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()


def mutate(path: Path, rng: random.Random) -> str:
    choices: list[Callable[[Path, random.Random], None]] = [flip, flip, flip, cut, cut, overwrite]
    if path.name != "snapshot.json":  # which the caller reads
        choices.append(instead)
    if path.suffix in (".json", ".jsonl"):
        choices += [other_value] * 3
    chosen = rng.choice(choices) if path.stat().st_size else instead
    chosen(path, rng)
    return chosen.__name__


# -- what is opened, and what it gives ------------------------------------------------------------------------------


def opened_run(run: Path) -> Any:
    """A resumed run that has nothing left to do: weights, state, rows."""
    result = resume(run)
    loop = result.trainer.loop
    weights = {name: value.tolist() for name, value in result.policy.module.state_dict().items()}
    rows = list(result.metrics)
    state = {k: v for k, v in loop.state().items() if k != "counts"}
    ahead = [[e.to_json() for e in group] for group in loop.prefetched or []]
    return weights, rows, state, ahead, torch.get_rng_state().tolist()


def opened_weights(run: Path) -> Any:
    agent = CandidateAgent()
    agent.load_weights(run / "checkpoints" / "step-000002" / "policy")
    return {name: value.tolist() for name, value in agent.module.state_dict().items()}


def opened_episodes(run: Path) -> Any:
    return [e.to_json() for e in load_episodes(run / "episodes" / "train-000002.jsonl")]


def opened_credit(run: Path) -> Any:
    record = load_credit(run, 2)
    return record.iteration, record.unit, [repr(episode) for episode in record.episodes]


def snapshot_opener(env: SearchEnv) -> Callable[[Path], Any]:
    def opened(run: Path) -> Any:
        path = run / "snapshot.json"
        try:
            state = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # the reader's own file, not ours
            raise SearchGymError(str(error)) from error
        env.reset(seed=5)
        env.restore(state)
        return json.dumps(env.snapshot(), sort_keys=True), env.step("<search>river</search>")

    return opened


def kinds(env: SearchEnv) -> dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], list[Path]]]]:
    """Kind -> the directory that is copied, what opens the copy, and the files in it that belong to the kind."""

    def below(*parts: str) -> Callable[[Path], list[Path]]:
        return lambda root: sorted(
            p for part in parts for p in (root / part).rglob("*") if p.is_file() and p.name != ".lock"
        )

    def top(root: Path) -> list[Path]:
        return sorted(
            p
            for p in root.iterdir()
            if p.is_file() and p.suffix in (".json", ".jsonl") and p.stem != "snapshot"
        )

    return {
        "run directory": ("run", opened_run, top),
        "checkpoint": ("run", opened_run, below("checkpoints/step-000002", "checkpoints/step-000000")),
        "weights": ("run", opened_weights, below("checkpoints/step-000002/policy")),
        "episodes": ("run", opened_episodes, lambda root: [root / "episodes" / "train-000002.jsonl"]),
        "credit": ("run", opened_credit, lambda root: [root / "credit" / "train-000002.safetensors"]),
        "snapshot": ("run", snapshot_opener(env), lambda root: [root / "snapshot.json"]),
        **{name: (name, product.read, product.files) for name, product in PRODUCTS.items()},
    }


def main() -> int:
    mutations, seed = (int(a) for a in (*sys.argv[1:3], *("3000", "0")[len(sys.argv[:3]) - 1 :]))
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))  # what reads an endless file fails
    recorder.draw_curve = lambda *_: None
    heard = Heard()
    logging.getLogger("searchgym").addHandler(heard)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        make_products(whole)
        train(CONFIG, whole / "run")
        env = SearchEnv(corpus=WORLD, judge="oracle")
        env.reset(seed=3)
        for query in ("river", "mayor of the town"):
            env.step(f"<search>{query}</search>")
        (whole / "run" / "snapshot.json").write_text(json.dumps(env.snapshot()), "utf-8")
        known = {kind: how for kind, how in kinds(env).items() if kind in (sys.argv[3:] or kinds(env))}
        expected: dict[str, Any] = {}
        copy = whole / "copy"  # beside the others, which some of them need
        for kind, (source, opened, _) in known.items():
            shutil.copytree(whole / source, copy)
            expected[kind] = opened(copy)
            shutil.rmtree(copy)
        for number in range(mutations):
            rng = random.Random(f"{seed} {number}")
            kind = rng.choice(list(known))
            source, opened, files = known[kind]
            shutil.copytree(whole / source, copy, symlinks=True)
            path = rng.choice(files(copy))
            how = mutate(path, rng)
            heard.count = 0
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    with alarm_clock():
                        same = opened(copy) == expected[kind]
                    told = heard.count or caught
                    outcome = "no effect" if same else "warned" if told else "SILENT"
                    outcome = "other content" if outcome == "SILENT" and kind in EDITED else outcome
                except SearchGymError:
                    outcome = "typed error"
                except Hang:
                    outcome = "HANGS"
                except Exception:
                    outcome = "UNTYPED"
                    traceback.print_exc()
            counts[kind, outcome] += 1
            if outcome.isupper():
                faults += 1
                print(f"mutation {number}: {how} of {path.relative_to(copy)}: {outcome}", flush=True)
            shutil.rmtree(copy)
    outcomes = ("typed error", "warned", "no effect", "other content", "SILENT", "UNTYPED", "HANGS")
    print(f"{'':16}" + "".join(f"{name:>14}" for name in outcomes))
    for kind in known:
        print(f"{kind:16}" + "".join(f"{counts[kind, name]:14}" for name in outcomes))
    print(f"{mutations} mutations, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
