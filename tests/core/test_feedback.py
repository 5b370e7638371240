"""The text of privileged feedback: exact where the derivation is known, and silent about the answer below gold."""

from __future__ import annotations

from typing import Any

import pytest

import searchgym
from searchgym.env.feedback import FEEDBACK_LEVELS, write_feedback
from searchgym.records.question import Hop, Passage, Question, find_passage
from searchgym.scoring import exact_match, normalize_answer

PAGES = {
    "a": Passage("a", "Sochi", "Sochi lies in Russia and hosted the games of 2014."),
    "b": Passage("b", "2014 Winter Olympics", "The 2014 Winter Olympics were held in Sochi."),
    "c": Passage("c", "Russia", "The country of Russia spans eleven time zones."),
}


def question(*answers: str, **facts: Any) -> Question:
    return Question("q", facts.pop("text", "Which country hosted them?"), answers, "train", **facts)


def said(asked: Question, draft: str, level: str = "kind", seen: tuple[str, ...] = ()) -> str:
    return write_feedback(asked, draft, seen, level, PAGES.__getitem__)


@pytest.mark.parametrize(
    ("answers", "draft", "text"),
    [
        (("Russia",), "russia", "The draft is right."),
        (("Russia",), "France", "The draft is wrong."),
        (("Russia",), "", "The draft is empty."),
        (("Russia",), "I think it was Russia", "The draft is too long. Give only the answer."),
        (("Russia",), "1998", "The draft is wrong. The question asks for a name."),
        (("1998",), "Russia", "The draft is wrong. The question asks for a year."),
        (("1998",), "2014", "The draft is wrong."),
        (("12 May 1930", "May 12, 1930"), "1930", "The draft is wrong. The question asks for a date."),
        (("88 kilometres", "88"), "Sochi", "The draft is wrong. The question asks for a number."),
        (("yes",), "Russia", "The draft is wrong. The question asks for yes or no."),
        (("no",), "yes", "The draft is wrong."),
    ],
)
def test_kind_says_what_is_wrong_with_form_and_kind(answers: tuple[str, ...], draft: str, text: str) -> None:
    assert said(question(*answers), draft) == text


def test_an_earlier_step_is_named_from_the_derivation_or_from_the_gold_titles() -> None:
    hops = (
        Hop("2014 Winter Olympics", "host city", ("b",), "Sochi"),
        Hop("Sochi", "country", ("a",), "Russia"),
    )
    known = question("Russia", supporting_ids=("b", "a"), chain=hops)
    unknown = question("Russia", supporting_ids=("b", "a"))
    step = "The draft is an earlier step, not the answer."
    assert said(known, "Sochi") == said(unknown, "Sochi") == step
    assert said(known, "Sochi", "hop", ("b",)) == f"{step} Step 2 of 2 has not been found."
    assert said(unknown, "Sochi", "hop", ("b",)) == f"{step} 1 of 2 passages needed have not been found."
    assert said(known, "Sochi", "hop", ("a", "b")) == f"{step} Everything needed has been found."
    # What the question itself names is not a step on the way, but one of the things compared.
    compared = question("Moscow", text="Which is older, Sochi or Moscow?", supporting_ids=("a",))
    assert said(compared, "Sochi") == "The draft is wrong."


def test_revealing_points_at_a_passage_without_saying_the_answer() -> None:
    there = question("Sochi", supporting_ids=("b",))
    assert said(there, "Paris", "revealing").endswith("Read 2014 Winter Olympics.")
    titled = question("Russia", "the country of Russia", supporting_ids=("c",))
    text = said(titled, "France", "revealing")
    assert text.endswith("Read the passage that begins: … spans eleven time zones.")
    assert said(titled, "France", "gold") == "The draft is wrong. The answer is Russia."


def test_an_answer_that_is_one_of_our_own_words_is_not_said_either() -> None:
    asked = question(
        "2", supporting_ids=("a", "b"), chain=(Hop("x", "r", ("a",), "y"), Hop("y", "r", ("b",), "2"))
    )
    assert said(asked, "7", "hop") == "The draft is wrong."
    assert said(question("a name"), "7") == "The draft is wrong."


@pytest.mark.parametrize("world", ["country", "country-terse", "country-hard"])
def test_no_level_below_gold_ever_says_an_answer(world: str) -> None:
    corpus = searchgym.open_corpus({"name": world, "size": 1000, "train": 60, "dev": 20, "test": 20})
    tells = 0
    for asked in corpus.questions("train"):
        drafts = ["", "1950", "no", "somebody else", *(hop.bridge for hop in asked.chain)]
        for seen in ((), asked.supporting_ids[:1], asked.supporting_ids):
            for draft in drafts:
                for level in FEEDBACK_LEVELS:
                    text = write_feedback(asked, draft, seen, level, lambda id_: find_passage(corpus, id_))
                    words = f" {normalize_answer(text)} ".replace(" yes or no ", " ")
                    leaked = any(f" {normalize_answer(a)} " in words for a in asked.answers)
                    assert level == "gold" or not leaked, (asked, draft, text)
                    right = exact_match(draft, asked.answers) == 1.0
                    assert (text == "The draft is right.") == right
                    tells += leaked and not right
    assert tells > 100  # gold does say it


def test_real_questions_never_hear_their_answer(hotpotqa: str) -> None:
    corpus = searchgym.open_corpus(hotpotqa)
    for asked in corpus.questions("dev")[:300]:
        for seen in ((), asked.supporting_ids[:1]):
            text = write_feedback(asked, "nothing", seen, "revealing", lambda id_: find_passage(corpus, id_))
            words = f" {normalize_answer(text)} ".replace(" yes or no ", " ")
            assert not any(f" {normalize_answer(a)} " in words for a in asked.answers), (asked, text)
