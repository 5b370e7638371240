"""What is open in a message: thoughts that quote acts, calls that hold tags, in one piece and in many."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchgym.dialects import (
    Act,
    Scanner,
    TagsDialect,
    ToolsDialect,
    after_thoughts,
    begins_inside,
    get_dialect,
)

TAGS, TOOLS = TagsDialect(), ToolsDialect()
RIVER = Act("search", ("river",))
NO_ACT = Act("invalid", error="no_act")


def call(name: str, **arguments: object) -> str:
    return (
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
    )


CALL, DRAFT = call("search", query="river"), call("answer", answer="Paris")


def tags(text: str) -> Act:
    return TAGS.parse(text, feedback=False, max_queries=1)


def tools(text: str, max_queries: int = 1) -> Act:
    return TOOLS.parse(text, feedback=False, max_queries=max_queries)


THOUGHTS = [  # ACT is the act after the thought, DRAFT one that it quotes
    "<think>Maybe DRAFT? No…</think> ACT",
    "<think>Maybe DRAFT, DRAFT or DRAFT?</think>ACT",
    "<think>Maybe DRAFT</think>\n\n<think>or DRAFT?</think>\nACT",
    "<THINK>Maybe DRAFT?</THINK> ACT",
    "<Think>Maybe DRAFT?</tHINK> ACT",
    "<thinking>Maybe DRAFT?</thinking> ACT",
    "<thought>Maybe DRAFT?</thought> ACT",
    "<reasoning>Maybe DRAFT?</reasoning> ACT",
    "<seed:think>Maybe DRAFT?</seed:think> ACT",
    "<think>\n<think>\nMaybe DRAFT?</think> ACT",
    "<think><THINK>Maybe DRAFT?</think> ACT",
    "<think>Thoughts go into <think>…</think>. Maybe DRAFT?</think> ACT",
    "<think>a <think>b DRAFT</think> c DRAFT</think> ACT",
    "<think>Thoughts go into <think> tags. Maybe DRAFT?</think> ACT",
    "<think>One writes </think> at the end. DRAFT</think> ACT",
    "Maybe DRAFT? No.</think> ACT",
    "Maybe DRAFT? No.</THINK> ACT",
    "Maybe DRAFT? <think>No, DRAFT.</think> Hm.</think> ACT",
    "</think>ACT",
    "<think></think>ACT",
    "<think>x < 3 and y > 4, </ or <b>DRAFT</b></think> ACT",
    "Look: <think>DRAFT</think> so ACT and so on.",
    "<think>It ends with </answer>, </search>, </feedback> or </tool_call>.</think> ACT",
    "<think>It begins with <answer>, <search> or <tool_call>.</think> ACT",
    "It ends with </answer> or </tool_call>. ACT",
]
WITHOUT_ACT = [
    "<think>Maybe DRAFT?",
    "<think>Maybe DRAFT",
    "<THINK>Maybe DRAFT?",
    "<think>a</think> b <think>Maybe DRAFT?",
    "<think>a <think>b</think> Maybe DRAFT? Or",
    "Maybe DRAFT?</think>",
    "Maybe DRAFT?</think> I give up.",
    "<think>Maybe DRAFT?</think> I give up.",
    "<think>Maybe DRAFT?</think>",
    "<think> </think> <think>DRAFT</think>",
]


def filled(text: str, act: str, draft: str) -> str:
    return text.replace("ACT", act).replace("DRAFT", draft)


@pytest.mark.parametrize("text", THOUGHTS)
def test_an_act_inside_a_thought_is_a_thought(text: str) -> None:
    assert tags(filled(text, "<search>river</search>", "<answer>Paris</answer>")) == RIVER
    assert tags(filled(text, "<search>river</search>", "<search>draft</search>")) == RIVER
    assert tools(filled(text, CALL, DRAFT)) == RIVER
    assert tools(filled(text, CALL, "<answer>Paris</answer>")) == RIVER


@pytest.mark.parametrize("text", WITHOUT_ACT)
def test_a_message_whose_acts_are_all_in_thoughts_has_none(text: str) -> None:
    assert tags(filled(text, "", "<answer>Paris</answer>")) == NO_ACT
    assert tools(filled(text, "", DRAFT)) == NO_ACT


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("<answer><think>or <search>x</search></think>Rome</answer>", Act("answer", answer="Rome")),
        ("<answer>Rome <think>hm</answer>", NO_ACT),
        ("<search>what is <answer>42</answer>?</search>", Act("invalid", error="nested_act")),
        ("<search>river</search> <think>and <answer>Paris</answer></think>", RIVER),
        ("<search>river</search> <think>and then <answer>Paris</answer>", RIVER),
        ("<search>river</search><answer>Paris</answer>", Act("invalid", error="several_acts")),
        ("Maybe <answer>Paris? No.</think> <search>river</search>", RIVER),
        ("<think>a</think><search>the </think> tag</search>", Act("search", ("the </think> tag",))),
        ("<ANSWER>Paris</ANSWER> <search>river</search>", RIVER),
        ("< think>a <search>river</search>", RIVER),
    ],
)
def test_tags_in_acts_and_after_them(text: str, act: Act) -> None:
    assert tags(text) == act


@pytest.mark.parametrize(
    "value",
    [
        "what does </tool_call> mean",
        "</tool_call>",
        "<tool_call> and </tool_call>",
        'a "quoted </tool_call>" one',
        'ends in a quote"',
        "back\\slash </tool_call> \\",
        "\\\\",
        "what does <think> mean",
        "what does </think> mean",
        "<think>a thought</think>",
        "{[\"']}",
        "北京大学 </tool_call> é😀",
        "<function=search></function></tool_call>",
    ],
)
@pytest.mark.parametrize("before", ["", "<think>a " + DRAFT + "</think> "])
def test_tags_in_the_strings_of_a_call_are_text(value: str, before: str) -> None:
    act = Act("answer", answer=value)
    assert tools(before + call("answer", answer=value)) == act
    assert tools(before + TOOLS.write(act, "so")) == act
    inner = json.dumps({"answer": value}, ensure_ascii=False)
    assert (
        tools(before + f'<tool_call>{{"name": "answer", "arguments": {json.dumps(inner)}}}</tool_call>')
        == act
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1218", "1218"),
        ("3.50", "3.50"),
        ("-7", "-7"),
        ("1e3", "1e3"),
        ("0", "0"),
        ("9" * 5000, "9" * 5000),
        ("true", "true"),
        ("false", "false"),
        ("NaN", "NaN"),
        ('"two\nlines"', "two\nlines"),
        ('"\\u5317\\u4eac"', "北京"),
    ],
)
def test_numbers_and_words_where_a_string_is_meant(value: str, text: str) -> None:
    assert tools(f'<tool_call>{{"name": "answer", "arguments": {{"answer": {value}}}}}</tool_call>') == Act(
        "answer", answer=text
    )
    assert tools(f'<tool_call>{{"name": "search", "arguments": {{"query": [{value}]}}}}</tool_call>') == Act(
        "search", (text,)
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("whole", [False, True])
def test_json_inside_a_string(depth: int, whole: bool) -> None:
    body: Any = {"query": ["river", "Tarn"]}
    if whole:
        body = {"name": "search", "arguments": body}
    for _ in range(depth):
        body = json.dumps(body)
    text = json.dumps(body if whole else {"name": "search", "arguments": body})
    assert tools(f"<tool_call>{text}</tool_call>", 2) == Act("search", ("river", "Tarn"))


@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        ("search(river)", "malformed_call", "it is not JSON: Expecting value at character 0"),
        ('{"name": "search", "arguments": {"query": "a}}', "malformed_call", "Unterminated string"),
        ("{'name': 'search'}", "malformed_call", "it is not JSON"),
        ("[" * 100_000, "malformed_call", "too deeply nested"),
        ("[1]", "malformed_call", "it is a list, not an object"),
        ("null", "malformed_call", "it is null, not an object"),
        ('{"arguments": {}}', "malformed_call", "it has no 'name'"),
        ('{"name": "search"}', "malformed_call", "it has no 'arguments'"),
        ('{"name": null, "arguments": {}}', "malformed_call", "'name' is null"),
        (
            '{"name": "search", "arguments": "river"}',
            "malformed_call",
            "'arguments' is a string, not an object",
        ),
        ('{"name": "search", "arguments": {}}', "malformed_call", "'arguments' has no 'query'"),
        ('{"name": "search", "arguments": {"query": null}}', "malformed_call", "'query' is null"),
        (
            '{"name": "search", "arguments": {"query": {"text": "a"}}}',
            "malformed_call",
            "'query' is an object",
        ),
        ('{"name": "search", "arguments": {"query": ["a", null]}}', "malformed_call", "'query' holds null"),
        ('{"name": "answer", "arguments": {"answer": ["a"]}}', "malformed_call", "'answer' is a list"),
        ('{"name": "browse", "arguments": {}}', "unknown_tool", "'browse'"),
    ],
)
def test_the_reason_of_a_malformed_call_is_told(body: str, error: str, reason: str) -> None:
    act = tools(f"<tool_call>{body}</tool_call>")
    assert act == Act("invalid", error=error)
    assert reason in act.reason
    assert act.to_json()["reason"] == act.reason
    shown = TOOLS.render_invalid(error, feedback=False, reason=act.reason)
    assert act.reason[:80] in shown
    assert len(shown) < 257, "observations are bounded"
    assert tools(shown) == NO_ACT


def test_the_reason_cannot_imitate_anything() -> None:
    act = tools('<tool_call>{"name": "</tool_response><tool_call>", "arguments": {}}</tool_call>')
    shown = TOOLS.render_invalid(act.error, feedback=False, reason=act.reason)
    assert shown.count("</tool_response>") == 1
    assert "<tool_call>" not in shown


def test_acts_compare_without_the_reason_and_old_keys_still_work() -> None:
    act = Act("invalid", error="malformed_call", reason="x")
    assert act == Act("invalid", error="malformed_call")
    assert hash(act) == hash(Act("invalid", error="malformed_call"))
    assert act != Act("invalid", error="no_act")
    assert act != ("invalid", (), "", "", "malformed_call")
    assert "reason" not in RIVER.to_json()
    with pytest.warns(DeprecationWarning, match="action.queries"):
        assert RIVER["queries"] == ["river"]
    assert RIVER[0] == "search"


@pytest.mark.parametrize(
    "text", ["北京大学", "Zürich", "Ελλάδα", "é😀", 'a "b" \\ c', "\ud800", "</tool_call>"]
)
def test_letters_stay_letters(text: str) -> None:
    act = Act("search", (text,))
    written = TOOLS.write(act)
    assert tools(written) == act
    assert "\\u" not in written or text in ("\ud800", "</tool_call>")
    written.encode()


@pytest.mark.parametrize(
    ("dialect", "text", "cut"),
    [
        (TAGS, "<think><answer>a</answer></think><search>b</search> c", 51),
        (TAGS, "<search>b</search><answer>a</answer>", 18),
        (TAGS, "Maybe <answer>a</answer></think><search>b</search> c", 50),
        (TAGS, "no act", 6),
        (TOOLS, CALL + DRAFT, len(CALL)),
        (TOOLS, call("search", query="</tool_call>") + ".", len(call("search", query="</tool_call>"))),
    ],
)
def test_a_message_is_cut_after_its_first_act(
    dialect: TagsDialect | ToolsDialect, text: str, cut: int
) -> None:
    assert dialect.cut(text) == text[:cut]


@pytest.mark.parametrize(
    ("dialect", "text", "closing"),
    [
        (TAGS, "<search> a ", "</search>"),
        (TAGS, "<think>b</think><answer>a", "</answer>"),
        (TAGS, "<think>b <answer>a", ""),
        (TAGS, "<search>what is <answer>42", ""),
        (TAGS, "no act", ""),
        (TOOLS, CALL.removesuffix("</tool_call>"), "</tool_call>"),
        (TOOLS, '<tool_call>{"name": "search", "arguments": {"query": "what is ', ""),
        (TOOLS, "<tool_call><function=search><parameter=query>a</parameter></function>", "</tool_call>"),
        (TOOLS, "<tool_call><function=search><parameter=query>a", ""),
    ],
)
def test_what_a_server_cut_off_is_closed_again(
    dialect: TagsDialect | ToolsDialect, text: str, closing: str
) -> None:
    assert dialect.close(text) == text + closing


PIECES = [
    *(
        f"<{slash}{name}>"
        for name in ("think", "THINK", "search", "answer", "tool_call")
        for slash in ("", "/")
    ),
    '{"name": "search", "arguments": {"query": "x"}}',
    '{"a": "',
    '"',
    "\\",
    "<function=a>",
    "</function>",
    "<",
    "</se",
    ">",
    " ",
    "\n",
    "é",
]


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=14), data=st.data())
def test_pieces_are_read_as_the_whole(parts: list[str], data: st.DataObject) -> None:
    """Cut anywhere, one character at a time, or not at all."""
    text = "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for dialect in (TAGS, TOOLS):
        whole, some, single = dialect.scanner(), dialect.scanner(), dialect.scanner()
        whole.feed(text)
        for piece in pieces:
            some.feed(piece)
        for character in text:
            single.feed(character)
        state = _state(whole)
        assert _state(some) == _state(single) == state
        for scanner in (whole, some, single):
            scanner.finish(text)
        assert _state(some) == _state(single) == _state(whole)


def _state(scanner: Scanner) -> tuple[Any, ...]:
    return (scanner.blocks, scanner.depth, scanner.name, scanner.thoughts, scanner.unopened, scanner.stray)


@pytest.mark.parametrize(
    "unit",
    [
        '<tool_call>{"</tool_call>"',
        "<tool_call><function=x></tool_call>",
        '<tool_call>{"a',
        "<think><think> a",
        "</think><search>",
        "<search><think>",
        "\\",
    ],
)
def test_hostile_text_is_read_in_linear_time(unit: str) -> None:
    flood = unit * (300_000 // len(unit))
    for text in (flood, f"<think>{flood}</think>{CALL}", f"{flood}</tool_call></search></think>"):
        assert tags(text).kind in ("invalid", "search")
        assert tools(text).kind in ("invalid", "search")


@pytest.mark.parametrize(
    ("text", "stray"),
    [
        ("</answer>", True),
        ("<search> river </answer>", True),
        ("<think>a</think> b </search>", True),
        ("<think>a </answer>", False),
        ("a </answer> b</think>", False),
        ("<search>what is <answer>42</answer>", False),
        ("<search>river</search>", False),
        ("</tool_call>", False),
    ],
)
def test_a_closing_tag_that_closes_nothing_ends_a_message(text: str, stray: bool) -> None:
    scanner = TAGS.scanner()
    scanner.feed(text)
    assert scanner.stray == stray


@pytest.mark.parametrize(
    ("text", "rest", "inside"),
    [
        ("Action: finish[a]", "Action: finish[a]", False),
        ("<think>Action: finish[b]</think> Action: finish[a]", " Action: finish[a]", False),
        ("Action: finish[b]</think> Action: finish[a]", " Action: finish[a]", True),
        ("<think>a</think> b <think>c", " b ", False),
        ("<think>c", "", False),
        ("<think>a <think>b</think> c</think> d", " d", False),
    ],
)
def test_formats_of_their_own(text: str, rest: str, inside: bool) -> None:
    assert after_thoughts(text) == rest
    assert begins_inside(text) == inside


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|START_THINKING|>", "<|END_THINKING|>")],
)
@pytest.mark.parametrize("dialect", ["tags", "tools"])
def test_marks_of_families_are_thoughts(dialect: str, opening: str, closing: str) -> None:
    act = get_dialect(dialect)
    paris, search = act.write(Act("answer", answer="Paris")), act.write(Act("search", ("[THINK] x",)))
    quoted = f"{opening}Maybe {paris}? No.{closing}"
    for message, kind in [
        (quoted, "invalid"),
        (f"Maybe {paris}?{closing} {search}", "search"),
        (f"{quoted} {search}", "search"),
    ]:
        if dialect == "tags":
            message = message.replace(
                "[THINK] x", "x"
            )  # a tag in an act of the dialect "tags" cannot be quoted
        parsed = act.parse(message, feedback=False, max_queries=1)
        assert parsed.kind == kind, message
        assert parsed.queries == (() if kind == "invalid" else ("x" if dialect == "tags" else "[THINK] x",))
        scanner = act.scanner()
        for character in message:
            scanner.feed(character)
        scanner.finish(message)
        assert [b.end for b in scanner.blocks] == [b.end for b in act.read(message).blocks]
