"""`searchgym credit`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from searchgym.cli.command import Group, option
from searchgym.cli.console import Console, say, text
from searchgym.cli.options import (
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
    sampling_options,
)
from searchgym.errors import ConfigError, MissingExtraError

from .atlas_cli import atlas
from .structure_cli import structure

__all__ = ["credit"]

_TRUTH, _TRAINERS = "True values", "Trainers"


@click.group(cls=Group)
def credit() -> None:
    """Measure how well trainers assign credit to rounds."""


@credit.command("audit")
@option(
    "--trainer",
    "trainers",
    multiple=True,
    group=_TRAINERS,
    show_default="all that can learn in this environment",
    help="Trainer whose credit is scored: a registered name or file.py:Class. Repeatable.",
)
@option(
    "--set",
    "settings_pairs",
    metavar="[TRAINER.]KEY=VALUE",
    multiple=True,
    group=_TRAINERS,
    help="Setting of all trainers, or of one, e.g. cw-grpo.alpha=1. Repeatable.",
)
@option(
    "--run",
    type=click.Path(path_type=Path),
    group=AGENT,
    help="Audit the policy of this training run, or of one checkpoint of it, in the environment of the run.",
)
@option(
    "--checkpoints",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    group=AGENT,
    help="Audit this many checkpoints of --run, evenly from the first to the newest.",
)
@option(
    "--episodes",
    type=click.Path(path_type=Path),
    group=AGENT,
    help="Audit these recorded episodes; --agent plays their continuations.",
)
@option(
    "--agent",
    default="candidate",
    show_default=True,
    group=AGENT,
    help="Agent that plays: candidate, tiny, hf, …, or one without weights that can fork, e.g. stumbling.",
)
@agent_option
@env_options(default_split="train")
@judge_options
@option(
    "--judge-noise",
    type=click.FloatRange(0.0, 1.0),
    multiple=True,
    group=JUDGE,
    help="Score trainers that read verdicts also with this share of the verdicts flipped. Repeatable.",
)
@sampling_options(group_size=8, least=2)
@option(
    "--method",
    type=click.Choice(["exact", "monte-carlo"]),
    group=_TRUTH,
    show_default="exact for agents that list their acts",
    help="Enumerate every state (exact), or continue from restored states (monte-carlo).",
)
@option(
    "--error",
    type=float,
    default=0.05,
    show_default=True,
    group=_TRUTH,
    help="Standard error of an advantage (monte-carlo).",
)
@option(
    "--continuations",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    group=_TRUTH,
    help="Continuations of each state at most (monte-carlo).",
)
@option(
    "--budget",
    type=click.IntRange(1),
    group=_TRUTH,
    show_default="no limit",
    help="Continuations of all states together at most; an error that they may not reach is refused (monte-carlo).",
)
@option(
    "--max-states",
    type=click.IntRange(1),
    default=300_000,
    show_default=True,
    group=_TRUTH,
    help="States of 16 questions at most (exact).",
)
@option(
    "--negligible",
    type=float,
    default=0.01,
    show_default=True,
    group=_TRUTH,
    help="Advantages up to this size count as zero.",
)
@option("--threads", type=click.IntRange(1), group=_TRUTH, help="Threads of torch.")
@option(
    "--out",
    type=click.Path(path_type=Path),
    group=OUTPUT,
    help="Write report.md, audit.json and audit.png into this directory. Continuations are kept there too: an interrupted audit continues when the command is repeated.",
)
@config_option
def audit(
    trainers: tuple[str, ...],
    settings_pairs: tuple[str, ...],
    agent: str,
    agent_options: tuple[str, ...],
    env_id: str,
    env_pairs: tuple[str, ...],
    corpus: str | None,
    retriever: str | None,
    split: str,
    judge: str | None,
    judge_pairs: tuple[str, ...],
    threads: int | None,
    run: Path | None,
    checkpoints: int,
    episodes: Path | None,
    out: Path | None,
    method: str | None,
    **settings: Any,
) -> None:
    """Score each trainer's credit against the true advantage of every round.

    Plays episodes, restores the state of every round, computes what each act was really worth under the playing policy,
    and compares it with the credit that each trainer gives the same episodes. Nothing is trained.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym credit audit", "torch", "train") from error
    from searchgym.agents.enumerable import EnumerablePolicy
    from searchgym.env.vector import make_vec

    from ..core.rollouts import load_groups
    from .auditing import AuditSettings, audit_credit
    from .opening import check_world, open_policy, open_run, open_trainers
    from .report import write_audits

    if threads:
        torch.set_num_threads(threads)
    if checkpoints > 1 and run is None:
        raise ConfigError(f"--checkpoints is {checkpoints} and there is no --run: give the training run")
    given = env_arguments(env_pairs, corpus=corpus, retriever=retriever)
    options = parse_pairs("--agent-option", agent_options)
    recorded = None if episodes is None else load_groups(episodes)
    policies: dict[str, Any] = {}
    if run is None:
        policies[""] = open_policy(agent, options)
        arguments = given
    else:
        for label, loaded in open_run(run, checkpoints, options, given):
            policies[label] = loaded.policy
        env_id, split = loaded.config.env, loaded.config.split
        arguments = {**loaded.config.env_options, **given}
    arguments["judge"] = judge_spec(judge, judge_pairs) or arguments.get("judge") or "oracle"
    if any(policy.needs_gold for policy in policies.values()):
        arguments["reveal_gold"] = True
    config = make_vec(env_id, 1, **arguments, split=split).config
    if run is not None:
        check_world(run, config)
    console = Console(stderr=True)
    named = parse_pairs("--set", settings_pairs)
    audits = {}
    for label, policy in policies.items():
        opened, refused = open_trainers(trainers, named, settings["group_size"], config)
        for name, reason in refused.items():
            console.print(f"without {name}: {reason}")
        chosen = method or ("exact" if isinstance(policy, EnumerablePolicy) else "monte-carlo")
        with console.status("audit") as status:
            audits[label] = audit_credit(
                policy,
                config,
                opened,
                AuditSettings(method=chosen, **settings),  # type: ignore[arg-type]  # one of the choices
                lambda doing: status.update(text(f"audit: {doing}")),
                out and out / label,
                recorded,
            )
        _say(label, audits[label])
    if out is not None:
        command = "searchgym " + shlex.join(sys.argv[1:])
        say("written: " + ", ".join(map(str, write_audits(audits, out, command))))


