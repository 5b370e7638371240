"""`searchgym mcp` and `searchgym openenv`: servers for clients of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import say
from searchgym.cli.options import SPEC_HELP, config_option, env_arguments, env_options, read_spec
from searchgym.corpora.indexing.source import Source

__all__ = ["mcp", "openenv"]


@click.command(cls=Command)
@click.argument("index")
@option("--corpus", metavar="SPEC", help=f"Corpus of the index, if the index does not record it. {SPEC_HELP}")
@option(
    "--transport",
    type=click.Choice(["stdio", "http"]),
    default="stdio",
    show_default=True,
    help="stdio: for a client that starts this command. http: streamable HTTP at http://HOST:PORT/mcp.",
)
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on (http).")
@option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port (http).")
@option(
    "--topk",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="Hits of a search that names no number.",
)
@config_option
def mcp(
    index: str, corpus: str | None, transport: Literal["stdio", "http"], host: str, port: int, topk: int
) -> None:
    """Serve an index over MCP: the tools `search` and `open_page`.

    INDEX is a directory made by `searchgym index build`, or a retriever (a name like bm25, or JSON) with --corpus.
    """
    from .mcp import MCPServer, create_server

    retriever, opened = Source(
        read_spec(index, "index"), None if corpus is None else read_spec(corpus)
    ).open()
    if transport == "stdio":
        create_server(retriever, opened, top_k=topk, log_level="WARNING").run("stdio")
        return
    # Every call stands alone, so the server keeps no session.
    network: dict[str, Any] = {"host": host, "port": port, "stateless_http": True, "json_response": True}
    say(f"serving {retriever.name} of {opened.name} over MCP on http://{host}:{port}/mcp; Ctrl-C stops")
    if MCPServer.__name__ == "FastMCP":  # mcp 1 takes them earlier
        create_server(retriever, opened, top_k=topk, log_level="WARNING", **network).run("streamable-http")
    else:
        create_server(retriever, opened, top_k=topk, log_level="WARNING").run("streamable-http", **network)


@click.command(cls=Command)
@env_options()
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@option("--port", type=click.IntRange(1, 65535), default=8140, show_default=True, help="Port.")
@option(
    "--max-sessions",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Sessions at a time; more are refused.",
)
@option("--save", type=click.Path(path_type=Path), help="Add finished episodes to this file (JSONL).")
@option("--agent-name", default="external", show_default=True, help="Who plays, for the episode file.")
@config_option
def openenv(
    env_id: str,
    env_pairs: tuple[str, ...],
    corpus: str | None,
    retriever: str | None,
    split: str | None,
    host: str,
    port: int,
    max_sessions: int,
    save: Path | None,
    agent_name: str,
) -> None:
    """Serve an environment to OpenEnv clients, at ws://HOST:PORT."""
    from .episode_log import EpisodeLog
    from .openenv_app import create_app

    arguments = env_arguments(env_pairs, corpus=corpus, retriever=retriever)
    if split is not None:
        arguments["split"] = split
    log = None if save is None else EpisodeLog(save, agent_name)
    app = create_app(env_id, arguments, log=log, max_sessions=max_sessions)
    import uvicorn

    say(f"serving {env_id} to OpenEnv clients on ws://{host}:{port}; Ctrl-C stops")
    # Compressing messages of 1 kB costs more than a fifth of what a round trip computes, on either side.
    uvicorn.run(
        app, host=host, port=port, log_level="warning", ws="websockets-sansio", ws_per_message_deflate=False
    )
