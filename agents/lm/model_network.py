"""Any decoder through its own forward: sliding windows, mixtures of experts, hybrids with recurrent or convolution states.

A recurrent state knows nothing of masks and positions. So rows of a hybrid are never padded while they are sampled from
(`Network.pads`), their states are kept per row and copied with it, and a training pass computes every path of the tree
by itself. Nothing is cropped: a state can only be copied, not taken back.

Axis suffixes as in `interface`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache

from searchgym.errors import ConfigError

from .base_network import BaseNetwork
from .cached_forward import CachedForward, decoder_of
from .half_precision import has_matrix_units
from .interface import CacheView, KVShape
from .path_attention import attention_by_paths, attention_by_rows
from .prefix_tree import PrefixTree

__all__ = ["ModelNetwork"]

_ATTENTION = {"full_attention", "attention", "sliding_attention", "chunked_attention", "hybrid"}
_STATELESS = {"linear_attention", "conv", "mamba", "moe", "mlp"}  # need no mask: there is no padding
_TRIAL = (5, 3, 8, 6, 7, 4, 2, 9)


class ModelNetwork(BaseNetwork):
    """A decoder through its own forward; see the module docstring.

    Args:
        model: transformers' model.
        whole_logits: see `DecoderNetwork`.
        checkpointing: see `DecoderNetwork`.

    Raises:
        ConfigError: the architecture keeps a state that cannot be kept per row, or its forward ignores our cache.
    """

    def __init__(self, model: Any, *, whole_logits: bool = False, checkpointing: bool = False) -> None:
        try:
            super().__init__(model, whole_logits=whole_logits, checkpointing=checkpointing)
            config = model.config.get_text_config()
            types = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
            self._types: set[str] = set(types or ())
            self._window: int | None = getattr(config, "sliding_window", None)
            if types and "sliding_attention" not in self._types:
                self._window = None
            self._windowed = {i for i, kind in enumerate(types or ()) if kind == "sliding_attention"}
            self._chunk: int | None = getattr(config, "attention_chunk_size", None)
            self._decoder = CachedForward(decoder_of(model))
            self._layers = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
            if checkpointing:
                enable = getattr(model, "activation_checkpointing_enable", None)
                (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
            self._try_out()
            if self._window is not None:
                self.window = self._window
                self.windowed = frozenset(self._windowed if self._types else self.kv_shapes) & {
                    *self.kv_shapes
                }
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"models of type {model.config.model_type!r} cannot be used: {type(error).__name__}: {error}. Use a model "
                "of a family in the table of docs/agents/families.md"
            ) from error

    def step(
        self, ids_BT: Tensor, positions_BT: Tensor, cache: CacheView, keep_BQ: Tensor | None = None
    ) -> Tensor:
        """See `Network`."""
        keys_1K = torch.arange(cache.columns, device=self.device).unsqueeze(0)
        begin = 0
        if self._window is not None and cache.columns > self._window:
            begin = max(0, int(positions_BT.min()) - self._window + 1)
        adapter = _Adapter(cache, begin, self._windowed if self._types else None)
        # torch's own kernel is the faster one where it has matrix units for its products.
        in_units = self.dtype == torch.bfloat16 and has_matrix_units()
        by_rows = self.device.type == "cpu" and ids_BT.shape[1] > 1 and not in_units
        with attention_by_rows() if by_rows else nullcontext():
            hidden_BTW = self._forward(
                ids_BT, positions_BT, keys_1K, keys_1K <= positions_BT.unsqueeze(-1), adapter
            )
        cache.write_back()
        if keep_BQ is None:
            return hidden_BTW
        return hidden_BTW.gather(1, keep_BQ.unsqueeze(-1).expand(-1, -1, hidden_BTW.shape[-1]))

    def paths(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> Tensor:
        """See `Network`."""
        with self._learning():
            hidden_TW = self._one_row(tree) if self.pads else self._path_by_path(tree)
        return hidden_TW[torch.from_numpy(keep_Q).to(self.device)]

    def _one_row(self, tree: PrefixTree) -> Tensor:
        """All positions of the tree in one pass, each of which sees those before it on its path."""
        allowed_TT = np.zeros((len(tree.ids_T), len(tree.ids_T)), dtype=np.bool_)
        for columns, shared in zip(tree.columns, tree.shared, strict=True):
            new = np.arange(shared, len(columns))
            allowed_TT[np.ix_(columns[shared:], columns)] = np.arange(len(columns)) <= new[:, None]
        ids_1T, depths_1T = (
            torch.from_numpy(x).to(self.device).unsqueeze(0) for x in (tree.ids_T, tree.depths_T)
        )
        allowed_1TT = torch.from_numpy(allowed_TT).to(self.device).unsqueeze(0)
        # A GPU is faster with one large pass, and a checkpointed layer is computed again after the context.
        by_paths = self.device.type == "cpu" and not self.checkpointing
        with attention_by_paths(tree) if by_paths else nullcontext():
            return self._forward(ids_1T, depths_1T, depths_1T, allowed_1TT, None)[0]

    def _path_by_path(self, tree: PrefixTree) -> Tensor:
        """A recurrent state has one past, so every path is a pass of its own, with its shared beginning."""
        parts = []
        for columns, shared in zip(tree.columns, tree.shared, strict=True):
            if len(columns) > shared:
                ids_1T = torch.from_numpy(tree.ids_T[columns]).to(self.device).unsqueeze(0)
                positions_1T = torch.arange(len(columns), device=self.device).unsqueeze(0)
                outputs = self._decoder.uncached(input_ids=ids_1T, position_ids=positions_1T)
                parts.append(outputs.last_hidden_state[0, shared:])
        return torch.cat(parts)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Checkpointing, where it is on: only the layer's own flag, its sub-modules keep their mode, so dropout stays off."""
        learning = self.checkpointing and torch.is_grad_enabled()
        modes = [layer.training for layer in self._layers]
        try:
            for layer in self._layers:
                layer.training = layer.training or learning
            yield
        finally:
            for layer, mode in zip(self._layers, modes, strict=True):
                layer.training = mode

    def _forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        keys_BK: Tensor,
        allowed_BTK: Tensor,
        cache: _Adapter | None,
    ) -> Tensor:
        masks: Any = self._mask(allowed_BTK)
        if self._types:
            masks = dict.fromkeys(_ATTENTION, masks) | dict.fromkeys(_STATELESS)
        if self._window is not None:
            begin = 0 if cache is None else cache.begin
            near_BTK = keys_BK[:, begin:].unsqueeze(1) > positions_BT.unsqueeze(-1) - self._window
            windowed = self._mask(allowed_BTK[..., begin:] & near_BTK)
            masks = {**masks, "sliding_attention": windowed} if self._types else windowed
        if self._chunk is not None and "chunked_attention" in self._types:
            same_BTK = keys_BK.unsqueeze(1) // self._chunk == positions_BT.unsqueeze(-1) // self._chunk
            masks["chunked_attention"] = self._mask(allowed_BTK & same_BTK)
        inputs = {"input_ids": ids_BT, "position_ids": positions_BT, "attention_mask": masks}
        outputs = self._decoder.uncached(**inputs) if cache is None else self._decoder(cache, **inputs)[0]
        hidden_BTW: Tensor = outputs.last_hidden_state
        return hidden_BTW

    def _mask(self, allowed_BTK: Tensor) -> Tensor:
        zeros = torch.zeros(allowed_BTK.shape, dtype=self.dtype, device=self.device)
        return zeros.masked_fill_(~allowed_BTK, float("-inf")).unsqueeze(1)

    @torch.no_grad()
    def _try_out(self) -> None:
        """Compare both ways of computing with the model's own outputs on a few tokens."""
        odd = self._types - _ATTENTION - _STATELESS
        if odd:
            raise ValueError(f"layers of type {sorted(odd)[0]}")
        ids_T = np.array(_TRIAL) % self.model.config.get_text_config().vocab_size
        row_1T = torch.from_numpy(ids_T).to(self.device).unsqueeze(0)
        expected_TV = self.model(input_ids=row_1T, use_cache=False).logits[0].float()
        growing = _Growing()
        steps = []
        # A first message, a second one after it (more than one token on top of a state), then tokens one by one.
        for start, end in ((0, 3), (3, 5), *((i, i + 1) for i in range(5, len(ids_T)))):
            positions_1T = torch.arange(start, end, device=self.device).unsqueeze(0)
            growing.columns = end
            steps.append(self.step(row_1T[:, start:end], positions_1T, growing)[0])
        self.pads = not growing.states
        self.kv_shapes = {layer: _shape(*pair) for layer, pair in sorted(growing.kept.items())}
        tree = PrefixTree.grow([tuple(ids_T[:5].tolist()), tuple(ids_T.tolist())])
        hidden_TW = self.paths(tree, np.arange(len(ids_T)))
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.2  # half precision rounds in every layer
        scale = float(expected_TV.std()) + 1e-6
        for name, hidden in (("a tree of sequences", hidden_TW), ("kept states", torch.cat(steps))):
            gap = float((self.logits(hidden) - expected_TV).square().mean().sqrt()) / scale
            if not gap < tolerance:
                raise ValueError(
                    f"with {name} its logits differ from its own by {gap:.2g} standard deviations"
                )


