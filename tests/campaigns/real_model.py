"""Every run and table of docs/results/real-model.md: a base model learns to search in passages of Wikipedia.

    python tests/campaigns/real_model.py DATA DIRECTORY --model gemma-3-270m [--runs warm sft-longer grpo-0 …] [--table]

DATA has the folders 2wiki and hotpotqa, each with passages.jsonl.gz and questions.jsonl.gz. DIRECTORY receives the splits, the
demonstrations, one folder per run and one file of evaluated episodes per run; what is already there is not made again, so that a
campaign that was stopped continues with the same command. Runs are processes of `searchgym`, one after the other, one thread
each. `--table` prints what is there: scores with intervals, and differences to the warm start paired by question.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.records.episode import Episode, load_episodes
from searchgym.scoring.answers import contains_answer
from searchgym.statistics import bootstrap

SEEDS = (0, 1, 2)
RUNS = (
    "warm",
    "sft-longer",
    "sft-all",
    *(f"{name}-{seed}" for seed in SEEDS for name in ("grpo", "cw", "gigpo")),
)
DEV, DEMONSTRATED = 80, 66  # train questions that are held out for dev, and that are demonstrated
DATES, COUNTRIES = ("when", "date of", "birthday"), ("nationality", "country")
EASY = ("date", "country")
SETTINGS = {"top_k": "1", "max_rounds": "4", "max_observation_chars": "1000"}
TRAINERS = {
    "grpo": ["--trainer", "grpo"],
    "gigpo": ["--trainer", "gigpo"],
    "cw": "--trainer cw-grpo --env-option judge=rules --env-option judge_when=unequal".split(),
}
MONTH = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", type=Path, help="the weights as safetensors (docs/agents/gguf.md)")
    parser.add_argument("--runs", nargs="*", default=RUNS, choices=RUNS, metavar="RUN", help=" ".join(RUNS))
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    campaign = Campaign(options.directory.resolve(), options.model and options.model.resolve())
    campaign.prepare(options.data)
    if not options.table:
        if options.model is None:
            parser.error("--model is needed to run")
        for name in options.runs:
            campaign.run(name)
    campaign.table()


class Campaign:
    """The files of one campaign in a directory."""

    def __init__(self, directory: Path, model: Path | None) -> None:
        self.directory, self.model = directory, model
        directory.mkdir(parents=True, exist_ok=True)

    def prepare(self, data: Path) -> None:
        """Passages of both samples, and the questions of chains with their kind as type and our split."""
        passages, questions = self.directory / "passages.jsonl.gz", self.directory / "questions.jsonl"
        if questions.exists():
            return
        with gzip.open(passages, "wt", encoding="utf-8", compresslevel=3) as file:
            for name in ("2wiki", "hotpotqa"):
                file.writelines(_lines(data / name / "passages.jsonl.gz"))
        chains = [json.loads(line) for line in _lines(data / "2wiki" / "questions.jsonl.gz")]
        chains = [q for q in chains if q["type"] in ("compositional", "inference")]
        train = sorted((q for q in chains if q["split"] == "train"), key=_hash)
        held_out = {q["id"] for q in train[:DEV]}
        for question in chains:
            question["type"] = _kind(question["question"])
            if question["id"] in held_out:
                question["split"] = "dev"
        demonstrated = {q["id"] for q in sorted(train[DEV:], key=lambda q: _hash(q, "demo"))[:DEMONSTRATED]}
        subsets: dict[str, Callable[[dict[str, Any]], bool]] = {
            "demonstrated.jsonl": lambda q: q["id"] in demonstrated,
            "train.jsonl": lambda q: q["split"] == "train",
            "questions.jsonl": lambda q: True,  # the last, because its presence says that all are there
        }
        for name, keep in subsets.items():
            (self.directory / name).write_text(
                "".join(json.dumps(q) + "\n" for q in chains if keep(q)), "utf-8"
            )

    def run(self, name: str) -> None:
        """Train one run, unless it is complete, and evaluate it on all dev questions."""
        trainer, _, seed = name.partition("-")
        flags = ["--run-dir", str(self.directory / name), "--eval-episodes", "0", "--threads", "1"]
        if trainer in TRAINERS:
            self.run("warm")
            flags += ["--recipe", "gemma3-270m-cpu", *TRAINERS[trainer], "--seed", seed]
            flags += ["--agent-option", f"model={self.directory / 'warm'}", *self._corpus("questions.jsonl")]
            flags += ["--env-option", f"types={json.dumps(EASY)}"]
        else:
            subset, iterations = {
                "warm": ("demonstrated", 10),
                "sft-longer": ("demonstrated", 50),
                "sft-all": ("train", 30),
            }[name]
            flags += ["--recipe", "gemma3-270m-cpu-sft", "--iterations", str(iterations)]
            flags += ["--set", f"episodes={self._demonstrations(subset)}"]
            flags += ["--agent-option", f"model={self.model}", *self._corpus("questions.jsonl")]
        episodes = self.directory / f"{name}.jsonl"
        if episodes.exists():
            return
        if (self.directory / name / "checkpoints").exists():
            flags += ["--resume"]
        _searchgym("train", *flags)
        played = ["--run", str(self.directory / name), "--env-option", "types=null", "--save", str(episodes)]
        _searchgym(*"eval --split dev --episodes 0".split(), *played)

    def _corpus(self, questions: str) -> list[str]:
        passages, path = self.directory / "passages.jsonl.gz", self.directory / questions
        corpus = {"name": "jsonl", "path": str(passages), "questions": str(path)}
        return ["--env-option", f"corpus={json.dumps(corpus)}"]

    def _demonstrations(self, subset: str) -> Path:
        """The demonstrator's episodes on a subset of the train questions; SFT leaves out those with a wrong answer."""
        episodes = self.directory / f"demonstrations-{subset}.jsonl"
        if not episodes.exists():
            flags = [word for key, value in SETTINGS.items() for word in ("--env-option", f"{key}={value}")]
            flags += [*self._corpus(f"{subset}.jsonl"), "--save", str(episodes)]
            played = "eval --agent demonstrator --agent-option thoughts=false --env SearchQA-v0 --split train --episodes 0"
            _searchgym(*played.split(), *flags)
        return episodes

    def table(self) -> None:
        """Print every evaluated run, for the easy questions and for all of them, and the differences between trainers."""
        runs = {name: _Scores(path) for name in RUNS if (path := self.directory / f"{name}.jsonl").exists()}
        rows = {name: [scores] for name, scores in runs.items()}
        for trainer in TRAINERS:
            seeds = [runs[name] for name in runs if name.startswith(f"{trainer}-")]
            if seeds:
                rows[f"mean of {trainer} ({len(seeds)} seeds)"] = rows[trainer] = seeds
        for title, kinds in (("easy", EASY), ("all", None)):
            heads = [title, *COLUMNS, *(f"difference in {column}" for column in WITH_INTERVAL)]
            print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
            for name, members in rows.items():
                if name not in TRAINERS:
                    print(f"| {' | '.join([name, *_cells(members, runs.get('warm'), kinds)])} |")
        print()
        for one, other in (("cw", "grpo"), ("gigpo", "grpo"), ("grpo", "sft-longer"), ("grpo", "sft-all")):
            if one in rows and other in rows:
                gains = (
                    f"{column} {_difference(rows[one], rows[other], column, EASY)}" for column in ("EM", "F1")
                )
                print(f"{one} less {other}, easy questions:", *gains)


