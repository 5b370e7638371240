"""The documents of the de-facto `/retrieve` protocol (Search-R1's), read and written.

A document is `{"id": …, "contents": "\\"Title\\"\\nText"}`. Existing servers also omit the id, leave the title
unquoted, send `title` and `text` as separate fields, `content`, or only a string; all of these forms are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from searchgym.records.retriever import Hit, content_id

from ..datasets.contents import split_contents

__all__ = ["read_document", "read_hits", "write_document"]

_FORMATTED = re.compile(r'\(Title: "?(.*?)"?\)\s(.*)', re.DOTALL)  # a document as rerank servers write it


def read_document(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """Id, title and text of a document; without an id, or with an empty one, `content_id` serves as one.

    A `title` beside "contents" is the title.

    Raises:
        ValueError: it has no text, or a field has the wrong type; the message says which.
    """
    if isinstance(document.get("text"), str):
        title, text = document.get("title") or "", document["text"]
    elif isinstance(document.get("contents"), str):
        title, text = split_contents(document["contents"], document.get("title"))
    else:
        fields = ", ".join(sorted(map(str, document))[:8]) or "no fields"
        raise ValueError(f"a document has neither 'contents' nor 'text' (it has {fields})")
    if not isinstance(title, str):
        raise ValueError(f"a document's title is {title!r:.60}, not a string")
    title, text = _whole(title), _whole(text)
    id = document.get("id")
    if id in (None, ""):
        id = document.get("_id")
    if id in (None, ""):
        id = content_id(title, text)
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise ValueError(f"a document's id is {id!r:.60}, not a string or a number")
    return _whole(str(id)), title, text


def read_hits(row: Any, topk: int) -> list[Hit]:
    """The hits of one query in the server's order: `{"document": …, "score": …}`, or bare documents.

    A hit without a score gets 1 / rank. Hits beyond the first `topk` are ignored.

    Raises:
        ValueError: `row` is not a list of hits; likewise TypeError, AttributeError and OverflowError.
    """
    if not isinstance(row, list):
        raise ValueError(f"the hits of a query are {row!r:.60}, not a list")
    hits = []
    for rank, entry in enumerate(row[:topk], 1):
        if isinstance(entry, str) and "\n" not in entry and not _FORMATTED.fullmatch(entry):
            raise ValueError(
                f"a hit is {entry!r:.60}, which may be a message: a title or a document is expected"
            )
        fields = entry if isinstance(entry, dict) else {"document": entry}
        id, title, text = read_document(_named(fields.get("document", fields)))
        score = fields.get("score")
        score = 1.0 / rank if score is None else float(score)
        if not math.isfinite(score):
            raise ValueError(f"a score is {score}")
        hits.append(Hit(id, title, text, score))
    return hits


def _named(document: Any) -> Mapping[str, Any]:
    """A document with the usual names of its fields; some servers send strings, or "content"."""
    if isinstance(document, str):
        formatted = _FORMATTED.fullmatch(document)
        return {"title": formatted[1], "text": formatted[2]} if formatted else {"contents": document}
    if "contents" not in document and isinstance(document.get("content"), str):
        return {**document, "contents": document["content"]}
    fields: Mapping[str, Any] = document
    return fields


def _whole(text: str) -> str:
    """The text with each lone surrogate, which no tokenizer or file accepts, replaced by a question mark."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def write_document(hit: Hit) -> dict[str, Any]:
    """The document of a hit, from which `read_document` restores exactly its id, title and text."""
    document = {"id": hit.id, "contents": f'"{hit.title}"\n{hit.text}'}
    if "\n" in hit.title:  # "contents" cannot show where such a title ends
        document |= {"title": hit.title, "text": hit.text}
    return document
