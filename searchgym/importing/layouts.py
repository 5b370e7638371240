"""The files that other projects write themselves, and how a row of each becomes a rollout.

| layout | written by | a row is known by |
|---|---|---|
| rows | this package's own collections | `format`, `text` |
| r1-searcher | R1-Searcher's evaluation | `gen_text_store` |
| react | ReAct's `trajs/*.json` and printed logs, FireAct's `trajs`, Reflexion's logs | `observations` and `actions`, `traj`, or "Question:" and "Thought 1:" lines |
| verl | verl's `rollout_data_dir` and `validation_data_dir` | `input`, `output` |
| verifiers | `traces.jsonl`, and `results.jsonl` of earlier versions | `traces`, `nodes`, or `completion` and `example_id` |
| skyrl | SkyRL's evaluations (`trainer.dump_eval_results`) | `input_prompt`, `output_response` |
| trl | the tables `completions_*.parquet` of TRL's trainers | `prompt`, `completion` |
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .files import TRANSCRIPT
from .parsed import RolloutTextError

__all__ = ["LAYOUTS", "Record", "find_layout"]

_GOLD_KEYS = ("gold", "answers", "golden_answers", "answer", "ground_truth", "gts", "target", "solution")
_QUESTION_LINE = re.compile(r"\b[Qq]uestion:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_LAST_USER = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|^)user(?:<\|end_header_id\|>)?\s*\n(.*?)"
    r"(?=\n?(?:<\|im_end\|>|<\|eot_id\|>)|\n(?:<\|im_start\|>)?assistant\b|\Z)",
    re.MULTILINE | re.DOTALL,
)
_CORRECT_ANSWER = re.compile(r"^Correct answer:[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(slots=True)
class Record:
    """One rollout, as a row of a file gives it.

    Attributes:
        text: what the parser of `format` reads.
        format: the name of a parser.
        question: "" to read it from the text.
        gold: accepted answers; empty if the row does not say.
        agent: the model that wrote it.
        row: its name in the file; "" for its number.
        source: "" for the name of the file.
        recorded: the record's own claims.
    """

    text: Any
    format: str
    question: str = ""
    gold: list[str] = field(default_factory=list)
    agent: str = "unknown"
    row: str = ""
    source: str = ""
    recorded: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of one kind of file.

    Attributes:
        matches: whether a row is of this kind.
        read: the rollouts of a row.
    """

    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], list[Record]]


def find_layout(row: Mapping[str, Any]) -> str | None:
    """The name of the first layout that knows a row; None if none does."""
    return next((name for name, layout in LAYOUTS.items() if layout.matches(row)), None)


def _rows(row: Mapping[str, Any]) -> list[Record]:
    missing = [key for key in ("format", "text", "gold") if key not in row]
    if missing:
        raise RolloutTextError(f"a rollout without {', '.join(missing)}")
    recorded = {key: row[key] for key in ("predicted", "searches") if key in row}
    if not _missing(row.get("judged_correct")):
        recorded["correct"] = _truth(row["judged_correct"])
    elif not _missing(row.get("reward")):
        recorded["correct"] = _is_right(row["reward"])
    return [
        Record(
            row["text"],
            str(row["format"]),
            _string(row.get("question")),
            _answers(row["gold"]),
            str(row.get("model") or "unknown"),
            _string(row.get("row")),
            _string(row.get("source")),
            recorded,
        )
    ]


def _r1_searcher(row: Mapping[str, Any]) -> list[Record]:
    if row.get("stop_reason_final") == "retrieve_error":
        raise RolloutTextError("its retrieval failed")
    recorded: dict[str, Any] = {}
    if row.get("pred_ans") is not None:
        recorded["predicted"] = _string(row["pred_ans"])
    if not _missing(row.get("gpt4o_output")):
        recorded["correct"] = _truth(row["gpt4o_output"])
    return [
        Record(
            row["gen_text_store"],
            "r1-searcher tags",
            _string(row.get("question")),
            _gold(row),
            recorded=recorded,
        )
    ]


