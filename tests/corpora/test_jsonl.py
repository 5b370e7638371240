"""One's own corpus: what is accepted, how each bad line is refused, and the real data sets."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searchgym import specs
from searchgym.conformance import check_corpus, check_retriever
from searchgym.corpora.bm25.index import open_bm25
from searchgym.corpora.datasets import jsonl as module
from searchgym.corpora.datasets.jsonl import JsonlCorpus, open_jsonl
from searchgym.errors import ConfigError, CorpusError, UnknownIdError
from searchgym.records.question import Corpus, Hop, Passage, Question

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

PASSAGES = [
    {"id": "b", "title": "Aln", "text": "The Aln is a river of Bor."},
    {"id": "a", "title": "", "text": "Mira Voss was born in 1931 — in Bor."},
    {"id": "ç", "title": "Zoë", "text": "Ünïcode 東京"},
]
QUESTIONS = [
    {
        "id": "q2",
        "question": "Where is the Aln?",
        "answers": ["Bor", "in Bor"],
        "split": "dev",
        "level": "easy",
    },
    {
        "id": "q1",
        "question": "Which river is in the land where Mira Voss was born?",
        "answers": ["Aln"],
        "supporting_ids": ["a", "b"],
        "hops": 2,
        "type": "chain",
        "split": "train",
        "metadata": {"source": "hand"},
        "chain": [
            {"query": "Mira Voss", "relation": "born in", "passage_ids": ["a"], "bridge": "Bor"},
            {"query": "river of Bor", "relation": "river", "passage_ids": ["b"], "bridge": "Aln"},
        ],
    },
    {"id": "q3", "question": "When was Mira Voss born?", "answers": ["1931"]},
]
GOOD = {"passages.jsonl": PASSAGES, "questions.jsonl": QUESTIONS}


def write(directory: Path, name: str, rows: list[Any]) -> Path:
    """Rows are JSON values, or bytes for a line to be written as it is."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    data = b"".join(line + b"\n" for line in lines)
    file = directory / name
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for name, rows in GOOD.items():
        write(tmp_path / "mine", name, rows)
    return tmp_path / "mine"


def test_a_corpus_of_ones_own(mine: Path) -> None:
    corpus = open_jsonl(mine)
    assert isinstance(corpus, Corpus)
    check_corpus(corpus)
    assert corpus.name == "mine"
    assert list(corpus.passages) == [Passage(**row) for row in sorted(PASSAGES, key=lambda row: row["id"])]
    assert corpus.passages[-1].text == "Ünïcode 東京"
    assert [passage.id for passage in corpus.passages[1:]] == ["b", "ç"]
    with pytest.raises(IndexError):
        corpus.passages[3]
    assert corpus.splits == ("train", "dev")
    assert [question.id for question in corpus.questions("train")] == ["q1", "q3"]
    assert corpus.questions("train")[0] == Question(
        id="q1",
        text="Which river is in the land where Mira Voss was born?",
        answers=("Aln",),
        split="train",
        type="chain",
        hops=2,
        supporting_ids=("a", "b"),
        chain=(Hop("Mira Voss", "born in", ("a",), "Bor"), Hop("river of Bor", "river", ("b",), "Aln")),
        metadata={"source": "hand"},
    )
    assert corpus.question("q2") == Question(
        "q2", "Where is the Aln?", ("Bor", "in Bor"), "dev", metadata={"level": "easy"}
    )
    check_retriever(open_bm25(corpus), corpus)


def test_unknown_tasks_and_splits(mine: Path, tmp_path: Path) -> None:
    corpus = open_jsonl(mine)
    with pytest.raises(UnknownIdError, match=r"unknown split 'test'.*Known: dev, train"):
        corpus.questions("test")
    with pytest.raises(UnknownIdError, match=r"unknown task 'q11'. Did you mean 'q1'"):
        corpus.question("q11")
    write(tmp_path / "bare", "passages.jsonl", PASSAGES)
    bare = open_jsonl(tmp_path / "bare")
    assert bare.splits == ()
    with pytest.raises(
        UnknownIdError, match=r"'bare' was opened without questions. Add questions.jsonl\[.gz\], or"
    ):
        bare.questions("train")


