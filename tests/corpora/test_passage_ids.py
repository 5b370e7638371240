"""Ids of other servers: which passage of the corpus a hit is, and what is refused if it is none."""

from __future__ import annotations

import importlib.util
import json
import socket
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from list_corpus import ListCorpus
from socket_server import http, serving

import searchgym
from searchgym.corpora.bm25.index import BM25
from searchgym.corpora.hybrid import Hybrid
from searchgym.corpora.indexing.matching import PassageMatcher
from searchgym.errors import ConfigError
from searchgym.records.question import Hop, Passage, Question
from searchgym.records.retriever import CachedRetriever, Hit, SearchResult, content_id, distinct_hits

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("httpcore") is None, reason='needs pip install "searchgym[serve]"'
)

TEXTS = [
    ("Aln", "The Aln is a river. It floods Bor every spring."),
    ("Bor", "Bor is a town with a stone bridge over the Aln."),
    ("Mira Voss", "Mira Voss, an engineer, built the bridge of Bor in 1887."),
    ("", "A passage without a title: nothing happened in Ur."),
]
QUESTION = Question(
    "q1",
    "Who built the bridge of Bor?",
    ("Mira Voss",),
    "train",
    supporting_ids=("p002",),
    chain=(Hop("bridge of Bor", "builder", ("p002",), "Mira Voss"),),
)
CORPUS = ListCorpus(TEXTS, [QUESTION])
SEARCH = "<search>Who built the bridge of Bor?</search>"
NEEDS_GOLD: list[dict[str, Any]] = [
    {"reward": "recall"},
    {"reward": {"em": 1.0, "new_recall": 0.5}},
    {"reward": "ndcg"},
    {"reward": "stepsearch"},
    {"judge": "oracle"},
    {"judge": {"name": "corrupted", "judge": "oracle", "rate": 0.1}},
    {"judge": {"name": "ensemble", "judges": ["rules", "oracle"]}},
    {"reward": "utility", "judge": "oracle"},
    {"feedback": {"level": "hop"}},
    {"feedback": {"level": "revealing"}},
    {"feedback": {"level": "gold"}},
]


def answering(document: Callable[[int, Passage], dict[str, Any]]) -> Callable[[socket.socket, Any], None]:
    """A server that ranks as BM25 does and sends each passage as `document(position, passage)`."""
    index = BM25.build(CORPUS)
    position = {passage.id: number for number, passage in enumerate(CORPUS.passages)}

    def reply(connection: socket.socket, request: dict[str, Any]) -> None:
        rows = [
            [
                {
                    "document": document(position[h.id], CORPUS.passages[position[h.id]]),
                    "score": h.score,
                }
                for h in hits
            ]
            for hits in index.search(request["queries"], request["topk"])
            if isinstance(hits, list)
        ]
        connection.sendall(http(200, {"result": rows}))

    return reply


def contents(passage: Passage) -> str:
    return f'"{passage.title}"\n{passage.text}'


OTHER_IDS: dict[str, Callable[[int, Passage], dict[str, Any]]] = {
    "numbers": lambda n, p: {"id": n, "contents": contents(p)},
    "numbers as strings": lambda n, p: {"id": str(n), "contents": contents(p)},
    "no ids": lambda n, p: {"contents": contents(p)},
    "empty ids": lambda n, p: {"id": "", "contents": contents(p)},
    "null ids": lambda n, p: {"id": None, "title": p.title, "text": p.text},
    "one id for all": lambda n, p: {"id": "0", "contents": contents(p)},
    "ids of other passages": lambda n, p: {"id": f"p{(n + 1) % 4:03}", "contents": contents(p)},
    "the gold id for all": lambda n, p: {"id": "p002", "contents": contents(p)},
    "an unquoted title": lambda n, p: {"id": n, "contents": f"{p.title}\n{p.text}"},
    "the title in the text": lambda n, p: {"id": n, "text": f"{p.title}. {p.text}"},
    "another case and spacing": lambda n, p: {
        "id": n,
        "title": p.title.upper(),
        "text": p.text.replace(" ", "  "),
    },
    "a title beside contents": lambda n, p: {"id": n, "title": p.title, "contents": p.text},
    "a title beside contents with it": lambda n, p: {"id": n, "title": p.title, "contents": contents(p)},
    "the same ids, parts of the texts": lambda n, p: {"id": p.id, "text": p.text[:30]},
    "the same ids and titles": lambda n, p: {"id": p.id, "title": p.title, "text": "Another version."},
}


