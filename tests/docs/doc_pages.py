"""Reads README.md and docs/ and runs what their code blocks say; `test_docs.py` holds the tests.

Conventions, one per kind of block. A page's blocks run in order, in one namespace and one empty directory.

- `python`: executed. A `text` block right after it (blank lines between) is what it prints.
- `console`: lines that start with "$ " are commands, the lines below are what they print; a command without
  lines below must only succeed. Known commands:
    $ searchgym …                       runs `searchgym.cli.main`; add `; echo $?` where it must fail
    $ printf '…' | searchgym …          the same, with that text as standard input
    $ pip install -e DIR                registers the entry points of DIR/pyproject.toml, a package written
                                        by earlier blocks of the page, as pip would
- `toml`, `json`, `jsonl`: parsed.
- `<!-- test: file NAME -->` above a block: it is written to NAME instead.
- `<!-- test: skip REASON -->` above a block: it is not run. The tests count and list these.
- any other block (`text`, `bash`, no language) is only shown; `bash` needs a skip with its reason.

Printed text is compared word by word; table rules of any length are equal; `...` matches anything.

    python tests/docs/doc_pages.py [PAGE …]     writes into the pages what the blocks print now

A shown line that holds `...` stays as it is where it still matches a line. Where it matches none, or stands for
several, the page is left as it is and the place is printed: rewrite it by hand.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WIDTH = "100"  # columns of the terminal the pages show

_FENCE = re.compile(r"^(`{3,})(\w*)\s*$")
_MARK = re.compile(r"^<!-- test: (skip|file) (.+) -->$")
_RULE = re.compile(r"[━─┏┳┓┡╇┩├┼┤└┴┘╭╮╰╯]+")


def pages() -> list[Path]:
    """README.md and every page of docs/, in order."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass
class Block:
    """A fenced block. `line` is that of its opening fence (counted from 1); `end` that of its closing one."""

    line: int
    end: int
    language: str
    text: str
    mark: str = ""
    argument: str = ""
    output: Block | None = None


