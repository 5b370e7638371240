"""Opens Hugging Face models from directories and from the hub: safetensors only, and no code that comes with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from searchgym.errors import ConfigError, did_you_mean

__all__ = ["DTYPES", "check_dtype", "check_path", "open_device", "open_model", "open_tokenizer", "quietly"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def open_device(owner: str, name: str) -> torch.device:
    """The device of that name; "auto": a GPU where there is one.

    Args:
        owner: who wants it, as errors begin, such as "judge 'local'".
        name: as torch writes it.

    Raises:
        ConfigError: it cannot be used here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (
        RuntimeError,
        AssertionError,
        TypeError,
    ) as error:  # torch raises an assertion for a build without
        raise ConfigError(f"{owner}: device {name!r} cannot be used here: {error}") from error
    return device


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars, which would run through the live view of a training run."""
    logging: Any = transformers_logging  # partly untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_path(owner: str, option: str, path: object) -> str:
    """The path, if it is a directory or may be the id of a model on the hub.

    Raises:
        ConfigError: neither.
    """
    if not isinstance(path, str) or not path:
        raise ConfigError(f"{owner}: {option} is {path!r}: give a directory or the id of a model on the hub")
    if not os.path.isdir(path) and (path.count("/") > 1 or path.startswith((".", "/", "~"))):
        raise ConfigError(f"{owner}: there is no directory {path!r}")
    return path


def check_dtype(owner: str, dtype: str, known: tuple[str, ...] = DTYPES) -> None:
    """Raises `ConfigError` for a dtype not among the known."""
    if dtype not in known:
        raise ConfigError(
            f"{owner}: dtype is {dtype!r}.{did_you_mean(str(dtype), known)} Known: {', '.join(known)}."
        )


def open_tokenizer(owner: str, path: str, revision: str | None = None) -> Any:
    """The tokenizer of a model.

    Raises:
        ConfigError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # a hub, a file system and any tokenizer may raise anything
        raise _not_loaded(owner, path, error) from error


def open_model(
    owner: str, path: str, dtype: str, revision: str | None = None, attention: str | None = None
) -> Any:
    """A causal language model in evaluation mode, on the CPU.

    Args:
        owner: who wants it.
        path: directory or id.
        dtype: of `DTYPES`; "auto": the one the weights are stored in.
        revision: branch, tag or commit on the hub.
        attention: transformers' implementation; None: "sdpa", or "eager" where scores have a soft cap, which sdpa
            leaves out.

    Raises:
        ConfigError: no model there, or one that lacks weights.
    """
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        loader: Any = AutoModelForCausalLM  # its annotations know nothing of `output_loading_info`
        with quietly():
            model, found = loader.from_pretrained(
                path,
                revision=revision,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
                attn_implementation=attention or ("eager" if capped else "sdpa"),
            )
    except Exception as error:  # a hub, a file system and any architecture may raise anything
        raise _not_loaded(owner, path, error) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigError(f"{owner}: {path!r} lacks weights of its own architecture: {missing[0]}, …")
    return model.eval()


def _not_loaded(owner: str, path: str, error: Exception) -> ConfigError:
    return ConfigError(f"{owner}: no model can be loaded from {path!r}: {type(error).__name__}: {error}")
