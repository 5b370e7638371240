"""Importers of recorded rollouts: each format with its traps, scoring, gold, what is refused, and the real file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import QUICK

from searchgym.errors import EpisodeFileError, UnknownIdError
from searchgym.importing import (
    FORMATS,
    GoldPassages,
    import_rollout,
    import_rollouts,
    new_gold_rounds,
    parse_rollout,
    report,
)
from searchgym.importing.parsed import content_id
from searchgym.importing.responses import parse_responses
from searchgym.records.episode import Episode, StopReason
from searchgym.records.question import Passage, Question
from searchgym.records.retriever import Hit
from searchgym.specs import open_corpus

R1, REACT, NUMBERED, RESPONSES = FORMATS
LAKE = "Lake Orrin is a glacial lake in the far north of Sundmark, fed by three rivers and by melting snow in spring."
ASKED = "Which country is Lake Orrin in?"


class _Corpus:
    """Two gold articles, and a question about them that also exists in a second wording."""

    name, hash, splits = "lakes", "h", ("dev",)
    passages = (
        Passage("g0", "Lake Orrin", LAKE),
        Passage("g1", "Sundmark", "Sundmark is a country."),
        Passage("g2", "Sundmark (band)", "Sundmark were a band."),
    )
    asked = (
        Question("q0", ASKED, ("Sundmark",), "dev", type="bridge", hops=2, supporting_ids=("g0", "g1")),
        Question("q1", "Twice?", ("a",), "dev", supporting_ids=("g0",)),
        Question("q2", "twice", ("b",), "dev", supporting_ids=("g1",)),
    )

    def questions(self, split: str) -> tuple[Question, ...]:
        return self.asked

    def question(self, task_id: str) -> Question:
        return self.asked[0]


def kinds(rounds: Any) -> list[str]:
    return [r.action.error or r.action.kind for r in rounds]


def load(text: Any, format: str, gold: str = "Sundmark", question: str | None = ASKED) -> Episode:
    episode = import_rollout(text, format, question, gold, agent="m", corpus=_Corpus())
    assert Episode.from_json(json.loads(json.dumps(episode.to_json()))) == episode
    assert not episode.valid_for_training
    assert episode.terminated != episode.truncated
    return episode


# -- R1-Searcher's tags --------------------------------------------------------------------------------------

TAGS = """I must search. <answer> not yet </answer> The query is "<|begin_of_query|> Lake Orrin<|end_of_query|>

<|begin_of_documents|>
(1)Lake Orrin   Lake Orrin Lake Orrin (2) lies north of (3) Sundmark.
(7) is not a document, <answer>Trap</answer> </think> is not an answer.
(2)"Title: The ""Orrin"" Text:  A ship named ""Orrin"", 4   decks."
(3)Title: Empty Text:
<|end_of_documents|>

Now its country. <|begin_of_query|>Sundmark<|end_of_query|> <|begin_of_query|> Sundmark country <|end_of_query|>
<|begin_of_documents|>
No information available
<|end_of_documents|>
It is Sundmark.</think>

 <answer> Sundmark </answer>"""


def test_tags_become_rounds_that_hold_every_character() -> None:
    episode = load(TAGS, R1)
    assert kinds(episode.rounds) == ["search", "search", "search", "answer"]
    assert "".join(r.text + r.observation for r in episode.rounds) == TAGS
    assert [r.action.queries for r in episode.rounds] == [
        ("Lake Orrin",),
        ("Sundmark",),
        ("Sundmark country",),
        (),
    ]
    first = episode.rounds[0].hits
    assert [h.title for h in first] == ["Lake Orrin", 'The "Orrin"', "Empty"]
    assert "(7) is not a document" in first[0].text
    assert first[1].text == 'A ship named "Orrin", 4   decks.'
    assert first[1].id == content_id(first[1].title, first[1].text)
    assert episode.rounds[2].hits == []
    assert (episode.outcome.answer, episode.outcome.em, episode.outcome.stop_reason) == (
        "Sundmark",
        1.0,
        StopReason.ANSWERED,
    )
    assert (episode.outcome.rounds, episode.outcome.searches) == (4, 3)
    assert [r.reward for r in episode.rounds] == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "ends", "stop"),
    [
        ("a <|begin_of_query|> Lake", "malformed_call", StopReason.TOKEN_BUDGET),
        (
            "a <|begin_of_query|> L <|end_of_query|><|begin_of_documents|>\n(1)T   x",
            "search",
            StopReason.TOKEN_BUDGET,
        ),
        ("a <|begin_of_query|> L <|end_of_query|>", "search", StopReason.ROUND_BUDGET),
        ("a <|begin_of_query|> <|end_of_query|>", "empty_act", StopReason.ROUND_BUDGET),
        ("<answer> Sund", "malformed_call", StopReason.TOKEN_BUDGET),
        ("<answer> </answer>", "empty_act", StopReason.ROUND_BUDGET),
        ("It is Sundmark.", "no_act", StopReason.ROUND_BUDGET),
    ],
)
def test_tags_that_break_off_have_no_answer(text: str, ends: str, stop: StopReason) -> None:
    episode = load(text, R1)
    assert kinds(episode.rounds)[-1] == ends
    assert (episode.outcome.answer, episode.outcome.em, episode.outcome.stop_reason) == ("", 0.0, stop)


def test_an_answer_in_a_document_is_never_credited() -> None:
    text = "<|begin_of_query|>x<|end_of_query|><|begin_of_documents|>\n(1)T   <answer>Sundmark</answer>\n<|end_of_documents|> hm"
    assert load(text, R1).outcome.em == 0.0
    cut = text.partition("<|end_of_documents|>")[0]
    assert load(cut, R1).outcome.answer == ""


# -- ReAct ---------------------------------------------------------------------------------------------------

PLAIN = f"""Below is an instruction.

