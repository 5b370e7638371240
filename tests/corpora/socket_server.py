"""A real TCP server whose answers are written byte by byte, so that it can misbehave in every way."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Reply = Callable[[socket.socket, dict[str, Any]], None]


def http(status: int = 200, body: bytes | object = b"", length: int | None = None, **headers: str) -> bytes:
    """An HTTP response; a body that is not bytes is sent as JSON; `length` may lie."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data) if length is None else length}"]
    lines += ["Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class SocketServer:
    """Answers each request with the next of `replies`, the last one again and again.

    Attributes:
        replies: functions of (connection, request), or bytes to send. A connection is closed after its reply.
        requests: the JSON bodies received, in order; an empty dict for a GET.
        paths: what was asked for, e.g. "GET /healthz".
        heads: the first line and the headers of each request.
        sizes: bytes of the body of each request.
    """

    def __init__(self, *replies: Reply | bytes, health: bytes = http(404)) -> None:
        self.replies = list(replies)
        self.health = health
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.heads: list[str] = []
        self.sizes: list[int] = []
        self.stopping = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if self.stopping.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                head, body = self._receive(connection)
                self.heads.append(head)
                self.sizes.append(len(body))
                self.paths.append(head.split(" HTTP")[0])
                if head.startswith("GET /healthz"):
                    connection.sendall(self.health)
                    return
                request = json.loads(body) if body else {}
                self.requests.append(request)
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if callable(reply):
                    reply(connection, request)
                else:
                    connection.sendall(reply)
            except OSError:
                pass  # the client went away

    @staticmethod
    def _receive(connection: socket.socket) -> tuple[str, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0].split(b":")[1]):
            body += connection.recv(65536)
        return head.decode(), body

    def close(self) -> None:
        self.stopping.set()
        with socket.socket() as last:  # wakes up accept()
            last.connect_ex(self._socket.getsockname())
        self._socket.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def serving(*replies: Reply | bytes, health: bytes = http(404)) -> Iterator[SocketServer]:
    """A `SocketServer` for the length of a block."""
    server = SocketServer(*replies, health=health)
    try:
        yield server
    finally:
        server.close()