def test_the_hash_is_of_the_passages_alone(mine: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", "passages.jsonl.gz", PASSAGES[::-1])
    shifted = [*PASSAGES[:2], {"id": "ç", "title": "ZoëÜ", "text": "nïcode 東京"}]
    write(tmp_path / "shifted", "passages.jsonl", shifted)
    corpus, other, third = (open_jsonl(tmp_path / name) for name in ("mine", "other", "shifted"))
    assert corpus.hash == other.hash
    assert corpus.hash != third.hash
    assert list(corpus.passages) == list(other.passages)


def test_questions_without_a_split_go_where_they_are_told(mine: Path) -> None:
    assert open_jsonl(mine, split="test").question("q3").split == "test"
    assert open_jsonl(mine).question("q3").split == "train"
    with pytest.raises(ConfigError, match="split is 'validation': use one of train, dev, test"):
        open_jsonl(mine, split="validation")


def test_flashrag_files(tmp_path: Path) -> None:
    write(
        tmp_path / "wiki",
        "passages.jsonl",
        [
            {"id": "0", "contents": '"Aaron"\nAaron is a prophet.\nHe is a brother of Moses.'},
            {"id": "1", "contents": "Plain title\r\nA text."},
            {"id": "2", "contents": "No title, one line."},
            {"id": "3", "contents": '"\nA title of one quotation mark.'},
        ],
    )
    row = {"id": "test_0", "question": "Who?", "golden_answers": ["Aaron"], "metadata": {"type": "bridge"}}
    write(tmp_path / "wiki", "questions.jsonl", [row])
    corpus = open_jsonl(tmp_path / "wiki")
    assert [(p.title, p.text) for p in corpus.passages] == [
        ("Aaron", "Aaron is a prophet.\nHe is a brother of Moses."),
        ("Plain title", "A text."),
        ("", "No title, one line."),
        ('"', "A title of one quotation mark."),
    ]
    assert corpus.questions("train")[0].answers == ("Aaron",)
    assert corpus.questions("train")[0].metadata == {"type": "bridge"}


def test_null_is_as_good_as_absent(tmp_path: Path) -> None:
    write(tmp_path / "c", "passages.jsonl", PASSAGES)
    nothing = dict.fromkeys(("supporting_ids", "hops", "type", "split", "chain", "metadata"))
    write(tmp_path / "c", "questions.jsonl", [{"id": "q", "question": "?", "answers": ["x"], **nothing}])
    assert open_jsonl(tmp_path / "c").question("q") == Question("q", "?", ("x",), "train")


def question(**changes: Any) -> dict[str, Any]:
    return {"id": "q", "question": "Where?", "answers": ["x"], **changes}


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


DEEP = b'{"id": "c", "title": "", "text": "x", "z": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD_PASSAGES: list[tuple[Any, str]] = [
    (b"{'id': 1}", "not JSON .*one JSON object on each line"),
    (b'{"id": "c", "title": "", "text": "x"', "not JSON"),
    (b'{"id": "c", "title": "", "text": "x", "n": NaN}', "not JSON .NaN"),
    (DEEP, "not JSON"),
    (b"[1, 2]", "a list, not an object"),
    (b"null", "null, not an object"),
    (b"", "line 4: empty. Remove the line"),
    (b"  \t ", "line 4: empty. Remove the line"),
    (
        b'{"id": "c", "title": "caf\xe9", "text": "x"}',
        "not UTF-8 .byte 0xe9 at byte 26.*Save the file as UTF-8",
    ),
    (b'{"id": "c", "title": "\\ud800", "text": "x"}', "'title' has a lone surrogate"),
    (b'{"id": "c", "title": "", "text": "\\udfffx"}', "'text' has a lone surrogate"),
    (b'{"id": "c", "title": "", "text": "' + b"x" * 10_000_000 + b'"}', "longer than 10,000,000 bytes"),
    ({"title": "", "text": "x"}, "no field 'id'. Add it. It has text, title"),
    ({"id": "c", "text": "x"}, "no field 'title'"),
    ({"id": "c", "titel": "T", "text": "x"}, "no field 'title'. Add it. Did you mean 'titel'"),
    ({"id": "c", "title": "T", "body": "x"}, "no field 'text'"),
    ({"id": "c", "title": "T", "text": None}, "field 'text' is null"),
    ({"id": 7, "title": "", "text": "x"}, "field 'id' is a number, not a string"),
    ({"id": "c", "title": ["T"], "text": "x"}, "field 'title' is a list, not a string"),
    ({"id": "c", "title": "", "text": {"a": 1}}, "field 'text' is an object, not a string"),
    ({"id": " ", "title": "", "text": "x"}, "field 'id' is empty"),
    ({"id": "c", "title": "T", "text": " \n"}, "field 'text' is empty"),
    ({"id": "c", "contents": '"T"\n  '}, "'contents' after its first line, the title, is empty"),
    ({"id": "a", "title": "", "text": "x"}, "id 'a' was already used in line 2"),
]
BAD_QUESTIONS: list[tuple[Any, str]] = [
    (without(question(), "id"), "no field 'id'"),
    (without(question(), "question"), "no field 'question'"),
    (without(question(), "answers"), "no field 'answers'"),
    (question(answers="x"), "field 'answers' is a string, not a list"),
    (question(answers=[]), "the list of answers is empty. Give at least one"),
    (question(answers=["x", 3]), "field 'answers' contains 3. Write a list of strings"),
    (question(answers=["x", ["y" * 1000]]), r"field 'answers' contains \['yyy"),
    (question(answers=["x", ""]), "an entry of field 'answers' is empty"),
    (question(answers=["\u2003"]), "an entry of field 'answers' is empty"),
    (question(question=""), "field 'question' is empty"),
    (question(supporting_ids=["a", "zz"]), "supporting_ids contains 'zz', which is not the id of a passage"),
    (question(supporting_ids="a"), "field 'supporting_ids' is a string, not a list"),
    (question(hops="2"), "field 'hops' is a string, not a number"),
    (question(hops=True), "field 'hops' is a boolean, not a number"),
    (question(hops=-1), "hops is -1"),
    (question(type=3), "field 'type' is a number"),
    (question(split="validation"), "split is 'validation'. Use train, dev or test"),
    (question(metadata=[1]), "field 'metadata' is a list, not an object"),
    (question(chain=["a"]), r"chain\[0\] is 'a'"),
    (question(chain=[{"query": "x", "relation": "y", "bridge": "z"}]), "no field 'passage_ids'"),
    (
        question(chain=[{"query": "x", "relation": "y", "passage_ids": ["zz"], "bridge": "z"}]),
        "passage_ids contains 'zz'",
    ),
    (question(id="q1"), "id 'q1' was already used in line 2"),
    (b'{"id": "q", "question": "\xff", "answers": ["x"]}', "not UTF-8"),
]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("stem", "row", "message"),
    [("passages", *bad) for bad in BAD_PASSAGES] + [("questions", *bad) for bad in BAD_QUESTIONS],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_every_bad_line_is_one_error_and_nothing_is_kept(
    tmp_path: Path, home: Path, stem: str, row: Any, message: str, suffix: str
) -> None:
    for name, rows in GOOD.items():
        bad = name.startswith(stem)
        file = write(tmp_path / "bad", name + suffix, [*rows, row] if bad else rows)
        if bad:
            guilty = file
    with pytest.raises(CorpusError, match=message) as caught:
        open_jsonl(tmp_path / "bad")
    text = str(caught.value)
    assert text.startswith(f"{guilty}, line 4: ")
    assert len(text) < 500
    assert "\n" not in text
    kept = {path.relative_to(home).parts[1] for path in home.rglob("*.bin")}
    assert kept == ({"passages"} if stem == "questions" else set())  # whole, and of use to other questions
    assert list(home.rglob("*.tmp")) == []