credit.add_command(structure)
credit.add_command(atlas)


def _say(label: str, audit: Any) -> None:
    """Print an audit."""
    from .report import in_words

    if label:
        say(f"{label}:")
    console = Console(stderr=True)
    for name, reason in audit.left_out.items():
        console.print(f"without {name}: {reason}")
    Console().print(_table(audit))
    if not any(episode.reward for episode in audit.sampled.episodes):
        say(
            "No episode earned anything, so there is nothing to credit: let a policy play that succeeds now and then, or "
            "choose easier questions."
        )
    for rule in audit.trainers:
        say(in_words(audit, rule))


def _table(result: Any) -> Table:
    from .report import SHOWN, cell

    sampled = result.sampled
    table = Table(
        title=f"Credit against the true advantage: {len(sampled.episodes)} episodes, {len(sampled.rounds.true_R)} rounds"
    )
    rows = {rule.label: {column: cell(rule, column) for column in SHOWN} for rule in result.rules}
    shown = [column for column in SHOWN if any(row[column] != "–" for row in rows.values())]
    table.add_column("rule", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    notes = any(rule.note for rule in result.rules)
    if notes:
        table.add_column("note")
    for rule in result.rules:
        table.add_row(
            rule.label, *(rows[rule.label][column] for column in shown), *([rule.note] if notes else [])
        )
    return table
