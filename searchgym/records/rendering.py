"""An episode as text for a terminal and as HTML for a notebook: round by round, with gold passages, verdicts and rewards.

Texts of models, passages and judges are shown as text: control and bidirectional characters are replaced
(`searchgym.errors.terminal`), and nothing in them is read as HTML.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import printable
from .round_record import StopReason

if TYPE_CHECKING:
    from .episode import Episode
    from .round_record import RoundRecord

__all__ = ["ENDINGS", "as_html", "as_text", "thought_of"]

ENDINGS = {
    StopReason.ANSWERED: "the agent answered",
    StopReason.QUERIED: "the agent wrote its query",
    StopReason.ROUND_BUDGET: "all rounds were played without an answer",
    StopReason.SEARCH_BUDGET: "the agent searched although its searches were spent",
    StopReason.CHARACTER_BUDGET: "the budget of characters was spent",
    StopReason.TOKEN_BUDGET: "the context or the token limit of the agent was full",
    StopReason.RETRIEVAL_FAILED: "the retriever failed; the episode is not used for training",
    StopReason.AGENT_FAILED: "the agent failed; the episode is not used for training",
    StopReason.ABORTED: "the caller ended it; the episode is not used for training",
}
"""Why an episode ended, in words."""

_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_ACT = re.compile(r"<(?:search|answer|feedback|tool_call)>")
_PASSAGE = 160  # characters of a passage that are shown
_GOLD, _AGAIN = "★", "☆"


def thought_of(record: RoundRecord) -> str:
    """What an agent wrote before its act; "" for a message without an act, which is shown as a whole.

    Args:
        record: of a round.
    """
    if record.action.kind == "invalid":
        return ""
    inside = _THOUGHT.search(record.text)
    before = inside[2] if inside else _ACT.split(record.text, maxsplit=1)[0]
    return "" if before == record.text else before.strip()


def as_text(episode: Episode, width: int = 100) -> str:
    """The episode as lines of text.

    Args:
        episode: the episode.
        width: of a line, in characters.
    """
    lines = [*_wrap(episode.question, width), *_wrap(_about(episode), width)]
    for number, record in enumerate(episode.rounds, 1):
        lines += ["", *_wrap(f"{number}. {record.action.kind}: {_act(record)}", width, "   ")]
        if thought := thought_of(record):
            lines += _wrap(f"   thought: {thought}", width, "     ")
        for mark, title, text in _hits(episode, number - 1):
            lines += _wrap(f"   {mark or ' '} {title}: {text}", width, "     ")
        lines += [line for note in _notes(record) for line in _wrap(f"   {note}", width, "     ")]
    return "\n".join([*lines, "", *_wrap(_verdict(episode), width), *_wrap(_ending(episode), width)])


def as_html(episode: Episode) -> str:
    """The episode as an HTML fragment without scripts; its colours are those of the notebook.

    Args:
        episode: the episode.
    """
    parts = [f"<b>{_safe(episode.question)}</b><br><small>{_safe(_about(episode))}</small>"]
    for number, record in enumerate(episode.rounds, 1):
        inside = []
        if thought := thought_of(record):
            inside.append(f"<i>{_safe(thought)}</i>")
        inside += [
            f"{mark or '&nbsp;'} <b>{_safe(title)}</b> {_safe(text)}"
            for mark, title, text in _hits(episode, number - 1)
        ]
        inside += [f"<small>{_safe(note)}</small>" for note in _notes(record)]
        parts.append(
            f'<details style="margin:4px 0" open><summary>{number}. {_safe(record.action.kind)} '
            f'<code>{_safe(_act(record))}</code></summary><div style="margin-left:1.6em">{"<br>".join(inside)}</div></details>'
        )
    parts.append(f"{_safe(_verdict(episode))}<br><small>{_safe(_ending(episode))}</small>")
    return f'<div style="max-width:60em;line-height:1.5;overflow-wrap:anywhere">{"".join(parts)}</div>'


def _about(episode: Episode) -> str:
    kind, hops = episode.extra.get("type"), episode.extra.get("hops")
    parts = [episode.agent, episode.task_id, episode.split]
    return " · ".join([*parts, *([f"{kind}, {hops} hop{'s' if hops > 1 else ''}"] if kind and hops else [])])


def _act(record: RoundRecord) -> str:
    act = record.action
    texts = {"search": " · ".join(act.queries), "answer": act.answer, "feedback": act.draft}
    return texts.get(act.kind) or (f"{act.error}: {record.text}" if act.kind == "invalid" else "")


def _hits(episode: Episode, index: int) -> Iterator[tuple[str, str, str]]:
    """Mark, title and text of the hits of a round; a gold passage that an earlier round had found has another mark."""
    gold = set(episode.gold.get("supporting_ids") or ())
    before = {hit.id for record in episode.rounds[:index] for hit in record.hits}
    for hit in episode.rounds[index].hits:
        text = hit.text if len(hit.text) <= _PASSAGE else hit.text[:_PASSAGE] + "…"
        yield (_AGAIN if hit.id in before else _GOLD) if hit.id in gold else "", hit.title or hit.id, text


def _notes(record: RoundRecord) -> Iterator[str]:
    if record.action.kind == "search" and record.retrieval.status == "error":
        yield "the retriever failed"
    elif record.action.kind == "search" and not record.hits:
        yield "nothing was found"
    if record.feedback.text:
        yield f"feedback: {record.feedback.text}"
    judge = record.judge
    if judge.utility is not None and judge.reasoning is not None:
        yield f"judge: utility {judge.utility:.2f}, reasoning {judge.reasoning:.2f}. {judge.reason}".rstrip(
            ". "
        )
    elif judge.status == "error":
        yield f"the judge failed: {judge.reason}"
    if record.reward:
        terms = ", ".join(f"{name} {value:g}" for name, value in record.reward_terms.items() if value)
        yield f"reward {record.reward:g}" + (f" ({terms})" if len(record.reward_terms) > 1 else "")


def _verdict(episode: Episode) -> str:
    outcome, answers = episode.outcome, episode.gold.get("answers") or ["?"]
    right = "✓" if outcome.em >= 1 else "✗"
    recall = (
        f"{outcome.recall:.2f}" if episode.gold.get("supporting_ids") else "–"
    )  # of passages nobody named
    return (
        f"{right} answer {outcome.answer or 'none'!r}, gold {answers[0]!r}; EM {outcome.em:g}, F1 {outcome.f1:.2f}, "
        f"recall {recall}, reward {episode.reward:g}, {outcome.rounds} rounds, {outcome.searches} searches"
    )


def _ending(episode: Episode) -> str:
    return f"Ended because {ENDINGS[episode.outcome.stop_reason]}."


def _wrap(text: str, width: int, later: str = "") -> list[str]:
    lead = re.match(" *", text)
    assert lead is not None
    words = " ".join(printable(text).split())
    return textwrap.wrap(words, width, initial_indent=lead[0], subsequent_indent=later) or [""]


def _safe(text: str) -> str:
    return html.escape(printable(text))
