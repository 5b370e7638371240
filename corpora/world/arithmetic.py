"""Integer arithmetic that replaces random numbers: everything in a world is a pure function of counters.

It uses no generator state, no Python `hash` and no numpy, and gives the same integers on every platform, for any entity,
in any order. Mixing follows splitmix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

from math import gcd

__all__ = ["AffinePermutation", "GridPermutation", "Grouping", "hash64", "hash64_each", "key"]

_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15


def hash64(*values: int) -> int:
    """A 64-bit hash of a sequence of integers; equal on every platform."""
    h = 0
    for value in values:
        h = (h + value * 0xD1342543DE82EF95 + _GOLDEN) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        h ^= h >> 31
    return h


def hash64_each(value: int, start: int, stop: int) -> list[int]:
    """`hash64(value, i)` for every `i` from `start` to `stop - 1`, in a third of the time."""
    first, hashes = hash64(value), []
    for i in range(start, stop):
        h = (first + i * 0xD1342543DE82EF95 + _GOLDEN) & _MASK
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
        hashes.append(h ^ (h >> 31))
    return hashes


def key(name: str) -> int:
    """A 64-bit number for a name (FNV-1a over UTF-8), to distinguish streams of numbers."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & _MASK
    return h


class AffinePermutation:
    """A permutation of `range(n)`, `x -> (a x + b) mod n`, with its inverse: cheap, and visibly regular."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        a = hash64(seed, n) % n or 1
        while gcd(a, n) != 1:
            a = a % n + 1
        self._a, self._b = a, hash64(seed, n, 1) % n
        self._inverse_a = pow(a, -1, n) if n > 1 else 0

    def __call__(self, x: int) -> int:
        return (self._a * x + self._b) % self.n

    def inverse(self, y: int) -> int:
        """The `x` with `self(x) == y`."""
        return (y - self._b) * self._inverse_a % self.n


class GridPermutation:
    """A permutation of `range(a * b)` that looks random: a Feistel network on the pair (x // b, x % b).

    Each round adds a hash of one half to the other, modulo that half's own size, so that the domain is exactly
    a * b and no value is skipped.
    """

    def __init__(self, a: int, b: int, seed: int, rounds: int = 4) -> None:
        self.n = a * b
        self._a, self._b, self._seed, self._rounds = a, b, seed, rounds

    def __call__(self, x: int) -> int:
        left, right = divmod(x, self._b)
        for i in range(self._rounds):
            left = (left + hash64(self._seed, i, right)) % self._a
            right = (right + hash64(self._seed, i, left, 1)) % self._b
        return left * self._b + right

    def inverse(self, y: int) -> int:
        """The `x` with `self(x) == y`."""
        left, right = divmod(y, self._b)
        for i in reversed(range(self._rounds)):
            right = (right - hash64(self._seed, i, left, 1)) % self._b
            left = (left - hash64(self._seed, i, right)) % self._a
        return left * self._b + right


class Grouping:
    """Assigns a few items to each hub, so that both directions are arithmetic: `hub -> items` and `item -> hub`.

    Items and hubs are divided into the same number of blocks (about 16 hubs each) in their own order, so that an item's
    hub is near it in time if both are ordered by time. Within a block, an affine permutation assigns the items. Each hub
    gets `per - 1` or `per` items as long as there are items left; some items get no hub.

    Args:
        items: number of items.
        hubs: number of hubs.
        per: items per hub at most.
        seed: seed of the permutations.
    """

    HUBS_PER_BLOCK = 16

    def __init__(self, items: int, hubs: int, per: int, seed: int) -> None:
        self.items, self.hubs, self.per, self._seed = items, hubs, per, seed
        self._blocks = max(1, min(hubs // self.HUBS_PER_BLOCK, items))

    def _block(self, n: int, block: int) -> tuple[int, int]:
        return block * n // self._blocks, (block + 1) * n // self._blocks

    def _permutation(self, block: int, width: int) -> AffinePermutation:
        return AffinePermutation(width, hash64(self._seed, block))

    def _dropped(self, hub: int, place: int) -> bool:
        return place == self.per - 1 and hash64(self._seed, hub, 7) % 2 == 0

    def hub(self, item: int) -> int | None:
        """The hub of an item; None if it has none."""
        block = ((item + 1) * self._blocks - 1) // self.items
        start, stop = self._block(self.items, block)
        first, last = self._block(self.hubs, block)
        offset, place = divmod(self._permutation(block, stop - start)(item - start), self.per)
        hub = first + offset
        return hub if hub < last and not self._dropped(hub, place) else None

    def members(self, hub: int) -> list[int]:
        """The items of a hub, in the order of assignment."""
        block = ((hub + 1) * self._blocks - 1) // self.hubs
        start, stop = self._block(self.items, block)
        first, _ = self._block(self.hubs, block)
        permutation = self._permutation(block, stop - start)
        slots = range((hub - first) * self.per, min((hub - first + 1) * self.per, stop - start))
        return [
            start + permutation.inverse(slot) for slot in slots if not self._dropped(hub, slot % self.per)
        ]
