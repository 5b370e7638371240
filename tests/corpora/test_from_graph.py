"""Questions from a graph: exactly one answer each, gold paths that the passages show, and typed refusals of bad graphs."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine

import searchgym
from searchgym.corpora import open_jsonl
from searchgym.corpora.graph import WalkOptions, questions_from_graph
from searchgym.corpora.graph.index import Graph, class_of
from searchgym.corpora.graph.triples import read_corpus_links, read_labels, read_triples
from searchgym.corpora.graph.walks import Walk, Walker, answers_of
from searchgym.errors import ConfigError, CorpusError

GIVEN = "Ada Bel Cor Dov Eli Fay Gus Hal Ira Jon".split()
FAMILY = "Alder Birch Cedar Dogwood Elm Fir Gum Holly Ivy Juniper".split()
SMALL = WalkOptions(train=12, dev=3, test=0, hops=(3, 5))


def write(file: Path, rows: list[tuple[str, ...]]) -> Path:
    file.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")
    return file


def rows(seed: int = 0) -> list[tuple[str, ...]]:
    """A hundred people: mentors, several friends each (so that hops need telling apart), years and trades."""
    draw = random.Random(seed)
    names = [f"{given} {family}" for given in GIVEN for family in FAMILY]
    found: list[tuple[str, ...]] = []
    for name in names:
        found += [(name, "mentor", draw.choice(names))]
        found += [(name, "friend", friend) for friend in draw.sample(names, 2)]
        found += [(name, "year of birth", str(draw.randrange(1800, 2000)))]
        found += [(name, "trade", draw.choice(["painter", "poet", "surgeon", "tailor"]))]
    return found


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write(tmp_path / "people.tsv", rows())


def scan(graph: Graph, walk: Walk) -> set[int]:
    """The answers of a walk's question, from nothing but the list of triples."""
    triples = graph.triples
    table = list(
        zip(triples.subjects.tolist(), triples.predicates.tolist(), triples.objects.tolist(), strict=True)
    )

    def fits(node: int, constraint: Any) -> bool:
        relation, value, exact = constraint
        for subject, predicate, target in table:
            if subject == node and predicate == relation:
                name = triples.names[target]
                if exact and name == graph.value_names[value]:
                    return True
                years = triples.relations[relation].startswith("year")
                if not exact and class_of(name, years) == graph.class_names[value]:
                    return True
        return False

    reached = {n for n in range(len(triples.names)) if all(fits(n, one) for one in walk.description)}
    assert reached == {walk.start}
    for step in walk.steps:
        reached = {t for s, p, t in table if s in reached and p == step.relation}
        reached = {t for t in reached if all(fits(t, one) for one in step.constraints)}
    return reached


@pytest.mark.parametrize("obscure", [True, False])
def test_each_question_has_one_answer_by_a_scan_of_all_triples(graph: Path, obscure: bool) -> None:
    index = Graph(read_triples(graph))
    walks = [walk for walk, _ in zip(Walker(index, (3, 5), obscure).walks(), range(15), strict=False)]
    assert len(walks) == 15
    assert any(step.constraints for walk in walks for step in walk.steps)  # friends had to be told apart
    assert all(one.exact for walk in walks for one in walk.description) is (not obscure)
    for walk in walks:
        assert scan(index, walk) == {walk.nodes[-1]}
        assert answers_of(index, walk) == {walk.nodes[-1]}


def test_no_hop_can_be_skipped_and_no_node_is_named(graph: Path, tmp_path: Path) -> None:
    out = questions_from_graph(graph, tmp_path / "walks", SMALL)
    corpus = open_jsonl(out)
    texts = {passage.id: passage.text for passage in corpus.passages}
    starts = set()
    for split in corpus.splits:
        for question in corpus.questions(split):
            walk = question.metadata["walk"]
            starts.add(walk[0])
            assert 3 <= question.hops <= 5
            assert question.hops == len(question.chain) == len(question.supporting_ids)
            assert len(set(walk)) == len(walk) == question.hops + 1
            assert len(question.metadata["sub_questions"]) == question.hops + 1
            assert question.answers == (walk[-1],)
            assert not any(name in question.text for name in walk)
            for hop, (name, bridge) in zip(question.chain, pairwise(walk), strict=True):
                assert name in texts[hop.passage_ids[0]]
                assert bridge in texts[hop.passage_ids[0]]
            for number, passage in enumerate(question.supporting_ids):
                assert not any(name in texts[passage] for name in walk[number + 2 :])
    assert len(starts) == 15


