"""Every code block of README.md and docs/ runs and prints what its page shows; links resolve; the reference is
complete. The conventions of the pages are at the head of `doc_pages.py`, which also rewrites outputs."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import cli_page
import click
import pytest
from doc_pages import ROOT, pages, read_blocks, run_page, same

import searchgym
from searchgym import errors
from searchgym.cli import cli
from searchgym.dialects.observations import RETRY
from searchgym.env.config import JUDGE_WHEN, argument_table, env_fingerprint
from searchgym.env.env import SearchEnv
from searchgym.env.feedback import FEEDBACK_LEVELS
from searchgym.env.rewards import REWARD_TERMS
from searchgym.rollouts.evaluation import EvalResult

DOCS = ROOT / "docs"
PACKAGES = ("searchgym", "corpora", "agents", "trainers")
MOST_SKIPS = 10
"""Blocks that no test runs: installing packages, minute-long training, this machine's doctor."""


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_its_blocks_print(page: Path, tmp_path: Path) -> None:
    differences = run_page(page, tmp_path)
    assert not differences, f"{page.relative_to(ROOT)}:\n" + "\n".join(map(str, differences))


def test_few_blocks_are_skipped_and_each_says_why() -> None:
    skips = {
        f"{page.relative_to(ROOT)}:{block.line}": block.argument
        for page in pages()
        for block in read_blocks(page.read_text("utf-8"))
        if block.mark == "skip"
        and "interop" not in page.parts  # tests/interop/run.sh installs the other projects
    }
    assert len(skips) <= MOST_SKIPS, skips
    for place, reason in skips.items():
        assert len(reason.split()) >= 2, f"{place}: {reason!r} is not a reason"


# -- links ---------------------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    """The targets of a page's links inside the repository."""
    text = _without_code(page.read_text("utf-8"))
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", t)]


def anchors(page: Path) -> set[str]:
    """The anchors a host makes of a page's headings."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", _without_code(page.read_text("utf-8")), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip()
        found.add(words.replace(" ", "-"))
    return found


def _without_code(text: str) -> str:
    return re.sub(r"^(`{3,}).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)} links to {target!r}, which does not exist"
        assert ROOT in file.parents, f"{page.relative_to(ROOT)} links out of the repository: {target!r}"
        if anchor:
            assert anchor in anchors(file), f"{page.relative_to(ROOT)} links to {target!r}: no such heading"


def test_the_map_leads_to_every_page() -> None:
    index = DOCS / "index.md"
    reached = {(DOCS / target.partition("#")[0]).resolve() for target in links(index)}
    missing = {str(p.relative_to(DOCS)) for p in pages()[1:] if p != index} - {
        str(p.relative_to(DOCS)) for p in reached
    }
    assert not missing
    assert (DOCS / "index.md").resolve() in {(ROOT / t).resolve() for t in links(ROOT / "README.md")}


def test_the_site_has_its_sections_and_every_page_once() -> None:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / ".ci" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    nav = hooks.navigation((DOCS / "index.md").read_text("utf-8"))
    sections = "Home|Get started|Concepts|Guides|Trainers|Reference|Results|Contributing".split("|")
    assert [next(iter(entry)) for entry in nav] == sections
    found = re.findall(r"'([\w./-]+\.md)'", str(nav))
    assert sorted(found) == sorted(str(p.relative_to(DOCS)) for p in pages()[1:])
    text = "[a](../README.md) [b](../../tests/docs/x.py#l) [c](cli.md) [d](../cli.md)"
    assert hooks.on_page_markdown(text) == "a b [c](cli.md) [d](../cli.md)"


def test_names_on_the_reference_pages_exist() -> None:
    """mkdocstrings checks the same, but in an environment of its own."""
    pytest.importorskip("torch", reason="the extra train is not installed")
    names = [
        n for p in (DOCS / "reference").glob("*.md") for n in re.findall(r"^::: (\S+)$", p.read_text(), re.M)
    ]
    assert len(names) > 60
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert _is_module(name) or hasattr(importlib.import_module(module), attribute), name


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# -- completeness of the reference ---------------------------------------------------------------------------


def named_on(page: str) -> set[str]:
    """Everything between backquotes on a page."""
    return set(re.findall(r"`([^`\n]+)`", _without_code((DOCS / page).read_text("utf-8"))))


def keys_of(value: Any) -> set[str]:
    """All keys of nested JSON data."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(keys_of, value)) if value else set()
    return set()


def test_the_reference_names_every_argument_with_its_default() -> None:
    assert argument_table() in (DOCS / "environment.md").read_text("utf-8")


def test_the_reference_names_every_key_of_info_and_records(toy: str) -> None:
    env = SearchEnv(
        corpus=toy, reveal_gold=True, feedback={"level": "kind"}, reward={"em": 1.0, "recall": 0.1}
    )
    _, info = env.reset(seed=0)
    keys = keys_of(info)
    question = info["question"]
    for message in (f"<search> {question} </search>", "<feedback> a </feedback>", "<answer> a </answer>"):
        *_, info = env.step(message)
        keys |= keys_of(info)
    assert "outcome" in keys
    keys |= env_fingerprint(env.config).keys()
    assert keys - named_on("environment.md") == set()