def _shape(key_BHTD: Tensor, value_BHTD: Tensor) -> KVShape:
    return (key_BHTD.shape[1], key_BHTD.shape[3]), (value_BHTD.shape[1], value_BHTD.shape[3])


class _Adapter(Cache):
    """Our cache as a model's layers call it. The model is given positions and masks, so it needs no other method.

    Args:
        cache: our cache.
        begin: first column that is in the window of any new position.
        windowed: layers that see their window only; None: all layers.
    """

    def __init__(self, cache: CacheView, begin: int, windowed: Collection[int] | None) -> None:
        super().__init__(layers=[])
        self._cache, self._windowed, self.begin = cache, windowed, begin

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        key, value = self._cache.store(layer_idx, key_states, value_states)
        if self.begin and (self._windowed is None or layer_idx in self._windowed):
            begin = self.begin - self._cache.offset(layer_idx)
            return key[:, :, begin:], value[:, :, begin:]
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._cache.columns

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._cache.state(layer_idx, f"convolution {state_idx}")

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._cache.state(layer_idx, f"recurrent {state_idx}")

    def update_conv_state(
        self,
        conv_states: Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Keep the last inputs of a convolution; returns those before the new ones too."""
        before = self.get_conv_state(layer_idx, state_idx)
        whole = conv_states if before is None else torch.cat([before, conv_states], -1)
        size = conv_kernel_size or (conv_states if before is None else before).shape[-1]
        kept = torch.nn.functional.pad(whole[..., -size:], (max(0, size - whole.shape[-1]), 0))
        self._cache.keep(layer_idx, f"convolution {state_idx}", kept)
        return whole

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> Tensor:
        self._cache.keep(layer_idx, f"recurrent {state_idx}", recurrent_states)
        return recurrent_states

    def is_recording_past(self, layer_idx: int) -> bool:
        return False


class _Growing:
    """Implements `CacheView` for the one row of the trial."""

    def __init__(self) -> None:
        self.columns = 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.states: dict[tuple[int, str], Tensor] = {}

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            key, value = self.kept[layer]
            key_BHTD, value_BHTD = torch.cat([key, key_BHTD], 2), torch.cat([value, value_BHTD], 2)
        self.kept[layer] = key_BHTD, value_BHTD
        return key_BHTD, value_BHTD

    def offset(self, layer: int) -> int:
        return 0

    def state(self, layer: int, name: str) -> Tensor | None:
        return self.states.get((layer, name))

    def keep(self, layer: int, name: str, state: Tensor) -> None:
        self.states[layer, name] = state.clone()

    def write_back(self) -> None:
        """Nothing to do: the states that were handed out are those that are kept."""
