"""A dialect of one's own: registered in the process or by another package."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium as gym
import pytest

import searchgym
from searchgym.dialects import TagsDialect, get_dialect, register_dialect, registry
from searchgym.errors import ConfigError, PluginError, UnknownIdError
from searchgym.options import plugins


class Shouting(TagsDialect):
    """Tags whose prompt is in capitals."""

    name: ClassVar[str] = "shouting"

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        return super().system_prompt(feedback=feedback, max_queries=max_queries).upper()


class Forgetful(TagsDialect):
    """Does not read what it writes."""

    name: ClassVar[str] = "forgetful"

    def write(self, act: Any, thought: str = "") -> str:
        return "<search> something else </search>"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    yield
    registry._open_dialect.cache_clear()


def test_a_registered_dialect_is_played_and_rescored(toy: str) -> None:
    register_dialect(Shouting)
    register_dialect(Shouting)  # a cell of a notebook that is run again
    env = gym.make("SearchQA-v0", corpus=toy, dialect="shouting", corpus_description="the Ada archive")
    assert "THE ADA ARCHIVE" in env.unwrapped.system_prompt
    (episode,) = searchgym.rollout("SearchQA-v0", "oracle", 1, corpus=toy, dialect="shouting")
    assert episode.outcome.em == 1.0
    assert episode.env["dialect"] == "shouting"
    env.action_space.seed(0)
    assert re.search("<(search|answer)>", env.action_space.sample())


def test_a_dialect_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("shouting", f"{__name__}:Shouting", "searchgym.dialects")
    monkeypatch.setattr(
        plugins, "_entry_points", lambda group: {"shouting": [point]} if group == "dialects" else {}
    )
    assert type(get_dialect("shouting")).__name__ == "Shouting"
    with pytest.raises(ConfigError, match="of a package: give yours another name"):
        register_dialect(Shouting)


@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        (TagsDialect, ConfigError, "'tags' is built in"),
        (Forgetful, PluginError, "reads .*something else.* from the message that it writes"),
        (lambda description: None, PluginError, "has no name"),
        (
            type("Empty", (), {"name": "empty", "__init__": lambda self, d: None}),
            PluginError,
            "not a searchgym Dialect",
        ),
        (type("Broken", (), {"name": "broken"}), PluginError, "cannot be opened: TypeError"),
    ],
)
def test_what_is_no_dialect(factory: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        register_dialect(factory)


def test_an_unknown_dialect_is_named(toy: str) -> None:
    with pytest.raises(UnknownIdError, match=r"Did you mean 'tags'.*register_dialect"):
        gym.make("SearchQA-v0", corpus=toy, dialect="tag")
