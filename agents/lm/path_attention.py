"""Attention of a tree of sequences in one row, path by path, for models that are run through their own forward.

Such a forward gets the tree as a mask over all positions of the row, and computes the scores of every pair of them. But the
positions that a path adds to the tree see only the path: of a row of four sequences, most pairs are masked. While a pass
runs, transformers' interface of the attention `sdpa` is replaced by one that cuts queries, keys and mask by paths. The mask
says what is seen, as before, so sliding windows need no case of their own.

Axis suffixes as in `interface`, with _H heads, _D head size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .prefix_tree import PrefixTree

__all__ = ["attention_by_paths"]

_NAME = "sdpa"
_Attention = Callable[..., tuple[Tensor, Tensor | None]]


@contextmanager
def attention_by_paths(tree: PrefixTree) -> Iterator[None]:
    """A context in which `sdpa` attends to the paths of a tree, in this thread; a tree of one path changes nothing.

    Args:
        tree: the row; its positions are queries and keys of every pass in the context.
    """
    added = [
        (int(columns[shared]), torch.from_numpy(columns))
        for columns, shared in zip(tree.columns, tree.shared, strict=True)
        if len(columns) > shared
    ]
    if len(added) < 2:
        yield
        return
    outer, _current.paths = getattr(_current, "paths", None), _Paths(added, len(tree.ids_T))
    try:
        with _switch:
            yield
    finally:
        _current.paths = outer


_current = threading.local()  # its attribute `paths` is what this thread attends by


class _Switch:
    """Puts our attention in the place of transformers' own while any thread needs it: the registry is that of the process."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._whole: _Attention

    def __enter__(self) -> None:
        registry: Any = ALL_ATTENTION_FUNCTIONS
        with self._lock:
            if not self._users:
                self._whole = registry[_NAME]
                registry[_NAME] = self._attend
            self._users += 1

    def __exit__(self, *_: object) -> None:
        registry: Any = ALL_ATTENTION_FUNCTIONS
        with self._lock:
            self._users -= 1
            if not self._users:
                registry[_NAME] = self._whole

    def _attend(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        paths: _Paths | None = getattr(_current, "paths", None)
        whole = self._whole
        return whole(*args, **options) if paths is None else paths.attend(whole, *args, **options)


_switch = _Switch()


class _Paths:
    """transformers' attention interface for one tree.

    Args:
        added: of each path the first position that it adds to the row, and all its positions.
        length: positions of the row.
    """

    def __init__(self, added: list[tuple[int, Tensor]], length: int) -> None:
        self._added, self._length = added, length
        # Of each mask its parts; it stays alive with them.
        self._masks: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def attend(
        self,
        whole: _Attention,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The attention of one layer; `whole` computes one path, and calls that are not about the whole row."""
        square = (self._length, self._length)
        whole_row = attention_mask is not None and attention_mask.shape[-2:] == square
        if attention_mask is None or not whole_row or options.get("position_bias") is not None:
            return whole(module, query, key, value, attention_mask, **options)
        if id(attention_mask) not in self._masks:
            parts = [attention_mask[..., s : int(c[-1]) + 1, :][..., c] for s, c in self._added]
            self._masks[id(attention_mask)] = attention_mask, parts
        mixed = []
        for (start, columns), mask in zip(self._added, self._masks[id(attention_mask)][1], strict=True):
            queries = query[:, :, start : int(columns[-1]) + 1]
            mixed.append(whole(module, queries, key[:, :, columns], value[:, :, columns], mask, **options)[0])
        return torch.cat(mixed, dim=1), None
