"""The numbers of a benchmark as a Markdown page, with the reporting checklist of the survey on credit assignment
(arXiv 2604.09459, its MUST and SHOULD items) filled in from what was run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchgym.errors import redact, strip
from searchgym.files import write_text

from ..runs.directory import write_json
from .curves import curve_of, draw_curves
from .learning_report import draw_learning, learning_sections
from .modality import LEVEL
from .report_tables import interval as _interval
from .report_tables import share as _share
from .report_tables import table as _table
from .schedule import duration
from .statistics import Comparison, Interval

__all__ = ["markdown", "selection_table", "write_report"]

Row = Mapping[str, Any]


def write_report(out: Path, analysis: Mapping[str, Any], command: str = "") -> Path:
    """Write results.json, the pictures and report.md without credentials; returns the path of the last."""
    analysis = strip(analysis)
    write_json(out / "results.json", analysis)
    for suffix in ("png", "svg"):
        draw_curves(out / f"curves.{suffix}", analysis)
    if analysis["learning"]:
        draw_learning(out / "learning.svg", analysis)
    path = out / "report.md"
    write_text(path, markdown(analysis, redact(command)), alone=True)
    return path


def markdown(analysis: Mapping[str, Any], command: str = "") -> str:
    """The page."""
    sections = [
        _head(analysis, command),
        _main(analysis),
        _heaps(analysis),
        _verdicts(analysis),
        f"## Learning curves\n\n![mean {curve_of(analysis)} over training, with 95 % bands](curves.png)",
        _learning(analysis),
        *(learning_sections(analysis) if analysis["learning"] else ()),
        _settings(analysis),
        _costs(analysis),
        selection_table(analysis["spec"], analysis["selection"]),
        _checklist(analysis),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(a: Mapping[str, Any], command: str) -> str:
    spec = a["spec"]
    budget = ", ".join(f"{amount:,} {unit}" for unit, amount in spec["budget"].items())
    places = "; ".join(
        f"{n}: `{p['env']}` {p.get('env_options', {})}" for n, p in spec["environments"].items()
    )
    codes = sorted({row["code"] for row in a["rows"].values()})
    measured = ", ".join(f"{k} {v}" for k, v in spec["measured"].items())
    baseline = a["rows"][spec["baseline"]]["mean"]["value"]
    low, high = spec["window"]
    lines = [
        f"# Benchmark `{spec['name']}`",
        spec["description"],
        f"- Date {a['date']}; {a['machine']['cores']} cores, {a['machine']['processor']}, {a['machine']['system']}; "
        + ", ".join(f"{k} {v}" for k, v in a["versions"].items())
        + f"; code {', '.join(codes)}.",
        f"- Every run of every trainer gets {budget}, then one evaluation on the test split.",
        f"- Environments: {places}.",
        f"- Rows are compared with `{spec['baseline']}`, which ended at a test EM of {baseline:.3f}.",
    ]
    if measured:
        lines.append(f"- Measured of it when world and budget were chosen: {measured}.")
    if command:
        lines.append(f"- Command: `{command}`")
    if not a["baseline_in_window"]:
        lines.append(
            f"- **The baseline ended outside {low}–{high}: at the floor or the ceiling little can be compared.**"
        )
    if a["missing"]:
        lines.append(f"- Not run yet: {', '.join(a['missing'])}.")
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _main(a: Mapping[str, Any]) -> str:
    rows = []
    for label, row in a["rows"].items():
        pair = row.get("against_baseline")
        rows.append(
            [
                f"`{label}`",
                str(row["seeds"]),
                _interval(row["mean"]),
                _interval(row["iqm"]),
                _interval(pair["difference"], signed=True) if pair else "",
                _interval(pair["over_questions"], signed=True) if pair and pair["over_questions"] else "",
                _interval(pair["improvement"], digits=2) if pair else "",
                f"{pair['p_holm']:.3g}" if pair and pair["p_holm"] is not None else "",
                pair["verdict"] if pair else "baseline",
                "; ".join(row["marks"]),
            ]
        )
    header = [
        "row", "seeds", "test EM", "IQM", "paired difference", "the same, over questions too",
        "P(improvement)", "p (Holm)", "verdict", "remarks",
    ]  # fmt: skip
    score = "Greedy EM on the test split"
    if _exact(a):
        score = "True EM when sampling on the test split, by enumeration"
    text = (
        f"{score}. Intervals are 95 %: stratified percentile bootstrap over seeds (rliable's "
        "conventions); differences are paired by seed. Verdicts rest on a paired t test over seeds, corrected for the "
        "number of rows after Holm: with few seeds a bootstrap interval is too narrow."
    )
    several = len(a["spec"]["environments"]) > 1
    extra = f"\n\n{_by_environment(a)}" if several else ""
    return f"## Result\n\n{text}\n\n{_table(header, rows)}{extra}"


def _by_environment(a: Mapping[str, Any]) -> str:
    places = list(a["spec"]["environments"])
    rows = [
        [f"`{label}`", *(_interval(row["by_environment"][place]) for place in places)]
        for label, row in a["rows"].items()
    ]
    return _table(["test EM", *places], rows)


def _heaps(a: Mapping[str, Any]) -> str:
    """Whether the outcomes of each row are of one kind, so that their mean describes a run."""
    rows, misleading, tested = [], [], 0
    for label, row in a["rows"].items():
        for place, heaps in row["heaps"].items():
            if heaps["p"] is None:
                continue
            tested += 1
            if heaps["p"] >= LEVEL:
                continue
            shares = "not located"
            if heaps["border"] is not None:
                low, high = heaps["low_share"], 1 - heaps["low_share"]
                shares = (
                    f"{low:.0%} around {heaps['low_mean']:.2f}, {high:.0%} around {heaps['high_mean']:.2f}"
                )
            rows.append([f"`{label}`", place, f"{heaps['p']:.3f}", shares])
            misleading.append(f"`{label}`" if len(row["heaps"]) == 1 else f"`{label}` in {place}")
    if not tested:
        return "## One heap or two\n\nNot tested: it takes at least eight seeds whose test EM differ."
    text = (
        "Silverman's test of one mode on the test EM of the seeds (p below 0.05: more than one). Where there are two heaps, "
        "**a mean describes no run**: compare how many runs end in the upper one. "
    )
    if not rows:
        return f"## One heap or two\n\n{text}No row shows more than one heap ({tested} tests)."
    table = _table(["row", "environment", "p of one mode", "heaps"], rows)
    return f"## One heap or two\n\n{text}The mean misleads in {len(rows)} of {tested} tests: {', '.join(misleading)}.\n\n{table}"


def _settings(a: Mapping[str, Any]) -> str:
    """What each row ran with and in what it differs from the baseline."""
    base = a["spec"]["baseline"]
    rows = [
        [
            f"`{label}`",
            f"`{row['trainer']}`",
            f"{row['lr']:g}",
            _pairs(row["settings"]) or "defaults",
            _pairs({**row["train"], **row["env_options"]}),
            "" if label == base else ", ".join([*row["settings_differ_in"], *row["differs_in"]]) or "nothing",
        ]
        for label, row in a["rows"].items()
    ]
    header = [
        "row", "trainer", "learning rate", "settings given", "training and environment options given",
        f"differs from `{base}`, besides trainer and learning rate, in",
    ]  # fmt: skip
    text = f"Settings that a trainer shares with the baseline's are compared with defaults filled in. Options of all rows: {_pairs(a['spec']['train'])}."
    return f"## Settings\n\n{text}\n\n{_table(header, rows)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _verdicts(a: Mapping[str, Any]) -> str:
    lines = []
    for label, row in a["rows"].items():
        if "against_baseline" not in row:
            continue
        lines.append(
            f"- {_as_comparison(row['against_baseline']).in_words(f'`{label}`', '`' + a['spec']['baseline'] + '`')}"
        )
        if any(mark.startswith("DOES NOT COUNT") for mark in row["marks"]):
            lines[-1] += " It does not count: too few training episodes used feedback."
    note = "Each as if it were the only comparison; the table above corrects for their number."
    return f"## In words\n\n{note}\n\n" + "\n".join(lines) if lines else ""


def _as_comparison(data: Mapping[str, Any]) -> Comparison:
    intervals = {
        k: Interval(**data[k]) if data[k] else None
        for k in ("difference", "t_interval", "over_questions", "improvement")
    }
    return Comparison(**intervals, p=data["p"], spread=data["spread"], seeds=data["seeds"])  # type: ignore[arg-type]


def _learning(a: Mapping[str, Any]) -> str:
    rows = []
    for label, row in a["rows"].items():
        goal = row["goal"]
        rows.append(
            [
                f"`{label}`",
                _interval(row["area"]),
                f"{row['dev']:.3f}",
                f"{goal['reached']} of {goal['of']}",
                "–" if goal["median"] is None else f"{goal['median']:,.0f}",
                _share(row["credit_on_contributing"]),
                _share(row["blame_on_contributing"]),
                _share(row["per_episode"]["assisted"]),
                _share(row["equal_groups"]),
                _share(row["per_episode"]["truncated"]),
            ]
        )
    header = [
        "row", f"mean {curve_of(a)} over training", "the same at the end", "runs that reached 80 %", "episodes to 80 % EM",
        "credit on contributing rounds", "blame on contributing rounds", "episodes with feedback", "equal groups",
        "truncated",
    ]  # fmt: skip
    text = (
        "Episodes to 80 % EM: median over runs at the first evaluation that shows it; – where half "
        "the runs or more never did. Credit on contributing rounds: the share of positive credit on search rounds that went to "
        "rounds the oracle calls contributing, over all of training; blame: the same of negative credit. The last "
        "columns are shares of training episodes or groups."
    )
    return f"{text}\n\n{_table(header, rows)}"


def _costs(a: Mapping[str, Any]) -> str:
    names = ("iterations", "episodes", "tokens", "searches", "updates", "judgements", "judge_calls")
    parts = ("collect", "judge", "retrieval", "prepare", "credit", "update", "evaluate")
    rows = []
    for label, row in a["rows"].items():
        costs = row["costs"]
        counts = [_number(costs[name]) for name in names]
        seconds = ["" if costs[f"{p}_seconds"] is None else f"{costs[f'{p}_seconds']:.2f}" for p in parts]
        rows.append([f"`{label}`", *counts, *seconds, f"{costs['cpu']:.1f}", f"{costs['wall']:.1f}"])
    header = ["row", *names, *(f"{p} s" for p in parts), "processor s", "wall s"]
    text = (
        "Means per run. Every episode is one environment reset; tokens are sampled ones; judge and retrieval seconds are "
        "part of collecting. `judge_calls` are calls that cost money or time elsewhere."
    )
    return f"## Costs\n\n{text}\n\n{_table([n.replace('_', ' ') for n in header], rows)}"


def selection_table(spec: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Dev EM of every learning rate of every row, as a section of the page."""
    if not found:
        return "## Learning rates\n\nNo selection: every row ran with the middle rate of the grid."
    rates = [f"{rate:g}" for rate in spec["rates"]]
    rows = []
    for label, row in found.items():
        cells = [_with_spread(row, rate) if rate in row["dev_em"] else "" for rate in rates]
        chosen = "" if row["chosen"] is None else f"{row['chosen']:g}"
        rows.append([f"`{label}`", *cells, chosen + (" (edge of the grid)" if row["at_edge"] else "")])
    text = (
        f"Mean dev EM at the end (standard deviation) over {spec['selection_seeds']} seeds that are not among the final ones; the test split "
        "was not used. The best is taken, of equals the smaller."
    )
    return f"## Learning rates\n\n{text}\n\n{_table(['row', *rates, 'taken'], rows)}"


