"""Learning speed and credit fidelity as sections of a report, and as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

from searchgym.figures import new_figure, save_figure

from .learning import SCORES
from .report_tables import interval, table

__all__ = ["draw_learning", "learning_sections"]


def learning_sections(analysis: Mapping[str, Any]) -> list[str]:
    """The sections.

    Args:
        analysis: see `results.analyse`.
    """
    fidelity = [] if analysis["learning"]["given"] else [_fidelity(analysis)]
    return [_speed(analysis), _differences(analysis), *fidelity, _correlations(analysis)]


def _speed(a: Mapping[str, Any]) -> str:
    learning, unit = a["learning"], next(iter(a["spec"]["budget"]))
    exact = learning["measure"] == "exact"
    rows = []
    for point in learning["points"]:
        half = "–" if point["to_half"] is None else f"{point['to_half']:,.0f}"
        rows.append(
            [
                f"`{point['row']}`",
                point["environment"],
                str(point["seeds"]),
                "–" if point["start"] is None else f"{point['start']:.3f}",
                interval(point["speed"]),
                *([f"{half} ({point['reached_half']} of {point['seeds']})"] if exact else []),
                f"{point['final']:.3f}",
            ]
        )
    header = [
        "row",
        "environment",
        "seeds",
        "EM at the start",
        "learning speed",
        *([f"{unit} to half"] if exact else []),
        "final EM" if exact else "test EM, greedy",
    ]
    if not exact:
        text = (
            "Learning speed: (EM − EM at the start) / (1 − EM at the start), where EM is the share of right answers among all "
            "training episodes of a run (those without feedback), which are sampled, and EM at the start that of the first "
            "iteration, over all rows without feedback; with its 95 % t interval over seeds."
        )
        return f"## Learning speed\n\n{text}\n\n{table(header, rows)}"
    text = (
        "Learning speed: the part of the attainable gain in true EM, averaged over the budget, with its 95 % t interval over "
        f"seeds. To half: median {unit} until half of the attainable gain, and the runs that reached it."
    )
    return f"## Learning speed\n\n{text}\n\n{table(header, rows)}"


def _differences(a: Mapping[str, Any]) -> str:
    learning, base = a["learning"], a["spec"]["baseline"]
    places = list(learning["differences"])
    rows = [
        [
            f"`{label}`" + (" (reference)" if label in learning["references"] else ""),
            *(interval(learning["differences"][place][label]["difference"], signed=True) for place in places),
            interval(overall["difference"], signed=True),
            overall["verdict"],
        ]
        for label, overall in learning["overall"].items()
    ]
    rivals = [
        [
            place,
            f"`{rival['row']}`",
            interval(rival["difference"], signed=True),
            str(rival["seeds"]),
            "–" if rival.get("p_holm") is None else f"{rival['p_holm']:.3g}",
            rival["verdict"],
        ]
        for place, rival in learning["rivals"].items()
    ]
    decided = sum(rival["verdict"] != "undecided" for rival in learning["rivals"].values())
    text = (
        f"Paired by seed, in learning speed, with 95 % t intervals. Decided for the best rival in {decided} of "
        f"{len(learning['rivals'])} environments; where it is not, differences outside the interval are excluded. The best rival "
        "is chosen on the same seeds: p (Holm) corrects for all rows."
    )
    return (
        f"## Differences to `{base}`\n\n{text}\n\n{table(['row', *places, 'mean', 'verdict on the mean'], rows)}\n\n"
        + table(["environment", "best rival", "difference", "seeds", "p (Holm)", "verdict"], rivals)
    )


def _fidelity(a: Mapping[str, Any]) -> str:
    points = [p for p in a["learning"]["points"] if p["fidelity"]]
    rows = []
    for label in dict.fromkeys(p["row"] for p in points):
        of_row = [p for p in points if p["row"] == label]
        for iteration in sorted({int(i) for p in of_row for i in p["by_iteration"]}):
            found = [p["by_iteration"].get(str(iteration), {}) for p in of_row]
            cells = []
            for score in SCORES:
                values = [scores[score] for scores in found if score in scores]
                mean = median(values) if score == "snr" and values else fmean(values or [0.0])
                cells.append(f"{mean:.3f}" if values else "–")
            rows.append([f"`{label}`", str(iteration), *cells])
    missing = [label for label in a["rows"] if label not in {p["row"] for p in points}]
    text = (
        "Mean over environments and seeds (snr: median) of the scores of the credit audit, on the episodes that a row learns "
        "from."
    )
    if missing:
        names = ", ".join(f"`{label}`" for label in missing)
        text += f" None for {names}: its episodes hold acts that the enumerated environment does not have."
    return f"## Credit fidelity while learning\n\n{text}\n\n{table(['row', 'iteration', *SCORES], rows)}"


def _correlations(a: Mapping[str, Any]) -> str:
    rows = []
    for found in a["learning"]["correlations"]:
        if found["value"] is None:
            continue
        places = found["over_environments"]
        rows.append(
            [
                found["score"],
                "with references" if found["references"] else "methods",
                str(found["points"]),
                f"{found['value']:+.2f}",
                f"[{places['low']:+.2f}, {places['high']:+.2f}]" if places else "–",
                f"[{found['over_rows']['low']:+.2f}, {found['over_rows']['high']:+.2f}]",
            ]
        )
    header = ["score", "rows", "points", "rank correlation", "95 %, over environments", "95 %, over rows"]
    text = (
        ("Fidelity was measured elsewhere, not while these runs learned. " if a["learning"]["given"] else "")
        + "Points are rows x environments, both values minus their mean in the environment; the intervals resample whole "
        "environments, or whole rows.\n\n![fidelity and learning speed](learning.svg)"
    )
    return f"## Does fidelity predict learning speed?\n\n{text}\n\n{table(header, rows)}"


def draw_learning(path: Path, analysis: Mapping[str, Any]) -> None:
    """Fidelity against learning speed, and each row's difference to the baseline.

    Args:
        path: the picture; .svg, .png or .pdf.
        analysis: see `results.analyse`.
    """
    learning, base = analysis["learning"], analysis["spec"]["baseline"]
    score = SCORES[0]
    points = [p for p in learning["points"] if score in p["fidelity"]]
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    methods = [label for label in analysis["rows"] if label not in learning["references"]]
    colors = {label: f"C{i}" for i, label in enumerate(methods)}
    colors |= dict.fromkeys(learning["references"], "black")
    means = {
        place: (
            fmean(p["fidelity"][score] for p in points if p["environment"] == place),
            fmean(p["speed"]["value"] for p in points if p["environment"] == place),
        )
        for place in {p["environment"] for p in points}
    }
    for label in dict.fromkeys(p["row"] for p in points):
        chosen = [p for p in points if p["row"] == label]
        x = [p["fidelity"][score] - means[p["environment"]][0] for p in chosen]
        y = [p["speed"]["value"] - means[p["environment"]][1] for p in chosen]
        marker = "x" if label in learning["references"] else "o"
        left.plot(x, y, marker, color=colors[label], ms=4, label=label)
    left.axhline(0, color="0.8", lw=0.8, zorder=0)
    left.axvline(0, color="0.8", lw=0.8, zorder=0)
    left.set_xlabel(
        f"{score} of implied and true policy gradient,\nminus the mean of the family", fontsize="small"
    )
    left.set_ylabel("learning speed, minus the mean of the family", fontsize="small")
    shown = next(c for c in learning["correlations"] if c["score"] == score and not c["references"])
    if shown["value"] is not None:
        left.set_title(
            f"rank correlation {shown['value']:+.2f} ({shown['points']} points, methods)", fontsize="small"
        )
    rows = list(learning["overall"].items())[::-1]
    for height, (label, pair) in enumerate(rows):
        d = pair["difference"]
        right.plot([d["low"], d["high"]], [height, height], color=colors[label], lw=1.5)
        right.plot(
            d["value"], height, "x" if label in learning["references"] else "o", color=colors[label], ms=5
        )
    right.axvline(0, color="0.6", lw=0.8)
    right.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize="small")
    right.set_xlabel(
        f"learning speed minus that of {base},\nmean over families, 95 % interval", fontsize="small"
    )
    for axis in (left, right):
        axis.tick_params(labelsize="small")
        axis.grid(alpha=0.2)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize="xx-small", ncols=2)
    save_figure(figure, path)