def test_the_oracle_answers_all_of_them(graph: Path, tmp_path: Path) -> None:
    out = questions_from_graph(graph, tmp_path / "walks", SMALL)
    result = searchgym.evaluate("SearchQA-v0", "oracle", corpus=str(out), split="train")
    assert result.metrics["em"].value == 1.0


def test_equal_seeds_give_equal_files_and_a_finished_directory_is_kept(graph: Path, tmp_path: Path) -> None:
    first = questions_from_graph(graph, tmp_path / "a", SMALL)
    second = questions_from_graph(graph, tmp_path / "b", SMALL)
    for name in ("questions.jsonl", "passages.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    written = (first / "questions.jsonl").stat().st_mtime_ns
    assert questions_from_graph(graph, tmp_path / "a", SMALL) == first
    assert (first / "questions.jsonl").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="not empty"):
        questions_from_graph(graph, tmp_path / "a", WalkOptions(train=5, hops=(3, 5), seed=1))


def test_classes() -> None:
    assert class_of("1893", years=True) == ("decade", "1890s")
    assert class_of("1893", years=False) == ("digits", "4")
    assert class_of("1893-04-02", years=True) == ("decade", "1890s")
    assert class_of("1893-04-02", years=False) is None  # beside 1893, which is a number there
    assert class_of("-12,345.6", years=False) == ("digits", "-5")
    assert class_of("3500", years=True) is None  # beside 1893, which has four digits, too
    assert class_of("7th", years=False) is None  # beside 7, which begins with it, too
    assert class_of("0.5", years=False) == ("digits", "1")
    assert class_of("«émile»", years=False) == ("initial", "É")
    assert class_of("—", years=False) is None


def test_repeated_triples_and_self_loops_are_dropped_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "g.tsv", [("a", "r", "b"), ("a", "r", "b"), ("a", "r", "a"), ("b", "r", "a")])
    triples = read_triples(file)
    assert (triples.subjects.tolist(), triples.objects.tolist()) == ([0, 1], [1, 0])
    assert triples.notes == {"self-loops: dropped": 1, "repeated triples: dropped": 1}


def test_jsonl_and_gzip_hold_the_same_graph(tmp_path: Path) -> None:
    some = rows()[:40]
    packed = tmp_path / "g.tsv.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "g.tsv", some).read_bytes()))
    objects = tmp_path / "g.jsonl"
    objects.write_text(
        "".join(
            json.dumps(dict(zip(("subject", "relation", "object"), row, strict=True))) + "\n" for row in some
        )
    )
    expected = read_triples(tmp_path / "g.tsv")
    for file in (packed, objects):
        found = read_triples(file)
        assert found.names == expected.names
        assert found.objects.tolist() == expected.objects.tolist()


def test_labels_name_nodes_and_relations(tmp_path: Path) -> None:
    file = write(tmp_path / "g.tsv", [("Q1", "P1", "Q2"), ("Q2", "P2", "Q3"), ("Q1", "P2", "Q2")])
    labels = write(
        tmp_path / "l.txt",
        [("Q1", "Ada"), ("Q3", "Bern", "Berne"), ("P1", "town"), ("P2", "town"), ("Q9", "x")],
    )
    triples = read_triples(file, [labels])
    assert triples.names == ["Ada", "Q2", "Bern"]
    assert triples.aliases == {2: ("Berne",)}
    assert triples.relations == ["town"]  # P1 and P2 are one: a question could not tell them apart
    assert len(triples.subjects) == 2
    with pytest.raises(CorpusError, match="line 2: no name"):
        read_labels(write(tmp_path / "bad.txt", [("Q1", "Ada"), ("Q2",)]), {"Q1"})


