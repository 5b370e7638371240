"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft, in peft's own file format."""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from searchgym.errors import CheckpointError, ConfigError, MissingExtraError, did_you_mean
from searchgym.files import check_files

from ..lm.cached_forward import decoder_of
from ..lm.weights import check_tensors
from ..options import read_options
from .narrow_lora import multiply_narrowly
from .targets import ALL_LINEAR, in_feed_forward, is_mixture, is_target

__all__ = ["Adapter", "LoraOptions", "adapter_base", "saved_options"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_FUSED = (
    "falcon_h1",
    "nemotron_h",
)  # peft refuses out_proj: fused kernels of these read its weight past the adapter


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Options of an adapter.

    Attributes:
        rank: rank of the two matrices whose product is added to a weight.
        alpha: the product is multiplied by alpha / rank; None: twice the rank.
        targets: names of the linear layers that are adapted; "all-linear": all of the decoder; in a mixture of
            experts only those of the attention, because experts have most of the weights and each sees few of the
            tokens. Name the experts' matrices to adapt them too, e.g. ["q_proj", "gate_proj", "up_proj", "down_proj"].

    Raises:
        ConfigError: a value that cannot be used.
    """

    rank: int = 16
    alpha: float | None = None
    targets: str | Sequence[str] = ALL_LINEAR

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ConfigError(f"lora rank is {self.rank!r}: give a whole number >= 1")
        if self.alpha is not None and not (isinstance(self.alpha, int | float) and self.alpha > 0):
            raise ConfigError(f"lora alpha is {self.alpha!r}: give a positive number")

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> LoraOptions:
        """From the value of the option `lora`.

        Raises:
            UnknownIdError: an unknown name.
            ConfigError: a value that cannot be used.
        """
        if not isinstance(options, Mapping):
            raise ConfigError(f'lora is {options!r}: give a dict like {{"rank": 16, "alpha": 32}}')
        return read_options("lora", cls, options)


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """peft 0.21 reads an attribute that transformers 5.24 has renamed: a warning at every start, and nothing a user can do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ModuleNotFoundError as missing:
        raise MissingExtraError("lora", missing.name or "peft", "train") from missing


def adapter_base(directory: str) -> str | None:
    """Path or id of the model that the adapter in a directory belongs to; None where there is no adapter.

    Raises:
        ConfigError: the adapter's configuration cannot be read or does not name a model.
    """
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}") from error
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"{path} does not name a base model: write its path under 'base_model_name_or_path'"
        )
    return base


def _linear_layers(model: Any) -> list[str]:
    """The layers that "all-linear" means where peft would find too many; empty for other models, where peft finds them.

    Those are mixtures of experts, of which the experts and the router are left out; models with more than a decoder, such
    as a vision tower, which has no part in texts; and Mamba layers, whose fused training kernel reads the weight of `out_proj`
    itself, so that an adapter there would be sampled with and not trained.
    """
    modules = dict(model.named_modules())
    linear = {name: module for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    head = model.get_output_embeddings()
    decoder = {id(module) for module in decoder_of(model).modules()}
    inside = [name for name, module in linear.items() if id(module) in decoder and module is not head]
    fused = {n for n in inside if n.endswith(".out_proj") and _is_mamba(modules[n.rpartition(".")[0]])}
    mixture = is_mixture(modules)
    if mixture or fused:
        return [n for n in inside if n not in fused and not (mixture and in_feed_forward(n))]
    outside = [name for name, module in linear.items() if id(module) not in decoder and module is not head]
    return inside if outside else []


def _is_mamba(module: torch.nn.Module) -> bool:
    """Whether a layer is a state space model of Mamba's kind, by its parameters: the classes have many names."""
    return hasattr(module, "A_log") and hasattr(module, "D")


def _check_matched(model: Any) -> None:
    """Refuse a target that no layer has: peft passes over it as long as another one matches."""
    targets, adapted = model.peft_config["default"].target_modules, model.base_model.targeted_module_names
    for target in sorted(targets) if not isinstance(targets, str) else ():
        if not any(is_target(name, [target]) for name in adapted):
            leaves = {
                name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)
            }
            known = sorted(
                {*(name.rpartition(".")[2] for name in adapted), *leaves} - {"base_layer", "default"}
            )
            raise ConfigError(
                f"lora target {target!r} is not a linear layer of this model.{did_you_mean(target, known)} It has "
                f"{', '.join(known)}."
            )


