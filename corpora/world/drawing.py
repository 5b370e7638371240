"""Draws questions from the facts: a stream of plans for each kind, filtered by the guarantees of a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .arithmetic import hash64, key
from .facts import Country, Entity, Value, aliases
from .plans import Plan, Step, common, trace
from .schema import RELATIONS, TYPES, Relation, relations_of

__all__ = ["DEFAULT", "HARD", "Profile", "draw_plans"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Profile:
    """The mix of questions.

    Attributes:
        name: part of the question ids.
        shares: percent of the questions per kind.
        chain: lengths of chains; one is drawn uniformly, so that repetition is weight.
        after: numbers of relations to follow after an intersection, drawn likewise.
        obscured: numbers of relations to follow from an entity described by its theme, drawn likewise.
        bridged: percent of the comparisons that compare values on related pages.
    """

    name: str
    shares: tuple[tuple[str, int], ...]
    chain: tuple[int, ...]
    after: tuple[int, ...]
    obscured: tuple[int, ...]
    bridged: int


_SHARES = (
    ("intersection", 15),
    ("obscured", 20),
    ("comparison", 15),
    ("chain", 50),
)  # the rarest kinds first
DEFAULT = Profile("country", _SHARES, (1, 2, 2, 2, 2, 3, 3, 3, 3, 4), (0, 0, 1), (1, 2, 2, 3), 50)
HARD = Profile("country-hard", _SHARES, (3, 3, 4), (1, 2), (3, 3, 4), 100)

# Lists that the item's own page does not mention, so that both are needed.
_LIST_PAIRS = (
    (("person", "films", "actor"), ("person", "films", "screenwriter")),
    (("person", "books", "illustrator"), ("person", "books", "translator")),
    (("river", "towns", ""), ("railway", "towns", "")),
)
_WHERE = ("birthplace", "school", "spouse")
_MAX_FRUITLESS = 3_000  # draws without a new question after which a world counts as exhausted
_DECADES = {"film": "released", "book": "published"}


class _Draw:
    """A stream of choices, each a hash of a counter."""

    def __init__(self, *seed: int) -> None:
        self._seed, self._count = hash64(*seed), 0

    def below(self, n: int) -> int:
        self._count += 1
        return hash64(self._seed, self._count) % n

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]


_STEPS: dict[tuple[str, str], tuple[tuple[Relation, ...], tuple[Relation, ...]]] = {}


def _followable(entity: Entity) -> tuple[tuple[Relation, ...], tuple[Relation, ...]]:
    """The relations that a question can ask for last, and those that can lead to another page.

    A symmetric relation never leads to another page: that page states it too, so the first page would not be needed.
    """
    role = entity.role if entity.type == "person" else ""
    found = _STEPS.get((entity.type, role))
    if found is None:
        last = tuple(
            r for r in relations_of(entity.type, role) if not (r.many or r.prose_only or r.target == "theme")
        )
        found = last, tuple(r for r in last if not r.literal and not r.symmetric)
        _STEPS[entity.type, role] = found
    return found


def _random_path(country: Country, draw: _Draw, start: Entity, length: int) -> tuple[str, ...] | None:
    """A path of `length` relations from `start` that visits no entity twice; None if this draw finds none."""
    path: list[str] = []
    seen = {start.index}
    entity = start
    while len(path) < length:
        last, onward = _followable(entity)
        final = len(path) + 1 == length
        choices = last if final else onward
        if not choices:
            return None
        relation = draw.choice(choices)
        value = country.fact(entity, relation.name)
        if value is None:
            return None
        if isinstance(value, Entity):
            if value.index in seen:
                return None
            seen.add(value.index)
            entity = value
        path.append(relation.name)
    return tuple(path)


def _entity(country: Country, draw: _Draw) -> Entity:
    # Every second start is drawn by type. Otherwise two in five would be people, and one in fifty a museum.
    if draw.below(2):
        return country.entity(draw.below(country.size))
    type_ = draw.choice(tuple(TYPES))
    return country.of(type_, draw.below(country.counts[type_]))


def _draw_chain(country: Country, draw: _Draw, profile: Profile) -> Plan | None:
    start = _entity(country, draw)
    path = _random_path(country, draw, start, draw.choice(profile.chain))
    return Plan("chain", (start.index,), path=path) if path else None


def _draw_comparison(country: Country, draw: _Draw, profile: Profile) -> Plan | None:
    one = _entity(country, draw)
    two = country.of(one.type, draw.below(country.counts[one.type]))
    if one.name == two.name:
        return None
    ends, path = (one, two), ()
    if draw.below(100) < profile.bridged:
        onward = _followable(one)[1]
        if not onward:
            return None
        relation = draw.choice(onward)
        values = [country.fact(e, relation.name) for e in ends]
        if not all(isinstance(v, Entity) for v in values) or values[0] == values[1]:
            return None
        if {v.index for v in values} & {one.index, two.index}:  # type: ignore[union-attr]
            return None
        ends, path = (values[0], values[1]), (relation.name,)  # type: ignore[assignment]
    measures = [r for r in _followable(ends[0])[0] if r.literal]
    if not measures:
        return None
    relation = draw.choice(measures)
    numbers = [country.fact(e, relation.name) for e in ends]
    if numbers[0] == numbers[1]:
        return None
    # Independent of the order of the pair; otherwise the pair could be in two splits.
    low, high = sorted((one.index, two.index))
    extreme = ("least", "most")[hash64(low, high, key(relation.name), len(path)) % 2]
    return Plan("comparison", (one.index, two.index), path=path, compare=(relation.name, extreme))


def _draw_intersection(country: Country, draw: _Draw, profile: Profile) -> Plan | None:
    length = draw.choice(profile.after)
    if draw.below(3):
        one, two = draw.choice(_LIST_PAIRS)
        target = RELATIONS[one[0], one[1]].target
        item = country.of(target, draw.below(country.counts[target]))
        holders = [country.holder(item, relation, type_, role) for type_, relation, role in (one, two)]
        if None in holders:
            return None
        plan = Plan(
            "intersection",
            tuple(h.index for h in holders if h is not None),
            lists=(one[1], two[1]),
        )
        path = _random_path(country, draw, item, length)
    else:
        holder = country.of("band", draw.below(country.counts["band"]))
        members = country.fact(holder, "members")
        if not isinstance(members, list):
            return None
        item = draw.choice(members)
        relation = draw.choice(_WHERE)
        value = country.fact(item, relation)
        if not isinstance(value, Entity):
            return None
        plan = Plan("intersection", (holder.index,), ("members",), where=(relation, value.index))
        path = _random_path(country, draw, item, length + (length > 0))  # the first is on the item's own page
        if path and path[0] == relation:
            return None
    if path is None or not _unique(country, plan):
        return None
    return Plan("intersection", plan.starts, plan.lists, plan.where, path=path)


def _unique(country: Country, plan: Plan) -> bool:
    try:
        common(country, plan, [country.entity(i) for i in plan.starts])
    except ValueError:
        return False
    return True


def _draw_obscured(country: Country, draw: _Draw, profile: Profile) -> Plan | None:
    length = draw.choice(profile.obscured)
    if draw.below(5):
        type_ = draw.choice(("film", "book", "town"))
        item = country.of(type_, draw.below(country.counts[type_]))
        theme = country.fact(item, "theme")
        assert isinstance(theme, tuple)
        decade = None
        if type_ in _DECADES:
            year = country.year(item)
            assert year is not None
            decade = (_DECADES[type_], year // 10 * 10)
        plan = Plan("obscured", type=type_, theme=theme, decade=decade)
    else:
        holder = country.of("band", draw.below(country.counts["band"]))
        members = country.fact(holder, "members")
        if not isinstance(members, list):
            return None
        item = draw.choice(members)
        year = country.year(item)
        assert year is not None
        plan = Plan("obscured", (holder.index,), ("members",), decade=("born", year // 10 * 10))
        if not _unique(country, plan):
            return None
        length = max(1, length - 1)  # the holder's page is read too
    path = _random_path(country, draw, item, length)
    if not path or (plan.decade and path[0] == plan.decade[0]):
        return None
    return Plan("obscured", plan.starts, plan.lists, None, plan.type, plan.theme, plan.decade, path)


_DRAWERS: dict[str, Callable[[Country, _Draw, Profile], Plan | None]] = {
    "chain": _draw_chain,
    "comparison": _draw_comparison,
    "intersection": _draw_intersection,
    "obscured": _draw_obscured,
}


def _final_key(plan: Plan, steps: list[Step], answer: Value) -> tuple[int, str]:
    """The key that determines the split: equal for all questions with the same last (entity, relation, answer)."""
    if plan.path and plan.compare is None:
        return steps[-1].entity.index, plan.path[-1]
    assert isinstance(answer, Entity)
    if plan.where is not None:
        return answer.index, plan.where[0]
    return answer.index, plan.compare[0] if plan.compare else plan.lists[0]


def _gives_away(plan: Plan, country: Country, answer: Value) -> bool:
    """Whether the text of the question would contain an accepted answer."""
    if plan.compare is not None:
        return False
    named = [country.entity(i) for i in plan.starts]
    if plan.where is not None:
        named.append(country.entity(plan.where[1]))
    decade = [str(plan.decade[1])] if plan.decade else []
    words = " ".join([e.title for e in named] + decade).lower()
    if isinstance(answer, Entity):
        return any(alias.lower() in words for alias in (answer.name, *aliases(answer)))
    return str(answer) in words


def _split(place: int, counts: Mapping[str, int]) -> str:
    for split, n in counts.items():
        if place < n:
            return split
        place -= n
    raise AssertionError("place is below the sum of the counts")


def draw_plans(
    country: Country, profile: Profile, counts: Mapping[str, int]
) -> Iterator[tuple[str, int, Plan, list[Step], Value]]:
    """Draw the questions of a world.

    Args:
        country: the facts.
        profile: which shapes, in which mixture.
        counts: questions per split.

    Yields:
        (split, sort key, plan, gold steps, answer) of every question; sorting a split by its key mixes kinds.

    Drawing stops early if the world is too small for this many questions.
    """
    total = sum(counts.values())
    base = hash64(country.seed, country.size, key(profile.name))
    for kind, share in profile.shares:
        wanted = {split: n * share // 100 for split, n in counts.items()}
        if kind == "chain":
            for split, n in counts.items():
                wanted[split] += n - sum(n * s // 100 for _, s in profile.shares)
        seen: set[Plan] = set()
        attempts = fruitless = 0
        while any(wanted.values()):
            if fruitless == _MAX_FRUITLESS:
                return
            attempts += 1
            fruitless += 1
            number = hash64(base, key(kind), attempts)
            plan = _DRAWERS[kind](country, _Draw(number), profile)
            if not plan or plan in seen:
                continue
            seen.add(plan)
            steps, answer = trace(country, plan)
            if _gives_away(plan, country, answer):
                continue
            index, relation = _final_key(plan, steps, answer)
            split = _split(hash64(base, index, key(relation)) % total, counts)
            if wanted[split]:
                wanted[split] -= 1
                fruitless = 0
                yield split, number, plan, steps, answer
