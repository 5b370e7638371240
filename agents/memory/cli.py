"""`searchgym trials`: several trials of each question, with a memory between them and without."""

from __future__ import annotations

import json

import click
from rich.table import Table

from searchgym.cli.command import Command, option
from searchgym.cli.console import Console
from searchgym.cli.options import parse_pairs
from searchgym.options import check_count
from searchgym.rollouts.collection import choose_tasks, open_agent, open_envs

from .opening import open_memory_agent
from .trials import run_trials

__all__ = ["trials"]


@click.command(cls=Command)
@option("--agent", default="tiny", show_default=True, help="Language model that plays: tiny, hf, api.")
@option(
    "--agent-option",
    "agent_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the agent. Repeatable.",
)
@option(
    "--memory", default="reflections", show_default=True, help="Memory: reflections, skills or experience."
)
@option("--trials", "count", default=3, show_default=True, help="Trials of a question at most.")
@option("--env", default="SearchQA-Terse-v0", show_default=True, help="Registered environment id.")
@option(
    "--env-option",
    "env_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of gym.make. Repeatable.",
)
@option("--split", default="dev", show_default=True, help="Split of the questions.")
@option("--episodes", default=100, show_default=True, help="Number of questions.")
@option("--seed", default=0, show_default=True, help="Random seed.")
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def trials(
    agent: str,
    agent_options: tuple[str, ...],
    memory: str,
    count: int,
    env: str,
    env_options: tuple[str, ...],
    split: str,
    episodes: int,
    seed: int,
    as_json: bool,
) -> None:
    """Play questions several times with a memory between the trials (Reflexion), and without one.

    Prints the share of questions solved by each trial, in both series, and their difference: the memory's share.
    """
    check_count("episodes", episodes, 1)
    opened = open_agent({**parse_pairs("--agent-option", agent_options), "name": agent})
    player = open_memory_agent(opened, memory)
    envs = open_envs(env, player, 64, split, **parse_pairs("--env-option", env_options))
    tasks = list(dict.fromkeys(choose_tasks(envs.config, split, None, seed)))[:episodes]
    result = run_trials(envs, player, tasks, count, seed)
    if as_json:
        click.echo(json.dumps({"agent": player.name, "questions": len(tasks), **result.to_json()}))
        return
    table = Table(title=f"{player.name} on {env}, {split}: {len(tasks)} questions")
    for column in ("solved by trial", "with the memory", "without"):
        table.add_column(column, justify="right")
    for number, (with_memory, without) in enumerate(zip(result.solved, result.control, strict=True), 1):
        table.add_row(str(number), str(with_memory), str(without))
    console = Console()
    console.print(table)
    console.print(f"share of the memory: {result.share}")
    if result.failed:
        console.print(f"{result.failed} episodes lost to infrastructure", style="yellow")
