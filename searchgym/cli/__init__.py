"""The command line: the root command, the commands of the core, and options that all commands share."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from .._version import __version__
from ..errors import PluginError, SearchGymError, did_you_mean
from ..options import plugins
from .console import say
from .listing import listing_options

__all__ = ["cli", "main"]


class PluginGroup(click.Group):
    """Loads subcommands on demand from the entry points `searchgym.commands`.

    A command that cannot be loaded does not affect the others.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return plugins.names("commands")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in plugins.names("commands"):
            return None
        try:
            command = plugins.load("commands", cmd_name)
            if not isinstance(command, click.Command):
                raise PluginError(f"command {cmd_name!r} is a {type(command).__name__}, not a click.Command")
        except SearchGymError as error:
            reason = str(error)

            @click.command(
                cmd_name,
                short_help="(cannot be loaded; run it for the reason)",
                add_help_option=False,
                context_settings={"ignore_unknown_options": True},
            )
            @click.argument("rest", nargs=-1)
            def broken(rest: tuple[str, ...]) -> None:
                raise click.ClickException(reason)

            return broken
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in plugins.names("commands"):
            known = plugins.names("commands")
            ctx.fail(
                f"unknown command {args[0]!r}.{did_you_mean(args[0], known)} Commands: {', '.join(known)}."
            )
        return super().resolve_command(ctx, args)


@click.command(
    cls=PluginGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@listing_options
@click.version_option(__version__, prog_name="searchgym")
def cli() -> None:
    """SearchGym: an environment and training kit for search agents.

    Start with `searchgym train`, which trains a small search agent on this machine and evaluates it before and after.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process, which is then ended with the exit status.

    Returns:
        The exit status. 0: success. 1: a broken installation or plug-in. 2: a user error, reported in one line.
        130: interrupted. An unexpected exception is a bug and propagates with its traceback.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # do not crash on unencodable output or undecodable input
    try:
        status = cli.main(
            args=None if argv is None else list(argv), prog_name="searchgym", standalone_mode=False
        )
        code = status if isinstance(status, int) else 0
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        say(message.getvalue().rstrip("\n"), err=True)
        code = error.exit_code
    except SearchGymError as error:
        say(f"searchgym: {error}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    if argv is None:
        sys.exit(code)
    return code
