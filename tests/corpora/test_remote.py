"""The remote retriever against real sockets: every dialect of the protocol, and every way a server can fail."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from list_corpus import ListCorpus
from socket_server import SocketServer, http, serving

import searchgym
from searchgym.corpora.datasets.contents import split_contents
from searchgym.corpora.service.protocol import read_document, write_document
from searchgym.errors import ConfigError, RetrievalError, UnknownIdError
from searchgym.records.question import Question
from searchgym.records.retriever import Hit, Retriever
from searchgym.retries import Backoff
from searchgym.specs import open_retriever

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("httpcore") is None, reason='needs pip install "searchgym[serve]"'
)
if importlib.util.find_spec("httpcore") is not None:
    from searchgym.corpora.service import client as module
    from searchgym.corpora.service.client import open_remote

CORPUS = ListCorpus(["river", "town"])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACKOFF", Backoff(0.001, 0.002, 0.0))


def echo(connection: socket.socket, request: dict[str, Any]) -> None:
    """As Search-R1's server answers: every query finds documents that name it."""
    result = [
        [
            {"document": {"id": f"{q}-{n}", "contents": f'"Title of {q}"\nText {n} of {q}'}, "score": 9.5 - n}
            for n in range(request["topk"])
        ]
        for q in request["queries"]
    ]
    connection.sendall(http(200, {"result": result}))


def hits_of(query: str, k: int) -> list[Hit]:
    return [Hit(f"{query}-{n}", f"Title of {query}", f"Text {n} of {query}", 9.5 - n) for n in range(k)]


# -- the protocol --------------------------------------------------------------------------------------------


def test_it_speaks_search_r1s_protocol() -> None:
    with serving(echo) as server:
        remote = open_remote(CORPUS, url=server.url)
        assert isinstance(remote, Retriever)
        assert remote.url == f"{server.url}/retrieve"
        assert server.paths == ["GET /healthz", "POST /retrieve"]  # no such page: one tiny query instead
        assert remote.search(["river", "town"], 2) == [hits_of("river", 2), hits_of("town", 2)]
        assert (
            server.requests[-1].items()
            >= {
                "queries": ["river", "town"],
                "topk": 2,
                "return_scores": True,
            }.items()
        )
        assert all(type(hit.score) is float for hit in remote.search(["river"], 2)[0])


def test_queries_are_sent_once_blank_ones_never_and_long_lists_in_parts() -> None:
    with serving(echo) as server:
        remote = open_remote(CORPUS, url=server.url + "/retrieve", batch=3)
        queries = ["a", "", "b", "a", " \n", "c", "d", "e", "f", "g"]
        results = remote.search(queries, 1)
        assert results == [hits_of(query, 1) if query.strip() else [] for query in queries]
        assert [r["queries"] for r in server.requests[1:]] == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
        assert results[0] is not results[3]  # a caller may change its list
        assert remote.search([], 1) == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"id": "7", "contents": '"T"\nx'}, Hit("7", "T", "x", 1.0)),
        ({"id": 7, "contents": "T\nx\ny"}, Hit("7", "T", "x\ny", 1.0)),
        ({"id": "7", "title": "T", "text": "x", "contents": "no"}, Hit("7", "T", "x", 1.0)),
        ({"document": {"id": "7", "contents": "only a text"}, "score": 3}, Hit("7", "", "only a text", 3.0)),
        ({"document": {"_id": "7", "title": None, "text": "x"}, "score": None}, Hit("7", "", "x", 1.0)),
    ],
)
def test_documents_of_other_servers_are_read(entry: dict[str, Any], expected: Hit) -> None:
    with serving(http(200, {"result": [[entry, {**entry, "document": {"contents": "x\ny"}}]]})) as server:
        first, second = open_remote(CORPUS, url=server.url).search(["q"], 5)[0]
        assert first == expected
        # Web search servers send no ids: the same text gets the same id, another text another one.
        assert (second.title, second.text) == ("x", "y")
        assert len(second.id) == 16


