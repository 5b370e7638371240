"""Reads the requests of the retrieval service, in the dialects that clients speak, as JSON or msgpack.

    {"queries": ["…"], "topk": 3, "return_scores": true}      Search-R1 and what was derived from it
    {"query": "…", "topk": 3}                                  SkyRL, verl-agent: one query
    {"query": ["…"], "top_n": 3, "return_score": true}         ReSearch, to /batch_search

Values are coerced as pydantic does it by default, because most servers of the protocol are FastAPI programs: a number may
be a string, a flag may be 0, 1 or "yes".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchgym.errors import SearchGymError

from .limits import Limits

__all__ = ["JSON", "MSGPACK", "Form", "Refused", "Search", "read_search"]

JSON, MSGPACK = "application/json", "application/msgpack"
_COMMAS = 100_000  # in a body of JSON: more values than any request has would take up to 30 times its size
_QUERIES = ("queries", "query")
_TOPK = ("topk", "top_k", "top_n", "k")
_SCORES = ("return_scores", "return_score")
_YES, _NO = ("1", "on", "t", "true", "y", "yes"), ("0", "off", "f", "false", "n", "no")
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}(\.0*)?")


class Refused(SearchGymError):
    """A request that is not served.

    Args:
        status: the HTTP status.
        reason: the reason, for the client.
        headers: further headers of the answer.

    Attributes:
        status: see above.
        headers: see above.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return (Refused, (self.status, str(self), self.headers))


@dataclass(frozen=True, slots=True)
class Form:
    """What is asked for each query; answers are cached for each form.

    Attributes:
        topk: hits at most.
        scores: with scores.
        media: `JSON` or `MSGPACK`.
        bare: the answer is the list of documents, and a second one of scores, without names (ReSearch).
    """

    topk: int
    scores: bool
    media: str = JSON
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """The content of a request, checked.

    Attributes:
        queries: with single spaces between words.
        form: what is asked for each.
        partial: a query that failed is named in the answer, and the others are answered.
        single: one query that was not in a list; for `bare` answers, which are then not in a list either.
    """

    queries: list[str]
    form: Form
    partial: bool
    single: bool


def read_search(body: bytes, media: str, limits: Limits, *, bare: bool = False) -> Search:
    """The content of a body.

    Args:
        body: the body.
        media: its content type, "" if the client did not say.
        limits: the limits of the service.
        bare: it was sent to a route of ReSearch's protocol.

    Raises:
        Refused: it cannot be used; the reason names the field.
    """
    packed = not bare and _is_msgpack(body, media)
    fields = _unpack(body) if packed else _parse(body)
    if not isinstance(fields, dict):
        raise Refused(
            422,
            f'the body is not a{" map" if packed else " JSON object"}: send {{"queries": ["…"], "topk": 3}}',
        )
    name, value = _one_of(fields, _QUERIES)
    single = isinstance(value, str) and name == "query"
    queries = [value] if single else value
    if not isinstance(queries, list):
        raise Refused(422, f"{name!r} is not a list of strings")
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise Refused(422, f"{name!r} is not a list of strings: number {number} is {query!r:.40}")
    if len(queries) > limits.queries:
        raise Refused(
            422, f"{len(queries)} queries, but at most {limits.queries} are allowed: send several requests"
        )
    if any(len(query) > limits.query_chars for query in queries):
        raise Refused(422, f"a query is longer than {limits.query_chars:,} characters")
    topk = _topk(fields, limits)
    if len(queries) * topk > limits.hits:
        raise Refused(
            422,
            f"{len(queries)} queries with {topk} hits each are {len(queries) * topk:,} hits, but at most {limits.hits:,} are "
            "allowed: lower 'topk', or send several requests",
        )
    scores = _flag(fields, _SCORES)
    partial = _flag(fields, ("partial",))
    # White space only separates words, for every backend; normalising it makes more queries equal.
    queries = [" ".join(query.split()) for query in queries]
    return Search(queries, Form(topk, scores, MSGPACK if packed else JSON, bare), partial, single)


def _is_msgpack(body: bytes, media: str) -> bool:
    # GEM's client does not say that it sends msgpack. No JSON begins with the first byte of a map in msgpack.
    return "msgpack" in media.lower() or (bool(body) and (0x80 <= body[0] <= 0x8F or body[0] in (0xDE, 0xDF)))


def _parse(body: bytes) -> Any:
    if body.count(b",") > _COMMAS:
        raise Refused(422, f"the body has more than {_COMMAS:,} commas: send several requests")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"the body is not JSON: {error}") from None


def _unpack(body: bytes) -> Any:
    try:
        import msgpack
    except ModuleNotFoundError:
        raise Refused(
            415,
            'the body is msgpack, and the server has no module msgpack: pip install "searchgym[serve]", or send JSON',
        ) from None
    try:
        return msgpack.unpackb(body, max_array_len=_COMMAS, max_map_len=1000, strict_map_key=False)
    except Exception as error:  # msgpack raises many kinds
        raise Refused(422, f"the body is not msgpack: {type(error).__name__}: {error}") from None


def _one_of(fields: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The name and the value of the one field among several names; the first name and None for none."""
    given = [name for name in names if fields.get(name) is not None]
    if len(given) > 1 and any(fields[name] != fields[given[0]] for name in given):
        raise Refused(422, f"{given[0]!r} and {given[1]!r} contradict each other: send one of them")
    name = given[0] if given else names[0]
    return name, fields.get(name)


def _topk(fields: Mapping[str, Any], limits: Limits) -> int:
    name, value = _one_of(fields, _TOPK)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value.partition(".")[0])
    if value is None or value == 0:  # Search-R1's server: its default
        return limits.topk
    if not isinstance(value, int | float) or not 1 <= value <= limits.max_topk or value != int(value):
        raise Refused(422, f"{name!r} is {value!r:.40}: use a whole number from 1 to {limits.max_topk}")
    return int(value)


def _flag(fields: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    name, value = _one_of(fields, names)
    if value is None:
        return False
    if isinstance(value, str) and value.lower() in (*_YES, *_NO):
        return value.lower() in _YES
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise Refused(422, f"{name!r} is {value!r:.40}: use true or false")
