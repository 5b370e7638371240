"""Writes the help pages of all commands into docs/cli.md; `test_docs.py` compares.

    python tests/docs/cli_page.py

A line `<!-- help: searchgym index build -->` is followed by a block that shows `searchgym index build --help`. The text between
the blocks is written by hand.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator

import click
from doc_pages import ROOT, WIDTH

from searchgym.cli import cli, main

PAGE = ROOT / "docs" / "cli.md"

_BLOCK = re.compile(r"^<!-- help: ([a-z -]+) -->\n```text\n.*?^```$", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command with its group: "searchgym", "searchgym bench", …, "searchgym index build", …"""
    return list(_walk(cli, ["searchgym"]))


def _walk(command: click.Command, words: list[str]) -> Iterator[str]:
    yield " ".join(words)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None
            yield from _walk(sub, [*words, name])


def shown(page: str) -> list[str]:
    """The commands whose help the page shows."""
    return [match[1] for match in _BLOCK.finditer(page)]


def updated(page: str) -> str:
    """The page with the present help texts in its blocks."""
    return _BLOCK.sub(lambda match: _block(match[1]), page)


def _block(command: str) -> str:
    out = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(out):
            assert main([*command.split()[1:], "--help"]) == 0
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return f"<!-- help: {command} -->\n```text\n{out.getvalue().rstrip()}\n```"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