def read_blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, outputs attached to the Python blocks they belong to."""
    blocks: list[Block] = []
    lines = page.splitlines()
    number = 0
    mark: re.Match[str] | None = None
    between = True  # something other than blank lines since the last block
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            if lines[number].strip():
                mark, between = _MARK.match(lines[number]), True
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].rstrip() == fence[1])
        block = Block(number + 1, end + 1, fence[2], "\n".join(lines[number + 1 : end]) + "\n")
        if mark is not None:
            block.mark, block.argument = mark[1], mark[2]
        if block.language == "text" and blocks and not between and blocks[-1].language == "python":
            blocks[-1].output = block
        else:
            blocks.append(block)
        mark, between, number = None, False, end + 1
    return blocks


def same(expected: str, printed: str) -> bool:
    """Whether a page shows what was printed; see the conventions."""
    parts = [_words(part) for part in expected.split("...")]
    pattern = ".*".join(re.escape(part) for part in parts)
    return re.fullmatch(rf"\s*{pattern}\s*", _words(printed), re.DOTALL) is not None


def _words(text: str) -> str:
    return " ".join(_RULE.sub("─", text).split())


@dataclass
class Difference:
    """A block that printed something else than its page shows; lines [start, end) of the page hold it."""

    start: int
    end: int
    expected: str
    printed: str

    def __str__(self) -> str:
        return f"line {self.start + 1} shows\n{self.expected}\nbut the block prints\n{self.printed}"


@dataclass
class Runner:
    """Runs the blocks of one page."""

    directory: Path
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    differences: list[Difference] = field(default_factory=list)

    def run(self, name: str, block: Block) -> None:
        """Run one block; collects differences, raises what the block raises."""
        if block.mark == "skip":
            return
        if block.mark == "file":
            target = self.directory / block.argument
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * block.line + block.text, name, "exec", dont_inherit=True)
            with contextlib.redirect_stderr(io.StringIO()):  # a page shows what is printed, no warnings
                printed = _capture(lambda: exec(code, self.namespace))
            if block.output is not None:
                self._compare(block.output.line, block.output.end - 1, block.output.text, printed)
        elif block.language == "console":
            self._console(block)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "jsonl":
            for line in block.text.splitlines():
                json.loads(line)
        elif block.language in ("bash", "sh", "shell"):
            raise AssertionError("a bash block needs '<!-- test: skip REASON -->', or be a console block")

    def _compare(self, start: int, end: int, expected: str, printed: str) -> None:
        if not same(expected, printed):
            self.differences.append(Difference(start, end, expected, printed))

    def _console(self, block: Block) -> None:
        lines = block.text.splitlines()
        position = 0
        while position < len(lines):
            assert lines[position].startswith("$ "), f"a console block starts with '$ ': {lines[position]!r}"
            command = lines[position][2:]
            while command.endswith("\\"):
                position += 1
                command = command[:-1] + lines[position].strip()
            start = position = position + 1
            while position < len(lines) and not lines[position].startswith("$ "):
                position += 1
            printed = self._shell(command)
            if position > start:
                shown = "\n".join(lines[start:position])
                self._compare(block.line + start, block.line + position, shown, printed)

    def _shell(self, command: str) -> str:
        typed = ""
        if command.startswith("printf "):
            text, _, command = command.partition(" | ")
            typed = shlex.split(text)[1].encode().decode("unicode_escape")
        status_shown = command.endswith("; echo $?")
        words = shlex.split(command.removesuffix("; echo $?"))
        if words[:3] == ["pip", "install", "-e"]:
            self._install(self.directory / words[3])
            return ""
        assert words[0] == "searchgym", f"unknown command {command!r}; see the conventions in {__file__}"
        status = [0]

        def call() -> None:
            from searchgym.cli import main

            with contextlib.redirect_stderr(sys.stdout):  # in a terminal both are seen
                status[0] = main(words[1:])

        printed = _capture(call, typed)
        if status_shown:
            return f"{printed.rstrip()}\n{status[0]}"
        assert status[0] == 0, f"{command!r} ended with status {status[0]}:\n{printed}"
        return printed

    def _install(self, package: Path) -> None:
        project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
        info = (
            self.directory / ".site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        )
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        points = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in members.items())
            for group, members in project.get("entry-points", {}).items()
        ]
        (info / "entry_points.txt").write_text("\n".join(points))
        sys.path[:0] = [str(info.parent), str(package)]
        _forget_plugins()


def _forget_plugins() -> None:
    from searchgym.options import plugins

    importlib.invalidate_caches()
    plugins._entry_points.cache_clear()


def _capture(call: Callable[[], object], typed: str = "") -> str:
    out = io.StringIO()
    stdin, sys.stdin = sys.stdin, io.StringIO(typed)
    try:
        with contextlib.redirect_stdout(out):
            call()
    finally:
        sys.stdin = stdin
    return out.getvalue()


@contextlib.contextmanager
def page_directory(directory: Path) -> Iterator[None]:
    """Work in `directory`, with a terminal of fixed width; afterwards forget modules and plug-ins of it."""
    before = Path.cwd(), list(sys.path), dict(os.environ), set(sys.modules)
    os.environ |= {"COLUMNS": WIDTH, "LINES": "50", "NO_COLOR": "1", "TERM": "dumb"}
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]
        os.environ.clear()
        os.environ |= before[2]
        for name in set(sys.modules) - before[3]:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(directory)):
                del sys.modules[name]
        _forget_plugins()


def run_page(page: Path, directory: Path) -> list[Difference]:
    """Run all blocks of a page in `directory`; returns where it shows something else than they print."""
    runner = Runner(directory)
    with page_directory(directory):
        for block in read_blocks(page.read_text("utf-8")):
            try:
                runner.run(str(page), block)
            except Exception as error:
                error.add_note(f"in the block at {page.relative_to(ROOT)}, line {block.line}")
                raise
    return runner.differences


def rewrite(page: Path, differences: list[Difference]) -> None:
    """Write what was printed into the page."""
    lines = page.read_text("utf-8").splitlines()
    for difference in reversed(differences):
        printed = [line.rstrip() for line in difference.printed.strip("\n").splitlines()]
        elided = [line for line in difference.expected.splitlines() if "..." in line]
        kept = [next((e for e in elided if same(e, line)), line) for line in printed]
        if set(elided) - set(kept):
            print(f"{page.relative_to(ROOT)}: by hand: {difference}")
            continue
        lines[difference.start : difference.end] = kept
        print(f"{page.relative_to(ROOT)}, line {difference.start + 1}: rewritten")
    page.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    chosen = [Path(argument).resolve() for argument in sys.argv[1:]] or pages()
    for page in chosen:
        with tempfile.TemporaryDirectory() as directory:
            differences = run_page(page, Path(directory).resolve())
        if differences:
            rewrite(page, differences)
