"""The two implementations of `interface.Network`.

`DecoderNetwork` applies the sub-modules of decoders of Llama's shape itself (`forward`). It computes only the positions
that are needed, and attention in a tree of sequences goes path by path.

`ModelNetwork` calls the model's own forward, which may contain sliding windows, soft caps or mixtures of experts, with
our key-value cache, four-dimensional masks and explicit positions. It computes every layer at every position, and its
masks grow with the square of the pass. A trial on a few tokens refuses architectures whose state is more than keys and
values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import Cache

from searchgym.errors import ConfigError

from .cached_forward import CachedForward, decoder_of
from .forward import Branches, causal_mask, hidden_states
from .interface import CacheView, Network
from .prefix_tree import PrefixTree
from .token_logprobs import token_logprobs

__all__ = ["DecoderNetwork", "ModelNetwork", "open_network"]

_LLAMA_SHAPE = ("llama", "mistral", "qwen2", "qwen3")
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_NO_LIMIT = 2**31
_TRIAL = (5, 3, 8, 6, 7, 4, 2, 9)


class _BaseNetwork:
    """Shape of the model, and the way from hidden states to log-probabilities.

    Args:
        model: transformers' model.
        whole_logits: compute all logits of a training pass at once (for a small vocabulary) instead of in blocks
            (`token_logprobs`).
        checkpointing: recompute the layers in the backward pass instead of keeping their activations.
    """

    def __init__(self, model: Any, *, whole_logits: bool = False, checkpointing: bool = False) -> None:
        config = model.config.get_text_config()
        self.model = model
        self.layers: int = config.num_hidden_layers
        heads = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.width: int = config.hidden_size
        self.positions: int = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
        self.pass_tokens = 4096
        self.checkpointing = checkpointing
        self._whole = whole_logits
        self._head = model.get_output_embeddings()
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)
        scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
        self._scale = (1.0 if scale is None else scale) / (1.0 if divisor is None else divisor)

    @property
    def device(self) -> torch.device:
        """See `Network`."""
        weight: Tensor = self._head.weight
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        """See `Network`."""
        weight: Tensor = self._head.weight
        return weight.dtype

    @property
    def _plain(self) -> bool:
        """Whether the logits are a linear map of the hidden states only."""
        return type(self._head) is nn.Linear and self._cap is None and self._scale == 1.0

    def logits(self, hidden_NW: Tensor) -> Tensor:
        """See `Network`. Half-precision products are summed in float32."""
        weight: Tensor = self._head.weight
        if type(self._head) is not nn.Linear or weight.dtype == torch.float32:
            logits_NV: Tensor = self._head(hidden_NW).float()
        else:
            if weight.is_cuda:
                logits_NV = torch.mm(hidden_NW, weight.T, out_dtype=torch.float32)
            else:
                logits_NV = functional.linear(hidden_NW.float(), weight.float())
            if self._head.bias is not None:
                logits_NV = logits_NV + self._head.bias
        if self._scale != 1.0:
            logits_NV = logits_NV * self._scale
        return logits_NV if self._cap is None else torch.tanh(logits_NV / self._cap) * self._cap

    def token_logprobs(
        self, hidden_UW: Tensor, target_N: Tensor, rows_N: Tensor, temperature_U: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Network`."""
        if self._whole:
            logprobs_UV = torch.log_softmax(self.logits(hidden_UW) / temperature_U.unsqueeze(1), dim=-1)
            entropy_U = -(logprobs_UV.exp() * logprobs_UV).sum(-1)
            return logprobs_UV[rows_N, target_N], entropy_U[rows_N]
        if self._plain:
            return token_logprobs(
                hidden_UW, self._head.weight, target_N, temperature_U, self._head.bias, rows_N=rows_N
            )
        return self._in_parts(hidden_UW[rows_N], target_N, temperature_U[rows_N])

    def _in_parts(
        self, hidden_NW: Tensor, target_N: Tensor, temperature_N: Tensor, rows: int = 64
    ) -> tuple[Tensor, Tensor]:
        """For logits with a soft cap, a scale or an adapter: some rows at a time, recomputed for the gradients."""
        parts = []
        for start in range(0, len(hidden_NW), rows):
            part = (x[start : start + rows] for x in (hidden_NW, target_N, temperature_N))
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._some, *part, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._some(*part))
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _some(self, hidden_NW: Tensor, target_N: Tensor, temperature_N: Tensor) -> tuple[Tensor, Tensor]:
        logprobs_NV = torch.log_softmax(self.logits(hidden_NW) / temperature_N.unsqueeze(1), dim=-1)
        entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(-1)
        return logprobs_NV.gather(-1, target_N.unsqueeze(-1)).squeeze(-1), entropy_N


