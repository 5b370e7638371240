"""`searchgym play`: a person plays the environment in the terminal."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from ..dialects import Act, Dialect
from ..env.env import SearchEnv
from ..env.setup import registered_arguments
from .options import config_option, env_arguments, env_options, tape_options

__all__ = ["play"]

_HELP = (
    "Type words to search for them. Commands: [bold]/answer[/] TEXT, [bold]/feedback[/] DRAFT (where it is on), "
    "[bold]/raw[/] MESSAGE (sent exactly as typed), [bold]/help[/], [bold]/quit[/]."
)


def shown(text: str) -> str:
    """Text for the terminal: no markup of rich in it, and no control sequence a corpus may hold."""
    return escape("".join([c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text]))


def read_action(line: str, dialect: Dialect) -> str | None:
    """The message for a typed line; None for a line that is no message (help, an unknown command)."""
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if not command.startswith("/"):
        return dialect.write(Act("search", queries=(line,)))
    if command == "/answer" and rest:
        return dialect.write(Act("answer", answer=rest))
    if command == "/feedback" and rest:
        return dialect.write(Act("feedback", draft=rest))
    if command == "/raw":
        return rest
    return None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@env_options
@click.option("--task-id", default=None, help="Play this question.")
@click.option("--seed", type=click.IntRange(0), default=None, help="Draws the question.")
@tape_options
@config_option
def play(
    env_id: str,
    env_pairs: tuple[str, ...],
    split: str | None,
    task_id: str | None,
    seed: int | None,
    record: str | None,
    replay: str | None,
) -> None:
    """Play an episode yourself: search, read, answer; then see the score and the gold derivation."""
    arguments = env_arguments(env_pairs, record, replay)
    if split:
        arguments["split"] = split
    env = SearchEnv(**registered_arguments(env_id, arguments))
    console = Console()
    observation, info = env.reset(seed=seed, options={"task_id": task_id} if task_id else None)
    console.print(Panel(shown(observation), title=f"question {info['task_id']}", border_style="cyan"))
    console.print(_HELP)
    while True:
        budget = env.episode.budget()
        searches = "" if budget["searches"] < 0 else f", {budget['searches']} searches"
        console.print(f"[dim]{budget['rounds']} rounds{searches} left[/]", end=" ")
        line = _read_line(console)
        if line is None or line == "/quit":
            console.print("\nstopped; nothing was scored")
            return
        action = read_action(line, env.dialect) if line else None
        if action is None:
            console.print(_HELP)
            continue
        observation, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
        console.print(Panel(shown(observation), border_style="green"))
    outcome = info["outcome"]
    gold = env.episode.question
    console.print(
        Panel(
            f"your answer: {shown(outcome['answer']) or '(none)'}\n"
            f"gold answer: {shown(gold.answers[0])}\n"
            f"EM {outcome['em']:.0f}   F1 {outcome['f1']:.2f}   recall {outcome['recall']:.2f}   "
            f"reward {reward:g}   ended: {outcome['stop_reason']}",
            title="result",
            border_style="magenta",
        )
    )
    for number, hop in enumerate(gold.chain, 1):
        console.print(f"  {number}. {shown(hop.query)} → {hop.relation} → {shown(hop.bridge)}")


def _read_line(console: Console) -> str | None:
    try:
        line = console.input("[bold]> [/]")
    except EOFError:
        return None
    if not sys.stdin.isatty():  # a piped session reads better with what was typed
        console.print(shown(line))
    return line.strip()
