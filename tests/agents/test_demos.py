"""Demonstrations are what the real environment would show and accept; names in them are renamed consistently."""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

import pytest

from searchgym.agents.tiny.agent import prompt_ids
from searchgym.agents.tiny.demos import (
    FLAWS,
    Demo,
    Habits,
    Library,
    Part,
    Renaming,
    build_tokenizer,
    can_demonstrate,
    demonstrate,
    encode_parts,
    flaw_of,
    lookup_drill,
    name_list,
    read_line,
)
from searchgym.agents.tiny.tokenizer import TAGS
from searchgym.corpora.world import World, name_classes
from searchgym.corpora.world.schema import PROFESSIONS, TYPES
from searchgym.dialects import TagsDialect
from searchgym.env.env import SearchEnv

WORLD: dict[str, Any] = {"name": "country-terse", "size": 1000, "seed": 7}
BAD = Habits(rate=1.0, homonym=0.5, feedback=0.2)
ANSWER = re.compile(r"<(search|answer|feedback)> (.*?) </\1>")


@cache
def library() -> Library:
    return Library(7, size=1000, questions=150)


@cache
def tokenizer():
    return build_tokenizer()


def demos(habits: Habits, count: int = 60) -> list[tuple[Any, list[Part]]]:
    questions = library().questions[:count]
    return [(q, demonstrate(q, library().search, random.Random(i), habits)) for i, q in enumerate(questions)]


# -- in the environment ---------------------------------------------------------------------------------------


def replay(env: SearchEnv, task_id: str, parts: list[Part]) -> dict[str, Any]:
    """Send a demonstration's messages; what the environment says must be what the demonstration says."""
    observation, info = env.reset(options={"task_id": task_id})
    assert observation == parts[0].text
    terminated = False
    for part in parts[1:]:
        if not part.learned:
            assert part.text == observation
            continue
        kind, argument = ANSWER.findall(part.text)[0]
        act = TagsDialect().parse(part.text, feedback=False, max_queries=1)
        assert (act.kind, *act.queries, *filter(None, [act.answer])) == (kind, argument)
        observation, _, terminated, truncated, info = env.step(part.text)
        assert not truncated
    assert terminated
    return info


def test_perfect_demonstrations_replay_in_the_environment_and_are_right():
    env = SearchEnv(corpus={**WORLD, "train": 150, "dev": 0, "test": 0})
    assert env.config.corpus.hash == library().world.hash
    assert len(library().questions) >= 60
    for question, parts in demos(Habits()):
        assert replay(env, question.id, parts)["outcome"]["em"] == 1.0


def test_flawed_demonstrations_replay_too_and_are_often_wrong():
    env = SearchEnv(corpus={**WORLD, "train": 150, "dev": 0, "test": 0})
    habits = Habits(rate=1.0, homonym=0.5)  # feedback is worded by chance here, not by the environment
    scores = [replay(env, q.id, parts)["outcome"]["em"] for q, parts in demos(habits) if len(parts) < 17]
    assert 0 < sum(scores) < 0.8 * len(scores)


def test_flaws_change_choices_and_never_copies():
    kinds = set()
    for question, parts in demos(BAD, 100):
        shown = question.text
        for i, part in enumerate(parts[1:]):
            if not part.learned:
                shown += "\n" + part.text
                continue
            for kind, argument in ANSWER.findall(part.text):
                kinds.add(kind)
                if (
                    i == 0
                ):  # a described start is looked for by its theme, the date between its words left out
                    words = iter(question.text.split())
                    assert all(word in words for word in argument.split())
                else:
                    assert argument in shown
    assert kinds == {"search", "answer", "feedback"}


def test_every_thought_names_a_line_and_what_it_says():
    for _, parts in demos(BAD, 60):
        hits: dict[str, list[tuple[str, str]]] = {}
        for part in parts[1:]:
            if not part.learned:
                if re.search(r"^\[1\]", part.text, re.MULTILINE):
                    hits = {
                        m[1]: read_line(m[2])
                        for m in re.finditer(r"^\[(\d+)\] [^\n]*\n([^\n]*)", part.text, re.MULTILINE)
                    }
                continue
            thought = part.text.partition("</think>")[0].removeprefix("<think> ").strip()
            if hits:
                rank, relation, value = thought.split(" ", 2)
                assert (relation, value) in hits[rank]


def test_flaws_depend_on_the_relation_and_all_of_them_occur():
    relations = {relation for passage in library().world.passages for relation, _ in read_line(passage.text)}
    named = {flaw_of(r, last, True) for r in relations for last in (False, True)}
    assert {f for f in named if f} <= set(FLAWS)
    assert {"stop", "slip", "overshoot", None} <= named
    assert all(flaw_of(r, True, False) in (None, "slip") for r in relations)


def test_mishaps_are_not_learned_but_what_follows_is():
    question = library().questions[0]
    for seed in range(20):
        parts = demonstrate(question, library().search, random.Random(seed), Habits(mishap=1.0))
        assert not any(part.learned for part in parts[:3])
        assert ANSWER.findall(parts[3].text) == [("search", question.chain[0].query)]
        assert parts[3].learned
        assert ANSWER.findall(parts[-1].text) == [("answer", question.answers[0])]


