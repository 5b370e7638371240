"""Training and benchmarks that are killed, interrupted, run out of disk or are started twice: nothing is lost or half-written.

python tests/campaigns/kill_runs.py [ROUNDS] [SEED]     (default 40 and 0; needs a POSIX system)

Each round starts `searchgym train` in a process of its own, ends it at a random moment, looks at what is left, and resumes it,
until it is complete; its metrics and weights must then be those of an undisturbed run, byte for byte, and no temporary file may
be left. The moment ends it with kill -9, with one or two Ctrl-C, with a limit on the size of files (what a full disk does), or a
second process is started in the same directory, which must be refused. A benchmark is killed and repeated as well.
"""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

WORLD = {"name": "country-terse", "size": 1000, "train": 40, "dev": 10, "test": 10}
ITERATIONS = 24
TRAIN = [
    *("--agent", "candidate", "--questions", "4", "--group-size", "4", "--checkpoint-every", "3"),
    *("--iterations", str(ITERATIONS), "--eval-episodes", "10", "--eval-every", "8", "--keep-best", "em"),
    *("--env-option", f"corpus={json.dumps(WORLD)}", "--env-option", 'reward={"recall": 1.0}'),
]
SPEC = """
name = "killed"
budget = { episodes = 32 }
seeds = 1
selection_seeds = 1
rates = [0.1, 0.3]
test_questions = 5

[train]
agent = "candidate"
questions = 2
eval_episodes = 5
eval_every = 2
checkpoint_every = 1

[environments.terse]
env = "SearchQA-Terse-v0"
env_options = { corpus = { name = "country-terse", size = 1000, train = 40, dev = 10, test = 10 }, reward = { recall = 1.0 } }

[[entries]]
label = "grpo"
settings = { group_size = 4 }

[[entries]]
label = "cw-grpo"
settings = { group_size = 4 }
env_options = { judge = "oracle" }
"""


def start(arguments: list[str], limit: int | None = None) -> subprocess.Popen[str]:
    def limited() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-m", "searchgym", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limited,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_group(child: subprocess.Popen[str]) -> None:
    """Kill a process and its children, unless it has ended already."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def command(run: Path) -> list[str]:
    """What starts or continues the run."""
    if (run / "config.json").exists():
        return ["train", "--resume", "--run-dir", str(run)]
    return ["train", *TRAIN, "--run-dir", str(run)]


def wait_for_progress(run: Path, rng: random.Random, child: subprocess.Popen[str]) -> None:
    """Until the child has written something, and a random moment more."""
    rows = run / "metrics.jsonl"
    before, deadline = rows.stat().st_size if rows.exists() else 0, time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if rows.exists() and rows.stat().st_size > before:
            break
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 0.5))


def kill(run: Path, rng: random.Random) -> str:
    child = start(command(run))
    if rng.random() < 0.8:
        wait_for_progress(run, rng, child)
    else:  # while it starts
        time.sleep(rng.uniform(0.0, 3.0))
    kill_group(child)
    return ""


def interrupt(run: Path, rng: random.Random) -> str:
    child = start(command(run))
    wait_for_progress(run, rng, child)
    child.send_signal(signal.SIGINT)
    if rng.random() < 0.4:
        time.sleep(rng.uniform(0.0, 0.05))
        child.send_signal(signal.SIGINT)
    output, _ = child.communicate(timeout=120)
    if child.returncode not in (0, 130) or "Traceback" in output:
        return f"Ctrl-C ended with status {child.returncode}: {output[-300:]}"
    return ""


def fill_disk(run: Path, rng: random.Random) -> str:
    child = start(command(run), limit=rng.choice([1, 500, 2_000, 5_000, 20_000, 60_000]))
    output, _ = child.communicate(timeout=300)
    if child.returncode not in (0, 2) or "Traceback" in output:
        return f"a full disk ended with status {child.returncode}: {output[-300:]}"
    return ""


def start_twice(run: Path, rng: random.Random) -> str:
    first = start(command(run))
    wait_for_progress(run, rng, first)
    first.send_signal(signal.SIGSTOP)  # it must not end while the second one tries
    held = first.poll() is None
    second = start(["train", "--resume", "--run-dir", str(run)])
    output, _ = second.communicate(timeout=120)
    kill_group(first)
    if "Traceback" in output or second.returncode not in (0, 2):
        return f"a second process ended with status {second.returncode}: {output[-300:]}"
    if held and not (second.returncode == 2 and "in use" in output):
        return f"a second process was let into a run: {output[-300:]}"
    return ""


def left_over(folder: Path) -> list[str]:
    """Temporary files and directories."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if ".tmp" in p.name]


