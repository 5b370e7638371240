"""Credentials: in no error, record, tape or configuration; read again from the environment."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from searchgym.env.env import SearchEnv
from searchgym.errors import (
    ConfigError,
    MissingSecret,
    RetrievalError,
    UnknownIdError,
    expand,
    redact,
    strip,
    with_credentials,
)
from searchgym.specs import open_corpus, open_retriever
from searchgym.tape.file import read_tape

SECRET = "pa55word-of-mine"


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{SECRET}@host:8000/retrieve",
        f"https://{SECRET}@host",
        f"http://me:{SECRET}/more@host/x",
        f"cannot reach 'http://me:{SECRET}@127.0.0.1:1' and http://you:{SECRET}@[::1]:2/",
        f"https://host/search?topk=3&api_key={SECRET}",
        f"https://host/search?access_token={SECRET}&x=1#part",
        f"https://host/search?X-Amz-Signature={SECRET}",
        f"https://host/?sig={SECRET};key={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"'authorization': 'Basic {SECRET}=='",
        f"redis+tls://:{SECRET}@cache",
    ],
)
def test_texts_for_people_hide_credentials(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown
    assert "***" in shown
    assert redact(shown) == shown
    for error in (ConfigError(text), RetrievalError(text), UnknownIdError("corpus", text, [])):
        assert SECRET not in str(error)
        assert SECRET not in repr(error)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/retrieve",
        "see http://host/a@b and mail me@host.org",
        "http://host/path:with@colon",
        "basic information about tokens",
        "Bearer of good news",
        "https://host/?topk=3&query=key",
        "step-000010 task-1234567890123456789012",
        "hf-internal-testing/tiny-random-LlamaForCausalLM",
        "http://${LOGIN}@host:80/",
        "http://me:${PASSWORD}@host",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text
    assert strip(text) == text
    assert strip({"url": text}) == {"url": text}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"url": f"http://me:{SECRET}@host:80/r"}, {"url": "http://${SEARCHGYM_LOGIN_HOST}@host:80/r"}),
        (
            {"retriever": {"name": "x", "api_key": SECRET}},
            {"retriever": {"name": "x", "api_key": "${SEARCHGYM_RETRIEVER_API_KEY}"}},
        ),
        ({"wandb.api_key": SECRET}, {"wandb.api_key": "${SEARCHGYM_WANDB_API_KEY}"}),
        (
            {"headers": {"Authorization": f"Bearer {SECRET}"}},
            {"headers": {"Authorization": "${SEARCHGYM_HEADERS_AUTHORIZATION}"}},
        ),
        ({"url": f"http://h/?token={SECRET}&k=1"}, {"url": "http://h/?token=${SEARCHGYM_URL_TOKEN}&k=1"}),
        (
            {"parts": [{"url": f"http://a:{SECRET}@one"}, {"url": f"http://b:{SECRET}@two"}]},
            {
                "parts": [
                    {"url": "http://${SEARCHGYM_LOGIN_ONE}@one"},
                    {"url": "http://${SEARCHGYM_LOGIN_TWO}@two"},
                ]
            },
        ),
        (
            {"password": SECRET, "token": SECRET},
            {"password": "${SEARCHGYM_PASSWORD}", "token": "${SEARCHGYM_TOKEN}"},
        ),
    ],
)
def test_what_is_stored_refers_to_the_environment(
    value: dict[str, Any], stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert strip(value) == stored
    assert strip(stored) == stored
    assert SECRET not in json.dumps(strip(value))
    assert with_credentials({**value, "top_k": 3}) == value
    with pytest.raises(MissingSecret, match=r"variable SEARCHGYM_\w+, which holds a credential, is not set"):
        expand(stored)


@pytest.mark.parametrize(
    "name", ["api_key_env", "tokenizer", "eos_token", "pad_token", "max_tokens", "keys", "secretary"]
)
def test_options_that_only_look_like_credentials_stay(name: str) -> None:
    assert strip({name: "value"}) == {name: "value"}


def test_a_file_that_only_its_owner_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secrets"
    path.write_text(f"OTHER=1\nMINE = {SECRET}\n")
    monkeypatch.setenv("SEARCHGYM_SECRETS", str(path))
    if os.name != "nt":
        path.chmod(0o644)
        with pytest.raises(MissingSecret, match="chmod 600"):
            expand("${MINE}")
    path.chmod(0o600)
    assert expand({"a": ["${MINE}!"], "n": 3}) == {"a": [f"{SECRET}!"], "n": 3}
    monkeypatch.setenv("MINE", "from the environment")
    assert expand("${MINE}") == "from the environment"
    with pytest.raises(MissingSecret, match="NOWHERE"):
        expand("${NOWHERE}")
    monkeypatch.setenv("SEARCHGYM_SECRETS", str(tmp_path / "missing"))
    with pytest.raises(MissingSecret, match="cannot be read"):
        expand("${NOWHERE}")


class Guarded(BaseHTTPRequestHandler):
    """A retrieval server behind basic authentication that repeats what it was sent when it refuses."""

    allowed = "Basic bWU6cGE1NXdvcmQtb2YtbWluZQ=="  # me:pa55word-of-mine

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != self.allowed:
            self.answer(401, f"not allowed: {self.headers.get('authorization')}".encode())
            return
        hit = {"document": {"id": "p1", "contents": '"Velm"\nVelm is a town.'}, "score": 1.0}
        self.answer(200, json.dumps({"result": [[hit]] * len(body["queries"])}).encode())

    def do_GET(self) -> None:
        self.answer(404, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    pytest.importorskip("httpcore")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_retriever_with_a_password_leaves_no_trace_of_it(
    server: str, toy: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, tape = f"http://me:{SECRET}@{server}", str(tmp_path / "t.tape")
    with caplog.at_level(logging.DEBUG):
        env = SearchEnv(corpus=toy, retriever={"name": "remote", "url": url}, record=tape)
        env.reset(seed=1)
        info = env.step("<search>Velm</search>")[4]
        assert info["retrieval"]["status"] == "ok"
        with pytest.raises(ConfigError) as refused:
            open_retriever(
                {"name": "remote", "url": f"http://me:wrong-{SECRET}@{server}", "retries": 0},
                open_corpus(toy),
            )
    assert SECRET not in str(refused.value)
    assert SECRET not in caplog.text
    assert SECRET not in Path(tape).read_text()
    stored = read_tape(tape).tape_header["retriever"]
    assert stored["url"] == f"http://${{SEARCHGYM_LOGIN_127_0_0_1}}@{server}"
    replayed = SearchEnv(corpus=toy, retriever={"name": "remote", "url": url}, replay=tape)
    replayed.reset(seed=1)
    assert replayed.step("<search>Velm</search>")[4]["hits"] == info["hits"]


def test_a_reference_is_replaced_when_the_retriever_opens(
    server: str, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"name": "remote", "url": f"http://me:${{PROXY_PASSWORD}}@{server}", "retries": 0}
    with pytest.raises(ConfigError, match=r"retriever 'remote': the environment variable PROXY_PASSWORD"):
        open_retriever(spec, open_corpus(toy))
    monkeypatch.setenv("PROXY_PASSWORD", SECRET)
    (result,) = open_retriever(spec, open_corpus(toy)).search(["Velm"], 1)
    assert not isinstance(result, RetrievalError)
    assert len(result) == 1
    assert spec["url"].startswith("http://me:${PROXY_PASSWORD}@"), "the spec is as it was"


def test_a_run_keeps_no_password_and_asks_for_it_again(
    server: str, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("searchgym.trainers.training.recorder.draw_curve", lambda *_: None)
    run, url = tmp_path / "run", f"http://me:{SECRET}@{server}"
    retriever = "retriever=" + json.dumps({"name": "remote", "url": url})
    command = [
        "train",
        "--agent",
        "candidate",
        "--questions",
        "1",
        "--group-size",
        "2",
        "--eval-episodes",
        "0",
    ]
    command += [
        "--iterations",
        "1",
        "--run-dir",
        str(run),
        "--env-option",
        f"corpus={toy}",
        "--env-option",
        retriever,
    ]
    tracker = ["--tracker", "tensorboard"] if _has_tensorboard() else []
    done = cli(*command, *tracker)
    assert done.status == 0, done.err
    for path in (p for p in run.rglob("*") if p.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in done.out + done.err
    resume = ["train", "--resume", "--run-dir", str(run), "--iterations", "2"]
    missing = cli(*resume)
    assert missing.status == 2
    assert "SEARCHGYM_LOGIN_127_0_0_1" in missing.err
    again = cli(*resume, "--env-option", retriever)
    assert again.status == 0, again.err
    monkeypatch.setenv("SEARCHGYM_LOGIN_127_0_0_1", f"me:{SECRET}")
    assert cli(*resume[:-1], "3").status == 0
    other = cli(*resume[:-1], "4", "--env-option", retriever.replace("127.0.0.1", "localhost"))
    assert other.status == 2
    assert "cannot change when resuming" in other.err
    assert SECRET not in other.err
    for path in (p for p in run.rglob("*") if p.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path


def _has_tensorboard() -> bool:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    return True
