"""A Hugging Face hub on this machine: the answers the real one gives to its client, and its failures, on demand.

Modelled on the hub's API: `/api/datasets/ID/revision/REV`, `/api/datasets/ID/tree/COMMIT` in pages joined by Link
headers, and `/datasets/ID/resolve/COMMIT/PATH`, which serves small files itself and sends for large ones to
storage on another host (here: another port), with ranges. Errors carry `X-Error-Code`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # entries of a tree in one answer; the real hub gives 1,000


@dataclass
class Repo:
    """A data set: its files, their commit, and what it demands."""

    files: dict[str, bytes]
    lfs: set[str] = field(default_factory=set)
    gated: bool = False
    commit: str = ""

    def __post_init__(self) -> None:
        self.touch()

    def touch(self) -> None:
        """Commit what the files are now."""
        state = hashlib.sha1(usedforsecurity=False)
        for path, data in sorted(self.files.items()):
            state.update(path.encode() + data)
        self.commit = state.hexdigest()


@dataclass
class Request:
    """One request that was answered."""

    method: str
    path: str
    headers: dict[str, str]


class FakeHub:
    """Start with `with FakeHub() as hub`; `hub.url` is its endpoint.

    Attributes:
        repos: the data sets by id.
        requests: what was asked, in order; `storage_requests`: what its storage was asked.
        faults: by path of a file: called with (handler, data, start) instead of sending the data; or, under the
            path of an API call, a status to answer with.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.storage_requests: list[Request] = []
        self.faults: dict[str, Callable[[BaseHTTPRequestHandler, bytes, int], None] | int] = {}
        self.stored: dict[str, tuple[str, bytes]] = {}
        self._servers: list[ThreadingHTTPServer] = []

    def __enter__(self) -> FakeHub:
        hub = self

        class Front(_Handler):
            requests = hub.requests

            def answer(self, send_body: bool) -> None:
                hub._answer(self, send_body)

        class Storage(_Handler):
            requests = hub.storage_requests

            def answer(self, send_body: bool) -> None:
                path, data = hub.stored[urlsplit(self.path).path]
                hub._send(self, path, data, {}, send_body)

        for handler in (Front, Storage):
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)
        self.url, self.storage_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _answer(self, handler: _Handler, send_body: bool) -> None:
        url = urlsplit(handler.path)
        parts = unquote(url.path).strip("/").split("/")
        api = parts[:2] == ["api", "datasets"]
        id = "/".join(parts[2:4] if api else parts[1:3])
        fault = self.faults.get(url.path)
        if isinstance(fault, int):
            return handler.fail(fault, "", "Internal error")
        repo = self.repos.get(id)
        if repo is None:  # the real hub does not tell the public whether a private data set exists
            known = "Authorization" in handler.headers
            return handler.fail(404 if known else 401, "RepoNotFound", "Repository not found")
        if repo.gated and handler.headers.get("Authorization") != "Bearer let-me-in" and not api:
            return handler.fail(401, "GatedRepo", f"Access to dataset {id} is restricted.")
        kind, revision = (parts[4], parts[5]) if api else (parts[3], parts[4])
        if revision not in ("main", repo.commit):
            return handler.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if kind == "revision":
            return handler.send_json(_info(id, repo))
        if kind == "tree":
            return self._send_tree(handler, repo, parse_qs(url.query), url.path)
        path = "/".join(parts[5:])
        if path not in repo.files:
            return handler.fail(404, "EntryNotFound", "Entry not found")
        data = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{git_name(data)}"'}
        if path not in repo.lfs:
            return self._send(handler, path, data, headers, send_body, compress=True)
        sha256 = hashlib.sha256(data).hexdigest()
        self.stored[f"/{sha256}"] = (path, data)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256}"'}
        handler.reply(302, headers | {"Location": f"{self.storage_url}/{sha256}?signature=x"})
        return None

    def _send_tree(self, handler: _Handler, repo: Repo, query: dict[str, list[str]], path: str) -> None:
        entries = []
        for name, data in sorted(repo.files.items()):
            entry = {"type": "file", "oid": git_name(data), "size": len(data), "path": name}
            if name in repo.lfs:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        for folder in sorted({name.rpartition("/")[0] for name in repo.files} - {""}):
            entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": folder})
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            next_page = f"{self.url}{path}?recursive=True&expand=False&cursor={start + PAGE}"
            headers["Link"] = f'<{next_page}>; rel="next"'
        handler.send_json(entries[start : start + PAGE], headers)

    def _send(
        self,
        handler: _Handler,
        path: str,
        data: bytes,
        headers: dict[str, str],
        send_body: bool,
        compress: bool = False,
    ) -> None:
        start, status = 0, 200
        asked = handler.headers.get("Range", "")
        if asked.startswith("bytes="):
            start, status = int(asked[6:].split("-")[0]), 206
            if start >= len(data):
                return handler.reply(416, {"Content-Range": f"bytes */{len(data)}"})
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        fault = self.faults.get(path)
        if send_body and callable(fault):
            return fault(handler, data, start)
        if send_body and isinstance(fault, int):
            return handler.fail(fault, "", "Internal error")
        body = data[start:]
        if compress and "gzip" in handler.headers.get("Accept-Encoding", ""):
            body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
        handler.reply(status, headers | {"Accept-Ranges": "bytes"}, body if send_body else b"")
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests: list[Request]

    def answer(self, send_body: bool) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.note("GET")
        self.answer(True)

    def do_HEAD(self) -> None:
        self.note("HEAD")
        self.answer(False)

    def note(self, method: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.requests.append(Request(method, self.path, headers))

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.reply(200, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)

    def fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply(status, headers, json.dumps({"error": message}).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def git_name(data: bytes) -> str:
    """The name git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _info(id: str, repo: Repo) -> dict[str, Any]:
    return {
        "_id": "621ffdd236468d709f184284",
        "id": id,
        "author": id.partition("/")[0],
        "sha": repo.commit,
        "lastModified": "2025-01-15T09:12:33.000Z",
        "createdAt": "2024-02-01T00:00:00.000Z",
        "private": False,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 12,
        "likes": 3,
        "tags": ["region:us"],
        "siblings": [{"rfilename": path} for path in sorted(repo.files)],
    }


# -- faults ---------------------------------------------------------------------------------------------------


def stall_after(count: int) -> Callable[[BaseHTTPRequestHandler, bytes, int], None]:
    """Send `count` bytes and then nothing, with the connection open."""

    def send(handler: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
        _announce(handler, data, start)
        handler.wfile.write(data[start : start + count])
        handler.wfile.flush()
        time.sleep(60)

    return send


def close_after(count: int) -> Callable[[BaseHTTPRequestHandler, bytes, int], None]:
    """Announce everything, send `count` bytes of it and close."""

    def send(handler: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
        _announce(handler, data, start)
        handler.wfile.write(data[start : start + count])
        handler.wfile.flush()
        handler.close_connection = True

    return send


def only(count: int) -> Callable[[BaseHTTPRequestHandler, bytes, int], None]:
    """Serve a file that ends after `count` bytes as if it were whole."""

    def send(handler: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
        if start >= count:
            handler.send_response(416)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        _announce(handler, data[:count], start)
        handler.wfile.write(data[start:count])

    return send


def corrupt(handler: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
    """Send other bytes of the right number."""
    _announce(handler, data, start)
    handler.wfile.write(bytes(byte ^ 1 for byte in data[start:]))


def ignore_range(handler: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
    """Answer a range with everything, as some proxies do."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def _announce(handler: BaseHTTPRequestHandler, data: bytes, start: int) -> None:
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
