"""Fetches pages: robots.txt first, one request per host and pause, redirects checked, sizes and times bounded.

Addresses that are not public (loopback, private networks, link-local and the like) are refused by default: the addresses come
from search results, which anybody can write. The check applies to the address that is connected to, so that a name which
resolves differently a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.robotparser import RobotFileParser

from searchgym.errors import ConfigError
from searchgym.lru import LRUCache
from searchgym.retries import is_transient

from ..service.http import HttpClient, Reply, RequestFailed
from .html import decode, read_html

__all__ = ["PageReader", "Pauses", "Unreadable"]

_MAX_REDIRECTS = 5
_MAX_ROBOTS = 512_000  # bytes; RFC 9309 asks for at least 500 KiB
_ROBOTS_SECONDS = 86_400.0  # RFC 9309: rules should not be kept longer than a day
_LONGEST_DELAY = 30.0  # seconds; a Crawl-delay above this is cut
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HTML = ("text/html", "application/xhtml+xml")


class Unreadable(Exception):
    """A page cannot be read. The message says why.

    Attributes:
        transient: whether another attempt may succeed.
    """

    def __init__(self, reason: str, transient: bool) -> None:
        super().__init__(reason, transient)  # all arguments, so that it can be copied
        self.transient = transient

    def __str__(self) -> str:
        return str(self.args[0])


class Pauses:
    """Keeps requests of one kind apart in time. Threads may share it.

    Args:
        seconds: between the beginnings of two requests of one kind.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}

    def wait(self, kind: str, seconds: float = 0.0) -> None:
        """Wait until a request of this kind may begin.

        Args:
            kind: e.g. a host.
            seconds: a longer pause for this kind.
        """
        pause = max(seconds, self._seconds)
        if not pause:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next.get(kind, now))
            self._next[kind] = begin + pause
        time.sleep(begin - now)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the robots.txt of a host allows.

    Attributes:
        parser: the rules; None: nothing may be fetched for now.
        until: when they have to be read again, as `time.monotonic`.
        delay: seconds between requests that they ask for.
    """

    parser: RobotFileParser | None
    until: float
    delay: float = 0.0


class PageReader:
    """Reads pages of the web.

    Args:
        timeout: seconds for one request.
        max_bytes: of a page; a larger one is not read.
        pause: seconds between two requests to one host, at least.
        user_agent: what it calls itself; the word before "/" is looked up in robots.txt.
        allow_private: whether addresses that are not public may be fetched.
    """

    def __init__(
        self, timeout: float, max_bytes: int, pause: float, user_agent: str, allow_private: bool
    ) -> None:
        self._timeout, self._max_bytes, self._agent = timeout, max_bytes, user_agent
        self._allow_private = allow_private
        self._pauses = Pauses(pause)
        self._rules: LRUCache[str, _Rules] = LRUCache(4096)

    def read(self, url: str) -> tuple[str, str]:
        """Title and text of a page.

        Args:
            url: its address.

        Raises:
            Unreadable: it cannot be read.
        """
        try:
            return self._read(url)
        except ValueError:  # of urllib, for an address in a result or a redirect
            raise Unreadable("its address, or one that it leads to, is not one of the web", False) from None

    def _read(self, url: str) -> tuple[str, str]:
        for _ in range(_MAX_REDIRECTS + 1):
            url = _in_ascii(urldefrag(url).url)
            rules = self._rules_of(url)
            if rules.parser is None:
                raise Unreadable("its robots.txt cannot be read", True)
            if not rules.parser.can_fetch(self._agent, url):
                raise Unreadable("its robots.txt forbids it", False)
            self._pauses.wait(_host(url), rules.delay)
            reply = self._fetch(url, self._max_bytes)
            location = reply.headers.get("location", "")
            if reply.status in (301, 302, 303, 307, 308) and location:
                url = _target(url, location)
                continue
            if reply.status != 200:
                raise Unreadable(f"status {reply.status}", is_transient(reply.status))
            return self._text(reply)
        raise Unreadable(f"more than {_MAX_REDIRECTS} redirects", False)

    def _text(self, reply: Reply) -> tuple[str, str]:
        kind, _, parameters = reply.headers.get("content-type", "text/html").partition(";")
        kind = kind.strip().lower()
        charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip("\"' ")
        if kind not in (*_HTML, "text/plain"):
            raise Unreadable(f"its type is {kind[:60]!r}", False)
        if reply.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            raise Unreadable("it is compressed, which was not asked for", False)
        source = decode(reply.body, charset)
        try:
            title, text = read_html(source) if kind in _HTML else ("", source)
        except ValueError as error:
            raise Unreadable(str(error), False) from None
        if not text.strip():
            raise Unreadable("it has no text", False)
        return title, text

    def _rules_of(self, url: str) -> _Rules:
        origin = _host(url)
        rules = self._rules.find(origin)
        if rules is None or rules.until < time.monotonic():
            rules = self._read_rules(urljoin(url, "/robots.txt"))
            self._rules.put(origin, rules)
        return rules

    def _read_rules(self, url: str) -> _Rules:
        """The rules at an address, as RFC 9309 says: none where there is no file, nothing allowed while the server fails."""
        parser = RobotFileParser()
        parser.modified()  # otherwise it forbids everything, as rules that were never read
        until = time.monotonic() + _ROBOTS_SECONDS
        host = _host(url)
        for _ in range(_MAX_REDIRECTS + 1):
            self._pauses.wait(host)
            try:
                reply = self._fetch(url, _MAX_ROBOTS)
            except Unreadable as error:
                if error.transient:
                    return _Rules(None, time.monotonic() + 60.0)
                raise
            if reply.status in (301, 302, 303, 307, 308) and reply.headers.get("location"):
                url = _target(url, reply.headers["location"])
                continue
            if reply.status == 429 or reply.status >= 500:
                return _Rules(None, time.monotonic() + 60.0)
            if reply.status == 200:
                try:
                    parser.parse(reply.body.decode("utf-8-sig", errors="replace").splitlines())
                except (
                    ValueError
                ):  # of RobotFileParser, e.g. for the number "²": rules that cannot be read forbid
                    return _Rules(None, until)
            break
        return _Rules(parser, until, float(min(int(parser.crawl_delay(self._agent) or 0), _LONGEST_DELAY)))

    def _fetch(self, url: str, most: int) -> Reply:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise Unreadable(f"its address begins with {parts.scheme[:20]!r}", False)
        headers = {"user-agent": self._agent, "accept": ", ".join((*_HTML, "text/plain"))}
        try:
            client = HttpClient(url, self._timeout, most, headers, self._resolve)
        except ConfigError:
            raise Unreadable("its address is not one of the web", False) from None
        try:
            return client.request("GET", client.path)
        except RequestFailed as error:
            raise Unreadable(str(error), error.retryable) from None
        finally:
            client.close()

    def _resolve(self, host: str, port: int) -> str:
        """The address of a host, if it may be fetched."""
        try:
            found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise RequestFailed(f"{host} has no address ({error})") from None
        addresses = [str(one[4][0]) for one in found]
        if not self._allow_private:
            for address in addresses:
                if not _is_public(address):
                    raise RequestFailed(f"{host} is at {address}, which is not public", retryable=False)
        return addresses[0]


def _is_public(address: str) -> bool:
    """Whether an address is one of the public internet, also where it wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return _is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast


def _target(url: str, location: str) -> str:
    """Where a redirect leads. Headers are read as Latin-1; an address in one is UTF-8."""
    return _in_ascii(urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace")))


def _in_ascii(url: str) -> str:
    """An address as requests carry it: blanks and other letters of path and query in percent signs, the host as IDNA.

    Raises:
        ValueError: it is no address.
    """
    parts = urlsplit(url)
    host = parts.netloc
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    path, query = (quote(part, safe="%/:=&?~#+!$,;'@()*[]|") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host, path, query, ""))


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
