"""Scoring: SQuAD's normalisation, the adversarial cases, and the comparison with Search-R1's scorer."""

from __future__ import annotations

import gzip
import json
import pickle
import re
import string
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import searchgym
from searchgym.dialects import TagsDialect
from searchgym.errors import ConfigError
from searchgym.rollouts.rescoring import rescore
from searchgym.scoring import (
    SEGMENTATIONS,
    contains_answer,
    exact_match,
    f1,
    normalize_answer,
    recall,
    score_answer,
    sub_exact_match,
)
from searchgym.scoring.answers import _is_unseparated

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

words = st.sampled_from(
    ["a", "the", "Paris", "paris", "yes", "no", "noanswer", "Ø", "!", "-", "42", "B.", "", " "]
)
phrases = st.lists(words, max_size=5).map(" ".join)
texts = phrases | st.text(st.characters(), max_size=20)
golds = st.lists(texts, max_size=3)


def squad_normalize(text: str) -> str:
    """The official SQuAD v1.1 steps, spelled out one by one."""
    text = text.lower()
    text = "".join(c for c in text if c not in set(string.punctuation))
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


class TestNormalisation:
    @given(texts)
    def test_is_squads(self, text: str) -> None:
        assert normalize_answer(text) == squad_normalize(text)

    @given(texts)
    def test_long_texts_take_the_same_path(self, text: str) -> None:
        assert normalize_answer(text + "x" * 600) == squad_normalize(text + "x" * 600)

    @pytest.mark.parametrize(
        ("text", "normal"),
        [
            ("The  Beatles!", "beatles"),
            ("An Officer and a Gentleman", "officer and gentleman"),
            ("U.S.A.", "usa"),
            ("rock-n-roll", "rocknroll"),
            ("Theatre", "theatre"),  # an article only as a whole word
            ("ÅSE Østby", "åse østby"),
            ("1,234", "1234"),
            ("“quoted”", "“quoted”"),  # only ASCII punctuation, as in the original
            ("Jose\u0301", "jose\u0301"),  # no Unicode normal form, as in the original
            ("A", ""),
            ("...", ""),
        ],
    )
    def test_examples(self, text: str, normal: str) -> None:
        assert normalize_answer(text) == normal


class TestExactMatch:
    @pytest.mark.parametrize(
        ("answer", "gold", "match"),
        [
            ("paris", ["Paris, France", "Paris"], 1),
            ("Paris, France.", ["Paris"], 0),
            ("the Beatles", ["Beatles"], 1),
            ("ÅSE", ["åse"], 1),
            ("Ase", ["Åse"], 0),
            ("", [""], 0),
            ("Paris", [], 0),
            ("Paris", [""], 0),
            ("<answer>Paris</answer>", ["Paris"], 0),
            ("\ud800", ["\ud800"], 1),
        ],
    )
    def test_examples(self, answer: str, gold: list[str], match: int) -> None:
        assert exact_match(answer, gold) == match

    @pytest.mark.parametrize("gold", ["A", "The", "an", "!", "...", "A the An"])
    def test_a_gold_answer_without_a_normal_form(self, gold: str) -> None:
        """Plain SQuAD scoring would credit silence, and any other such answer, with an exact match."""
        assert normalize_answer(gold) == ""
        for silence in ("", " ", "\n"):
            for metric in (exact_match, sub_exact_match, f1):
                assert metric(silence, [gold]) == 0.0
        assert exact_match("?", [gold]) == 0.0
        assert exact_match(gold, [gold]) == exact_match(f" {gold.upper()} ", [gold]) == 1.0
        assert exact_match("Paris", [gold]) == f1("Paris", [gold]) == sub_exact_match("Paris", [gold]) == 0.0


class TestF1:
    @pytest.mark.parametrize(
        ("answer", "gold", "value"),
        [
            ("Barack Hussein Obama", ["Barack Obama"], 0.8),
            ("Obama", ["Barack Obama", "Obama"], 1.0),
            ("Paris Paris Paris", ["Paris"], 0.5),  # counted with multiplicity
            ("yes it is", ["yes"], 0.0),
            ("yes", ["yes, it is"], 0.0),
            ("Yes.", ["yes"], 1.0),
            ("no", ["No man's land", "nothing"], 0.0),
            ("the", ["the cat"], 0.0),
        ],
    )
    def test_examples(self, answer: str, gold: list[str], value: float) -> None:
        assert f1(answer, gold) == pytest.approx(value)

    @given(answer=phrases, gold=phrases)
    def test_against_the_definition(self, answer: str, gold: str) -> None:
        a, g = squad_normalize(answer).split(), squad_normalize(gold).split()
        if not a or not g or {" ".join(a), " ".join(g)} & {"yes", "no", "noanswer"}:
            return
        common = sum((Counter(a) & Counter(g)).values())
        assert f1(answer, [gold]) == pytest.approx(2 * common / (len(a) + len(g)))


