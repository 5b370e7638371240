"""`searchgym judge`: what judges say of rounds, held against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..agent import Agent
from ..audit.agreement import Agreement
from ..audit.auditing import AuditResult, ready_judge
from ..audit.auditing import audit as audit_judge
from ..env.setup import registered_arguments
from ..episode import Episode, check_writable, load_episodes, save_episodes
from ..errors import ConfigError
from ..importing import Imported, SourceReport, import_rollouts, report
from ..question import Corpus
from ..rollouts.collection import choose_tasks, collect, open_agent, open_envs
from ..specs import open_corpus
from .options import (
    agent_option,
    config_option,
    env_arguments,
    env_options,
    judge_options,
    judge_spec,
    parse_pairs,
)

__all__ = ["judge"]

_DEFAULT_CORPUS = "country"  # the environment's own default, for an id that names none
_MIXTURE = ("oracle", "copy", "random")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def judge() -> None:
    """Judges grade rounds: audit them."""


@judge.command("audit", context_settings={"help_option_names": ["-h", "--help"]})
@judge_options
@click.option("--reference", default="oracle", show_default=True, help="Registered judge to compare with.")
@click.option(
    "--from", "saved", type=click.Path(path_type=Path), help="Audit on these saved episodes (JSONL)."
)
@click.option(
    "--rollouts",
    type=click.Path(path_type=Path),
    help="Audit on recorded rollouts of other projects (JSONL, .gz or not).",
)
@click.option(
    "--gold-corpus",
    metavar="NAME|DIR",
    help="Corpus in which to look up the questions of --rollouts and their gold passages.",
)
@click.option(
    "--agent",
    "agents",
    multiple=True,
    help=f"Registered agent that plays the episodes. Repeatable: each plays all of them.  [default: {', '.join(_MIXTURE)}]",
)
@agent_option
@env_options
@click.option(
    "--episodes",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Questions each agent plays; 0: the whole split.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=None, help="Draws the questions; default: the first ones."
)
@click.option("--num-envs", default=64, show_default=True, help="Episodes played at once.")
@click.option(
    "--threshold",
    default=0.5,
    show_default=True,
    help="From which number on an answer of the judge is a yes.",
)
@click.option("--batch-size", default=64, show_default=True, help="Judgements asked for in one call.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the episodes with the verdicts here (JSONL)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@config_option
def audit(
    judge: str | None,
    judge_pairs: tuple[str, ...],
    reference: str,
    saved: Path | None,
    rollouts: Path | None,
    gold_corpus: str | None,
    agents: tuple[str, ...],
    agent_options: tuple[str, ...],
    env_id: str,
    env_pairs: tuple[str, ...],
    split: str | None,
    episodes: int,
    seed: int | None,
    num_envs: int,
    threshold: float,
    batch_size: int,
    save: Path | None,
    as_json: bool,
) -> None:
    """Compare a judge with the oracle, or with another reference: on episodes played now, on saved ones (--from), or
    on recorded rollouts of real models (--rollouts).

    Without --judge, the verdicts that saved episodes hold are audited.
    """
    spec = judge_spec(judge, judge_pairs)
    names, options = agents or _MIXTURE, parse_pairs("--agent-option", agent_options)
    if options and len(names) > 1:
        raise ConfigError(
            f"--agent-option {agent_options[0]} could mean any of {len(names)} agents: name one"
        )
    if saved is not None and rollouts is not None:
        raise ConfigError("--from and --rollouts are two sources: name one")
    if spec is None and saved is None:
        raise ConfigError("no judge to audit: name one with --judge (only --from episodes may hold verdicts)")
    if gold_corpus is not None and rollouts is None:
        raise ConfigError(f"--gold-corpus {gold_corpus} is for --rollouts: an environment has its own corpus")
    if save is not None:
        check_writable(save)
    played: list[Episode] = []
    imported: Imported | None = None
    corpus: Corpus | None
    if rollouts is not None:
        corpus = open_corpus(gold_corpus) if gold_corpus is not None else None
        imported = import_rollouts(rollouts, corpus)
        played = imported.episodes
    else:
        arguments = registered_arguments(env_id, env_arguments(env_pairs))
        corpus = open_corpus(arguments.get("corpus", _DEFAULT_CORPUS))
        if saved is not None:
            played = list(load_episodes(saved))
            if {e.env.get("corpus_hash") for e in played} != {corpus.hash}:
                corpus = None  # a judge that needs the corpus they were played on will say so
    # Both judges are opened before anything is played.
    known = ready_judge(reference, corpus)
    audited = ready_judge(spec, corpus) if spec is not None else None
    if saved is None and rollouts is None:
        players = [open_agent({"name": name, **options}) for name in names]
        played = _play(
            players, env_id, env_arguments(env_pairs), split or "dev", episodes or None, seed, num_envs
        )
    with _progress() as progress:
        bar = progress.add_task(f"judge {judge or 'recorded'}", total=sum(len(e.rounds) for e in played))
        result = audit_judge(
            audited,
            played,
            known,
            corpus=corpus,
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
        click.echo(json.dumps(data))
        return
    _show(Console(), result, sources, imported)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _play(
    players: Sequence[Agent],
    env_id: str,
    arguments: dict[str, Any],
    split: str,
    episodes: int | None,
    seed: int | None,
    num_envs: int,
) -> list[Episode]:
    """Every agent plays the same questions."""
    played: list[Episode] = []
    with _progress() as progress:
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
        console.print(_source_table(sources))
        lines = [f"{number:>3}  {one.source} ({one.format})" for number, one in enumerate(sources, 1)]
        lines += _skipped_lines(imported)
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
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
        lines.append(f"{result.failed_episodes} episodes were lost to infrastructure and left out")
    for name, shares in ((result.judge, "judge"), (result.reference, "reference")):
        everywhere, successful = (result.contributing[shares][k] for k in ("all", "successful"))
        lines.append(
            f"contributing rounds by {name}: {_percent(everywhere)}, in successful episodes {_percent(successful)}"
        )
    if result.latency is not None:
        took = result.latency
        lines.append(
            f"per judgement: median {took.median_s * 1e6:,.0f} µs, p99 {took.p99_s * 1e6:,.0f} µs, "
            f"{took.batch_size} a call; {took.per_second:,.0f} judgements/s"
        )
    if result.cost:
        lines.append("cost: " + ", ".join(f"{what} {amount:,g}" for what, amount in result.cost.items()))
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


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


def _source_table(sources: Sequence[SourceReport]) -> Table:
    table = Table(title="recorded rollouts: agreement with the record, and what the searches returned")
    columns = ("rows", "used", "searches", "answers", "EM", "matched", "new gold", "new answer")
    for column in ("", *columns):
        table.add_column(column, justify="right")
    for number, one in enumerate(sources, 1):
        table.add_row(
            str(number),
            str(one.rows),
            str(one.imported),
            _of(one.searches_agree, one.searches_agree_of),
            _of(one.answers_agree, one.answers_agree_of),
            _of(one.em_agree, one.em_agree_of),
            str(one.matched),
            _of(one.new_gold, one.matched_searches),
            _of(one.new_answer, one.answer_searches),
        )
    return table


def _skipped_lines(imported: Imported) -> list[str]:
    """One line for the rows of a source that share a reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for skipped in imported.skipped:
        groups.setdefault((skipped.source, skipped.reason), []).append(skipped.row)
    return [
        f"not used: {source}, rows {', '.join(rows)}: {reason}" for (source, reason), rows in groups.items()
    ]


def _of(count: int, total: int) -> str:
    return f"{count}/{total}" if total else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
