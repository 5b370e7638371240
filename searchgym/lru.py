"""One bounded cache for everything that is looked up often: query vectors, answers, index terms, passages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["LRUCache"]

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(dict[K, V]):
    """A bounded cache that forgets what has not been used for longest, and reads at the speed of a dict.

    There are two generations, each half the capacity. `cache[key]` first reads the younger one, which is the dict
    itself; what it finds in the older one it moves to the younger. When the younger is full, it becomes the older
    and the previous older one is dropped. So the entries that were used most recently, up to half the capacity, are
    always kept, and nothing has to be reordered when an entry is read.

    `cache[key]` raises KeyError for an entry that is not kept; `find` returns None instead. Add entries with `put`
    only. Threads may share a cache without a lock (which a forked worker could inherit held): a race may lose an
    entry, which is then computed again.

    Args:
        capacity: the total weight of all entries. An entry heavier than half of it is not kept.
        weigh: the weight of an entry, called with key and value; None counts entries.
    """

    __slots__ = ("_half", "_older", "_used", "_weigh")

    def __init__(self, capacity: int, weigh: Callable[[K, V], int] | None = None) -> None:
        super().__init__()
        self._half = (capacity + 1) // 2
        self._weigh = weigh
        self._older: dict[K, V] = {}
        self._used = 0

    def __missing__(self, key: K) -> V:
        value = self._older[key]
        self.put(key, value)
        return value

    def find(self, key: K) -> V | None:
        """The value of a key; None if it is not kept."""
        try:
            return self[key]
        except KeyError:
            return None

    def put(self, key: K, value: V) -> None:
        """Keep an entry."""
        weight = 1 if self._weigh is None else self._weigh(key, value)
        if weight > self._half:
            return
        if self._used + weight > self._half:
            # Reset first: otherwise another thread still sees a full generation and replaces the older one with the empty one.
            self._used = 0
            self._older = dict(self)
            self.clear()
        self[key] = value
        self._used += weight
