"""The option --budget of `searchgym eval`, and the lines that its two tables share."""

from __future__ import annotations

from rich.table import Table

from ..errors import ConfigError
from ..rollouts.budgets import BudgetCurve, check_budgets
from ..rollouts.evaluation import invalid_shares
from .console import Console

__all__ = ["curve_table", "parse_budgets", "show_curve", "show_invalid"]


def parse_budgets(text: str) -> list[int]:
    """Parse a list of budgets such as "1,2,4,8".

    Raises:
        ConfigError: the text is not a list of valid budgets.
    """
    try:
        return check_budgets([int(part) for part in text.split(",")])
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--budget is {text!r}: give numbers of searches, e.g. --budget 1,2,4,8") from None


def curve_table(curve: BudgetCurve, title: str) -> Table:
    """One row per budget: EM with its interval, then the mean cost per episode."""
    with_tokens = any(point.tokens is not None for point in curve.points)
    table = Table(title=title)
    for column in ("budget", "em", "95 % interval", "searches", "rounds", "stopped by the budget"):
        table.add_column(column, justify="right")
        if column == "searches" and with_tokens:
            table.add_column("sampled tokens", justify="right")
    for point in curve.points:
        em, spent = point.result.metrics["em"], point.result.metrics
        cells = [
            str(point.budget),
            f"{em.value:.3f}",
            f"{em.low:.3f} – {em.high:.3f}",
            f"{spent['searches'].value:.2f}",
        ]
        if with_tokens:
            cells.append("–" if point.tokens is None else f"{point.tokens:.1f}")
        table.add_row(*cells, f"{spent['rounds'].value:.2f}", f"{point.on_budget:.1%}")
    return table


def show_invalid(console: Console, invalid: dict[str, float]) -> None:
    """Print the share of messages that were not a valid act, by reason.

    Args:
        console: where.
        invalid: see `EvalResult.invalid`.
    """
    reasons = ", ".join(f"{reason} {share:.1%}" for reason, share in invalid.items())
    line = f"invalid messages: {sum(invalid.values()):.1%} of all{f' ({reasons})' if reasons else ''}"
    console.print(line, style="yellow" if invalid else None)


def show_curve(console: Console, curve: BudgetCurve, title: str) -> None:
    """Print a curve and the caveats that apply to it."""
    first = curve.points[0].result
    console.print(curve_table(curve, f"{title}: {first.questions} questions x {first.samples}"))
    console.print(
        f"budget: maximum number of searches per episode; maximum number of rounds: {curve.max_rounds}"
    )
    if any(point.on_budget for point in curve.points):
        console.print(
            "episodes stopped by the budget count as wrong: at those budgets, EM reflects the limit as well as the agent",
            style="yellow",
        )
    show_invalid(console, invalid_shares([e for e in curve.episodes if e.valid_for_training]))
    failed = sum(point.result.failed for point in curve.points)
    if failed:
        console.print(
            f"{failed} episodes failed because of infrastructure errors and are not scored", style="yellow"
        )
    assisted = max(point.result.assisted for point in curve.points)
    if assisted:
        console.print(
            f"up to {assisted:.1%} of the episodes of a budget used privileged feedback", style="yellow"
        )
