"""Learning curves with bands, as a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from searchgym.figures import new_figure, save_figure

__all__ = ["curve_of", "draw_curves"]

_TOGETHER = 5  # rows that one picture can hold


def curve_of(analysis: Mapping[str, Any]) -> str:
    """What the curves of a benchmark show.

    Args:
        analysis: see `results.analyse`.
    """
    return "true EM, test questions" if analysis["learning"] else "greedy EM, dev questions"


def draw_curves(path: Path, analysis: Mapping[str, Any]) -> None:
    """Mean dev EM over the budget, with the 95 % bootstrap band over seeds.

    Up to five rows share a panel per environment; more get a panel each, with the baseline's curve behind.
    """
    spec, rows = analysis["spec"], analysis["rows"]
    baseline, places = spec["baseline"], list(spec["environments"])
    others = [label for label in rows if label != baseline]
    together = len(rows) <= _TOGETHER
    panels = [(None, place) for place in places] if together else [(o, p) for p in places for o in others]
    columns = min(len(panels), 4)
    lines = ceil(len(panels) / columns)
    figure = new_figure(max(6.5, 3.2 * columns), 4.2 if together else 2.5 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for number, (axis, (label, place)) in enumerate(zip(axes, panels, strict=False)):
        axis.tick_params(labelbottom=number + columns >= len(panels))  # no panel below it
        shown = rows if label is None else (baseline, label)
        for i, name in enumerate(shown):
            color = "tab:gray" if name == baseline else f"C{i if together else 0}"
            band = rows[name]["curves"][place]
            axis.fill_between(band["x"], band["low"], band["high"], color=color, alpha=0.2, lw=0)
            known = together or name == baseline
            axis.plot(
                band["x"], band["mean"], color=color, lw=1.6, label=name if known else "the row named above"
            )
        title = place if label is None else (label if len(places) == 1 else f"{label}, {place}")
        axis.set_title(title, fontsize="medium")
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlim(0, band["x"][-1])
        axis.grid(alpha=0.3)
        if label is None or axis is axes[0]:
            axis.legend(loc="upper left", fontsize="small")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    unit = {"tokens": "sampled tokens"}.get(next(iter(spec["budget"])), next(iter(spec["budget"])))
    figure.supxlabel(f"{unit} of training", fontsize="medium")
    figure.supylabel(curve_of(analysis), fontsize="medium")
    save_figure(figure, path)
