"""Published question sets over one's own passages: their files, ids, splits, types, and the gold passages they name."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from searchgym import specs
from searchgym.conformance import check_corpus
from searchgym.corpora.datasets.gold import Fact, gold_facts
from searchgym.corpora.datasets.jsonl import find_questions, open_jsonl, split_of
from searchgym.errors import CorpusError

CONTEXT = {
    "title": ["Aln", "Mira Voss"],
    "sentences": [
        ["The Aln is a river.", " It rises at the Bor and reaches the sea at Dorn."],
        ["Mira Voss is an engineer.", " She was born in Dorn."],
    ],
}
WIKI = [
    {"id": "0", "contents": '"Aln"\nThe Aln is a river of Bor.'},
    {"id": "1", "contents": '"Aln"\nIt rises at the Bor hills, and reaches the sea at Dorn.'},
    {"id": "2", "contents": '"Mira Voss"\nMira Voss is an engineer, born in Dorn.'},
    {"id": "3", "contents": '"Dorn"\nDorn is a town.'},
    {"id": "4", "contents": '"Dorn"\nDorn is a sweet.'},
]


def hotpot(id: str = "dev_0", **metadata: Any) -> dict[str, Any]:
    facts = {"title": ["Mira Voss", "Aln"], "sent_id": [1, 1]}
    full = {"type": "bridge", "level": "hard", "supporting_facts": facts, "context": CONTEXT, **metadata}
    return {"id": id, "question": "Which river?", "golden_answers": ["Aln", "the Aln"], "metadata": full}


def plain(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "question": "Who?", "golden_answers": ["Mira Voss"], **fields}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    return write(tmp_path / "wiki.jsonl.gz", WIKI)


def test_a_question_set_over_passages_from_elsewhere(wiki: Path, tmp_path: Path) -> None:
    write(tmp_path / "nq" / "train.jsonl", [plain("train_0")])
    write(tmp_path / "nq" / "dev.jsonl.gz", [plain("dev_0"), plain("dev_1")])
    write(tmp_path / "nq" / "notes.jsonl", [{"no": "question"}])
    corpus = open_jsonl(wiki, questions=tmp_path / "nq")
    check_corpus(corpus)
    assert corpus.name == "wiki+nq"
    assert corpus.splits == ("train", "dev")
    assert [question.id for question in corpus.questions("dev")] == ["nq/dev_0", "nq/dev_1"]
    question = corpus.question("nq/train_0")
    assert (question.type, question.hops, question.supporting_ids) == ("nq", 0, ())
    assert list(pickle.loads(pickle.dumps(corpus)).questions("dev")) == list(corpus.questions("dev"))


def test_several_sets_and_a_file(wiki: Path, tmp_path: Path) -> None:
    for name in ("nq", "popqa"):
        write(tmp_path / name / "test.jsonl", [plain("test_0")])
    own = write(tmp_path / "own.jsonl", [{"id": "mine", "question": "?", "answers": ["x"], "split": "test"}])
    spec = {
        "name": "jsonl",
        "path": str(wiki),
        "questions": [str(tmp_path / "nq"), str(tmp_path / "popqa"), str(own)],
    }
    corpus = specs.open_corpus(spec)
    assert [question.id for question in corpus.questions("test")] == ["nq/test_0", "popqa/test_0", "mine"]
    assert [question.type for question in corpus.questions("test")] == ["nq", "popqa", "unknown"]


def test_the_split_of_a_file_is_in_its_name(tmp_path: Path) -> None:
    names = [
        "train.jsonl",
        "validation-00000-of-00002.parquet",
        "dev_full.jsonl",
        "Test.jsonl.gz",
        "corpus.jsonl",
    ]
    assert [split_of(name) for name in names] == ["train", "dev", "dev", "test", ""]
    write(tmp_path / "x" / "validation-00000-of-00001.jsonl", [plain("q")])
    (source,) = find_questions(tmp_path / "x")
    assert (source.split, source.set) == ("dev", "x")
    (source,) = find_questions(write(tmp_path / "test.jsonl", [plain("q")]), "train")
    assert (source.split, source.set) == ("test", "")
    for missing in (tmp_path / "nowhere", tmp_path):
        (tmp_path / "test.jsonl").unlink(missing_ok=True)
        with pytest.raises(
            CorpusError, match=r"contains no questions: give a .jsonl, .jsonl.gz, .parquet file"
        ):
            find_questions(missing)


def test_gold_passages_are_found_by_title_and_sentence(wiki: Path, tmp_path: Path) -> None:
    rows = [
        hotpot("two"),
        hotpot("first", supporting_facts={"title": ["Aln"], "sent_id": [0]}),
        hotpot("both", supporting_facts={"title": ["Aln", "Aln"], "sent_id": [0, 1]}),
    ]
    write(tmp_path / "hotpotqa" / "dev.jsonl", rows)
    corpus = open_jsonl(wiki, questions=tmp_path / "hotpotqa")
    two = corpus.question("hotpotqa/two")
    assert (two.supporting_ids, two.type, two.hops) == (("2", "1"), "bridge", 2)
    assert corpus.question("hotpotqa/first").supporting_ids == ("0",)
    assert corpus.question("hotpotqa/both").supporting_ids == ("0", "1")
    assert corpus.facts["questions_with_gold_passages"] == 3


def test_a_question_with_one_article_not_found_has_no_gold_passages(wiki: Path, tmp_path: Path) -> None:
    unknown = {"title": ["Mira Voss", "Atlantis"], "sent_id": [0, 0]}
    ambiguous = {"title": ["Mira Voss", "Dorn"], "sent_id": [0, 0]}  # two passages, no sentence to choose by
    other_text = {"title": ["Aln"], "sentences": [["Entirely different words stand here."]]}
    rows = [
        hotpot("unknown", supporting_facts=unknown),
        hotpot("ambiguous", supporting_facts=ambiguous),
        hotpot("other", supporting_facts={"title": ["Aln"], "sent_id": [0]}, context=other_text),
        hotpot("own") | {"supporting_ids": ["3"]},
    ]
    write(tmp_path / "q.jsonl", rows)
    corpus = open_jsonl(wiki, questions=tmp_path / "q.jsonl")
    assert {q.id: q.supporting_ids for q in corpus.questions("train")} == {
        "unknown": (),
        "ambiguous": (),
        "other": (),
        "own": ("3",),
    }


def test_the_forms_of_evidence() -> None:
    content = {"title": CONTEXT["title"], "content": CONTEXT["sentences"]}  # 2WikiMultihopQA says "content"
    for context in (CONTEXT, content):
        facts = gold_facts({"supporting_facts": {"title": ["Mira Voss"], "sent_id": [1]}, "context": context})
        assert facts == [Fact("Mira Voss", " She was born in Dorn.")]
    steps = [
        {"support_paragraph": {"title": "Aln", "paragraph_text": "The Aln."}},
        {"support_paragraph": {"title": "Dorn", "paragraph_text": None}},
        {"support_paragraph": None},
    ]
    assert gold_facts({"question_decomposition": steps}) == [Fact("Aln", "The Aln."), Fact("Dorn", "")]
    # Anything else in these fields is neither evidence nor an error.
    for facts in (None, [], ["Aln", 0], {"title": "Aln"}, {"title": [None, 3, " "]}, {}):
        assert gold_facts({"supporting_facts": facts, "context": CONTEXT}) == []
    out_of_range = {"supporting_facts": {"title": ["Aln"] * 3, "sent_id": [7, -1, None]}, "context": CONTEXT}
    assert gold_facts(out_of_range) == [Fact("Aln", "")]
    assert gold_facts({"supporting_facts": {"title": ["X"]}, "context": {"title": None}}) == [Fact("X", "")]


def test_musique_hops_are_the_steps_of_its_decomposition(wiki: Path, tmp_path: Path) -> None:
    titles = ["Mira Voss", "Aln", "Aln"]
    steps = [
        {"support_paragraph": {"title": title, "paragraph_text": text}}
        for title, text in zip(titles, ["", WIKI[0]["contents"], WIKI[0]["contents"]], strict=True)
    ]
    write(tmp_path / "musique" / "dev.jsonl", [plain("0", metadata={"question_decomposition": steps})])
    question = open_jsonl(wiki, questions=tmp_path / "musique").question("musique/0")
    assert (question.hops, question.supporting_ids) == (3, ("2", "0"))


def test_a_file_that_joins_sets_names_each_question_by_its_set(wiki: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet files need the extra 'hub'")
    from pyarrow import parquet

    rows = [{**plain("train_0"), "metadata": None, "data_source": source} for source in ("nq", "hotpotqa")]
    rows[1]["metadata"] = {"type": "bridge", "supporting_facts": {"title": ["Mira Voss"], "sent_id": [0]}}
    file = tmp_path / "search-r1" / "train-00000-of-00001.parquet"
    file.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    corpus = open_jsonl(wiki, questions=file.parent)
    assert [question.id for question in corpus.questions("train")] == ["nq/train_0", "hotpotqa/train_0"]
    assert corpus.question("hotpotqa/train_0").supporting_ids == ("2",)
    rows[1]["golden_answers"] = []
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    with pytest.raises(CorpusError, match=r"parquet, row 2: the list of answers is empty"):
        open_jsonl(wiki, questions=file.parent)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorpusError, match=r"parquet, row 1: not a Parquet file, or damaged"):
        open_jsonl(wiki, questions=file.parent)


def test_passages_in_a_parquet_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet files need the extra 'hub'")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(
        [{"id": str(n), "title": "T", "text": f"text {n}"} for n in range(3000)]
    )
    parquet.write_table(table, tmp_path / "passages.parquet")
    corpus = open_jsonl(tmp_path)
    assert len(corpus.passages) == 3000
    assert [passage.id for passage in corpus.passages[:3]] == ["0", "1", "10"]


def test_other_questions_do_not_pack_the_passages_again(wiki: Path, tmp_path: Path, home: Path) -> None:
    for name in ("nq", "popqa"):
        write(tmp_path / name / "test.jsonl", [plain("test_0")])
        open_jsonl(wiki, questions=tmp_path / name)
    assert len(list((home / "cache" / "passages").glob("*/corpus.json"))) == 1
    assert len(list((home / "cache" / "questions").glob("*/questions.json"))) == 2
