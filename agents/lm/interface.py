"""What generation and training need of a language model (`Network`), and what a model needs of a cache (`CacheView`).

Axis suffixes: _B rows, _T positions computed now, _K keys (cached and new), _Q positions kept, _H heads, _D head size,
_W width, _V vocabulary, _N sampled tokens, flattened, _U the distributions they were drawn from.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .prefix_tree import PrefixTree

__all__ = ["CacheView", "KVShape", "Network"]

KVShape = tuple[tuple[int, int], tuple[int, int]]
"""Heads and head size of a layer's keys, and of its values."""


class CacheView(Protocol):
    """Where one forward pass writes its keys and values and reads those of its rows.

    Attributes:
        columns: key positions of the rows, the new ones included.
    """

    columns: int

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add new keys and values of a layer; returns those of the rows from position `offset` on, [B, H, K, D] each."""

    def offset(self, layer: int) -> int:
        """First position of which there are keys and values; 0 where the layer sees more than a window."""

    def state(self, layer: int, name: str) -> Tensor | None:
        """A state of a layer that is not keys and values, [B, …]; None at the start of the rows. It may be changed in place."""

    def keep(self, layer: int, name: str, state: Tensor) -> None:
        """Replace a state of a layer by a new one of the same rows."""

    def write_back(self) -> None:
        """The pass is over: keep the states that were changed in place."""


class Network(Protocol):
    """A causal language model as generation and training see it; `network` has the two implementations.

    Attributes:
        model: transformers' model, without peft's wrapper.
        kv_shapes: of every layer with keys and values, by its number.
        windowed: layers of these that see the last `window` positions only.
        window: see `windowed`.
        pads: whether rows of unequal length may share a pass; not where a layer has a recurrent state.
        width: size of the hidden states.
        positions: longest context in tokens.
        pass_tokens: tokens that suit one training pass.
    """

    model: Any
    kv_shapes: dict[int, KVShape]
    windowed: frozenset[int]
    window: int
    pads: bool
    width: int
    positions: int
    pass_tokens: int

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    def dtype(self) -> torch.dtype:
        """The data type of keys, values and hidden states."""

    def step(
        self, ids_BT: Tensor, positions_BT: Tensor, cache: CacheView, keep_BQ: Tensor | None = None
    ) -> Tensor:
        """Hidden states, after the last norm, of new tokens of cached rows.

        Args:
            ids_BT: token ids.
            positions_BT: position of each in its row.
            cache: keys and values of the earlier positions.
            keep_BQ: columns of `ids_BT` whose hidden states are needed; None: all.

        Returns:
            [B, Q, W], or [B, T, W] without `keep_BQ`.
        """

    def paths(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> Tensor:
        """Hidden states at positions `keep_Q` of a row that is a tree, [Q, W]; carries gradients."""

    def logits(self, hidden_NW: Tensor) -> Tensor:
        """Logits of hidden states, [N, V], float32."""

    def logits_to_sample(self, hidden_NW: Tensor) -> Tensor:
        """`logits`, in which those of unlikely words may be rounded. Without gradients."""

    def drawn_logits(self, hidden_NW: Tensor, words_N: Tensor) -> Tensor | None:
        """The unrounded logit of one word per row, [N]; None where `logits_to_sample` rounds nothing."""

    def token_logprobs(
        self, hidden_UW: Tensor, target_N: Tensor, rows_N: Tensor, temperature_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each token, and entropy of the distribution it was drawn from; float32.

        Args:
            hidden_UW: one row per distribution.
            target_N: the sampled tokens.
            rows_N: row of `hidden_UW` that predicts each.
            temperature_U: temperature of each distribution.
        """