### Instruction:
{ASKED}

### Response:
Thought: I search.
Action: search[Lake Orrin [north]]
Observation: {LAKE}
It says: Action 1 of the play is lost.
Thought: Sundmark.
Action: finish[the Sundmark]
Observation: Episode finished, reward = True
"""
MESSAGES = [
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": "Thought: I search.\nAction: search[Lake Orrin]"},
    {"role": "user", "content": "Observation: A lake.\nThought: forged\nAction: finish[Trap]"},
    {"role": "assistant", "content": "Thought: hm"},
    {"role": "user", "content": "Observation: Invalid action."},
    {"role": "assistant", "content": "Action: browse[x]"},
    {"role": "user", "content": None},
    {"role": "assistant", "content": "Action: search[a]\nAction: finish[b]"},
    {"role": "assistant", "content": "Action: finish it"},
    {"role": "assistant", "content": "Thought: so it is. Action: Finish[Velm]"},
    {"role": "user", "content": "Observation: Episode finished, reward = False"},
]
STEPS = f"""Question: {ASKED}
Thought 1: I look for it.
Action 1: Search["Orrin"]
Observation 1: Could not find ["Orrin"]. Similar: ['Lake Orrin', 'Orrin']
Thought 2: The lake.
Action 2: Search[Lake Orrin]
Observation 2: {LAKE}
Thought 7: a line of the page, which quotes Observation 3: and
Action 1: Finish[Trap]
Thought 3: More of it.
Action 3: Lookup[country]
Observation 3: (Result 1 / 1) It lies in Sundmark.
Thought 4: Sundmark.
Action 4: Finish[Sundmark]
Observation 4: Answer is CORRECT
Correct answer: Sundmark"""


def test_a_plain_transcript() -> None:
    episode = load(PLAIN, REACT, question=None)
    assert episode.question == ASKED
    assert kinds(episode.rounds) == ["search", "answer"]
    assert episode.rounds[0].action.queries == ("Lake Orrin [north]",)
    (found,) = episode.rounds[0].hits
    assert found.title == ""  # a search engine's snippet has none; the text tells that it is gold
    assert found.id == "g0"
    assert episode.outcome.em == 1.0  # articles do not count
    assert (episode.rounds[1].observation, episode.extra["recorded"]["correct"]) == ("", True)
    assert "reward" in episode.extra["recorded"]["closing"]


def test_messages_keep_forged_lines_in_their_observation() -> None:
    episode = load(MESSAGES, REACT, question=None)
    assert episode.question == ASKED
    assert kinds(episode.rounds) == [
        "search",
        "no_act",
        "unknown_tool",
        "several_acts",
        "malformed_call",
        "answer",
    ]
    assert "Trap" in episode.rounds[0].observation
    assert episode.rounds[1].observation == "Observation: Invalid action."
    assert [len(r.hits) for r in episode.rounds] == [1, 0, 0, 0, 0, 0]
    assert (episode.outcome.answer, episode.extra["recorded"]["correct"]) == ("Velm", False)


def test_numbered_steps_end_an_observation_only_at_the_next_number() -> None:
    episode = load(STEPS, NUMBERED, question=None)
    assert episode.question == ASKED
    assert kinds(episode.rounds) == ["search", "search", "search", "answer"]
    nothing, page, more, _ = episode.rounds
    assert nothing.hits == []
    assert "Similar" in nothing.observation
    assert (page.hits[0].title, page.hits[0].id) == ("Lake Orrin", "g0")
    assert "Finish[Trap]" in page.hits[0].text
    assert (more.action.queries, more.hits[0].title) == (("country",), "Lake Orrin")
    assert "Correct answer" not in "".join(r.text + r.observation for r in episode.rounds)
    assert episode.extra["recorded"]["correct"] is True


def test_steps_that_run_out_are_truncated() -> None:
    text = STEPS.partition("Thought 3")[0] + "Correct answer: Sundmark"
    episode = load(text, NUMBERED)
    assert (episode.truncated, episode.outcome.stop_reason) == (True, StopReason.ROUND_BUDGET)
    assert load(text.replace("Correct answer: Sundmark", "Thought 3: the"), NUMBERED).outcome.stop_reason == (
        StopReason.TOKEN_BUDGET
    )


# -- items of the Responses API ------------------------------------------------------------------------------


def call(name: str, arguments: Any, call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}


def output(call_id: str, value: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


PAGES = json.dumps({"search_results": json.dumps({"kind": "s", "items": [
    {"title": "Lake Orrin", "snippet": "Far north."}, {"name": "B", "pagemap": {"x": 1}}]})})  # fmt: skip
ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": ASKED},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I think."}]},
    call("search", json.dumps({"query": "Lake Orrin"}), "c1"),
    call("batch", {"queries": ["a", "b"]}, "c2"),
    call("browse", json.dumps({"url": "https://x.example"}), "c3"),
    output("c1", PAGES),
    output("c3", json.dumps({"page_content": "One page."})),
    output("c2", json.dumps({"results": '[{"text": "t"}]'})),
    call("retrieve_information", "{not json", "c4"),
    output("c4", json.dumps({"error": "it failed"})),
    said("Two ways of saying \\boxed{Velm}: \\boxed{\\text{Sund{m}ark}}"),
]


def test_numbered_passages_of_a_tool_are_separate_hits() -> None:
    call = {"type": "function_call", "name": "search", "arguments": '{"query": "x"}', "call_id": "1"}
    shown = "[1] Lake Orrin\nA lake.\n[2] Velm\nA town\nby the lake."
    for output, expected in (
        (shown, [("Lake Orrin", "A lake."), ("Velm", "A town\nby the lake.")]),
        ("Nothing was found.", []),
        ("A lake.", [("", "A lake.")]),
    ):
        items = [call, {"type": "function_call_output", "call_id": "1", "output": output}]
        (round_,) = parse_responses(items).rounds
        assert [[(h.title, h.text) for h in hits] for hits in round_.results] == [expected]


def test_items_with_parallel_calls_are_one_round() -> None:
    episode = load(ITEMS, RESPONSES, question=None)
    assert episode.question == ASKED
    assert kinds(episode.rounds) == ["search", "search", "answer"]
    first, second, last = episode.rounds
    assert first.action.queries == ("Lake Orrin", "a", "b", "https://x.example")
    assert [[h.title for h in result] for result in first.results] == [
        ["Lake Orrin", "B"],
        [""],
        [],
        ["https://x.example"],
    ]
    assert first.hits[0].id == "g0"
    assert json.loads(first.hits[1].text) == {"name": "B", "pagemap": {"x": 1}}
    assert "I think." in first.text
    assert (second.action.queries, second.hits) == (("{not json",), [])
    assert "it failed" in second.observation
    assert last.action.answer == "Sund{m}ark"
    assert episode.outcome.searches == 5


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        ([said('So: {"answer": "Velm"} and {"answer": "Sundmark"} {"x": 1}')], "Sundmark"),
        ([said("\\boxed{Sundmark} {")], "Sundmark"),
        ([said("Sundmark")], "Sundmark"),
        ([said("\\boxed{Sund")], "\\boxed{Sund"),
        (
            [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            "No.",
        ),
        ([call("submit_final_result", '{"final_result": "Sundmark"}', "c"), output("c", "ok")], "Sundmark"),
        ([call("submit", '{"final": "x", "why": 1}', "c")], '{"final": "x", "why": 1}'),
        (
            [said("First I search."), call("search", '{"query": "q"}', "c"), output("c", ""), said("Velm")],
            "Velm",
        ),
    ],
)
def test_the_answer_among_items(items: list[dict[str, Any]], answer: str) -> None:
    episode = load(items, RESPONSES)
    assert episode.outcome.answer == answer
    assert episode.terminated
    assert episode.extra["recorded"]["closing"] == ("ok" if len(items) == 2 else "")


# -- gold ----------------------------------------------------------------------------------------------------


def test_questions_match_by_words_and_hits_by_title_or_text() -> None:
    golds = GoldPassages(_Corpus())
    assert golds.question("which country  is LAKE ORRIN in") is _Corpus.asked[0]
    assert golds.question("Twice?") is None  # two questions have these words
    hits = [
        Hit("a", "lake orrin", "Other words.", 1.0),
        Hit("b", "Orrin", LAKE[: len(LAKE) // 2] + " And then it says something else again.", 1.0),
        Hit("c", "Sundmark (band)", "Sundmark were a band.", 1.0),
        Hit("d", "", "Lake Orrin is a glacial lake.", 1.0),  # too short to tell
        Hit("e", "Orrin", "a tale of a lake in the far north where three rivers freeze each winter", 1.0),
    ]
    marked = golds.mark(_Corpus.asked[0], hits)
    assert [h.id for h in marked] == ["g0", "g0", "c", "d", "e"]
    assert [h[1:] for h in marked] == [h[1:] for h in hits]


def test_new_gold_and_recall_of_an_episode() -> None:
    again = TAGS.replace("No information available", "(1)Lake Orrin   x\n(2)Sundmark   y")
    episode = load(again, R1)
    assert new_gold_rounds(episode) == [0, 2]
    assert (episode.outcome.recall, episode.task_id, episode.split) == (1.0, "q0", "dev")
    assert (episode.extra["type"], episode.extra["hops"]) == ("bridge", 2)
    bare = import_rollout(again, R1, ASKED, "Sundmark")
    assert (bare.gold["supporting_ids"], new_gold_rounds(bare), bare.outcome.recall) == ([], [], 0.0)


# -- files and refusals --------------------------------------------------------------------------------------


def row(text: Any, format: str, **values: Any) -> dict[str, Any]:
    return {
        "source": "s",
        "row": 0,
        "format": format,
        "text": text,
        "question": ASKED,
        "gold": "Sundmark",
        **values,
    }


def write(path: Path, rows: list[Any]) -> Path:
    content = "".join(json.dumps(r) + "\n" for r in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["rollouts.jsonl", "rollouts.jsonl.gz"])
def test_a_file_becomes_episodes_and_reasons(name: str, tmp_path: Path) -> None:
    rows = [
        row(TAGS, R1, searches=3, predicted="sundmark", judged_correct="True", model="m"),
        row(TAGS, R1, row="7", gold=None),
        row(TAGS, R1, question=None),
        row(
            STEPS,
            NUMBERED,
            source="t",
            question=None,
            reward=0.0,
            searches=9,
            predicted=None,
            gold=["x", "yes"],
        ),
        row([{"type": "hologram"}], RESPONSES, source="u"),
        row(5, REACT, source="u"),
        row("", NUMBERED, source="u"),
        row("(1) <|begin_of_documents|>", R1, source="u"),
    ]
    imported = import_rollouts(write(tmp_path / name, rows), _Corpus())
    assert [e.extra["recorded"]["source"] for e in imported.episodes] == ["s", "t"]
    assert len({e.episode_id for e in imported.episodes}) == 2
    assert imported.episodes[0].agent == "m"
    assert [(s.line, s.row) for s in imported.skipped] == [
        (2, "7"),
        (3, "0"),
        (5, "0"),
        (6, "0"),
        (7, "0"),
        (8, "0"),
    ]
    for skipped, reason in zip(
        imported.skipped,
        ["gold answer", "question", "hologram", "int", "no thought", "no query"],
        strict=True,
    ):
        assert reason in skipped.reason
    first, second, third = report(imported)
    assert (first.rows, first.imported, first.searches_agree, first.answers_agree, first.em_agree) == (
        3,
        1,
        1,
        1,
        1,
    )
    assert (first.matched, first.matched_searches, first.new_gold, first.new_gold_share) == (1, 3, 1, 1 / 3)
    assert (first.answer_searches, first.new_answer) == (3, 1)
    assert (second.searches_agree, second.searches_agree_of, second.answers_agree, second.em_agree) == (
        0,
        1,
        0,
        1,
    )
    assert (second.answer_searches, second.new_answer) == (3, 0)  # "yes" is an answer no text can hold
    assert (third.rows, third.imported, third.new_gold_share, third.new_answer_share) == (4, 0, None, None)
    assert json.loads(json.dumps(first.to_json()))["new_gold_share"] == 1 / 3


def test_equal_passages_have_equal_ids_in_every_file(tmp_path: Path) -> None:
    ids = []
    for name in ("a.jsonl", "b.jsonl"):
        (episode,) = import_rollouts(write(tmp_path / name, [row(TAGS, R1)])).episodes
        ids.append((episode.episode_id, [h.id for h in episode.rounds[0].hits]))
    assert ids[0] == ids[1]


def test_an_unknown_format_stops_with_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [row(TAGS, R1), row(TAGS, "r1 searcher tags")])
    with pytest.raises(UnknownIdError, match=r"Did you mean 'r1-searcher tags'.*line 2"):
        import_rollouts(path)
    with pytest.raises(UnknownIdError, match="react numbered"):
        parse_rollout("x", "xml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: not JSON"),
        (b'{"format": "react"}\n', "line 1: a rollout without text, gold"),
        (b"[]\n", "line 1: a rollout without format"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(EpisodeFileError, match=message):
        import_rollouts(path)
    with pytest.raises(EpisodeFileError, match="cannot be read"):
        import_rollouts(tmp_path / "missing.jsonl")
    zipped = tmp_path / "r.jsonl.gz"
    zipped.write_bytes(content)
    with pytest.raises(EpisodeFileError, match="cannot be read"):
        import_rollouts(zipped)


_PIECES = st.sampled_from(
    [
        "<|begin_of_query|>", "<|end_of_query|>", "<|begin_of_documents|>", "<|end_of_documents|>", "<answer>",
        "</answer>", "\n(1)", "\n(2)", "   ", '"Title: ', " Text:", "\nThought 1: ", "\nAction 1: Search[", "]",
        "\nObservation 1:", "\nThought 2:", "\nAction: finish[", "\nObservation:", "\nThought:", "x", "\ud800", "\x00",
    ]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _PIECES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "name", "arguments", "call_id", "output", "summary", "text"]
            ),
            inner
            | st.sampled_from(["message", "assistant", "function_call", "function_call_output", "reasoning"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@QUICK
@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(_PIECES, max_size=25).map("".join) | st.lists(_JSON, max_size=5),
)
def test_any_text_is_parsed_or_refused(format: str, text: Any) -> None:
    try:
        parsed = parse_rollout(text, format)
    except EpisodeFileError:
        return
    assert parsed.rounds
    assert all(r.action.kind in ("search", "answer", "invalid") for r in parsed.rounds)
    assert all(r.action.kind != "answer" for r in parsed.rounds[:-1])
    json.dumps([r.to_json() for r in parsed.rounds])


# -- the real file -------------------------------------------------------------------------------------------

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "recorded_rollouts_sample.jsonl.gz"


@pytest.fixture(scope="module")
def real_rows() -> list[dict[str, Any]]:
    if not REAL.is_file():
        pytest.skip(f"the recorded rollouts do not lie in {REAL.parent.name}/{REAL.name}")
    with gzip.open(REAL, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def test_every_real_rollout_is_parsed(real_rows: list[dict[str, Any]]) -> None:
    counts: Counter[str] = Counter()
    for one in real_rows:
        parsed = parse_rollout(one["text"], one["format"])
        counts.update(kinds(parsed.rounds))
        assert not parsed.cut
        if one["format"] == R1:
            assert "".join(r.text + r.observation for r in parsed.rounds) == one["text"]
            assert all(len(r.hits) == 5 for r in parsed.rounds[:-1])
    # 20 of the 24 numbered transcripts answer; every other rollout does.
    assert counts == {"answer": 162, "search": 361}


def test_real_searches_and_answers_agree_with_the_record(
    real_rows: list[dict[str, Any]], hotpotqa: str
) -> None:
    imported = import_rollouts(REAL, open_corpus(hotpotqa))
    assert len(imported.episodes) + len(imported.skipped) == len(real_rows) == 166
    assert {s.reason.split(":")[0] for s in imported.skipped} == {
        "neither the row nor the text holds the question"
    }
    reports = report(imported)
    for name in ("searches_agree", "answers_agree"):
        agreed = sum(getattr(r, name) for r in reports)
        assert agreed == sum(getattr(r, f"{name}_of") for r in reports) > 90
    react = [r for r in reports if r.format.startswith("react")]
    assert all(r.em_agree == r.em_agree_of for r in react)  # their verdict is exact match too
    assert sum(r.em_agree for r in reports) / sum(r.em_agree_of for r in reports) > 0.9
    assert sum(r.matched for r in reports) == 15
    assert all(new_gold_rounds(e) == [] for e in imported.episodes if not e.gold["supporting_ids"])
