"""Attention of a tree of sequences in one row, path by path, for models that are run through their own forward.

Such a forward gets the tree as a mask over all positions of the row, and computes the scores of every pair of them. But the
positions that a path adds to the tree see only the path: of a row of four sequences, most pairs are masked. While a pass
runs, transformers' interface of the attention `sdpa` is replaced by one that attends path by path (`blockwise_attention`).
The mask says what is seen, as before, so sliding windows need no case of their own.

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

from .blockwise_attention import AttentionPlan, Reach, attend
from .prefix_tree import PrefixTree

__all__ = ["attention_by_paths", "attention_by_rows"]

_NAME = "sdpa"
_Attention = Callable[..., tuple[Tensor, Tensor | None]]


@contextmanager
def attention_by_paths(tree: PrefixTree) -> Iterator[None]:
    """A context in which `sdpa` attends to the paths of a tree, in this thread.

    Args:
        tree: the row; its positions are queries and keys of every pass in the context.
    """
    reaches = [
        Reach(int(columns[shared]), int(columns[-1]) + 1, torch.from_numpy(columns))
        for columns, shared in zip(tree.columns, tree.shared, strict=True)
        if len(columns) > shared
    ]
    with _attending(_Means(reaches, len(tree.ids_T))):
        yield


@contextmanager
def attention_by_rows() -> Iterator[None]:
    """A context in which `sdpa` attends row by row, in this thread, where there are several queries; for passes without gradients."""
    with _attending(_Means()):
        yield


@contextmanager
def _attending(means: _Means) -> Iterator[None]:
    outer, _current.means = getattr(_current, "means", None), means
    try:
        with _switch:
            yield
    finally:
        _current.means = outer


_current = threading.local()  # its attribute `means` is what this thread attends by


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
        means: _Means | None = getattr(_current, "means", None)
        whole = self._whole
        return whole(*args, **options) if means is None else means.attend(whole, *args, **options)


_switch = _Switch()


class _Means:
    """transformers' attention interface in which the queries of each row read the keys that they reach.

    Args:
        reaches: of a pass over one tree, each path: the positions that it adds to the row, and all its positions. None: rows
            that are prompts, in which every query may reach every key.
        length: positions of the tree's row.
    """

    def __init__(self, reaches: list[Reach] | None = None, length: int | None = None) -> None:
        self._reaches, self._length = reaches, length
        # Of each mask and number of query heads per key head a plan per row; the mask stays alive with them.
        self._plans: dict[tuple[int, int], tuple[Tensor, list[AttentionPlan]]] = {}

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
        """The attention of one layer; `whole` computes calls that are not about the whole row, or add to the scores."""
        rows, _, queries, _ = query.shape
        shape = (rows, 1, queries, key.shape[2])
        ours = self._length is None or shape == (1, 1, self._length, self._length)
        if attention_mask is None or attention_mask.shape != shape or not ours or not _plain(options):
            return whole(module, query, key, value, attention_mask, **options)
        groups = query.shape[1] // key.shape[1]
        made = self._plans.get((id(attention_mask), groups))
        if made is None:
            reaches = self._reaches or [Reach(0, queries, torch.arange(key.shape[2]))]
            plans = [AttentionPlan(reaches, mask[0], groups) for mask in attention_mask]
            self._plans[id(attention_mask), groups] = made = attention_mask, plans
        scaling = _scaling(query, options)
        mixed = [
            attend(query[i : i + 1], key[i : i + 1], value[i : i + 1], plan, scaling)
            for i, plan in enumerate(made[1])
        ]
        return torch.cat(mixed) if rows > 1 else mixed[0], None


def _plain(options: dict[str, Any]) -> bool:
    """Whether scores are products and a mask only."""
    return options.get("position_bias") is None and not options.get("dropout")


def _scaling(query: Tensor, options: dict[str, Any]) -> float:
    scaling = options.get("scaling")
    return query.shape[-1] ** -0.5 if scaling is None else float(scaling)
