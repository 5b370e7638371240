"""Keys and values of contexts that later contexts begin with."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from .prefix_tree import common_beginning

__all__ = ["PrefixStore"]


class PrefixStore:
    """Contexts in lexicographic order, each with its keys and values.

    Attributes:
        bytes: size of all keys and values.
    """

    def __init__(self) -> None:
        self._contexts: list[tuple[int, ...]] = []
        self._layers: list[list[Tensor]] = []
        self.bytes = 0

    def add(self, context: tuple[int, ...], layers: list[Tensor]) -> None:
        """Store a context.

        Args:
            context: its tokens.
            layers: what `KVCache.read` gives for it.
        """
        place = bisect_left(self._contexts, context)
        self._contexts.insert(place, context)
        self._layers.insert(place, layers)
        self.bytes += sum(layer.nbytes for layer in layers)

    def find(self, context: Sequence[int]) -> tuple[int, list[Tensor]]:
        """The stored context that has the longest beginning in common with a context.

        Returns:
            The number of common tokens, and its layers; (0, []) where nothing is stored.
        """
        wanted = tuple(context)
        # In lexicographic order, the context that shares most stands next to the wanted one.
        place = bisect_left(self._contexts, wanted)
        near = [i for i in (place - 1, place) if 0 <= i < len(self._contexts)]
        common, best = max(((common_beginning(self._contexts[i], wanted), i) for i in near), default=(0, -1))
        return (common, self._layers[best]) if common else (0, [])
