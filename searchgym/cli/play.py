"""`searchgym play`: play an episode in the terminal."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Set
from itertools import chain
from pathlib import Path

import click
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from ..agent import Turn
from ..dialects import Act, Dialect
from ..env.env import SearchEnv
from ..env.judging import judge_episodes
from ..env.setup import registered_arguments
from ..records.episode import Episode, StopReason, check_writable, load_episodes, save_episodes
from ..records.question import Question
from ..rollouts.recorder import EpisodeRecorder
from .command import Command, option
from .console import Console, text
from .listing import listing_options
from .options import ENVIRONMENT, OUTPUT, config_option, env_arguments, env_options, tape_options

__all__ = ["play"]

_HELP = Text.from_markup(
    "Type words to search for them. Commands: [bold]/answer[/] TEXT, [bold]/hint[/] (again: a stronger one), "
    "[bold]/feedback[/] DRAFT (if enabled), [bold]/raw[/] MESSAGE (sent exactly as typed), [bold]/help[/], [bold]/quit[/]."
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


def write_hint(question: Question, found: Set[str], strong: bool) -> str:
    """What to look up next, from the gold derivation. Costs no round.

    Args:
        question: the task.
        found: ids of the gold passages that were retrieved.
        strong: say the query, not only the step.
    """
    if question.chain:
        count = len(question.chain)
        for number, hop in enumerate(question.chain, 1):
            if not found >= set(hop.passage_ids):
                step = f"step {number} of {count} is open: it looks up {hop.relation!r}"
                return f"{step}; search for: {hop.query}" if strong else step
    elif missing := [id_ for id_ in question.supporting_ids if id_ not in found]:
        return f"{len(missing)} of {len(question.supporting_ids)} passages needed have not been found"
    elif not question.supporting_ids:
        return "no hint: the corpus does not say which passages this question needs"
    return "everything needed has been found: read the passages again, then answer"


class _Table:
    """The episode that is played, its record, and the hints that were given.

    Args:
        env: has been reset.
    """

    def __init__(self, env: SearchEnv) -> None:
        self.env = env
        self.hints = 0
        self._hinted: frozenset[str] | None = None  # what had been found at the last hint
        id_ = secrets.token_hex(8)
        self._recorder = EpisodeRecorder(id_, id_, env.episode.question)

    def left(self) -> str:
        """What is left of each budget."""
        budget, config = self.env.episode.budget(), self.env.config
        parts = [f"{budget['rounds']} rounds"]
        parts += [f"{budget['searches']} searches"] if budget["searches"] >= 0 else []
        parts += [f"{budget['chars']:,} characters"] if budget["chars"] >= 0 else []
        parts += [f"{self.env.episode.feedback_left} feedback"] if config.has_feedback else []
        return f"{', '.join(parts)} left"

    def refusal(self, line: str) -> str:
        """Why a typed line is not sent, because it would only cost a round; "" if it is."""
        if line.split(" ")[0] != "/feedback":
            return ""
        if not self.env.config.has_feedback:
            return (
                'feedback is off in this environment (--env-option \'feedback={"level": "hop"}\' enables it); '
                "no round was spent"
            )
        return "" if self.env.episode.feedback_left else "no feedback is left; no round was spent"

    def hint(self) -> str:
        """The next hint: a stronger one if nothing was found since the last."""
        found = frozenset(self.env.episode.found)
        strong, self._hinted = self._hinted == found, found
        self.hints += 1
        return write_hint(self.env.episode.question, found, strong)

    def step(self, message: str) -> bool:
        """Play a round; returns whether the episode has ended."""
        *_, terminated, truncated, _ = self.env.step(message)
        self._add(message)
        return bool(terminated or truncated)

    def abort(self) -> None:
        """End the episode; it is not valid for training."""
        self.env.truncate(StopReason.ABORTED)
        self._add("")

    def _add(self, message: str) -> None:
        assert self.env.last_record is not None
        self._recorder.add(Turn(message), self.env.last_record)

    def episode(self) -> Episode:
        """The record, judged if the environment has a judge that runs after the episodes."""
        config = self.env.config
        episode = self._recorder.finish(config, "human")
        episode.extra |= {"hints": self.hints} if self.hints else {}
        if config.judge is not None and not config.judges_steps:
            judge_episodes(config.judge, [episode], config.judge_when, self.env.judge_costs)
        return episode


@click.command(cls=Command)
@env_options()
@option("--task-id", group=ENVIRONMENT, help="Id of the question to play.")
@option("--seed", type=click.IntRange(0), group=ENVIRONMENT, help="Random seed that draws the question.")
@option(
    "--save",
    type=click.Path(path_type=Path),
    group=OUTPUT,
    help="Add the episode to this file (JSONL); /quit adds it as aborted.",
)
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
    save: Path | None,
    record: str | None,
    replay: str | None,
) -> None:
    """Play an episode yourself in the terminal.

    Typed words are a search; /answer TEXT answers; /hint says what to look up next. At the end, the episode is shown
    round by round, with its gold passages, the score and the gold derivation.
    """
    arguments = env_arguments(env_pairs, corpus=corpus, retriever=retriever, record=record, replay=replay)
    if split:
        arguments["split"] = split
    saved: list[Episode] = []
    if save is not None:
        check_writable(save)
        saved = list(load_episodes(save)) if save.exists() else []
    env = SearchEnv(**registered_arguments(env_id, arguments))
    console = Console()
    observation, info = env.reset(seed=seed, options={"task_id": task_id} if task_id else None)
    console.print(Panel(observation, title=text(f"question {info['task_id']}"), border_style="cyan"))
    console.print(_HELP)
    table = _Table(env)
    finished = _play(console, table)
    if finished:
        _show_result(console, env, table.episode())
    else:
        console.print("\nstopped; nothing was scored")
    if save is not None and env.last_record is not None:
        if not finished:
            table.abort()
        save_episodes(save, chain(saved, [table.episode()]))
        console.print(f"saved in {save}", soft_wrap=True)


def _play(console: Console, table: _Table) -> bool:
    """Play until the episode ends; returns False if the player stopped before."""
    env = table.env
    while True:
        console.print(table.left(), style="dim", end=" ")
        line = _read_line(console)
        if line is None or line == "/quit":
            return False
        if line == "/hint":
            console.print(table.hint(), style="yellow")
            continue
        if refusal := table.refusal(line):
            console.print(refusal, style="yellow", soft_wrap=True)
            continue
        action = read_action(line, env.dialect) if line else None
        if action is None:
            console.print(_HELP)
            continue
        if table.step(action):
            return True
        console.print(Panel(env.episode.observation, border_style="green"))


def _show_result(console: Console, env: SearchEnv, episode: Episode) -> None:
    """The whole episode as `Episode.render` shows it, now with the gold passages, and the gold derivation."""
    hints = episode.extra.get("hints", 0)
    console.print(Rule(text(f"result (hints: {hints})" if hints else "result"), style="magenta"))
    console.print(episode.render(width=console.width), soft_wrap=True)
    chain = env.episode.question.chain
    if chain:
        console.print("Derivation:")
    for number, hop in enumerate(chain, 1):
        console.print(f"  {number}. {hop.query} → {hop.relation} → {hop.bridge}")


def _read_line(console: Console) -> str | None:
    try:
        line = console.input(text("> ", "bold"))
    except EOFError:
        return None
    if not sys.stdin.isatty():  # echo piped input, so that the transcript is complete
        console.print(line)
    return line.strip()
