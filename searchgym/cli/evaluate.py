"""`searchgym eval`: evaluate an agent and print its scores with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..env.config import JUDGE_WHEN
from ..episode import Episode, check_writable, save_episodes
from ..errors import ConfigError
from ..figures import new_figure
from ..rollouts.budgets import BudgetCurve, evaluate_budgets
from ..rollouts.collection import open_agent, open_envs
from ..rollouts.evaluation import EvalResult
from ..rollouts.evaluation import evaluate as evaluate_agent
from .budgets import parse_budgets, show_curve
from .command import Command, option
from .options import (
    AGENT,
    JUDGE,
    OUTPUT,
    agent_option,
    config_option,
    env_arguments,
    env_options,
    judge_options,
    judge_spec,
    parse_pairs,
    tape_options,
)
from .progress import progress_bar

__all__ = ["evaluate", "result_table"]

_SAMPLING = "Questions and episodes"


def result_table(result: EvalResult, title: str) -> Table:
    """The metrics of an evaluation as a table, then EM per question type and number of hops."""
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
    """One line with the judge's mean verdicts and its cost."""
    line = f"judge: {judged['judgements']:,} verdicts, {judged['judge_errors']:,} errors, {judged['judge_seconds']:.2f} s"
    if "utility" in judged:
        line += (
            f": utility {judged['utility']:.3f}, reasoning {judged['reasoning']:.3f}, "
            f"contributing rounds {judged['contributing']:.1%}"
        )
    if judged["judge_calls"]:
        line += (
            f"; {judged['judge_calls']:,.0f} calls, {judged['judge_input_tokens']:,.0f} input tokens, "
            f"{judged['judge_output_tokens']:,.0f} output tokens, ${judged['judge_usd']:.4f}"
        )
    return line


def costs_line(costs: dict[str, float]) -> str:
    """One line with the cost of the agent's actions."""
    return (
        f"agent: {costs['calls']:,.0f} calls, {costs['input_tokens']:,.0f} input tokens, "
        f"{costs['output_tokens']:,.0f} output tokens, ${costs['usd']:.4f}; {costs['cached']:,.0f} replies from the cache"
    )


@click.command("eval", cls=Command)
@option(
    "--agent",
    default="copy",
    show_default=True,
    group=AGENT,
    help="Registered agent: copy, oracle, tiny, hf, …",
)
@agent_option
@env_options(default_split="dev")
@option(
    "--episodes",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    group=_SAMPLING,
    help="Number of questions (0: the whole split).",
)
@option(
    "--samples",
    default=1,
    show_default=True,
    group=_SAMPLING,
    help="Episodes per question, for avg@k and pass@k.",
)
@option(
    "--seed",
    type=click.IntRange(0),
    group=_SAMPLING,
    show_default="the first of the split",
    help="Random seed that draws the questions.",
)
@option("--num-envs", default=64, show_default=True, group=_SAMPLING, help="Episodes played in parallel.")
@option(
    "--budget",
    "budgets",
    metavar="N,N,…",
    group=_SAMPLING,
    help="Evaluate the same questions with at most N searches per episode, for each N.",
)
@judge_options
@option(
    "--judge-when",
    type=click.Choice(JUDGE_WHEN),
    default="end",
    show_default=True,
    group=JUDGE,
    help="When to judge: each round as it is played (step), or finished episodes: all of them (end), those answered "
    "correctly (success), those of questions whose samples differ in reward (unequal), or those that satisfy both "
    "conditions (unequal-success).",
)
@tape_options
@option(
    "--plot",
    type=click.Path(path_type=Path),
    group=OUTPUT,
    help="Plot EM against the search budgets of --budget to this PNG file.",
)
@option(
    "--save", type=click.Path(path_type=Path), group=OUTPUT, help="Write the episodes to this file (JSONL)."
)
@option("--json", "as_json", is_flag=True, group=OUTPUT, help="Print the result as one line of JSON.")
@config_option
def evaluate(
    agent: str,
    agent_options: tuple[str, ...],
    env_id: str,
    env_pairs: tuple[str, ...],
    split: str,
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
    """Evaluate an agent and print its scores with confidence intervals.

    The scores are EM, F1, sub-EM, recall, avg@k and pass@k, each with a 95 % bootstrap interval over questions. With
    --budget, the table shows EM and its cost for each search budget.
    """
    limits = None if budgets is None else parse_budgets(budgets)
    if plot is not None:
        if limits is None:
            raise ConfigError(f"--plot {plot} needs search budgets: add e.g. --budget 1,2,4,8")
        new_figure(1, 1)  # report a missing matplotlib before the work starts
        check_writable(plot)
    opened = open_agent({"name": agent, **parse_pairs("--agent-option", agent_options)})
    arguments = env_arguments(env_pairs, record, replay)
    spec = judge_spec(judge, judge_pairs)
    if spec is not None:
        arguments |= {"judge": spec, "judge_when": judge_when}
    if save is not None:
        check_writable(save)
    with progress_bar() as progress:
        bar = progress.add_task(f"{agent} on {env_id}", total=None)

        def count(_: Episode) -> None:
            progress.advance(bar)

        common: dict[str, Any] = {
            "episodes": None if episodes == 0 else episodes,
            "samples": samples,
            "split": split,
            "seed": seed,
            "on_episode": count,
        }
        envs = open_envs(env_id, opened, num_envs, split, **arguments)
        result = (
            evaluate_agent(envs, opened, **common)
            if limits is None
            else evaluate_budgets(envs, opened, limits, **common)
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
        console.print(
            f"[yellow]{result.failed} episodes failed because of infrastructure errors and are not scored"
        )
    if result.assisted:
        console.print(f"[yellow]{result.assisted:.1%} of the episodes used privileged feedback")
