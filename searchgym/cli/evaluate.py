"""`searchgym eval`: play an agent and print its scores with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..env.config import JUDGE_WHEN
from ..episode import Episode, check_writable, save_episodes
from ..errors import ConfigError
from ..figures import new_figure
from ..rollouts.budgets import BudgetCurve, evaluate_budgets
from ..rollouts.collection import open_agent
from ..rollouts.evaluation import EvalResult
from ..rollouts.evaluation import evaluate as evaluate_agent
from .budgets import parse_budgets, show_curve
from .options import (
    agent_option,
    config_option,
    env_arguments,
    env_options,
    judge_options,
    judge_spec,
    parse_pairs,
    tape_options,
)

__all__ = ["evaluate", "result_table"]


def result_table(result: EvalResult, title: str) -> Table:
    """A rich table of an evaluation: metrics, then EM per question type and hop count."""
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value.value:.3f}", f"{value.low:.3f} – {value.high:.3f}")
    table.add_section()
    for name, value in result.by_group.items():
        table.add_row(f"em, {name} hops", f"{value.value:.3f}", f"{value.low:.3f} – {value.high:.3f}")
    return table


def judged_line(judged: dict[str, float]) -> str:
    """One line about what the judge said and what it took."""
    line = f"judged {judged['judgements']:,} times, {judged['judge_errors']:,} errors, {judged['judge_seconds']:.2f} s"
    if "utility" in judged:
        line += (
            f": utility {judged['utility']:.3f}, reasoning {judged['reasoning']:.3f}, "
            f"contributing rounds {judged['contributing']:.1%}"
        )
    if judged["judge_calls"]:
        line += (
            f"; {judged['judge_calls']:,.0f} calls, {judged['judge_input_tokens']:,.0f} tokens in, "
            f"{judged['judge_output_tokens']:,.0f} out, ${judged['judge_usd']:.4f}"
        )
    return line


def costs_line(costs: dict[str, float]) -> str:
    """One line about what the agent's acts took."""
    return (
        f"the agent took {costs['calls']:,.0f} calls, {costs['input_tokens']:,.0f} tokens in, "
        f"{costs['output_tokens']:,.0f} out, ${costs['usd']:.4f}; {costs['cached']:,.0f} replies were kept from before"
    )


@click.command("eval", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--agent", default="copy", show_default=True, help="Registered agent: copy, oracle, tiny, …")
@agent_option
@env_options
@click.option(
    "--episodes",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Questions to play; 0: the whole split.",
)
@click.option("--samples", default=1, show_default=True, help="Episodes per question (avg@k, pass@k).")
@click.option(
    "--seed", type=click.IntRange(0), default=None, help="Draws the questions; default: the first ones."
)
@click.option("--num-envs", default=64, show_default=True, help="Episodes played at once.")
@judge_options
@click.option(
    "--judge-when",
    type=click.Choice(JUDGE_WHEN),
    default="end",
    show_default=True,
    help="Judge each round in its step, or after the episodes: all, those answered right, those of questions whose "
    "--samples have unequal rewards, or both.",
)
@tape_options
@click.option(
    "--budget",
    "budgets",
    metavar="N,N,…",
    help="Evaluate the same questions with at most N searches each, for every N: the search-budget scaling curve.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw that curve here (PNG).")
@click.option("--save", type=click.Path(path_type=Path), help="Write the episodes here (JSONL).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@config_option
def evaluate(
    agent: str,
    agent_options: tuple[str, ...],
    env_id: str,
    env_pairs: tuple[str, ...],
    split: str | None,
    episodes: int,
    samples: int,
    seed: int | None,
    num_envs: int,
    judge: str | None,
    judge_pairs: tuple[str, ...],
    judge_when: str,
    record: str | None,
    replay: str | None,
    budgets: str | None,
    plot: Path | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Evaluate an agent: EM, F1, sub-EM, recall, avg@k and pass@k, each with a bootstrap interval over questions.

    With --budget: EM and its cost under each search budget.
    """
    limits = None if budgets is None else parse_budgets(budgets)
    if plot is not None:
        if limits is None:
            raise ConfigError(f"--plot {plot} draws the curve over budgets: give them, e.g. --budget 1,2,4,8")
        new_figure(1, 1)  # without matplotlib, say so before the work
        check_writable(plot)
    opened = open_agent({"name": agent, **parse_pairs("--agent-option", agent_options)})
    arguments = env_arguments(env_pairs, record, replay)
    spec = judge_spec(judge, judge_pairs)
    if spec is not None:
        arguments |= {"judge": spec, "judge_when": judge_when}
    if save is not None:
        check_writable(save)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        bar = progress.add_task(f"{agent} on {env_id}", total=None)

        def count(_: Episode) -> None:
            progress.advance(bar)

        common: dict[str, Any] = {
            "episodes": None if episodes == 0 else episodes,
            "samples": samples,
            "split": split or "dev",
            "seed": seed,
            "num_envs": num_envs,
            "on_episode": count,
            **arguments,
        }
        result = (
            evaluate_agent(env_id, opened, **common)
            if limits is None
            else evaluate_budgets(env_id, opened, limits, **common)
        )
    if plot is not None and isinstance(result, BudgetCurve):
        result.plot(plot)
    if save is not None:
        save_episodes(save, result.episodes)
    if as_json:
        click.echo(json.dumps(result.to_json()))
        return
    console = Console()
    if isinstance(result, BudgetCurve):
        show_curve(console, result, f"{opened.name} on {env_id}, {split or 'dev'}")
        return
    console.print(
        result_table(
            result, f"{agent} on {env_id}, {split or 'dev'}: {result.questions} questions x {samples}"
        )
    )
    ends = ", ".join(f"{reason} {n}" for reason, n in sorted(result.stop_reasons.items()))
    console.print(f"episodes ended: {ends}")
    if result.costs:
        console.print(costs_line(result.costs), highlight=False)
    if result.judged:
        console.print(judged_line(result.judged), highlight=False)
    if result.failed:
        console.print(f"[yellow]{result.failed} episodes were lost to infrastructure and are not scored")
    if result.assisted:
        console.print(f"[yellow]{result.assisted:.1%} of the episodes used privileged feedback")
