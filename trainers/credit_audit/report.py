"""What an audit says: a table, a sentence per trainer, a picture, and the card of the survey."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.figures import new_figure, save_figure
from searchgym.files import write_text
from searchgym.statistics import Interval

from .auditing import REFERENCES, CreditAudit, RuleScore
from .kept import write_episodes
from .scores import SCORES

__all__ = ["COLUMNS", "SHOWN", "audit_json", "audit_markdown", "draw_audit", "in_words", "write_audit"]

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
        "settings": vars(audit.settings),
        "env": audit.env,
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
                "credit_seconds": rule.seconds,
                "note": rule.note,
            }
            for rule in audit.rules
        ],
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
    counted = ", ".join(f"{value:,.0f} {name}" for name, value in sampled.counts.items() if name != "seconds")
    lines = [
        "# Credit audit",
        "",
        f"`{command}`",
        "",
        f"{len(sampled.groups)} questions, {len(returns)} episodes, {len(true_R)} rounds; mean return {np.mean(returns):.3f}; "
        f"{neutral_R.mean():.0%} of the rounds change nothing (|A| ≤ {settings.negligible:g}).",
        f"True values by {_METHODS[settings.method]}: {counted}, {sampled.counts['seconds']:.1f} s of processor time.",
        "",
        "| rule | " + " | ".join(COLUMNS) + " | credit, ms | note |",
        "|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    for rule in audit.rules:
        cells = [cell(rule, column) for column in COLUMNS]
        lines.append(
            f"| {rule.label} | " + " | ".join(cells) + f" | {rule.seconds * 1e3:.1f} | {rule.note} |"
        )
    lines += ["", *(f"Without {name}: {reason}" for name, reason in audit.left_out.items())]
    if settings.method == "monte-carlo":
        floor = ", ".join(
            f"{name} {value:.2f}" for name, value in audit.floor.items() if not math.isnan(value)
        )
        lines += ["", f"Noise floor, one half of the continuations scored against the other: {floor}."]
    lines += ["", *(f"- {in_words(audit, rule)}" for rule in audit.rules if rule.label not in REFERENCES)]
    return "\n".join([*lines, "", *_card(audit)]) + "\n"


_METHODS = {"exact": "enumeration", "monte-carlo": "restored continuations"}


def _card(audit: CreditAudit) -> list[str]:
    """The six fields of the survey's CA-ID card (arXiv 2604.09459), filled in."""
    settings = audit.settings
    exact = settings.method == "exact"
    seconds = audit.sampled.counts["seconds"] / len(audit.sampled.episodes)
    fields = {
        "unit and estimand": "a round's act; A(s, a) = Q(s, a) − V(s), the return expected after the act minus the return "
        "expected before it, under the policy that played the episodes",
        "effective state": f"the environment's snapshot and the policy's own state (question, acts and observations); corpus "
        f"{audit.env.get('corpus')} with hash {str(audit.env.get('corpus_hash'))[:12]}, index {str(audit.env.get('index_hash'))[:12]}",
        "intervention source": "the policy itself: acts drawn from its sampling distribution in the restored state",
        "downstream protocol": "the same policy plays on to the end of the episode, without discount",
        "support and uncertainty": "every act of every reachable state; no sampling error in A. Intervals are bootstrap "
        "intervals over questions"
        if exact
        else f"continuations until the standard error of A is {settings.error:g}, at most {settings.continuations} per state; "
        "two replicas give the noise floor. Intervals are bootstrap intervals over questions",
        "optimisation interface": "credit as the trainer returns it, the mean over a round's tokens; nothing is trained, so "
        "the table is a credit-only comparison at equal episodes",
        "overhead": f"{seconds * 1e3:.1f} ms of processor time per episode for the true values; the credit's own time is in "
        "the table",
    }
    return ["## Card", "", "| field | here |", "|---|---|", *(f"| {k} | {v} |" for k, v in fields.items())]


def draw_audit(audit: CreditAudit, path: Path) -> None:
    """One panel per rule: its credit against the true advantage, each round a point.

    Args:
        audit: the audit.
        path: the picture.
    """
    shown = [rule for rule in audit.rules if rule.label not in REFERENCES and rule.shared]
    columns = max(1, min(4, len(shown)))
    rows = -(-max(1, len(shown)) // columns)
    figure = new_figure(3.2 * columns, 2.9 * rows + 0.4)
    rounds = audit.sampled.rounds
    for i, rule in enumerate(shown):
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


def write_audit(audit: CreditAudit, directory: Path, command: str) -> list[Path]:
    """Write report.md, audit.json and audit.png, and the episodes for the viewer (see `kept`).

    Args:
        audit: the audit.
        directory: is created.
        command: the command that made it.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    report, data, picture = (directory / name for name in ("report.md", "audit.json", "audit.png"))
    write_text(report, audit_markdown(audit, command))
    write_text(data, json.dumps(audit_json(audit), indent=1) + "\n")
    draw_audit(audit, picture)
    return [report, data, picture, *write_episodes(audit, directory)]
