"""Cache of running episodes: one row per episode, kept from round to round.

Attention layers have keys and values for every position. Recurrent and convolution layers have states that say nothing of
positions; a row has one of each, and it goes where the row goes.

Axis suffixes: _R rows, _B rows of one pass, _T new positions, _K columns (positions), _H heads, _D head size, _M moves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .free_memory import give_back_freed
from .interface import Network

__all__ = ["KVCache", "KVCacheView"]

_STEP = 128  # columns
_States = dict[tuple[int, str], Tensor]  # [rows, …] by layer and name


class KVCache:
    """Two buffers per layer, keys and values, [rows, heads, columns, head size], which grow by half when they are full.

    Buffers are per layer, so that growing needs a second copy of one of them only. After `clear`, a
    cache of as many rows as an earlier one begins with its columns, so that it need not grow again. Each forward pass gets a view that
    says which rows and columns it writes. Columns beyond a row's length may hold stale values; they are finite and
    always masked. Layers that see a window hold the columns from `offset` on only, those before the window of every row that is
    in use.

    Args:
        network: the model whose keys, values and states are cached.

    Attributes:
        rows: that there are.
        offset: first column that the layers with a window hold.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._numbers = list(network.kv_shapes)
        self._windowed = [layer in network.windowed for layer in network.kv_shapes for _ in range(2)]
        self._device = network.device
        self.rows = self._columns = 0
        self._columns_before: dict[int, int] = {}  # of the last cache of that many rows
        self.clear()

    def clear(self) -> None:
        """Free all rows."""
        self._layers = [
            torch.zeros((0, heads, 0, size), dtype=self._network.dtype, device=self._device)
            for shapes in self._network.kv_shapes.values()
            for heads, size in shapes
        ]
        self._columns_before[self.rows] = self._columns
        self.rows = self._columns = self.offset = 0
        self._states: _States = {}

    @property
    def state_bytes(self) -> int:
        """Size of the states of one row."""
        return sum(state[0].nbytes for state in self._states.values())

    def reserve(self, rows: int, columns: int, most: int, first: int) -> None:
        """Grow to at least this many rows and columns and keep the contents.

        Args:
            rows: rows needed.
            columns: columns needed.
            most: columns that will ever be needed; growing ahead stops there.
            first: first column that the window of any row in use reaches.
        """
        if rows <= self.rows and columns <= self._columns and first >= self.offset:
            return
        grown_rows = self.rows if rows <= self.rows else max(rows, self.rows * 3 // 2)
        grown_columns = self._columns
        if columns > self._columns:
            ahead = self._columns * 3 // 2 if self.rows else self._columns_before.get(rows, 0)
            grown_columns = -(-max(columns, min(ahead, most)) // _STEP) * _STEP
        offset = first // _STEP * _STEP
        for i, old in enumerate(self._layers):
            begin, held = (offset, self.offset) if self._windowed[i] else (0, 0)
            new = old.new_zeros(grown_rows, old.shape[1], grown_columns - begin, old.shape[3])
            common = max(begin, held)
            new[: self.rows, :, common - begin : self._columns - begin] = old[:, :, common - held :]
            self._layers[i] = new
        for key, state in self._states.items():
            self._states[key] = torch.cat([state, state.new_zeros(grown_rows - self.rows, *state.shape[1:])])
        self.rows, self._columns, self.offset = grown_rows, grown_columns, offset
        give_back_freed()

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copy the first `columns` columns of each source row, and its states, to its target row, all at once.

        A row may be both source and target (a permutation), and a source may have several targets.
        """
        if sources and columns:
            source_M, target_M = (torch.tensor(rows, device=self._device) for rows in (sources, targets))
            for layer, windowed in zip(self._layers, self._windowed, strict=True):
                used = layer[:, :, : max(0, columns - self.offset * windowed)]
                self._put(used, target_M, targets, used.index_select(0, source_M))
            for state in self._states.values():
                state[target_M] = state[source_M]

    def _put(self, used: Tensor, target_M: Tensor, targets: Sequence[int], moved: Tensor) -> None:
        if self._device.type != "cpu":
            used[target_M] = moved
            return
        for target, row in zip(targets, moved, strict=True):  # two to three times as fast as by an index
            used[target].copy_(row)

    def read(self, row: int, columns: int) -> list[Tensor]:
        """A copy of the first columns of a row, without its states: keys and values in turn, [heads, columns, head size].

        Only as long as `offset` is 0.
        """
        return [layer[row, :, :columns].clone() for layer in self._layers]

    def write(self, row: int, layers: Sequence[Tensor], begin: int, end: int) -> None:
        """Copy columns `begin` to `end` of what `read` gave into a row.

        Args:
            row: the row; it has at least `end` columns.
            layers: keys and values in turn.
            begin: the first column.
            end: the column after the last.
        """
        for layer, kept, windowed in zip(self._layers, layers, self._windowed, strict=True):
            offset = self.offset * windowed
            start = min(end, max(begin, offset))
            layer[row, :, start - offset : end - offset] = kept[:, start:end]

    def at(
        self, rows_B: Tensor | None, positions_BT: Tensor, columns: int, *, fresh: bool = False
    ) -> KVCacheView:
        """The view of one forward pass.

        Args:
            rows_B: row of each sequence of the batch; None: the first rows, in order.
            positions_BT: columns that the pass writes.
            columns: columns that it reads, the new ones, which come last, included.
            fresh: whether the pass starts the rows, so that they have no states yet.
        """
        if columns > self._columns:
            raise IndexError(f"{columns} columns of a cache that has {self._columns}: reserve them first")
        buffers = dict(
            zip(self._numbers, zip(self._layers[::2], self._layers[1::2], strict=True), strict=True)
        )
        offsets = dict(
            zip(self._numbers, (self.offset * windowed for windowed in self._windowed[::2]), strict=True)
        )
        return KVCacheView(buffers, offsets, self._states, self.rows, rows_B, positions_BT, columns, fresh)


class KVCacheView:
    """Implements `interface.CacheView` for one forward pass; see `KVCache.at`."""

    def __init__(
        self,
        buffers: dict[int, tuple[Tensor, Tensor]],
        offsets: dict[int, int],
        states: _States,
        capacity: int,
        rows_B: Tensor | None,
        positions_BT: Tensor,
        columns: int,
        fresh: bool,
    ) -> None:
        self._buffers, self._offsets = buffers, offsets
        self._states, self._capacity = states, capacity
        self._rows, self._positions, self._fresh = rows_B, positions_BT, fresh
        self._count = len(positions_BT)
        first = torch.arange(self._count, device=positions_BT.device) if rows_B is None else rows_B
        self._index = first.unsqueeze(1)
        self._places: dict[tuple[int, int, int], Tensor] = {}
        self._lent: _States = {}
        self.columns = columns

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """See `CacheView`."""
        keys_RHKD, values_RHKD = self._buffers[layer]
        offset = self._offsets[layer]
        return self._exchange(keys_RHKD, key_BHTD, offset), self._exchange(values_RHKD, value_BHTD, offset)

    def _exchange(self, buffer_RHKD: Tensor, new_BHTD: Tensor, offset: int) -> Tensor:
        _, heads, columns, size = buffer_RHKD.shape
        shape = heads, columns, offset
        if shape not in self._places:  # of all layers of a shape
            heads_BH1 = (self._index * heads + torch.arange(heads, device=self._index.device)).unsqueeze(-1)
            self._places[shape] = (heads_BH1 * columns + (self._positions - offset).unsqueeze(1)).flatten()
        # Up to three times as fast as an index of rows and columns.
        buffer_RHKD.view(-1, size).index_copy_(0, self._places[shape], new_BHTD.reshape(-1, size))
        used = buffer_RHKD[:, :, : self.columns - offset]
        return used[: len(new_BHTD)] if self._rows is None else used.index_select(0, self._rows)

    def offset(self, layer: int) -> int:
        """See `CacheView`."""
        return self._offsets[layer]

    def state(self, layer: int, name: str) -> Tensor | None:
        """See `CacheView`."""
        if self._fresh:
            return None
        key = layer, name
        if self._rows is None:
            return self._states[key][: self._count]
        if key not in self._lent:
            self._lent[key] = self._states[key].index_select(0, self._rows)
        return self._lent[key]

    def keep(self, layer: int, name: str, state: Tensor) -> None:
        """See `CacheView`."""
        key = layer, name
        self._lent.pop(key, None)
        if key not in self._states:
            self._states[key] = state.new_zeros(self._capacity, *state.shape[1:])
        self._states[key][self._index[:, 0]] = state.to(self._states[key].dtype)

    def write_back(self) -> None:
        """See `CacheView`."""
        for key, state in self._lent.items():
            self._states[key][self._rows] = state
