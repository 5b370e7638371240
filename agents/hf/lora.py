"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft, written and read as peft itself does it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from searchgym.errors import CheckpointError, ConfigError, MissingExtraError, did_you_mean

from ..lm.weights import check_tensors

__all__ = ["Adapter", "LoraOptions", "adapter_base"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """What an adapter is.

    Attributes:
        rank: of the two matrices whose product is added to a weight.
        alpha: the product is multiplied by alpha / rank; None: twice the rank.
        targets: names of the linear layers that get one; "all-linear": all but the head.
    """

    rank: int = 16
    alpha: float | None = None
    targets: str | Sequence[str] = "all-linear"

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ConfigError(f"lora rank is {self.rank!r}: give a whole number >= 1")
        if self.alpha is not None and not (isinstance(self.alpha, int | float) and self.alpha > 0):
            raise ConfigError(f"lora alpha is {self.alpha!r}: give a positive number")

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> LoraOptions:
        """From the option `lora`.

        Raises:
            ConfigError: an unknown name or a value that cannot be used.
        """
        if not isinstance(options, Mapping):
            raise ConfigError(f'lora is {options!r}: give a dict like {{"rank": 16, "alpha": 32}}')
        for name in options:
            if name not in cls.__slots__:
                raise ConfigError(
                    f"lora has no option {name!r}.{did_you_mean(str(name), cls.__slots__)} "
                    f"Known: {', '.join(cls.__slots__)}."
                )
        return cls(**options)


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as missing:
        raise MissingExtraError("lora", missing.name or "peft", "train") from missing


def adapter_base(directory: str) -> str | None:
    """The model that the adapter in a directory belongs to; None where there is no adapter.

    Raises:
        ConfigError: its configuration cannot be read or names no model.
    """
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}") from error
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path} names no base model: write its path under 'base_model_name_or_path'")
    return base


class Adapter:
    """A model with an adapter.

    Attributes:
        model: peft's model around it; only the adapter's weights require gradients.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def idle(self) -> bool:
        """Whether it does nothing yet: the second matrices start at zero."""
        return not any(bool(p.any()) for name, p in self.model.named_parameters() if "lora_B" in name)

    @classmethod
    def add(cls, base: Any, options: LoraOptions, path: str, seed: int) -> Adapter:
        """A new adapter around a model from `path`; it changes nothing yet.

        Raises:
            ConfigError: no such layers, or layers that cannot have one.
        """
        peft = _peft()
        targets = options.targets if isinstance(options.targets, str) else list(options.targets)
        alpha = 2 * options.rank if options.alpha is None else options.alpha
        config = peft.LoraConfig(
            r=options.rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model = peft.get_peft_model(base, config)
            except ValueError as error:
                raise ConfigError(f"lora targets {options.targets!r} cannot be used: {error}") from error
        config.base_model_name_or_path = os.path.abspath(path) if os.path.isdir(path) else path
        return cls(model)

    @classmethod
    def open(cls, base: Any, directory: str) -> Adapter:
        """A saved adapter around its model.

        Raises:
            ConfigError: it cannot be read or is no LoRA adapter.
        """
        try:
            model = _peft().PeftModel.from_pretrained(base, directory, is_trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigError(f"the adapter in {directory!r} cannot be read: {error}") from error
        kind = type(model.peft_config["default"]).__name__
        if kind != "LoraConfig":
            raise ConfigError(f"the adapter in {directory!r} is of another kind than LoRA: {kind}")
        return cls(model)

    def disabled(self) -> AbstractContextManager[None]:
        """The model without the adapter, for as long as the context lasts."""
        context: AbstractContextManager[None] = self.model.disable_adapter()
        return context

    def describe(self) -> dict[str, Any]:
        """Its shape, as JSON."""
        config = self.model.peft_config["default"]
        targets = config.target_modules
        return {
            "rank": config.r,
            "alpha": config.lora_alpha,
            "targets": targets if isinstance(targets, str) else sorted(targets),
        }

    def save(self, directory: Path) -> None:
        """Write weights and configuration as peft reads them."""
        self.model.save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)

    def load(self, directory: Path) -> None:
        """Take over saved weights; nothing is changed when they do not fit.

        Raises:
            CheckpointError: missing, damaged or of another shape.
        """
        path = directory / WEIGHTS_FILE
        try:
            tensors = load_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file: give a directory written by `save`") from error
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        peft = _peft()
        check_tensors(path, peft.get_peft_model_state_dict(self.model, save_embedding_layers=False), tensors)
        peft.set_peft_model_state_dict(self.model, tensors)
