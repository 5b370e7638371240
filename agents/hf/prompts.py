"""What a model is told before the question: the dialect's instructions or a transcript to complete, and demonstrations.

Base models copy what a prompt shows them, placeholders included. So a placeholder is always "…", and a search or an answer
of nothing but dots is an empty act in both dialects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from searchgym.agent import AgentContext
from searchgym.dialects import Act
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, load_episodes
from searchgym.records.retriever import Hit

__all__ = ["PROMPTS", "DemonstrationOptions", "demonstrations_digest", "prompted", "read_demonstrations"]

PROMPTS = ("instructions", "completion")
_PLACEHOLDER = "…"


@dataclass(frozen=True, slots=True)
class DemonstrationOptions:
    """The option `demonstrations`.

    Attributes:
        episodes: a JSONL file of episodes (`searchgym eval --save FILE`).
        count: how many of them the prompt shows: the first ones with reward 1.

    Raises:
        ConfigError: a value that cannot be used.
    """

    episodes: str
    count: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.episodes, str) or not Path(self.episodes).is_file():
            raise ConfigError(
                f"demonstrations: there is no file {self.episodes!r}: write one with `searchgym eval --agent oracle --save FILE`"
            )
        if type(self.count) is not int or self.count < 1:
            raise ConfigError(f"demonstrations: count is {self.count!r}: give a whole number >= 1")


def read_demonstrations(options: DemonstrationOptions | None) -> list[Episode]:
    """The episodes that a prompt shows.

    Args:
        options: which ones; None: none.

    Raises:
        ConfigError: the file has fewer successful episodes.
        EpisodeFileError: the file is damaged.
    """
    if options is None:
        return []
    good = (e for e in load_episodes(options.episodes) if e.valid_for_training and e.reward >= 1)
    chosen = list(islice(good, options.count))
    if len(chosen) < options.count:
        raise ConfigError(
            f"demonstrations: {options.episodes!r} has {len(chosen)} valid episodes with reward 1 and count is "
            f"{options.count}: lower count, or record more"
        )
    return chosen


def demonstrations_digest(episodes: Sequence[Episode]) -> str:
    """Digest of the texts of demonstrations, for a run's configuration."""
    texts = [[e.question, *(part for r in e.rounds for part in (r.text, r.observation))] for e in episodes]
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def prompted(agent_context: AgentContext, prompt: str, demonstrations: Sequence[Episode]) -> AgentContext:
    """The environment's context with another text before the question.

    Args:
        agent_context: the environment's context.
        prompt: a name in `PROMPTS`.
        demonstrations: episodes that are shown after the instructions.

    Raises:
        ConfigError: a demonstration was recorded in another dialect.
    """
    text = agent_context.system_prompt if prompt == "instructions" else _completion(agent_context)
    if demonstrations:
        shown = "\n\n".join(_transcript(agent_context, episode) for episode in demonstrations)
        text = f"{text}\n\n{shown}"
    return replace(agent_context, system_prompt=text)


def _completion(agent_context: AgentContext) -> str:
    """An instruction and the form of a transcript."""
    dialect = agent_context.dialect
    search = dialect.write(Act("search", queries=(_PLACEHOLDER,)), _PLACEHOLDER)
    answer = dialect.write(Act("answer", answer=_PLACEHOLDER), _PLACEHOLDER)
    found = dialect.render_hits([Hit("", _PLACEHOLDER, _PLACEHOLDER, 0.0)], 1000)
    lines = [
        "Every question is answered by searching for passages. Each message is a thought and one action: a search for one "
        f"fact, or the answer in a few words. In the form below, {_PLACEHOLDER} stands for a text.",
        f"\nQuestion: {_PLACEHOLDER}",
        search,
        found,
    ]
    if agent_context.feedback_calls > 0:
        lines += [
            dialect.write(Act("feedback", draft=_PLACEHOLDER), _PLACEHOLDER),
            dialect.render_feedback(_PLACEHOLDER),
        ]
    return "\n".join([*lines, answer])


def _transcript(agent_context: AgentContext, episode: Episode) -> str:
    """An episode as a text."""
    dialect = agent_context.dialect
    lines = [f"Question: {episode.question}"]
    for round_ in episode.rounds:
        parsed = dialect.parse(
            round_.text, feedback=agent_context.feedback_calls > 0, max_queries=agent_context.max_queries
        )
        if parsed.kind != round_.action.kind:
            raise ConfigError(
                f"demonstrations: episode {episode.episode_id!r} does not read as the same acts in the dialect "
                f"{dialect.name!r}: record demonstrations with the dialect and options of this environment"
            )
        lines.append(round_.text)
        if round_.observation:
            lines.append(round_.observation)
    return "\n".join(lines)
