"""The `/retrieve` protocol as other projects' clients speak it, sent byte by byte over a socket."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from list_corpus import ListCorpus
from socket_server import http, serving

from searchgym.corpora.service.client import open_remote
from searchgym.corpora.service.limits import Limits
from searchgym.corpora.service.protocol import read_hits
from searchgym.corpora.service.requests import Refused, read_search
from searchgym.corpora.service.server import local_service
from searchgym.errors import ConfigError
from searchgym.records.retriever import Hit


class Echo:
    """Finds the query itself, as often as it is asked to."""

    name, index_hash = "echo", "hash-of-echo"

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(f"{q}{n}", "Title", f"about {q}", 9.5 - n) for n in range(k)] for q in queries]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local_service(Echo()) as address:
        yield address


def post(url: str, body: Any, path: str = "/retrieve", **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers)) as answer:
        return answer.headers["content-type"], answer.read()


def document(query: str, number: int = 0) -> dict[str, str]:
    return {"id": f"{query}{number}", "contents": f'"Title"\nabout {query}'}


def test_search_r1s_recipe_sends_all_searches_of_a_step_at_once(url: str) -> None:
    queries = [f"query number {n}" for n in range(2560)]
    _, reply = post(url, {"queries": queries, "topk": 3, "return_scores": True})
    rows = json.loads(reply)["result"]
    assert [row[0]["document"]["id"] for row in rows] == [f"{query}0" for query in queries]
    assert [hit["score"] for hit in rows[-1]] == [9.5, 8.5, 7.5]


def test_skyrl_and_verl_agent_send_one_query_that_is_not_in_a_list(url: str) -> None:
    _, reply = post(url, {"query": "alps", "topk": 1, "return_scores": True})
    assert json.loads(reply) == {"result": [[{"document": document("alps"), "score": 9.5}]]}


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/msgpack"}, {"content-type": "application/x-msgpack"}]
)
@pytest.mark.parametrize("fields", [{"queries": ["alps"]}, {"query": "alps"}])
@pytest.mark.parametrize("scores", [True, False])
def test_gem_speaks_msgpack(url: str, headers: dict[str, str], fields: dict[str, Any], scores: bool) -> None:
    msgpack = pytest.importorskip("msgpack")
    media, reply = post(url, msgpack.packb({**fields, "topk": 2, "return_scores": scores}), **headers)
    found = [document("alps"), document("alps", 1)]
    if scores:
        found = [{"document": d, "score": s} for d, s in zip(found, (9.5, 8.5), strict=True)]  # type: ignore[misc]
    assert (media, msgpack.unpackb(reply)) == ("application/msgpack", {"result": [found]})


@pytest.mark.parametrize("path", ["/batch_search", "/search"])
def test_research_sends_a_list_and_reads_bare_lists(url: str, path: str) -> None:
    for fields, expected in (
        ({"query": ["a", "b"], "top_n": 1}, [[document("a")], [document("b")]]),
        (
            {"query": ["a", "b"], "top_n": 1, "return_score": True},
            [[[document("a")], [document("b")]], [[9.5], [9.5]]],
        ),
        ({"query": "a", "top_n": 2}, [document("a"), document("a", 1)]),
        ({"query": "a", "top_n": 2, "return_score": True}, [[document("a"), document("a", 1)], [9.5, 8.5]]),
        ({"query": []}, []),
    ):
        assert json.loads(post(url, fields, path)[1]) == expected


TOPK = [
    3, 3.0, "3", " 3 ", "3.0", "+3", "03", True, 1.0, "1", 7.5, "7.5", "x", "", [3], {"k": 3}, -1, "-1", float("inf"), "1e2",
]  # fmt: skip
FLAGS = [
    True, False, 0, 1, 0.0, 1.0, "true", "false", "True", "FALSE", "t", "f", "yes", "no", "y", "n", "on", "off", "1", "0",
    2, -1, 0.5, "maybe", "", "2", [], {},
]  # fmt: skip


@pytest.mark.parametrize("value", TOPK, ids=repr)
def test_numbers_are_coerced_as_pydantic_does(value: Any) -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Request", topk=(int, 3))
    try:
        expected = model.model_validate_json(json.dumps({"topk": value})).topk
    except ValueError:
        expected = None
    try:
        found: Any = read_search(
            json.dumps({"queries": ["x"], "topk": value}).encode(), "", Limits()
        ).form.topk
    except Refused as refused:
        found = None if "'topk' is" in str(refused) else str(refused)
    assert found == (None if expected is None or expected < 0 else expected)


@pytest.mark.parametrize("value", FLAGS, ids=repr)
@pytest.mark.parametrize("name", ["return_scores", "partial"])
def test_flags_are_coerced_as_pydantic_does(name: str, value: Any) -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Request", flag=(bool, False))
    try:
        expected = model.model_validate({"flag": value}).flag
    except ValueError:
        expected = None
    try:
        search = read_search(json.dumps({"queries": ["x"], name: value}).encode(), "", Limits())
        found: Any = search.partial if name == "partial" else search.form.scores
    except Refused as refused:
        found = None if f"{name!r} is" in str(refused) else str(refused)
    assert found == expected


def test_null_and_zero_ask_for_the_default(url: str) -> None:
    for topk in (None, 0, "0", 0.0):
        _, reply = post(url, {"queries": ["a"], "topk": topk, "return_scores": None, "partial": None})
        assert json.loads(reply)["result"] == [[document("a", n) for n in range(3)]]


def test_what_is_refused_names_the_field(url: str) -> None:
    for body, status, reason in (
        ({"queries": "alps"}, 422, "'queries' is not a list of strings"),
        ({"query": 3}, 422, "'query' is not a list of strings"),
        ({"queries": ["x"], "topk": 1001}, 422, "'topk' is 1001: use a whole number from 1 to 1000"),
        (
            {"queries": ["x"] * 1024, "topk": 1000},
            422,
            "1,024,000 hits, but at most 32,768 are allowed: lower 'topk'",
        ),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(url, body)
        assert refused.value.code == status
        assert reason in json.load(refused.value)["detail"]


# -- the client: servers of other projects ------------------------------------------------------------------------


CONTENTS = '"Mira Voss"\nAn engineer.'
DOCUMENTS: dict[str, Any] = {
    "Search-R1 dense": {"document": {"id": "7", "contents": CONTENTS}, "score": 2.0},
    "Search-R1 bm25": {
        "document": {"title": "Mira Voss", "text": "An engineer.", "contents": CONTENTS},
        "score": 2.0,
    },
    "bare": {"id": "7", "contents": CONTENTS},
    "content": {"document": {"id": "7", "content": CONTENTS}, "score": 2.0},
    "content, bare": {"id": "7", "content": CONTENTS},
    "a string as document": {"document": CONTENTS, "score": 2.0},
    "rerank": {"document": '(Title: "Mira Voss") An engineer.', "score": 2.0},
    "rerank, unquoted": {"document": "(Title: Mira Voss) An engineer.", "score": "2.0"},
    "a string": CONTENTS,
    "a formatted string": '(Title: "Mira Voss") An engineer.',
    "a number as id": {"document": {"id": 7, "contents": CONTENTS}, "score": None},
}


@pytest.mark.parametrize("shape", DOCUMENTS)
def test_documents_are_read_in_every_shape(shape: str) -> None:
    (hit,) = read_hits([DOCUMENTS[shape]], 3)
    assert (hit.title, hit.text) == ("Mira Voss", "An engineer.")
    assert hit.score == (2.0 if "2.0" in str(DOCUMENTS[shape]) else 1.0)
    assert hit.id


@pytest.mark.parametrize(
    "row", [["error"], ["Internal Server Error"], [3], [None], [["x"]], [{"document": 3}], [{}]]
)
def test_what_may_be_a_message_or_nothing_is_refused(row: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        read_hits(row, 3)


def _skyrl(request: dict[str, Any]) -> bytes:
    if "query" not in request:
        return http(422, {"detail": [{"loc": ["body", "query"], "msg": "Field required"}]})
    assert isinstance(request["query"], str)
    return http(200, {"result": [[{"document": {"id": "7", "contents": request["query"]}, "score": 2.0}]]})


def _strict(request: dict[str, Any]) -> bytes:
    if {*request} - {"queries", "topk", "return_scores"}:
        return http(422, {"detail": "extra fields not permitted"})
    return http(200, {"result": [[{"id": "7", "contents": query}] for query in request["queries"]]})


def _research(request: dict[str, Any]) -> bytes:
    if not isinstance(request.get("query"), list):
        return http(422, {"detail": "query: value is not a valid list"})
    documents = [[{"id": "7", "contents": query}] for query in request["query"]]
    return http(200, [documents, [[2.0] for _ in documents]] if request.get("return_score") else documents)


def _lists_only(request: dict[str, Any]) -> bytes:
    if "query" not in request:  # GET /batch_search/healthz
        return http(404)
    return http(200, [[{"id": "7", "contents": query}] for query in request["query"]])


@pytest.mark.parametrize(
    ("answer", "path", "score"),
    [
        (_skyrl, "", 2.0),
        (_strict, "", 1.0),
        (_research, "/batch_search", 2.0),
        (_research, "", 2.0),
        (_lists_only, "/batch_search", 1.0),
    ],
)
def test_the_client_finds_out_which_dialect_a_server_speaks(answer: Any, path: str, score: float) -> None:
    def reply(connection: Any, request: dict[str, Any]) -> None:
        connection.sendall(answer(request))

    with serving(reply) as server:
        remote = open_remote(ListCorpus([]), url=server.url + path, retries=0)
        found = remote.search(["mira", "voss", "aln"], 2)
    assert [[(hit.text, hit.score) for hit in hits] for hits in found] == [  # type: ignore[union-attr]
        [(query, score)] for query in ("mira", "voss", "aln")
    ]


def test_a_server_of_another_kind_is_said_to_be_there() -> None:
    with serving(http(404, {"detail": "Not Found"})) as server, pytest.raises(ConfigError) as refused:
        open_remote(ListCorpus([]), url=server.url, retries=0)
    assert f"no retrieval server is at {server.url}/retrieve: status 404" in str(refused.value)
