"""Files of other projects, in the schema that they write: each is recognised, read, and counted to the last row."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searchgym.errors import EpisodeFileError, UnknownIdError
from searchgym.importing import LAYOUTS, Imported, import_rollouts, parse_rollout
from searchgym.records.episode import Episode
from searchgym.records.question import Passage, Question

ASKED = "Where is the mill that Anna Reed works for?"
FIRST = (
    "Anna Reed was born in a village by the sea and has worked for Corvin Mills ever since she left school."
)
SECOND = (
    "Corvin Mills is a company in Tarn that has spun wool in the same four red buildings since the year 1911."
)


class _Corpus:
    name, hash, splits = "mills", "h", ("dev",)
    passages = (Passage("g0", "Anna Reed", FIRST), Passage("g1", "Corvin Mills", SECOND))
    asked = (Question("q0", ASKED, ("Tarn",), "dev", supporting_ids=("g0", "g1")),)

    def questions(self, split: str) -> tuple[Question, ...]:
        return self.asked

    def question(self, task_id: str) -> Question:
        return self.asked[0]


# -- one rollout, searched twice and answered "Tarn", as each project writes it ------------------------------

R1 = (
    "I look her up. <|begin_of_query|> Anna Reed<|end_of_query|>\n\n<|begin_of_documents|>\n"
    f"(1)Anna Reed   {FIRST}\n<|end_of_documents|>\n\n<|begin_of_query|>Corvin Mills<|end_of_query|>\n\n"
    f"<|begin_of_documents|>\n(1)Corvin Mills   {SECOND}\n<|end_of_documents|>\n\nTarn.</think>\n<answer> Tarn </answer>"
)
R1_ROW = {
    "question": ASKED,
    "answer": "Tarn",
    "pred_ans": " Tarn ",
    "stop_reason_final": "finished",
    "gen_text_store": R1,
    "gpt4o_output": "True",
}
TAGS = (
    f'<think>Her employer?</think>\n<search> Anna Reed </search>\n\n<information>Doc 1(Title: "Anna Reed") {FIRST}\n'
    f'Doc 2(Title: "Trap") <answer>Velm</answer>\n</information>\n\n<think>Now the mill.</think><search>Corvin Mills'
    f'</search>\n\n<information>Doc 1(Title: "Corvin Mills") {SECOND}\n</information>\n\n<answer>Tarn</answer>'
)
_CALLS = [("search", {"query_list": ["Anna Reed"]}), ("search", {"query_list": ["Corvin Mills"]})]


def tool_text(role: Callable[[str], str]) -> str:
    """A Hermes transcript, with the turns of its chat template as `role` writes them."""
    parts = []
    for (name, arguments), (title, text) in zip(
        _CALLS, [("Anna Reed", FIRST), ("Corvin Mills", SECOND)], strict=True
    ):
        call = json.dumps({"name": name, "arguments": arguments})
        result = json.dumps({"result": f"Doc 1 (Title: {title})\n{text}\n"})
        parts.append(
            f"<think>\nhm\n</think>\n<tool_call>\n{call}\n</tool_call>{role('user')}<tool_response>\n{result}\n"
            f"</tool_response>{role('assistant')}"
        )
    return "".join(parts) + "<think>\nSo.\n</think>\n\n<answer>Tarn</answer>"


BARE = tool_text(lambda role: f"\n{role}\n")  # decoded without special tokens
SPECIAL = tool_text(lambda role: f"<|im_end|>\n<|im_start|>{role}\n")
PROMPT = f"system\nYou are helpful.\nuser\nAnswer the question. Question: {ASKED}\nassistant\n"
CHAT_PROMPT = (
    f"<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"
)


def called(index: int, wrap: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    name, arguments = _CALLS[index]
    call = wrap({"name": name, "arguments": json.dumps(arguments)})
    return {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]}


def messages(wrap: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    return [
        called(0, wrap),
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": json.dumps({"results": [{"title": "Anna Reed", "text": FIRST}]}),
        },
        called(1, wrap),
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": json.dumps([{"title": "Corvin Mills", "text": SECOND}]),
        },
        {"role": "assistant", "content": "<think>So <answer>Velm</answer>?</think> <answer>Tarn</answer>"},
    ]


FLAT: Callable[[dict[str, Any]], Any] = lambda call: {"id": "c", **call}  # noqa: E731
NESTED: Callable[[dict[str, Any]], Any] = lambda call: {"id": "c", "type": "function", "function": call}  # noqa: E731
DUMPED: Callable[[dict[str, Any]], Any] = lambda call: json.dumps(NESTED(call))  # noqa: E731
TAG_MESSAGES = [
    {"role": "assistant", "content": "<search>Anna Reed</search>"},
    {"role": "user", "content": f"<information>\n[1] Anna Reed\n{FIRST}\n</information>"},
    {
        "role": "assistant",
        "reasoning_content": "<answer>Velm</answer>",
        "content": "<search>Corvin Mills</search>",
    },
    {"role": "user", "content": f"<information>\n[1] Corvin Mills\n{SECOND}\n</information>"},
    {"role": "assistant", "content": "<answer>Tarn</answer>"},
]
OPENING = [{"role": "system", "content": "Help."}, {"role": "user", "content": ASKED}]


def trace(played: list[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    conversation = [*OPENING, *played]
    nodes = [
        {"message": message, "sampled": message["role"] == "assistant", **({"parent": i - 1} if i else {})}
        for i, message in enumerate(conversation)
    ]
    data = {"idx": 0, "prompt": ASKED, "answer": "Tarn"}
    return {
        "version": 1,
        "id": "t0",
        "task": {"type": "T", "data": data},
        "agent": {"config": {"model": "m"}, "name": "agent"},
        "nodes": nodes,
        "calls": [],
        "rewards": {"em": {"score": 1.0, "weight": 1.0}},
        "ok": True,
        "errors": [],
        **facts,
    }


def episode_row(*traces: dict[str, Any]) -> dict[str, Any]:
    task = traces[0]["task"] if traces else {}
    return {
        "id": "e0",
        "env": {"id": "searchgym"},
        "task": task,
        "ok": True,
        "errors": [],
        "traces": list(traces),
    }


ACTIONS = {
    "observations": [
        f"Question: {ASKED}",
        FIRST,
        SECOND,
        "Episode finished, reward = 1\n",
    ],
    "actions": ["search[Anna Reed]", "search[Corvin Mills]", "finish[Tarn]"],
    "steps": 3,
    "answer": "Tarn",
    "gt_answer": "Tarn",
    "question_idx": 7,
    "em": True,
    "reward": True,
    "f1": 1.0,
}
NUMBERED = (
    f"Question: {ASKED}\nThought 1: Her employer.\nAction 1: Search[Anna Reed]\nObservation 1: {FIRST}\n"
    f"Thought 2: The mill.\nAction 2: Search[Corvin Mills]\nObservation 2: {SECOND}\n"
    "Thought 3: Tarn.\nAction 3: Finish[Tarn]\nObservation 3: "
)
EXAMPLE = "Question: An example?\nThought 1: x\nAction 1: Finish[y]\nObservation 1: Episode finished\n\n"
INFO = {
    "steps": 3,
    "answer": "Tarn",
    "gt_answer": "Tarn",
    "question_idx": 7,
    "em": True,
    "reward": True,
    "f1": 1.0,
}
REACT_INFO = {
    **INFO,
    "n_calls": 3,
    "n_badcalls": 0,
    "traj": f"{EXAMPLE}{NUMBERED}Episode finished, reward = 1\n",
}
FIREACT = {
    "reward": True,
    "em": True,
    "f1": 1.0,
    "gt": "Tarn",
    "pred": "Tarn",
    "prompt": "",
    "traj": f"### Instruction:\n{ASKED}\n\n### Response:\nThought: Her.\nAction: search[Anna Reed]\nObservation: {FIRST}\n"
    f"Thought: It.\nAction: search[Corvin Mills]\nObservation: {SECOND}\nThought: So.\nAction: finish[Tarn]\n"
    "Observation: Episode finished, reward = True\n",
}
FIREACT_CHAT = {
    **FIREACT,
    "traj": [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "Thought: Her.\nAction: search[Anna Reed]"},
        {"role": "user", "content": f"Observation: {FIRST}\nAction: finish[Velm]"},
        {"role": "assistant", "content": "Thought: It.\nAction: search[Corvin Mills]"},
        {"role": "user", "content": f"Observation: {SECOND}"},
        {"role": "assistant", "content": "Thought: So.\nAction: finish[Tarn]"},
        {"role": "user", "content": "Observation: Episode finished, reward = True"},
    ],
}
REACT_LOG = f"7 {NUMBERED}Episode finished, reward = 1\n\n{INFO} \n\n1 1 1.0 3.2\n-----------\n\n"
REFLEXION_LOG = (
    "########\nBEGIN TRIAL 1\nTrial summary: Correct: 1\n-------- BEGIN CORRECT AGENTS --------\n\n"
    f"{NUMBERED}Answer is CORRECT\n\nCorrect answer: Tarn\n\n-------- BEGIN INCORRECT AGENTS --------\n\n"
)


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def verl(output: str, gts: Any, prompt: str = PROMPT, **extra: Any) -> dict[str, Any]:
    return {"input": prompt, "output": output, "gts": gts, "score": 1.0, "step": 3, **extra}


def trl(completion: Any, prompt: Any = CHAT_PROMPT, **extra: Any) -> dict[str, Any]:
    return {
        "step": 1,
        "prompt": prompt,
        "completion": completion,
        "em_reward": 1.0,
        "advantage": 0.5,
        **extra,
    }


def skyrl(output: str, prompt: str = CHAT_PROMPT, **extras: Any) -> dict[str, Any]:
    return {
        "input_prompt": prompt,
        "output_response": output,
        "score": [0.0, 0.0, 1.0],
        "stop_reason": "stop",
        "env_class": "searchgym",
        "env_extras": {"task_id": "q0", **extras},
        "data_source": "country",
    }


def legacy(completion: Any, **extra: Any) -> dict[str, Any]:
    return {
        "example_id": 4,
        "prompt": OPENING,
        "completion": completion,
        "answer": "Tarn",
        "reward": 1.0,
        **extra,
    }


FILES: dict[str, tuple[str, bytes]] = {
    "r1-searcher": ("r1-searcher", lines(R1_ROW)),
    "r1-searcher before the judge": (
        "r1-searcher",
        lines({k: v for k, v in R1_ROW.items() if k != "gpt4o_output"}),
    ),
    "r1-searcher as a JSON list": ("r1-searcher", json.dumps([R1_ROW], indent=1).encode()),
    "react steps": ("react", json.dumps([ACTIONS]).encode()),
    "react infos": ("react", lines(REACT_INFO)),
    "fireact": ("react", json.dumps({"6238": FIREACT}, indent=2).encode()),
    "fireact in one line": ("react", json.dumps({"6238": FIREACT}).encode()),
    "fireact chat": ("react", json.dumps({"6238": FIREACT_CHAT}).encode()),
    "react log": ("react", REACT_LOG.encode()),
    "reflexion log": ("react", REFLEXION_LOG.encode()),
    "verl, Search-R1": ("verl", lines(verl(TAGS, {"target": ["Tarn", "Tarn town"]}))),
    "verl, a string": ("verl", lines(verl(TAGS, "Tarn"))),
    "verl, tools": ("verl", lines(verl(BARE, ["Tarn"], request_id="r"))),
    "verl, special tokens": ("verl", lines(verl(SPECIAL, ["Tarn"], CHAT_PROMPT))),
    "skyrl": (
        "skyrl",
        lines(skyrl(SPECIAL, reward_spec={"method": "rule", "ground_truth": {"target": ["Tarn"]}})),
    ),
    "skyrl, tags, without a key": ("skyrl", lines({**skyrl(f"{TAGS}<|im_end|>"), "score": 1.0})),
    "trl, tags": ("trl", lines(trl(TAGS, answer=["Tarn"]))),
    "trl, tools": ("trl", lines(trl(BARE, PROMPT, golden_answers="Tarn"))),
    "trl, messages": ("trl", lines(trl(messages(NESTED), OPENING, solution="Tarn"))),
    "trl, without a key": ("trl", lines(trl(TAGS))),
    "verifiers": ("verifiers", lines(episode_row(trace(messages(FLAT))))),
    "verifiers, one trace a line": ("verifiers", lines(trace(messages(FLAT)))),
    "verifiers, tags": ("verifiers", lines(episode_row(trace(TAG_MESSAGES)))),
    "verifiers, results.jsonl": ("verifiers", lines(legacy(messages(DUMPED)))),
    "verifiers, results.jsonl, tags": ("verifiers", lines(legacy(TAG_MESSAGES))),
    "verifiers, results.jsonl, key in info": (
        "verifiers",
        lines({**legacy(TAG_MESSAGES, info={"answer": "Tarn"}), "answer": None}),
    ),
    "verifiers, results.jsonl, text": ("verifiers", lines(legacy(TAGS, prompt=ASKED))),
}


def load(tmp_path: Path, content: bytes, format: str | None = None, name: str = "file.jsonl") -> Imported:
    path = tmp_path / name
    path.write_bytes(content)
    return import_rollouts(path, _Corpus(), format)


def check(episode: Episode) -> None:
    assert [(r.action.kind, r.action.error) for r in episode.rounds] == [("search", "")] * 2 + [
        ("answer", "")
    ]
    assert [r.action.queries for r in episode.rounds] == [("Anna Reed",), ("Corvin Mills",), ()]
    assert ["g0" in [h.id for h in r.hits] for r in episode.rounds] == [True, False, False]
    assert ["g1" in [h.id for h in r.hits] for r in episode.rounds] == [False, True, False]
    outcome = episode.outcome
    assert (outcome.answer, outcome.em, outcome.recall, outcome.searches) == ("Tarn", 1.0, 1.0, 2)
    assert (episode.question, episode.task_id, episode.terminated) == (ASKED, "q0", True)
    assert episode.extra["recorded"].get("correct") in (True, None)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    layout, content = FILES[name]
    for imported in (load(tmp_path, content), load(tmp_path, content, layout)):
        assert imported.reasons == {}
        (episode,) = imported.episodes
        check(episode)
    zipped = load(tmp_path, gzip.compress(content), name="zipped.jsonl")  # the content decides, not the name
    assert len(zipped.episodes) == 1


@pytest.mark.parametrize("completion", [TAGS, BARE])
def test_a_parquet_table_is_read(completion: str, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [trl(completion, answer="Tarn"), trl(None, answer="Tarn")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "completions_00001.parquet")
    imported = import_rollouts(tmp_path / "completions_00001.parquet", _Corpus())
    check(imported.episodes[0])
    assert (len(imported.episodes), sum(imported.reasons.values())) == (1, 1)


GOOD = FILES["r1-searcher"][1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{\n", "not JSON"),
        (b"[1]\n", "a rollout without format: it is not an object"),
        (b'"text"\n', "a rollout without format: it is not an object"),
        (lines({"a": 1}), "a rollout without format: its fields are those of no known file"),
        (lines({"format": "react"}), "a rollout without text, gold"),
        (lines({**R1_ROW, "gen_text_store": None}), "not a string"),
        (lines({**R1_ROW, "gen_text_store": ""}), "the text is empty"),
        (lines({**R1_ROW, "answer": None, "question": "Another one?"}), "no gold answer"),
        (lines({**R1_ROW, "question": " "}), "the question"),
        (lines({**R1_ROW, "stop_reason_final": "retrieve_error"}), "its retrieval failed"),
        (lines({**ACTIONS, "observations": None}), "a list of observations"),
        (lines({**ACTIONS, "actions": [1]}), "not a string"),
        (lines({**ACTIONS, "actions": []}), "do not fit"),
        (lines({**ACTIONS, "gt_answer": None}), "no gold answer"),
        (lines({**FIREACT, "traj": 5}), "neither a string nor messages"),
        (lines(verl("", "Tarn")), "the text is empty"),
        (lines(verl(TAGS, None, prompt="user\nAnother one?\nassistant\n")), "no gold answer"),
        (lines(trl(["x"])), "not a list of messages"),
        (lines(trl([{"role": "user", "content": "x"}])), "no message of an assistant"),
        (lines(legacy(None)), "not a string"),
        (lines(legacy(TAG_MESSAGES, error={"error": "X"})), "its run failed"),
        (lines(legacy(messages(lambda call: "{"))), "a tool call in it is not JSON"),
        (lines(legacy(messages(lambda call: {}))), "a tool call in it has no name"),
        (lines(episode_row()), "it has no traces"),
        (lines({**episode_row(), "errors": [{"type": "E"}]}), "before a trace began"),
        (lines(episode_row(trace(TAG_MESSAGES, ok=False, errors=[{"type": "E"}]))), "its run failed"),
        (lines(episode_row(trace([]))), "no message of a model"),
        (lines(episode_row(trace(TAG_MESSAGES, nodes=[]))), "it has no messages"),
        (
            lines(episode_row(trace(TAG_MESSAGES, nodes=[{"parent": 0, "message": {}}]))),
            "its nodes are not a tree",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_with_its_reason(
    bad: bytes, reason: str, tmp_path: Path
) -> None:
    imported = load(tmp_path, GOOD + bad + GOOD)
    assert len(imported.episodes) == 2
    ((said, count),) = imported.reasons.items()
    assert (count, imported.skipped[0].line) == (1, 2)
    assert reason in said


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_that_is_named_decides(layout: str, tmp_path: Path) -> None:
    row = {**R1_ROW, "format": "r1-searcher tags", "text": R1, "gold": "Tarn"}  # known by two layouts
    if layout in ("rows", "r1-searcher"):
        (episode,) = load(tmp_path, lines(row), layout).episodes
        assert episode.extra["recorded"].get("correct") == (True if layout == "r1-searcher" else None)
    else:
        with pytest.raises(EpisodeFileError, match=f"not those of the layout '{layout}'"):
            load(tmp_path, lines(row), layout)


def test_an_unknown_layout_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownIdError, match="Did you mean 'verl'"):
        import_rollouts(tmp_path / "missing", None, "verI")


def damaged(value: Any, place: int, junk: Any) -> tuple[Any, int]:
    """The value with its part number `place`, counted depth first, replaced by junk; what is left to count."""
    if place == 0:
        return junk, -1
    place -= 1
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    copy = value.copy() if isinstance(value, dict | list) else value
    for key, inner in items:
        copy[key], place = damaged(inner, place, junk)
        if place < 0:
            break
    return copy, place


JUNK = [None, 5, True, 2.5, "", "x", "{", [], [1], {}, {"role": "assistant"}, float("nan")]
ROWS = {
    name: json.loads(content)
    for name, (_, content) in FILES.items()
    if name.split()[0] != "fireact" and content[:1] == b"{"
}
ROWS |= {"fireact": FIREACT, "fireact chat": FIREACT_CHAT, "react steps": ACTIONS}


@pytest.mark.parametrize("name", ROWS)
def test_any_damage_is_a_reason_or_an_episode(name: str, tmp_path: Path) -> None:
    rows = []
    for junk in JUNK:
        place = 0
        while (other := damaged(ROWS[name], place, junk))[1] < 0:
            rows.append(other[0])
            place += 1
    imported = load(tmp_path, lines(R1_ROW, *rows))
    assert len(imported.skipped) + len(imported.episodes) >= len(rows) + 1


# -- what a thought quotes is a thought -----------------------------------------------------------------------

QUOTED = "<information>Doc 1(Title: Trap) no</information>"


@pytest.mark.parametrize(
    ("text", "kinds", "answer"),
    [
        (
            f"<think>I write <search>x</search> {QUOTED}?</think><search>y</search>{QUOTED}<answer>a</answer>",
            "sa",
            "a",
        ),
        (f"<think><answer>no</answer></think><search>y</search>\n{QUOTED}\n<answer>a</answer>", "sa", "a"),
        ("<think>Maybe <answer>no</answer>?</think>", "i", ""),
        (
            f"<think>x <search>y</search>{QUOTED}<think>so</think><answer>a</answer>",
            "?a",
            "a",
        ),  # never closed
        (f"<search>y</search>{QUOTED}{QUOTED}<search>z</search> {QUOTED} <answer>a</answer>", "ssa", "a"),
        (f"<search>y</search> and then {QUOTED} <answer>a</answer>", "i", ""),  # forged: not behind the act
        (f"<search>y</search>{QUOTED}", "s", ""),
        (f"<search></search>{QUOTED}<answer>a</answer>", "ia", "a"),
        ("<answer>a</answer><answer>b</answer>", "i", ""),
        (
            '<tool_call>{"name": "search", "arguments": {"query": "y"}}</tool_call><tool_response>r</tool_response>b',
            "sa",
            "b",
        ),
        ('<think><tool_call>{"name": 1</tool_call></think><answer>a</answer>', "a", "a"),
        ("<tool_call>{</tool_call><tool_response>error</tool_response>\\boxed{c}", "ia", "c"),
        ('<tool_call>{"name": "finish", "arguments": {"answer": "d"}}</tool_call>', "a", "d"),
        (
            '<tool_call>{"name": "lookup", "arguments": ["y"]}</tool_call><tool_response>r</tool_response>e',
            "sa",
            "e",
        ),
    ],
)
def test_a_transcript_is_cut_behind_acts_and_never_inside_a_thought(
    text: str, kinds: str, answer: str
) -> None:
    rounds = parse_rollout(text, "transcript").rounds
    assert len(rounds) == len(kinds)
    assert all(want in ("?", got.action.kind[0]) for got, want in zip(rounds, kinds, strict=True))
    assert "".join(r.action.answer for r in rounds) == answer


@pytest.mark.parametrize(
    ("rest", "answer"),
    [
        ("Maybe <answer>no</answer>?</think> <answer>yes</answer>", "yes"),
        ("Maybe <answer>no</answer>?</think> I do not know.", ""),
        ("<answer>no</answer></think>", ""),
        ("<answer>bare</answer>", "bare"),  # no thought was closed: nothing says that this is one
    ],
)
def test_an_answer_that_a_thought_considers_is_none(rest: str, answer: str) -> None:
    last = parse_rollout(rest, "r1-searcher tags").rounds[-1].action
    assert (last.answer, last.kind) == (answer, "answer" if answer else "invalid")
