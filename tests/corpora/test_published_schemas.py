"""Files as others publish them: null columns, other names, other types, other schemas, and what is said about them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from searchgym.cli import main
from searchgym.corpora.datasets.fields import Source
from searchgym.corpora.datasets.jsonl import JsonlCorpus, open_jsonl
from searchgym.errors import CorpusError
from searchgym.records.question import Passage, Question

PASSAGE = {"id": "1", "title": "A", "text": "b c"}
QUESTION = {"id": "q", "question": "Who?", "golden_answers": ["x"]}
NAN = float("nan")


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="the extra hub is not installed")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def published(passages: Path, questions: list[Path]) -> JsonlCorpus:
    sources = [Source(file, foreign=True) for file in questions]
    return JsonlCorpus("published", [Source(passages, foreign=True)], sources, ())


def read_passages(tmp_path: Path, rows: list[dict[str, Any]], foreign: bool, suffix: str) -> JsonlCorpus:
    file = write(tmp_path / f"passages{suffix}", rows)
    return published(file, []) if foreign else open_jsonl(file)


def read_questions(tmp_path: Path, rows: list[dict[str, Any]], foreign: bool, suffix: str) -> JsonlCorpus:
    passages = write(tmp_path / "passages.jsonl", [PASSAGE])
    file = write(tmp_path / f"mine{suffix}", rows)
    return published(passages, [file]) if foreign else open_jsonl(passages, questions=file)


ANYWHERE = ("A", "b c")
PASSAGES: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"id": "1", "contents": '"A"\nb c', "text": None}, ANYWHERE),
    ({"id": "1", "contents": '"A"\nb c', "text": None, "title": None}, ANYWHERE),
    ({"id": "1", "contents": None, "title": "A", "text": "b c"}, ANYWHERE),
    ({"id": "1", "contents": "b c", "title": "A"}, ANYWHERE),
    ({"id": "1", "contents": "b c", "title": "A", "text": None}, ANYWHERE),
    ({"id": "1", "contents": '"A"\nb c', "title": "A"}, ANYWHERE),
    ({"id": "1", "contents": "A\nb c", "title": "A"}, ANYWHERE),
    ({"id": "1", "contents": "b c\nd", "title": "A"}, ("A", "b c\nd")),
    ({"id": "1", "contents": "b c\nd", "title": ""}, ("b c", "d")),
    ({"id": "1", "contents": "b c", "title": " "}, ("", "b c")),
    ({"id": "1", "contents": "no", "title": "A", "text": "b c"}, ANYWHERE),
    ({"id": "1", "title": None, "text": "b c"}, ("", "b c")),
    ({"id": 1, "contents": '"A"\nb c'}, ANYWHERE),
    ({"id": 1.0, "contents": '"A"\nb c'}, ANYWHERE),
]


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(("row", "expected"), PASSAGES)
def test_passages(tmp_path: Path, row: dict[str, Any], expected: tuple[str, str], foreign: bool) -> None:
    assert list(read_passages(tmp_path, [row], foreign, ".jsonl").passages) == [Passage("1", *expected)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": 1, "text": "b c"}, ("", "b c")),
        ({"id": 1.0, "title": 1984, "text": "b c"}, ("1984", "b c")),
    ],
)
def test_passages_of_published_files(tmp_path: Path, row: dict[str, Any], expected: tuple[str, str]) -> None:
    assert list(read_passages(tmp_path, [row], True, ".jsonl").passages) == [Passage("1", *expected)]


def test_a_table_of_both_forms_has_null_columns(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "title": "A", "text": "b c", "contents": None},
        {"id": "2", "title": None, "text": None, "contents": '"B"\nd'},
    ]
    corpus = read_passages(tmp_path, rows, False, ".parquet")
    assert list(corpus.passages) == [Passage("1", "A", "b c"), Passage("2", "B", "d")]
    rows = [
        {"id": "q1", "question": "?", "answers": ["x"], "golden_answers": None, "hops": 2.0, "type": None},
        {
            "id": "q2",
            "question": "?",
            "answers": None,
            "golden_answers": ["y"],
            "hops": NAN,
            "type": "bridge",
        },
    ]
    first, second = read_questions(tmp_path, rows, False, ".parquet").questions("train")
    assert (first.answers, first.hops, first.type) == (("x",), 2, "unknown")
    assert (second.answers, second.hops, second.type) == (("y",), 0, "bridge")


def verl(**fields: Any) -> dict[str, Any]:
    return {
        "data_source": "nq",
        "prompt": [
            {"role": "system", "content": "Search."},
            {"role": "user", "content": "Answer the given question. Question: Who?\n"},
        ],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["x", "y"]}},
        "extra_info": {"split": "train", "index": 7},
        **fields,
    }


ANSWERS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({**QUESTION, "answers": None}, ("x",)),
    ({**QUESTION, "answers": []}, ("x",)),
    ({**QUESTION, "answers": ["y"]}, ("y",)),
    ({**QUESTION, "answers": ["y"], "golden_answers": None}, ("y",)),
    ({**QUESTION, "golden_answers": "x"}, ("x",)),
    ({**QUESTION, "golden_answers": [["x"], ["y", "z"]]}, ("x", "y", "z")),
    ({**QUESTION, "golden_answers": ["x", ["y"]]}, ("x", "y")),
    ({**QUESTION, "golden_answers": [["x"], []]}, ("x",)),
    ({**QUESTION, "golden_answers": 1887}, ("1887",)),
    ({**QUESTION, "golden_answers": [1887, "x", 2.0, 2.5]}, ("1887", "x", "2", "2.5")),
    ({**QUESTION, "golden_answers": ["x", None, "", "  "]}, ("x",)),
    ({**QUESTION, "golden_answers": '["x", "y"]'}, ("x", "y")),
    ({**QUESTION, "golden_answers": "[sic]"}, ("[sic]",)),
    ({**QUESTION, "golden_answers": ["x", "x"]}, ("x",)),
    ({**QUESTION, "metadata": None, "hops": None, "type": None, "split": None, "chain": None}, ("x",)),
    ({**QUESTION, "supporting_ids": None, "hops": 2.0}, ("x",)),
    ({**QUESTION, "id": 3}, ("x",)),
    ({**QUESTION, "id": 3.0}, ("x",)),
    (verl(), ("x", "y")),
    (verl(reward_model={"style": "rule", "ground_truth": "x"}), ("x",)),
    (verl(reward_model={"style": "rule", "ground_truth": ["x"]}), ("x",)),
    (verl(reward_model={"style": "rule", "ground_truth": {"target": "x"}}), ("x",)),
    (verl(reward_model={"style": "rule", "ground_truth": {"target": [["x"]]}}), ("x",)),
    (verl(golden_answers=["z"]), ("z",)),
    (verl(golden_answers=None, question="Who?", id="q"), ("x", "y")),
]


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize(("row", "expected"), ANSWERS)
def test_answers(tmp_path: Path, row: dict[str, Any], expected: tuple[str, ...], foreign: bool) -> None:
    (question,) = read_questions(tmp_path, [row], foreign, ".jsonl").questions("train")
    assert (question.text, question.answers) == ("Who?", expected)
    assert question.id in {"q", "3", "train_7"}


def test_a_file_of_verls_rows(tmp_path: Path) -> None:
    rows = [verl(extra_info={"index": 0}), verl(extra_info={"question": "When?"}), verl(extra_info=None)]
    rows[2]["prompt"] = [{"role": "user", "content": "Where?"}]
    passages = write(tmp_path / "passages.jsonl", [PASSAGE])
    write(tmp_path / "nq_search" / "test.parquet", rows)
    corpus = open_jsonl(passages, questions=tmp_path / "nq_search")
    found = [(question.id, question.text) for question in corpus.questions("test")]
    assert found == [("nq/test_0", "Who?"), ("nq/test_1", "When?"), ("nq/test_2", "Where?")]


@pytest.mark.parametrize(
    "row",
    [
        {**QUESTION, "golden_answers": []},
        {**QUESTION, "golden_answers": [""]},
        {**QUESTION, "golden_answers": [None]},
        {**QUESTION, "golden_answers": {"value": "x"}},
        {"id": "q", "question": "Who?", "reward_model": {"ground_truth": {"target": ["x"]}}},
        {"id": "q", "question": "Who?", "possible_answers": ["x"]},
        {"id": "q", "question": " ", "golden_answers": ["x"]},
        {"id": "q", "question": None, "golden_answers": ["x"]},
        {"id": "q", "question": "Who?", "golden_answers": None, "answers": None},
    ],
)
def test_a_set_without_a_usable_question_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match=r"has no usable questions: .*skipped \(2\).* has the fields .*id"):
        read_questions(tmp_path, [row, {**row, "id": "r"}], True, ".jsonl")


@pytest.mark.parametrize(
    "row",
    [{"id": "1", "contents": " "}, {"id": "1", "contents": '"A"\n '}, {"id": "1", "title": "A", "text": ""}],
)
def test_a_set_without_a_usable_passage_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(CorpusError, match=r"has no usable passages: .*skipped \(1\).* has the fields .*id"):
        read_passages(tmp_path, [row], True, ".jsonl")


def test_no_file_and_no_set_may_be_empty(tmp_path: Path) -> None:
    passages = write(tmp_path / "passages.jsonl", [PASSAGE])
    write(tmp_path / "questions.jsonl", [])
    with pytest.raises(CorpusError, match=r"questions.jsonl has no questions: put at least one line in it"):
        open_jsonl(tmp_path)
    good = write(tmp_path / "good.jsonl", [QUESTION])
    with pytest.raises(CorpusError, match=r"questions.jsonl has no questions"):
        open_jsonl(passages, questions=[good, tmp_path / "questions.jsonl"])
    # One split of a set may be without answers, as published test splits are.
    write(tmp_path / "set" / "dev.jsonl", [QUESTION])
    write(tmp_path / "set" / "test.jsonl", [{**QUESTION, "golden_answers": []}])
    sources = [Source(tmp_path / "set" / f"{s}.jsonl", s, "set", foreign=True) for s in ("dev", "test")]
    corpus = JsonlCorpus("x", [Source(passages)], sources, ())
    assert corpus.splits == ("dev",)


@pytest.mark.parametrize("name", ["passages.jsonl", "passages.jsonl.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_content_of_a_published_file_tells_if_it_is_compressed(
    tmp_path: Path, name: str, packed: bool
) -> None:
    data = (json.dumps(PASSAGE) + "\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    assert list(published(tmp_path / name, []).passages) == [Passage("1", "A", "b c")]


def test_a_number_that_is_not_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"field 'hops' is 2.5, not a whole number"):
        read_questions(tmp_path, [{**QUESTION, "hops": 2.5}], False, ".jsonl")


def test_what_was_read_in_another_way_is_counted_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passages = write(
        tmp_path / "passages.jsonl",
        [{"id": "1", "title": "A", "contents": "b"}, {"id": "2", "title": None, "text": "c"}],
    )
    rows = [verl(), {**QUESTION, "golden_answers": "x"}, {**QUESTION, "id": "r", "answers": None}]
    questions = write(tmp_path / "mine.jsonl", rows)
    spec = json.dumps({"name": "jsonl", "path": str(passages), "questions": str(questions)})
    assert main(["corpus", "check", spec, "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes == {
        "passages": {
            "title beside contents: it is the title, contents the text": 1,
            "title absent or null: read as no title": 1,
        },
        "questions": {
            "answers in reward_model: read from there": 1,
            "question in the prompt: read from there": 1,
            "answers that are no list of strings: read as one": 1,
            "answers empty or null beside golden_answers: those are read": 1,
        },
    }
    for command in ("check", "info"):
        assert main(["corpus", command, spec]) == 0
        assert "title beside contents" in capsys.readouterr().out


def test_skipped_lines_are_counted_by_reason(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        QUESTION,
        {**QUESTION, "id": "r", "golden_answers": []},
        {**QUESTION, "id": "s", "question": None},
    ]
    corpus = read_questions(tmp_path, rows, True, ".jsonl")
    assert corpus.facts["questions_passed_over"] == 2
    assert corpus.facts["notes"]["questions"] == {
        "questions without a usable answer: skipped": 1,
        "questions without text: skipped": 1,
    }
    assert [question.id for question in corpus.questions("train")] == ["q"]
    assert isinstance(corpus.question("q"), Question)
