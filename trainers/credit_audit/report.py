"""What an audit says: tables, a sentence per trainer, a picture, and the card of the survey."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.figures import new_figure, save_figure
from searchgym.files import write_text
from searchgym.statistics import Interval

from .auditing import CreditAudit, RuleScore
from .breakdown import BREAKDOWN_SCORES, break_down
from .card import card_lines, cost_json, cost_lines
from .kept import write_episodes
from .scores import SCORES

__all__ = [
    "COLUMNS",
    "METHODS",
    "SHOWN",
    "audit_json",
    "audit_markdown",
    "breakdown_lines",
    "draw_audit",
    "in_words",
    "write_audits",
]

COLUMNS = (*SCORES, "cosine", "snr")
"""The columns of the report's table."""
SHOWN = ("sign", "within", "pearson", "idle share", "answer bias", "cosine", "snr")
"""Those that fit into a terminal."""


def cell(rule: RuleScore, column: str) -> str:
    """One figure of a rule, as text."""
    value = rule.gradient.get(column, math.nan) if column in ("cosine", "snr") else rule.scores[column].value
    return "–" if math.isnan(value) else f"{value:.3f}" if column == "snr" else f"{value:.2f}"


def in_words(audit: CreditAudit, rule: RuleScore) -> str:
    """The sentence that says how good a rule is."""
    sign, within, idle = (rule.scores[name] for name in ("sign", "within", "idle share"))
    if not rule.credit_R.any():
        return f"{rule.label} gives no credit on these episodes."
    right = (1 + sign.value) / 2
    parts = [
        f"{rule.label} gives a round the right sign in {right:.0%} of the rounds that matter "
        f"(agreement {_interval(sign)})",
        f"ranks the rounds inside an episode with a correlation of {_interval(within)}",
        f"spends {idle.value:.0%} of its credit on rounds that change nothing",
    ]
    gradient = rule.gradient.get("cosine", math.nan)
    if not math.isnan(gradient):
        best = audit.rules[0].gradient["snr"]
        share = rule.gradient["snr"] / best if best > 0 else math.nan
        parts.append(
            f"points along the true gradient with a cosine of {gradient:.2f}, at {share:.0%} of the signal-to-noise ratio "
            "of the true advantage"
        )
    return f"{', '.join(parts[:-1])}, and {parts[-1]}."


