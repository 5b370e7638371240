"""What servers really send to the agent `api`: thoughts, quoted tags, tool calls of every form, broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures.stub_llm import StubLLM
from helpers import small_world

import searchgym
from searchgym.agents.api import APIAgent
from searchgym.dialects import Act
from searchgym.records.episode import Episode

WORLD = small_world()


def played(
    reply: Any, *, dialect: str = "tags", rounds: int = 1, **options: Any
) -> tuple[Episode, list[dict[str, Any]]]:
    """One episode with a server that always sends this message, and the requests it got."""

    def chat(body: dict[str, Any]) -> Any:
        return reply(body) if callable(reply) else reply

    with StubLLM(chat=chat) as stub:
        agent = APIAgent(model="stub", base_url=stub.url, api_key_env=None, cache=False, retries=0, **options)
        result = searchgym.evaluate(
            "SearchQA-v0", agent, 1, split="dev", corpus=WORLD, max_rounds=rounds, dialect=dialect
        )
    return result.episodes[0], stub.bodies


def call(arguments: Any, name: Any = "search", id_: Any = "call_1") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def honest(text: str, *, includes_stop: bool = False) -> Any:
    """A server that ends its reply at the first stop string, wherever it stands."""

    def chat(body: dict[str, Any]) -> str:
        ends = [(text.find(stop), stop) for stop in body.get("stop", ()) if stop in text]
        at, stop = min(ends, default=(len(text), ""))
        return text[:at] + (stop if includes_stop else "")

    return chat


@pytest.mark.parametrize("includes_stop", [False, True])
@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "<think>Maybe <answer>Paris</answer>? No.</think> <search>river</search>",
        "<THINK>Maybe <answer>Paris</answer>? No.</THINK> <search>river</search> so",
        "Maybe <answer>Paris</answer>? No.</think> <search>river</search>",
        "Maybe </answer>? No.</think> <search>river</search>",
        "<think>It ends with </answer>.</think> <search>river</search>",
        "<search>river</search>\n<information>…</information><answer>Paris</answer>",
    ],
)
def test_stop_strings_end_no_thought(text: str, stop: bool, includes_stop: bool) -> None:
    episode, bodies = played(honest(text, includes_stop=includes_stop), stop=stop)
    assert episode.rounds[0].action == Act("search", ("river",))
    assert len(bodies) <= 3
    assert ("stop" in bodies[0]) == stop


@pytest.mark.parametrize("known", ["</search>", "</answer>", "none"])
def test_a_server_that_knows_one_stop_string(known: str) -> None:
    text = "Maybe <answer>Paris</answer>? I look, </search> after that.</think> <search>river</search>"

    def chat(body: dict[str, Any]) -> str:
        return text.partition(known)[0] if known in body.get("stop", ()) else text

    episode, _ = played(chat)
    assert episode.rounds[0].action == Act("search", ("river",))


def test_a_server_that_hides_thoughts_is_found_out_once() -> None:
    text = "Maybe <answer>Paris</answer>? No.</think> <search>river</search>"
    episode, bodies = played(honest(text), rounds=3)
    assert [r.action.queries for r in episode.rounds] == [("river",)] * 3
    assert ["stop" in body for body in bodies][2:] == [False] * (len(bodies) - 2)
    assert episode.rounds[0].text == f"<think>{text}"
    assert bodies[-1]["messages"][2] == {"role": "assistant", "content": text}


def test_words_before_an_act_cost_one_request_more_and_only_once() -> None:
    episode, bodies = played(honest("I look it up. <search>river</search>"), rounds=3)
    assert [r.text for r in episode.rounds] == ["I look it up. <search>river</search>"] * 3
    assert ["stop" in body for body in bodies] == [True, False, True, True]


def test_a_quoted_act_in_an_act_is_no_answer() -> None:
    episode, _ = played(honest("<search>what is <answer>42</answer>?</search>"))
    assert episode.rounds[0].action == Act("invalid", error="nested_act")


def test_a_thought_that_is_cut_off_has_no_act() -> None:
    def behave(number: int, body: dict[str, Any]) -> str:
        return "cut_off"

    with StubLLM(behave=behave, chat=lambda body: "<think>Maybe <answer>Paris</answer>?") as stub:
        agent = APIAgent(model="stub", base_url=stub.url, api_key_env=None, cache=False)
        result = searchgym.evaluate("SearchQA-v0", agent, 1, split="dev", corpus=WORLD, max_rounds=1)
    assert result.episodes[0].rounds[0].action.error == "no_act"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_servers_own_field_for_thoughts_holds_no_act(field: str) -> None:
    message = {"content": "<search>river</search>", field: "Maybe <answer>Paris</answer>?"}
    assert played(message)[0].rounds[0].text == "<search>river</search>"
    message = {"content": None, field: "Maybe <answer>Paris</answer>?"}
    assert played(message)[0].rounds[0].action.error == "no_act"


def test_of_a_message_in_parts_the_text_counts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "<answer>Paris</answer>"}]}
    message = {"content": [thinking, {"type": "text", "text": "<search>river</search>"}]}
    assert played(message)[0].rounds[0].action == Act("search", ("river",))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ('{"query": "river"}', "river"),
        ({"query": "river"}, "river"),
        ('"{\\"query\\": \\"river\\"}"', "river"),
        ('"\\"{\\\\\\"query\\\\\\": \\\\\\"river\\\\\\"}\\""', "river"),
        ('{"query": 1984}', "1984"),
        ({"query": 1984}, "1984"),
        ('{"query": 3.50}', "3.50"),
        ('{"query": true}', "true"),
        ('{"query": "what does </tool_call> mean"}', "what does </tool_call> mean"),
        ('{"query": "<think> </think>"}', "<think> </think>"),
        ('{"query": "\\u5317\\u4eac"}', "北京"),
    ],
)
def test_calls_are_read_whenever_they_come(native: bool, arguments: Any, query: str) -> None:
    message = {"content": "", "tool_calls": [call(arguments)]}
    episode, bodies = played(message, dialect="tools", native_tools=native, rounds=2)
    assert [r.action for r in episode.rounds] == [Act("search", (query,))] * 2
    assert "\\u5317" not in episode.rounds[0].text
    roles = [m["role"] for m in bodies[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool" if native else "user"]
    assert ("tools" in bodies[0]) == native


def test_a_call_that_a_server_leaves_in_the_text_counts_once() -> None:
    written = '<tool_call>{"name": "search", "arguments": {"query": "river"}}</tool_call>'
    message = {"content": f"So: {written}", "tool_calls": [call('{"query": "river"}')]}
    assert played(message, dialect="tools")[0].rounds[0].action == Act("search", ("river",))


def test_a_call_that_a_server_took_out_of_an_open_thought_is_no_act() -> None:
    message = {"content": "<think>Maybe ", "tool_calls": [call('{"query": "river"}')]}
    assert played(message, dialect="tools")[0].rounds[0].action.error == "no_act"


def test_a_call_in_the_tags_dialect_is_no_act() -> None:
    episode, _ = played({"content": "", "tool_calls": [call('{"query": "river"}')]})
    assert episode.rounds[0].action.error == "no_act"
    assert "river" in episode.rounds[0].text


BROKEN = [
    (call('{"query": "riv'), "malformed_call"),
    (call("river"), "malformed_call"),
    (call(""), "malformed_call"),
    (call("null"), "malformed_call"),
    (call("[1, 2]"), "malformed_call"),
    (call('"river"'), "malformed_call"),
    (call("{'query': 'river'}"), "malformed_call"),
    (call(None), "malformed_call"),
    (call(["river"]), "malformed_call"),
    (call('{"query": null}'), "malformed_call"),
    (call('{"query": {"text": "river"}}'), "malformed_call"),
    (call("{}"), "malformed_call"),
    (call("[" * 5000), "malformed_call"),
    (call("{}", name="open page!"), "unknown_tool"),
    (call("{}", name=""), "unknown_tool"),
    (call("{}", name=None), "unknown_tool"),
    (call('{"query": "a"}', name="x" * 100), "unknown_tool"),
]


def strict(message: dict[str, Any]) -> Any:
    """A server that takes back only what it could have sent: it fails on a conversation with a broken call."""

    def chat(body: dict[str, Any]) -> dict[str, Any]:
        waiting: list[str] = []
        for said in body["messages"]:
            assert isinstance(said["content"], str)
            if said["role"] == "tool":
                waiting.remove(said["tool_call_id"])
                continue
            assert not waiting, "every call is answered"
            for one in said.get("tool_calls", ()):
                assert one["id"]
                assert one["id"] not in waiting
                assert one["function"]["name"].replace("_", "").replace("-", "").isalnum()
                assert len(one["function"]["name"]) <= 64
                assert isinstance(json.loads(one["function"]["arguments"]), dict)
                waiting.append(one["id"])
        assert not waiting
        return message

    return chat


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("made", "error"), BROKEN)
def test_a_broken_call_costs_a_round_and_never_the_episode(
    made: dict[str, Any], error: str, native: bool
) -> None:
    message = {"content": None, "tool_calls": [made]}
    episode, bodies = played(strict(message), dialect="tools", rounds=3, native_tools=native)
    assert [r.action.error for r in episode.rounds] == [error] * 3
    assert episode.valid_for_training
    assert len(bodies) == 3
    action = episode.rounds[0].action
    assert action.reason[:60] in episode.rounds[0].observation
    assert action.reason
    assert action.reason[:60] in bodies[-1]["messages"][-1]["content"]


@pytest.mark.parametrize("ids", [("", ""), (None, None), ("same", "same"), ("None", "a")])
def test_parallel_calls_get_ids_of_their_own(ids: tuple[Any, Any]) -> None:
    message = {
        "content": None,
        "tool_calls": [call('{"query": "a"}', id_=ids[0]), call('{"answer": "b"}', "answer", ids[1])],
    }
    episode, bodies = played(strict(message), dialect="tools", rounds=2)
    assert [r.action.error for r in episode.rounds] == ["several_acts"] * 2
    assert [m["role"] for m in bodies[-1]["messages"]][-2:] == ["tool", "tool"]


def test_what_was_asked_without_stop_strings_is_kept_too(tmp_path: Path) -> None:
    text = "<think>Maybe <answer>Paris</answer>? No.</think> <search>river</search>"
    with StubLLM(chat=honest(text)) as stub:
        for cached in (0, 2):
            agent = APIAgent(model="stub", base_url=stub.url, api_key_env=None, cache=str(tmp_path / "kept"))
            result = searchgym.evaluate("SearchQA-v0", agent, 1, split="dev", corpus=WORLD, max_rounds=1)
            assert result.episodes[0].rounds[0].text == text
            assert agent.costs()["cached"] == cached
            assert len(stub.bodies) == 2
