"""`searchgym eval`: evaluate an agent and print its scores with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..env.config import JUDGE_WHEN
from ..errors import ConfigError
from ..figures import check_format, new_figure
from ..records.episode import Episode, check_writable, save_episodes
from ..rollouts.budgets import BudgetCurve, evaluate_budgets
from ..rollouts.collection import choose_tasks
from ..rollouts.evaluation import EvalResult
from ..rollouts.evaluation import evaluate as evaluate_agent
from ..rollouts.search import METHODS, SELECTORS, SearchOptions, evaluate_search
from .budgets import parse_budgets, show_curve, show_invalid
from .command import Command, option
from .console import Console
from .listing import listing_options
from .options import (
    AGENT,
    JUDGE,
    OUTPUT,
    agent_option,
    config_option,
    env_options,
    judge_options,
    question_options,
    save_options,
    tape_options,
)
from .progress import progress_bar
from .subject import Subject, open_subject

__all__ = ["evaluate", "result_table"]

_SAMPLING = "Questions and episodes"
_RUN = "Training run"
_SEARCH = "Search at inference"


def result_table(result: EvalResult, title: str) -> Table:
    """The metrics of an evaluation as a table, then EM per question type and number of hops."""
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("mean", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value in result.rows:
        if value is None:
            table.add_row(name, "–", "no gold passages to compare with")
        else:
            table.add_row(name, f"{value.value:.3f}", f"{value.low:.3f} – {value.high:.3f}")
    table.add_section()
    for name, em in result.by_group.items():
        table.add_row(f"em, {name} hops", f"{em.value:.3f}", f"{em.low:.3f} – {em.high:.3f}")
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


def search_line(search: dict[str, Any]) -> str:
    """One line with the way in which episodes were chosen and what it cost."""
    bound = "UPPER BOUND, the selector saw the gold answers; " if search["upper_bound"] else ""
    return (
        f"search: {bound}{search['method']} of {search['n']} by {search['selector']}; per question {search['episodes']:.1f} "
        f"episodes, {search['searches']:.1f} searches, {search['tokens']:.1f} sampled tokens, {search['judgements']:.1f} verdicts"
    )


def _search_options(values: dict[str, Any], samples: int, budgets: str | None) -> SearchOptions | None:
    """The search that --search and its options name."""
    given = {name: values[f"search_{name}"] for name in ("n", "selector", "continuations")}
    given = {name: value for name, value in given.items() if value is not None}
    if values["search"] is None:
        for name, value in given.items():
            raise ConfigError(
                f"--search-{name} {value} needs --search: add --search best-of-n or value-guided"
            )
        return None
    if samples > 1 or budgets is not None:
        raise ConfigError(
            f"--search {values['search']} chooses one episode per question: leave out --samples and --budget"
        )
    default = {"selector": "majority" if values["search"] == "best-of-n" else "judge"}
    search = SearchOptions(values["search"], **(default | given))
    if "continuations" in given and not search.continues:
        raise ConfigError(
            f"--search-continuations {search.continuations} has no effect: {search.method} with the selector {search.selector} plays "
            "none; leave it out, or use value-guided with agreement or oracle"
        )
    return search


@click.command("eval", cls=Command)
@option(
    "--run",
    type=click.Path(path_type=Path),
    group=_RUN,
    help="Evaluate the newest checkpoint of this training run exactly as the training did: agent, environment, questions "
    "and greedy decoding are the run's, unless options below replace them.",
)
@option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    group=_RUN,
    help="Weights to evaluate. A checkpoint of a run is evaluated as with --run; other weights need --agent.",
)
@option(
    "--agent",
    default="copy",
    show_default=True,
    group=AGENT,
    help="Registered agent: copy, oracle, tiny, hf, … (see --list-agents).",
)
@agent_option
@env_options(default_split="dev")
@question_options(_SAMPLING)
@option(
    "--samples",
    default=1,
    show_default=True,
    group=_SAMPLING,
    help="Episodes per question, for avg@k and pass@k; the policy of a run then samples.",
)
@option(
    "--budget",
    "budgets",
    metavar="N,N,…",
    group=_SAMPLING,
    help="Evaluate the same questions with at most N searches per episode, for each N.",
)
@option(
    "--search",
    type=click.Choice(METHODS),
    group=_SEARCH,
    help="Choose among sampled episodes of a question (best-of-n), or among sampled acts in every state (value-guided).",
)
@option("--search-n", type=click.IntRange(2), show_default="4", group=_SEARCH, help="How many.")
@option(
    "--search-selector",
    type=click.Choice(SELECTORS),
    help="What chooses: the answer most episodes give (majority), the verdicts of --judge (judge), how many continuations of an "
    "act give the answer most of them give (agreement), or the gold answer (oracle: an upper bound).  [default: majority; for "
    "value-guided judge]",
    group=_SEARCH,
)
@option(
    "--search-continuations",
    type=click.IntRange(1),
    show_default="4",
    group=_SEARCH,
    help="Continuations of each act (value-guided with agreement or oracle).",
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
    help="Plot EM against the search budgets of --budget to this file (.png, .pdf or .svg).",
)
@save_options
@listing_options
@config_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    samples: int,
    budgets: str | None,
    plot: Path | None,
    save: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Evaluate an agent and print its scores with confidence intervals.

    The scores are EM, F1, sub-EM, recall, avg@k and pass@k, each with a 95 % bootstrap interval over questions. With
    --budget, the table shows EM and its cost for each search budget.
    """
    limits = None if budgets is None else parse_budgets(budgets)
    search = _search_options(values, samples, budgets)
    if plot is not None:
        if limits is None:
            raise ConfigError(f"--plot {plot} needs search budgets: add e.g. --budget 1,2,4,8")
        check_writable(plot)
        check_format(plot)
        new_figure(1, 1)  # report a missing matplotlib before the work starts
    if save is not None:
        check_writable(save)
    with progress_bar() as progress:
        bar = progress.add_task("opening", total=None)  # torch and the index may take seconds
        subject = open_subject(ctx)

        def count(_: Episode) -> None:
            progress.advance(bar)

        tasks = choose_tasks(subject.envs.config, subject.split, None, subject.seed)[: subject.episodes]
        total = len(tasks) * samples * (1 if limits is None else len(limits))
        progress.update(bar, description=subject.title, total=total)
        common: dict[str, Any] = {
            "episodes": subject.episodes,
            "split": subject.split,
            "seed": subject.seed,
            "on_episode": count,
        }
        result: EvalResult | BudgetCurve
        if search is not None:
            result = evaluate_search(subject.envs, subject.agent, search, **common)
        elif limits is not None:
            result = evaluate_budgets(subject.envs, subject.agent, limits, samples=samples, **common)
        else:
            result = evaluate_agent(subject.envs, subject.agent, samples=samples, **common)
    if plot is not None and isinstance(result, BudgetCurve):
        result.plot(plot)
    if save is not None:
        save_episodes(save, result.episodes)
    if as_json:
        click.echo(json.dumps(result.to_json()))
        return
    console = Console()
    if isinstance(result, BudgetCurve):
        show_curve(console, result, subject.title)
    else:
        _show(console, result, subject, samples)
    if subject.note:
        console.print(subject.note, style="yellow", soft_wrap=True)


def _show(console: Console, result: EvalResult, subject: Subject, samples: int) -> None:
    console.print(result_table(result, f"{subject.title}: {result.questions} questions x {samples}"))
    ends = ", ".join(f"{reason} {n}" for reason, n in sorted(result.stop_reasons.items()))
    console.print(f"episodes ended: {ends}")
    show_invalid(console, result.invalid)
    for line in subject.lines(result):
        console.print(line, soft_wrap=True)
    if result.search:
        console.print(search_line(result.search), soft_wrap=True)
        if result.search["alike"] == 1:
            console.print(
                f"all {result.search['n']} samples of every choice were the same: the agent does not sample, and the search chose "
                "nothing; leave out --search, or raise the agent's temperature",
                style="yellow",
                soft_wrap=True,
            )
    if result.costs:
        console.print(costs_line(result.costs))
    if result.judged:
        console.print(judged_line(result.judged))
    if result.failed:
        console.print(
            f"{result.failed} episodes failed because of infrastructure errors and are not scored",
            style="yellow",
        )
    if result.assisted:
        console.print(f"{result.assisted:.1%} of the episodes used privileged feedback", style="yellow")
