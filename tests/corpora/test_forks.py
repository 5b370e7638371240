"""Forks: deterministic, disjoint, solvable from the gold pages alone, and validated."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any

import gymnasium as gym
import preloaded
import pytest
from gymnasium.utils.env_checker import check_env

import searchgym
from searchgym.agents.tiny.demos import build_tokenizer
from searchgym.corpora.bm25.index import BM25
from searchgym.corpora.forks import FAMILIES, Forks
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.judges.oracle import OracleJudge
from searchgym.rollouts.collection import rollout

EXTREMES = [
    (family, {name: getattr(p, end) for name, p in declared.parameters.items()})
    for family, declared in FAMILIES.items()
    for end in ("low", "high")
]
SMALL = {"train": 6, "dev": 4, "test": 4}


@lru_cache
def forks(family: str = "all", style: str = "terse", seed: int = 0) -> Forks:
    return Forks(family, seed=seed, style=style, train=16, dev=8, test=8)


def links(corpus: Forks, question: searchgym.Question) -> dict[str, set[str]]:
    """Page -> the pages of this corpus that its text names."""
    titles = {p.title: p for p in corpus.passages}
    texts = {p.id: p.text for p in corpus.passages}
    return {
        page: {title for title in titles if title in texts[id_]}
        for page, id_ in question.metadata["pages"].items()
    }


def test_a_corpus_is_a_function_of_its_arguments() -> None:
    code = "from searchgym.corpora.forks import Forks; print(Forks(train=16, dev=8, test=8).hash)"
    other = preloaded.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == forks().hash
    assert forks(seed=1).hash != forks().hash
    assert forks(style="natural").hash != forks().hash


def test_more_questions_leave_the_others_as_they_are() -> None:
    more = Forks("trap", train=30, dev=8, test=8)
    assert list(more.questions("train"))[:16] == list(forks("trap").questions("train"))
    assert list(more.questions("dev")) == list(forks("trap").questions("dev"))


def test_questions_share_no_name() -> None:
    titles = [p.title for p in forks().passages]
    assert len(titles) == len(set(titles))
    owned = [
        set(question.metadata["pages"].values())
        for split in forks().splits
        for question in forks().questions(split)
    ]
    assert sum(map(len, owned)) == len(set().union(*owned)) == len(titles)


@pytest.mark.parametrize("style", ["terse", "natural"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pages_name_only_pages_of_their_own_question(family: str, style: str) -> None:
    corpus = forks(family, style)
    names = {p.id: p.title for p in corpus.passages}
    for question in corpus.questions("dev")[:4]:
        own = {names[id_] for id_ in question.metadata["pages"].values()}
        for named in links(corpus, question).values():
            assert named <= own


@pytest.mark.parametrize("family", FAMILIES)
def test_renderings_ask_the_same(family: str) -> None:
    terse, natural = (forks(family, style).questions("test") for style in ("terse", "natural"))
    for one, two in zip(terse, natural, strict=True):
        assert (one.id, one.answers, one.supporting_ids) == (two.id, two.answers, two.supporting_ids)
        assert one.text != two.text


@pytest.mark.parametrize("style", ["terse", "natural"])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_pages_meant_to_state_the_answer(family: str, style: str) -> None:
    corpus = forks(family, style)
    texts = {p.id: p.text for p in corpus.passages}
    for question in corpus.questions("dev"):
        (answer,) = question.answers
        stating = {
            page
            for page, id_ in question.metadata["pages"].items()
            if re.search(rf"\b{answer}\b", texts[id_])
        }
        last = next(p for p, id_ in question.metadata["pages"].items() if id_ == question.supporting_ids[-1])
        assert last in stating
        assert all(page.startswith("long") for page in stating - {last})
        assert (answer in question.text) == (family == "guess" and answer in question.text)


@pytest.mark.parametrize("style", ["terse", "natural"])
@pytest.mark.parametrize(("family", "parameters"), EXTREMES)
def test_the_oracle_solves_every_question_at_both_ends(
    family: str, parameters: dict[str, Any], style: str
) -> None:
    corpus = Forks(family, parameters, style=style, **SMALL)
    for agent in ("oracle", "gold"):
        episodes = [
            episode
            for split, count in SMALL.items()
            for episode in rollout(
                "SearchQA-Forks-v0",
                agent,
                episodes=count,
                split=split,
                corpus=corpus,
                reveal_gold=True,
            )
        ]
        assert all(episode.outcome.em == 1.0 for episode in episodes)


@pytest.mark.parametrize("style", ["terse", "natural"])
def test_every_page_is_found_by_its_title(style: str) -> None:
    corpus = Forks(style=style)
    index = BM25.build(corpus, b=0.0)
    titles = [p.title for p in corpus.passages]
    for title, hits in zip(titles, index.search(titles, 1), strict=True):
        assert not isinstance(hits, Exception)
        assert hits[0].title == title


def test_every_text_is_made_of_the_tiny_models_pieces() -> None:
    tokenizer = build_tokenizer()
    for passage in forks().passages[:100]:
        assert tokenizer.decode(tokenizer.encode(passage.text)).split() == passage.text.split()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_shares_hold_in_every_prefix(share: float) -> None:
    guess = Forks("guess", {"guess": share}, train=30, dev=0, test=0).questions("train")
    suggested = [q.answers[0] in q.text for q in guess]
    trap = Forks("trap", {"recovery": share}, train=30, dev=0, test=0)
    texts = {p.id: p.text for p in trap.passages}
    names = {p.id: p.title for p in trap.passages}
    ways_back = [
        names[q.metadata["pages"]["middle"]] in texts[q.metadata["pages"]["trap0"]]
        for q in trap.questions("train")
    ]
    for n in range(1, 31):
        assert sum(suggested[:n]) == sum(ways_back[:n]) == int(share * n + 1e-9)


def test_the_oracle_judge_counts_the_gold_pages() -> None:
    episodes = rollout(
        "SearchQA-Forks-v0", "oracle", episodes=8, corpus=forks(), reveal_gold=True, judge="oracle"
    )
    for episode in episodes:
        assert [r.judge.utility for r in episode.rounds] == [1.0] * (len(episode.rounds) - 1) + [0.0]
    assert OracleJudge.name == "oracle"


def test_the_id_takes_families_as_types_or_with_parameters() -> None:
    env = gym.make("searchgym:SearchQA-Forks-v0", types=["routes"])
    assert all(q.type == "routes" for q in env.unwrapped.config.tasks("train"))
    env = gym.make("searchgym:SearchQA-Forks-v0", corpus={"name": "forks", "family": "trap", "traps": 3})
    assert env.unwrapped.config.corpus.parameters == {"trap": {"traps": 3, "recovery": 0.5}}
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize(
    ("family", "name", "value", "says"),
    [
        ("decoys", "decoys", -1, "decoys is -1: give a whole number from 0 to 9"),
        ("decoys", "decoys", 10, "decoys is 10"),
        ("decoys", "decoys", 2.0, "decoys is 2.0"),
        ("decoys", "decoys", True, "decoys is True"),
        ("idle", "idle", -1, "idle is -1"),
        ("idle", "idle", "5", "idle is '5'"),
        ("guess", "guess", 1.01, "guess is 1.01: give a number from 0 to 1"),
        ("guess", "guess", float("nan"), "guess is nan"),
        ("guess", "guess", None, "guess is None"),
        ("trap", "recovery", -0.1, "recovery is -0.1"),
        ("trap", "traps", 0, "traps is 0"),
        ("delayed", "delay", 1, "delay is 1"),
        ("delayed", "wrong", 3, "wrong is 3"),
        ("repair", "mistakes", 0, "mistakes is 0"),
        ("redundant", "copies", 9, "copies is 9"),
        ("routes", "extra", 0, "extra is 0"),
    ],
)
def test_bad_parameters_are_refused(family: str, name: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        searchgym.open_corpus({"name": "forks", "family": family, name: value})


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"family": "decoy"}, UnknownIdError, "Did you mean 'decoys'"),
        ({"family": "trap", "trap": 1}, UnknownIdError, "traps"),
        ({"family": "trap", "decoys": 1}, UnknownIdError, "parameter of the family 'trap'"),
        ({"traps": 1}, ConfigError, "family='trap'"),
        ({"size": 1000}, UnknownIdError, "option of the corpus 'forks': 'size'"),
        ({"style": "prose"}, UnknownIdError, "style"),
        ({"seed": 0.5}, ConfigError, "seed is 0.5"),
        ({"train": -1}, ConfigError, "train questions is -1"),
        ({"train": 10**6}, ConfigError, "train questions is 1000000"),
        ({"train": 0, "dev": 0, "test": 0}, ConfigError, "at least one question"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        searchgym.open_corpus({"name": "forks", **options})


def test_unknown_splits_and_tasks_are_refused() -> None:
    with pytest.raises(UnknownIdError, match="split"):
        forks().questions("trian")
    with pytest.raises(UnknownIdError, match="task id"):
        forks().question("forks-none")
    assert Forks(train=1, dev=0, test=0).splits == ("train",)
