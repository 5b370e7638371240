"""Requests to one HTTP server, each with one deadline that covers everything from connecting to the last byte.

The timeouts of HTTP libraries bound each wait on its own: a server that sends one byte now and then can keep a client
waiting forever. Here httpcore receives, in place of a timeout, the time at which the whole exchange has to end, and
every wait on a socket lasts until then at most.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore

from searchgym.errors import ConfigError

__all__ = ["HttpClient", "Reply", "RequestFailed"]

_CONNECTIONS = 256  # at the same time; further threads wait for a free one
_IDLE = (64, 60.0)  # idle connections at most, and seconds that each is kept: fewer than our server keeps it
_CHUNK = 2**16  # bytes written at a time

Resolve = Callable[[str, int], str]


class RequestFailed(Exception):
    """No complete reply arrived. The message says why.

    Attributes:
        retryable: whether another attempt may succeed.
    """

    def __init__(self, reason: str, retryable: bool = True) -> None:
        super().__init__(reason)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Sends requests to one server over persistent connections. It follows no redirects and uses no proxies.

    Threads may share a client; a forked process opens its own connections.

    Args:
        url: the server's address; a user name and password in it are sent as basic authentication.
        timeout: seconds for one request, from connecting to the last byte of the reply.
        max_reply: bytes of a reply at most.
        headers: further headers of every request; they replace those of the same name, in lower case.
        resolve: (host, port) -> the address to connect to; may raise `RequestFailed`. Default: the system decides.

    Attributes:
        origin: scheme, host and port, without user name and password.
        path: path and query of the URL.

    Raises:
        ConfigError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        max_reply: int,
        headers: Mapping[str, str] | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        try:
            parts = urlsplit(url.encode("ascii").decode())
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
            host.encode("idna")
        except (ValueError, AttributeError) as error:  # ValueError: those of urllib, and of Unicode
            raise ConfigError(
                f"url is {url!r}, which is not a URL ({error}): write it like http://127.0.0.1:8000"
            ) from None
        if scheme not in ("http", "https") or not host:
            raise ConfigError(
                f"url is {url!r}, which does not name a server: write it like http://127.0.0.1:8000"
            )
        named = parts.netloc.rpartition("@")[2]
        self.origin = f"{scheme}://{named}"
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._target = (scheme, host, port)
        self._headers = {"host": named, "accept": "application/json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._headers |= headers or {}
        self._resolve = resolve
        self._timeout = timeout
        self._max_reply = max_reply
        self._connect()

    def request(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """One request.

        Args:
            method: "GET" or "POST".
            path: path and query.
            body: JSON, for POST.

        Raises:
            RequestFailed: no complete reply arrived in time, or it is too large.
        """
        if self._process != os.getpid():  # a forked child must not use its parent's connections
            self._connect()
        deadline = time.monotonic() + self._timeout
        scheme, host, port = self._target
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=path)
        headers = self._headers if body is None else {**self._headers, "content-type": "application/json"}
        waits = {"connect": deadline, "read": deadline, "write": deadline, "pool": self._timeout}
        received = bytearray()
        try:
            with self._pool.stream(
                method, url, headers=list(headers.items()), content=body, extensions={"timeout": waits}
            ) as response:
                for chunk in response.iter_stream():
                    received += chunk
                    if len(received) > self._max_reply:
                        raise RequestFailed(
                            f"the reply is larger than {self._max_reply:,} bytes", retryable=False
                        )
        except httpcore.TimeoutException:
            raise RequestFailed(f"no complete reply within {self._timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise RequestFailed(str(error) or type(error).__name__) from None
        return Reply(
            response.status,
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers},
            bytes(received),
        )

    def _connect(self) -> None:
        self._process = os.getpid()
        # A child keeps the inherited pool unused: closing it would close the parent's connections.
        self._inherited = getattr(self, "_pool", None)
        idle, seconds = _IDLE
        self._pool = httpcore.ConnectionPool(
            max_connections=_CONNECTIONS,
            max_keepalive_connections=idle,
            keepalive_expiry=seconds,
            network_backend=_Backend(self._resolve),
        )

    def close(self) -> None:
        """Close the connections of this process."""
        self._pool.close()


def _left(deadline: float | None) -> float:
    """Seconds until a deadline."""
    assert deadline is not None
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


class _Backend(httpcore.NetworkBackend):
    """Opens connections on which every `timeout` is a deadline."""

    def __init__(self, resolve: Resolve | None) -> None:
        self._inner = httpcore.SyncBackend()
        self._resolve = resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if self._resolve is not None:
            host = self._resolve(host, port)
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """A connection on which every `timeout` is a deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _CHUNK):
            self._inner.write(buffer[start : start + _CHUNK], _left(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()
