"""Search APIs: how a query is sent, and where its results are in the reply. One row per API, and one that you describe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import choice

__all__ = ["APIS", "Found", "SearchApi", "open_api"]


class Found(NamedTuple):
    """One result of a search.

    Attributes:
        url: of the page.
        title: of the page.
        snippet: what the API quotes from it; may be empty.
    """

    url: str
    title: str
    snippet: str


@dataclass(frozen=True, slots=True)
class SearchApi:
    """One API that answers with JSON.

    Attributes:
        url: where queries are sent; "" if the option `url` must say it.
        method: "GET" (fields in the query string) or "POST" (fields in a JSON object).
        query: name of the field that holds the query.
        count: name of the field that holds the number of results; "" for APIs that decide it themselves.
        fields: further fields, as JSON values.
        key_header: the header that carries the key; "" for APIs without keys.
        results: where the list of results is, names separated by dots.
        always: name of a field that every answer has; where it is and the list is not, nothing was found. "": every answer has
            the list, and a reply without it is a failure.
        result_url: name of a result's address.
        result_title: name of a result's title.
        result_snippet: name of a result's quotation.
    """

    url: str = ""
    method: str = "GET"
    query: str = "q"
    count: str = ""
    fields: Mapping[str, Any] | None = None
    key_header: str = ""
    results: str = "results"
    always: str = ""
    result_url: str = "url"
    result_title: str = "title"
    result_snippet: str = "content"

    def request(self, path: str, query: str, k: int) -> tuple[str, bytes | None]:
        """Path and body of a request.

        Args:
            path: path and query string of the API's address.
            query: what is searched for.
            k: how many results are wanted.
        """
        values: dict[str, Any] = {self.query: query, **(self.fields or {})}
        if self.count:
            values[self.count] = k
        if self.method == "POST":
            return path, json.dumps(values, ensure_ascii=False).encode(errors="replace")
        joint = "&" if "?" in path else "?"
        return f"{path}{joint}{urlencode(values, errors='replace')}", None

    def read(self, body: bytes) -> list[Found]:
        """The results in a reply, each address once; those without an address of the web are left out.

        Raises:
            ValueError: it is not JSON, or the list is not where it should be.
        """
        try:
            value = reply = json.loads(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        for name in self.results.split("."):
            if not isinstance(value, dict):
                raise ValueError(f"no object around {name!r}")
            if name not in value and self.always and self.always in reply:
                return []
            value = value.get(name)
        if not isinstance(value, list):
            raise ValueError(f"{self.results!r} is not a list")
        found: dict[str, Found] = {}
        for one in value:
            if isinstance(one, dict):
                parts = (one.get(name) for name in (self.result_url, self.result_title, self.result_snippet))
                url, title, snippet = (
                    # A lone surrogate, which JSON can hold, is no text: neither files nor tokenizers take it.
                    part.encode(errors="replace").decode() if isinstance(part, str) else ""
                    for part in parts
                )
                if url.startswith(("http://", "https://")):
                    found.setdefault(url, Found(url, title.strip(), snippet.strip()))
        return list(found.values())


APIS: dict[str, SearchApi] = {
    "searxng": SearchApi(fields={"format": "json"}),
    "serper": SearchApi(
        "https://google.serper.dev/search",
        "POST",
        count="num",
        key_header="x-api-key",
        results="organic",
        always="searchParameters",
        result_url="link",
        result_snippet="snippet",
    ),
    "brave": SearchApi(
        "https://api.search.brave.com/res/v1/web/search",
        count="count",
        key_header="x-subscription-token",
        results="web.results",
        always="query",
        result_snippet="description",
    ),
}
"""The APIs by name. The forms are those of their documentation; no request was sent to them from here."""


def open_api(api: str | Mapping[str, Any], url: str | None) -> SearchApi:
    """The API that the options name.

    Args:
        api: a name of `APIS`, or fields of a `SearchApi`.
        url: its address, in place of its own.

    Raises:
        ConfigError: an unknown name or field, a field of another type, or no address.
    """
    if isinstance(api, Mapping):
        known = [field.name for field in fields(SearchApi)]
        for name, value in api.items():
            if name not in known:
                raise UnknownIdError("field of api", name, known)
            if not isinstance(value, Mapping if name == "fields" else str):
                kind = "an object" if name == "fields" else "a string"
                raise ConfigError(f"api field {name!r} is {value!r}: give {kind}")
        opened = SearchApi(**api)
    else:
        opened = APIS[choice("api", api, tuple(APIS))]
    choice("api field 'method'", opened.method, ("GET", "POST"))
    if url is not None:
        opened = replace(opened, url=url)
    if not isinstance(opened.url, str) or not opened.url:
        raise ConfigError(
            f"api {api!r} has no address of its own: give the option url, e.g. http://127.0.0.1:8080/search"
        )
    return opened
