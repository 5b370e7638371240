"""`searchgym judge`: compare the verdicts of judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, TaskID
from rich.table import Table

from ..agent import Agent
from ..audit.agreement import Agreement
from ..audit.auditing import AuditResult, ready_judge
from ..audit.auditing import audit as audit_judge
from ..env.setup import registered_arguments
from ..errors import ConfigError
from ..importing import LAYOUTS, Imported, SourceReport, import_rollouts, report
from ..records.episode import Episode, check_writable, load_episodes, save_episodes
from ..records.question import Corpus
from ..rollouts.collection import choose_tasks, collect, open_agent, open_envs
from ..specs import open_corpus
from .command import Group, option
from .console import Console
from .imports import show_imported
from .listing import listing_options
from .options import (
    AGENT,
    ENVIRONMENT,
    JUDGE,
    agent_option,
    config_option,
    env_arguments,
    env_options,
    judge_options,
    judge_spec,
    parse_pairs,
    question_options,
    read_spec,
    save_options,
)
from .progress import progress_bar

__all__ = ["judge"]

_DEFAULT_CORPUS = "country"  # the environment's default, for ids that name no corpus
_MIXTURE = ("oracle", "copy", "random")
_RECORDED = "Recorded episodes (default: episodes are played now)"


@click.group(cls=Group)
def judge() -> None:
    """Measure how far a judge can be trusted."""


@judge.command("audit")
@judge_options
@option(
    "--reference",
    default="oracle",
    show_default=True,
    group=JUDGE,
    help="Registered judge to compare with.",
)
@option(
    "--threshold",
    default=0.5,
    show_default=True,
    group=JUDGE,
    help="Score from which a verdict counts as positive.",
)
@option("--batch-size", default=64, show_default=True, group=JUDGE, help="Rounds judged in one call.")
@option(
    "--from",
    "saved",
    type=click.Path(path_type=Path),
    group=_RECORDED,
    help="Audit on the episodes saved in this file (JSONL).",
)
@option(
    "--rollouts",
    type=click.Path(path_type=Path),
    group=_RECORDED,
    help="Audit on rollouts recorded by other projects, in the file that they wrote.",
)
@option(
    "--format",
    "layout",
    type=click.Choice(list(LAYOUTS)),
    group=_RECORDED,
    show_default="recognised row by row",
    help="Whose file --rollouts is.",
)
@option(
    "--gold-corpus",
    metavar="NAME|DIR",
    group=_RECORDED,
    help="Corpus that holds the questions of --rollouts and their gold passages; the same as --corpus.",
)
@option(
    "--agent",
    "agents",
    multiple=True,
    group=AGENT,
    show_default=", ".join(_MIXTURE),
    help="Registered agent that plays new episodes. Repeatable: each agent plays every question.",
)
@agent_option
@env_options(default_split="dev")
@question_options(ENVIRONMENT)
@save_options
@listing_options
@config_option
def audit(
    judge: str | None,
    judge_pairs: tuple[str, ...],
    reference: str,
    saved: Path | None,
    rollouts: Path | None,
    layout: str | None,
    gold_corpus: str | None,
    agents: tuple[str, ...],
    agent_options: tuple[str, ...],
    env_id: str,
    corpus: str | None,
    retriever: str | None,
    env_pairs: tuple[str, ...],
    split: str,
    episodes: int,
    seed: int | None,
    num_envs: int,
    threshold: float,
    batch_size: int,
    save: Path | None,
    as_json: bool,
) -> None:
    """Measure how far a judge agrees with a reference judge.

    The episodes are played now, read from a file (--from) or imported from rollouts of other projects (--rollouts).
    Without --judge, the verdicts stored in the episodes of --from are audited.
    """
    spec = judge_spec(judge, judge_pairs)
    names, options = agents or _MIXTURE, parse_pairs("--agent-option", agent_options)
    if options and len(names) > 1:
        raise ConfigError(
            f"--agent-option {agent_options[0]} is ambiguous for {len(names)} agents: name one agent with --agent"
        )
    if saved is not None and rollouts is not None:
        raise ConfigError("--from and --rollouts exclude each other: give one of them")
    if spec is None and saved is None:
        raise ConfigError(
            "no judge to audit: name one with --judge, or give episodes that hold verdicts with --from"
        )
    if gold_corpus is not None and rollouts is None:
        raise ConfigError(f"--gold-corpus {gold_corpus} only applies to --rollouts: leave it out")
    if layout is not None and rollouts is None:
        raise ConfigError(f"--format {layout} only applies to --rollouts: leave it out")
    if gold_corpus is not None and corpus is not None:
        raise ConfigError("--gold-corpus and --corpus exclude each other: give one of them")
    if retriever is not None and (saved is not None or rollouts is not None):
        raise ConfigError(
            f"--retriever {retriever} only applies to episodes that are played now: leave it out"
        )
    if save is not None:
        check_writable(save)
    played: list[Episode] = []
    imported: Imported | None = None
    opened: Corpus | None
    arguments = env_arguments(env_pairs, corpus=corpus, retriever=retriever)
    if rollouts is not None:
        gold = gold_corpus or corpus
        opened = open_corpus(read_spec(gold)) if gold is not None else None
        imported = import_rollouts(rollouts, opened, layout)
        played = imported.episodes
    else:
        opened = open_corpus(registered_arguments(env_id, arguments).get("corpus", _DEFAULT_CORPUS))
        if saved is not None:
            played = list(load_episodes(saved))
            if {e.env.get("corpus_hash") for e in played} != {opened.hash}:
                opened = None  # a judge that needs the corpus of the episodes reports that it is missing
    # Open both judges before playing, so that a mistake costs no time.
    known = ready_judge(reference, opened)
    audited = ready_judge(spec, opened) if spec is not None else None
    if saved is None and rollouts is None:
        players = [open_agent({"name": name, **options}) for name in names]
        played = _play(players, env_id, arguments, split, episodes or None, seed, num_envs)
    with progress_bar() as progress:
        bar = progress.add_task(f"judge {judge or 'recorded'}", total=sum(len(e.rounds) for e in played))
        result = audit_judge(
            audited,
            played,
            known,
            corpus=opened,
            threshold=threshold,
            batch_size=batch_size,
            on_judged=lambda count: progress.advance(bar, count),
        )
    if save is not None:
        result.write_to(played)
        save_episodes(save, played)
    sources = report(imported) if imported is not None else []
    if as_json:
        data = result.to_json()
        if imported is not None:
            data["sources"] = [source.to_json() for source in sources]
            data["skipped"] = [str(skipped) for skipped in imported.skipped]
            data["reasons"] = imported.reasons
        click.echo(json.dumps(data))
        return
    _show(Console(), result, sources, imported)


def _play(
    players: Sequence[Agent],
    env_id: str,
    arguments: dict[str, Any],
    split: str,
    episodes: int | None,
    seed: int | None,
    num_envs: int,
) -> list[Episode]:
    """The episodes of all agents on the same questions."""
    played: list[Episode] = []
    with progress_bar() as progress:
        for agent in players:
            envs = open_envs(env_id, agent, num_envs, split, **arguments)
            tasks = choose_tasks(envs.config, split, None, seed)[:episodes]
            bar = progress.add_task(f"{agent.name} on {env_id}", total=len(tasks))
            played += collect(envs, agent, tasks, on_episode=partial(_advance, progress, bar))
    return played


def _advance(progress: Progress, bar: TaskID, _: Episode) -> None:
    progress.advance(bar)


def _show(
    console: Console, result: AuditResult, sources: Sequence[SourceReport], imported: Imported | None
) -> None:
    if imported is not None:
        show_imported(console, imported, sources)
    console.print(_agreement_table(result))
    console.print(_confusion_table(result))
    lines = [f"{result.episodes} episodes, {result.rounds} rounds, {result.compared} compared"]
    for name, key, count in (
        (result.judge, "judge", result.errors),
        (result.reference, "reference", result.reference_errors),
    ):
        lines.append(f"errors of {name}: {count}")
        lines += [f"  {times} x {reason}" for reason, times in result.error_reasons[key].items()]
    if result.failed_episodes:
        lines.append(
            f"{result.failed_episodes} episodes failed because of infrastructure errors and are left out"
        )
    for name, shares in ((result.judge, "judge"), (result.reference, "reference")):
        everywhere, successful = (result.contributing[shares][k] for k in ("all", "successful"))
        lines.append(
            f"contributing rounds by {name}: {_percent(everywhere)}, in successful episodes {_percent(successful)}"
        )
    if result.latency is not None:
        took = result.latency
        lines.append(
            f"per verdict: median {took.median_s * 1e6:,.0f} µs, p99 {took.p99_s * 1e6:,.0f} µs, "
            f"{took.batch_size} per call; {took.per_second:,.0f} verdicts/s"
        )
    if result.cost:
        lines.append("cost: " + ", ".join(f"{what} {amount:,g}" for what, amount in result.cost.items()))
    console.print("\n".join(lines), soft_wrap=True)


def _agreement_table(result: AuditResult) -> Table:
    table = Table(title=f"{result.judge} against {result.reference}: kappa (95 % interval), accuracy")
    for column in ("rounds", "", *result.criteria):
        table.add_column(column, justify="right" if column in ("rounds", "") else "left")
    table.columns[0].justify, table.columns[1].header = "left", "n"

    def add(name: str, criteria: dict[str, Agreement]) -> None:
        table.add_row(name, str(next(iter(criteria.values())).rounds), *map(_cell, criteria.values()))

    add("all", result.criteria)
    for groups in (result.by_act, result.by_type):
        table.add_section()
        for name, criteria in groups.items():
            add(name, criteria)
    return table


def _cell(one: Agreement) -> str:
    if one.accuracy is None:
        return "-"
    kappa = "kappa undefined" if one.kappa is None else str(one.kappa)
    return f"{kappa}, {one.accuracy.value:.3f}"


def _confusion_table(result: AuditResult) -> Table:
    table = Table(title=f"confusion: {result.judge} / {result.reference}")
    for column in ("criterion", "yes/yes", "yes/no", "no/yes", "no/no"):
        table.add_column(column, justify="left" if column == "criterion" else "right")
    for name, one in result.criteria.items():
        counts = (one.true_positive, one.false_positive, one.false_negative, one.true_negative)
        table.add_row(name, *map(str, counts))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