def test_without_scores_the_rank_gives_one_and_no_more_than_k_hits_are_taken() -> None:
    documents = [{"id": str(n), "contents": f"{n}\nx"} for n in range(5)]
    with serving(http(200, {"result": [documents]})) as server:
        hits = open_remote(CORPUS, url=server.url).search(["q"], 3)[0]
        assert [(hit.id, hit.score) for hit in hits] == [("0", 1.0), ("1", 0.5), ("2", 1 / 3)]


@pytest.mark.parametrize(
    "title", ["", "Plain", '"Quoted"', '"', " spaced ", "two\nlines", 'a "b" c', "Zürich 東京", "\t"]
)
@pytest.mark.parametrize("text", ["x", "", "one\ntwo\n", " spaced ", '"quoted"', "\n\nempty lines"])
def test_a_passage_survives_the_wire(title: str, text: str) -> None:
    document = json.loads(json.dumps(write_document(Hit("7", title, text, 1.0))))
    assert read_document(document) == ("7", title, text)
    assert split_contents('"T"\nx') == ("T", "x")


# -- opening -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "does not name a server"),
        ({"url": "ftp://x/"}, "does not name a server"),
        ({"url": "http://[::1"}, "is not a URL"),
        ({"url": 7}, "is not a URL"),
        ({"url": "http://x:port"}, "is not a URL"),
        ({"url": "http://zürich"}, "is not a URL"),
        ({"url": f"http://{'x' * 64}.org"}, "is not a URL"),
        ({"url": "http://x", "timeout": 0}, "timeout is 0"),
        ({"url": "http://x", "timeout": float("nan")}, "timeout is nan"),
        ({"url": "http://x", "timeout": True}, "timeout is True"),
        ({"url": "http://x", "retries": -1}, "retries is -1"),
        ({"url": "http://x", "batch": 0}, "batch is 0"),
        ({"url": "http://x", "any_corpus": 1}, "any_corpus is 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_remote(CORPUS, **options)


def test_by_name_an_option_is_suggested_and_the_url_is_needed() -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'url'"):
        open_retriever({"name": "remote", "uri": "http://x"}, CORPUS)
    with pytest.raises(ConfigError, match="'url'"):
        open_retriever("remote", CORPUS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_no_server_is_a_configuration_error_with_the_next_move() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=rf"no retrieval server answers at {url}/retrieve: .*index serve"):
        open_remote(CORPUS, url=url)
    with serving(http(404)) as server, pytest.raises(ConfigError, match="status 404"):
        open_remote(CORPUS, url=server.url)
    with serving(http(200, {"answer": 42})) as server, pytest.raises(ConfigError, match="KeyError"):
        open_remote(CORPUS, url=server.url)
    with serving(hang) as server, pytest.raises(ConfigError, match=r"within 0\.2 s \(2 attempts\)"):
        open_remote(CORPUS, url=server.url, timeout=0.2)


def health(**facts: Any) -> bytes:
    ours = {"index_hash": "h1", "corpus": "list", "corpus_hash": CORPUS.hash}
    return http(200, {**ours, **facts})


def test_the_hash_is_the_servers_own_or_one_of_the_url() -> None:
    with serving(echo, health=health()) as server:
        remote = open_remote(CORPUS, url=server.url)
        assert remote.index_hash == "h1"
        assert server.requests == []
    hashes = set()
    for page in (http(200, b"<html>"), http(200, {"status": "ok"}), http(200, [1]), http(405)):
        with serving(echo, health=page) as server:
            hashes.add(open_remote(CORPUS, url=server.url).index_hash)
            assert len(server.requests) == 1
    assert len(hashes) == 4  # one for each url
    assert "h1" not in hashes


def test_a_server_that_is_busy_is_not_taken_for_another_kind() -> None:
    """Else two workers would call the same index by two names."""
    with serving(echo, health=http(503)) as server, pytest.raises(ConfigError, match="status 503"):
        open_remote(CORPUS, url=server.url)
    assert server.paths == ["GET /healthz"] * 2
    with serving(echo, health=b"") as server, pytest.raises(ConfigError, match="disconnected"):
        open_remote(CORPUS, url=server.url)


def test_a_user_and_a_password_are_sent_and_never_shown() -> None:
    with serving(echo, http(401)) as server:
        remote = open_remote(CORPUS, url=server.url.replace("//", "//me:se%40cret@"), retries=0)
        assert server.heads[0].count("\r\nauthorization: Basic bWU6c2VAY3JldA==") == 1  # me:se@cret
        (failed,) = remote.search(["a"], 1)
        assert "status 401" in str(failed)
        assert remote.url == f"{server.url}/retrieve"
        assert "secret" not in str(failed).replace("%40", "").replace("@", "")


def test_a_server_of_another_corpus_is_refused() -> None:
    with serving(echo, health=health(corpus="wiki", corpus_hash="w")) as server:
        with pytest.raises(
            ConfigError, match=r"searches corpus 'wiki' \(w\), but the questions belong to 'list'.*any_corpus"
        ):
            open_remote(CORPUS, url=server.url)
        assert open_remote(CORPUS, url=server.url, any_corpus=True).index_hash == "h1"
        assert open_remote(ListCorpus([]), url=server.url).index_hash == "h1"


# -- failures while searching --------------------------------------------------------------------------------


def hang(connection: socket.socket, request: dict[str, Any]) -> None:
    connection.settimeout(10)
    connection.recv(1)  # until the client gives up


def drip(*parts: bytes) -> Callable[[socket.socket, dict[str, Any]], None]:
    """Sends the first part at once and one after the other of the rest, each well within the timeout."""

    def reply(connection: socket.socket, request: dict[str, Any]) -> None:
        connection.sendall(parts[0])
        for n in range(100):
            connection.sendall(parts[1 + n % (len(parts) - 1)])
            time.sleep(0.05)

    return reply


def chunked(*chunks: bytes) -> bytes:
    """An answer that does not say how long it is."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def close_at_once(connection: socket.socket, request: dict[str, Any]) -> None:
    connection.shutdown(socket.SHUT_RDWR)


GOOD = {"id": "1", "contents": "T\nx"}
BAD_SERVERS: dict[str, tuple[Callable[..., None] | bytes, str]] = {
    "500": (http(500, b"Internal Server Error"), "status 500: Internal Server Error"),
    "400": (http(400, b"no"), "status 400: no"),
    "404": (http(404, b"no such page"), "status 404"),
    "redirect": (http(307, b"", location="http://127.0.0.1/"), "status 307"),
    "hangs": (hang, r"no complete reply within 0\.5 s"),
    "drips": (
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
        r"no complete reply within 0\.5 s",
    ),
    "drips headers": (drip(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), r"no complete reply within 0\.5 s"),
    "never ends": (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), r"no complete reply within 0\.5 s"),
    "huge": (http(200, b" " * 10**6), "the reply is larger than 500,000 bytes"),
    "endless": (chunked(*[b" " * 10**5] * 10), "the reply is larger than 500,000 bytes"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50_000, "receive buffer too long"),
    "a page": (http(200, b"<html>Sign in</html>", content_type="text/html"), "not an answer"),
    "gzip": (http(200, b"\x1f\x8b\x08", content_encoding="gzip"), "not an answer"),
    "closes at once": (close_at_once, "disconnected|reset|closed"),
    "closes mid-body": (http(200, b'{"result": [[', length=5000), "incomplete|closed|without"),
    "is not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "illegal|invalid|malformed|protocol"),
    "malformed JSON": (http(200, b'{"result": [[}'), "not an answer of the /retrieve protocol"),
    "not UTF-8": (http(200, b'{"result": [["\xff"]]}'), "not an answer"),
    "short JSON": (http(200, b'{"result"'), "not an answer"),
    "no result": (http(200, {"results": []}), "not an answer.*KeyError"),
    "a list": (http(200, [1, 2]), "not an answer"),
    "null": (http(200, {"result": None}), "not an answer"),
    "too few results": (http(200, {"result": []}), "0 results for 1 queries"),
    "too many results": (http(200, {"result": [[GOOD], [GOOD]]}), "2 results for 1 queries"),
    "no hits but text": (http(200, {"result": ["error: index not loaded"]}), "not an answer"),
    "a hit that is text": (http(200, {"result": [["error"]]}), "not an answer"),
    "a hit without text": (http(200, {"result": [[{"id": "1"}]]}), "neither 'contents' nor 'text'.*has id"),
    "an id that is none": (http(200, {"result": [[{**GOOD, "id": [1]}]]}), "id is"),
    "a score that is none": (http(200, {"result": [[{"document": GOOD, "score": "x"}]]}), "not an answer"),
    "an infinite score": (http(200, {"result": [[{"document": GOOD, "score": 1e999}]]}), "a score is inf"),
    "a score that is not a number": (
        http(200, b'{"result": [[{"contents": "x", "score": NaN}]]}'),
        "a score is nan",
    ),
    "a score beyond all": (
        http(200, {"result": [[{**GOOD, "score": 10**400}]]}),
        "not an answer.*OverflowError",
    ),
    "deep JSON": (http(200, b"[" * 100_000), "not an answer"),
}


def patience(kind: str) -> float:
    """Seconds to wait for a server: short only where waiting is the point, since test machines may be slow."""
    return 0.5 if re.search("within", BAD_SERVERS[kind][1]) else 20.0


@pytest.mark.parametrize("kind", BAD_SERVERS)
def test_whatever_a_server_does_is_a_retrieval_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reply, message = BAD_SERVERS[kind]
    monkeypatch.setattr(module, "_MAX_REPLY", 500_000)
    with serving(echo, reply) as server:
        remote = open_remote(CORPUS, url=server.url, timeout=patience(kind), retries=1)
        started = time.monotonic()
        (result,) = remote.search(["river"], 2)
        assert isinstance(result, RetrievalError)
        assert time.monotonic() - started < 5
        (text,) = result.args
        assert re.search(message, text, re.IGNORECASE), text
        assert server.url in text
        # What the server says on purpose is not asked again.
        once = kind in ("400", "404", "redirect", "huge", "endless")
        assert text.endswith("(1 attempt)" if once else "(2 attempts)")
        assert remote.retries == (0 if once else 1)


@pytest.mark.parametrize("kind", ["500", "hangs", "closes mid-body", "malformed JSON", "too few results"])
def test_one_bad_answer_is_mended_by_a_retry(kind: str) -> None:
    with serving(echo, BAD_SERVERS[kind][0], echo) as server:
        remote = open_remote(CORPUS, url=server.url, timeout=patience(kind))
        assert remote.search(["river"], 2) == [hits_of("river", 2)]
        assert remote.retries == 1


def test_the_type_of_the_content_and_the_kind_of_the_length_do_not_matter() -> None:
    body = json.dumps({"result": [[GOOD]]}).encode()
    for reply in (http(200, body, content_type="text/plain"), chunked(body[:9], body[9:]), chunked(body)):
        with serving(echo, reply) as server:
            assert open_remote(CORPUS, url=server.url, retries=0).search(["a"], 1) == [
                [Hit("1", "T", "x", 1.0)]
            ]


def test_a_query_that_the_server_refuses_fails_alone() -> None:
    """One agent's endless query must not end the episodes of the others."""

    def strict(connection: socket.socket, request: dict[str, Any]) -> None:
        if max(map(len, request["queries"])) > 100 or len(request["queries"]) > 6:
            connection.sendall(http(413, b"too long"))
        else:
            echo(connection, request)

    with serving(strict) as server:
        queries = ["a", "b", "c" * 101, "d", "e", "f", "g"]
        results = open_remote(CORPUS, url=server.url).search(queries, 1)
        for query, result in zip(queries, results, strict=True):
            if len(query) > 1:
                assert isinstance(result, RetrievalError)
                assert "status 413: too long (1 attempt)" in str(result)
            else:
                assert result == hits_of(query, 1)
        sent = [request["queries"] for request in server.requests[1:]]
        assert max(map(len, sent[1:])) <= 4


@pytest.mark.parametrize("query", ["東京 " * 300_000, "😀" * 2**20, "half \ud83d of a pair", "\0", '"\\'])
def test_any_query_gets_there(query: str) -> None:
    def reply(connection: socket.socket, request: dict[str, Any]) -> None:
        connection.sendall(http(200, {"result": [[GOOD]] * len(request["queries"])}))

    with serving(reply) as server:
        assert open_remote(CORPUS, url=server.url, retries=0).search([query], 1) == [
            [Hit("1", "T", "x", 1.0)]
        ]
        assert server.requests[1]["queries"] == [query.replace("\ud83d", "?")]
        assert server.sizes[1] < 5 * 2**20


def test_half_a_surrogate_pair_never_reaches_the_agent() -> None:
    body = b'{"result": [[{"id": "\\ud800", "contents": "\\udc00\\nx\\ud800y \\ud83d\\ude00"}, {"contents": "\\ud800"}]]}'
    with serving(http(200, body)) as server:
        first, second = open_remote(CORPUS, url=server.url, retries=0).search(["a"], 2)[0]
        assert first[:3] == ("?", "?", "x?y 😀")
        assert second.text == "?"


def test_only_the_failed_request_of_a_long_list_fails() -> None:
    def second_fails(connection: socket.socket, request: dict[str, Any]) -> None:
        if request["queries"] == ["c", "d"]:
            connection.sendall(http(503, b"down"))
        else:
            echo(connection, request)

    with serving(second_fails) as server:
        remote = open_remote(CORPUS, url=server.url, batch=2, retries=0)
        a, b, c, d, e = remote.search(["a", "b", "c", "d", "e"], 1)
        assert [a, b, e] == [hits_of(query, 1) for query in "abe"]
        assert isinstance(c, RetrievalError)
        assert isinstance(d, RetrievalError)


def test_a_query_that_failed_on_our_server_leaves_the_others_alone() -> None:
    reply = {"result": [[GOOD], None], "errors": {"1": "shard 3 is down"}}
    with serving(echo, http(200, reply)) as server:
        good, bad = open_remote(CORPUS, url=server.url).search(["a", "b"], 1)
        assert good == [Hit("1", "T", "x", 1.0)]
        assert isinstance(bad, RetrievalError)
        assert "shard 3 is down" in str(bad)


def test_retry_after_is_honoured_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module, "_BACKOFF", Backoff(0.2, 10.0))
    monkeypatch.setattr(module.time, "sleep", slept.append)
    busy = [http(429, b"", retry_after=after) for after in ("3", "1000", "Fri, 31 Dec 1999 23:59:59 GMT")]
    with serving(echo, *busy, echo) as server:
        remote = open_remote(CORPUS, url=server.url)
        assert remote.search(["river"], 1) == [hits_of("river", 1)]
    assert 3 < slept[0] < 6  # never sooner; not all at once
    assert 10 < slept[1] < 30
    assert 0 < slept[2] <= 0.8


