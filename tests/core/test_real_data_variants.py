"""What real models write and real files, servers and retrievers give, in variants beside those of each kind's own tests."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import searchgym
from searchgym.corpora import open_jsonl
from searchgym.corpora.service.limits import Limits
from searchgym.corpora.service.requests import Refused, read_search
from searchgym.dialects import Act, TagsDialect, ToolsDialect
from searchgym.errors import CorpusError
from searchgym.importing import import_rollouts
from searchgym.records.episode import load_episodes, save_episodes
from searchgym.records.retriever import Hit, Retriever
from searchgym.rollouts import evaluate
from searchgym.scoring import exact_match, f1

PASSAGE = {"id": "1", "title": "A", "text": "b c"}
QUESTION = {"id": "q", "question": "Who?", "golden_answers": ["x"], "split": "train"}


def corpus(folder: Path, passages: list[Any], questions: list[Any]) -> Any:
    for name, rows in (("passages", passages), ("questions", questions)):
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    return open_jsonl(str(folder))


def call(body: str) -> Act:
    return ToolsDialect().parse(f"<tool_call>{body}</tool_call>", feedback=False, max_queries=1)


def tags(text: str) -> Act:
    return TagsDialect().parse(text, feedback=False, max_queries=1)


@pytest.mark.parametrize(
    ("body", "act"),
    [
        ('{"name": "answer", "arguments": {"answer": 3.0}}', Act("answer", answer="3.0")),
        ('{"name": "answer", "arguments": {"answer": 12345678901234567890}}', Act("answer", answer="12345678901234567890")),
        ('{"name": "search", "arguments": {"query": true}}', Act("search", ("true",))),
        ('{"name": "search", "arguments": {"query": "a\nb"}}', Act("search", ("a\nb",))),
        (
            json.dumps({"name": "search", "arguments": json.dumps(json.dumps(json.dumps({"query": "x"})))}),
            Act("search", ("x",)),
        ),
    ],
)  # fmt: skip
def test_calls_that_are_read(body: str, act: Act) -> None:
    assert call(body) == act


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "answer", "arguments": {"answer": null}}',
        '{"name": "answer", "arguments": {"answer": ["Paris"]}}',
        '{"name": "answer", "arguments": {"answer": {"text": "Paris"}}}',
        "{'name': 'search', 'arguments': {'query': 'x'}}",
        '{"name": "search", "arguments": {"query": "x",}}',
        '[{"name": "search", "arguments": {"query": "x"}}]',
        '```json\n{"name": "search", "arguments": {"query": "x"}}\n```',
    ],
)
def test_calls_that_cost_a_round_and_say_why(body: str) -> None:
    act = call(body)
    assert (act.kind, act.error) == ("invalid", "malformed_call")
    assert act.reason


@pytest.mark.parametrize(
    "text",
    [
        "I could write `<answer>Rome</answer>` but first <search>river</search>",
        "<reflection>Maybe <answer>Rome</answer></reflection><search>river</search>",
    ],
)
def test_a_quote_that_nothing_marks_as_a_thought_is_never_the_answer(text: str) -> None:
    assert tags(text).error == "several_acts"


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"golden_answers": [1887, 3.0]}, ("1887", "3")),
        ({"golden_answers": ["", "x"]}, ("x",)),
        ({"golden_answers": ["x", None]}, ("x",)),
        ({"golden_answers": '["x", "y"]'}, ("x", "y")),
        ({"golden_answers": [["x", None], ["y"]]}, ("x", "y")),
        ({"golden_answers": "[REDACTED]"}, ("[REDACTED]",)),
    ],
)
def test_answers_that_are_read(tmp_path: Path, row: dict[str, Any], answers: tuple[str, ...]) -> None:
    assert corpus(tmp_path, [PASSAGE], [{**QUESTION, **row}]).question("q").answers == answers


@pytest.mark.parametrize(
    ("passage", "question"),
    [
        ({**PASSAGE, "text": "b \ud83d c"}, QUESTION),
        (PASSAGE, '{"id": "q", "question": "Who?", "golden_answers": ["x"], "hops": NaN}'),
        (PASSAGE, {**QUESTION, "golden_answers": {"value": "x", "aliases": ["y"]}}),
        (PASSAGE, {**QUESTION, "golden_answers": []}),
        (PASSAGE, {**QUESTION, "golden_answers": "['x', 'y']"}),
        (PASSAGE, {**QUESTION, "golden_answers": "['x' 'y']"}),
        (PASSAGE, {**QUESTION, "golden_answers": ["array(['x'], dtype=object)"]}),
        ({**PASSAGE, "title": 1984}, QUESTION),
        (PASSAGE, {**QUESTION, "id": 7.5}),
        (PASSAGE, {**QUESTION, "metadata": '{"type": "bridge"}'}),
    ],
)
def test_rows_that_are_refused_with_their_line(tmp_path: Path, passage: Any, question: Any) -> None:
    with pytest.raises(CorpusError, match=r"\.jsonl, line 1: "):
        corpus(tmp_path, [passage], [question])


def test_gold_facts_as_hotpotqa_writes_them(tmp_path: Path) -> None:
    facts = {
        "supporting_facts": [["A", 0], ["B", 1]],
        "context": [["B", ["No.", "Yes it is."]], ["A", ["b c"]]],
    }
    passages = [PASSAGE, {"id": "2", "title": "B", "text": "Yes it is."}]
    opened = corpus(tmp_path, passages, [{**QUESTION, "metadata": facts}])
    assert (opened.question("q").supporting_ids, opened.question("q").hops) == (("1", "2"), 2)


@pytest.mark.parametrize("reward", [None, math.nan])
def test_a_missing_reward_is_not_a_wrong_answer(tmp_path: Path, reward: float | None) -> None:
    row = {"input": "Question: Who?", "output": "<answer>x</answer>", "gts": "x", "score": reward}
    (path := tmp_path / "dump.jsonl").write_text(json.dumps(row) + "\n")
    (episode,) = import_rollouts(path).episodes
    assert episode.extra["recorded"].get("correct") is None


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("<|START_THINKING|>Maybe <answer>Rome</answer>", "no_act"),
        ("<think reason='x'>Maybe <answer>Rome</answer></think>", "no_act"),
        ("<information>Doc <answer>Rome</answer></information><answer>x</answer>", "several_acts"),
        ("<THINKING>Maybe <answer>Rome</answer></Thinking>", "no_act"),
    ],
)
def test_quotes_of_acts_in_real_messages(message: str, error: str) -> None:
    assert tags(message).error == error


def test_gold_ids_that_a_table_made_floats(tmp_path: Path) -> None:
    opened = corpus(tmp_path, [PASSAGE], [{**QUESTION, "supporting_ids": [1.0]}])
    assert opened.question("q").supporting_ids == ("1",)


def test_an_answer_with_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    def agent(observation: str, info: dict[str, Any]) -> str:
        return '<tool_call>{"name": "answer", "arguments": {"answer": "\\ud83d x"}}</tool_call>'

    env = searchgym.SearchEnv(corpus=corpus(tmp_path, [PASSAGE], [QUESTION]), dialect="tools", split="train")
    result = evaluate(env, agent, 1, split="train")
    save_episodes(tmp_path / "episodes.jsonl", result.episodes)
    (episode,) = load_episodes(tmp_path / "episodes.jsonl")
    assert episode.outcome.answer == "\ud83d x"


class Odd:
    """A retriever object, which no query cache stands in front of."""

    name, index_hash = "odd", "hash"

    def __init__(self, result: Any) -> None:
        self._result = result

    def search(self, queries: Sequence[str], k: int) -> list[Any]:
        return [self._result for _ in queries]


@pytest.mark.parametrize(
    "result",
    [[Hit("1", "A", "b c", score)] for score in (math.inf, -math.inf, math.nan)] + [None, "hits", {"1": 0.5}],
    ids=str,
)
def test_what_is_no_result_is_a_retrieval_failure(tmp_path: Path, result: Any) -> None:
    odd = Odd(result)
    assert isinstance(odd, Retriever)
    env = searchgym.SearchEnv(corpus=corpus(tmp_path, [PASSAGE], [QUESTION]), retriever=odd, split="train")
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step("<search>b</search>")
    assert (terminated, truncated) == (False, True)
    assert info["outcome"]["stop_reason"] == "retrieval_failed"
    assert not info["valid_for_training"]


@pytest.mark.parametrize(
    ("body", "queries"),
    [
        (b'{"queries": []}', []),
        ('{"queries": ["é"]}'.encode("utf-16"), ["é"]),
        (b'{"queries": ["a\\u00a0b", " "], "topk": "3.0", "return_scores": "on"}', ["a b", ""]),
    ],
)
def test_bodies_that_are_read(body: bytes, queries: list[str]) -> None:
    assert read_search(body, "", Limits()).queries == queries


@pytest.mark.parametrize(
    "body",
    [
        b'{"queries": ["a"], "topk": NaN}',
        b'{"queries": ["a"], "topk": 1e999}',
        b'{"queries": ["a"], "topk": 3.5}',
        b'{"queries": ["a"], "topk": 1' + b"0" * 5000 + b"}",
        b'{"queries": ["caf\xe9"]}',
        b'{"queries": ["a", null]}',
        b'{"queries": ["a"], "query": ["b"]}',
    ],
    ids=lambda body: body[:40],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_search(body, "", Limits())
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("answer", "gold", "em"),
    [
        ("New\u00a0York", "New York", 1.0),
        ("ΟΔΟΣ", "οδος", 1.0),
        ("ភ្នំពេញ", "ភ្នំពេញ", 1.0),
        ("", "", 0.0),
        ("the", "a", 0.0),
        ("1887", "188", 0.0),
    ],
)
def test_exact_match(answer: str, gold: str, em: float) -> None:
    assert exact_match(answer, [gold]) == em
    assert 0.0 <= f1(answer, [gold]) <= 1.0
