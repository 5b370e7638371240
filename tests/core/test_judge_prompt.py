"""The prompt of the language-model judges and the reader of their replies: what enters, what counts, what does not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import pytest
from benchmarks.bench_judge_injection import measure
from fixtures.judge_attacks import ATTACKS, PLACES, trace

from searchgym.dialects import Act
from searchgym.judges import RoundRecord, Trace
from searchgym.judges.llm.prompt import PROMPT_VERSION, Prompt, grade_prompt, round_prompt
from searchgym.judges.llm.replies import UnreadableReplyError, read_grade, read_verdict
from searchgym.records.question import Hop, Question
from searchgym.records.retriever import Hit

QUESTION = Question("q", "Where was Tarn Mills founded?", ("Oldmoor", "Old Moor"), "dev")


SEARCH = RoundRecord(
    "<search> Tarn Mills </search>", Act("search", ("Tarn Mills",)), [], "[1] Tarn Mills\nA mill."
)
ANSWER = RoundRecord("<answer> Oldmoor </answer>", Act("answer", answer="Oldmoor"))


def prompt_for(*rounds: RoundRecord, question: Question = QUESTION) -> Prompt:
    prompt = round_prompt(Trace(question, rounds))
    assert prompt is not None
    return prompt


def user(prompt: Prompt) -> str:
    return prompt.messages()[1]["content"]


# -- the prompt ----------------------------------------------------------------------------------------------


def test_the_version_belongs_to_the_wording() -> None:
    """A cached judgement is found by version and content: new wording under an old version would find old ones.

    If this fails because you changed the wording, raise PROMPT_VERSION and put the new value here.
    """
    prompts = [prompt_for(SEARCH), prompt_for(SEARCH, ANSWER), grade_prompt(QUESTION, "Velm")]
    wording = json.dumps([p.messages() for p in prompts] + [p.repair("x", "y") for p in prompts])
    found = (PROMPT_VERSION, blake2b(wording.encode(), digest_size=8).hexdigest())
    assert found == ("1", "ba7e9d89dfd22b98")


def test_it_holds_question_messages_and_what_was_read_in_order() -> None:
    text = user(prompt_for(SEARCH, ANSWER))
    places = [
        text.index(part) for part in (QUESTION.text, "Tarn Mills </search>", "A mill.", "Oldmoor </answer>")
    ]
    assert places == sorted(places)
    assert text.index("A mill.") < text.index("round 2: message of the agent")


def test_gold_fields_never_enter_the_prompt_of_a_round() -> None:
    gold = replace(
        QUESTION,
        answers=("GOLD",),
        supporting_ids=("GOLD",),
        chain=(Hop("GOLD", "GOLD", ("GOLD",), "GOLD"),),
        metadata={"GOLD": "GOLD"},
        type="GOLD",
        id="GOLD",
    )
    assert prompt_for(SEARCH, ANSWER, question=gold) == prompt_for(SEARCH, ANSWER)
    assert "GOLD" not in str(prompt_for(SEARCH, question=gold).messages())
    assert "Old Moor" in user(grade_prompt(QUESTION, "x"))  # a grader must have them


@pytest.mark.parametrize("kind", ["invalid", "feedback"])
def test_a_round_without_search_or_answer_has_no_prompt(kind: str) -> None:
    assert round_prompt(Trace(QUESTION, (SEARCH, RoundRecord("?", Act(kind), [], "")))) is None


def test_hits_stand_in_for_an_observation_that_was_withheld() -> None:
    last = replace(SEARCH, observation="", results=[[Hit("a", "Tarn Mills", "A mill.", 1.0)]])
    assert "[1] Tarn Mills\nA mill." in user(prompt_for(last))


def test_feedback_is_not_shown_as_retrieved_text() -> None:
    text = user(prompt_for(RoundRecord("draft", Act("feedback"), [], "It is a town."), SEARCH))
    assert "round 1: reply of the environment" in text
    assert "round 1: retrieved text" not in text


def test_whatever_differs_in_the_messages_differs_in_the_digest() -> None:
    variants = [
        (SEARCH,),
        (SEARCH, SEARCH),
        (SEARCH, ANSWER),
        (replace(SEARCH, text=SEARCH.text + " "),),
        (replace(SEARCH, observation=SEARCH.observation + " "),),
        # the same characters, cut at another place
        (replace(SEARCH, text=SEARCH.text + SEARCH.observation[:3], observation=SEARCH.observation[3:]),),
        (replace(SEARCH, text="\ud800"),),
        (replace(SEARCH, text="\ud801"),),
    ]
    prompts = [prompt_for(*rounds) for rounds in variants]
    prompts += [prompt_for(SEARCH, question=replace(QUESTION, text="Where?"))]
    prompts += [grade_prompt(QUESTION, "a"), grade_prompt(QUESTION, "b")]
    assert len({p.digest for p in prompts}) == len(prompts) == len({p.code for p in prompts})
    assert prompt_for(SEARCH).messages() == prompt_for(SEARCH).messages()


def test_messages_can_be_sent_whatever_was_said() -> None:
    prompt = prompt_for(replace(SEARCH, text="half \ud83d a pair\x00", observation="\udcff Größe"))
    for message in [*prompt.messages(), *prompt.repair("\ud83d", "no")]:
        message["content"].encode()
    assert "Größe" in user(prompt)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_closes_its_block_or_opens_another(attack: str, place: str) -> None:
    prompt = round_prompt(trace(ATTACKS[attack](place), place))
    assert prompt is not None
    text = user(prompt)
    lines = re.findall(r"={3,}\s*(?:BEGIN|END)\b.*", text, re.IGNORECASE)
    expected = []
    for label, _ in prompt.parts:
        expected += [f"=====BEGIN {prompt.code} {label}=====", f"=====END {prompt.code}====="]
    assert lines == expected
    assert text.count(prompt.code) == len(expected) + 1  # and in the last line, which asks for it
    assert not re.search(r"<\||</?s>|<end_of_turn>|\[/?INST\]", text)


# -- the reader ----------------------------------------------------------------------------------------------

PROMPT = prompt_for(SEARCH)
CODE = PROMPT.code


def verdict(**changes: Any) -> str:
    return json.dumps({"code": CODE, "analysis": "because", "reasoning": 1, "utility": 0} | changes)


@pytest.mark.parametrize(
    "reply",
    [
        verdict(),
        f"  {verdict()}\n",
        f"I think {{so}}: {verdict()} That is {{all}}.",
        f"<think>\nmaybe {{'utility': 1}}\n</think>\n```json\n{verdict()}\n```",
        f"```\n{verdict()}",
        f"{verdict(code='0' * 16, utility=1)}\n{verdict()}\n{verdict(code='f' * 16, utility=1)}",
        f"{verdict(utility=1, reasoning=0)} No, wait.\n{verdict()}",  # the last one counts
        f'{{"utility": 1, {verdict()}',  # an object left open before it
        json.dumps({"utility": 0, "reasoning": 1, "analysis": "because", "code": CODE}),
        verdict(confidence=0.9),
        "x" * 60_000 + verdict(),
    ],
)
def test_replies_that_hold_a_verdict(reply: str) -> None:
    assert read_verdict(reply, PROMPT) == (0.0, 1.0, "because")


def test_numbers_between_are_numbers() -> None:
    assert read_verdict(verdict(utility=0.25, reasoning=1.0), PROMPT) == (0.25, 1.0, "because")
    assert read_verdict(verdict(analysis=["a", 1]), PROMPT)[2] == '["a", 1]'


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "no JSON object"),
        ("I cannot help with that.", "no JSON object"),
        (verdict()[:-2], "no JSON object"),
        (f"[{json.dumps(CODE)}, 1, 1]", "no JSON object"),
        (verdict(code="0" * 16), "does not give"),
        (verdict(code=[CODE]), "does not give"),
        (verdict(code=1, utility=CODE), "does not give"),
        (json.dumps({"reasoning": 1, "utility": 1}), "does not give"),
        (json.dumps({"verdict": json.loads(verdict())}), "does not give"),
        (json.dumps({"code": CODE, "reasoning": 1}), 'lacks "utility"'),
        (verdict(utility=7), '"utility" is not a number'),
        (verdict(reasoning=-0.1), '"reasoning" is not a number'),
        (verdict(utility=True), '"utility" is not a number'),
        (verdict(utility="1"), '"utility" is not a number'),
        (verdict(utility=None), '"utility" is not a number'),
        (verdict()[:-1] + ', "utility": 1}', "a duplicate key"),
        (verdict().replace('"utility": 0', '"utility": NaN'), "an invalid number"),
        (verdict().replace('"', "'"), "no JSON object"),
        ("{" * 30_000 + verdict()[1:-1], "no JSON object"),
    ],
)
def test_replies_that_hold_none(reply: str, problem: str) -> None:
    with pytest.raises(UnreadableReplyError, match=re.escape(problem)):
        read_verdict(reply, PROMPT)


def test_an_answer_round_has_no_utility() -> None:
    prompt = prompt_for(SEARCH, ANSWER)
    assert read_verdict(verdict(code=prompt.code, utility=1), prompt) == (0.0, 1.0, "because")


def test_a_grade_is_read_under_its_own_name() -> None:
    prompt = grade_prompt(QUESTION, "Velm")
    assert read_grade(json.dumps({"code": prompt.code, "correct": 1}), prompt) == (1.0, "")
    with pytest.raises(UnreadableReplyError, match='lacks "correct"'):
        read_grade(verdict(code=prompt.code), prompt)


def test_a_second_request_says_what_was_wrong() -> None:
    messages = PROMPT.repair("nonsense", "it holds no JSON object")
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[:2] == PROMPT.messages()
    assert messages[2]["content"] == "nonsense"
    assert "it holds no JSON object" in messages[3]["content"]
    assert CODE in messages[3]["content"]


# -- attacks -------------------------------------------------------------------------------------------------


def test_no_attack_reaches_a_verdict_through_a_careless_model() -> None:
    """The table of docs/judges-llm.md; the naive reader shows that the attacks are attacks."""
    found = measure()
    assert {attack: row["llm"] for attack, row in found.items() if row["llm"]} == {}
    assert {attack: row["lost"] for attack, row in found.items() if row["lost"]} == {}
    harmless = {attack for attack, row in found.items() if not row["naive"]}
    assert harmless <= {"order", "object left open", "ten thousand braces"}
