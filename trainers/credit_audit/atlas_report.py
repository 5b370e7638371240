"""The atlas as tables and plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.figures import new_figure, save_figure

from .auditing import REFERENCES
from .report import METHODS

__all__ = ["FIDELITY", "GRADIENT", "START", "STRENGTHS", "atlas_markdown", "draw_atlas"]

STRENGTHS = ("early", "middle", "late")
"""The policies that are audited: before training, and after half and all of it."""
START = STRENGTHS[0]
FIDELITY, GRADIENT = "fidelity.svg", "gradient.svg"
_PANELS: dict[str, tuple[tuple[str, float | None], ...]] = {
    FIDELITY: (("sign", 1.0), ("within", 1.0), ("pearson", 1.0), ("idle share", 1.0)),
    GRADIENT: (("cosine", 1.0), ("snr", None)),
}
"""Plot -> its panels: score, and the value of the darkest colour; None: the largest in the panel."""
_TABLES = ("sign", "within", "pearson", "idle share", "answer bias", "cosine", "snr")
_PARTS = ("sign", "within", "pearson")
"""The scores by success, judge and judge noise."""

Audit = Mapping[str, Any]


def atlas_markdown(atlas: Mapping[str, Any], command: str) -> str:
    """The tables.

    Args:
        atlas: content of atlas.json.
        command: the command that made it.
    """
    families, settings = atlas["families"], atlas["settings"]
    audits = {family: found["audits"] for family, found in families.items()}
    starts = {family: found[START] for family, found in audits.items()}
    seconds = sum(found["seconds"] for found in families.values())
    lines = [
        "# Atlas of credit",
        "",
        f"`{command}`",
        "",
        f"{settings['questions']} questions of each family, {settings['group_size']} episodes each, candidate policy with "
        f"start=lookup and memory=false, oracle judge; values by {METHODS[settings['method']]} (standard error where estimated "
        f"{settings['error']:g}); {seconds:,.0f} s of processor time.",
        "",
        *_policies(audits, settings["iterations"]),
    ]
    reasons: dict[str, dict[str, list[str]]] = {}
    for family, audit in starts.items():
        for name, reason in audit["left_out"].items():
            reasons.setdefault(name, {}).setdefault(reason, []).append(family)
    for name, found in reasons.items():
        for reason, places in found.items():
            where = "" if len(places) == len(starts) else f" on {', '.join(places)}"
            lines.append(f"- Without `{name}`{where}: {reason}.")
    for score in _TABLES:
        lines += _family_table(score, starts)
    lines += _strength_table(audits)
    lines += _part_table("By success", audits, "success", ("right", "wrong"))
    lines += _judge_table(audits)
    lines += _cost_table(starts)
    return "\n".join(lines) + "\n"


def _policies(audits: Mapping[str, Mapping[str, Audit]], iterations: int) -> list[str]:
    """The EM of each policy on each family."""
    shown = [label for label in STRENGTHS if all(label in found for found in audits.values())]
    lines = [
        "Share of right answers"
        + (f"; the middle and the late policy are those after {iterations // 2} and {iterations} iterations of `grpo`:" if len(shown) > 1 else ":"),
        "",
        "| policy | " + " | ".join(audits) + " |",
        "|---|" + "---|" * len(audits),
    ]  # fmt: skip
    for label in shown:
        cells = [f"{found[label]['em']:.2f}" for found in audits.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _value(rule: Mapping[str, Any], score: str) -> float:
    """A score of a rule; nan where there is none."""
    value = rule["gradient"].get(score) if score in ("cosine", "snr") else rule["scores"][score]["mean"]
    return math.nan if value is None else float(value)


def _by_rule(audits: Mapping[str, Audit], score: str) -> dict[str, list[float]]:
    """Rule -> its score in each family; "noise floor" is one half of the continuations scored against the other."""
    found: dict[str, list[float]] = {}
    for place, audit in enumerate(audits.values()):
        for rule in audit["rules"]:
            if rule["label"] not in ("true advantage", "reversed"):
                found.setdefault(rule["label"], [math.nan] * len(audits))[place] = _value(rule, score)
        floor = audit["floor"].get(score)
        if audit["settings"]["method"] == "monte-carlo" and floor is not None:
            found.setdefault("noise floor", [math.nan] * len(audits))[place] = floor
    return found


def _mean(values: list[float]) -> float:
    """Of those that are defined."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _show(value: float, score: str) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if score == "snr" else f"{value:.2f}"


def _family_table(score: str, audits: Mapping[str, Audit]) -> list[str]:
    rules = _by_rule(audits, score)
    if all(map(math.isnan, chain.from_iterable(rules.values()))):
        return []
    lines = ["", f"## {score}", "", "| rule | " + " | ".join(audits) + " | mean |"]
    lines.append("|---|" + "---|" * (len(audits) + 1))
    for label, values in rules.items():
        cells = [_show(value, score) for value in [*values, _mean(values)]]
        lines.append(f"| {_name(label)} | " + " | ".join(cells) + " |")
    return lines


def _strength_table(audits: Mapping[str, Mapping[str, Audit]]) -> list[str]:
    """Means over families of each score by policy."""
    shown = [label for label in STRENGTHS if all(label in found for found in audits.values())]
    if len(shown) < 2:
        return []
    scores = ["sign", "within", "pearson", "cosine", "snr"]
    by_score = {
        score: [_by_rule({f: found[label] for f, found in audits.items()}, score) for label in shown]
        for score in scores
    }
    scores = [s for s in scores if any(not math.isnan(_mean(v)) for v in by_score[s][0].values())]
    lines = [
        "",
        "## By policy strength",
        "",
        f"Means over the families: {' / '.join(shown)} policy.",
        "",
        "| rule | " + " | ".join(scores) + " |",
        "|---|" + "---|" * len(scores),
    ]
    for label in by_score[scores[0]][0]:
        cells = [
            " / ".join(_show(_mean(rules.get(label, [])), score) for rules in by_score[score])
            for score in scores
        ]
        lines.append(f"| {_name(label)} | " + " | ".join(cells) + " |")
    return lines


