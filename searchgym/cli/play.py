"""`searchgym play`: play an episode in the terminal."""

from __future__ import annotations

import sys

import click
from rich.panel import Panel
from rich.text import Text

from ..dialects import Act, Dialect
from ..env.env import SearchEnv
from ..env.setup import registered_arguments
from .command import Command, option
from .console import Console, text
from .listing import listing_options
from .options import ENVIRONMENT, config_option, env_arguments, env_options, tape_options

__all__ = ["play"]

_HELP = Text.from_markup(
    "Type words to search for them. Commands: [bold]/answer[/] TEXT, [bold]/feedback[/] DRAFT (if enabled), "
    "[bold]/raw[/] MESSAGE (sent exactly as typed), [bold]/help[/], [bold]/quit[/]."
)


def read_action(line: str, dialect: Dialect) -> str | None:
    """The message for a typed line; None if the line is not a message (help or an unknown command)."""
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


@click.command(cls=Command)
@env_options()
@option("--task-id", group=ENVIRONMENT, help="Id of the question to play.")
@option("--seed", type=click.IntRange(0), group=ENVIRONMENT, help="Random seed that draws the question.")
@tape_options
@listing_options
@config_option
def play(
    env_id: str,
    corpus: str | None,
    retriever: str | None,
    env_pairs: tuple[str, ...],
    split: str | None,
    task_id: str | None,
    seed: int | None,
    record: str | None,
    replay: str | None,
) -> None:
    """Play an episode yourself in the terminal.

    Typed words are a search; /answer TEXT answers. At the end, the score and the gold derivation are shown.
    """
    arguments = env_arguments(env_pairs, corpus=corpus, retriever=retriever, record=record, replay=replay)
    if split:
        arguments["split"] = split
    env = SearchEnv(**registered_arguments(env_id, arguments))
    console = Console()
    observation, info = env.reset(seed=seed, options={"task_id": task_id} if task_id else None)
    console.print(Panel(observation, title=text(f"question {info['task_id']}"), border_style="cyan"))
    console.print(_HELP)
    while True:
        budget = env.episode.budget()
        searches = "" if budget["searches"] < 0 else f", {budget['searches']} searches"
        console.print(f"{budget['rounds']} rounds{searches} left", style="dim", end=" ")
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
        console.print(Panel(observation, border_style="green"))
    outcome = info["outcome"]
    gold = env.episode.question
    console.print(
        Panel(
            f"your answer: {outcome['answer'] or '(none)'}\n"
            f"gold answer: {gold.answers[0]}\n"
            f"EM {outcome['em']:.0f}   F1 {outcome['f1']:.2f}   "
            f"recall {format(outcome['recall'], '.2f') if gold.supporting_ids else '–'}   "
            f"reward {reward:g}   ended: {outcome['stop_reason']}",
            title="result",
            border_style="magenta",
        )
    )
    for number, hop in enumerate(gold.chain, 1):
        console.print(f"  {number}. {hop.query} → {hop.relation} → {hop.bridge}")


def _read_line(console: Console) -> str | None:
    try:
        line = console.input(text("> ", "bold"))
    except EOFError:
        return None
    if not sys.stdin.isatty():  # echo piped input, so that the transcript is complete
        console.print(line)
    return line.strip()
