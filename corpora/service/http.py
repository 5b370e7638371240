"""Requests to one HTTP server, each within one deadline that covers everything from connecting to the last byte.

The timeouts of HTTP libraries bound every wait alone: a server that sends a byte now and then, be it of its headers,
is waited for without end. Here httpcore is given the point in time at which an exchange has to be over in place of a
timeout, and whoever waits on a socket waits until then.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore

from searchgym.errors import ConfigError

__all__ = ["Exchange", "ExchangeFailed", "Reply"]

_CONNECTIONS = 256  # at once; more threads wait for one
_KEPT = (64, 60.0)  # idle connections at most, and seconds that one is kept: less than our server keeps it
_PIECE = 2**16  # bytes written at once


class ExchangeFailed(Exception):
    """No complete answer came; says why.

    Attributes:
        again: whether another attempt may help.
    """

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """Talks to one server over connections that are kept. Redirects are not followed, proxies not used.

    Threads may share one; a forked process opens connections of its own.

    Args:
        url: of the server; a user and a password in it are sent as basic authentication.
        timeout: seconds for one exchange.
        largest: bytes of an answer at most.

    Attributes:
        origin: scheme, host and port, without user and password.
        path: path and query of the url.

    Raises:
        ConfigError: the url cannot be used.
    """

    def __init__(self, url: str, timeout: float, largest: int) -> None:
        try:
            parts = urlsplit(url.encode("ascii").decode())
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
            host.encode("idna")
        except (ValueError, AttributeError) as error:  # ValueError: those of urllib, and of Unicode
            raise ConfigError(
                f"url={url!r} is not a url ({error}): write it like http://127.0.0.1:8000"
            ) from None
        if scheme not in ("http", "https") or not host:
            raise ConfigError(f"url={url!r} names no server: write it like http://127.0.0.1:8000")
        named = parts.netloc.rpartition("@")[2]
        self.origin = f"{scheme}://{named}"
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._target = (scheme, host, port)
        self._headers = {"host": named, "accept": "application/json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._timeout = timeout
        self._largest = largest
        self._connect()

    def request(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """One exchange.

        Raises:
            ExchangeFailed: no complete answer came within the time, or it is too large.
        """
        if self._process != os.getpid():  # a forked child must not talk on its parent's connections
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
                for piece in response.iter_stream():
                    received += piece
                    if len(received) > self._largest:
                        raise ExchangeFailed(
                            f"the answer is larger than {self._largest:,} bytes", again=False
                        )
        except httpcore.TimeoutException:
            raise ExchangeFailed(f"no complete answer within {self._timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise ExchangeFailed(str(error) or type(error).__name__) from None
        return Reply(
            response.status,
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers},
            bytes(received),
        )

    def _connect(self) -> None:
        self._process = os.getpid()
        # Kept in the child although unused: closing what it inherited is the parent's business.
        self._inherited = getattr(self, "_pool", None)
        kept, seconds = _KEPT
        self._pool = httpcore.ConnectionPool(
            max_connections=_CONNECTIONS,
            max_keepalive_connections=kept,
            keepalive_expiry=seconds,
            network_backend=_Backend(),
        )


def _left(deadline: float | None) -> float:
    """Seconds until a deadline."""
    assert deadline is not None
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


class _Backend(httpcore.NetworkBackend):
    """Opens connections on which every `timeout` is a deadline."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    """A connection on which every `timeout` is a deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[start : start + _PIECE], _left(timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()
