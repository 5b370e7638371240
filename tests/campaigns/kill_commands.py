"""Every long command, killed at random moments: nothing half-written is left, and the same command then gives what it should.

    python tests/campaigns/kill_commands.py                              6 kills of each command
    python tests/campaigns/kill_commands.py --kills 20 --commands index-bm25 eval

Each command runs once undisturbed. Then it is started in a fresh home directory and killed (kill -9, with its children) at a
random moment of the time it took, several times in a row, and at last runs to its end. After each kill, what lies under the
final name must be absent or complete; at the end, it must equal the result of the undisturbed run, and no temporary file may be
left next to it. `train` is continued with --resume. `kill_runs.py` does more with training and benchmarks.

Needs the extras `train`, `dense` for index-flat, index-ivf and index-hnsw, and `lucene` for index-lucene. Commands whose extra is
not installed are named and left out.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from commands import COMMANDS, prepare, serving_hub, write_inputs
from kill_runs import kill_group, left_over, start


def run(line: list[str], home: Path) -> tuple[int, str]:
    os.environ["SEARCHGYM_HOME"] = str(home)
    child = start(line)
    output, _ = child.communicate()
    return child.returncode, output


def attack(name: str, place: Path, kills: int, seed: int, counts: collections.Counter[str]) -> list[str]:
    """Run a command undisturbed, then kill it and let it end; what went wrong."""
    command, folder = COMMANDS[name], place / name
    folder.mkdir()
    started = time.monotonic()
    status, output = run(command.line(place, folder / "straight"), place / "home")
    seconds = time.monotonic() - started
    if status:
        return [f"{name}: undisturbed it ended with status {status}: {output[-400:]}"]
    expected = command.read(folder / "straight")
    out, home, rng, faults = folder / "killed", place / f"home-{name}", random.Random(f"{seed} {name}"), []
    for _ in range(kills):
        os.environ["SEARCHGYM_HOME"] = str(home)
        child = start(command.line(place, out))
        # Half of the kills late, where files are written.
        moment = rng.uniform(0.5, 1.05) if rng.random() < 0.5 else rng.uniform(0.0, 1.0)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=moment * seconds)
        counts["killed" if child.poll() is None else "ended before"] += 1
        kill_group(child)
        # A run is complete only when it is resumed.
        if (out / command.last).exists() and command.arguments[0] != "train":
            try:
                if command.read(out) != expected:
                    faults.append(f"{name}: after a kill, the output is another one")
            except Exception as error:
                faults.append(f"{name}: after a kill, the output is half-written: {error!r:.200}")
    status, output = run(command.line(place, out), home)
    counts["run to the end"] += 1
    if status and not any(word in output for word in ("not empty", "already", "exists")):
        faults.append(f"{name}: not repeated, status {status}: {output[-300:]}")
    elif command.read(out) != expected:
        faults.append(f"{name}: another result than undisturbed")
    if left := [one for one in left_over(folder) if not one.startswith("straight")]:
        faults.append(f"{name}: left over: {left}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=6, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder, serving_hub():
        write_inputs(Path(folder), options.commands)
        for line in prepare(Path(folder), options.commands):
            status, output = run(line, Path(folder) / "home")
            assert status == 0, output
        for name in options.commands:
            if missing := [one for one in COMMANDS[name].needs if not importlib.util.find_spec(one)]:
                print(f"{name:16} left out: {', '.join(missing)} not installed")
                continue
            counts: collections.Counter[str] = collections.Counter()
            found = attack(name, Path(folder), options.kills, options.seed, counts)
            print(
                f"{name:16} "
                + ", ".join(f"{n} {what}" for what, n in counts.items())
                + f", {len(found)} faults",
                flush=True,
            )
            for fault in found:
                print(f"  {fault}", flush=True)
            faults += found
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
