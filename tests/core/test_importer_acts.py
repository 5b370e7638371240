"""Importers read acts after thoughts, and numbers where a text is meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from searchgym.dialects import Act
from searchgym.importing import FORMATS, parse_rollout

R1, REACT, _, RESPONSES = FORMATS
PARIS, RIVER = Act("answer", answer="Paris"), Act("search", ("river",))


def last(text: Any, format: str) -> Act:
    return parse_rollout(text, format).rounds[-1].action


@pytest.mark.parametrize(
    ("text", "act"),
    [
        ("Hm.</think> <answer> Paris </answer>", PARIS),
        ("Maybe <answer>Rome</answer>? No.</think> <answer> Paris </answer>", PARIS),
        ("Maybe <answer>Rome</answer>? No.</think> I give up", Act("invalid", error="no_act")),
        ("<think>Maybe <answer>Rome</answer>?", Act("invalid", error="no_act")),
        ("Maybe <answer>Rome</answer>? No.</THINK> <answer> Paris </answer>", PARIS),
        ("<answer> Paris </answer>", PARIS),
    ],
)
def test_r1_searchers_answer_comes_after_its_thought(text: str, act: Act) -> None:
    assert last(text, R1) == act


@pytest.mark.parametrize(
    ("said", "act"),
    [
        ("Thought: hm\nAction: search[river]", RIVER),
        ("<think>Maybe\nAction: finish[Paris]\n</think>\nThought: hm\nAction: search[river]", RIVER),
        ("Maybe\nAction: finish[Paris]\n</think>\nAction: search[river]", RIVER),
        ("<think>Maybe\nAction: finish[Paris]", Act("invalid", error="no_act")),
    ],
)
def test_a_react_action_inside_a_thought_is_a_thought(said: str, act: Act) -> None:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": said}]
    assert last(messages, REACT) == act


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ('{"answer": "Paris"}', "Paris"),
        ('{"answer": 1218}', "1218"),
        ('{"answer": 3.5}', "3.5"),
        ('{"answer": true}', "true"),
        (json.dumps(json.dumps({"answer": "Paris"})), "Paris"),
        ({"answer": 1218}, "1218"),
    ],
)
def test_arguments_of_calls_are_read_as_in_the_tools_dialect(arguments: Any, answer: str) -> None:
    items = [{"type": "function_call", "name": "submit", "arguments": arguments, "call_id": "c"}]
    assert last(items, RESPONSES) == Act("answer", answer=answer)


def test_an_answer_in_the_thought_of_a_final_message_is_a_thought() -> None:
    said = '<think>Maybe {"answer": "Rome"}?</think> {"answer": "Paris"}'
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]}
    assert last([message], RESPONSES) == PARIS