def _react(row: Mapping[str, Any]) -> list[Record]:
    if TRANSCRIPT in row:
        return [_react_log(row)]
    gold = _answers(row.get("gt_answer", row.get("gt")))
    recorded: dict[str, Any] = {}
    predicted = row.get("answer") if "gt_answer" in row else row.get("pred")
    if predicted is not None:
        recorded["predicted"] = _string(predicted)
    correct = row.get("em", row.get("reward"))
    if gold and not _missing(correct):
        recorded["correct"] = _is_right(correct)
    question, name = _string(row.get("question")), _string(row.get("question_idx"))
    trajectory = row.get("traj")
    if trajectory is None:
        steps = {"observations": row.get("observations"), "actions": row.get("actions")}
        return [Record(steps, "react steps", question, gold, row=name, recorded=recorded)]
    if isinstance(trajectory, str) and re.search(r"^(?:Thought|Action) 1:", trajectory, re.MULTILINE):
        # ReAct's own: the prompt with its worked examples comes first, so the last question is the one played.
        text = trajectory[trajectory.rfind("Question: ") :] if "Question: " in trajectory else trajectory
        return [Record(text, "react numbered", question, gold, row=name, recorded=recorded)]
    return [Record(trajectory, "react", question, gold, row=name, recorded=recorded)]