class DecoderNetwork(_BaseNetwork):
    """A decoder of Llama's shape, through its sub-modules; see the module docstring."""

    def __init__(self, model: Any, *, whole_logits: bool = False, checkpointing: bool = False) -> None:
        super().__init__(model, whole_logits=whole_logits, checkpointing=checkpointing)
        if self.device.type != "cpu":  # on a CPU, the activations of 4,096 tokens still fit its cache
            self.pass_tokens = 32_768

    def step(
        self, ids_BT: Tensor, positions_BT: Tensor, cache: CacheView, keep_BQ: Tensor | None = None
    ) -> Tensor:
        """See `Network`."""
        mask_BTK = causal_mask(positions_BT, cache.columns, self.dtype)
        return hidden_states(
            self.model, ids_BT, positions_BT, keep_BQ=keep_BQ, mask_BTK=mask_BTK, cache=cache
        )

    def paths(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> Tensor:
        """See `Network`."""
        row = (torch.from_numpy(x).to(self.device).unsqueeze(0) for x in (tree.ids_T, tree.depths_T, keep_Q))
        ids_1T, positions_1T, keep_1Q = row
        return hidden_states(
            self.model,
            ids_1T,
            positions_1T,
            keep_BQ=keep_1Q,
            branches=Branches(tree, keep_Q, self.device, self.dtype),
            checkpointing=self.checkpointing and torch.is_grad_enabled(),
        ).squeeze(0)


class ModelNetwork(_BaseNetwork):
    """Any decoder whose state is keys and values, through its own forward; see the module docstring.

    Args:
        model: transformers' model.
        whole_logits: see `DecoderNetwork`.
        checkpointing: see `DecoderNetwork`.

    Raises:
        ConfigError: the architecture keeps another state, or its forward ignores our cache.
    """

    def __init__(self, model: Any, *, whole_logits: bool = False, checkpointing: bool = False) -> None:
        try:
            super().__init__(model, whole_logits=whole_logits, checkpointing=checkpointing)
            config = model.config.get_text_config()
            self._types: list[str] = list(getattr(config, "layer_types", None) or [])
            self._window: int | None = getattr(config, "sliding_window", None)
            self._decoder = CachedForward(decoder_of(model))
            self._layers = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
            if checkpointing:
                enable = getattr(model, "activation_checkpointing_enable", None)
                (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
            self._try_out()
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"models of type {model.config.model_type!r} cannot be used: {type(error).__name__}: {error}. Their "
                "state must be keys and values alone; Llama, Mistral, Qwen2, Qwen3, Gemma 2 and Gemma 3 work"
            ) from error

    def step(
        self, ids_BT: Tensor, positions_BT: Tensor, cache: CacheView, keep_BQ: Tensor | None = None
    ) -> Tensor:
        """See `Network`."""
        keys_1K = torch.arange(cache.columns, device=self.device).unsqueeze(0)
        hidden_BTW = self._forward(
            ids_BT, positions_BT, keys_1K, keys_1K <= positions_BT.unsqueeze(-1), _Adapter(cache)
        )
        if keep_BQ is None:
            return hidden_BTW
        return hidden_BTW.gather(1, keep_BQ.unsqueeze(-1).expand(-1, -1, hidden_BTW.shape[-1]))

    def paths(self, tree: PrefixTree, keep_Q: NDArray[np.int64]) -> Tensor:
        """See `Network`."""
        allowed_TT = np.zeros((len(tree.ids_T), len(tree.ids_T)), dtype=np.bool_)
        for columns, shared in zip(tree.columns, tree.shared, strict=True):
            new = np.arange(shared, len(columns))
            allowed_TT[np.ix_(columns[shared:], columns)] = np.arange(len(columns)) <= new[:, None]
        ids_1T, depths_1T = (
            torch.from_numpy(x).to(self.device).unsqueeze(0) for x in (tree.ids_T, tree.depths_T)
        )
        allowed_1TT = torch.from_numpy(allowed_TT).to(self.device).unsqueeze(0)
        learning = self.checkpointing and torch.is_grad_enabled()
        modes = [layer.training for layer in self._layers]
        try:
            # Only the layer's own flag: its sub-modules keep their mode, so dropout stays off.
            for layer in self._layers:
                layer.training = layer.training or learning
            hidden_TW = self._forward(ids_1T, depths_1T, depths_1T, allowed_1TT, None)[0]
        finally:
            for layer, mode in zip(self._layers, modes, strict=True):
                layer.training = mode
        return hidden_TW[torch.from_numpy(keep_Q).to(self.device)]

    def _forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        keys_BK: Tensor,
        allowed_BTK: Tensor,
        cache: _Adapter | None,
    ) -> Tensor:
        masks: Any = self._mask(allowed_BTK)
        if self._window is not None and (not self._types or "sliding_attention" in self._types):
            near_BTK = keys_BK.unsqueeze(1) > positions_BT.unsqueeze(-1) - self._window
            windowed = self._mask(allowed_BTK & near_BTK)
            masks = {"full_attention": masks, "sliding_attention": windowed} if self._types else windowed
        elif self._types:
            masks = {"full_attention": masks}
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
        odd = set(self._types) - _LAYER_TYPES
        if odd:
            raise ValueError(f"layers of type {sorted(odd)[0]}")
        ids_T = np.array(_TRIAL) % self.model.config.get_text_config().vocab_size
        row_1T = torch.from_numpy(ids_T).to(self.device).unsqueeze(0)
        expected_TV = self.model(input_ids=row_1T, use_cache=False).logits[0].float()
        tree = PrefixTree.grow([tuple(ids_T[:5].tolist()), tuple(ids_T.tolist())])
        hidden_TW = self.paths(tree, np.arange(len(ids_T)))
        growing = _Growing()
        steps = []
        for start, end in ((0, 4), *((i, i + 1) for i in range(4, len(ids_T)))):
            positions_1T = torch.arange(start, end, device=self.device).unsqueeze(0)
            growing.columns = end
            steps.append(self.step(row_1T[:, start:end], positions_1T, growing)[0])
        if len(growing.kept) != self.layers:
            raise ValueError(f"{len(growing.kept)} of {self.layers} layers keep keys and values")
        shapes = {x.shape[1:2] + x.shape[3:] for pair in growing.kept.values() for x in pair}
        if len(shapes) > 1:
            raise ValueError("its layers keep keys and values of different sizes")
        ((self.kv_heads, self.head_dim),) = shapes
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.2  # half precision rounds in every layer
        scale = float(expected_TV.std()) + 1e-6
        for name, hidden in (("a tree of sequences", hidden_TW), ("kept keys and values", torch.cat(steps))):
            gap = float((self.logits(hidden) - expected_TV).square().mean().sqrt()) / scale
            if not gap < tolerance:
                raise ValueError(
                    f"with {name} its logits differ from its own by {gap:.2g} standard deviations"
                )


