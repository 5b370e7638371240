"""What a path holds that can be viewed: a training run, a benchmark, a credit audit, or a file of episodes.

Everything here reads the documented files of a directory and never writes. A file that is damaged or half-written becomes a
`problem` that is shown; it does not hide the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from searchgym.errors import ConfigError, SearchGymError, strip
from searchgym.files import open_regular, parse_json, read_json

from ..runs.alarms import raised

__all__ = ["EpisodeFile", "Source", "describe", "find_sources"]

Kind = Literal["run", "benchmark", "audit", "file"]
_NAMED = re.compile(r"(?P<kind>[a-z]+)-(?P<iteration>\d{6,12})")
_AUDIT_EPISODES, _ADVANTAGES = "episodes.jsonl", "advantages.json"
_HIDDEN_SERIES = frozenset(("iteration", "policy_version", "tasks_drawn", "updates"))


@dataclass(frozen=True, slots=True)
class EpisodeFile:
    """A file of episodes.

    Attributes:
        key: names it in links: the label of its source, and its name without suffix.
        path: the file.
        source: label of its source.
        kind: "train", "eval", "audit" or "file".
        iteration: the iteration of a run that it belongs to; None elsewhere.
        trainer: trainer of the run; "" elsewhere.
    """

    key: str
    path: Path
    source: str
    kind: str
    iteration: int | None
    trainer: str


@dataclass(frozen=True, slots=True)
class Source:
    """Something that can be viewed.

    Attributes:
        label: its short name, unique among the sources that are viewed together.
        kind: what it is.
        path: where it is.
    """

    label: str
    kind: Kind
    path: Path

    @property
    def changed(self) -> str:
        """Another text whenever what `describe` reads may have changed."""
        names = ("config.json", "metrics.jsonl", "summary.json", "results.json", "audit.json", "runs")
        paths = [self.path / name for name in names] if self.kind != "file" else []
        return " ".join(str(path.stat().st_mtime_ns) for path in paths if path.exists())

    @property
    def advantages(self) -> Path:
        """The file of true advantages; only an audit has one."""
        return self.path / _ADVANTAGES

    def episode_files(self) -> list[EpisodeFile]:
        """The episode files there are now, training before evaluation, in order of iteration."""
        if self.kind == "file":
            return [EpisodeFile(self.label, self.path, self.label, "file", None, "")]
        if self.kind == "audit":
            path = self.path / _AUDIT_EPISODES
            return [EpisodeFile(self.label, path, self.label, "audit", None, "")] if path.is_file() else []
        if self.kind == "benchmark":
            return []
        config = _config(self.path)[0].get("config")
        trainer = str(config.get("trainer", "")) if isinstance(config, dict) else ""
        found = []
        folder = self.path / "episodes"
        for path in sorted(folder.glob("[!.]*.jsonl")) if folder.is_dir() else ():
            named = _NAMED.fullmatch(path.stem)
            kind, iteration = (named["kind"], int(named["iteration"])) if named else ("file", None)
            key = f"{self.label}/{path.stem}"
            found.append(EpisodeFile(key, path, self.label, kind, iteration, trainer))
        return sorted(found, key=lambda file: (file.kind != "train", file.iteration or 0))


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """The sources that paths stand for; a folder of runs stands for all of them.

    Args:
        paths: run directories, directories of benchmarks or audits, folders of these, or episode files.

    Raises:
        ConfigError: a path does not exist, or holds nothing that can be viewed.
    """
    found: list[tuple[Kind, Path]] = []
    for path in paths:
        if path.is_dir():
            here = list(_inside(path))
            if not here:
                raise ConfigError(
                    f"{path} holds nothing to view: give a run directory, the directory of a benchmark or of a credit audit, "
                    "a folder of these, or an episode file (.jsonl)"
                )
            found += here
        elif path.is_file():
            found.append(("file", path))
        else:
            raise ConfigError(
                f"{path} is not a file or directory: give a run, a benchmark or an episode file"
            )
    names = [path.resolve().stem if kind == "file" else path.resolve().name for kind, path in found]
    sources = []
    for i, ((kind, path), name) in enumerate(zip(found, names, strict=True)):
        again = names[:i].count(name)
        sources.append(Source(f"{name}~{again + 1}" if again else name, kind, path))
    return sources


def _inside(path: Path) -> Iterator[tuple[Kind, Path]]:
    kind = _kind(path)
    if kind is not None:
        yield kind, path
        return
    for child in sorted(path.iterdir()):
        if child.is_dir() and (kind := _kind(child)) is not None:
            yield kind, child
        elif child.suffix == ".jsonl" and child.is_file() and not child.name.startswith("."):
            yield "file", child


def _kind(path: Path) -> Kind | None:
    if (path / "audit.json").is_file():
        return "audit"
    if (path / "results.json").is_file() or _cards(path):
        return "benchmark"
    if (path / "config.json").is_file() and (
        (path / "metrics.jsonl").exists() or "config" in _config(path)[0]
    ):
        return "run"
    return None


def _cards(path: Path) -> list[Path]:
    """The cards of a benchmark's runs (runs/KIND/ROW/…/card.json)."""
    runs = path / "runs"
    return sorted(runs.rglob("card.json")) if runs.is_dir() else []


