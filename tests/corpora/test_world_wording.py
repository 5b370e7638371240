"""Both renderings of the generated world say what the facts say, nothing else, and say it well."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import Stemmer

from searchgym.corpora.bm25.analyzer import STOP_WORDS
from searchgym.corpora.world import RELATIONS, TYPES, Country, Entity, terse_pieces, terse_vocabulary, words
from searchgym.corpora.world.facts import Statement
from searchgym.corpora.world.prose import Prose
from searchgym.corpora.world.schema import relations_of
from searchgym.corpora.world.terse import Terse
from searchgym.corpora.world.wordings import wordings

ASKS, COMPARES, FOUND = wordings("questions"), wordings("comparisons"), wordings("constraints")
MEASURES, NOUNS, OBSCURED = wordings("measures"), wordings("noun_phrases"), wordings("descriptions")
ALIASES, LEADS, SENTENCES, COLOUR = map(wordings, ("aliases", "leads", "sentences", "colour"))

_GLUED = [  # every surname and every place name
    *(head + tail for head in words.SURNAME_HEADS for tail in words.SURNAME_TAILS),
    *(head + tail for head in words.PLACE_HEADS for tail in words.PLACE_TAILS),
]
_GLUED_WORD = re.compile(
    rf"\b(?:(?:{'|'.join(words.SURNAME_HEADS)})(?:{'|'.join(words.SURNAME_TAILS)})"
    rf"|(?:{'|'.join(words.PLACE_HEADS)})(?:{'|'.join(words.PLACE_TAILS)}))\b"
)


@pytest.fixture(scope="module")
def country() -> Country:
    return Country()


@pytest.fixture(scope="module")
def entities(country: Country) -> list[Entity]:
    return [country.entity(i) for i in range(country.size)]


@pytest.fixture(scope="module")
def prose(country: Country, entities: list[Entity]) -> list[str]:
    style = Prose(country)
    return [style.text(entity) for entity in entities]


@pytest.fixture(scope="module")
def terse(country: Country, entities: list[Entity]) -> list[str]:
    style = Terse(country)
    return [style.text(entity) for entity in entities]


# -- terse --------------------------------------------------------------------------------------------------


def _match(pieces: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(pieces, key=len, reverse=True))))


def test_the_terse_vocabulary_is_small_and_covers_everything(
    entities: list[Entity], terse: list[str]
) -> None:
    vocabulary = terse_vocabulary()
    assert len(vocabulary) <= 600
    assert len(set(vocabulary)) == len(vocabulary)
    match = _match(vocabulary)
    used: Counter[str] = Counter()
    for entity, text in zip(entities, terse, strict=True):
        line = f"{entity.title} {text}"
        found = match.findall(line)
        assert "".join(found) == line.replace(" ", "")
        used.update(found)
    assert len(used) > 0.9 * len(vocabulary)  # the rest are rare numbers and what only questions use


def test_terse_lines_are_short(terse: list[str]) -> None:
    match = _match(terse_vocabulary())
    lengths = sorted(len(match.findall(text)) for text in terse)
    assert lengths[0] >= 10
    assert lengths[len(lengths) // 2] <= 25
    assert lengths[len(lengths) * 9 // 10] <= 28
    assert lengths[-1] <= 40


def test_greedy_matching_finds_the_parts_of_names() -> None:
    match = _match(terse_vocabulary())
    pieces = terse_pieces()
    for name in _GLUED:
        head, tail = match.findall(name)
        assert head in pieces["heads"]
        assert tail in pieces["tails"]
    for word in (*pieces["words"], *pieces["names"], *pieces["numbers"]):
        assert match.findall(word) == [word]
    assert match.findall("1947") == ["19", "47"]
    assert match.findall("160000s") == ["16", "00", "00", "s"]


def test_no_two_words_look_alike_to_the_index() -> None:
    # A stemmer that merges two names would make both pages answer one query.
    stem = Stemmer.Stemmer("porter").stemWord
    whole = {*_GLUED, *words.GIVEN_NAMES, *words.ADJECTIVES, *words.NOUNS, *words.THEME_FIGURES}
    whole |= set(words.THEME_SUBJECTS) | set(TYPES)
    lower = {word.lower() for word in whole}
    assert not lower & STOP_WORDS
    assert len({stem(word) for word in lower}) == len(lower)
    assert len(set(_GLUED)) == len(_GLUED)


def _parse(line: str, index_of: dict[str, int], entity: Entity) -> list[Statement]:
    """Read a terse line back, knowing titles only."""
    parts = line.split(" ; ")
    assert parts[0] == f"{entity.name} is {entity.qualifier}"
    statements: list[Statement] = []
    for part in parts[1:]:
        relation, _, text = part.partition(" ")
        if RELATIONS[entity.type, relation].target == "theme":
            statements.append((entity.index, relation, tuple(text.split())))
        elif text.isdecimal():
            statements.append((entity.index, relation, int(text)))
        else:
            for title in text.split(" , "):
                one, two = entity.index, index_of[title]
                if RELATIONS[entity.type, relation].symmetric and two < one:
                    one, two = two, one
                statements.append((one, relation, two))
    return statements


def test_terse_lines_can_be_read_back(country: Country, entities: list[Entity], terse: list[str]) -> None:
    index_of = {entity.title: entity.index for entity in entities}
    for entity, line in zip(entities, terse, strict=True):
        assert _parse(line, index_of, entity) == country.statements(entity)


# -- the encyclopedia ---------------------------------------------------------------------------------------


def _wordings(entity: Entity, relation: str) -> tuple[str, ...]:
    return SENTENCES.get(f"{entity.role}.{relation}") or SENTENCES[f"{entity.type}.{relation}"]


def test_there_are_many_ways_to_say_each_fact(entities: list[Entity]) -> None:
    for entity in entities[::3]:
        for spec in relations_of(entity.type, entity.role):
            assert len(set(_wordings(entity, spec.name))) >= 5
    assert set(LEADS) == set(COLOUR) == set(TYPES)
    assert all(len(set(leads)) >= 5 for leads in LEADS.values())
    assert all(len(set(lines)) >= 5 for lines in COLOUR.values())
    assert all(len(set(lines)) >= 3 for lines in ALIASES.values())
    for (type_, name), spec in RELATIONS.items():
        if spec.many or spec.prose_only or spec.target == "theme":
            continue
        assert len(set(ASKS[f"{type_}.{name}"])) >= 3
        if not (spec.literal or spec.symmetric):
            nouns = NOUNS[f"{type_}.{name}"]
            assert len(set(nouns)) >= 3
            assert any(noun.endswith("{x}") for noun in nouns)
    for table in (COMPARES, FOUND, MEASURES, OBSCURED):
        assert all(len(set(lines)) >= 3 for lines in table.values())


def test_passages_have_20_to_100_words(prose: list[str]) -> None:
    lengths = sorted(len(text.split()) for text in prose)
    assert lengths[0] >= 20
    assert lengths[-1] <= 100
    assert 30 <= lengths[len(lengths) // 2] <= 50


def test_passages_are_well_formed(entities: list[Entity], prose: list[str]) -> None:
    bad = re.compile(
        r"[{}]|  | [,.]|\.\.|,,"  # unfilled fields, stray spaces and stops
        r"|\ba [aeiou]|\ban [^aeiouh]|\bA [aeiou]"  # articles
        r"|\b(\w+) \1\b"  # doubled words
        r"|[.] [a-z]|[^.]$|^[a-z]"  # sentences start with a capital and end with a stop
        r"|\b(?:3[2-9]|30 February|31 (?:April|June|September|November)) \b"  # impossible dates
    )
    for entity, text in zip(entities, prose, strict=True):
        found = bad.search(text)
        # Numbers such as "35 kilometres" are not dates.
        assert found is None or found.group().strip().isdecimal(), (entity.title, found, text)


def test_passages_say_what_the_facts_say(country: Country, entities: list[Entity], prose: list[str]) -> None:
    style = Prose(country)
    for entity, text in zip(entities, prose, strict=True):
        assert entity.name in text
        for spec, value in country.facts(entity):
            for item in value if isinstance(value, list) else [value]:
                assert style.bridge(spec, item) in text, (entity.title, spec.name, text)


def test_passages_name_nobody_else(country: Country, entities: list[Entity], prose: list[str]) -> None:
    parts = _GLUED_WORD
    for entity, text in zip(entities, prose, strict=True):
        allowed = set(parts.findall(entity.name))
        for _, value in country.facts(entity):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Entity):
                    allowed |= set(parts.findall(item.name))
        assert set(parts.findall(text)) <= allowed, (entity.title, text)


def test_homonyms_carry_their_qualifier(country: Country, entities: list[Entity], prose: list[str]) -> None:
    seen = 0
    for entity, text in zip(entities, prose, strict=True):
        for _, value in country.facts(entity):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Entity) and item.homonym:
                    assert f"{item.qualifier} {item.name}" in text
                    seen += 1
    assert seen > 500


def test_wording_varies(entities: list[Entity], prose: list[str]) -> None:
    # Replace what is particular to a page; what remains must not be one mould for all.
    particular = re.compile(rf"{_GLUED_WORD.pattern}|\b(?:{'|'.join(words.GIVEN_NAMES)})\b|\d[\d,]*")
    for type_ in TYPES:
        moulds = Counter(
            particular.sub("*", text)
            for entity, text in zip(entities, prose, strict=True)
            if entity.type == type_
        )
        assert max(moulds.values()) <= 0.03 * sum(moulds.values()) + 1, moulds.most_common(1)


@pytest.mark.parametrize("size", [20_000, 1_000_000, 10_000_000])
def test_larger_worlds_are_well_formed_too(size: int) -> None:
    country = Country(size)
    styles = Prose(country), Terse(country)
    for position in range(0, size, size // 150):
        entity = country.at(position)
        text, line = (style.text(entity) for style in styles)
        assert 20 <= len(text.split()) <= 100
        assert "{" not in text
        assert re.search(r"\ba [aeiou]|\b(\w+) \1\b", text) is None
        assert line.startswith(f"{entity.name} is {entity.qualifier} ; ")
