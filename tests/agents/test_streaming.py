"""Messages streamed token by token through each engine: the act is that of the whole text. More: `campaigns/messages.py`."""

from __future__ import annotations

import random

import pytest
from fixtures.messages import generated, reference
from fixtures.streaming import (
    FAMILIES,
    own_engine,
    read,
    vllm,
    vllm_server,
    wrong_acts,
    wrong_api_acts,
    wrong_tiny_acts,
)

DIALECTS = ("tags", "tools")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("opened", [False, True])
def test_whole_messages_are_read_as_a_slow_parser_reads_them(dialect: str, opened: bool) -> None:
    rng = random.Random(f"{dialect} {opened}")
    for _ in range(400):
        message = generated(rng, dialect, opened=opened)
        text = "<think>\n" + message.text if opened else message.text
        assert read(text, dialect) == reference(text, dialect) == message.act, text


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_of_this_process(family: str, dialect: str) -> None:
    assert wrong_acts(own_engine, family, dialect, 40) == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("family", ["qwen", "opening"])
def test_vllm_stops_at_quoted_tags_and_is_continued(family: str, dialect: str) -> None:
    assert wrong_acts(vllm, family, dialect, 40) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_vllm_over_http(dialect: str) -> None:
    assert wrong_acts(vllm_server, "qwen", dialect, 20) == []


def test_the_tiny_models_engine() -> None:
    assert wrong_tiny_acts(40) == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("opened", "includes_stop"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_a_server_that_stops_at_quoted_tags(dialect: str, opened: bool, includes_stop: bool) -> None:
    assert wrong_api_acts(dialect, 25, opened=opened, includes_stop=includes_stop) == []