class _Scores:
    """The evaluated episodes of one run, in the order of their questions."""

    def __init__(self, path: Path) -> None:
        self.episodes = sorted(load_episodes(path), key=lambda episode: episode.task_id)

    def of(self, column: str, kinds: Sequence[str] | None) -> np.ndarray[Any, Any]:
        """The values of a column for the questions of some kinds; NaN where an episode has none."""
        return np.array(
            [COLUMNS[column](e) for e in self.episodes if kinds is None or e.extra["type"] in kinds],
            dtype=float,
        )


def _read(episode: Episode) -> bool:
    """Whether a gold answer stands in a passage that the episode read."""
    return any(
        contains_answer(r.observation, answer) for r in episode.rounds for answer in episode.gold["answers"]
    )


def _blend(episode: Episode) -> float:
    """Whether the answer to a question for a date names a month or a number of a day twice, as "May 17 January 1954" does."""
    answer = episode.outcome.answer
    if episode.extra["type"] != "date" or not answer:
        return np.nan
    days = [n for n in re.findall(r"\d+", answer) if int(n) < 32]
    return float(len(MONTH.findall(answer)) > 1 or len(days) > 1)


COLUMNS: dict[str, Callable[[Episode], float]] = {
    "EM": lambda e: e.outcome.em,
    "F1": lambda e: e.outcome.f1,
    "sub-EM": lambda e: e.outcome.sub_em,
    "recall": lambda e: e.outcome.recall,
    "searches": lambda e: float(sum(bool(r.action.queries) for r in e.rounds)),
    "valid acts": lambda e: float(np.mean([not r.action.error for r in e.rounds])),
    "copied": lambda e: float(np.mean([r.action.error == "empty_act" for r in e.rounds])),
    "read": lambda e: float(_read(e)),
    "EM of these": lambda e: e.outcome.em if _read(e) else np.nan,
    "blends": _blend,
    "EM, date": lambda e: e.outcome.em if e.extra["type"] == "date" else np.nan,
    "EM, country": lambda e: e.outcome.em if e.extra["type"] == "country" else np.nan,
}
WITH_INTERVAL = ("EM", "F1", "recall")


def _cells(members: Sequence[_Scores], warm: _Scores | None, kinds: Sequence[str] | None) -> Iterator[str]:
    """The cells of a row: means over the seeds and questions; the differences of EM, F1 and recall to the warm start."""
    for column in COLUMNS:
        values = _mean(members, column, kinds)
        yield str(bootstrap(values.tolist())) if column in WITH_INTERVAL else f"{np.nanmean(values):.3f}"
    for column in WITH_INTERVAL:
        yield _difference(members, [warm], column, kinds) if warm else ""


def _mean(members: Sequence[_Scores], column: str, kinds: Sequence[str] | None) -> np.ndarray[Any, Any]:
    """For each question the mean over runs."""
    values = np.array([member.of(column, kinds) for member in members])
    counted = ~np.isnan(values)
    means: np.ndarray[Any, Any] = np.where(counted, values, 0).sum(0) / np.where(
        counted.any(0), counted.sum(0), np.nan
    )
    return means


def _difference(
    one: Sequence[_Scores], other: Sequence[_Scores], column: str, kinds: Sequence[str] | None
) -> str:
    found = bootstrap((_mean(one, column, kinds) - _mean(other, column, kinds)).tolist())
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _kind(question: str) -> str:
    """What a question asks for, by its words."""
    words = question.lower()
    return (
        "country"
        if any(w in words for w in COUNTRIES)
        else "date"
        if any(w in words for w in DATES)
        else "other"
    )


def _hash(question: dict[str, Any], salt: str = "") -> str:
    return hashlib.sha256((salt + question["id"]).encode()).hexdigest()


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


def _searchgym(*arguments: str) -> None:
    """Run a command of the package; what it prints goes to the terminal."""
    print("$ searchgym", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "searchgym", *arguments], check=True)


if __name__ == "__main__":
    main()
