"""The retriever `web`: a search API finds addresses, a reader reads the pages behind them, and the best part of each is a hit.

| what fails | what happens |
|---|---|
| the search API: no reply, an error, a reply that is not one | the query becomes a `RetrievalError` |
| a page for good: robots.txt, status 404, not text, too large, not public | the API's snippet is the hit's text; that is kept |
| a page for now: a timeout, status 429 or 5xx | the snippet, for this time only |
| all pages of a query for now | the query becomes a `RetrievalError`: it is more likely that this machine has no network |

Results are kept on disk under what they depend on, so a query has the same result again, and `offline` plays from them alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import sleep
from typing import Any, Protocol

from searchgym.errors import ConfigError, MissingExtraError, RetrievalError, UnknownIdError, strip
from searchgym.options import boolean, choice, integer, number
from searchgym.records.question import Corpus
from searchgym.records.retriever import Hit, SearchResult
from searchgym.retries import Backoff, is_transient

from ..indexing.arguments import check_k, check_queries
from ..indexing.sealed import digest
from .answers import Answers
from .apis import Found, SearchApi, open_api

try:
    from ..service.http import HttpClient, RequestFailed
    from .pages import PageReader, Pauses, Unreadable
except ModuleNotFoundError as missing:
    raise MissingExtraError("retriever 'web'", missing.name or "httpcore", "web") from missing

__all__ = ["WebAccess", "WebOptions", "WebRetriever", "open_web"]

_FORMAT = 1
_BACKOFF = Backoff(first=0.5, longest=20.0)
_MAX_REPLY = 2**24  # bytes of a reply of the API
_PROBE = "encyclopedia"
_WORD = re.compile(r"\w+")


class WebAccess(Protocol):
    """What the retriever needs of the web: a search and a reader. `HttpAccess` is the one that uses the network."""

    def search(self, query: str, k: int) -> list[Found]:
        """At most k results, the best first; raises `RetrievalError`."""

    def read(self, url: str) -> tuple[str, str]:
        """Title and text of a page; raises `Unreadable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions:
    """The options of `open_web`, checked; see there.

    Raises:
        ConfigError: an option has a value that cannot be used.
    """

    api: str | Mapping[str, Any]
    url: str | None = None
    api_key_env: str | None = None
    read: str = "pages"
    words: int = 200
    timeout: float = 20.0
    retries: int = 2
    requests_per_second: float = 1.0
    pause: float = 1.0
    max_bytes: int = 2_000_000
    concurrency: int = 8
    user_agent: str = "searchgym/0.1 (research; search agents)"
    allow_private: bool = False
    cache: bool | str = True
    offline: bool = False

    def __post_init__(self) -> None:
        choice("read", self.read, ("pages", "snippets"))
        integer("words", self.words, 10, 10_000)
        number("timeout", self.timeout, high=3600, above=0)
        integer("retries", self.retries, 0, 100)
        number("requests_per_second", self.requests_per_second, high=1000, above=0)
        number("pause", self.pause, 0, 3600)
        integer("max_bytes", self.max_bytes, 1000, 10**9)
        integer("concurrency", self.concurrency, 1, 64)
        boolean("allow_private", self.allow_private)
        boolean("offline", self.offline)
        if not isinstance(self.user_agent, str) or not re.fullmatch(r"[\x20-\x7e]{1,200}", self.user_agent):
            raise ConfigError(
                f"user_agent is {self.user_agent!r}: give at most 200 printable ASCII characters"
            )
        if not isinstance(self.cache, bool | str) or self.cache == "":
            raise ConfigError(f"cache is {self.cache!r}: give true, false or a directory")
        if self.offline and self.cache is False:
            raise ConfigError("offline plays from the kept answers: do not set cache to false with it")

    def answers(self) -> Answers:
        """Where answers are kept."""
        directory = Path(self.cache).expanduser().absolute() if isinstance(self.cache, str) else None
        return Answers(directory, self.cache is not False)


class HttpAccess:
    """The web itself.

    Args:
        api: the search API.
        options: see `open_web`.

    Raises:
        ConfigError: the variable with the key is not set, or the API's address cannot be used.
    """

    def __init__(self, api: SearchApi, options: WebOptions) -> None:
        headers = {"user-agent": options.user_agent}
        self._key_name = options.api_key_env
        if api.key_header or options.api_key_env:
            headers[(api.key_header or "authorization").lower()] = _key(api, options)
        self._api, self._retries = api, options.retries
        self._client = HttpClient(api.url, float(options.timeout), _MAX_REPLY, headers)
        self._pauses = Pauses(1.0 / options.requests_per_second)
        self._reader = PageReader(
            float(options.timeout),
            options.max_bytes,
            float(options.pause),
            options.user_agent,
            options.allow_private,
        )

    def search(self, query: str, k: int) -> list[Found]:
        """See `WebAccess.search`."""
        for attempt in range(1, self._retries + 2):
            self._pauses.wait("search")
            path, body = self._api.request(self._client.path, query, k)
            retry_after = None
            try:
                reply = self._client.request(self._api.method, path, body)
            except RequestFailed as error:
                reason, retryable = str(error), error.retryable
            else:
                if reply.status == 200:
                    try:
                        return self._api.read(reply.body)[:k]
                    except ValueError as error:
                        raise RetrievalError(
                            f"{self._client.origin}: not an answer of the API ({error})"
                        ) from None
                reason, retryable = self._refusal(reply.status), is_transient(reply.status)
                after = reply.headers.get("retry-after", "")
                retry_after = float(after) if after.isdecimal() else None
            if not retryable or attempt > self._retries:
                break
            sleep(_BACKOFF.pause(attempt, retry_after))
        raise RetrievalError(f"{self._client.origin}: {reason}")

    def _refusal(self, status: int) -> str:
        if status in (401, 403):
            named = f"the key in {self._key_name}" if self._key_name else "a request without a key"
            return f"status {status}, it refuses {named}: set the option api_key_env to the name of a variable with a valid key"
        return f"status {status}"

    def read(self, url: str) -> tuple[str, str]:
        """See `WebAccess.read`."""
        return self._reader.read(url)


class WebRetriever:
    """Searches the web; implements `searchgym.Retriever`. Created by `open_web`.

    Its hits are not passages of the corpus, so whatever compares hits with gold passages is refused by the environment.

    Args:
        options: see `open_web`.
        access: the search and the reader; None with `offline`, which uses neither.

    Attributes:
        name: "web".
        index_hash: a digest of the options on which results depend. The web changes: equal hashes promise nothing unless the
            answers are the same kept ones.
        ids_match: False.
        unread: pages whose snippet had to do so far, for good or for now; not deterministic.
    """

    name = "web"
    ids_match = False

    def __init__(self, options: WebOptions, access: WebAccess | None) -> None:
        self._options, self._access = options, access
        self._api = open_api(options.api, options.url)
        self._answers = options.answers()
        self._identity = [
            _FORMAT,
            strip(asdict(self._api)),
        ]  # credentials in its address change no result and are not kept
        facts = {"format": _FORMAT, "backend": self.name, "api": self._identity}
        self.index_hash = digest({**facts, "read": options.read, "words": options.words})
        self.unread = 0

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """Search a batch; see `searchgym.Retriever.search`. Blank queries have the empty result and are not sent."""
        topk = check_k(k)
        distinct = list(dict.fromkeys(query for query in check_queries(queries) if query.strip()))
        with ThreadPoolExecutor(self._options.concurrency) as pool:
            found = dict(
                zip(distinct, pool.map(lambda query: self._search(query, topk), distinct), strict=True)
            )
        return [list(r) if isinstance(r := found.get(query, []), list) else r for query in queries]

    def check(self) -> None:
        """Make one search, so that a missing network or a refused key shows before work starts; kept answers do, too.

        Raises:
            ConfigError: it failed.
        """
        try:
            self._find(_PROBE, 1)
        except RetrievalError as error:
            raise ConfigError(f"retriever 'web' cannot search: {error}") from None

    def _search(self, query: str, k: int) -> SearchResult:
        """The result of one query; a failure is returned, never raised."""
        try:
            found = self._find(query, k)
            if self._options.read == "snippets":
                texts = [(one.title, one.snippet) for one in found]
            else:
                texts = self._read_all(query, found)
        except RetrievalError as error:
            return error
        return [
            Hit(one.url, title, text, 1.0 / rank)
            for rank, (one, (title, text)) in enumerate(zip(found, texts, strict=True), 1)
            if text.strip()
        ]

    def _find(self, query: str, k: int) -> list[Found]:
        key = ["search", *self._identity, query, k]
        kept = self._answers.get(key)
        if not _are_found(kept):
            results = self._online(f"the search for {query!r:.80}").search(query, k)
            kept = [list(one) for one in results]
            self._keep(key, kept)
        return [Found(*one) for one in kept]

    def _read_all(self, query: str, found: Sequence[Found]) -> list[tuple[str, str]]:
        """Title and best part of each page, or the snippet of one that cannot be read."""
        texts, lost = [], 0
        for one in found:
            try:
                title, text = self._read(one.url)
                texts.append((title or one.title, best_part(text, query, self._options.words)))
            except Unreadable as error:
                self.unread += 1
                lost += error.transient
                texts.append((one.title, one.snippet))
        if found and lost == len(found):
            raise RetrievalError(
                f"none of {lost} pages for {query!r:.80} could be read, {found[0].url} among them"
            )
        return texts

    def _read(self, url: str) -> tuple[str, str]:
        key, options = ["page", _FORMAT, url], self._options
        by = [options.max_bytes, options.user_agent, options.allow_private]  # what a refusal depends on
        kept = self._answers.get(key)
        if isinstance(kept, dict) and "unreadable" in kept and (options.offline or kept.get("by") == by):
            raise Unreadable(str(kept["unreadable"]), False)
        if not _are_texts(kept, 2):
            try:
                kept = list(self._online(f"the page {url}").read(url))
            except Unreadable as error:
                if not error.transient:
                    self._keep(key, {"unreadable": str(error), "by": by})
                raise
            self._keep(key, kept)
        title, text = kept
        return title, text

    def _online(self, what: str) -> WebAccess:
        if self._access is None:
            raise RetrievalError(
                f"{what} is not among the answers in {self._answers.directory}, and the option offline is set: leave it out"
            )
        return self._access

    def _keep(self, key: Any, value: Any) -> None:
        try:
            self._answers.put(key, value)
        except OSError as error:
            reason = error.strerror or error
            raise RetrievalError(
                f"answers cannot be kept in {self._answers.directory} ({reason}): choose another cache, or set it to false"
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._options,))


def _are_texts(kept: Any, count: int) -> bool:
    """Whether a kept value has the form that was written: a list of so many texts."""
    return isinstance(kept, list) and len(kept) == count and all(isinstance(part, str) for part in kept)


def _are_found(kept: Any) -> bool:
    return isinstance(kept, list) and all(_are_texts(one, len(Found._fields)) for one in kept)


def best_part(text: str, query: str, words: int) -> str:
    """The run of at most `words` words of a text that has most different words of the query, the first of equals.

    Args:
        text: of a page.
        query: what was searched for.
        words: words of the part; a text that has no more is returned as it is.
    """
    pieces = text.split()
    if len(pieces) <= words:
        return text
    wanted = set(_WORD.findall(query.lower()))
    step = max(1, words // 2)
    starts = range(0, max(1, len(pieces) - words + step), step)
    parts = [" ".join(pieces[start : start + words]) for start in starts]
    return max(parts, key=lambda part: len(wanted & set(_WORD.findall(part.lower()))))


def open_web(
    corpus: Corpus, *, api: str | Mapping[str, Any], url: str | None = None, **options: Any
) -> WebRetriever:
    """The web as a retriever; the entry point `web` of `searchgym.retrievers`.

    Args:
        corpus: the corpus of the questions; its passages are not searched.
        api: "searxng", "serper", "brave", or the fields of a `SearchApi`.
        url: address of the API, where it has none of its own, e.g. that of a SearXNG instance.
        **options: the other fields of `WebOptions`:
            api_key_env: name of the environment variable that holds the key.
            read: "pages" (the best part of each page) or "snippets" (what the API quotes).
            words: words of a part of a page.
            timeout: seconds for one request.
            retries: further attempts of a search.
            requests_per_second: searches per second at most.
            pause: seconds between two requests to one host.
            max_bytes: of a page.
            concurrency: queries of a batch at the same time.
            user_agent: what the reader calls itself.
            allow_private: whether pages at addresses that are not public may be read.
            cache: whether answers are kept, or the directory where.
            offline: whether only kept answers are used.

    Raises:
        ConfigError: an option cannot be used, the key is missing or refused, or the API does not answer.
        MissingExtraError: the extra `web` is not installed.
    """
    known = [field.name for field in fields(WebOptions)]
    for name in options:
        if name not in known:
            raise UnknownIdError("option of retriever 'web':", name, known)
    checked = WebOptions(api=api, url=url, **options)
    retriever = _reopen(checked)
    if not checked.offline:
        retriever.check()
    return retriever


def _reopen(options: WebOptions) -> WebRetriever:
    access = None if options.offline else HttpAccess(open_api(options.api, options.url), options)
    return WebRetriever(options, access)


def _key(api: SearchApi, options: WebOptions) -> str:
    """The key as the header carries it."""
    if not options.api_key_env:
        raise ConfigError(
            f"api {options.api!r:.60} needs a key: set the option api_key_env to the name of the environment variable that holds it"
        )
    key = os.environ.get(options.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {options.api_key_env} is not set: put the key of the search API into it"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigError(
            f"the key in {options.api_key_env} has characters that no header can carry: copy it again"
        )
    return key if api.key_header else f"Bearer {key}"
