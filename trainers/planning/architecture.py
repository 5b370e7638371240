"""The shape of a language model and what follows from it: weights, adapters, cache. This file does not import torch.

Counts are exact; tests hold them to the models transformers builds.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError, did_you_mean

__all__ = ["ALL_LINEAR", "Architecture", "read_architecture"]

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a layer, as transformers and peft name them."""

# Published config.json of Qwen/Qwen3-*: layers, hidden, heads, intermediate, tied; 8 key-value heads of 128 in all.
_QWEN3 = {
    "0.6B": (28, 1024, 16, 3072, True),
    "1.7B": (28, 2048, 16, 6144, True),
    "4B": (36, 2560, 32, 9728, True),
    "8B": (36, 4096, 32, 12288, False),
}
_QWEN3_NAME = re.compile(r"Qwen/Qwen3-([\d.]+B)(-Base|-Instruct-2507|-Thinking-2507)?")
_QWEN3_POSITIONS = {"": 40_960, "-Base": 32_768, "-Instruct-2507": 262_144, "-Thinking-2507": 262_144}
# Other parameters of an architecture: biases of q, k and v (None: see `attention_bias`), norms per layer, norms of q and k.
_FAMILIES: dict[str, tuple[bool | None, int, bool]] = {
    "gemma": (None, 2, False),
    "gemma2": (None, 4, False),
    "gemma3_text": (None, 4, True),
    "llama": (None, 2, False),
    "mistral": (False, 2, False),
    "qwen2": (True, 2, False),
    "qwen3": (None, 2, True),
    "smollm3": (None, 2, False),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder of the Llama family: attention and a gated feed-forward part per layer.

    Attributes:
        layers, hidden, heads, kv_heads, head_dim, intermediate, vocab: sizes, as in config.json.
        positions: the longest context.
        tied: whether the output layer is the embedding.
        qkv_bias, output_bias, mlp_bias: which linear layers have a bias.
        norms: norms over the width per layer.
        qk_norm: whether queries and keys are normed per head.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    positions: int
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    norms: int = 2
    qk_norm: bool = False

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each matrix of a layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        shapes = ((h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h))
        return dict(zip(ALL_LINEAR, shapes, strict=True))

    @property
    def layer_weights(self) -> int:
        """Weights of one layer."""
        outputs = {name: out for name, (_, out) in self.linears.items()}
        biased = [
            *(ALL_LINEAR[:3] if self.qkv_bias else ()),
            *(("o_proj",) if self.output_bias else ()),
            *(ALL_LINEAR[4:] if self.mlp_bias else ()),
        ]
        return (
            sum(a * b for a, b in self.linears.values())
            + sum(outputs[name] for name in biased)
            + self.norms * self.hidden
            + (2 * self.head_dim if self.qk_norm else 0)
        )

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding; the output layer has as many again unless it is tied."""
        return self.vocab * self.hidden

    @property
    def weights(self) -> int:
        """All weights."""
        return (
            self.layers * self.layer_weights + self.hidden + self.embedding_weights * (1 if self.tied else 2)
        )

    @property
    def matmul_weights(self) -> int:
        """Weights that every token is multiplied with: without the embedding and the output layer."""
        return self.layers * sum(a * b for a, b in self.linears.values())

    def adapter_weights(self, rank: int, targets: str | Sequence[str]) -> int:
        """Weights of LoRA matrices.

        Raises:
            ConfigError: a target that is not a matrix of a layer.
        """
        return sum(rank * sum(self.linears[name]) for name in self.targets(targets)) * self.layers

    def targets(self, targets: str | Sequence[str]) -> tuple[str, ...]:
        """Names of matrices, of a list of names or "all-linear"."""
        if targets == "all-linear":
            return ALL_LINEAR
        names = (targets,) if isinstance(targets, str) else tuple(targets)
        for name in names:
            if name not in ALL_LINEAR:
                raise ConfigError(
                    f"LoRA target {name!r} is not a matrix of a layer.{did_you_mean(name, ALL_LINEAR)} There are "
                    f"{', '.join(ALL_LINEAR)}, or all-linear for all."
                )
        return names

    def cache_bytes(self, element: int) -> int:
        """Bytes of keys and values of one token, with numbers of `element` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """The architecture a complete Hugging Face configuration describes (`AutoConfig.from_pretrained(…).to_dict()`).

        Raises:
            ConfigError: a family whose weights this module cannot count.
        """
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise ConfigError(
                f"no estimate for models of type {family!r}: only {', '.join(_FAMILIES)} are known here"
            )
        bias, norms, qk_norm = _FAMILIES[family]
        declared = bool(config.get("attention_bias"))
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            positions=config["max_position_embeddings"],
            tied=bool(config.get("tie_word_embeddings", True)),
            qkv_bias=declared if bias is None else bias,
            output_bias=declared if bias is None else False,
            mlp_bias=bool(config.get("mlp_bias")),
            norms=norms,
            qk_norm=qk_norm,
        )


def read_architecture(model: str) -> Architecture:
    """The architecture of a model, without its weights and without the network.

    Args:
        model: a directory with config.json, a hub id that was downloaded before, or one of Qwen/Qwen3-0.6B, 1.7B, 4B, 8B.

    Raises:
        ConfigError: none of these, or a family whose weights cannot be counted.
    """
    named = _QWEN3_NAME.fullmatch(model)
    if named and named[1] in _QWEN3 and not os.path.isdir(model):
        layers, hidden, heads, intermediate, tied = _QWEN3[named[1]]
        positions = _QWEN3_POSITIONS[named[2] or ""]
        return Architecture(
            layers, hidden, heads, 8, 128, intermediate, 151_936, positions, tied, qk_norm=True
        )
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading the model {model!r}", "transformers", "train") from error
    try:
        config = transformers.AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the architecture of {model!r} is not known here ({str(error).splitlines()[0]}): give a directory with "
            "config.json, or download the model first"
        ) from error
    return Architecture.from_config(config.to_dict())
