"""Finds the question that a prompt asks, for frameworks that hand over texts only."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ..errors import ConfigError
from ..options import plain
from ..records.question import Corpus, Question
from ..specs import ByIdentity

__all__ = ["find_question", "not_one_question", "prompt_text", "questions_of_prompt"]


def find_question(corpus: Corpus, text: str, split: str | None = None) -> Question:
    """The question of a corpus whose text a prompt is, or ends with.

    Args:
        corpus: where to look.
        text: the prompt; spaces around it do not matter. Other text may stand before the question.
        split: default: all splits.

    Raises:
        UnknownIdError: an unknown split.
        ConfigError: no question, or several questions of the same text.
    """
    found = questions_of_prompt(corpus, text, split)
    if len(found) != 1:
        raise not_one_question(
            len(found), text, f"corpus {corpus.name!r}" if split is None else f"split {split!r}"
        )
    return found[0]


def prompt_text(prompt: Any) -> str:
    """The text of a prompt, or of its last message if it is a list of chat messages, whose content may be in parts.

    Args:
        prompt: as frameworks pass it. None is an empty text.

    Raises:
        ConfigError: neither a text nor chat messages.
    """
    if prompt is None:
        return ""
    given = plain("prompt", prompt)
    message = given[-1] if isinstance(given, list) and given else given
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(message, dict) and isinstance(content, list):
        content = "".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
    if not isinstance(content, str):
        raise ConfigError(
            f"prompt is {prompt!r:.80}: give a text or chat messages that end with the question's text"
        )
    return content.strip()


def not_one_question(found: int, text: str, place: str) -> ConfigError:
    """The error for a prompt that does not say which question is asked.

    Args:
        found: number of questions that it may ask.
        text: the prompt.
        place: where they were looked for.
    """
    many = f"{found} questions" if found else "no question"
    return ConfigError(
        f"{many} of {place} at the end of the prompt {text[-80:]!r}: name the question by its task_id"
    )


def questions_of_prompt(corpus: Corpus, text: str, split: str | None = None) -> list[Question]:
    """The questions whose text is the longest one that a prompt ends with; see `find_question`."""
    wanted = text.strip()
    by_text, lengths = _texts(ByIdentity(corpus), split)
    for length in lengths:
        if length <= len(wanted) and wanted[-length:] in by_text:
            return by_text[wanted[-length:]]
    return []


@lru_cache(maxsize=16)
def _texts(corpus: ByIdentity, split: str | None) -> tuple[dict[str, list[Question]], list[int]]:
    """The questions by their text, and the lengths that texts have, falling."""
    splits: Iterable[str] = corpus.value.splits if split is None else [split]
    by_text: dict[str, list[Question]] = {}
    for name in splits:
        for question in corpus.value.questions(name):
            by_text.setdefault(question.text.strip(), []).append(question)
    by_text.pop("", None)
    return by_text, sorted({len(text) for text in by_text}, reverse=True)