def test_the_round_budget_holds():
    question = max(library().questions, key=lambda q: q.hops)
    assert question.hops >= 2
    parts = demonstrate(question, library().search, random.Random(0), max_rounds=1)
    assert not any("<answer>" in part.text for part in parts)


def test_the_default_world_is_refused():
    with pytest.raises(ValueError, match="world 0 is the default world"):
        Library(0)


# -- tokens ---------------------------------------------------------------------------------------------------


def learned_runs(demo: Demo) -> list[str]:
    runs: list[list[int]] = []
    previous = 0
    for token, flag in zip(demo.tokens, demo.mask, strict=True):
        if flag and not previous:
            runs.append([])
        if flag:
            runs[-1].append(token)
        previous = flag
    return [tokenizer().decode(run) for run in runs]


def test_masks_mark_exactly_what_the_agent_wrote():
    for _, parts in demos(BAD, 40):
        demo = encode_parts(tokenizer(), parts)
        assert len(demo.tokens) == len(demo.mask)
        assert demo.tokens[0] == tokenizer().bos_id
        assert learned_runs(demo) == [part.text for part in parts if part.learned]
        unlearned = sum(len(prompt_ids(tokenizer(), p.text, first=False)) for p in parts if not p.learned)
        assert demo.mask.count(0) == 1 + unlearned


def test_drills_ask_for_what_was_shown():
    for seed in range(30):
        demo = lookup_drill(library(), random.Random(seed), tokenizer())
        text = tokenizer().decode(demo.tokens)
        shown = text.partition("</information>")[0]
        for written in learned_runs(demo):
            [(kind, value)] = ANSWER.findall(written)
            assert kind == "answer"
            assert value in shown
        names = name_list(library(), random.Random(seed), tokenizer())
        half = names.tokens[1 : 1 + (len(names.tokens) - 1) // 2]
        assert not any(names.mask[: 1 + len(half)])
        lines = tokenizer().decode(names.tokens[1:]).splitlines()
        assert sorted(lines[: len(lines) // 2]) == sorted(lines[len(lines) // 2 :])


def test_renaming_permutes_within_classes_and_leaves_everything_else():
    renaming, vocabulary = Renaming(tokenizer()), tokenizer()
    everything = Demo(list(range(vocabulary.size)), [0] * vocabulary.size)
    renamed = renaming.apply(everything, random.Random(3)).tokens
    assert sorted(renamed) == everything.tokens
    movable: set[int] = set()
    for words in name_classes():
        ids = {ids[0] for word in words if len(ids := vocabulary.encode(word)) == 1}
        assert {renamed[i] for i in ids} == ids
        assert not movable & ids
        movable |= ids
    assert sum(renamed[i] != i for i in movable) > 0.9 * len(movable)
    assert all(renamed[i] == i for i in everything.tokens if i not in movable)
    relations = {r for passage in library().world.passages for r, _ in read_line(passage.text)}
    fixed = [*relations, *PROFESSIONS, *TYPES, *TAGS, "\n[2]", "2", ";", ":", ",", "?", "(", ")"]
    assert not movable & {i for word in fixed for i in vocabulary.encode(word)}
    assert not movable & {vocabulary.pad_id, vocabulary.bos_id}


def test_renaming_is_the_same_throughout_a_demonstration_and_for_equal_seeds():
    renaming = Renaming(tokenizer())
    results = set()
    for _, parts in demos(Habits(), 20):
        demo = encode_parts(tokenizer(), parts)
        renamed = renaming.apply(demo, random.Random(5))
        assert renamed.mask == demo.mask
        pairs = set(zip(demo.tokens, renamed.tokens, strict=True))
        assert len(pairs) == len(set(demo.tokens)) == len(set(renamed.tokens))
        assert renamed == renaming.apply(demo, random.Random(5))
        assert renamed != renaming.apply(demo, random.Random(6))
        results.add(tuple(renamed.tokens))
        [(_, answer)] = ANSWER.findall(learned_runs(renamed)[-1])
        assert answer in tokenizer().decode(renamed.tokens).rpartition("</information>")[0]
    assert len(results) == 20


def test_the_vocabulary_covers_the_default_terse_world():
    world, draw = World(style="terse"), random.Random(0)
    passages = world.passages
    texts = [f"{p.title}\n{p.text}" for p in (passages[draw.randrange(len(passages))] for _ in range(300))]
    texts += [question.text for question in draw.sample(list(world.questions("train")), 200)]
    for text in texts:
        ids = tokenizer().encode(text)
        assert tokenizer().decode(ids) == text
        # "&" joins the two halves of questions of other types than those demonstrated: it alone costs a byte.
        spelled = [ids[i : i + 1] for i in range(len(ids)) if tokenizer().is_byte(ids[i])]
        assert all(tokenizer().decode(byte) == "&" for byte in spelled), text


def test_demonstrable_questions_of_the_default_world_need_no_byte():
    questions = [q for q in World(style="terse").questions("train") if can_demonstrate(q)]
    assert len(questions) >= 200
    for question in questions[:200]:
        assert not any(map(tokenizer().is_byte, tokenizer().encode(question.text))), question.text