def content(run: Path) -> dict[str, bytes]:
    """What equal runs have in common: metrics, the last weights, the optimizer."""
    last = max((run / "checkpoints").glob("step-*"))
    files = [
        run / "metrics.jsonl",
        run / "best.json",
        last / "tensors.safetensors",
        last / "policy" / "model.safetensors",
    ]
    return {path.name: path.read_bytes() for path in files if path.exists()}


def check_training(folder: Path, rounds: int, seed: int, counts: collections.Counter[str]) -> list[str]:
    faults = []
    straight = folder / "straight"
    child = start(command(straight))
    output, _ = child.communicate()
    assert child.returncode == 0, output
    ways: list[Callable[[Path, random.Random], str]] = [kill, kill, interrupt, fill_disk, start_twice]
    number = done = 0
    while done < rounds:
        rng, run = random.Random(f"{seed} {number}"), folder / f"run-{number}"
        number += 1
        for _ in range(rng.randrange(2, 6)):
            way = rng.choice(ways)
            if fault := way(run, rng):
                faults.append(f"run {number}: {fault}")
            counts[way.__name__] += 1
            done += 1
        child = start(command(run))
        output, _ = child.communicate()
        counts["resumed to the end"] += 1
        if child.returncode:
            faults.append(f"run {number}: not resumed, status {child.returncode}: {output[-300:]}")
        elif content(run) != content(straight):
            faults.append(f"run {number}: differs from the undisturbed run")
        elif left := left_over(run):
            faults.append(f"run {number}: left over: {left}")
    return faults


def sealed(out: Path) -> dict[str, object]:
    """Results of a benchmark without what differs between equal runs."""
    found = {}
    for path in sorted(out.rglob("result.json")):
        data = json.loads(path.read_text("utf-8"))
        kept = {k: data[k] for k in ("run", "config", "test", "failed") if k in data}
        kept["sums"] = {k: v for k, v in data["sums"].items() if k != "seconds"}
        kept["counts"] = {k: data["stats"][k] for k in ("episodes", "steps", "queries", "batches")}
        found[str(path.parent.relative_to(out))] = kept
    return found


def check_benchmark(folder: Path, kills: int, seed: int, counts: collections.Counter[str]) -> list[str]:
    spec = folder / "killed.toml"
    spec.write_text(SPEC, "utf-8")
    arguments = ["bench", str(spec), "--processes", "1", "--out"]
    child = start([*arguments, str(folder / "straight-bench")])
    output, _ = child.communicate()
    assert child.returncode == 0, output
    rng, out = random.Random(seed), folder / "killed-bench"
    for _ in range(kills):
        child = start([*arguments, str(out)])
        time.sleep(rng.uniform(1.0, 8.0))
        kill_group(child)
        counts["benchmark killed"] += 1
    child = start([*arguments, str(out)])
    output, _ = child.communicate()
    if child.returncode:
        return [f"the benchmark was not continued, status {child.returncode}: {output[-300:]}"]
    return (
        [] if sealed(out) == sealed(folder / "straight-bench") else ["the killed benchmark has other results"]
    )


def main() -> int:
    rounds, seed = (int(a) for a in (*sys.argv[1:3], *("40", "0")[len(sys.argv) - 1 :]))
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEARCHGYM_HOME"] = str(Path(folder) / "home")
        faults = check_training(Path(folder), rounds, seed, counts)
        faults += check_benchmark(Path(folder), max(2, rounds // 8), seed, counts)
    for fault in faults:
        print(fault)
    print(", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in counts.items()))
    print(f"{sum(counts.values())} events, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