def test_two_nodes_of_one_name_are_not_told_apart_by_it(tmp_path: Path) -> None:
    """The start can only be described by its town, and two towns have one name: no question."""
    file = write(
        tmp_path / "g.tsv",
        [("Q1", "town", "Q5"), ("Q2", "town", "Q6"), ("Q1", "mentor", "Q3"), ("Q2", "mentor", "Q3")],
    )
    labels = write(tmp_path / "l.tsv", [("Q5", "Aue"), ("Q6", "AUE")])
    assert list(Walker(Graph(read_triples(file)), (1, 1), obscure=False).walks())
    assert not list(Walker(Graph(read_triples(file, [labels])), (1, 1), obscure=False).walks())


def test_a_walk_does_not_pass_through_a_name_that_leads_to_two_answers(tmp_path: Path) -> None:
    """Two towns are called Aue: who reads the name of one cannot know which river is meant."""
    rows_ = [("Q1", "town", "Q2"), ("Q1", "trade", "poet"), ("Q1", "year", "1893"), ("Q2", "river", "Mur")]
    other = [("Q3", "river", "Inn")]
    labels = write(tmp_path / "l.tsv", [("Q2", "Aue"), ("Q3", "aue.")])
    for triples, kept in ((rows_, 1), (rows_ + other, 0)):
        file = write(tmp_path / "g.tsv", triples)
        walks = list(Walker(Graph(read_triples(file, [labels])), (2, 2)).walks())
        assert len(walks) == kept


def test_an_alias_of_the_answer_is_not_stated(tmp_path: Path) -> None:
    file = write(
        tmp_path / "g.tsv",
        [("a", "town", "Q1"), ("a", "mark", "the big apple"), ("b", "mark", "7th"), ("b", "town", "Q1")],
    )
    labels = write(tmp_path / "l.tsv", [("Q1", "New York", "Big Apple")])
    named = Graph(read_triples(file, [labels]))
    assert [walk.start for walk in Walker(named, (1, 1), obscure=False).walks()] == [
        named.triples.names.index("b")
    ]


