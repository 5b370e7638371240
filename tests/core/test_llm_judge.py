"""The judge `llm` against a real HTTP server that misbehaves: every failure is an error with a reason, none a number."""

from __future__ import annotations

import inspect
import json
import logging
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.llm_cases import QUESTION, search, traces
from fixtures.stub_llm import StubLLM

from searchgym.conformance import check_judge
from searchgym.dialects import Act
from searchgym.errors import ConfigError, MissingExtraError, UnknownIdError
from searchgym.judges import RoundRecord, Trace, open_judge
from searchgym.judges.llm.judge import LLMJudge
from searchgym.options import plugins

# -- what is asked and what comes back -----------------------------------------------------------------------


def test_it_judges_and_counts(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    prices = {"usd_per_million_input": 2.0, "usd_per_million_output": 10.0}
    judge = open_judge({"name": "llm", **llm_options, **prices})
    assert isinstance(judge, LLMJudge)
    judge.check()
    repeated = Trace(QUESTION, (search(0), search(0)))
    new, old = judge.judge([*traces(1), repeated])
    assert (new.status, new.utility, new.reasoning, new.reason) == ("ok", 1.0, 1.0, "looked at")
    assert (old.utility, old.reasoning) == (0.0, 1.0)
    assert new.cost["calls"] == 1
    assert new.cost["usd"] == pytest.approx(
        (new.cost["input_tokens"] * 2 + new.cost["output_tokens"] * 10) / 1e6
    )
    stats = judge.stats
    assert (stats["calls"], stats["errors"], stats["repairs"]) == (3, 0, 0)  # the check is a call too
    assert stats["input_tokens"] > new.cost["input_tokens"] + old.cost["input_tokens"]
    request = llm_stub.bodies[1]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("stub", 0, 2048)
    assert request["response_format"] == {"type": "json_object"}
    assert [m["role"] for m in request["messages"]] == ["system", "user"]


def test_options_shape_the_request(
    llm_stub: StubLLM, llm_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    llm_options |= {
        "api_key_env": "MY_KEY",
        "temperature": None,
        "max_tokens": None,
        "response_format": False,
    }
    LLMJudge(**llm_options, extra_body={"max_completion_tokens": 99}).judge(traces(1))
    (request,) = llm_stub.bodies
    assert request.keys() == {"model", "messages", "max_completion_tokens"}
    assert llm_stub.headers["authorization"] == "Bearer secret-1"


def test_a_round_without_search_or_answer_needs_no_request(
    llm_stub: StubLLM, llm_options: dict[str, Any]
) -> None:
    invalid = RoundRecord("?", Act("invalid"), [], "")
    (verdict,) = LLMJudge(**llm_options).judge([Trace(QUESTION, (search(0), invalid))])
    assert (verdict.utility, verdict.reasoning, verdict.reason) == (0.0, 0.0, "no search and no answer")
    assert LLMJudge(**llm_options).judge([]) == []
    assert llm_stub.bodies == []


def test_answers_are_graded(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    judge = LLMJudge(**llm_options)
    answers = ["the OLDMOOR!", "in the town of Oldmoor", "Velm", "  "]
    grades = judge.grade([QUESTION] * 4, answers)
    assert [g.score for g in grades] == [1.0, 1.0, 0.0, 0.0]
    assert [g.reason for g in grades] == ["exact match", "compared", "compared", "no answer"]
    assert [g.cost["calls"] for g in grades] == [0, 1, 1, 0]
    assert [g.score for g in LLMJudge(**llm_options).grade([QUESTION] * 4, answers)] == [1.0, 1.0, 0.0, 0.0]
    assert len(llm_stub.bodies) == 2
    llm_stub.behave = lambda number, body: "empty"
    (grade,) = judge.grade([QUESTION], ["somewhere"])
    assert (grade.status, grade.score) == ("error", None)


def test_it_keeps_the_promises_of_a_judge(llm_options: dict[str, Any]) -> None:
    check_judge(LLMJudge(**llm_options), traces(3))


# -- replies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", ["prose", "fenced", "no_usage"])
def test_replies_that_are_read_at_once(
    llm_stub: StubLLM, llm_options: dict[str, Any], behaviour: str
) -> None:
    llm_stub.behave = lambda number, body: behaviour
    (verdict,) = LLMJudge(**llm_options).judge(traces(1))
    assert (verdict.status, verdict.utility, verdict.reasoning) == ("ok", 1.0, 1.0)
    assert len(llm_stub.bodies) == 1
    assert verdict.cost["input_tokens"] > 0


UNREADABLE = {
    "malformed": "no JSON object",
    "refusal": "no JSON object",
    "empty": "no JSON object",
    "cut_off": "cut off at max_tokens",
    "out_of_range": "not a number between 0 and 1",
    "renamed": 'lacks "reasoning"',
    "swapped": 'does not give "code"',
    "wrong_code": 'does not give "code"',
}


@pytest.mark.parametrize("behaviour", UNREADABLE)
def test_an_unreadable_reply_is_asked_for_once_more(
    llm_stub: StubLLM, llm_options: dict[str, Any], behaviour: str
) -> None:
    llm_stub.behave = lambda number, body: behaviour if number == 0 else "ok"
    judge = LLMJudge(**llm_options)
    (verdict,) = judge.judge(traces(1))
    assert (verdict.status, verdict.utility, verdict.reasoning) == ("ok", 1.0, 1.0)
    assert verdict.cost["calls"] == 2
    assert judge.stats["repairs"] == 1
    assert UNREADABLE[behaviour] in llm_stub.bodies[1]["messages"][3]["content"]


@pytest.mark.parametrize("behaviour", UNREADABLE)
def test_two_unreadable_replies_are_an_error(
    llm_stub: StubLLM, llm_options: dict[str, Any], behaviour: str
) -> None:
    llm_stub.behave = lambda number, body: behaviour
    judge = LLMJudge(**llm_options)
    for _ in range(2):  # an error is not kept: it is asked again
        (verdict,) = judge.judge(traces(1))
        assert (verdict.status, verdict.utility, verdict.reasoning) == ("error", None, None)
        assert UNREADABLE[behaviour] in verdict.reason
        assert verdict.cost["calls"] == 2
    assert len(llm_stub.bodies) == 4
    assert judge.stats["errors"] == 2


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", ["rate_limit_ms", "server_error", "cut", "slow"])
def test_a_passing_failure_is_tried_again(
    llm_stub: StubLLM, llm_options: dict[str, Any], behaviour: str
) -> None:
    llm_stub.latency = 0.3 if behaviour == "slow" else 0.0
    llm_stub.behave = lambda number, body: behaviour if number == 0 else "ok"
    (verdict,) = LLMJudge(**llm_options, timeout=1.5).judge(traces(1))
    assert (verdict.status, verdict.utility) == ("ok", 1.0)
    assert len(llm_stub.bodies) == 2


def test_retry_after_is_waited_for(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    llm_stub.behave = lambda number, body: "rate_limit" if number == 0 else "ok"
    started = time.monotonic()
    (verdict,) = LLMJudge(**llm_options).judge(traces(1))
    assert verdict.status == "ok"
    assert time.monotonic() - started >= 1.0  # the header says 1; the back-off alone would be 0.5 at most


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("rate_limit_ms", r"answered 429 \(.*Rate limit.*\), 2 tries"),
        ("server_error", r"answered 500 \(.*had an error.*\), 2 tries"),
        ("cut", r"broke the connection, 2 tries"),
        ("slow", r"no answer within timeout=0.2 s, 2 tries"),
        ("bad_request", r"answered 400 .*check response_format"),
        ("html", r"something other than a chat completion.*usually ends in /v1"),
        ("not_chat", r"something other than a chat completion"),
    ],
)
def test_a_lasting_failure_is_an_error(
    llm_stub: StubLLM, llm_options: dict[str, Any], behaviour: str, reason: str
) -> None:
    llm_stub.latency = 0.05
    llm_stub.behave = lambda number, body: behaviour
    judge = LLMJudge(**llm_options, timeout=0.2 if behaviour == "slow" else 20, retries=1)
    (verdict,) = judge.judge(traces(1))
    assert (verdict.status, verdict.utility, verdict.reasoning) == ("error", None, None)
    assert re.search(reason, verdict.reason), verdict.reason
    assert llm_stub.url in verdict.reason
    with pytest.raises(ConfigError, match=reason):
        judge.check()


def test_one_failure_does_not_touch_the_others(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    llm_stub.behave = lambda number, body: "bad_request" if "number 3." in str(body) else "ok"
    verdicts = LLMJudge(**llm_options).judge(traces(8))
    assert [v.status for v in verdicts] == ["ok"] * 3 + ["error"] + ["ok"] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "gpt-0"}, r"model 'gpt-0' at http.*answered 404 .*does not exist.*check the model's name"),
        ({"base_url": "http://127.0.0.1:{free}/v1"}, r"cannot be reached, 2 tries.*is the server up"),
        ({"base_url": "{root}/v2"}, r"answered 404 .*no such path.*base_url"),
        ({"api_key_env": "NO_SUCH_KEY"}, r"variable NO_SUCH_KEY.*not set: export it.*api_key_env=null"),
        ({"api_key_env": "WRONG_KEY"}, r"answered 401 .*check the key in WRONG_KEY"),
        ({}, r"answered 401 .*name the variable with its key in api_key_env"),
    ],
)
def test_check_says_what_to_do_and_judging_fails_softly(
    llm_stub: StubLLM,
    llm_options: dict[str, Any],
    changes: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-and-secret")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    if "model" not in changes:
        llm_stub.key = "the right one"
    if "base_url" in changes:
        llm_stub.key = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        root = llm_stub.url.removesuffix("/v1")
        changes = {"base_url": changes["base_url"].format(free=port, root=root)}
    judge = LLMJudge(**llm_options | changes, retries=1, concurrency=4)
    for _ in range(2):  # a failure is not remembered
        with pytest.raises(ConfigError, match=message) as raised:
            judge.check()
        assert "secret" not in str(raised.value)
    with caplog.at_level(logging.WARNING):
        verdicts = judge.judge(traces(50))
    assert {v.status for v in verdicts} == {"error"}
    assert all(v.utility is None and "secret" not in v.reason for v in verdicts)
    assert len(llm_stub.bodies) <= 6  # what does not exist is not requested fifty times
    assert len(caplog.records) == 1


def test_check_asks_once(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    judge = LLMJudge(**llm_options)
    judge.check()
    judge.check()
    assert len(llm_stub.bodies) == 1


def test_the_address_may_come_from_the_environment(
    llm_stub: StubLLM, llm_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", llm_stub.url)
    LLMJudge(**llm_options | {"base_url": None}).check()
    assert len(llm_stub.bodies) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model is None"),
        ({"model": " "}, "model is ' '"),
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000': give an address like"),
        ({"base_url": "http://"}, "base_url is 'http://'"),
        ({"base_url": "http://[x/v1"}, "base_url is"),
        ({"base_url": "http://me:hidden@host/v1"}, "base_url holds a user name or password"),
        ({"api_key_env": "sk-hidden"}, "not the name of an environment variable"),
        ({"api_key_env": ""}, "not the name of an environment variable"),
        ({"concurrency": 0}, "concurrency is 0: give a whole number from 1 to 1000"),
        ({"concurrency": True}, "concurrency is True"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0: give a number above 0"),
        ({"tokens_per_minute": "9"}, "tokens_per_minute is '9'"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"temperature": 3}, "temperature is 3: give a number from 0 to 2"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"response_format": "json"}, "response_format is 'json'"),
        ({"sample": -1}, "sample is -1"),
        ({"extra_body": ["x"]}, "extra_body is"),
        ({"extra_body": {"model": "x"}}, "'model' cannot be set"),
        ({"extra_body": {"x": float("nan")}}, "extra_body is"),
        ({"usd_per_million_input": -1}, "usd_per_million_input is -1"),
        ({"usd_per_million_input": float("inf")}, "give a finite number"),
        ({"max_usd": 1.0}, "needs prices"),
        ({"max_total_tokens": 0}, "max_total_tokens is 0"),
        ({"max_total_tokens": 9, "max_tokens": None}, "a budget needs a limit"),
        ({"cache": 3}, "cache is 3: give true, false or a directory"),
    ],
)
def test_options_that_cannot_be_used(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        LLMJudge(**{"model": "m"} | changes)
    assert "hidden" not in str(raised.value)


def test_an_unknown_option_and_a_missing_module(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'concurrency'"):
        open_judge({"name": "llm", "model": "m", "concurency": 3})
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    for module in ("judges.llm.judge", "judges.llm.dispatch", "endpoint.client", "endpoint.options"):
        monkeypatch.delitem(__import__("sys").modules, f"searchgym.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=r"judge 'llm' needs the module 'openai'.*searchgym\[judge\]"):
        plugins.load("judges", "llm")


def test_the_page_names_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "judges-llm.md").read_text("utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    shown = {name.strip("` "): default.strip("` ") for names, default in rows for name in names.split(",")}
    parameters = dict(list(inspect.signature(LLMJudge).parameters.items())[1:])
    assert shown.pop("model") == ""
    assert parameters.pop("model").default is None
    for name, parameter in parameters.items():
        assert json.loads(shown[name]) == parameter.default, name