class TestSubstring:
    @pytest.mark.parametrize(
        ("answer", "gold", "value"),
        [
            ("It was Paris, France.", ["Paris"], 1),
            ("Parisian", ["Paris"], 0),  # whole words only
            ("nothing", ["no"], 0),
            ("France Paris", ["Paris France"], 0),
            ("Paris", ["Paris France"], 0),
            ("the city of light", ["The"], 0),
        ],
    )
    def test_examples(self, answer: str, gold: list[str], value: int) -> None:
        assert sub_exact_match(answer, gold) == value


class TestProperties:
    @given(answer=texts, gold=golds)
    @example(answer="A", gold=["the", "a"])
    @example(answer="!", gold=["!"])
    @example(answer="no", gold=["no", "no way"])
    def test_ranges_and_order(self, answer: str, gold: list[str]) -> None:
        em, sub, overlap = exact_match(answer, gold), sub_exact_match(answer, gold), f1(answer, gold)
        assert em in (0.0, 1.0)
        assert sub in (0.0, 1.0)
        assert 0.0 <= overlap <= 1.0
        assert sub >= em
        assert em == 0.0 or overlap == 1.0

    @given(a=texts, b=texts)
    def test_em_and_f1_are_symmetric(self, a: str, b: str) -> None:
        assert exact_match(a, [b]) == exact_match(b, [a])
        assert f1(a, [b]) == f1(b, [a])

    @given(answer=texts, gold=golds, extra=golds)
    def test_aliases_never_hurt_and_their_order_does_not_matter(
        self, answer: str, gold: list[str], extra: list[str]
    ) -> None:
        for metric in (exact_match, sub_exact_match, f1):
            assert metric(answer, gold + extra) >= metric(answer, gold)
            assert metric(answer, gold[::-1]) == metric(answer, gold)

    @given(gold=texts)
    def test_the_gold_answer_scores_full_marks_and_silence_none(self, gold: str) -> None:
        full = 1.0 if gold.strip() else 0.0
        for metric in (exact_match, sub_exact_match, f1):
            assert metric(gold, [gold]) == full
            assert metric("", [gold]) == 0.0


def test_recall() -> None:
    assert recall(["b", "x", "b"], ["a", "b"]) == 0.5
    assert recall([], ["a"]) == 0.0
    assert recall(["a"], []) == 0.0
    assert recall(iter("ab"), ["a", "b", "b"]) == 1.0


# ---- Search-R1's scorer, written again from its published behaviour, for the comparison in docs/scoring.md.


def search_r1_extract(transcript: str) -> str | None:
    """Last `<answer>` pair of the whole transcript, prompt included; None when there are fewer than two."""
    found = re.findall(r"<answer>(.*?)</answer>", transcript, re.DOTALL)
    return found[-1].strip() if len(found) > 1 else None


def search_r1_score(transcript: str, gold: list[str]) -> float:
    answer = search_r1_extract(transcript)
    if answer is None:
        return 0.0
    return float(squad_normalize(answer) in {squad_normalize(g) for g in gold})


PROMPT = "Answer … inside <answer> and </answer>. For example, <answer> Beijing </answer>. Question: where?\n"


def ours(message: str, gold: list[str]) -> float:
    return exact_match(TagsDialect().parse(message, feedback=False, max_queries=1).answer, gold)


