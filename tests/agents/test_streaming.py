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

from searchgym.agents.lm.stopping import ActWatch
from searchgym.dialects import get_dialect

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


@pytest.mark.parametrize(
    ("tokens", "at"),
    [
        (["<search>", "a", "</search>"], 2),
        (["<think>", "a/b", "</think", "><", "search>", "x", "</", "sear", "ch", ">", "more"], 9),
        (
            ["<think>x</think", "></", "search", ">"],
            3,
        ),  # an id that ends one tag and begins the next: a stray closing tag
        (["<search>x<", "/", "search", ">"], 3),
        (["<search>1/2 > 1/3", "x>", "</search> and"], 2),
    ],
)
def test_tags_that_are_cut_anywhere_into_ids(tokens: list[str], at: int) -> None:
    slashes = {n for n, text in enumerate(tokens) if "/" in text}
    ends = {n for n, text in enumerate(tokens) if ">" in text}
    watch = ActWatch(
        get_dialect("tags").scanner(), lambda ids: "".join(tokens[n] for n in ids), slashes, ends
    )
    assert [watch(n) for n in range(at + 1)] == [False] * at + [True]
