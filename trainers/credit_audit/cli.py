"""`searchgym credit`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from searchgym import plugins
from searchgym.cli.command import Group, option
from searchgym.cli.console import Console, say, text
from searchgym.cli.options import (
    AGENT,
    ENVIRONMENT,
    OUTPUT,
    agent_option,
    config_option,
    env_arguments,
    env_options,
    judge_options,
    judge_spec,
    parse_pairs,
)
from searchgym.errors import ConfigError, MissingExtraError, SearchGymError

if TYPE_CHECKING:
    from ..algorithm import Algorithm

__all__ = ["credit"]

_TRUTH, _TRAINERS = "True values", "Trainers"
_WITHOUT_CREDIT = ("sft",)  # imitates demonstrations: its credit does not depend on the reward


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
    "--agent",
    default="candidate",
    show_default=True,
    group=AGENT,
    help="Trainable agent that plays: candidate, tiny, hf, …",
)
@agent_option
@env_options(default_split="train")
@judge_options
@option(
    "--questions",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    group=ENVIRONMENT,
    help="Number of questions.",
)
@option(
    "--group-size",
    type=click.IntRange(2),
    default=8,
    show_default=True,
    group=ENVIRONMENT,
    help="Episodes per question.",
)
@option(
    "--num-envs",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    group=ENVIRONMENT,
    help="Episodes played in parallel.",
)
@option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, group=ENVIRONMENT, help="Random seed."
)
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
    from searchgym.agents.policy import Policy
    from searchgym.env.vector import make_vec
    from searchgym.rollouts.collection import open_agent

    from .auditing import REFERENCES, AuditSettings, audit_credit
    from .report import in_words, write_audit

    if threads:
        torch.set_num_threads(threads)
    arguments = env_arguments(env_pairs, corpus=corpus, retriever=retriever)
    options = parse_pairs("--agent-option", agent_options)
    if run is not None:
        from ..training.loading import load_run

        loaded = load_run(run, agent_options=options, env_options=arguments)
        policy: Any = loaded.policy
        policy.greedy = False
        env_id, split = loaded.config.env, loaded.config.split
        arguments = {**loaded.config.env_options, **arguments}
    else:
        policy = open_agent({**options, "name": agent})
        if not isinstance(policy, Policy):
            raise ConfigError(
                f"agent {agent!r} cannot be trained, so no trainer gives it credit: use candidate, tiny or hf"
            )
    given = judge_spec(judge, judge_pairs)
    arguments["judge"] = given or arguments.get("judge") or "oracle"
    config = make_vec(env_id, 1, **arguments, split=split).config
    if method is None:
        method = "exact" if isinstance(policy, EnumerablePolicy) else "monte-carlo"
    console = Console(stderr=True)
    opened, refused = _open_trainers(
        trainers, parse_pairs("--set", settings_pairs), settings["group_size"], config
    )
    for name, reason in refused.items():
        console.print(f"without {name}: {reason}")
    with console.status("audit") as status:
        result = audit_credit(
            policy,
            config,
            opened,
            AuditSettings(method=method, **settings),  # type: ignore[arg-type]  # one of the choices
            lambda doing: status.update(text(f"audit: {doing}")),
            out,
        )
    for name, reason in result.left_out.items():
        console.print(f"without {name}: {reason}")
    Console().print(_table(result))
    if not any(episode.reward for episode in result.sampled.episodes):
        say(
            "No episode earned anything, so there is nothing to credit: let a policy play that succeeds now and then, or "
            "choose easier questions."
        )
    for rule in result.rules[len(REFERENCES) :]:
        say(in_words(result, rule))
    if out is not None:
        command = "searchgym " + shlex.join(sys.argv[1:])
        say("written: " + ", ".join(map(str, write_audit(result, out, command))))


def _open_trainers(
    names: tuple[str, ...], settings: dict[str, Any], group_size: int, config: Any
) -> tuple[dict[str, Algorithm], dict[str, str]]:
    """The trainers to score, and why others are left out.

    A trainer that was named must work; of the registered ones, those that refuse the environment are left out.
    """
    from ..registry import load_trainer, trainer_label

    wanted = names or tuple(name for name in plugins.names("trainers") if name not in _WITHOUT_CREDIT)
    labels = [trainer_label(name) for name in wanted]
    for key in settings:
        owner = key.rpartition(".")[0]
        if owner and owner not in labels:
            raise ConfigError(
                f"--set {key}: trainer {owner!r} is not audited; audited are {', '.join(labels)}"
            )
    opened: dict[str, Algorithm] = {}
    refused: dict[str, str] = {}
    for name, label in zip(wanted, labels, strict=True):
        try:
            kind = load_trainer(name)
            fields = {field.name for field in dataclasses.fields(kind.settings_class)}
            own = {k.removeprefix(f"{label}."): v for k, v in settings.items() if k.startswith(f"{label}.")}
            common = {k: v for k, v in settings.items() if "." not in k and (k in fields or names)}
            algorithm = kind({"group_size": group_size, **common, **own})
            algorithm.configure_env(config)
            opened[label] = algorithm
        except SearchGymError as error:
            if names:
                raise
            refused[label] = str(error)
    return opened, refused


def _table(result: Any) -> Table:
    from .report import SHOWN, cell

    sampled = result.sampled
    table = Table(
        title=f"Credit against the true advantage: {len(sampled.episodes)} episodes, {len(sampled.rounds.true_R)} rounds"
    )
    table.add_column("rule", no_wrap=True)
    for name in SHOWN:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note")
    for rule in result.rules:
        table.add_row(rule.label, *(cell(rule, column) for column in SHOWN), rule.note)
    return table