def _parts(audit: Audit, label: str, by: str, value: str) -> Mapping[str, float | None]:
    """The scores of a rule on a part of the episodes; {} where there is no such part."""
    for row in audit["breakdown"]:
        if (row["rule"], row["by"], row["value"]) == (label, by, value):
            found: Mapping[str, float | None] = row["scores"]
            return found
    return {}


def _part_means(
    audits: Mapping[str, Mapping[str, Audit]], which: str, label: str, by: str, value: str
) -> list[float]:
    """Means over families of `_PARTS`."""
    found = [_parts(audit[which], label, by, value) for audit in audits.values() if which in audit]
    given = [[part.get(score) for part in found] for score in _PARTS]
    return [_mean([math.nan if value is None else value for value in values]) for values in given]


def _part_table(
    title: str, audits: Mapping[str, Mapping[str, Audit]], by: str, values: tuple[str, ...]
) -> list[str]:
    lines = [
        "",
        f"## {title}",
        "",
        f"Means over the families, early policy: episodes that ended {' / '.join(values)}.",
        "",
        "| rule | " + " | ".join(_PARTS) + " |",
        "|---|" + "---|" * len(_PARTS),
    ]
    for label in _labels(audits):
        means = [_part_means(audits, START, label, by, value) for value in values]
        cells = [" / ".join(_show(mean[i], score) for mean in means) for i, score in enumerate(_PARTS)]
        lines.append(f"| {_name(label)} | " + " | ".join(cells) + " |")
    return lines


def _judge_table(audits: Mapping[str, Mapping[str, Audit]]) -> list[str]:
    """Rules that read verdicts, by judge and by the share of flipped verdicts."""
    rates = sorted(
        {r["value"] for a in audits.values() for r in a[START]["breakdown"] if r["by"] == "judge noise"}
    )
    # A family whose trainers that read verdicts were all left out has no audits by judge.
    judges = list(
        dict.fromkeys(label for found in audits.values() for label in found if label.startswith("judge "))
    )
    columns = [  # title, audit, part of its breakdown
        ("oracle", START, "all", ""),
        *((f"{float(rate):.0%} flipped", START, "judge noise", rate) for rate in rates),
        *((judge, judge, "all", "") for judge in judges),
    ]
    reads = {r["rule"] for a in audits.values() for r in a[START]["breakdown"] if r["by"] == "judge noise"}
    reads |= {
        r["rule"] for a in audits.values() for judge in judges if judge in a for r in a[judge]["breakdown"]
    }
    if not reads:
        return []
    lines = [
        "",
        "## By judge",
        "",
        f"Means over the families, early policy: {' / '.join(_PARTS)}. Verdicts that pay a reward, or are read while a rule plays, are not flipped.",
        "",
        "| rule | " + " | ".join(title for title, *_ in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for label in _labels(audits):
        if label in reads:
            means = [_part_means(audits, which, label, by, value) for _, which, by, value in columns]
            cells = [" / ".join(_show(value, "") for value in mean) for mean in means]
            lines.append(f"| {_name(label)} | " + " | ".join(cells) + " |")
    return lines


def _cost_table(audits: Mapping[str, Audit]) -> list[str]:
    lines = [
        "",
        "## Cost",
        "",
        "Means over the families, early policy, per 100 episodes.",
        "",
        "| method | unit | sampled tokens | restores | tokens of extra passes | judge calls | feedback acts | credit, ms | ms per unit of fidelity | note |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for audit in audits.values():
        for rule in audit["rules"]:
            if rule["label"] not in REFERENCES:
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
        lines.append(f"| `{label}` | {found[0]['unit']} | " + " | ".join(cells) + f" | {' / '.join(notes)} |")
    return lines


def _labels(audits: Mapping[str, Mapping[str, Audit]]) -> list[str]:
    """The trainers, in order."""
    labels = [rule["label"] for found in audits.values() for rule in found[START]["rules"]]
    return [label for label in dict.fromkeys(labels) if label not in REFERENCES]


def _name(label: str) -> str:
    return label if label in (*REFERENCES, "noise floor") else f"`{label}`"


def draw_atlas(audits: Mapping[str, Audit], path: Path) -> None:
    """Rules by families, as coloured cells with their numbers.

    Args:
        audits: family -> its audit.
        path: `FIDELITY` or `GRADIENT` in some directory.
    """
    panels = _PANELS[path.name]
    columns = 2
    rows = -(-len(panels) // columns)
    labels = list(_by_rule(audits, panels[0][0]))
    figure = new_figure(6.2 * columns, (0.2 * len(labels) + 1.3) * rows)
    for i, (score, darkest) in enumerate(panels):
        values = np.array([_by_rule(audits, score).get(label, [math.nan] * len(audits)) for label in labels])
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
                dark = abs(value) > 0.65 * top
                axes.text(
                    column,
                    row,
                    _show(value, score),
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if dark else "black",
                )
        axes.set_xticks(range(len(audits)), list(audits), rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.set_title(
            {"idle share": "idle share (0 is best)", "snr": "snr (high is best)"}.get(
                score, f"{score} (1 is best)"
            ),
            fontsize=9,
        )
    save_figure(figure, path)
