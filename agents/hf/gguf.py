"""Weights in a GGUF file, llama.cpp's format: checked before they are read, and ordinary weights afterwards.

transformers turns the quantised tensors into ordinary ones, which train like any others. It still marks such a model as
quantised and refuses to save it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError

__all__ = ["check_gguf", "make_ordinary", "not_read"]

_MAGIC = b"GGUF"


def check_gguf(owner: str, directory: str, name: str) -> None:
    """Refuse what is not a GGUF file before transformers reads it, which takes up to a minute.

    Args:
        owner: what needs it, as error messages begin: "agent 'hf'".
        directory: the model's directory.
        name: the file in it.

    Raises:
        ConfigError: there is no such file, or it is not a GGUF file.
        MissingExtraError: the package gguf is not installed.
    """
    path = Path(directory) / name
    if not path.is_file():
        found = sorted(p.name for p in Path(directory).glob("*.gguf"))
        raise ConfigError(
            f"{owner}: gguf_file is {name!r}, which is not in {directory!r}: "
            f"{'give ' + ' or '.join(found) if found else 'there is no *.gguf file'}"
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf_file", "gguf", "gguf")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ConfigError(f"{owner}: {str(path)!r} is not a GGUF file: it does not start with GGUF")


def not_read(owner: str, path: str, name: str, error: Exception) -> ConfigError:
    """The error for a GGUF file that transformers could not read: it names the architecture, or how reading failed.

    Args:
        owner: see `check_gguf`.
        path: the model's directory.
        name: the file in it.
        error: what transformers raised.
    """
    file = Path(path) / name
    if "architecture" in str(error):
        return ConfigError(
            f"{owner}: transformers cannot read {str(file)!r}: {error} Use the model's safetensors files."
        )
    return ConfigError(
        f"{owner}: {str(file)!r} ({os.path.getsize(file)} bytes) cannot be read to its end, so it is incomplete or damaged: "
        f"get it again and compare its checksum ({type(error).__name__}: {error})"
    )


def make_ordinary(model: Any) -> None:
    """Remove the marks of quantisation from a model whose weights are ordinary tensors, so that it can be saved.

    Args:
        model: transformers' model, read from a GGUF file.
    """
    model.hf_quantizer, model.is_quantized = None, False
    for holder, names in (
        (model, ("quantization_method",)),
        (model.config, ("quantization_config", "_is_quantized")),
    ):
        for name in names:
            if name in vars(holder):
                delattr(holder, name)