def _interval(value: Interval) -> str:
    if math.isnan(value.low):
        return f"{value.value:.2f}"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def audit_json(audit: CreditAudit) -> dict[str, Any]:
    """The audit as plain JSON; figures that are not defined are null."""
    return {
        "schema": 1,
        "settings": vars(audit.settings) | {"judge_noise": list(audit.settings.judge_noise)},
        "env": audit.env,
        "policy": audit.policy,
        "episodes": len(audit.sampled.episodes),
        "rounds": len(audit.sampled.rounds.true_R),
        "counts": audit.sampled.counts,
        "left_out": audit.left_out,
        "floor": {name: _number(value) for name, value in audit.floor.items()},
        "rules": [
            {
                "label": rule.label,
                "scores": {
                    name: {k: _number(v) for k, v in value.to_json().items()}
                    for name, value in rule.scores.items()
                },
                "gradient": {name: _number(value) for name, value in rule.gradient.items()},
                "shared_episodes": rule.shared,
                "episodes": len(rule.sampled.episodes),
                "method": rule.sampled.method,
                "unit": rule.unit,
                "cost_per_100_episodes": cost_json(rule),
                "note": rule.note,
            }
            for rule in audit.rules
        ],
        "breakdown": [row.to_json() for row in break_down({"": audit})],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def audit_markdown(audit: CreditAudit, command: str) -> str:
    """The report.

    Args:
        audit: the audit.
        command: the command that made it.
    """
    sampled, settings = audit.sampled, audit.settings
    returns = [episode.reward for episode in sampled.episodes]
    true_R, neutral_R = sampled.rounds.true_R, sampled.rounds.neutral_R
    lines = [
        "# Credit audit",
        "",
        f"`{command}`",
        "",
        f"{len(sampled.groups)} questions, {len(returns)} episodes, {len(true_R)} rounds; mean return {np.mean(returns):.3f}; "
        f"{neutral_R.mean():.0%} of the rounds change nothing (|A| ≤ {settings.negligible:g}).",
        f"True values by {METHODS[settings.method]}.",
        "",
        "| rule | " + " | ".join(COLUMNS) + " | note |",
        "|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for rule in audit.rules:
        cells = [cell(rule, column) for column in COLUMNS]
        lines.append(f"| {rule.label} | " + " | ".join(cells) + f" | {rule.note} |")
    lines += ["", *(f"Without {name}: {reason}" for name, reason in audit.left_out.items())]
    if settings.method == "monte-carlo":
        floor = ", ".join(
            f"{name} {value:.2f}" for name, value in audit.floor.items() if not math.isnan(value)
        )
        errors = np.concatenate([truth.errors_R for truth in sampled.truth])
        lines += [
            "",
            f"Standard error of an advantage: median {np.median(errors):.3f}, largest {errors.max():.3f}. Noise floor, one half "
            f"of the continuations scored against the other: {floor}.",
        ]
    lines += ["", *(f"- {in_words(audit, rule)}" for rule in audit.trainers)]
    parts = [breakdown_lines({"": audit}), cost_lines(audit), card_lines(audit, command)]
    return "\n".join([*lines, *(line for part in parts for line in ["", *part])]) + "\n"


METHODS = {"exact": "enumeration", "monte-carlo": "restored continuations"}
"""How values are computed -> in words."""


def breakdown_lines(audits: Mapping[str, CreditAudit]) -> list[str]:
    """The scores on parts of the episodes, as one Markdown table.

    Args:
        audits: label of the policy -> its audit; "" if there is one.
    """
    lines = [
        "## Breakdown",
        "",
        "| rule | policy | by | value | episodes | rounds | EM | " + " | ".join(BREAKDOWN_SCORES) + " |",
        "|---|---|---|---|" + "---|" * (3 + len(BREAKDOWN_SCORES)),
    ]
    for row in break_down(audits):
        cells = [
            "–" if math.isnan(row.scores[name]) else f"{row.scores[name]:.2f}" for name in BREAKDOWN_SCORES
        ]
        lines.append(
            f"| {row.rule} | {row.policy} | {row.by} | {row.value} | {row.episodes} | {row.rounds} | {row.em:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def draw_audit(audit: CreditAudit, path: Path) -> None:
    """One panel per rule: its credit against the true advantage, each round a point.

    Args:
        audit: the audit.
        path: the picture.
    """
    shown = audit.trainers
    columns = max(1, min(4, len(shown)))
    rows = -(-max(1, len(shown)) // columns)
    figure = new_figure(3.2 * columns, 2.9 * rows + 0.4)
    for i, rule in enumerate(shown):
        rounds = rule.sampled.rounds
        axes = figure.add_subplot(rows, columns, i + 1)
        scale = float(np.sqrt(np.mean(rule.credit_R**2))) or 1.0
        for answers, marker, name in ((False, "o", "search"), (True, "^", "answer")):
            chosen = rounds.answers_R == answers
            axes.plot(
                rounds.true_R[chosen],
                rule.credit_R[chosen] / scale,
                marker,
                ms=3,
                alpha=0.35,
                mew=0,
                label=name,
            )
        axes.axhline(0.0, color="0.7", lw=0.8, zorder=0)
        axes.axvline(0.0, color="0.7", lw=0.8, zorder=0)
        sign, within = rule.scores["sign"].value, rule.scores["within"].value
        axes.set_title(f"{rule.label}   sign {sign:.2f}, within {within:.2f}", fontsize=9)
        axes.tick_params(labelsize=7)
        if i % columns == 0:
            axes.set_ylabel("credit / rms", fontsize=8)
        if i >= len(shown) - columns:
            axes.set_xlabel("true advantage", fontsize=8)
        if i == 0:
            axes.legend(fontsize=7)
    name = f"{audit.env.get('corpus')}, {len(audit.sampled.episodes)} episodes"
    figure.suptitle(f"Credit of each round against its true advantage: {name}", fontsize=10)
    save_figure(figure, path)


def write_audits(audits: Mapping[str, CreditAudit], directory: Path, command: str) -> list[Path]:
    """Write report.md, audit.json, audit.png and the episodes for the viewer (see `kept`).

    Of several policies in a directory each, with the breakdown of all above.

    Args:
        audits: label of the policy -> its audit; "" if there is one.
        directory: is created.
        command: the command that made them.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for label, audit in audits.items():
        folder = directory / label
        folder.mkdir(exist_ok=True)
        report, data, picture = (folder / name for name in ("report.md", "audit.json", "audit.png"))
        write_text(report, audit_markdown(audit, command))
        write_text(data, json.dumps(audit_json(audit), indent=1) + "\n")
        draw_audit(audit, picture)
        written += [report, data, picture, *write_episodes(audit, folder)]
    if len(audits) > 1:
        report, data = directory / "report.md", directory / "audit.json"
        lines = ["# Credit audit of several policies", "", f"`{command}`", "", *breakdown_lines(audits)]
        write_text(report, "\n".join(lines) + "\n")
        rows = [row.to_json() for row in break_down(audits)]
        write_text(
            data, json.dumps({"schema": 1, "policies": list(audits), "breakdown": rows}, indent=1) + "\n"
        )
        written += [report, data]
    return written
