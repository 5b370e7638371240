"""Runs the retrieval service: `searchgym index serve`, or one Python call."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError, SearchGymError, printable
from searchgym.files import temporary_directory
from searchgym.options import integer
from searchgym.records.question import Corpus
from searchgym.records.retriever import Retriever
from searchgym.specs import Spec

from ..bm25 import BM25
from ..indexing.source import Source
from .app import create_app
from .heaps import limit_heaps
from .heavy import HeavyProcess
from .limits import Limits

try:
    import uvicorn
    from prometheus_client.multiprocess import mark_process_dead

    from .guard import guarded
except ModuleNotFoundError as missing:
    raise MissingExtraError("the retrieval service", missing.name or "uvicorn", "serve") from missing

__all__ = ["Source", "local_service", "serve"]

_BACKLOG = 2048  # connections that may wait to be accepted, e.g. while workers open the index
_KEEP_ALIVE = (
    75  # seconds that an idle connection is kept; a policy may take longer than uvicorn's default of 5
)
_SWITCH = (
    0.001  # seconds for which one thread keeps Python's lock while the one that reads requests waits for it
)
# Seconds after the start at which what exists is taken from the garbage collector, which would stop all threads for 0.1 to
# 0.4 s to look through it: modules and index; then what the first searches load, e.g. numba.
_FREEZE = (0.0, 10.0, 60.0)
_CANNOT_START = 3  # exit status of a worker that would fail again if it was started again
_DEATHS = (5, 60.0)  # deaths per worker within seconds after which the service gives up


def serve(
    index: Spec,
    corpus: Spec | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    limits: Limits | None = None,
    grace: int = 30,
) -> None:
    """Serve an index until SIGINT or SIGTERM, then answer the requests in flight and return.

    Args:
        index: the directory of a built index, or the spec of a retriever, which needs the corpus.
        corpus: the spec of the corpus; None for the one recorded in the directory.
        host: address to listen on. There is no authentication: open it only to a network you trust.
        port: 0 chooses a free one; the line printed at the start names it.
        workers: worker processes, each with its own cache; they map the same index files.
        limits: the limits of the service; None for the defaults.
        grace: seconds that requests in flight have to finish when the service is stopped.

    Raises:
        ConfigError: the address cannot be used, or workers cannot start or keep dying.
        SearchGymError: the index cannot be opened.
    """
    integer("workers", workers, 1)
    limit_heaps()
    limits = limits or Limits()
    source = Source(index, corpus)
    listener = _bind(host, port)
    with listener:
        retriever, opened = source.open(
            cached=False
        )  # also with several workers: an error is reported once, and here
        listener.listen(_BACKLOG)
        address, used = listener.getsockname()[:2]
        url = f"http://[{address}]:{used}" if ":" in address else f"http://{address}:{used}"
        print(
            f"serving {retriever.name} of {printable(opened.name)} ({len(opened.passages):,} passages) on {url}/retrieve, "
            f"{workers} worker{'s' if workers > 1 else ''}; Ctrl-C stops",
            flush=True,
        )
        if not ipaddress.ip_address(address).is_loopback:
            print("anyone who can reach this address can search: there is no authentication", file=sys.stderr)
        if workers == 1:
            _run(_app(source, retriever, opened, limits), listener, grace)
        else:
            del retriever, opened  # this process does not search: free the memory, e.g. of an encoder
            _supervise(workers, (source, limits, listener, grace), grace)


@contextlib.contextmanager
def local_service(
    retriever: Retriever, corpus: Corpus | None = None, limits: Limits | None = None
) -> Iterator[str]:
    """The service in a thread of this process, for notebooks and tests; yields its URL.

    At the end of the block, requests in flight are answered and the service stops.

        with local_service(index, corpus) as url:
            remote = open_remote(corpus, url=url)

    Args:
        retriever: what searches.
        corpus: what it searches, for `/healthz`.
        limits: the limits of the service; None for the defaults.
    """
    with served(retriever, corpus, limits) as (url, _):
        yield url


@contextlib.contextmanager
def served(
    retriever: Retriever, corpus: Corpus | None = None, limits: Limits | None = None
) -> Iterator[tuple[str, Any]]:
    """`local_service`, with the application too; the arguments are the same."""
    app = create_app(retriever, corpus, limits)
    with _bind("127.0.0.1", 0) as listener:
        listener.listen(_BACKLOG)  # clients may connect before the thread has started
        server = _server(app, grace=30)
        thread = threading.Thread(
            target=server.run, args=([listener],), name="searchgym-service", daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join()


def _server(app: Any, grace: int) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=guarded(app.state.guard, app.state.limits),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=grace,
    )
    return uvicorn.Server(config)


def _app(source: Source, retriever: Retriever, corpus: Corpus, limits: Limits) -> Any:
    # Other retrievers would take the memory of an encoder or of a Java machine twice; most of their work is done outside
    # Python's lock.
    heavy = (
        HeavyProcess(partial(source.open, cached=False), retriever, limits.threads)
        if isinstance(retriever, BM25)
        else None
    )
    return create_app(retriever, corpus, limits, heavy)


def _run(app: Any, listener: socket.socket, grace: int) -> None:
    """Serve until a signal arrives; requests in flight are answered before it returns."""
    server = _server(app, grace)

    def stop(number: int, frame: Any) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when it has finished; this handler then takes it instead of the default one.
    sys.setswitchinterval(_SWITCH)
    for seconds in _FREEZE:
        timer = threading.Timer(seconds, gc.freeze)
        timer.daemon = True
        timer.start()
    with _handling(stop):
        server.run([listener])


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    """Use a handler for SIGINT and SIGTERM within the block."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _supervise(workers: int, arguments: tuple[Any, ...], grace: int) -> None:
    """Keep this many workers running until a signal arrives; a worker that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    stop_receiver, stop_sender = context.Pipe(duplex=False)
    running: list[BaseProcess] = []
    deaths: deque[float] = deque(maxlen=_DEATHS[0] * workers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop_receiver)
        stack.enter_context(stop_sender)
        metrics = str(stack.enter_context(temporary_directory("searchgym-metrics-")))
        stack.callback(_set_environment, os.environ.copy())
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        stack.enter_context(_handling(lambda number, frame: stop_sender.send_bytes(b"stop")))
        stack.callback(_end, running, grace)
        while True:
            while len(running) < workers:
                process = context.Process(target=_work, args=arguments)  # no daemon: it may start a process
                process.start()
                running.append(process)
            if stop_receiver in wait([stop_receiver, *(process.sentinel for process in running)]):
                return
            for dead in [process for process in running if not process.is_alive()]:
                if dead.exitcode == _CANNOT_START:
                    raise ConfigError("a worker could not start: see its message above")
                deaths.append(time.monotonic())
                if len(deaths) == deaths.maxlen and deaths[-1] - deaths[0] < _DEATHS[1]:
                    raise ConfigError(
                        f"{len(deaths)} workers ended within {deaths[-1] - deaths[0]:.0f} s, the last with status "
                        f"{dead.exitcode} (-9: killed, perhaps because memory ran out): try fewer --workers"
                    )
                print(
                    f"worker {dead.pid} ended with status {dead.exitcode}: starting another", file=sys.stderr
                )
                mark_process_dead(dead.pid, metrics)  # type: ignore[no-untyped-call]
                running.remove(dead)


def _end(running: list[BaseProcess], grace: int) -> None:
    until = time.monotonic() + grace + 5
    for process in running:
        process.terminate()
    for process in running:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _follow(sentinel: int) -> None:
    """End this process when its parent has ended for any reason; remove the counters, which the parent cannot any more."""
    wait([sentinel])
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _work(source: Source, limits: Limits, listener: socket.socket, grace: int) -> None:
    """One worker process."""
    limit_heaps()
    with contextlib.suppress(KeyboardInterrupt):
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
        try:
            app = _app(source, *source.open(cached=False), limits)
        except SearchGymError as error:
            print(f"worker {os.getpid()}: {error}", file=sys.stderr, flush=True)
            sys.exit(_CANNOT_START)
        _run(app, listener, grace)


def _bind(host: str, port: int) -> socket.socket:
    move = "choose another with --host and --port"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError) as error:
        raise ConfigError(f"address {host}:{port} cannot be used ({error}): {move}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"address {host}:{port} cannot be used ({error}): {move}") from None
    return listener