@pytest.mark.parametrize("kind", OTHER_IDS)
def test_hits_get_the_ids_of_the_corpus(kind: str) -> None:
    with serving(answering(OTHER_IDS[kind])) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        env = searchgym.SearchEnv(
            corpus=CORPUS,
            retriever={"name": "remote", "url": server.url},
            reward={"em": 1.0, "recall": 0.5},
            judge="oracle",
            top_k=2,
        )
        env.reset(options={"task_id": "q1"})
        observation, _, _, _, info = env.step(SEARCH)
        shown = [hit["id"] for hit in info["hits"]]
        assert shown == ["p002", "p001"]
        assert "[2]" in observation
        assert info["judge"]["utility"] == 1.0
        *_, info = env.step("<answer>Mira Voss</answer>")
        assert (info["outcome"]["em"], info["outcome"]["recall"]) == (1.0, 1.0)


@pytest.mark.parametrize("id", [7, "p002", "", None])
def test_other_passages_are_told_once_and_never_count_as_gold(id: Any) -> None:
    unknown = {"id": id, "contents": '"Elsewhere"\nNothing that this corpus has.'}
    with serving(http(200, {"result": [[{"document": unknown, "score": 1.0}]]})) as server:
        spec = {"name": "remote", "url": server.url}
        with pytest.warns(RuntimeWarning, match="does not return the passages of corpus 'list'") as caught:
            env = searchgym.SearchEnv(corpus=CORPUS, retriever=spec, feedback={"level": "kind"}, top_k=1)
        env.reset(options={"task_id": "q1"})
        *_, info = env.step(SEARCH)
        assert "p002" not in [hit["id"] for hit in info["hits"]]
        *_, info = env.step("<answer>x</answer>")
        assert info["outcome"]["recall"] == 0.0
        assert len(caught) == 1
        assert env.retriever.ids_match is False  # type: ignore[attr-defined]
        for arguments in NEEDS_GOLD:
            with pytest.raises(ConfigError, match="needs the gold passages of corpus 'list'"):
                searchgym.SearchEnv(corpus=CORPUS, retriever=spec, **arguments)


@pytest.mark.parametrize("has_them", [True, False])
def test_a_server_of_ours_with_another_corpus_is_matched_too(has_them: bool) -> None:
    facts = {"index_hash": "h1", "corpus": "wiki", "corpus_hash": "w"}
    passage = (
        Passage("77", "Mira Voss", TEXTS[2][1]) if has_them else Passage("p002", "Elsewhere", "Far away.")
    )
    row = [{"document": {"id": passage.id, "contents": contents(passage)}, "score": 1.0}]

    def answer(connection: socket.socket, request: dict[str, Any]) -> None:
        reply = http(200, {"result": [row] * len(request["queries"])})
        connection.sendall(reply.replace(b"\r\n\r\n", b"\r\nx-index-hash: h1\r\n\r\n", 1))

    with serving(answer, health=http(200, facts)) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec = {"name": "remote", "url": server.url, "any_corpus": True}
        env = searchgym.SearchEnv(corpus=CORPUS, retriever=spec, top_k=1)
        env.reset(options={"task_id": "q1"})
        env.step(SEARCH)
        *_, info = env.step("<answer>Mira Voss</answer>")
        assert info["outcome"]["recall"] == float(has_them)
        assert env.retriever.ids_match is has_them  # type: ignore[attr-defined]
        assert len(caught) == (not has_them)


@pytest.mark.parametrize("arguments", NEEDS_GOLD, ids=json.dumps)
def test_what_needs_gold_is_allowed_with_the_own_index(arguments: dict[str, Any]) -> None:
    searchgym.SearchEnv(corpus=CORPUS, retriever="bm25", **arguments)


