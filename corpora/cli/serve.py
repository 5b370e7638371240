"""`searchgym index serve`: one index for many environments, over HTTP."""

from __future__ import annotations

import click

from searchgym.cli.options import SPEC_HELP, config_option, read_spec

__all__ = ["serve"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("index")
@click.option(
    "--corpus",
    metavar="SPEC",
    help=f"Its corpus, where the index records none. {SPEC_HELP}",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 opens it to the network.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that answer."
)
@click.option(
    "--topk",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Hits where a request names no number.",
)
@click.option(
    "--max-topk", type=click.IntRange(1), default=1000, show_default=True, help="Most hits per query."
)
@click.option(
    "--max-queries", type=click.IntRange(1), default=1024, show_default=True, help="Most queries per request."
)
@click.option(
    "--max-body-mb", type=click.IntRange(1), default=8, show_default=True, help="Largest body of a request."
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Queries that may wait; more are told to come back (429).",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Threads that search, per worker.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, help="Queries searched together."
)
@click.option(
    "--window-ms",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="How long a query waits for company when a thread is idle.",
)
@click.option(
    "--cache-mb",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    help="Cache of answers, per worker; 0 for none.",
)
@click.option(
    "--grace",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Seconds for requests in flight when stopped.",
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
    max_body_mb: int,
    max_waiting: int,
    threads: int,
    batch: int,
    window_ms: float,
    cache_mb: int,
    grace: int,
) -> None:
    """Serve INDEX over HTTP, as Search-R1's retrieval server does: POST /retrieve, GET /healthz, GET /metrics.

    INDEX is a directory made by `searchgym index build`, or a retriever (a name like bm25, or JSON) with --corpus.
    Environments reach it with retriever={"name": "remote", "url": "http://127.0.0.1:8000"}.
    """
    from ..service.app import Limits
    from ..service.server import serve as run

    limits = Limits(
        topk=topk,
        max_topk=max_topk,
        queries=max_queries,
        body_bytes=max_body_mb * 2**20,
        waiting=max_waiting,
        threads=threads,
        batch=batch,
        window=window_ms / 1000,
        cache_bytes=cache_mb * 2**20,
    )
    searched = None if corpus is None else read_spec(corpus)
    run(read_spec(index), searched, host=host, port=port, workers=workers, limits=limits, grace=grace)
