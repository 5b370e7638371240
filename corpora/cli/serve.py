"""`searchgym index serve`: serve an index over HTTP."""

from __future__ import annotations

import click

from searchgym.cli.command import Command, option
from searchgym.cli.options import SPEC_HELP, config_option, read_spec

__all__ = ["serve"]

_NETWORK, _LIMITS, _THROUGHPUT = "Network", "Limits of requests", "Throughput"


@click.command(cls=Command)
@click.argument("index")
@option("--corpus", metavar="SPEC", help=f"Corpus of the index, if the index does not record it. {SPEC_HELP}")
@option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    group=_NETWORK,
    help="Address to listen on; 0.0.0.0 accepts connections from the network.",
)
@option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    group=_NETWORK,
    help="Port to listen on (0: any free port).",
)
@option(
    "--grace",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    group=_NETWORK,
    help="Seconds that running requests may take after a stop signal.",
)
@option(
    "--topk",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    group=_LIMITS,
    help="Hits per query, if the request does not specify them.",
)
@option(
    "--max-topk",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    group=_LIMITS,
    help="Maximum number of hits per query.",
)
@option(
    "--max-queries",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    group=_LIMITS,
    help="Maximum number of queries per request.",
)
@option(
    "--max-hits",
    type=click.IntRange(1),
    default=32768,
    show_default=True,
    group=_LIMITS,
    help="Maximum number of hits per request: queries times topk.",
)
@option(
    "--max-body-mb",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    group=_LIMITS,
    help="Maximum size of a request in MiB.",
)
@option(
    "--max-answer-mb",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    group=_LIMITS,
    help="Maximum size of an answer in MiB.",
)
@option(
    "--client-seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30.0,
    show_default=True,
    group=_LIMITS,
    help="Seconds within which a client has to send a request, and to take each part of the answer.",
)
@option(
    "--max-connections",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    group=_LIMITS,
    help="Maximum number of open connections per process; beyond that, the most idle one is closed.",
)
@option(
    "--max-waiting",
    type=click.IntRange(1),
    default=16384,
    show_default=True,
    group=_LIMITS,
    help="Maximum number of waiting queries; further requests get status 429.",
)
@option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    group=_THROUGHPUT,
    help="Number of server processes.",
)
@option(
    "--threads",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    group=_THROUGHPUT,
    help="Search threads per process.",
)
@option(
    "--batch",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    group=_THROUGHPUT,
    help="Maximum number of queries searched together.",
)
@option(
    "--window-ms",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    group=_THROUGHPUT,
    help="Milliseconds that a query waits for others to be batched with it while a thread is idle.",
)
@option(
    "--cache-mb",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    group=_THROUGHPUT,
    help="Size of the answer cache per process in MiB (0: no cache).",
)
@option(
    "--memory-mb",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    group=_THROUGHPUT,
    help="Memory of a process in MiB, without the files of the index: cache, requests and answers.",
)
@config_option
def serve(
    index: str,
    corpus: str | None,
    host: str,
    port: int,
    workers: int,
    topk: int,
    max_topk: int,
    max_queries: int,
    max_hits: int,
    max_body_mb: int,
    max_answer_mb: int,
    client_seconds: float,
    max_connections: int,
    max_waiting: int,
    threads: int,
    batch: int,
    window_ms: float,
    cache_mb: int,
    memory_mb: int,
    grace: int,
) -> None:
    """Serve an index over HTTP, with the protocol of Search-R1.

    INDEX is a directory made by `searchgym index build`, or a retriever (a name like bm25, or JSON) with --corpus. The
    endpoints are POST /retrieve and /batch_search, GET /healthz and GET /metrics. Environments connect to the service with
    retriever={"name": "remote", "url": "http://127.0.0.1:8000"}.
    """
    from ..service.limits import Limits
    from ..service.server import serve as run

    limits = Limits(
        topk=topk,
        max_topk=max_topk,
        queries=max_queries,
        hits=max_hits,
        body_bytes=max_body_mb * 2**20,
        answer_bytes=max_answer_mb * 2**20,
        waiting=max_waiting,
        threads=threads,
        batch=batch,
        window=window_ms / 1000,
        cache_bytes=cache_mb * 2**20,
        memory=memory_mb * 2**20,
        connections=max_connections,
        client_seconds=client_seconds,
    )
    searched = None if corpus is None else read_spec(corpus)
    run(read_spec(index), searched, host=host, port=port, workers=workers, limits=limits, grace=grace)
