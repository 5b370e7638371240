"""The tiny causal language model: Qwen3's architecture through transformers, with fewer than a million weights.

A saved model is a directory with `config.json` (a Qwen3 configuration that `transformers` can also read) and
`model.safetensors` (float32). Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from transformers import Qwen3Config, Qwen3ForCausalLM

from searchgym.errors import CheckpointError, ConfigError
from searchgym.files import check_files, forget_checksums, read_bytes, read_json, write_bytes, write_text

from ..lm.weights import check_tensors

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "TinyConfig",
    "build_model",
    "load_model",
    "load_weights",
    "read_config",
    "save_model",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_HF_NAMES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "tie_embeddings": "tie_word_embeddings",
    "init_std": "initializer_range",
}


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """Shape of the model.

    Attributes:
        vocab_size: number of token ids.
        width: size of the residual stream.
        layers: number of decoder layers.
        heads: number of query heads.
        kv_heads: number of key-value heads; divides `heads`.
        head_dim: size of one head; even, because rotary embeddings rotate pairs.
        mlp_ratio: width of the gated MLP divided by `width`.
        max_positions: longest context in tokens.
        rope_theta: base of the rotary embedding; a small one suits short contexts.
        tie_embeddings: whether input and output embeddings are one matrix.
        init_std: standard deviation of the initial weights.

    Raises:
        ConfigError: a value that cannot be used.
    """

    vocab_size: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 16
    mlp_ratio: float = 3.0
    max_positions: int = 1024
    rope_theta: float = 10_000.0
    tie_embeddings: bool = True
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "tie_embeddings" and not value > 0:
                raise ConfigError(f"model {field.name} is {value!r}: give a positive number")
        if self.heads % self.kv_heads:
            raise ConfigError(f"model heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ConfigError(f"model head_dim is {self.head_dim}: rotary embeddings need an even number")

    @property
    def mlp_width(self) -> int:
        """Width of the gated MLP."""
        return round(self.width * self.mlp_ratio)

    def to_json(self) -> dict[str, Any]:
        """The configuration with the names of a Qwen3 `config.json`."""
        values = asdict(self)
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "torch_dtype": "float32",
            **{hf: values[own] for own, hf in _HF_NAMES.items()},
            "intermediate_size": self.mlp_width,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TinyConfig:
        """The inverse of `to_json`.

        Raises:
            CheckpointError: it is not a configuration of this architecture.
        """
        if data.get("model_type") != "qwen3":
            raise CheckpointError(f"model_type is {data.get('model_type')!r}, the tiny agent reads 'qwen3'")
        try:
            values = {own: data[hf] for own, hf in _HF_NAMES.items()}
            return cls(**values, mlp_ratio=data["intermediate_size"] / data["hidden_size"])
        except (KeyError, TypeError, ZeroDivisionError, ConfigError) as error:
            raise CheckpointError(f"not a usable model configuration: {error!r}") from error


def build_model(config: TinyConfig, seed: int) -> Qwen3ForCausalLM:
    """A new model with random weights, float32, in evaluation mode; torch's global generator is left unchanged.

    Args:
        config: shape of the model.
        seed: seed of the weights.
    """
    hf_config = Qwen3Config.from_dict(config.to_json())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen3ForCausalLM(hf_config)
    built: Qwen3ForCausalLM = model.float().eval()
    return built


def save_model(model: Qwen3ForCausalLM, config: TinyConfig, directory: str | os.PathLike[str]) -> None:
    """Write `config.json` and `model.safetensors`; each file is written completely or not at all."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    forget_checksums(folder)
    text = json.dumps(config.to_json(), indent=2) + "\n"
    write_text(folder / CONFIG_FILE, text)
    tensors = {name: t.detach().contiguous() for name, t in _own_weights(model, config).items()}
    write_bytes(folder / WEIGHTS_FILE, save_tensors(tensors, metadata={"format": "pt"}))


def read_config(directory: str | os.PathLike[str]) -> TinyConfig:
    """The configuration of a saved model.

    Raises:
        CheckpointError: it is missing, damaged or of another architecture.
    """
    path = Path(directory) / CONFIG_FILE
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file: give a directory written by `save`") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a model configuration")
    try:
        return TinyConfig.from_json(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_model(directory: str | os.PathLike[str]) -> tuple[Qwen3ForCausalLM, TinyConfig]:
    """A saved model and its configuration.

    Raises:
        CheckpointError: it is missing or damaged, or its weights do not fit its own `config.json`.
    """
    config = read_config(directory)
    model = build_model(config, seed=0)
    load_weights(model, config, directory)
    return model, config


def load_weights(model: Qwen3ForCausalLM, config: TinyConfig, directory: str | os.PathLike[str]) -> None:
    """Copy saved weights into `model`, which is unchanged if they do not fit.

    Raises:
        CheckpointError: the file is missing or damaged, or has other names or shapes or values that are not finite.
    """
    path = Path(directory) / WEIGHTS_FILE
    try:
        content = read_bytes(path)
        check_files(path.parent, {WEIGHTS_FILE: content})
        loaded = load_tensors(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file: give a directory written by `save`") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    expected = _own_weights(model, config)
    check_tensors(path, expected, loaded)
    with torch.no_grad():
        for name, tensor in loaded.items():
            expected[name].copy_(tensor)


def _own_weights(model: Qwen3ForCausalLM, config: TinyConfig) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = model.state_dict()
    if config.tie_embeddings:
        state.pop("lm_head.weight", None)
    return state
