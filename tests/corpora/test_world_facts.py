"""The facts of the generated world: complete, consistent with each other and with the calendar."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchgym.corpora.world import RELATIONS, TYPES, Country, Entity
from searchgym.errors import ConfigError, SearchGymError


@pytest.fixture(scope="module")
def country() -> Country:
    return Country()


@pytest.fixture(scope="module")
def entities(country: Country) -> list[Entity]:
    return [country.entity(i) for i in range(country.size)]


def test_the_schema_is_as_rich_as_promised() -> None:
    assert len(TYPES) >= 10
    assert sum(t.share for t in TYPES.values()) == 100
    assert len({name for _, name in RELATIONS}) >= 25
    asked = {name for (_, name), r in RELATIONS.items() if not r.prose_only}
    assert len(asked) >= 25
    assert all(name.isalpha() and name.islower() for _, name in RELATIONS)
    assert {r.type for r in RELATIONS.values()} == set(TYPES)


@pytest.mark.parametrize("size", [1_000, 1_001, 5_000, 77_777])
def test_types_fill_the_world(size: int) -> None:
    country = Country(size)
    assert sum(country.counts.values()) == size
    assert {country.entity(i).type for i in range(0, size, max(1, size // 1000))} == set(TYPES)
    for type_, offset in country.offsets.items():
        assert country.of(type_, 0).index == offset
        last = country.of(type_, country.counts[type_] - 1)
        assert (last.type, last.rank) == (type_, country.counts[type_] - 1)


def test_positions_and_entities_are_one_to_one(country: Country, entities: list[Entity]) -> None:
    assert sorted(map(country.position, entities)) == list(range(country.size))
    assert all(country.at(country.position(entity)) == entity for entity in entities[::37])


@pytest.mark.parametrize(("size", "step"), [(1_000, 1), (5_000, 1), (10_000, 1), (10_000_000, 997)])
@pytest.mark.parametrize("homonyms", [0.15, 0.40])
def test_titles_are_unique_and_names_shared_only_on_purpose(size: int, step: int, homonyms: float) -> None:
    country = Country(size, homonyms=homonyms)
    sample = [country.entity(i) for i in range(0, size, step)]
    assert len({e.title for e in sample}) == len(sample)
    unshared = [e.name for e in sample if not e.homonym]
    assert len(set(unshared)) == len(unshared)
    assert not set(unshared) & {e.name for e in sample if e.homonym}


@pytest.mark.parametrize(("homonyms", "low", "high"), [(0.15, 0.08, 0.12), (0.40, 0.22, 0.30)])
def test_a_known_share_of_entities_are_homonyms(homonyms: float, low: float, high: float) -> None:
    country = Country(homonyms=homonyms)
    shared = [e for i in range(country.size) if (e := country.entity(i)).homonym]
    assert low < len(shared) / country.size < high
    for entity in shared:
        other = country.partner(entity)
        assert other is not None
        assert other.name == entity.name
        assert other.qualifier != entity.qualifier
        assert country.partner(other) == entity
        assert entity.title == f"{entity.name} ({entity.qualifier})"


def test_many_people_differ_in_one_part_of_the_name(country: Country, entities: list[Entity]) -> None:
    names = [e.name.split() for e in entities if e.type == "person"]
    surnames = [last for _, last in names]
    assert sum(surnames.count(last) > 5 for last in surnames) > 0.9 * len(surnames)


def test_every_fact_is_of_the_declared_kind(country: Country, entities: list[Entity]) -> None:
    seen = set()
    for entity in entities:
        for spec, value in country.facts(entity):
            seen.add((spec.type, spec.name))
            assert spec.type == entity.type
            if spec.many:
                assert isinstance(value, list)
                assert value
                assert len(set(value)) == len(value)
                assert all(v.type == spec.target for v in value)
            elif spec.literal:
                assert isinstance(value, tuple if spec.target == "theme" else int)
                if spec.target == "number":
                    low, high = spec.numbers
                    assert isinstance(value, int)
                    assert low <= value <= high
            else:
                assert isinstance(value, Entity)
                assert value.type == spec.target
                assert value != entity
                if spec.role:
                    assert value.role == (entity.role if spec.role == "same" else spec.role)
    assert seen == set(RELATIONS)


def test_everybody_has_something_to_tell(country: Country, entities: list[Entity]) -> None:
    for entity in entities:
        told = [spec for spec, _ in country.facts(entity) if not spec.prose_only]
        assert 2 <= len(told) <= 5


def test_spouses_and_lists_hold_both_ways(country: Country, entities: list[Entity]) -> None:
    married = 0
    for entity in entities:
        for spec, value in country.facts(entity):
            if spec.symmetric:
                assert isinstance(value, Entity)
                assert country.fact(value, spec.name) == entity
                married += 1
            if isinstance(value, list):
                role = entity.role if spec.only else ""
                assert all(country.holder(v, spec.name, entity.type, role) == entity for v in value)
    assert married > 300


def test_the_calendar_is_respected(country: Country, entities: list[Entity]) -> None:
    tolerance = 2  # years: ranks are rounded to a profession or trade
    for entity in entities:
        own = country.year(entity)
        for spec, value in country.facts(entity):
            if spec.name == "died":
                assert own is not None
                assert isinstance(value, int)
                assert own + 60 < value <= 2020
            if spec.name == "spouse" and isinstance(value, Entity):
                other = country.year(value)
                assert own is not None
                assert other is not None
                assert abs(own - other) <= 4
            if spec.window and isinstance(value, Entity):
                year = country.year(value)
                first, last = spec.window
                base = 0 if first > 1000 else own
                assert base is not None
                assert year is not None
                assert base + first - tolerance <= year <= base + last + tolerance


def test_themes_name_one_entity_of_a_type(country: Country, entities: list[Entity]) -> None:
    found = {}
    for entity in entities:
        if (entity.type, "theme") in RELATIONS:
            theme = country.fact(entity, "theme")
            assert isinstance(theme, tuple)
            assert (entity.type, theme) not in found
            found[entity.type, theme] = entity
            assert country.of_theme(entity.type, theme) == entity
    big = Country(10_000_000)
    for rank in range(0, big.counts["book"], 9_973):
        book = big.of("book", rank)
        theme = big.fact(book, "theme")
        assert isinstance(theme, tuple)
        assert big.of_theme("book", theme) == book


def test_another_seed_is_another_country() -> None:
    one, two = Country(1_000, seed=0), Country(1_000, seed=1)
    same = sum(one.entity(i).name == two.entity(i).name for i in range(1_000))
    assert same < 20


@pytest.mark.parametrize("size", [999, 10_000_001, -1, 5_000.0, "5000", True, None])
def test_a_bad_size_is_refused(size: object) -> None:
    with pytest.raises(ConfigError, match=r"size is .*: give a whole number from 1000 to 10000000"):
        Country(size)  # type: ignore[arg-type]


def test_other_bad_arguments_are_refused(country: Country) -> None:
    with pytest.raises(ConfigError, match="seed is '0'"):
        Country(seed="0")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="homonyms is 2"):
        Country(homonyms=2)
    with pytest.raises(SearchGymError, match=r"a town has no relation 'employer'\. It may have: county"):
        country.fact(country.of("town", 0), "employer")


def test_the_page_about_the_world_lists_every_relation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "world.md").read_text("utf-8")
    for type_ in TYPES.values():
        cells = [
            f"{r.name} → {r.target}{' (list)' if r.many else ''}{'*' if r.prose_only else ''}"
            for r in RELATIONS.values()
            if r.type == type_.name
        ]
        assert f"| {type_.name} | {type_.share} % | {', '.join(cells)} |" in page