def test_the_reference_names_every_value() -> None:
    named = named_on("environment.md")
    assert set(REWARD_TERMS) <= named_on("rewards.md")
    for values in (map(str, searchgym.StopReason), FEEDBACK_LEVELS, JUDGE_WHEN, RETRY):
        assert set(values) <= named
    for record in (searchgym.Episode, searchgym.Round, searchgym.Segment, searchgym.Outcome):
        assert {f.name for f in dataclasses.fields(record) if f.name[0] != "_"} <= named, record
    assert {f.name for f in dataclasses.fields(searchgym.Turn)} <= named_on("agents/write-your-own.md")
    assert {f.name for f in dataclasses.fields(EvalResult)} <= named_on("rollouts.md")
    classes = {n for n in errors.__all__ if isinstance(getattr(errors, n), type)}
    assert classes - {"MissingSecret"} <= named_on("errors.md")


def test_the_reference_names_every_command_agent_and_id() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = project["entry-points"]
    cli = (DOCS / "cli.md").read_text("utf-8")
    for command in groups["searchgym.commands"]:
        assert f"\n## {command}\n" in cli
    assert set(groups["searchgym.agents"]) <= named_on("agents/index.md")
    assert set(groups["searchgym.corpora"]) - {"jsonl"} <= named_on("environment.md")
    retrievers = (DOCS / "retrievers.md").read_text("utf-8")
    assert all(f"\n## {name}\n" in retrievers for name in groups["searchgym.retrievers"])
    assert set(searchgym._ENVIRONMENTS) <= named_on("environment.md")


def test_the_command_line_page_shows_the_help_of_every_command() -> None:
    page = cli_page.PAGE.read_text("utf-8")
    assert sorted(cli_page.shown(page)) == sorted(cli_page.commands())
    assert cli_page.updated(page) == page, "run: python tests/docs/cli_page.py"


def test_the_paths_and_functions_on_the_design_page_exist() -> None:
    page = (DOCS / "design.md").read_text("utf-8")
    paths = {n for n in named_on("design.md") if n.split("/")[0] in PACKAGES and "/" in n}
    assert len(paths) > 40
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    sub_packages = {
        str(p.parent.relative_to(ROOT)) + "/" for name in PACKAGES for p in (ROOT / name).rglob("__init__.py")
    }
    assert sub_packages - paths == set()
    hops = re.findall(r"^\| \d+ \| `(?:\w+\.)?(\w+)` \| `([\w/.]+)` \|", page, re.MULTILINE)
    assert 10 < len(hops) <= 15
    for function, path in hops:
        assert re.search(rf"^ *def {function}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), (
            path,
            function,
        )


# -- the runner itself ---------------------------------------------------------------------------------------

PAGE = """\
# A page

```python
print("one", 1.5)
```

```text
{output}
```

<!-- test: skip it would fail -->
```python
1 / 0
```

```toml
key = 1
```
"""


@pytest.mark.parametrize(("output", "fits"), [("one 1.5", True), ("one ...", True), ("two 1.5", False)])
def test_the_runner_compares_what_is_printed(
    output: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doc_pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(output=output))
    assert (run_page(page, tmp_path) == []) is fits
    page.write_text(page.read_text().replace("<!-- test: skip it would fail -->", ""))
    with pytest.raises(ZeroDivisionError):
        run_page(page, tmp_path)


def test_comparison_ignores_layout_and_nothing_else() -> None:
    assert same("┏━━┓\n a   b", "┏━━━━━┓ a b\n")
    assert same("1 ... 3", "1\n2\n3")
    assert not same("1 ... 3", "1\n2")
    assert not same("a b", "ab")
    assert not same("0.10", "0.100")


_NAMED = re.compile(r"(?:`|\$ |: )searchgym ((?:[a-z]+ ?)+(?:[^`\n]*))")


def _flags_of(words: list[str]) -> tuple[str, set[str]]:
    """The command that words begin with, and its flags."""
    command: click.Command = cli
    path = []
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            break
        path.append(words.pop(0))
        command = found
    return " ".join(path), {
        flag for p in command.get_params(click.Context(command)) for flag in getattr(p, "opts", [])
    }


@pytest.mark.parametrize("folder", ["docs", "searchgym", "corpora", "agents", "trainers"])
def test_commands_that_are_named_have_their_flags(folder: str) -> None:
    """In pages, docstrings and messages: a flag that no longer exists sends its reader astray."""
    pytest.importorskip("torch", reason="the extra train is not installed")
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py", ".toml")]
    paths += [ROOT / "README.md"] if folder == "docs" else []
    checked = 0
    for path in paths:
        if path.name == "changelog.md":
            continue
        for match in _NAMED.finditer(path.read_text("utf-8").replace("\\\n", " ")):
            words = match[1].split()
            command, flags = _flags_of(words)
            named = [word.split("=")[0] for word in words if re.fullmatch(r"--[a-z][a-z-]*(=.*)?", word)]
            if not command:
                continue
            checked += 1
            for flag in named:
                assert flag in flags, f"{path}: searchgym {command} has no {flag}"
    assert checked or folder == "corpora"
