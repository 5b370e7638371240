"""What a benchmark compares, from one TOML or JSON file. This file does not import torch.

A file has the keys of `Spec`; `[train]` holds fields of `TrainConfig` that all runs share, `[environments.NAME]` an
`env` and its `env_options`, each `[[entries]]` the keys of `Entry`. `extends = "NAME or path"` starts from another
file: tables are merged, entries of the same label replaced, others added; `keep = [labels]` takes only those over.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from searchgym.env.reward_weights import portable_reward
from searchgym.errors import ConfigError, UnknownIdError, did_you_mean
from searchgym.options import plugins
from searchgym.options.sources import absolute_name

from ..config import TrainConfig, make_config, option, parse_settings
from ..core.registry import load_trainer, trainer_label
from .audit_plan import AuditPlan, Scope

__all__ = ["BUDGETS", "SHIPPED", "Entry", "Run", "Spec", "load_spec", "parse_spec", "restrict"]

BUDGETS = ("episodes", "tokens", "seconds")
"""The units of a budget that all runs get; tokens are sampled ones, seconds those of collecting and learning."""

_FOLDER = Path(__file__).parent / "specs"
SHIPPED = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))
"""Names of the specs in the package."""
_SELECTION = 1000  # seeds of the learning-rate selection begin here, those of the final runs at 0
_OWN = ("trainer", "seed", "lr", "settings", "split", "eval_split", "env", "env_options", "record", "replay")


@dataclass(frozen=True)
class Entry:
    """One row of the comparison."""

    label: str = option("", "name of the row")
    trainer: str = option("", "registered trainer, or FILE.py:CLASS; default: the label")
    settings: dict[str, Any] = option({}, "the trainer's settings")
    env_options: dict[str, Any] = option({}, "arguments of the environment, added to those of all rows")
    train: dict[str, Any] = option({}, "training options, added to those of all rows")
    family: str = option("", "method family, for the checklist; default: the head line of the trainer's file")


@dataclass(frozen=True)
class Spec:
    """A benchmark.

    Attributes:
        environments: by name: {"env": id, "env_options": {…}}.
        measured: what was measured of the baseline before anything else ran, for the record.
    """

    name: str = option("", "name of the benchmark")
    description: str = option("", "what it is for, in a sentence")
    tier: str = option("", "which tier of policy: seconds, tiny, hours")
    baseline: str = option("grpo", "label of the row the others are compared with")
    budget: dict[str, Any] = option({}, "one of episodes, tokens, seconds and how much of it each run gets")
    seeds: int = option(5, "final runs per row and environment", low=1)
    selection_seeds: int = option(2, "runs per learning rate; 0: no selection, the middle rate", low=0)
    rates: list[float] = field(default_factory=list, metadata={"help": "learning rates to choose from"})
    test_questions: int = option(300, "questions of the one evaluation on the test split", low=1)
    window: list[float] = field(
        default_factory=lambda: [0.3, 0.8],
        metadata={"help": "EM the baseline should end in, so that there is something to compare"},
    )
    audit: dict[str, Any] = option(
        {}, "what is measured exactly while runs learn, see `AuditPlan`; {}: greedy EM alone"
    )
    references: list[str] = field(
        default_factory=list,
        metadata={"help": "rows that no method could be, e.g. told the truth; left out of rivals"},
    )
    train: dict[str, Any] = option({}, "training options of all rows")
    environments: dict[str, Any] = option({}, "where they act")
    entries: list[Any] = field(default_factory=list, metadata={"help": "the rows"})
    measured: dict[str, Any] = option({}, "the baseline's figures when the world and the budget were chosen")

    @cached_property
    def rows(self) -> tuple[Entry, ...]:
        """The entries, checked."""
        rows = [parse_settings(Entry, values, "key of an entry") for values in self.entries]
        return tuple(
            replace(row, label=row.label or trainer_label(row.trainer), trainer=row.trainer or row.label)
            for row in rows
        )

    @cached_property
    def plan(self) -> AuditPlan | None:
        """The table `audit`, checked; None without one."""
        return parse_settings(AuditPlan, self.audit, "key of audit") if self.audit else None

    @property
    def unit(self) -> str:
        """The unit of the budget."""
        return next(iter(self.budget))

    @property
    def amount(self) -> float:
        """The size of the budget."""
        return float(self.budget[self.unit])

    def entry(self, label: str) -> Entry:
        """The row of that name."""
        return next(row for row in self.rows if row.label == label)

    def config(self, entry: Entry, environment: str, lr: float, seed: int) -> TrainConfig:
        """The training run of a row."""
        place = self.environments[environment]
        return make_config(
            {
                "iterations": 1_000_000,
                "eval_every": 0,
                **self.train,
                **entry.train,
                f"max_{self.unit}": self.budget[self.unit],
                "trainer": entry.trainer,
                "settings": entry.settings,
                "env": place["env"],
                "env_options": {**place.get("env_options", {}), **entry.env_options},
                "eval_split": "dev",
                "lr": lr,
                "seed": seed,
                "threads": 1,
            }
        )

    def scope(self, environment: str, phase: str) -> Scope | None:
        """What a run is measured on exactly; None without an audit."""
        if self.plan is None:
            return None
        place = self.environments[environment]
        return Scope(place["env"], place.get("env_options", {}), "test" if phase == "final" else "dev")

    def selection_runs(self) -> list[Run]:
        """The runs that choose learning rates: on seeds of their own, never evaluated on the test split."""
        if len(self.rates) < 2 or not self.selection_seeds:
            return []
        seeds = range(_SELECTION, _SELECTION + self.selection_seeds)
        return [
            Run("selection", row.label, place, rate, seed)
            for seed in seeds
            for row in self.rows
            for place in self.environments
            for rate in self.rates
        ]

    def final_runs(self, rates: Mapping[str, float]) -> list[Run]:
        """The runs that count, seed by seed, so that a part of them is a fair comparison too."""
        return [
            Run("final", row.label, place, rates[row.label], seed)
            for seed in range(self.seeds)
            for row in self.rows
            for place in self.environments
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Run:
    """One training run of a benchmark."""

    phase: str
    label: str
    environment: str
    lr: float
    seed: int

    @property
    def place(self) -> str:
        """Where it lives under the benchmark's directory."""
        rate = f"/lr-{self.lr:g}" if self.phase == "selection" else ""
        return f"{self.phase}/{self.label}/{self.environment}{rate}/seed-{self.seed}"


