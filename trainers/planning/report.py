"""What a dry run found, as tables."""

from __future__ import annotations

from rich.table import Table

from searchgym.cli.console import Console, text
from searchgym.corpora.indexing.disk import human

from .dry_run import DryRun
from .estimate import ASSUMED, HARDWARE, Figure, Plan, total
from .times import processor_seconds, seconds

__all__ = ["print_dry_run"]


def print_dry_run(console: Console, result: DryRun, hardware: str = "") -> None:
    """Print checks, memory and times.

    Args:
        console: where.
        result: the dry run.
        hardware: whose times are shown part by part: a name of `HARDWARE`. Not where the run is for this processor.
    """
    table = Table("check", "", "found", title="checks")
    for check in result.checks:
        table.add_row(
            check.name, text("ok", "green") if check.passed else text("failed", "red"), text(check.text)
        )
    console.print(table)
    if result.plan is None or result.memory is None:
        console.print("No estimates: the size of the model is not known.")
        return
    plan, need = result.plan, result.memory
    if plan.architecture.counted and plan.trial is None:
        console.print(
            "The weights are counted; activations, cache and times are estimated as those of a Llama of these sizes, because "
            "this family is not one whose layers are known here.",
            style="yellow",
        )
    table = Table("memory of a device", "", "computed from", title="memory")
    for part, figures in (("", need.held), ("update: ", need.update), ("rollouts: ", need.rollouts)):
        for figure in figures:
            table.add_row(part + figure.name, human(figure.value), text(figure.source))
        table.add_section()
    table.add_row(
        text("peak", "bold"), text(human(need.peak), "bold"), "held, and the larger of update and rollouts"
    )
    console.print(table)
    if plan.processor is not None:
        _print_processor(console, plan)
        return
    table = Table(
        "device", "fits", "an iteration", "the run", title=f"time on {plan.gpus} of these, projected"
    )
    for name, device in HARDWARE.items():
        fits = need.peak <= device.bytes * (1 - ASSUMED["reserve"])
        iteration = total(seconds(plan, device))
        run = duration(iteration * plan.iterations) if fits else ""
        table.add_row(
            name,
            text("yes", "green") if fits else text("no", "red"),
            duration(iteration) if fits else "",
            run,
        )
    console.print(table)
    if hardware in HARDWARE:
        table = Table(f"an iteration on {hardware}", "", "computed from")
        for figure in _parts(seconds(plan, HARDWARE[hardware])):
            table.add_row(figure.name, duration(figure.value), text(figure.source))
        console.print(table)
    console.print(
        f"Times are for {plan.rounds:g} rounds per episode, {plan.act} tokens per act, {plan.observation} per observation "
        f"and assume {ASSUMED['update']:.0%} of the peak operations, {ASSUMED['decode']:.0%} of the bandwidth"
        + (
            f" and at least {ASSUMED['step'] * 1e3:g} ms per layer and decode step"
            * (plan.engine == "transformers")
        )
        + ". Retrieval, judge, evaluations and waiting for the longest episode come on top. Nothing of this was measured."
    )


def _print_processor(console: Console, plan: Plan) -> None:
    """Times on the processor of this machine."""
    if plan.trial is None:
        console.print(
            "No times: a layer of this model is too large to be tried here, or the model cannot be trained (see "
            "docs/agents/families)."
        )
        return
    figures = processor_seconds(plan, plan.trial)
    iteration = total(figures)
    table = Table("an iteration on this processor", "", "computed from", title="time")
    for figure in [
        *_parts(figures),
        Figure("the run", iteration * plan.iterations, f"{plan.iterations} iterations"),
    ]:
        table.add_row(figure.name, duration(figure.value), text(figure.source))
    console.print(table)
    tried = plan.trial
    console.print(
        f"{tried.layers} of {plan.architecture.layers} layers with random weights and the head were tried here, with "
        f"{tried.tokens} tokens. Times are for {plan.rounds:g} rounds per episode, {plan.act} tokens per act, "
        f"{plan.observation} per observation, on a machine as busy as it is now, and as if no group were skipped. "
        "Retrieval, judge, records and evaluations come on top."
    )


def duration(value: float) -> str:
    """Seconds in a readable unit: "40 s", "5.0 min", "3.2 h", "2.1 days"."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 1.5 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def _parts(figures: list[Figure]) -> list[Figure]:
    return [*figures, Figure("together", total(figures), "the sum")]
