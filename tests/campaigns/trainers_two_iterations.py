"""Every registered trainer, trained for two iterations by the command that its page documents.

    python tests/campaigns/trainers_two_iterations.py                      all names of `searchgym train --list-trainers`
    python tests/campaigns/trainers_two_iterations.py grpo vineppo         these

The first `$ searchgym train …` line of docs/trainers/NAME.md that names the trainer runs with `--iterations 2`, in an empty folder and
a process of its own. One line each says what came of it; the exit status is 1 if a trainer fails or has no such line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs" / "trainers"
ITERATIONS = 2


def registered() -> list[str]:
    """The names that `searchgym train --list-trainers` prints."""
    listed = _searchgym(["train", "--list-trainers"], DOCS)
    if listed.returncode:
        raise SystemExit(listed.stderr)
    return [
        line for line in listed.stdout.splitlines() if re.fullmatch(r"[a-z0-9-]+", line)
    ]  # settings are indented


def documented(name: str) -> list[str] | None:
    """The arguments of the command on a trainer's page, for two iterations; None if there is none."""
    page = DOCS / f"{name}.md"
    for line in page.read_text("utf-8").splitlines() if page.exists() else ():
        if not line.startswith("$ searchgym train ") or "--list-settings" in line:
            continue
        arguments = shlex.split(line)[3:]  # after "$ searchgym train"
        if ("--trainer", name) in itertools.pairwise(arguments):
            return [*_without(arguments, "--iterations"), "--iterations", str(ITERATIONS)]
    return None


def _without(arguments: list[str], flag: str) -> list[str]:
    kept = list(arguments)
    while flag in kept:
        at = kept.index(flag)
        del kept[at : at + 2]
    return kept


def try_trainer(name: str) -> tuple[bool, str]:
    """Run a trainer's command; returns whether it trained, and what to print."""
    arguments = documented(name)
    if arguments is None:
        return False, f"docs/trainers/{name}.md has no command `$ searchgym train --trainer {name} …`"
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        ended = _searchgym(["train", *arguments], Path(folder))
        seconds = time.monotonic() - started
        if ended.returncode:
            said = (ended.stderr or ended.stdout).strip().splitlines()
            return False, f"exit status {ended.returncode}: {said[-1] if said else 'nothing was printed'}"
        found = sorted(Path(folder).rglob("metrics.jsonl"))
        if len(found) != 1:
            return False, f"{len(found)} runs were recorded"
        rows = [json.loads(line) for line in found[0].read_text("utf-8").splitlines()]
        last = rows[-1]
        if last["iteration"] != ITERATIONS:
            return False, f"it ended after iteration {last['iteration']}"
        ahead = sum(row.get("lookahead_tokens", 0) for row in rows)
        updates = sum(row.get("updates", 0) for row in rows)
        return (
            True,
            f"{seconds:5.1f} s, {updates} updates, reward {last['reward']:.3f}, {ahead} tokens of look-ahead",
        )


def _searchgym(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "searchgym", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="trainers; default: all")
    names = parser.parse_args().names or registered()
    failed = 0
    for name in names:
        trained, said = try_trainer(name)
        failed += not trained
        print(f"{'ok  ' if trained else 'FAIL'} {name:14} {said}", flush=True)
    print(f"{len(names) - failed} of {len(names)} trainers trained")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
