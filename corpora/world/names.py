"""The names of entities: a bijection, except for intended homonyms.

Types with the same kind of names form a pool (books, films and bands; towns and ships; people). Entity q of a pool can be
paired with entity q + half, of another type or profession; a known share of these pairs has one name. The name of any
other entity is the image of its own number under a permutation, hence unique.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .arithmetic import AffinePermutation, GridPermutation, hash64, key
from .schema import INDUSTRIES, PROFESSIONS
from .words import (
    ADJECTIVES,
    GIVEN_NAMES,
    NOUNS,
    PLACE_HEADS,
    PLACE_TAILS,
    SURNAME_HEADS,
    SURNAME_TAILS,
    THEME_FIGURES,
    THEME_SUBJECTS,
)

__all__ = ["POOLS", "Names", "Themes"]

POOLS: dict[str, tuple[str, ...]] = {
    "people": ("person",),
    "titles": ("book", "film", "band"),
    "places": ("town", "ship"),
}
"""Types that may share names with each other."""

_FEATURES = ("county", "river", "mountain", "railway", "newspaper")
"""Types named after places. Each place name is used for at most one of them, so that a town's name, used as a query,
matches at most one such page."""

_SHAPES = {
    "county": ("{} County",),
    "river": ("River {}",),
    "mountain": ("Mount {}",),
    "railway": ("{} Railway",),
    "school": ("{} College", "{} Academy", "{} School"),
    "prize": ("{} Prize",),
    "museum": ("{} Museum",),
    "newspaper": ("{} Herald", "{} Gazette"),
    "company": tuple(f"{{}} {trade}" for trade in INDUSTRIES),
}
_PLACES = len(PLACE_HEADS) * len(PLACE_TAILS)
_SURNAMES = len(SURNAME_HEADS) * len(SURNAME_TAILS)


def _place(i: int) -> str:
    head, tail = divmod(i, len(PLACE_TAILS))
    return PLACE_HEADS[head] + PLACE_TAILS[tail]


def _surname(i: int) -> str:
    head, tail = divmod(i, len(SURNAME_TAILS))
    return SURNAME_HEADS[head] + SURNAME_TAILS[tail]


class _Glued:
    """Names of one or more compound words from one list; as few words as the world allows."""

    def __init__(self, needed: int, words: int, seed: int) -> None:
        self._words = words
        self._more = 0
        while self._capacity() < needed * 5 // 4:
            self._more += 1
        if self._more:
            sides = (self._capacity() // words, words)
        else:  # a grid looks random only if neither side is small
            side = max(d for d in range(1, 60) if words % d == 0)
            sides = (words // side, side)
        self._permutation = GridPermutation(*sides, seed)

    def _capacity(self) -> int:
        more: int = (self._words - 1) ** self._more
        return self._words * more

    def __call__(self, slot: int) -> list[int]:
        value, word = divmod(self._permutation(slot), self._words)
        found = [word]
        for _ in range(self._more):
            value, step = divmod(value, self._words - 1)
            word = (word + 1 + step) % self._words  # any word except the previous one
            found.append(word)
        return found


class _People:
    """Given name and surname, from a grid about six times as large as necessary, so that parts recur."""

    def __init__(self, needed: int, seed: int) -> None:
        given = len(GIVEN_NAMES)
        self._middle = needed > given * _SURNAMES * 3 // 5
        firsts = given * (given - 1) if self._middle else given
        surnames = min(_SURNAMES, max(40, 6 * needed // firsts))
        self._surnames = AffinePermutation(_SURNAMES, seed)
        self._grid = GridPermutation(firsts, surnames, seed)
        self._width = surnames

    def __call__(self, slot: int) -> str:
        first, last = divmod(self._grid(slot), self._width)
        surname = _surname(self._surnames(last))
        if not self._middle:
            return f"{GIVEN_NAMES[first]} {surname}"
        one, step = divmod(first, len(GIVEN_NAMES) - 1)
        two = (one + 1 + step) % len(GIVEN_NAMES)
        return f"{GIVEN_NAMES[one]} {GIVEN_NAMES[two]} {surname}"


class _Titles:
    """ "Copper Lantern"; in large worlds "Copper Lantern of Oldmoor"."""

    def __init__(self, needed: int, seed: int) -> None:
        self._nouns, self._pairs = len(NOUNS), len(ADJECTIVES) * len(NOUNS)
        self._places = 0
        while self._pairs * _PLACES**self._places < needed * 5 // 4:
            self._places += 1
        places: int = _PLACES**self._places
        a, b = (places, self._pairs) if self._places else (len(ADJECTIVES), self._nouns)
        self._grid = GridPermutation(a, b, seed)

    def __call__(self, slot: int) -> str:
        places, pair = divmod(self._grid(slot), self._pairs)
        adjective, noun = divmod(pair, self._nouns)
        title = f"{ADJECTIVES[adjective]} {NOUNS[noun]}"
        words = []
        for _ in range(self._places):
            places, place = divmod(places, _PLACES)
            words.append(_place(place))
        return f"{title} of {' '.join(words)}" if words else title


class Names:
    """Names of a world.

    Args:
        counts: number of entities per type.
        seed: the world's seed.
        homonyms: share of the possible pairs that have one name, 0 to 1.
    """

    def __init__(self, counts: Mapping[str, int], seed: int, homonyms: float) -> None:
        self._seed = hash64(seed, key("names"))
        self._threshold = int(homonyms * 2**64)
        self._counts = counts
        self._pool_of = {t: pool for pool, types in POOLS.items() for t in types}
        self._start: dict[str, int] = {}
        self._size: dict[str, int] = {}
        self._half: dict[str, int] = {}
        for pool, types in POOLS.items():
            size = 0
            for t in types:
                self._start[t] = size
                size += counts[t]
            half = size // 2
            if pool == "people" and half % len(PROFESSIONS) == 0:
                half -= 7  # otherwise both entities of every pair would have the same profession
            self._size[pool], self._half[pool] = size, half
        self._people = _People(self._size["people"], self._seed)
        self._titles = _Titles(self._size["titles"], self._seed)
        features = 0
        self._feature_start: dict[str, int] = {}
        for t in _FEATURES:
            self._feature_start[t] = features
            features += counts[t]
        self._features = _Glued(features, _PLACES, hash64(self._seed, key("features")))
        self._towns = _Glued(self._size["places"], _PLACES, hash64(self._seed, key("places")))
        self._founders = {
            t: _Glued(counts[t], _SURNAMES, hash64(self._seed, key(t))) for t in _SHAPES if t not in _FEATURES
        }

    def _qualifier(self, pool: str, q: int) -> str:
        if pool == "people":
            return PROFESSIONS[q % len(PROFESSIONS)]
        return next(t for t in reversed(POOLS[pool]) if q >= self._start[t])

    def partner(self, type_: str, rank: int) -> tuple[str, int] | None:
        """Type and rank of the entity with the same name; None if there is none."""
        pool = self._pool_of.get(type_)
        if pool is None:
            return None
        q, half = self._start[type_] + rank, self._half[pool]
        lower, other = (q, q + half) if q < half else (q - half, q - half)
        if q >= 2 * half or hash64(self._seed, key(pool), lower) >= self._threshold:
            return None
        if self._qualifier(pool, lower) == self._qualifier(pool, lower + half):
            return None
        found = next(t for t in reversed(POOLS[pool]) if other >= self._start[t])
        return found, other - self._start[found]

    def name(self, type_: str, rank: int) -> tuple[str, bool]:
        """The entity's name without qualifier, and whether another entity has it too."""
        shapes = _SHAPES.get(type_)
        if shapes is not None:
            shape = shapes[rank % len(shapes)]
            if type_ in _FEATURES:
                words = map(_place, self._features(self._feature_start[type_] + rank))
            else:
                words = map(_surname, self._founders[type_](rank))
            return shape.format(" ".join(words)), False
        partner = self.partner(type_, rank)
        pool = self._pool_of[type_]
        slot = self._start[type_] + rank
        if partner is not None:
            slot = min(slot, self._start[partner[0]] + partner[1])
        if pool == "people":
            return self._people(slot), partner is not None
        if pool == "titles":
            return self._titles(slot), partner is not None
        return " ".join(map(_place, self._towns(slot))), partner is not None


class Themes:
    """The figure and the event that a book, film or town legend is about; unique within the type.

    Two words ("ferryman", "eclipse") in worlds up to about 8,000 passages, more in larger ones.
    """

    def __init__(self, needed: int, seed: int) -> None:
        self._lists: list[tuple[str, ...]] = [THEME_FIGURES, THEME_SUBJECTS]
        for more in (ADJECTIVES, NOUNS):
            if self._capacity() < needed * 9 // 8:
                self._lists.append(tuple(word.lower() for word in more))
        side = len(THEME_FIGURES)
        self._grid = GridPermutation(self._capacity() // side, side, seed)

    def _capacity(self) -> int:
        product = 1
        for words in self._lists:
            product *= len(words)
        return product

    def __call__(self, rank: int) -> tuple[str, ...]:
        value, words = self._grid(rank), []
        for choices in self._lists:
            value, digit = divmod(value, len(choices))
            words.append(choices[digit])
        return tuple(words)

    def rank(self, words: Sequence[str]) -> int:
        """The inverse: the rank of the entity with this theme."""
        value = 0
        for choices, word in reversed(list(zip(self._lists, words, strict=True))):
            value = value * len(choices) + choices.index(word)
        return self._grid.inverse(value)
