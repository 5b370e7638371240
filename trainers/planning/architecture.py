"""The shape of a language model and what follows from it: weights, adapters, cache. This file does not import torch.

Counts are exact; tests hold them to the models transformers builds. Of other families only the weights are exact
(`measured`).
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchgym.agents.hf.targets import ALL_LINEAR, in_feed_forward, is_mixture, is_target
from searchgym.errors import ConfigError, MissingExtraError, did_you_mean

__all__ = ["MATRICES", "Architecture", "NoEstimateError", "read_architecture", "read_config"]

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
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


class NoEstimateError(ConfigError):
    """A family of models whose weights cannot be counted here, although it may train."""


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
        modules: name, inputs and outputs of every linear layer but the head, in a model of another family.
        counted: all weights of a model of another family; 0 for a known family, where they follow from the sizes.
        idle: weights of experts that a token does not go through, on average.
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
    modules: tuple[tuple[str, int, int], ...] = ()
    counted: int = 0
    idle: int = 0

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each matrix of a layer."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        shapes = ((h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h))
        return dict(zip(MATRICES, shapes, strict=True))

    @property
    def layer_weights(self) -> int:
        """Weights of one layer."""
        if self.counted:
            return (
                self.counted - self.hidden - self.embedding_weights * (1 if self.tied else 2)
            ) // self.layers
        outputs = {name: out for name, (_, out) in self.linears.items()}
        biased = [
            *(MATRICES[:3] if self.qkv_bias else ()),
            *(("o_proj",) if self.output_bias else ()),
            *(MATRICES[4:] if self.mlp_bias else ()),
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
        return self.counted or (
            self.layers * self.layer_weights + self.hidden + self.embedding_weights * (1 if self.tied else 2)
        )

    @property
    def matmul_weights(self) -> int:
        """Weights that every token is multiplied with: without the embedding and the output layer."""
        if self.counted:
            return self.layers * self.layer_weights - self.idle
        return self.layers * sum(a * b for a, b in self.linears.values())

    def matrices(self) -> list[tuple[str, int, int]]:
        """Full name, inputs and outputs of every linear layer but the head."""
        if self.modules:
            return list(self.modules)
        parts = {name: "self_attn" if name in MATRICES[:4] else "mlp" for name in MATRICES}
        return [
            (f"model.layers.{layer}.{parts[name]}.{name}", *self.linears[name])
            for layer in range(self.layers)
            for name in MATRICES
        ]

    def adapter_weights(self, rank: int, targets: str | Sequence[str]) -> int:
        """Weights of LoRA matrices.

        Raises:
            ConfigError: a target that is not a matrix of a layer.
        """
        names = self.targets(targets)
        return sum(rank * (i + o) for name, i, o in self.matrices() if is_target(name, names))

    def adapted(self, targets: str | Sequence[str]) -> dict[str, int]:
        """Inputs of the matrices of a layer that have an adapter, by the last part of their names."""
        names = self.targets(targets)
        return {name.rpartition(".")[2]: i for name, i, _ in self.matrices() if is_target(name, names)}

    def targets(self, targets: str | Sequence[str]) -> tuple[str, ...]:
        """Names of matrices: full ones or their ends.

        Args:
            targets: such names, a regular expression for full names as peft writes them, or "all-linear".

        Raises:
            ConfigError: a name that no matrix has.
        """
        full = [name for name, _, _ in self.matrices()]
        known = (
            MATRICES if not self.modules else tuple(dict.fromkeys(name.rpartition(".")[2] for name in full))
        )
        if targets == ALL_LINEAR:
            return (
                tuple(n for n in full if not in_feed_forward(n)) if is_mixture(full) or self.idle else known
            )
        if isinstance(targets, str):
            names = tuple(name for name in full if is_target(name, targets)) or (targets,)
        else:
            names = tuple(targets)
        for name in names:
            if not any(is_target(one, [name]) for one in full):
                raise ConfigError(
                    f"LoRA target {name!r} is not a matrix of a layer.{did_you_mean(name, known)} There are "
                    f"{', '.join(known)}, or all-linear for all."
                )
        return names

    def cache_bytes(self, element: int) -> int:
        """Bytes of keys and values of one token, with numbers of `element` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """The architecture a complete Hugging Face configuration describes (`AutoConfig.from_pretrained(…).to_dict()`).

        Raises:
            NoEstimateError: a family whose weights this module cannot count.
        """
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise NoEstimateError(
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


def read_architecture(model: str, gguf_file: str | None = None) -> Architecture:
    """The architecture of a model, without its weights and without the network.

    Args:
        model: a directory with config.json, a hub id that was downloaded before, or one of Qwen/Qwen3-0.6B, 1.7B, 4B, 8B.
        gguf_file: the file in the directory that holds the weights and says what config.json would.

    Raises:
        ConfigError: none of these.
        NoEstimateError: a family whose weights cannot be counted.
    """
    named = _named(model)
    if named is not None:
        return named
    config = read_config(model, gguf_file)
    if config.model_type in _FAMILIES:
        return Architecture.from_config(config.to_dict())
    measured = importlib.import_module(".measured", __package__)  # needs torch
    architecture: Architecture = measured.measure_architecture(config)
    return architecture


def read_config(model: str, gguf_file: str | None = None) -> Any:
    """transformers' configuration of a model; see `read_architecture`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reading the model {model!r}", "transformers", "train") from error
    named = _named(model)
    if named is not None:
        return transformers.Qwen3Config(
            vocab_size=named.vocab,
            hidden_size=named.hidden,
            intermediate_size=named.intermediate,
            num_hidden_layers=named.layers,
            num_attention_heads=named.heads,
            num_key_value_heads=named.kv_heads,
            head_dim=named.head_dim,
            tie_word_embeddings=named.tied,
            max_position_embeddings=named.positions,
        )
    given = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        return transformers.AutoConfig.from_pretrained(model, local_files_only=True, **given)
    except Exception as error:  # the file system and any configuration may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the architecture of {model!r} is not known here ({reason}): give a directory with config.json, or download "
            "the model first"
        ) from error


def _named(model: str) -> Architecture | None:
    """The architecture of a published model whose sizes are known here."""
    match = _QWEN3_NAME.fullmatch(model)
    if match is None or match[1] not in _QWEN3 or os.path.isdir(model):
        return None
    layers, hidden, heads, intermediate, tied = _QWEN3[match[1]]
    positions = _QWEN3_POSITIONS[match[2] or ""]
    return Architecture(layers, hidden, heads, 8, 128, intermediate, 151_936, positions, tied, qk_norm=True)
