"""Key-value cache of running episodes: one row per episode, kept from round to round.

Axis suffixes: _R rows, _B rows of one pass, _T new positions, _K columns (positions), _H heads, _D head size, _M moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .interface import Network

__all__ = ["KVCache", "KVCacheView"]


class KVCache:
    """One buffer per layer, [2 (keys, values), rows, heads, columns, head_dim], which grows by half when it is full.

    Buffers are per layer, so that growing needs a second copy of one layer only. Each forward pass gets a view that
    says which rows and columns it writes. Columns beyond a row's length may hold stale values; they are finite and
    always masked.

    Args:
        network: the model whose keys and values are cached.
    """

    def __init__(self, network: Network) -> None:
        empty = (2, 0, network.kv_heads, 0, network.head_dim)
        self._layers = [
            torch.zeros(empty, dtype=network.dtype, device=network.device) for _ in range(network.layers)
        ]

    def reserve(self, rows: int, columns: int, most: int) -> None:
        """Grow to at least this many rows and columns and keep the contents.

        Args:
            rows: rows needed.
            columns: columns needed.
            most: columns that will ever be needed; growing ahead stops there.
        """
        _, have_rows, heads, have_columns, head_dim = self._layers[0].shape
        if rows <= have_rows and columns <= have_columns:
            return
        grown_rows = have_rows if rows <= have_rows else max(rows, have_rows * 3 // 2)
        grown_columns = have_columns
        if columns > have_columns:
            grown_columns = -(-max(columns, min(have_columns * 3 // 2, most)) // 128) * 128
        for i, old in enumerate(self._layers):
            new = old.new_empty(2, grown_rows, heads, grown_columns, head_dim)
            new[:, :have_rows, :, :have_columns] = old
            new[:, have_rows:] = 0
            new[:, :have_rows, :, have_columns:] = 0
            self._layers[i] = new

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copy the first `columns` columns of each source row to its target row, all at once.

        A row may be both source and target (a permutation), and a source may have several targets.
        """
        if sources and columns:
            device = self._layers[0].device
            source_M, target_M = (torch.tensor(rows, device=device) for rows in (sources, targets))
            for layer in self._layers:
                used = layer[..., :columns, :]
                used[:, target_M] = used[:, source_M]

    def read(self, row: int, columns: int) -> list[Tensor]:
        """A copy of the first columns of a row: one tensor per layer, [2, heads, columns, head_dim]."""
        return [layer[:, row, :, :columns].clone() for layer in self._layers]

    def write(self, row: int, layers: Sequence[Tensor], begin: int, end: int) -> None:
        """Copy columns `begin` to `end` of what `read` gave into a row.

        Args:
            row: the row; it has at least `end` columns.
            layers: keys and values, one tensor per layer.
            begin: the first column.
            end: the column after the last.
        """
        for layer, kept in zip(self._layers, layers, strict=True):
            layer[:, row, :, begin:end] = kept[:, :, begin:end]

    def at(self, rows_B: Tensor | None, positions_BT: Tensor, columns: int) -> KVCacheView:
        """The view of one forward pass.

        Args:
            rows_B: row of each sequence of the batch; None: the first rows, in order.
            positions_BT: columns that the pass writes.
            columns: columns that it reads, the new ones included.
        """
        return KVCacheView(self._layers, rows_B, positions_BT, columns)


class KVCacheView:
    """Implements `interface.CacheView` for one forward pass; see `KVCache.at`."""

    def __init__(
        self, layers: list[Tensor], rows_B: Tensor | None, positions_BT: Tensor, columns: int
    ) -> None:
        self._layers, self._rows, self._positions = layers, rows_B, positions_BT
        first = torch.arange(len(positions_BT), device=positions_BT.device) if rows_B is None else rows_B
        self._index = first.unsqueeze(1)
        self.columns = columns

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """See `CacheView`."""
        keys_RHKD, values_RHKD = self._layers[layer]
        return self._exchange(keys_RHKD, key_BHTD), self._exchange(values_RHKD, value_BHTD)

    def _exchange(self, buffer_RHKD: Tensor, new_BHTD: Tensor) -> Tensor:
        buffer_RHKD[self._index, :, self._positions] = new_BHTD.transpose(1, 2)
        used = buffer_RHKD[:, :, : self.columns]
        return used[: len(new_BHTD)] if self._rows is None else used.index_select(0, self._rows)