def describe(source: Source) -> dict[str, Any]:
    """What the page says of a source beside its episodes, as JSON without credentials.

    Args:
        source: a run: configuration, learning curves, alarms; a benchmark or an audit: its report.
    """
    about: dict[str, Any] = {
        "label": source.label,
        "kind": source.kind,
        "path": str(source.path),
        "problems": [],
    }
    if source.kind == "run":
        about |= _describe_run(source.path)
    elif source.kind == "benchmark":
        about |= _describe_benchmark(source.path)
    elif source.kind == "audit":
        value, problem = _read_table(source.path / "audit.json")
        about |= {"report": value, "problems": [problem] if problem else []}
        if not (source.path / _AUDIT_EPISODES).is_file():
            about["problems"].append(
                "The episodes of this audit were not kept: repeat it with this version to view them"
            )
    return about


def _describe_run(path: Path) -> dict[str, Any]:
    metadata, problem = _config(path)
    problems = [problem] if problem else []
    series: dict[str, list[tuple[int, float]]] = {}
    evaluations = []
    rows = _rows(path / "metrics.jsonl", problems)
    for row in rows:
        iteration = row["iteration"]
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in _HIDDEN_SERIES:
                series.setdefault(name, []).append((iteration, value))
        if isinstance(row.get("eval"), dict):
            evaluations.append({"iteration": iteration, **row["eval"]})
    summary = _read_table(path / "summary.json")[0] if (path / "summary.json").is_file() else {}
    config = metadata.get("config")
    config = strip(config) if isinstance(config, dict) else {}
    try:
        alarms = [asdict(alarm) for alarm in raised(rows, config.get("alarms"))]
    except (SearchGymError, ValueError, TypeError, KeyError, AttributeError) as error:
        alarms = []
        problems.append(f"the alarms of this run cannot be told ({error})")
    return {
        "config": config,
        "settings": metadata.get("settings", {}),
        "series": series,
        "evaluations": evaluations,
        "alarms": alarms,
        "finished": bool(summary),
        "stopped_by": summary.get("stopped_by"),
        "problems": problems,
    }


def _describe_benchmark(path: Path) -> dict[str, Any]:
    about: dict[str, Any] = {"problems": []}
    if (path / "results.json").is_file():
        report, problem = _read_table(path / "results.json")
        report.pop("runs", None)  # every sealed run: the largest part, and nothing of it is shown
        about["report"] = report
        about["problems"] = [problem] if problem else []
    cards = _cards(path)
    about["runs"] = [
        {
            "place": str(card.parent.relative_to(path / "runs")),
            "sealed": (card.parent / "result.json").is_file(),
        }
        for card in cards
    ]
    return about


def _config(path: Path) -> tuple[dict[str, Any], str]:
    return _read_table(path / "config.json")


def _read_table(path: Path) -> tuple[dict[str, Any], str]:
    """The JSON object in a file, and what is wrong with it."""
    try:
        value = read_json(path)
        if isinstance(value, dict):
            return value, ""
        reason = f"it holds a {type(value).__name__}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    return {}, f"{path.name} cannot be read ({reason})"


def _rows(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that can be read; the last line of a run that is being written may be incomplete."""
    try:
        with open_regular(path) as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror or error})")
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
            if type(row["iteration"]) is not int:
                raise TypeError("no iteration")
        except (ValueError, TypeError, KeyError):
            problems.append(f"{path.name}, line {number}, is damaged and left out")
            continue
        rows.append(row)
    return rows