def load_spec(source: str | Path, **changes: Any) -> Spec:
    """A spec of the package by name, or one from a file.

    Args:
        source: name or path.
        **changes: replace keys of the file.

    Raises:
        ConfigError: the file is missing or not TOML or JSON, or a value cannot be used.
    """
    values = _read(str(source), Path())
    return parse_spec({**values, **changes})


def parse_spec(values: Mapping[str, Any]) -> Spec:
    """Check the values of a spec, so that every run it requests is well-formed.

    Raises:
        ConfigError: a value that cannot be used.
        UnknownIdError: an unknown trainer.
    """
    spec = parse_settings(Spec, values, "key of the benchmark")
    _check_budget(spec.budget)
    if not spec.rates or not all(isinstance(r, int | float) and r > 0 for r in spec.rates):
        raise ConfigError(
            f"rates is {spec.rates!r}: give the learning rates to choose from, e.g. [0.1, 0.2, 0.4]"
        )
    if not spec.environments:
        raise ConfigError("the benchmark names no environment: add a table [environments.NAME] with env = ID")
    if not spec.name or "/" in spec.name:
        raise ConfigError(f"name is {spec.name!r}: give the benchmark a name without a slash")
    for name, place in spec.environments.items():
        if not isinstance(place, dict) or "env" not in place or place.keys() - {"env", "env_options"}:
            raise ConfigError(f"environment {name!r} is {place!r}: give env = ID and, if wanted, env_options")
    labels = [row.label for row in spec.rows]
    for label in labels:
        if not label or "/" in label or labels.count(label) > 1:
            raise ConfigError(f"entry {label!r}: every entry needs a label of its own, without a slash")
    if spec.baseline not in labels:
        near = did_you_mean(spec.baseline, labels)
        raise ConfigError(f"the baseline {spec.baseline!r} is not an entry.{near}")
    for label in spec.references:
        if label not in labels or label == spec.baseline:
            raise ConfigError(f"reference {label!r}: give the label of an entry other than the baseline")
    for key in {*spec.train}.union(*(row.train for row in spec.rows)):
        if key in _OWN:
            raise ConfigError(f"train.{key}: a benchmark sets {key} for each run itself; leave it out")
    spec = replace(spec, rates=sorted(map(float, spec.rates)))
    if spec.plan is not None:
        _check_audit(spec)
    for row in spec.rows:
        load_trainer(row.trainer)(row.settings)  # refuses unknown settings
        for place in spec.environments:
            spec.config(row, place, spec.rates[0], 0)
    return spec


