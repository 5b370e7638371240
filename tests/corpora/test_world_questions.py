"""What is promised of every question of the generated world, checked on every one of them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from searchgym.corpora.bm25.index import BM25
from searchgym.corpora.world import Plan, World
from searchgym.corpora.world.solver import Knowledge, solve
from searchgym.records.question import Question
from searchgym.records.retriever import Hit

KINDS = {"chain", "comparison", "intersection", "obscured"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEARCHGYM_HOME", str(tmp_path_factory.mktemp("home")))
        found = {
            "encyclopedia": World(),
            "terse": World(style="terse"),
            "hard": World(hard=True),
            "small": World(1_000, seed=3, train=200, dev=50, test=50),
        }
        for world in found.values():
            world.questions("train")
        yield found


def _questions(world: World) -> list[Question]:
    return [question for split in world.splits for question in world.questions(split)]


@pytest.fixture(scope="module")
def texts(worlds: dict[str, World]) -> dict[str, list[str]]:
    return {name: [passage.text for passage in world.passages] for name, world in worlds.items()}


def _plan(question: Question) -> Plan:
    return Plan.from_json(question.metadata["plan"])


@pytest.mark.parametrize("name", ["encyclopedia", "terse", "hard"])
def test_there_are_enough_of_every_kind_in_every_split(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    for split, least in {"train": 2_000, "dev": 600, "test": 600}.items():
        questions = world.questions(split)
        assert len(questions) == least
        kinds = Counter(question.type for question in questions)
        assert set(kinds) == KINDS
        assert min(kinds.values()) >= 0.1 * least
        hops = {q.hops for q in questions}
        assert hops == ({3, 4} if name == "hard" else {1, 2, 3, 4})
        # A prefix of a split is a fair sample of it.
        assert {question.type for question in questions[:40]} == KINDS
        assert len({question.hops for question in questions[:40]}) == len(hops)


@pytest.mark.parametrize("name", ["encyclopedia", "terse", "hard", "small"])
def test_questions_are_complete_and_consistent(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    questions = _questions(world)
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == len(questions)
    for q in questions:
        assert re.fullmatch(rf"country(-hard)?-{world.country.seed}-{q.split}-\d{{6}}", q.id)
        assert world.question(q.id) is q
        assert q.answers
        assert all(answer.strip() for answer in q.answers)
        assert len(set(q.answers)) == len(q.answers)
        assert q.hops == len(q.chain) == len(q.supporting_ids) == len(set(q.supporting_ids))
        assert tuple(hop.passage_ids for hop in q.chain) == tuple((id_,) for id_ in q.supporting_ids)
        assert "{" not in q.text
        assert "  " not in q.text
        assert q.text[0].isupper() or name == "terse"
        assert q.text.endswith("?")
        assert re.search(r"\ba [aeiou]|\b(\w+) \1\b", q.text) is None, q.text


def test_both_renderings_ask_the_same(worlds: dict[str, World]) -> None:
    pairs = zip(_questions(worlds["encyclopedia"]), _questions(worlds["terse"]), strict=True)
    for one, two in pairs:
        assert (one.id, one.answers, one.supporting_ids, one.type) == (
            two.id,
            two.answers,
            two.supporting_ids,
            two.type,
        )
        assert one.metadata == two.metadata
        assert [hop.relation for hop in one.chain] == [hop.relation for hop in two.chain]


@pytest.mark.parametrize("name", ["encyclopedia", "hard", "small"])
def test_the_answer_follows_from_the_gold_passages_and_from_no_fewer(
    worlds: dict[str, World], name: str
) -> None:
    world = worlds[name]
    country = world.country
    everything = Knowledge(country, range(country.size))
    for q in _questions(world):
        plan = _plan(q)
        assert Plan.from_json(plan.to_json()) == plan
        gold = [country.at(int(id_)).index for id_ in q.supporting_ids]
        (answer,) = solve(plan, everything)  # unique in the whole world
        assert solve(plan, Knowledge(country, gold)) == {answer}
        literal = plan.compare is None and str(answer) == q.answers[0]
        assert literal or country.entity(answer).title == q.answers[0]  # type: ignore[arg-type]
        for left_out in gold:
            rest = Knowledge(country, [index for index in gold if index != left_out])
            assert solve(plan, rest) == set(), (q.text, left_out)


@pytest.mark.parametrize("name", ["encyclopedia", "terse", "hard", "small"])
def test_passages_contain_the_bridges_literally(
    worlds: dict[str, World], texts: dict[str, list[str]], name: str
) -> None:
    for q in _questions(worlds[name]):
        for hop in q.chain:
            assert hop.bridge in texts[name][int(hop.passage_ids[0])], (q.id, hop)
        if q.type in ("chain", "obscured"):
            assert q.chain[-1].bridge in q.answers


@pytest.mark.parametrize("name", ["encyclopedia", "terse", "hard", "small"])
def test_no_question_contains_its_answer(worlds: dict[str, World], name: str) -> None:
    for q in _questions(worlds[name]):
        if q.type == "comparison":
            continue  # it names both candidates
        text = q.text.lower()
        for answer in q.answers:
            assert re.search(rf"(?<!\w){re.escape(answer.lower())}(?!\w)", text) is None, (q.text, answer)


@pytest.mark.parametrize("name", ["encyclopedia", "hard", "small"])
def test_splits_share_no_chain_and_no_final_fact(worlds: dict[str, World], name: str) -> None:
    world = worlds[name]
    finals: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    chains: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for q in _questions(world):
        finals[q.supporting_ids[-1], q.chain[-1].relation, q.answers[0]].add(q.split)
        chains[q.supporting_ids, tuple(hop.relation for hop in q.chain)].add(q.split)
    assert all(len(splits) == 1 for splits in finals.values())
    assert all(len(splits) == 1 for splits in chains.values())


# -- against the index ----------------------------------------------------------------------------------------

TOP_K = {"encyclopedia": 3, "terse": 3, "hard": 2}


@pytest.fixture(scope="module")
def indexes(worlds: dict[str, World]) -> dict[str, BM25]:
    return {name: BM25.build(worlds[name]) for name in TOP_K}


def _found(index: BM25, queries: list[str], k: int) -> dict[str, set[str]]:
    distinct = list(dict.fromkeys(queries))
    found = {}
    for query, hits in zip(distinct, index.search(distinct, k), strict=True):
        assert isinstance(hits, list)
        found[query] = {hit.id for hit in hits if isinstance(hit, Hit)}
    return found


@pytest.mark.parametrize("name", list(TOP_K))
def test_every_gold_query_finds_its_passage(
    worlds: dict[str, World], indexes: dict[str, BM25], name: str
) -> None:
    hops = [hop for q in _questions(worlds[name]) for hop in q.chain]
    found = _found(indexes[name], [hop.query for hop in hops], TOP_K[name])
    missed = [hop for hop in hops if not set(hop.passage_ids) <= found[hop.query]]
    assert not missed, missed[:5]


@pytest.mark.parametrize("name", list(TOP_K))
def test_the_question_alone_rarely_finds_all_gold_passages(
    worlds: dict[str, World], indexes: dict[str, BM25], name: str
) -> None:
    questions = [q for q in _questions(worlds[name]) if q.hops >= 2]
    found = _found(indexes[name], [q.text for q in questions], 3)
    share = sum(set(q.supporting_ids) <= found[q.text] for q in questions) / len(questions)
    assert share <= 0.30
