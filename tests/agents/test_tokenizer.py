"""The tokenizer: exact round trip of every string, one token per tag, stable tokens for a name."""

from __future__ import annotations

import json
import random

import pytest

from searchgym.agents.tiny.tokenizer import TAGS, Tokenizer
from searchgym.errors import CheckpointError

ALPHABET = [
    *TAGS,
    *(
        "Mira",
        "Voss",
        "Old",
        "Oldmoor",
        "moor",
        "employer",
        "unknown",
        "1873",
        "7",
        "\n[1]",
        "\n[10]",
        "[11]",
    ),
    *" \n\t\r(),.:;'\"-<>/\\[]?!…é中\u0000\u2028",
    *("\ud83d", "\ude00", "😀", "  ", "'s", "</", "<think", "x"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.build(["Mira", "Voss", "painter", "employer", "Tarn", "Works", "Old"], ["moor"])


def test_random_strings_come_back(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    for _ in range(5000):
        text = "".join(draw.choices(ALPHABET, k=draw.randrange(12)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_hypothesis_strings_come_back(tokenizer: Tokenizer) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    text = hypothesis.strategies.text(alphabet=hypothesis.strategies.characters(exclude_categories=()))

    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(text)
    def check(value: str) -> None:
        assert tokenizer.decode(tokenizer.encode(value)) == value

    check()


def test_any_ids_decode(tokenizer: Tokenizer) -> None:
    draw = random.Random(1)
    for _ in range(500):
        ids = [draw.randrange(tokenizer.size) for _ in range(20)]
        text = tokenizer.decode(ids)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_tag_is_one_token_and_only_its_exact_text(tokenizer: Tokenizer) -> None:
    tag_ids = {tokenizer.token_id(tag) for tag in TAGS}
    assert len(tag_ids) == len(TAGS)
    for tag in TAGS:
        assert tokenizer.encode(tag) == [tokenizer.token_id(tag)]
    for near in ("<Think>", "< think>", "<think >", "think", "<thinks>", "<tool>", "&lt;think&gt;"):
        assert not tag_ids.intersection(tokenizer.encode(near))


def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer: Tokenizer) -> None:
    name = tokenizer.encode("Mira Voss (painter)")
    assert len(name) == 5
    for text in (
        "<search> Mira Voss (painter) </search>",
        "<information>\n[1] Mira Voss (painter)\nemployer: Oldmoor\n</information>",
        "<information>\n[10] Oldmoor\nMira Voss (painter), employer\n</information>",
        'Who: "Mira Voss (painter)"?',
        "Mira Voss (painter)'s employer",
    ):
        ids = tokenizer.encode(text)
        assert any(ids[i : i + len(name)] == name for i in range(len(ids)))


def test_greedy_longest_match_and_bytes(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("Oldmoor 1873")]
    assert pieces == ["Old", "moor", "18", "73"]
    assert not any(map(tokenizer.is_byte, tokenizer.encode("Oldmoor 1873")))
    assert sum(map(tokenizer.is_byte, tokenizer.encode("Zé"))) == 3


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(path)
    assert again == tokenizer
    text = "<think> Mira's Oldmoor </think>\n[2] 中"
    assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 1}', '{"format": 1, "vocabulary": [["word", [3]]]}', '{"format": 1'],
)
def test_a_damaged_file_is_a_checkpoint_error(tmp_path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


def test_another_format_is_named(tokenizer: Tokenizer, tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**tokenizer.to_json(), "format": 99}))
    with pytest.raises(CheckpointError, match="format 1"):
        Tokenizer.load(path)
