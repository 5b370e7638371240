"""Privileged feedback: a verifier's comment on a draft answer, for the training-only `feedback` act.

CAPF (arXiv 2606.01830) describes the act but not its text: levels and sentences are this project's own. If the gold
derivation is known they are exact; otherwise they are computed from the answers' kind and the supporting passages.
Below the level "gold" the text never contains an accepted answer. Whether a draft contains the answer is told only if it has
one word more, so that a list of names cannot be bisected; a draft with more than three words besides the longest
answer is too long whatever it contains. With the act disabled, nothing in this file runs and no
prompt mentions the act.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from ..errors import UnknownIdError
from ..records.question import Passage, Question
from ..scoring import contains_answer, exact_match, normalize_answer, sub_exact_match

__all__ = ["FEEDBACK_LEVELS", "write_feedback"]

FEEDBACK_LEVELS = ("kind", "hop", "revealing", "gold")
"""kind: right, or wrong in form, of the wrong kind, an earlier step, or just wrong. hop: also what has not been found.
revealing: also which passage to read. gold: the answer itself."""

_YEAR = re.compile(r"[12]\d{3}")
_DATE = re.compile(
    r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\b.*\d|\d+[-/.]\d+[-/.]\d+", re.I
)
_NUMBER = re.compile(r"[-+$€£]?\d[\d.,]*\s*(?:%|[a-z]{1,12})?", re.I)
_EXTRA_WORDS = 3  # more than that besides the answer, and the draft is too long by its form alone
_TOLD_WORDS = 1  # no more than that besides the answer, and the draft hears that it contains the answer
_LEAD = 12  # words that identify a passage whose title contains the answer


def check_level(level: str) -> str:
    """The level, if it exists; raises `UnknownIdError`."""
    if level not in FEEDBACK_LEVELS:
        raise UnknownIdError("feedback level", level, FEEDBACK_LEVELS)
    return level


def write_feedback(
    question: Question,
    draft: str,
    seen_ids: Collection[str],
    level: str,
    passage: Callable[[str], Passage],
) -> str:
    """The text for a draft answer.

    Args:
        question: the task, with its gold derivation if it is known.
        draft: the agent's draft.
        seen_ids: passages retrieved so far in the episode.
        level: one of `FEEDBACK_LEVELS`.
        passage: returns a gold passage by id; called only if the text needs it.
    """
    if exact_match(draft, question.answers):
        return "The draft is right."
    kind = _about_kind(question, draft, passage)
    if level == "gold":
        return f"{kind} The answer is {question.answers[0]}."
    texts = [kind]
    missing = [id_ for id_ in question.supporting_ids if id_ not in seen_ids]
    if level != "kind" and question.supporting_ids:
        texts.append(f"{kind} {_about_hops(question, missing)}")
        if level == "revealing" and missing:
            texts.append(f"{texts[-1]} Read {_pointer(passage(missing[0]), question.answers)}.")
    # Our own words can contain an answer ("2" in "Step 2 of 3"): the text then says less.
    return next((t for t in reversed(texts) if not _tells(t, question.answers)), "The draft is wrong.")


def _about_kind(question: Question, draft: str, passage: Callable[[str], Passage]) -> str:
    """What is wrong with the form or the kind of a draft, without a hint where the answer is."""
    if _is_earlier_step(question, draft, passage):
        return "The draft is an earlier step, not the answer."
    if not draft.strip():
        return "The draft is empty."
    words = _words(draft)
    near = [answer for answer in question.answers if words <= _words(answer) + _TOLD_WORDS]
    if sub_exact_match(draft, near) or words > max(map(_words, question.answers)) + _EXTRA_WORDS:
        return "The draft is too long. Give only the answer."
    kinds = {_kind(answer) for answer in question.answers}
    if _kind(draft) in kinds:
        return "The draft is wrong."
    return f"The draft is wrong. The question asks for {' or '.join(sorted(kinds))}."


def _is_earlier_step(question: Question, draft: str, passage: Callable[[str], Passage]) -> bool:
    if question.chain:
        return any(exact_match(draft, [hop.bridge]) for hop in question.chain[:-1])
    # Without a derivation: what a gold passage is about, unless the question itself names it (a comparison).
    if f" {normalize_answer(draft)} " in f" {normalize_answer(question.text)} ":
        return False
    return any(exact_match(draft, [passage(id_).title]) for id_ in question.supporting_ids)


def _about_hops(question: Question, missing: list[str]) -> str:
    count = len(question.supporting_ids)
    if not missing:
        return "Everything needed has been found."
    if question.chain:
        return f"Step {question.supporting_ids.index(missing[0]) + 1} of {count} has not been found."
    return f"{len(missing)} of {count} passages needed have not been found."


def _pointer(passage: Passage, answers: Collection[str]) -> str:
    """Names a passage: by its title, or by its first words if the title contains the answer."""
    if passage.title and not _tells(passage.title, answers):
        return passage.title
    lead = " ".join(passage.text.split()[:_LEAD])
    for answer in sorted(answers, key=len, reverse=True):
        lead = re.sub(re.escape(answer), "…", lead, flags=re.I)
    return f"the passage that begins: {lead.rstrip('.')}"


def _tells(text: str, answers: Collection[str]) -> bool:
    """Whether a text contains an answer; "yes or no" tells neither."""
    words = f" {normalize_answer(text)} ".replace(" yes or no ", " ")
    return any(contains_answer(words, answer) for answer in answers)


def _words(text: str) -> int:
    return len(normalize_answer(text).split())


def _kind(text: str) -> str:
    """What sort of thing an answer is, from its form."""
    key = text.strip()
    if normalize_answer(key) in ("yes", "no"):
        return "yes or no"
    if _YEAR.fullmatch(key):
        return "a year"
    if _DATE.search(key):
        return "a date"
    return "a number" if _NUMBER.fullmatch(key) else "a name"
