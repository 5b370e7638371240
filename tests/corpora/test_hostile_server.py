"""What a retrieval server sends in its errors and passages is text, wherever it ends up."""

from __future__ import annotations

import importlib.util
import json

import pytest
from helpers import CommandLine
from socket_server import http, serving

from searchgym.env.env import SearchEnv
from searchgym.retries import Backoff

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("httpcore") is None, reason='needs pip install "searchgym[serve]"'
)
HOSTILE = ["\x1b[2J", "\x1b]52;c;QUJD\x07", "\x9b31m", "\u202etxt", "good\rbad", "[/b]", "\x00"]
FORBIDDEN = set("\x1b\x07\x9b\u202e\r\x00")


def answer(hostile: str, failing: bool):
    """A server that works for one query, then fails with a hostile body; or one that finds hostile passages."""
    sent = 0

    def handle(connection, request):
        nonlocal sent
        sent += 1
        document = {"id": hostile, "title": f"Title {hostile}", "text": f"Text {hostile}"}
        found = {"result": [[{"document": document, "score": 1.0}] for _ in request["queries"]]}
        if failing and sent > 1:
            connection.sendall(http(400, {"detail": f"no: {hostile}", "error": hostile}))
        else:
            connection.sendall(http(200, found))

    return handle


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    from searchgym.corpora.service import client

    monkeypatch.setattr(client, "_BACKOFF", Backoff(0.001, 0.002, 0.0))


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("failing", [True, False])
def test_eval_over_a_hostile_server(
    hostile: str, failing: bool, toy: str, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(answer(hostile, failing)) as server:
        spec = json.dumps({"name": "remote", "url": server.url, "any_corpus": True, "retries": 0})
        status, out, err = cli(
            "eval", "--agent", "copy", "--corpus", toy, "--retriever", spec, "--episodes", "2"
        )
    assert status == (2 if failing else 0), err
    if failing:
        assert "retrieval failed" in caplog.text
    for shown in (out, err, caplog.text):
        assert not FORBIDDEN & set(shown), shown


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_transcript_over_a_hostile_server(hostile: str, toy: str) -> None:
    with serving(answer(hostile, failing=False)) as server:
        retriever = {"name": "remote", "url": server.url, "any_corpus": True}
        env = SearchEnv(corpus=toy, retriever=retriever, render_mode="ansi")
        env.reset()
        observation, *_ = env.step("<search> x </search>")
    transcript = env.render()
    assert transcript is not None
    assert not FORBIDDEN & set(transcript)
    assert hostile in observation or hostile == "good\rbad"  # the agent reads what the server sent


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_server_that_refuses_at_once(hostile: str, toy: str, cli: CommandLine) -> None:
    with serving(http(500, {"detail": hostile})) as server:
        spec = json.dumps({"name": "remote", "url": server.url, "retries": 0})
        for command in ("eval", "play"):
            status, out, err = cli(command, "--corpus", toy, "--retriever", spec)
            assert status == 2
            assert not FORBIDDEN & set(out + err)