def test_missing_empty_and_ambiguous_files(mine: Path, tmp_path: Path, home: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"is not a directory or a .jsonl, .jsonl.gz, .parquet file: give one with"
    ):
        open_jsonl(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="is not a directory"):
        open_jsonl(write(tmp_path, "notes.txt", PASSAGES))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"has no passages.jsonl or passages.jsonl.gz"):
        open_jsonl(tmp_path / "empty")
    write(tmp_path / "blank", "passages.jsonl", [])
    with pytest.raises(CorpusError, match="has no passages: put at least one line"):
        open_jsonl(tmp_path / "blank")
    write(mine, "passages.jsonl.gz", PASSAGES)
    with pytest.raises(CorpusError, match=r"has both passages.jsonl and passages.jsonl.gz: remove one"):
        open_jsonl(mine)
    (tmp_path / "folder" / "passages.jsonl").mkdir(parents=True)
    with pytest.raises(CorpusError, match="cannot be read: Is a directory"):
        open_jsonl(tmp_path / "folder")
    assert list(home.rglob("*.bin")) == []


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-20], lambda d: b"plain text", lambda d: d[:30] + b"\0" * 8 + d[38:]]
)
def test_damaged_gzip_files(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = write(tmp_path / "c", "passages.jsonl.gz", PASSAGES * 1)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        CorpusError, match=r"passages.jsonl.gz, line \d+: the compressed data.*Copy the file again"
    ):
        open_jsonl(tmp_path / "c")


def test_a_last_line_without_newline_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "c", "passages.jsonl", PASSAGES)
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    assert len(open_jsonl(tmp_path / "c").passages) == 3


