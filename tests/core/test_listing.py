"""--list-agents and the other lists: every registered part with one line and its options, third-party ones too."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers import CommandLine

from searchgym.cli.listing import ListedOption, describe_options, summary
from searchgym.options import plugins

GROUPS = ("agents", "judges", "trainers", "corpora", "retrievers")
OTHER = '''
class Parrot:
    """Repeats the question; see the head of this file. More text.

    Args:
        loud: writes in
            capitals.
        words, marks: what is repeated.

    Raises:
        ValueError: never.
    """

    def __init__(self, loud: bool = False, words=3, marks=None, *, mood): ...


def undocumented(corpus, strict=True): ...


broken = 3
'''


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "other_parts.py").write_text(OTHER)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = {
        "parrot": "other_parts:Parrot",
        "undocumented": "other_parts:undocumented",
        "lost": "other_nowhere:x",
    }
    real = importlib.metadata.entry_points

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        extra = [importlib.metadata.EntryPoint(n, v, group) for n, v in points.items()]
        return [*real(group=group), *(extra if group in ("searchgym.agents", "searchgym.judges") else [])]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "command", [[], ["eval"], ["play"], ["train"], ["judge", "audit"], ["index", "build"]], ids=" ".join
)
def test_lists_name_everything_that_is_registered(group: str, command: list[str], cli: CommandLine) -> None:
    if group in ("agents", "trainers") or command == ["train"]:
        pytest.importorskip("torch", reason="the extra train is not installed")
    status, out, err = cli(*command, f"--list-{group}")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if line in plugins.names(group)] == plugins.names(group)
    assert "docstring" not in out
    assert "(not documented)" not in out


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_the_package_is_explained(group: str) -> None:
    if group in ("agents", "trainers"):
        pytest.importorskip("torch", reason="the extra train is not installed")
    for name in plugins.names(group):
        part = plugins.load(group, name)
        assert len(summary(part)) < 120, name
        for option in describe_options(group, part):
            assert option.text, (name, option)


@pytest.mark.parametrize(
    ("group", "name", "option", "default"),
    [
        ("retrievers", "bm25", "k1", "0.9"),
        ("retrievers", "dense", "kind", '"auto"'),
        ("retrievers", "remote", "url", ""),
        ("corpora", "country", "size", "5000"),
        ("corpora", "hub", "corpus", ""),
        ("judges", "llm", "max_tokens", "2048"),
        ("judges", "corrupted", "rate", "0.2"),
        ("agents", "random", "seed", "0"),
        ("agents", "api", "concurrency", "64"),
        ("agents", "hf", "model", ""),
        ("agents", "hf", "lora", "null"),
        ("agents", "tiny", "checkpoint", "null"),
        ("trainers", "grpo", "group_size", "8"),
        ("trainers", "ppo", "group_size", "1"),
    ],
)
def test_options_of_every_kind_of_declaration(group: str, name: str, option: str, default: str) -> None:
    if group in ("agents", "trainers"):
        pytest.importorskip("torch", reason="the extra train is not installed")
    listed = {one.name: one for one in describe_options(group, plugins.load(group, name))}
    assert listed[option].default == default
    assert not {"self", "corpus", "options", "owner"} & set(listed) or group == "corpora"


def test_third_party_plug_ins_are_listed_and_broken_ones_break_nothing(
    third_party: None, cli: CommandLine
) -> None:
    pytest.importorskip("torch", reason="the extra train is not installed")
    status, out, _ = cli("--list-agents")
    assert status == 0
    parrot = out.partition("\nparrot\n")[2].partition("\n\n")[0]
    assert parrot.splitlines() == [
        "  Repeats the question.",
        "    loud = false  writes in capitals.",
        "    words = 3  what is repeated.",
        "    marks = null  what is repeated.",
        "    mood (required)",
    ]
    assert "(cannot be described: agent 'lost' cannot be loaded" in out
    status, out, _ = cli("--list-judges")
    assert status == 0
    assert "\nundocumented\n  (not documented)\n    strict = true" in out


def test_dataclasses_explain_their_fields() -> None:
    @dataclass
    class Settings:
        """Settings.

        Attributes:
            rate: how fast.
        """

        rate: float = 0.5
        names: list[str] = field(default_factory=lambda: ["a"], metadata={"help": "who"})

    class Trainer:
        settings_class = Settings

    assert describe_options("trainers", Trainer) == [
        ListedOption("rate", "0.5", "how fast."),
        ListedOption("names", '["a"]', "who"),
    ]