def restrict(spec: Spec, labels: Sequence[str], baseline: str | None = None) -> Spec:
    """Only some rows; a registered trainer that has none gets one with its default settings.

    Raises:
        UnknownIdError: neither a row nor a trainer.
    """
    known = {row.label: row for row in spec.rows}
    rows = []
    chosen = baseline or spec.baseline
    for label in dict.fromkeys([*labels, chosen]):
        if label not in known and ":" not in label and label not in plugins.names("trainers"):
            raise UnknownIdError("row or trainer", label, {*known, *plugins.names("trainers")})
        rows.append(known.get(label, Entry(label=trainer_label(label), trainer=absolute_name(label))))
    entries = [{k: v for k, v in dataclasses.asdict(row).items() if v} for row in rows]
    kept = {row.label for row in rows}
    references = [label for label in spec.references if label in kept]
    changes = {"entries": entries, "baseline": trainer_label(chosen), "references": references}
    return parse_spec({**spec.to_json(), **changes})


def _check_budget(budget: Mapping[str, Any]) -> None:
    unit, amount = next(iter(budget.items()), ("", 0))
    if len(budget) != 1 or unit not in BUDGETS:
        raise ConfigError(
            f"budget is {dict(budget)!r}: give one of {', '.join(BUDGETS)}, e.g. {{ episodes = 4096 }}"
        )
    if isinstance(amount, bool) or not isinstance(amount, int | float) or amount <= 0:
        raise ConfigError(f"budget {unit} is {amount!r}: give a positive number")


def _check_audit(spec: Spec) -> None:
    assert spec.plan is not None
    if not spec.plan.at or not all(type(n) is int and n > 0 for n in spec.plan.at):
        raise ConfigError(f"audit.at is {spec.plan.at!r}: give numbers of iterations, e.g. [1, 5, 10]")
    evaluated = [name for name in ("eval_episodes", "eval_every") if spec.train.get(name)]
    if spec.train.get("eval_episodes") != 0 or evaluated:
        raise ConfigError(
            "with an audit the true EM replaces greedy evaluations: set train.eval_episodes to 0"
        )


def _read(source: str, folder: Path) -> dict[str, Any]:
    """The values of a spec, with what it extends filled in."""
    path = folder / source
    if source in SHIPPED and not path.is_file():
        path = _FOLDER / f"{source}.toml"
    try:
        text = path.read_text("utf-8")
        values: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        near = did_you_mean(source, SHIPPED)
        raise ConfigError(
            f"no benchmark {source!r} ({error.strerror}).{near} Give a file, or one of: {', '.join(SHIPPED)}."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"benchmark {path} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}"
        ) from error
    for entry in values.get("entries", []):
        if isinstance(entry, dict) and isinstance(entry.get("trainer"), str):
            entry["trainer"] = absolute_name(entry["trainer"], path.parent)
    places = values.get("environments", {})
    for part in [*values.get("entries", []), *(places.values() if isinstance(places, dict) else ())]:
        if isinstance(part, dict) and "reward" in (options := part.get("env_options") or {}):
            options["reward"] = portable_reward(options["reward"], path.parent)
    if "extends" not in values:
        return values
    base = _read(values.pop("extends"), path.parent)
    kept = values.pop("keep", None)
    entries = {_label(e): e for e in base.get("entries", [])}
    if kept is not None:
        unknown = [label for label in kept if label not in entries]
        if unknown:
            raise UnknownIdError(f"row to keep in {path}:", unknown[0], entries)
        entries = {label: entries[label] for label in kept}
    entries |= {_label(e): e for e in values.get("entries", [])}
    tables: dict[str, Any] = {
        k: {**base[k], **values[k]} for k in ("train", "environments") if k in base and k in values
    }
    return {**base, **values, **tables, "entries": list(entries.values())}


def _label(entry: Mapping[str, Any]) -> str:
    return str(entry.get("label") or trainer_label(entry.get("trainer", "")))
