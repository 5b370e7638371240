"""The atlas: every trainer's credit on every family of the corpus `forks`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.agents.candidate import CandidateAgent
from searchgym.corpora.forks import FAMILIES
from searchgym.env.vector import make_vec
from searchgym.errors import RunDirectoryError, UnknownIdError
from searchgym.figures import new_figure, save_figure
from searchgym.files import read_json, write_text

from .auditing import AuditSettings, audit_credit
from .monte_carlo import Precision, needed_continuations
from .opening import open_trainers
from .report import METHODS, audit_json
from .sampling import Method

__all__ = ["AtlasSettings", "make_atlas"]

_GRADIENT = "gradient.svg"
_PANELS = {
    "fidelity.svg": (("sign", 1.0), ("within", 1.0), ("pearson", 1.0), ("idle share", 1.0)),
    _GRADIENT: (("cosine", 1.0), ("snr", None)),
}
"""Plot -> its panels: score, and the value of the darkest colour; None: the largest in the panel."""
_TABLES = ("sign", "within", "pearson", "idle share", "answer bias", "cosine", "snr")


@dataclass(frozen=True)
class AtlasSettings:
    """What the atlas covers.

    Attributes:
        trainers: registered names or file.py:Class; empty: all.
        families: families; empty: all.
        questions: of each family.
        group_size: episodes per question.
        seed: of questions and episodes.
        method: "exact" or "monte-carlo"; without enumeration there is no true gradient.
        error: standard error where values are estimated.
    """

    trainers: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    questions: int = 25
    group_size: int = 8
    seed: int = 0
    method: Method = "exact"
    error: float = 0.1


def make_atlas(
    settings: AtlasSettings, out: Path, command: str, on_progress: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Audit, and write atlas.md, atlas.json and the plots.

    Families that atlas.json holds already, made with the same settings, are not audited again.

    Args:
        settings: what to cover.
        out: is created.
        command: the command that makes it.
        on_progress: called with what is being done.

    Returns:
        The files.

    Raises:
        UnknownIdError: an unknown family or trainer.
        RunDirectoryError: `out` holds an atlas with other settings.
    """
    for family in settings.families:
        if family not in FAMILIES:
            raise UnknownIdError("family", family, FAMILIES)
    Precision(settings.error, 2**31).check()
    out.mkdir(parents=True, exist_ok=True)
    data = out / "atlas.json"
    made = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items() if k != "families"}
    atlas: dict[str, Any] = (
        read_json(data) if data.exists() else {"schema": 1, "settings": made, "families": {}}
    )
    if atlas.get("settings") != made:
        raise RunDirectoryError(f"{data} was made with other settings: give another --out, or remove it")
    for family in settings.families or FAMILIES:
        if family in atlas["families"]:
            continue
        started = time.process_time()
        found = _audit_family(family, settings, on_progress)
        atlas["families"][family] = found | {"seconds": time.process_time() - started}
        write_text(data, json.dumps(atlas, indent=1) + "\n")
    report = out / "atlas.md"
    write_text(report, _markdown(atlas, command))
    gradients = any(rule["gradient"] for audit in atlas["families"].values() for rule in audit["rules"])
    plots = [out / name for name in _PANELS if gradients or name != _GRADIENT]
    for plot in plots:
        _draw(atlas["families"], _PANELS[plot.name], plot)
    return [report, data, *plots]


def _audit_family(family: str, settings: AtlasSettings, on_progress: Callable[[str], None]) -> dict[str, Any]:
    corpus = {"name": "forks", "family": family}
    config = make_vec("SearchQA-Forks-v0", 1, corpus=corpus, split="train", judge="oracle").config
    trainers, refused = open_trainers(settings.trainers, {}, settings.group_size, config)
    audit = audit_credit(
        CandidateAgent(memory=False, start="lookup"),
        config,
        trainers,
        AuditSettings(
            questions=settings.questions,
            group_size=settings.group_size,
            method=settings.method,
            error=settings.error,
            continuations=max(16, needed_continuations(settings.error)),
            seed=settings.seed,
        ),
        lambda doing: on_progress(f"{family}: {doing}"),
    )
    found = audit_json(audit)
    found["left_out"] |= refused
    found["em"] = float(np.mean([episode.outcome.em for episode in audit.sampled.episodes]))
    return found


def _value(rule: Mapping[str, Any], score: str) -> float:
    """A score of a rule; nan where there is none."""
    value = rule["gradient"].get(score) if score in ("cosine", "snr") else rule["scores"][score]["mean"]
    return math.nan if value is None else float(value)