def saved_options(directory: str) -> LoraOptions:
    """Rank, alpha and targets of a saved adapter.

    Args:
        directory: the adapter's directory.

    Raises:
        ConfigError: the adapter's configuration cannot be read.
    """
    path = Path(directory) / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
        targets = config["target_modules"] or ()
        names = targets if isinstance(targets, str) else tuple(map(str, targets))
        return LoraOptions(config["r"], config["lora_alpha"], names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error!r}") from error


class Adapter:
    """A model with an adapter.

    Attributes:
        model: peft's wrapper; only the adapter's weights require gradients.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        multiply_narrowly(model)

    @property
    def idle(self) -> bool:
        """Whether the adapter still has no effect: its second matrices start at zero."""
        return not any(bool(p.any()) for name, p in self.model.named_parameters() if "lora_B" in name)

    @classmethod
    def add(cls, base: Any, options: LoraOptions, path: str, seed: int) -> Adapter:
        """A new adapter, which has no effect yet.

        Args:
            base: transformers' model.
            options: shape of the adapter.
            path: directory or id of the model, for the adapter's configuration.
            seed: seed of the initial weights.

        Raises:
            ConfigError: the target layers do not exist or cannot be adapted.
        """
        peft = _peft()
        targets = options.targets if isinstance(options.targets, str) else list(options.targets)
        if targets == ALL_LINEAR:
            targets = _linear_layers(base) or targets
        alpha = 2 * options.rank if options.alpha is None else options.alpha
        config = peft.LoraConfig(
            r=options.rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                with _without_deprecation():
                    model = peft.get_peft_model(base, config)
            except ValueError as error:
                raise ConfigError(f"lora targets {options.targets!r} cannot be used: {error}") from error
        _check_matched(model)
        config.base_model_name_or_path = os.path.abspath(path) if os.path.isdir(path) else path
        return cls(model)

    @classmethod
    def open(cls, base: Any, directory: str) -> Adapter:
        """A saved adapter.

        Args:
            base: transformers' model that it belongs to.
            directory: the adapter's directory.

        Raises:
            ConfigError: it cannot be read or is not a LoRA adapter.
        """
        check_files(Path(directory))
        try:
            with _without_deprecation():
                model = _peft().PeftModel.from_pretrained(base, directory, is_trainable=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigError(f"the adapter in {directory!r} cannot be read: {error}") from error
        kind = type(model.peft_config["default"]).__name__
        if kind != "LoraConfig":
            raise ConfigError(f"the adapter in {directory!r} is not a LoRA adapter: {kind}")
        return cls(model)

    def disabled(self) -> AbstractContextManager[None]:
        """A context in which the model ignores the adapter."""
        context: AbstractContextManager[None] = self.model.disable_adapter()
        return context

    def describe(self) -> dict[str, Any]:
        """Shape of the adapter, as JSON."""
        config = self.model.peft_config["default"]
        targets = config.target_modules
        shape = {
            "rank": config.r,
            "alpha": config.lora_alpha,
            "targets": targets if isinstance(targets, str) else sorted(targets or ()),
        }
        parameters = getattr(
            config, "target_parameters", None
        )  # experts that are one tensor have no layers to name
        return {**shape, "parameters": sorted(parameters)} if parameters else shape

    def save(self, directory: Path) -> None:
        """Write weights and configuration in peft's format."""
        self.model.save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)

    def load(self, directory: Path) -> None:
        """Load saved weights; the adapter is unchanged when they do not fit.

        Raises:
            CheckpointError: the file is missing, damaged or of another shape.
        """
        path = directory / WEIGHTS_FILE
        try:
            tensors = load_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file: give a directory written by `save`") from error
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        ours = _peft().get_peft_model_state_dict(self.model, save_embedding_layers=False)
        check_tensors(path, ours, tensors)
        # In place: torch's `load_state_dict` fails where FSDP has put whole weights in the place of its shards.
        with torch.no_grad():
            for name, tensor in tensors.items():
                ours[name].copy_(tensor)