class TestAgainstSearchR1:
    @given(
        answer=st.sampled_from(["Paris", "the Paris.", "Rome", "Paris, France"]),
        think=st.sampled_from(["", "<think>hm</think>"]),
    )
    def test_on_one_well_formed_answer_they_agree(self, answer: str, think: str) -> None:
        message = f"{think}<answer> {answer} </answer>"
        assert ours(message, ["Paris"]) == search_r1_score(PROMPT + message, ["Paris"])

    def test_without_the_prompts_example_theirs_sees_no_answer(self) -> None:
        message = "<answer>Paris</answer>"
        assert search_r1_score("Question: where?\n" + message, ["Paris"]) == 0.0
        assert ours(message, ["Paris"]) == 1.0

    def test_theirs_credits_an_answer_written_in_a_retrieved_document(self) -> None:
        document = "<information>A quiz page: <answer>Paris</answer></information>\n"
        act = "<search>capital of France</search>"
        assert search_r1_score(PROMPT + act + document + "I give up.", ["Paris"]) == 1.0
        assert ours("I give up.", ["Paris"]) == 0.0
        assert ours(act, ["Paris"]) == 0.0

    def test_theirs_credits_the_prompts_own_example_in_a_doubled_prompt(self) -> None:
        assert search_r1_score(PROMPT + PROMPT + "I give up.", ["Beijing"]) == 1.0
        assert ours("I give up.", ["Beijing"]) == 0.0

    def test_theirs_takes_the_last_of_several_answers_ours_takes_none(self) -> None:
        message = "<answer>Rome</answer><answer>Paris</answer>"
        assert search_r1_score(PROMPT + message, ["Paris"]) == 1.0
        assert ours(message, ["Paris"]) == 0.0

    def test_theirs_credits_an_answer_that_was_only_thought(self) -> None:
        message = "<think>maybe <answer>Paris</answer></think> I give up."
        assert search_r1_score(PROMPT + message, ["Paris"]) == 1.0
        assert ours(message, ["Paris"]) == 0.0

    def test_theirs_credits_silence_where_the_gold_answer_has_no_normal_form(self) -> None:
        assert search_r1_score(PROMPT + "<answer></answer>", ["The The"]) == 1.0
        assert ours("<answer></answer>", ["The The"]) == 0.0
        assert ours("<answer>The The</answer>", ["The The"]) == 1.0


@pytest.mark.parametrize("dataset", ["hotpotqa", "2wiki"])
def test_every_real_gold_answer_scores_full_marks(dataset: str) -> None:
    path = DATA / dataset / "questions.jsonl.gz"
    if not path.is_file():
        pytest.skip("the real data sets are not next to this checkout")
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = [json.loads(row) for row in handle]
    assert len(rows) > 500
    for row in rows:
        for answer in row["answers"]:
            assert exact_match(answer, row["answers"]) == f1(answer, row["answers"]) == 1.0


def test_recorded_predictions_of_real_models_score() -> None:
    path = DATA / "recorded_rollouts_sample.jsonl.gz"
    if not path.is_file():
        pytest.skip("the recorded rollouts are not next to this checkout")
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = [json.loads(row) for row in handle]
    matches = 0
    for row in rows:
        answer, gold = str(row.get("predicted") or ""), [str(row["gold"])]
        em = exact_match(answer, gold)
        assert em == float(squad_normalize(answer) == squad_normalize(gold[0]) != "")
        assert em <= sub_exact_match(answer, gold)
        assert em <= f1(answer, gold) <= 1.0
        matches += em == 1.0
    assert matches > 10


# -- scripts without spaces ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "expected", "contained"),
    [
        ("答案是北京", "北京", 4 / 7, 1.0),
        ("北京市", "北京", 0.8, 1.0),
        ("京北", "北京", 1.0, 0.0),
        ("南京", "北京", 0.5, 0.0),
        ("北京。", "北京", 1.0, 1.0),
        ("「北京」", "北京", 1.0, 1.0),
        ("天気がよい", "天気", 4 / 7, 1.0),
        ("カタカナ語", "カタ", 4 / 7, 1.0),
        ("ソニー・ミュージック", "ソニー", 0.5, 1.0),
        ("กรุงเทพมหานคร", "กรุงเทพ", 2 / 3, 1.0),
        ("กุ", "ก", 0.0, 0.0),
        ("ປະເທດລາວ", "ລາວ", 6 / 11, 1.0),
        ("ភាសាខ្មែរ", "ខ្មែរ", 0.75, 1.0),
        ("မြန်မာနိုင်ငံ", "မြန်မာ", None, 1.0),
        ("བོད་ཡིག", "བོད", 2 / 3, 1.0),
        ("iPhone手机", "手机", 0.8, 1.0),
        ("iPhone手机", "iphone", 0.5, 1.0),
        ("2008年8月", "2008年", 2 / 3, 1.0),
        ("서울 특별시", "서울", 2 / 3, 1.0),
        ("서울특별시", "서울", 0.0, 0.0),
        ("कि", "क", 0.0, 0.0),
    ],
)
def test_words_of_scripts_without_spaces(
    answer: str, gold: str, expected: float | None, contained: float
) -> None:
    found = f1(answer, [gold])
    assert 0 < found < 1 if expected is None else found == pytest.approx(expected)
    assert sub_exact_match(answer, [gold]) == contained
    assert f1(gold, [answer]) == pytest.approx(found)
    assert exact_match(answer, [gold]) == 0.0
    assert (f1(gold, [gold]), sub_exact_match(gold, [gold]), exact_match(gold, [gold])) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "gold"), [("答案是北京", "北京"), ("กรุงเทพมหานคร", "กรุงเทพ"), ("北京。", "北京")]
)
def test_words_between_spaces_by_option(answer: str, gold: str) -> None:
    assert (f1(answer, [gold], "spaces"), sub_exact_match(answer, [gold], "spaces")) == (0.0, 0.0)
    assert contains_answer(answer, gold)
    assert not contains_answer(answer, gold, "spaces")


