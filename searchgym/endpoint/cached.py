"""One endpoint as judges and agents use it: the client of this process, the meter, and the replies kept on disk."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ..errors import ConfigError
from . import event_loop
from .client import Endpoint, Messages, Reply, worst_case_usage
from .metering import Meter
from .options import EndpointOptions
from .store import Saver, Store, open_store

__all__ = ["CachedEndpoint", "digest"]


@dataclass(frozen=True, slots=True)
class _Session:
    """The connections of one process, on its own event loop."""

    client: Endpoint
    saver: Saver | None


class CachedEndpoint:
    """One model behind one address, with its meter and its stored replies.

    Usable from several threads and after a fork: each process opens its own connections. They are closed when the
    object is collected.

    Args:
        options: where to send requests, how many, at what price.
        namespace: the directory of stored replies under `SEARCHGYM_HOME`.
        request: further fields of every request, next to those of `options`.
        meter: the counters; None for new ones.

    Attributes:
        options: as given.
        request: all fields of a request but the model and the messages.
        meter: the counters.
        identity: address, model and request: what a reply depends on besides the messages, as JSON values.
    """

    def __init__(
        self,
        options: EndpointOptions,
        namespace: str,
        request: Mapping[str, Any] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.options = options
        self.request: dict[str, Any] = {**options.request, **(request or {})}
        self.meter = meter or options.meter()
        self.identity = [options.address, options.model, self.request]
        self._namespace = namespace
        self._directory = options.directory(namespace)
        self._sessions: dict[int, _Session] = {}  # by process: a child has its own event loop and sockets
        weakref.finalize(self, _close, self._sessions).atexit = False

    def with_request(self, request: Mapping[str, Any]) -> CachedEndpoint:
        """The same endpoint and counters, with further fields in every request."""
        return CachedEndpoint(self.options, self._namespace, request, self.meter)

    @property
    def in_flight(self) -> int:
        """Requests of this process under way, those that wait for a rate limit included."""
        session = self._sessions.get(os.getpid())
        return session.client.in_flight if session is not None else 0

    @property
    def store(self) -> Store | None:
        """Where replies are kept; None for nowhere."""
        return open_store(self._directory) if self._directory is not None else None

    @property
    def store_problem(self) -> str:
        """Why replies are not kept, though they should be: "DIRECTORY cannot be used: REASON"; else ""."""
        store = self.store
        if store is None or store.problem is None:
            return ""
        return f"{str(self._directory)!r} cannot be used: {store.problem}"

    def check_store(self) -> None:
        """Make sure that a directory the user named can be used.

        Raises:
            ConfigError: it cannot.
        """
        if isinstance(self.options.cache, str) and self.store_problem:
            raise ConfigError(f"{self.options.owner}: cache {self.store_problem}")

    def budget_error(self, messages: Messages) -> str:
        """Why a request would not be sent, as the budget is spent; "" if it would."""
        most = worst_case_usage(messages, self.request, self.options.longest_reply)
        return self.meter.last_refusal or self.meter.budget_error(most)

    def kept(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The stored replies of some keys; None where there is none."""
        store = self.store
        return [None] * len(keys) if store is None else store.get(keys)

    def connect(self) -> None:
        """Read the key. To be called on the background event loop.

        Raises:
            ConfigError: the variable with the key is not set.
        """
        self._session()

    async def ask(self, messages: Messages, retries: int | None = None) -> Reply:
        """One request; see `Endpoint.ask`. To be called on the background event loop."""
        return await self._session().client.ask(messages, retries)

    def keep(self, key: bytes, value: Any) -> asyncio.Task[None] | None:
        """Store a JSON value under a 32-byte key. To be called on the background event loop.

        Returns:
            A task that is done when the disk has it; None where nothing is kept.
        """
        saver = self._session().saver
        return None if saver is None else saver.put(key, json.dumps(value).encode())

    def close(self) -> None:
        """Close the connections of this process; the next request opens new ones."""
        _close(self._sessions)

    def _session(self) -> _Session:
        session = self._sessions.get(os.getpid())
        if session is None:
            self.meter.forget_reservations()
            client = Endpoint(self.options, self.request, self.meter)
            store = self.store
            session = self._sessions[os.getpid()] = _Session(client, Saver(store) if store else None)
        return session


def digest(value: Any) -> bytes:
    """32 bytes that name a JSON value."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=32).digest()


def _close(sessions: dict[int, _Session]) -> None:
    session = sessions.pop(os.getpid(), None)
    if session is not None:
        event_loop.run_later(session.client.close())