def test_cycles_do_not_trap_a_walk(tmp_path: Path) -> None:
    ring = [(f"n{i}", "next", f"n{(i + 1) % 6}") for i in range(6)]
    file = write(tmp_path / "ring.tsv", [*ring, *((f"n{i}", "mark", f"{i} mark") for i in range(6))])
    walks = list(Walker(Graph(read_triples(file)), (4, 4)).walks())
    assert len(walks) == 6
    assert all(len(set(walk.nodes)) == 5 for walk in walks)
    with pytest.raises(CorpusError, match="the longest that was found has 6"):
        questions_from_graph(file, tmp_path / "out", WalkOptions(train=1, dev=0, test=0, hops=(9, 9)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tr\tb\na\tr\n", "line 2: 2 columns, not 3"),
        ("a\tr\tb\n\n", "line 2: empty"),
        ("a\t \tb\n", "line 1: a column is empty"),
        ("a\tr\ta\n", "contains no triple that joins two nodes"),
        ("", "contains no triple"),
    ],
)
def test_bad_rows(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "g.tsv"
    file.write_text(text)
    with pytest.raises(CorpusError, match=message):
        questions_from_graph(file, tmp_path / "out", SMALL)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["g.tsv"]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere.tsv cannot be read"):
        questions_from_graph(tmp_path / "nowhere.tsv", tmp_path / "out", SMALL)
    (tmp_path / "g.tsv.gz").write_bytes(gzip.compress(b"a\tr\tb\n" * 1000)[:-20])
    with pytest.raises(CorpusError, match="compressed data ends or is damaged"):
        read_triples(tmp_path / "g.tsv.gz")
    (tmp_path / "bytes.tsv").write_bytes(b"a\tr\tb\na\tr\t\xff\n")
    with pytest.raises(CorpusError, match="line 2: not UTF-8"):
        read_triples(tmp_path / "bytes.tsv")
    (tmp_path / "g.csv").write_text("a,r,b\n")
    with pytest.raises(CorpusError, match=r"is not a \.tsv"):
        read_triples(tmp_path / "g.csv")
    (tmp_path / "g.jsonl").write_text('{"subject": "a", "relation": "r"}\n')
    with pytest.raises(CorpusError, match="line 1: no field 'object'"):
        read_triples(tmp_path / "g.jsonl")


def test_too_few_questions_are_refused_with_their_number(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gave \d+ of 5,000 questions"):
        questions_from_graph(graph, tmp_path / "out", WalkOptions(train=5000, dev=0, test=0, hops=(3, 5)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": -1}, "number of train questions"),
        ({"train": 0, "dev": 0, "test": 0}, "at least one question"),
        ({"hops": (5, 3)}, "largest number of hops"),
        ({"hops": (0, 3)}, "least number of hops"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WalkOptions(**changes)


def linked(tmp_path: Path, **changes: Any) -> Path:
    place = tmp_path / "linked"
    place.mkdir()
    passages: list[dict[str, Any]] = [
        {
            "id": "aare",
            "title": "Aare",
            "text": "The Aare flows through Bern. It is 288 km long.",
            "links": [{"relation": "city", "id": "bern"}, {"relation": "length", "value": "288"}],
        },
        {
            "id": "bern",
            "title": "Bern",
            "text": "Bern was founded by Berthold V.",
            "links": [{"relation": "founder", "id": "berthold"}, {"relation": "twin", "value": "Prague"}],
        },
        {
            "id": "berthold",
            "title": "Berthold V",
            "text": "Berthold V died in 1218.",
            "links": [{"relation": "year of death", "value": "1218"}],
        },
    ]
    passages[0].update(changes)
    (place / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages))
    return place


def test_a_corpus_with_links(tmp_path: Path) -> None:
    place = linked(tmp_path)
    out = questions_from_graph(place, tmp_path / "out", WalkOptions(train=1, dev=0, test=0, hops=(3, 3)))
    corpus = open_jsonl(out)
    assert [p.text for p in corpus.passages] == [p.text for p in open_jsonl(place).passages]
    (question,) = corpus.questions("train")
    assert question.text == (
        "Something has a length that is a number of 3 digits. What is the year of death of the founder of its city?"
    )
    assert question.answers == ("1218",)
    assert question.supporting_ids == ("aare", "bern", "berthold")
    card = json.loads((out / "card.json").read_text())
    assert card["notes"] == {"links to what the passage does not mention: dropped": 1}  # Prague


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (["bern"], "field 'links' contains 'bern'"),
        ([{"relation": "city"}], 'either "id"'),
        ([{"relation": "city", "id": "bern", "value": "Bern"}], 'either "id"'),
        ([{"id": "bern"}], "no field 'relation'"),
        ([{"relation": "city", "id": "olten"}], "links to 'olten', which is not the id"),
    ],
)
def test_bad_links(tmp_path: Path, links: list[Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        read_corpus_links(linked(tmp_path, links=links) / "passages.jsonl")


def test_a_corpus_without_links_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_text('{"id": "a", "title": "A", "text": "a"}\n')
    with pytest.raises(CorpusError, match="no passage with links"):
        questions_from_graph(tmp_path, tmp_path / "out", SMALL)


def test_the_command(cli: CommandLine, graph: Path, tmp_path: Path) -> None:
    out = tmp_path / "walks"
    options = ("--train", "5", "--dev", "2", "--test", "0")
    status, text, _ = cli("corpus", "from-graph", str(graph), "--out", str(out), *options, "--hops", "3-4")
    assert status == 0
    assert "7 questions over 100 passages" in text
    assert cli("corpus", "check", str(out)).status == 0
    status, text, _ = cli(
        "corpus",
        "from-graph",
        str(graph),
        "--out",
        str(tmp_path / "b"),
        *options,
        "--hops",
        "3",
        "--exact",
        "--json",
    )
    card = json.loads(text)
    assert (card["questions_by_hops"], card["exact_share_of_constraints"]) == ({"3": 7}, 1.0)
    status, _, error = cli("corpus", "from-graph", str(graph), "--out", str(out), "--hops", "five")
    assert status == 2
    assert "hops is 'five'" in error