def _by_rule(families: Mapping[str, Any], score: str) -> dict[str, list[float]]:
    """Rule -> its score in each family; "noise floor" is one half of the continuations scored against the other."""
    found: dict[str, list[float]] = {}
    for place, audit in enumerate(families.values()):
        for rule in audit["rules"]:
            if rule["label"] not in ("true advantage", "reversed"):
                found.setdefault(rule["label"], [math.nan] * len(families))[place] = _value(rule, score)
        floor = audit["floor"].get(score)
        if audit["settings"]["method"] == "monte-carlo" and floor is not None:
            found.setdefault("noise floor", [math.nan] * len(families))[place] = floor
    return found


def _markdown(atlas: Mapping[str, Any], command: str) -> str:
    families = atlas["families"]
    seconds = sum(audit["seconds"] for audit in families.values())
    settings = atlas["settings"]
    lines = [
        "# Atlas of credit",
        "",
        f"`{command}`",
        "",
        f"{settings['questions']} questions of each family, {settings['group_size']} episodes each, candidate policy with "
        f"start=lookup and memory=false, oracle judge; values by {METHODS[settings['method']]} (standard error where estimated {settings['error']:g}); {seconds:.0f} s of processor time.",
        "",
        "EM: " + ", ".join(f"{family} {audit['em']:.2f}" for family, audit in families.items()) + ".",
    ]
    for score in _TABLES:
        if all(map(math.isnan, chain.from_iterable(_by_rule(families, score).values()))):
            continue
        lines += ["", f"## {score}", "", "| rule | " + " | ".join(families) + " | mean |"]
        lines.append("|---|" + "---|" * (len(families) + 1))
        for label, values in _by_rule(families, score).items():
            mean = float(np.nanmean(values)) if not all(map(math.isnan, values)) else math.nan
            cells = [
                "–" if math.isnan(v) else f"{v:.3f}" if score == "snr" else f"{v:.2f}"
                for v in [*values, mean]
            ]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "## Cost", "", "Means over the families, per 100 episodes.", ""]
    lines += [
        "| method | unit | sampled tokens | restores | tokens of extra passes | judge calls | feedback acts | credit, ms | ms per unit of fidelity | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for audit in families.values():
        for rule in audit["rules"][4:]:
            rules.setdefault(rule["label"], []).append(rule)
    for label, found in rules.items():
        costs = [rule["cost_per_100_episodes"] for rule in found]
        cells = [
            f"{np.mean([cost[name] for cost in costs]):,.0f}"
            for name in ("tokens", "restores", "pass_tokens", "judge_calls", "feedback_calls")
        ]
        cells.append(f"{np.mean([cost['ms'] for cost in costs]):.1f}")
        per_unit = [cost["ms_per_fidelity"] for cost in costs if cost["ms_per_fidelity"] is not None]
        cells.append(f"{np.median(per_unit):.1f}" if per_unit else "–")
        notes = sorted({rule["note"] for rule in found if rule["note"]})
        lines.append(f"| {label} | {found[0]['unit']} | " + " | ".join(cells) + f" | {' / '.join(notes)} |")
    for family, audit in families.items():
        lines += [f"\nWithout {name} on {family}: {reason}" for name, reason in audit["left_out"].items()]
    return "\n".join(lines) + "\n"


def _draw(families: Mapping[str, Any], panels: tuple[tuple[str, float | None], ...], path: Path) -> None:
    """One panel per score: rules by families, as coloured cells with their numbers."""
    columns = 2
    rows = -(-len(panels) // columns)
    labels = list(_by_rule(families, panels[0][0]))
    figure = new_figure(6.2 * columns, (0.36 * len(labels) + 1.3) * rows)
    for i, (score, darkest) in enumerate(panels):
        values = np.array([_by_rule(families, score)[label] for label in labels])
        top = darkest or float(np.nanmax(values, initial=1e-9))
        axes = figure.add_subplot(rows, columns, i + 1)
        bad = score == "idle share"
        axes.imshow(
            values,
            cmap="Oranges" if bad else "PuOr_r" if darkest else "Purples",
            vmin=0.0 if bad or not darkest else -top,
            vmax=top,
            aspect="auto",
        )
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                shown = f"{value:.3f}" if score == "snr" else f"{value:.2f}"
                dark = abs(value) > 0.65 * top
                axes.text(
                    column,
                    row,
                    shown,
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
        axes.set_xticks(range(len(families)), list(families), rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(
            {"idle share": "idle share (0 is best)", "snr": "snr (high is best)"}.get(
                score, f"{score} (1 is best)"
            ),
            fontsize=9,
        )
    save_figure(figure, path)
