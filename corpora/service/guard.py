"""Keeps clients from taking the memory and the connections of the service, whatever they do.

HTTP servers wait for ever: for the rest of a request's head, for a client that reads its answer, for the next request on
a connection. Here each connection has a deadline for what it is doing, and all requests share one amount of memory. If
that is full, those whose clients have stalled longest give up theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .batching import Overloaded
from .limits import Limits

__all__ = ["Guard", "Holding", "guarded"]

_HEAD_BYTES = 2**16
_SMALL = (
    2**16
)  # bytes that every request may hold, however full the memory is: at most 64 MB over 1,024 connections
_STALLED = 1.0  # seconds without progress after which a connection may be closed to free memory
_KEY = "searchgym.connection"


class Holding:
    """The memory of one request.

    Args:
        guard: counts it.
        connection: of its client; None under another server than ours.
    """

    def __init__(self, guard: Guard, connection: Any) -> None:
        self._guard, self.connection = guard, connection
        self.bytes = 0

    @property
    def wanted(self) -> bool:
        """Whether the client is still there."""
        return self.connection is None or not self.connection.gone

    def take(self, size: int) -> None:
        """Hold more bytes.

        Raises:
            Overloaded: there is no memory for them.
        """
        self._guard.take(self, size)

    def release(self) -> None:
        """Hold nothing any more."""
        self._guard.held -= self.bytes
        self.bytes = 0


class Guard:
    """The memory and the connections of one process of the service.

    Args:
        limits: the limits of the service.

    Attributes:
        held: bytes of all requests.
        connections: the open ones that have sent a request, those that sent one longest ago first; and what the last
            request of each holds.
        new: those that have not sent one yet.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0
        self.connections: dict[Any, Holding] = {}
        self.new: dict[Any, None] = {}

    def hold(self, scope: MutableMapping[str, Any]) -> Holding:
        """The holding of a new request."""
        connection = scope.get(_KEY)
        holding = Holding(self, connection)
        if connection is not None and not connection.gone:
            self.closed(connection)
            self.connections[connection] = holding
        return holding

    def take(self, holding: Holding, size: int) -> None:
        """See `Holding.take`."""
        if holding.bytes + size > _SMALL and self.held + size > self._limits.request_bytes:
            self._free(size, holding)
            if self.held + size > self._limits.request_bytes:
                raise Overloaded(1, "the memory for requests")
        holding.bytes += size
        self.held += size

    def opened(self, connection: Any) -> None:
        """A connection was opened: close another one if there are too many, one that has not sent a request if possible."""
        self.new[connection] = None
        if len(self.new) + len(self.connections) > self._limits.connections:
            waiting = (one for one in self.new if one is not connection)
            idle = (one for one in self.connections if not one.busy)
            (next(waiting, None) or next(idle, None) or connection).abort()

    def closed(self, connection: Any) -> None:
        """A connection is closed."""
        self.new.pop(connection, None)
        self.connections.pop(connection, None)

    def _free(self, size: int, newcomer: Holding) -> None:
        """Close connections that have stalled, those that hold most first, until there is room."""
        now = time.monotonic()
        stalled = [
            holding
            for connection, holding in self.connections.items()
            if holding is not newcomer and holding.bytes
            if connection.waits_for_client and now - connection.progress > _STALLED
        ]
        for holding in sorted(stalled, key=lambda one: -one.bytes):
            if self.held + size <= self._limits.request_bytes:
                return
            holding.connection.abort()
            holding.release()


def guarded(guard: Guard, limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol with deadlines; for `uvicorn.Config(http=…)`.

    Args:
        guard: of the application that is served.
        limits: the limits of the service.
    """
    base: Any = HttpToolsProtocol

    class Guarded(base):  # type: ignore[misc]
        """One connection.

        Attributes:
            progress: when the client last sent or took something.
            gone: whether the connection was closed.
        """

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.progress, self.gone = time.monotonic(), False
            self._patience = limits.client_seconds
            self._head = 0  # bytes received of a request's head
            self._in_body = False
            self._deadline: asyncio.TimerHandle | None = None
            self.app: Any = _with_connection(self.config.loaded_app, self)
            guard.opened(self)
            self._wait()

        @property
        def busy(self) -> bool:
            """Whether a request is being received, searched or answered."""
            return self._in_body or (self.cycle is not None and not self.cycle.response_complete)

        @property
        def waits_for_client(self) -> bool:
            """Whether the client has to read or to send before anything can continue."""
            return bool(self.flow.write_paused or self._in_body)

        def data_received(self, data: bytes) -> None:
            self.progress = time.monotonic()
            if not self._in_body:
                self._head += len(data)
            if self._deadline is None and not self.busy:  # the first bytes of the next request
                self._wait()
            super().data_received(data)
            if self._head > _HEAD_BYTES and not self._in_body and not self.transport.is_closing():
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                self.transport.close()

        def on_headers_complete(self) -> None:
            self._head, self._in_body = 0, True
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_body = False
            if not self.flow.write_paused:
                self._rest()
            super().on_message_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            self.progress = time.monotonic()
            super().resume_writing()
            if not self._in_body:
                self._rest()

        def timeout_keep_alive_handler(self) -> None:
            self.abort()  # closing would wait for the client to read what is left

        def shutdown(self) -> None:
            super().shutdown()
            self._patience = min(self._patience, 0.5 * (self.config.timeout_graceful_shutdown or 1))
            if self.waits_for_client:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def abort(self) -> None:
            """Close the connection without waiting for the client."""
            self._end()
            self.transport.abort()

        def _end(self) -> None:
            self.gone = True
            self._rest()
            guard.closed(self)

        def _wait(self) -> None:
            """Close the connection unless the client does its part in time."""
            self._rest()
            self._deadline = self.loop.call_later(self._patience, self.abort)

        def _rest(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Guarded


def _with_connection(app: Any, connection: Any) -> Callable[..., Awaitable[None]]:
    async def run(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        scope[_KEY] = connection
        await app(scope, receive, send)

    return run