def _react_log(row: Mapping[str, Any]) -> Record:
    text, recorded = row[TRANSCRIPT], {}
    gold: list[str] = []
    result = str(row.get("result", "")).split("\n", 1)[0]
    if (key := _CORRECT_ANSWER.search(text)) is not None:
        gold, text = [key[1]], text[: key.end()]
    elif result.startswith("{"):
        try:
            info = ast.literal_eval(result.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise RolloutTextError("its result cannot be read") from None
        (record,) = _react({**_object(info), "traj": text})
        gold, recorded = record.gold, record.recorded
    numbered = re.search(r"^(?:Thought|Action) 1:", text, re.MULTILINE)
    asked = re.match(r"Question: (.*)", text)
    question = asked[1].strip() if asked else ""
    return Record(text, "react numbered" if numbered else "react", question, gold, recorded=recorded)


def _verl(row: Mapping[str, Any]) -> list[Record]:
    score = row.get("em", row.get("acc", row.get("score")))
    recorded = {} if _missing(score) else {"correct": _is_right(score)}
    name = _string(row.get("request_id"))
    return [
        Record(row["output"], "transcript", _asked(row["input"]), _gold(row), row=name, recorded=recorded)
    ]


def _skyrl(row: Mapping[str, Any]) -> list[Record]:
    extras, score = _object(row.get("env_extras")), row.get("score")
    if isinstance(score, Sequence) and not isinstance(score, str):  # of each token
        score = sum(_number(one, 0.0) for one in score)
    recorded = {} if _missing(score) else {"correct": _is_right(score)}
    gold = _gold(_object(extras.get("reward_spec"))) or _gold(extras)
    question, name = _asked(row["input_prompt"]), _string(extras.get("task_id"))
    return [Record(row["output_response"], "transcript", question, gold, row=name, recorded=recorded)]


def _trl(row: Mapping[str, Any]) -> list[Record]:
    completion = row["completion"]
    format = "messages" if isinstance(completion, list) else "transcript"
    question = _string(row.get("question")) or _asked(row["prompt"])
    return [Record(completion, format, question, _gold(row))]


def _verifiers(row: Mapping[str, Any]) -> list[Record]:
    if "completion" in row:  # results.jsonl
        if row.get("error"):
            raise RolloutTextError("its run failed")
        completion = row["completion"]
        format = "messages" if isinstance(completion, list) else "transcript"
        recorded = {} if _missing(row.get("reward")) else {"correct": _is_right(row["reward"])}
        name = _string(row.get("example_id"))
        gold = _gold(row) or _gold(_object(row.get("info")))
        return [Record(completion, format, _asked(row.get("prompt")), gold, row=name, recorded=recorded)]
    if not (traces := row.get("traces", [row])):
        raise RolloutTextError(
            "its run failed before a trace began" if row.get("errors") else "it has no traces"
        )
    if not isinstance(traces, list) or not all(isinstance(trace, Mapping) for trace in traces):
        raise RolloutTextError("its traces are not a list of objects")
    return [_trace(trace) for trace in traces]


def _trace(trace: Mapping[str, Any]) -> Record:
    if trace.get("errors") and not trace.get("ok", False):
        raise RolloutTextError("its run failed")
    messages = _branch(trace.get("nodes"))
    data = _object(_object(trace.get("task")).get("data"))
    played = [i for i, (message, sampled) in enumerate(messages) if sampled]
    if not played:
        raise RolloutTextError("no message of a model in it")
    prompt = [message for message, _ in messages[: played[0]]]
    calls = trace.get("calls")
    call = _object(calls[0]) if isinstance(calls, list) and calls else {}
    model = _object(_object(trace.get("agent")).get("config")).get("model") or call.get("model")
    recorded: dict[str, Any] = {}
    if rewards := [_object(reward) for reward in _object(trace.get("rewards")).values() if reward]:
        recorded["correct"] = (
            sum(_number(r.get("score"), 0.0) * _number(r.get("weight"), 1.0) for r in rewards) >= 1
        )
    return Record(
        [message for message, _ in messages[played[0] :]],
        "messages",
        _string(data.get("question")) or _asked(data.get("prompt")) or _asked(prompt),
        _gold(data) or _gold(_object(data.get("info"))),
        str(model or "unknown"),
        _string(trace.get("id")),
        recorded=recorded,
    )


def _branch(nodes: Any) -> list[tuple[dict[str, Any], bool]]:
    """The messages of the final branch of a message graph, each with whether a model wrote it."""
    if not isinstance(nodes, list) or not nodes:
        raise RolloutTextError("it has no messages")
    if not all(isinstance(n, Mapping) and isinstance(n.get("message"), dict) for n in nodes):
        raise RolloutTextError("its nodes are not messages")
    path: list[int] = []
    index: Any = len(nodes) - 1  # nodes are appended as they happen: the last one ends the final branch
    while index is not None:
        if not isinstance(index, int) or not 0 <= index < len(nodes) or index in path:
            raise RolloutTextError("its nodes are not a tree")
        path.append(index)
        index = nodes[index].get("parent")
    chosen = [nodes[i] for i in reversed(path)]
    return [(n["message"], bool(n.get("sampled", n["message"].get("role") == "assistant"))) for n in chosen]


LAYOUTS: Mapping[str, Layout] = {
    "rows": Layout(lambda row: "format" in row or ("text" in row and "gold" in row), _rows),
    "r1-searcher": Layout(lambda row: "gen_text_store" in row, _r1_searcher),
    "react": Layout(
        lambda row: TRANSCRIPT in row or "traj" in row or ("observations" in row and "actions" in row), _react
    ),
    "verl": Layout(lambda row: "input" in row and "output" in row, _verl),
    "skyrl": Layout(lambda row: "input_prompt" in row and "output_response" in row, _skyrl),
    "verifiers": Layout(
        lambda row: "traces" in row or "nodes" in row or ("completion" in row and "example_id" in row),
        _verifiers,
    ),
    "trl": Layout(lambda row: "completion" in row and "prompt" in row, _trl),
}
"""The kinds of files, by the name that `--format` takes; the first that matches a row reads it."""


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _gold(row: Mapping[str, Any]) -> list[str]:
    return next((answers for key in _GOLD_KEYS if (answers := _answers(row.get(key)))), [])


def _answers(value: Any) -> list[str]:
    """Accepted answers, from whatever a data set holds: a string, a number, a list, or an object with one of those."""
    if isinstance(value, Mapping):
        return _gold(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [answer for element in value for answer in _answers(element)]
    return [text] if (text := _string(value).strip()) else []


def _missing(value: Any) -> bool:
    return value is None or value != value  # tables write a missing value as NaN


def _string(value: Any) -> str:
    if _missing(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _asked(prompt: Any) -> str:
    """The question in a prompt: after the last "Question:", or else the last turn of the user."""
    if isinstance(prompt, list):
        said = [m.get("content") for m in prompt if isinstance(m, Mapping) and m.get("role") == "user"]
        content = said[-1] if said else ""
        if isinstance(content, list):
            content = "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
        turn = _string(content)
    else:
        turns = _LAST_USER.findall(_string(prompt))
        turn = turns[-1] if turns else _string(prompt)
    lines = _QUESTION_LINE.findall(turn)
    return str(lines[-1] if lines else turn).strip()


def _truth(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "1.0", "yes", "correct")


def _is_right(score: Any) -> bool:
    try:
        return float(score) >= 1.0
    except (TypeError, ValueError):
        return _truth(score)
