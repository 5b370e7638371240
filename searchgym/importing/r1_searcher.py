"""The tags of R1-Searcher: one text with queries, document blocks and an answer.

    …thinking <|begin_of_query|> QUERY <|end_of_query|> <|begin_of_documents|>
    (1)TITLE   TEXT
    (2)"Title: TITLE Text:  TEXT"
    <|end_of_documents|> …thinking </think> <answer> ANSWER </answer>

Both document styles occur; the second is quoted as in CSV where its text holds quotes. A query and what leads to it
are one round; the text after the last documents is the answer round. Messages and observations together are the
whole text, character by character. Only an answer in the agent's own last message counts, after its thought, never one in
a document.
"""

from __future__ import annotations

import re
from typing import Any

from ..dialects import after_thoughts
from ..records.episode import RoundRecord
from ..records.retriever import Hit
from .parsed import Parsed, RolloutTextError, act, hit

__all__ = ["parse_r1_searcher"]

_QUERY, _END_QUERY = "<|begin_of_query|>", "<|end_of_query|>"
_DOCUMENTS, _END_DOCUMENTS = "<|begin_of_documents|>", "<|end_of_documents|>"
_TITLED = re.compile(r"Title: (.*?) Text:(?: |$)(.*)", re.DOTALL)


def parse_r1_searcher(text: Any) -> Parsed:
    """Take a rollout apart.

    Raises:
        RolloutTextError: not a string, an empty one, or documents without a query.
    """
    if not isinstance(text, str):
        raise RolloutTextError(f"the text is a {type(text).__name__}, not a string")
    rounds: list[RoundRecord] = []
    position = 0
    while (start := text.find(_QUERY, position)) >= 0:
        if 0 <= text.find(_DOCUMENTS, position) < start:
            raise RolloutTextError("a block of documents has no query before it")
        end = text.find(_END_QUERY, start)
        if end < 0:
            rounds.append(RoundRecord(text[position:], act("invalid", error="malformed_call")))
            return Parsed(rounds, cut=True)
        query = text[start:end].rpartition(_QUERY)[2]
        end += len(_END_QUERY)
        documents, following = text.find(_DOCUMENTS, end), text.find(_QUERY, end)
        if documents < 0 or 0 <= following < documents:
            rounds.append(RoundRecord(text[position:end], act("search", queries=[query])))
            position = end
            continue
        close = text.find(_END_DOCUMENTS, documents)
        stop = len(text) if close < 0 else close + len(_END_DOCUMENTS)
        inner = text[documents + len(_DOCUMENTS) : len(text) if close < 0 else close]
        rounds.append(
            RoundRecord(
                text[position:documents], act("search", queries=[query]), [_hits(inner)], text[documents:stop]
            )
        )
        if close < 0:
            return Parsed(rounds, cut=True)
        position = stop
    rest = text[position:]
    if _DOCUMENTS in rest:
        raise RolloutTextError("a block of documents has no query before it")
    if not rest.strip() and rounds:
        return Parsed(rounds)
    if not rest.strip():
        raise RolloutTextError("the text is empty")
    _, opening, answer = after_thoughts(rest).rpartition("<answer>")
    answer, closing, _ = answer.partition("</answer>")
    if not opening:
        rounds.append(RoundRecord(rest, act("invalid", error="no_act")))
    elif not closing:
        rounds.append(RoundRecord(rest, act("invalid", error="malformed_call")))
    else:
        rounds.append(RoundRecord(rest, act("answer", answer=answer)))
    return Parsed(rounds, cut=bool(opening) and not closing)


def _hits(block: str) -> list[Hit]:
    """The documents (1), (2), … of a block. Only the next number in turn opens one: a text may hold "(7)"."""
    spans: list[tuple[int, int]] = []
    position = 0
    while (mark := re.compile(rf"^\({len(spans) + 1}\)", re.MULTILINE).search(block, position)) is not None:
        spans.append(mark.span())
        position = mark.end()
    ends = [start for start, _ in spans[1:]] + [len(block)]
    return [
        hit(*_title_and_text(block[start:end].strip()), rank)
        for rank, ((_, start), end) in enumerate(zip(spans, ends, strict=False), 1)  # no spans, and one end
    ]


def _title_and_text(entry: str) -> tuple[str, str]:
    if len(entry) > 1 and entry[0] == entry[-1] == '"':
        entry = entry[1:-1].replace('""', '"')
    if (titled := _TITLED.fullmatch(entry)) is not None:
        return titled[1], titled[2]
    title, gap, body = entry.partition("   ")
    return (title, body) if gap else ("", entry)