class _Adapter(Cache):
    """Our cache as a model's layers call it. The model is given positions and masks, so it needs no other method."""

    def __init__(self, cache: CacheView) -> None:
        super().__init__(layers=[])
        self._cache = cache

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        return self._cache.store(layer_idx, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._cache.columns


class _Growing:
    """Implements `CacheView` for the one row of the trial."""

    def __init__(self) -> None:
        self.columns = 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def store(self, layer: int, key_BHTD: Tensor, value_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            key, value = self.kept[layer]
            key_BHTD, value_BHTD = torch.cat([key, key_BHTD], 2), torch.cat([value, value_BHTD], 2)
        self.kept[layer] = key_BHTD, value_BHTD
        return key_BHTD, value_BHTD


def open_network(model: Any, *, own_forward: bool = False, checkpointing: bool = False) -> Network:
    """The network of a model: a `DecoderNetwork` where it has Llama's shape, else a `ModelNetwork`.

    Args:
        model: transformers' model, without peft's wrapper.
        own_forward: use a `ModelNetwork` for any shape.
        checkpointing: recompute the layers in the backward pass instead of keeping their activations.

    Raises:
        ConfigError: an architecture that cannot be used.
    """
    if _has_llama_shape(model) and not own_forward:
        return DecoderNetwork(model, checkpointing=checkpointing)
    return ModelNetwork(model, checkpointing=checkpointing)


def _has_llama_shape(model: Any) -> bool:
    config = model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return (
        config.model_type in _LLAMA_SHAPE
        and "sliding_attention" not in (getattr(config, "layer_types", None) or [])
        and (config.model_type != "mistral" or config.sliding_window is None)
        and rope.get("rope_type", "default") not in ("dynamic", "longrope")  # these depend on the whole row
    )