def test_pauses_are_not_drawn_from_the_users_random_numbers() -> None:
    """Workers seeded alike must not come back in step, nor a retry change what a seeded user draws."""
    pauses = []
    for _ in range(2):
        random.seed(0)
        pauses.append(Backoff(0.2, 10.0).pause(9))
        assert random.random() == random.Random(0).random()
    assert pauses[0] != pauses[1]


def test_pauses_grow_at_random_and_are_bounded() -> None:
    backoff = Backoff(0.2, 10.0)
    for attempt, bound in ((1, 0.2), (2, 0.4), (3, 0.8), (9, 10.0), (500, 10.0)):
        pauses = [backoff.pause(attempt) for _ in range(200)]
        assert max(pauses) <= bound
        assert max(pauses) > 0.7 * bound
        assert len(set(pauses)) > 150


def test_an_index_that_changes_under_way_is_noticed() -> None:
    def named(name: str) -> Callable[..., None]:
        def reply(connection: socket.socket, request: dict[str, Any]) -> None:
            body = {"result": [[GOOD]]}
            connection.sendall(http(200, body, x_index_hash=name))

        return reply

    with serving(named("h1"), named("h2"), health=health()) as server:
        remote = open_remote(CORPUS, url=server.url)
        assert remote.search(["a"], 1) == [[Hit("1", "T", "x", 1.0)]]
        (changed,) = remote.search(["a"], 1)
        assert isinstance(changed, RetrievalError)
        assert "another index now, h2, not h1: open the retriever again (1 attempt)" in str(changed)