def test_an_id_that_is_free_is_kept_and_another_passages_id_is_not() -> None:
    matcher = PassageMatcher(CORPUS)
    unknown = Hit("77", "Elsewhere", "Far.", 1.0)
    assert matcher.match([unknown, unknown._replace(id="p001")]) == [
        unknown,
        unknown._replace(id=content_id("Elsewhere", "Far.")),
    ]


# -- equal and empty ids -------------------------------------------------------------------------------------


class Same:
    """Gives every hit one id; `texts` per query."""

    name = "same"
    index_hash = "0"

    def __init__(self, id: str) -> None:
        self.id = id

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        texts = [("A", "one"), ("B", "two"), ("A", "one"), ("A", "three")]
        return [[Hit(self.id, *text, 4.0 - n) for n, text in enumerate(texts)] for _ in queries]


@pytest.mark.parametrize("id", ["", "0", "p002"])
@pytest.mark.parametrize("cached", [False, True])
def test_hits_of_one_id_are_different_passages_unless_title_and_text_are_equal(id: str, cached: bool) -> None:
    retriever = CachedRetriever(Same(id)) if cached else Same(id)
    env = searchgym.SearchEnv(corpus=CORPUS, retriever=retriever, top_k=4, reward={"new_recall": 1.0})
    env.reset(options={"task_id": "q1"})
    observation, *_ = env.step(SEARCH)
    assert [observation.count(f"[{n}]") for n in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert all(text in observation for text in ("one", "two", "three"))
    # A snapshot remembers all three texts.
    other = searchgym.SearchEnv(corpus=CORPUS, retriever=retriever, top_k=4, reward={"new_recall": 1.0})
    other.reset(seed=0)
    other.restore(json.loads(json.dumps(env.snapshot())))
    assert other.episode.rounds[0].observation == observation
    assert [hit.text for hit in other.episode.rounds[0].hits] == [
        hit.text for hit in env.episode.rounds[0].hits
    ]


def test_distinct_hits_keeps_the_first_of_equal_passages() -> None:
    hits = [
        Hit("1", "A", "x", 3.0),
        Hit("1", "A", "x", 2.0),
        Hit("1", "B", "x", 1.0),
        Hit("2", "A", "x", 0.5),
    ]
    assert distinct_hits(hits) == [hits[0], hits[2], hits[3]]


def test_passages_without_ids_get_one_that_depends_on_what_they_say() -> None:
    first, second = CachedRetriever(Same("")).search(["a", "b"], 4)
    assert isinstance(first, list)
    assert first == second
    assert [hit.id for hit in first] == [content_id(hit.title, hit.text) for hit in first]
    assert len({hit.id for hit in first}) == 3


def test_hybrid_fuses_passages_not_ids_that_a_part_repeats() -> None:
    (found,) = Hybrid([Same("0"), Same("0")]).search(["q"], 5)
    assert isinstance(found, list)
    assert [(hit.title, hit.text) for hit in found] == [("A", "one"), ("B", "two"), ("A", "three")]


@pytest.mark.parametrize(
    ("missing", "match"), [((0,), True), ((0, 1, 2), True), ((1, 2, 3, 4, 5, 6, 7), False)]
)
def test_most_of_several_probes_decide(missing: tuple[int, ...], match: bool) -> None:
    """The first passage may be missing from a server that has the others, or be the only one that it has."""
    corpus = ListCorpus([(f"Town {n}", f"Town {n} lies on river {n}.") for n in range(8)])
    index = BM25.build(corpus)
    lost = {f"p{n:03}" for n in missing}

    def reply(connection: socket.socket, request: dict[str, Any]) -> None:
        rows = [
            [
                {
                    "document": {"contents": f"{h.title}\n{h.text}{' or so' * (h.id in lost)}"},
                    "score": h.score,
                }
                for h in found
            ]
            for found in index.search(request["queries"], 1)
            if isinstance(found, list)
        ]
        connection.sendall(http(200, {"result": rows}))

    with serving(reply) as server, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        retriever: Any = searchgym.open_retriever({"name": "remote", "url": server.url}, corpus)
    assert retriever.ids_match == match
    assert len(caught) == (not match)
