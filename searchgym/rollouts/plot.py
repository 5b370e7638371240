"""The figure of accuracy under a search budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..figures import new_figure, save_figure

if TYPE_CHECKING:
    from .budgets import BudgetCurve

__all__ = ["draw_budgets"]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
_MARKERS = "osD^vPX"


def draw_budgets(path: Path, curves: Sequence[BudgetCurve]) -> None:
    """EM against searches allowed, EM against cost (sampled tokens; searches if an agent has no tokens), and how often the
    budget ended an episode. Bars are 95 % intervals over questions; numbers at points are budgets.

    Args:
        path: the file; see `figures.save_figure`.
        curves: one line each.
    """
    figure = new_figure(10.5, 3.5)
    allowed, spent, ended = figure.subplots(1, 3)
    budgets = sorted({point.budget for curve in curves for point in curve.points})
    has_tokens = all(point.tokens is not None for curve in curves for point in curve.points)
    logarithmic = budgets[0] > 0 and budgets[-1] >= 4 * budgets[0]
    for axis in (allowed, ended):
        if logarithmic:
            axis.set_xscale("log", base=2)
        axis.set_xticks(budgets, [str(budget) for budget in budgets])
        axis.minorticks_off()
        axis.set_xlabel("searches allowed per question")
    for i, curve in enumerate(curves):
        style = {
            "color": _COLORS[i % len(_COLORS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "ms": 5,
            "lw": 1.5,
        }
        bars = {"capsize": 2.5, "elinewidth": 1.0, **style}
        x = [point.budget for point in curve.points]
        aside = i - (len(curves) - 1) / 2  # side by side, or the bars of equal budgets would hide each other
        dodged = [
            b * 1.03**aside if logarithmic else b + 0.015 * aside * (budgets[-1] - budgets[0]) for b in x
        ]
        em = [point.result.metrics["em"] for point in curve.points]
        means = [e.value for e in em]
        errors = [[e.value - e.low for e in em], [e.high - e.value for e in em]]
        allowed.errorbar(dodged, means, errors, label=curve.agent, **bars)
        costs = [p.tokens if has_tokens else p.result.metrics["searches"].value for p in curve.points]
        spent.errorbar(costs, means, errors, **bars)
        ended.plot(x, [point.on_budget for point in curve.points], **style)
    for axis in (allowed, spent):
        top = max(p.result.metrics["em"].high for curve in curves for p in curve.points)
        axis.set_ylim(0, min(1.02, max(0.1, 1.1 * top)))
        axis.set_ylabel("exact match")
    spent.set_xlabel(f"{'sampled tokens' if has_tokens else 'searches used'} per question")
    spent.set_xlim(0, 1.1 * spent.get_xlim()[1])
    ended.set_ylim(-0.02, 1.02)
    ended.set_ylabel("share cut off by the budget")
    for axis in (allowed, spent, ended):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for line, curve in zip(spent.containers, curves, strict=True):
        _name_points(spent, line[0], [str(point.budget) for point in curve.points])
    played = curves[0].points[0].result
    allowed.set_title(
        f"{played.env.get('corpus', '')}, {played.questions} questions", fontsize="medium", loc="left"
    )
    figure.legend(*allowed.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    save_figure(figure, path, dpi=200)


def _name_points(axis: Any, line: Any, names: Sequence[str]) -> None:
    """Write its name at each point of a line; one label for neighbours that lie close together."""
    width, height = axis.get_xlim()[1], axis.get_ylim()[1]
    near: list[list[tuple[str, float, float]]] = []
    for name, x, y in zip(names, *line.get_data(), strict=True):
        here = (name, float(x), float(y))
        if near and abs(x - near[-1][0][1]) < 0.06 * width and abs(y - near[-1][0][2]) < 0.07 * height:
            near[-1].append(here)
        else:
            near.append([here])
    for points in near:
        x, y = max(p[1] for p in points), max(p[2] for p in points)
        label = points[0][0] if len(points) == 1 else f"{points[0][0]}–{points[-1][0]}"
        offset = {
            "xytext": (4, 4),
            "textcoords": "offset points",
            "fontsize": "small",
            "color": line.get_color(),
        }
        axis.annotate(label, (x, y), **offset)