def test_it_is_packed_once_and_again_when_a_file_changes(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_jsonl(mine)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_build_passages", None)
        patch.setattr(module, "_build_questions", None)
        again = open_jsonl(mine)
    assert list(again.passages) == list(first.passages)
    file = write(mine, "passages.jsonl", [{**row, "text": row["text"].replace("B", "D")} for row in PASSAGES])
    os.utime(file, ns=(1, 1))
    changed = open_jsonl(mine)
    assert changed.hash != first.hash
    assert changed.passages[1].text == "The Aln is a river of Dor."
    assert first.passages[1].text == "The Aln is a river of Bor."


def test_pickled_it_is_opened_again(mine: Path) -> None:
    corpus = open_jsonl(mine, split="dev")
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.hash == corpus.hash
    assert list(copy.questions("dev")) == list(corpus.questions("dev"))


def test_the_environments_door_leads_here(mine: Path) -> None:
    for spec in (str(mine), {"name": "jsonl", "path": str(mine)}):
        corpus = specs.open_corpus(spec)
        assert isinstance(corpus, JsonlCorpus)
        assert specs.open_retriever("bm25", corpus).search(["Aln"], 1)[0][0].id == "b"


@pytest.mark.parametrize(
    ("name", "passages", "questions", "recall_at"),
    [
        ("hotpotqa", 14_847, 785, {3: 0.64, 5: 0.73, 10: 0.84}),
        ("2wiki", 16_909, 678, {3: 0.62, 5: 0.66, 10: 0.70}),
    ],
)
def test_real_wikipedia_passages(
    searchgym_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    passages: int,
    questions: int,
    recall_at: dict[int, float],
) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set is missing: {DATA / name}")
    monkeypatch.setenv("SEARCHGYM_HOME", str(searchgym_home))  # other tests read these data too
    corpus = open_jsonl(DATA / name)
    check_corpus(corpus)
    asked = [question for split in corpus.splits for question in corpus.questions(split)]
    assert (len(corpus.passages), len(asked)) == (passages, questions)
    results = open_bm25(corpus).search([question.text for question in asked], 10)
    for k, expected in recall_at.items():
        found = [
            len({hit.id for hit in hits[:k]} & set(question.supporting_ids))
            / len(set(question.supporting_ids))  # type: ignore[union-attr, index]
            for question, hits in zip(asked, results, strict=True)
        ]
        assert expected <= sum(found) / len(found) < expected + 0.02, f"recall@{k}"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = write(tmp_path / "c", "passages.jsonl", PASSAGES)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(open_jsonl(tmp_path / "c").passages) == 3
    file.write_bytes(file.read_bytes()[3:] + b"\xef\xbb\xbf{}\n")  # in the middle it is a mistake
    with pytest.raises(CorpusError, match=r"line 4: not JSON \(Unexpected UTF-8 BOM"):
        open_jsonl(tmp_path / "c")


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (gzip.compress, r"line 1: compressed with gzip. Name it ….jsonl.gz."),
        (bz2.compress, r"line 1: compressed with bzip2. Decompress it, or use gzip"),
        (lzma.compress, r"line 1: compressed with xz. Decompress it, or use gzip"),
        (lambda data: b"\x28\xb5\x2f\xfd\x24\xff" + data, r"line 1: compressed with zstd. Decompress it"),
    ],
)
def test_a_compressed_file_by_the_name_of_a_plain_one(
    tmp_path: Path, pack: Callable[[bytes], bytes], message: str
) -> None:
    file = write(tmp_path / "c", "passages.jsonl", PASSAGES)
    file.write_bytes(pack(file.read_bytes()))
    with pytest.raises(CorpusError, match=message):
        open_jsonl(tmp_path / "c")
    file.rename(tmp_path / "c" / "passages.jsonl.zst")
    with pytest.raises(CorpusError, match=r"put one there. It has passages.jsonl.zst, which is not read"):
        open_jsonl(tmp_path / "c")


def test_a_file_of_passages_is_a_corpus_wherever_one_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "my passages.jsonl", PASSAGES)
    corpus = specs.open_corpus(str(file))
    assert [passage.id for passage in corpus.passages] == ["a", "b", "ç"]
    assert specs.open_corpus(str(file)) is corpus
    write(tmp_path, "my passages.jsonl", PASSAGES[:2])
    assert len(specs.open_corpus(str(file)).passages) == 2
    with pytest.raises(
        CorpusError, match=r"notes.txt is not a directory or a .jsonl, .jsonl.gz, .parquet file"
    ):
        specs.open_corpus(str(write(tmp_path, "notes.txt", PASSAGES)))


def test_questions_from_elsewhere_are_opened_anew_when_they_change(mine: Path, tmp_path: Path) -> None:
    file = write(tmp_path, "more.jsonl", QUESTIONS)
    spec = {"name": "jsonl", "path": str(mine), "questions": [str(file)]}
    assert specs.open_corpus(spec) is specs.open_corpus(spec)
    write(tmp_path, "more.jsonl", QUESTIONS[:1])
    corpus = specs.open_corpus(spec)
    assert [len(corpus.questions(split)) for split in corpus.splits] == [1]