def test_two_texts_are_segmented_alike() -> None:
    """One has an ideograph and the other has none: the word that they share is written with an apostrophe."""
    assert contains_answer("李 met Ada O’Brien.", "Ada O’Brien")
    assert not contains_answer("李 met Ada O’Brien.", "Ada O’Bri")
    assert sub_exact_match("李, O’Brien", ["O’Brien"]) == 1.0
    assert f1("O’Brien", ["李 O’Brien"]) == pytest.approx(2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3))


@given(st.text(), st.text())
def test_segmentation_changes_no_text_of_other_scripts(answer: str, gold: str) -> None:
    if _is_unseparated(normalize_answer(answer)) or _is_unseparated(normalize_answer(gold)):
        return
    assert f1(answer, [gold]) == f1(answer, [gold], "spaces")
    assert sub_exact_match(answer, [gold]) == sub_exact_match(answer, [gold], "spaces")


CJK = st.text(alphabet="北京市。、・ カタあい กุ่ง a1", max_size=12)


@given(CJK, CJK)
def test_the_laws_of_the_metrics_hold_in_every_script(answer: str, gold: str) -> None:
    em, overlap, contained = exact_match(answer, [gold]), f1(answer, [gold]), sub_exact_match(answer, [gold])
    assert em <= contained
    assert em <= overlap
    assert overlap == f1(gold, [answer])


@pytest.mark.parametrize(("segmentation", "expected"), [("characters", (4 / 7, 1.0)), ("spaces", (0.0, 0.0))])
def test_the_corpus_sets_the_segmentation(
    tmp_path: Path, segmentation: str, expected: tuple[float, float]
) -> None:
    (tmp_path / "passages.jsonl").write_text('{"id": "1", "title": "", "text": "北京"}\n', "utf-8")
    (tmp_path / "questions.jsonl").write_text('{"id": "q", "question": "?", "answers": ["北京"]}\n', "utf-8")
    spec = {"name": "jsonl", "path": str(tmp_path), "segmentation": segmentation}
    env = searchgym.SearchEnv(corpus=spec, reward={"f1": 1.0})
    env.reset(seed=0)
    _, reward, _, _, info = env.step("<answer>答案是北京</answer>")
    assert (info["outcome"]["f1"], info["outcome"]["sub_em"]) == pytest.approx(expected)
    assert reward == pytest.approx(expected[0])
    episode = searchgym.rollout(env, lambda observation, info: "<answer>答案是北京</answer>", episodes=1)[0]
    assert rescore(episode) == episode.outcome
    assert pickle.loads(pickle.dumps(searchgym.open_corpus(spec))).segmentation == segmentation  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="segmentation is 'words': use one of characters, spaces"):
        searchgym.open_corpus({**spec, "segmentation": "words"})


@pytest.mark.parametrize("answer", ["Paris", "the city of Paris", "", "yes", "東京", "word " * 300])
def test_all_scores_at_once_are_those_one_by_one(answer: str) -> None:
    for golds in (["Paris"], ["yes", "Paris"], ["東京都", "word"]):
        for segmentation in SEGMENTATIONS:
            for _ in range(2):  # computed, and kept
                scores = score_answer(answer, golds, segmentation)
                assert scores.em == exact_match(answer, golds)
                assert scores.f1 == f1(answer, golds, segmentation)
                assert scores.sub_em == sub_exact_match(answer, golds, segmentation)