def test_bad_arguments() -> None:
    with serving(echo) as server:
        remote = open_remote(CORPUS, url=server.url)
        for k in (0, -1, 1.5, True):
            with pytest.raises(ConfigError, match="k is"):
                remote.search(["river"], k)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="pass a list"):
            remote.search("river", 1)


# -- threads and processes -----------------------------------------------------------------------------------


def test_threads_share_one() -> None:
    with serving(echo) as server:
        remote = open_remote(CORPUS, url=server.url)
        wrong: list[str] = []

        def ask(name: str) -> None:
            for n in range(10):
                query = f"{name}-{n}"
                if remote.search([query], 2) != [hits_of(query, 2)]:
                    wrong.append(query)

        threads = [threading.Thread(target=ask, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def in_a_child(remote: Any, pipe: Any) -> None:
    pipe.send((os.getpid(), [remote.search([f"{os.getpid()}-{n}"], 1) for n in range(5)]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes_open_connections_of_their_own(method: str) -> None:
    context = multiprocessing.get_context(method)
    with serving(echo) as server:
        remote = open_remote(CORPUS, url=server.url)
        remote.search(["warm"], 1)
        ours, theirs = context.Pipe()
        children = [context.Process(target=in_a_child, args=(remote, theirs)) for _ in range(2)]
        done = threading.Event()
        wrong: list[Any] = []

        def go_on() -> None:  # the connections are in use while the process forks
            while not done.is_set():
                if remote.search(["busy"], 1) != [hits_of("busy", 1)]:
                    wrong.append("busy")

        threads = [threading.Thread(target=go_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        for child in children:
            child.start()
        for _ in children:
            process, results = ours.recv()
            assert results == [[hits_of(f"{process}-{n}", 1)] for n in range(5)]
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert remote.search(["still here"], 1) == [hits_of("still here", 1)]
        for child in children:
            child.join(20)
            assert child.exitcode == 0
        copy = pickle.loads(pickle.dumps(remote))
        assert (copy.index_hash, copy.search(["a"], 1)) == (remote.index_hash, remote.search(["a"], 1))


def test_without_httpcore_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['httpcore'] = None\n"
        "from searchgym.specs import open_retriever\n"
        "from list_corpus import ListCorpus\n"
        "open_retriever({'name': 'remote', 'url': 'http://127.0.0.1:1'}, ListCorpus(['river']))\n"
    )
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert "retriever 'remote' needs the module 'httpcore': pip install \"searchgym[serve]\"" in done.stderr


# -- in an episode -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus as `gym.make` takes it."""
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "passages.jsonl").write_text('{"id": "a", "title": "T", "text": "x"}\n')
    rows = [{"id": f"q{n}", "question": "Who?", "answers": ["x"], "split": "train"} for n in range(3)]
    (directory / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def remote_options(server: SocketServer, kind: str) -> dict[str, Any]:
    return {"name": "remote", "url": server.url, "timeout": patience(kind), "retries": 0}


@pytest.mark.parametrize("kind", BAD_SERVERS)
def test_whatever_a_server_does_an_episode_is_truncated_and_not_trained_on(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_REPLY", 500_000)
    with serving(echo, BAD_SERVERS[kind][0]) as server:
        env = gym.make(
            "searchgym:SearchQA-v0", corpus=str(folder), retriever=remote_options(server, kind), split="train"
        )
        env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step("<search>river</search>")
        assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
        assert info["retrieval"]["status"] == "error"
        assert info["hits"] == []
        assert info["valid_for_training"] is False
        assert info["outcome"]["stop_reason"] == "retrieval_failed"
        assert server.url not in json.dumps(info)


@pytest.mark.parametrize("kind", BAD_SERVERS)
def test_in_a_vector_environment_only_the_slot_that_got_no_answer_ends(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_REPLY", 500_000)
    bad = BAD_SERVERS[kind][0]

    def one_is_bad(connection: socket.socket, request: dict[str, Any]) -> None:
        if "bad" not in request["queries"]:
            echo(connection, request)
        elif callable(bad):
            bad(connection, request)
        else:
            connection.sendall(bad)

    with serving(one_is_bad) as server:
        envs = gym.make_vec(
            "searchgym:SearchQA-v0",
            num_envs=3,
            corpus=str(folder),
            retriever=remote_options(server, kind) | {"batch": 1},
            split="train",
        )
        envs.reset(seed=0)
        asked = [f"<search>{query}</search>" for query in ("river", "bad", "town")]
        observations, rewards, terminations, truncations, infos = envs.step(asked)
        assert "Text 0 of river" in observations[0]
        assert "Text 0 of town" in observations[2]
        assert observations[1] == ""
        assert (terminations.tolist(), truncations.tolist()) == ([False] * 3, [False, True, False])
        assert rewards.tolist() == [0.0] * 3
        assert not infos["valid_for_training"][1]
        assert infos["outcome"]["stop_reason"][1] == "retrieval_failed"
        *_, infos = envs.step(["<answer>x</answer>", "", "<answer>x</answer>"])
        assert [infos["valid_for_training"][n] for n in (0, 2)] == [True, True]


def test_a_server_that_dies_truncates_the_episode_and_never_speaks_to_the_agent(small_corpus: Any) -> None:
    """The whole way: environment, query cache, client, socket. Then the server comes back."""
    secret = b"SECRET traceback of the server"
    server = SocketServer(echo, echo, http(500, secret), http(500, secret), echo)
    try:
        remote = open_remote(small_corpus, url=server.url, retries=1, timeout=5)
        env = searchgym.SearchEnv(corpus=small_corpus, retriever=remote, split="train")
        env.reset(options={"task_id": "q1"})
        observation, reward, terminated, truncated, info = env.step("<search>bridge</search>")
        assert (terminated, truncated, info["retrieval"]["status"]) == (False, False, "ok")
        assert "Text 0 of bridge" in observation
        observation, reward, terminated, truncated, info = env.step("<search>town hall</search>")
        assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
        assert info["retrieval"]["status"] == "error"
        assert info["outcome"]["stop_reason"] == "retrieval_failed"
        assert info["valid_for_training"] is False
        assert "SECRET" not in json.dumps(info)
        env.reset(options={"task_id": "q1"})
        observation, _, _, truncated, info = env.step("<search>town hall</search>")  # failures are not cached
        assert (truncated, info["retrieval"]["status"]) == (False, "ok")
        assert "Text 0 of town hall" in observation
    finally:
        server.close()


def test_failed_episodes_are_counted_by_an_evaluation(make_corpus: Any) -> None:
    questions = [
        Question(f"q{n}", f"Where is {name}?", ("x",), "dev") for n, name in enumerate(["Ur", "Bor", "Ys"])
    ]
    corpus = make_corpus(["river", "town"], questions)

    def often_down(connection: socket.socket, request: dict[str, Any]) -> None:
        if "Bor" in request["queries"][0]:
            connection.sendall(http(500, b"SECRET"))
        else:
            echo(connection, request)

    def search_then_answer(observation: str, info: dict[str, Any]) -> str:
        return "<answer>x</answer>" if "round" in info else f"<search>{observation}</search>"

    with serving(often_down) as server:
        remote = open_remote(corpus, url=server.url, retries=0, batch=1)
        result = searchgym.evaluate(
            searchgym.SearchEnv(corpus=corpus, retriever=remote, split="dev"), search_then_answer
        )
    assert (result.questions, result.failed) == (2, 1)
    assert result.stop_reasons == {"answered": 2, "retrieval_failed": 1}
    assert result.metrics["em"].value == 1.0
    assert [e.task_id for e in result.episodes if not e.valid_for_training] == ["q1"]
    assert "SECRET" not in "".join(json.dumps(e.to_json()) for e in result.episodes)
