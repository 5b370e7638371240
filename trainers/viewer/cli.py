"""`searchgym view`."""

from __future__ import annotations

import socket
import webbrowser
from contextlib import suppress
from pathlib import Path

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import say
from searchgym.errors import ConfigError, MissingExtraError

from .export import export
from .library import Library

__all__ = ["view"]

_FILE, _SERVER = "One file", "Page"


@click.command("view", cls=Command)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8642,
    show_default=True,
    group=_SERVER,
    help="Port on this machine; the next free one if it is in use. 0: any free port.",
)
@option("--open", "open_browser", is_flag=True, group=_SERVER, help="Open the page in the web browser.")
@option(
    "--export",
    "target",
    metavar="FILE.html",
    type=click.Path(path_type=Path),
    group=_FILE,
    help="Write one HTML file that needs no server and no network, and exit.",
)
@option(
    "--limit",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    group=_FILE,
    help="Number of episodes in the file at most; those of the newest iterations.",
)
@option("--force", is_flag=True, group=_FILE, help="Replace the file if it exists.")
def view(
    paths: tuple[Path, ...], port: int, open_browser: bool, target: Path | None, limit: int, force: bool
) -> None:
    """Look at episodes, training runs and benchmarks in a web browser.

    PATH is a run directory, the directory of a benchmark or of a credit audit, a folder of these, or an episode file. Several
    runs are compared. A run that is being written is followed.
    """
    library = Library(list(paths))
    if target is not None:
        kept, every = export(library, target, limit, force=force)
        say(f"written: {target} ({kept:,} of {every:,} episodes, {target.stat().st_size / 1e6:.1f} MB)")
        return
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym view", "uvicorn", "view") from error
    from .app import create_app

    listener = _listen(port)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server = uvicorn.Server(
        uvicorn.Config(create_app(library), log_level="warning", timeout_graceful_shutdown=1)
    )
    library.follow()
    say(f"{', '.join(source.label for source in library.sources)}: {address} (Ctrl-C ends it)")
    if open_browser:
        webbrowser.open(address)
    try:
        with suppress(KeyboardInterrupt):  # the way to end it
            server.run(sockets=[listener])
    finally:
        library.close()
        listener.close()


def _listen(port: int) -> socket.socket:
    """A listening socket on the loopback address: at a port, or one of the 20 after it.

    Raises:
        ConfigError: all are in use.
    """
    for candidate in range(port, min(port + 20, 65536)) if port else [0]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen()  # a browser that comes before the server is ready waits
            return listener
        except OSError:
            listener.close()
    raise ConfigError(f"--port {port}: it and the 19 after it are in use; choose another one, or 0 for any")