def _checklist(a: Mapping[str, Any]) -> str:
    spec, rows = a["spec"], a["rows"]
    base = rows[spec["baseline"]]
    some = next(iter(rows.values()))
    budget = ", ".join(f"{amount:,} {unit}" for unit, amount in spec["budget"].items())
    seeds = sorted({row["seeds"] for row in rows.values()})
    sources = "; ".join(
        f"{p['env']} {p.get('env_options', {}) or 'all questions'}" for p in spec["environments"].values()
    )
    agent = spec["train"].get("agent", "tiny")
    must = [
        ("base model and version", f"agent `{agent}` of searchgym {a['versions'].get('searchgym', '?')}, {some['parameters']:,} weights, {_short(some['policy'])}"),
        ("training data, source and filter", f"split train of {sources}"),
        ("credit granularity; method family", "see the table below"),
        ("episode-level baseline on the same base", f"`{spec['baseline']}` ({base['trainer']}, credit per {base['credit_unit']}), same policy, questions and budget"),
        ("same compute, or an explicit comparison", f"equal budget of {budget} a run; everything else is in the table of costs"),
        ("benchmark name and split", f"`{spec['name']}`, test split, {spec['test_questions']} questions, evaluated once"),
        ("metric definition", f"exact match of the normalised answer (SQuAD's normalisation), {_decoding(a)}"),
        ("total GPU-hours", f"0; {a['cpu_hours']:.2f} CPU-core hours, selection and calibration included"),
        ("mean trajectory length", "see the table below"),
    ]  # fmt: skip
    should = [
        ("at least 3 seeds, with variance", f"{'yes' if min(seeds) >= 3 else 'NO'}: {', '.join(map(str, seeds))} seeds; intervals above"),
        ("ablation of the credit component alone", "a row that differs in nothing but the trainer is one; see the table below"),
        ("overhead of credit", "see the table of costs: prepare (extra forward passes), credit, judge; resets are equal to episodes"),
        ("distribution of trajectory lengths", "see the table below"),
    ]  # fmt: skip
    table = [
        [
            f"`{label}`",
            row["credit_unit"],
            row["family"],
            f"{row['per_episode']['rounds']:.2f} rounds, {row['per_episode']['tokens']:.1f} tokens",
            " ".join(
                f"{k}:{v / max(sum(row['test_rounds'].values()), 1):.0%}"
                for k, v in row["test_rounds"].items()
            ),
            ", ".join([*row["settings_differ_in"], *row["differs_in"]]) or "nothing",
            f"{row['spread']:.3f}" if row["spread"] is not None else "",
        ]
        for label, row in rows.items()
    ]
    header = [
        "row", "credit per", "method family", "mean training episode", "rounds at test",
        "differs from the baseline, besides trainer and learning rate, in", "sd of test EM over seeds",
    ]  # fmt: skip
    return (
        "## Reporting checklist\n\nThe MUST and SHOULD items of the survey on credit assignment (arXiv 2604.09459).\n\n"
        + _table(["MUST", ""], [list(item) for item in must])
        + "\n\n"
        + _table(["SHOULD", ""], [list(item) for item in should])
        + "\n\n"
        + _table(header, table)
        + f"\n\nAll runs together took {duration(a['cpu_hours'] * 3600)} of one core."
    )


def _exact(a: Mapping[str, Any]) -> bool:
    """Whether EM is the true one and not that of greedy decoding."""
    return bool(a["learning"]) and a["learning"]["measure"] == "exact"


def _decoding(a: Mapping[str, Any]) -> str:
    if _exact(a):
        return "its exact expectation when sampling"
    return "greedy decoding, one sample"


def _with_spread(row: Mapping[str, Any], rate: str) -> str:
    spread = row["spread"][rate]
    return f"{row['dev_em'][rate]:.3f}" + (f" ({spread:.3f})" if spread is not None else "")


def _short(policy: Mapping[str, Any] | None) -> str:
    """A policy's description of itself, without long lists."""
    plain = {k: v for k, v in (policy or {}).items() if isinstance(v, str | int | float)}
    return ", ".join(f"{k} {v}" for k, v in plain.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
