"""Opens Hugging Face models from directories and from the Hub: safetensors or GGUF, and no code that comes with a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, errors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from searchgym.errors import ConfigError, did_you_mean
from searchgym.files import check_files, policy_directory

from ..lm.cached_forward import decoder_of
from ..lm.half_precision import suits_bfloat16
from ..lm.huge_pages import place_model
from .gguf import check_gguf, make_ordinary, not_read
from .lora import Adapter, adapter_base
from .options import HFOptions
from .templates import give_template

__all__ = [
    "DTYPES",
    "ChatModel",
    "check_dtype",
    "check_path",
    "freeze_other_towers",
    "live_chat_model",
    "open_chat_model",
    "open_chat_tokenizer",
    "open_device",
    "open_model",
    "open_tokenizer",
    "quietly",
]

_PROBE = 10.0  # seconds to wait for the Hub
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A loaded chat model.

    Attributes:
        model: transformers' model, on its device.
        tokenizer: its tokenizer.
        adapter: the LoRA adapter around it, if any.
        source: directory or id that its own weights were loaded from.
        dtype: data type of the weights, "float32" or "bfloat16".
    """

    model: Any
    tokenizer: Any
    adapter: Adapter | None
    source: str
    dtype: str


def open_chat_model(owner: str, path: str, options: HFOptions) -> ChatModel:
    """A model with a chat template, with a new or a saved adapter where there is one.

    Args:
        owner: what needs it, as error messages begin: "agent 'hf'".
        path: a directory, the id of a model on the Hub, the directory of an adapter, or a training run or checkpoint.
        options: the agent's options.

    Raises:
        ConfigError: an option that cannot be used, a model that cannot be loaded, or one without a chat template.
    """
    device = open_device(owner, options.device)
    dtype = options.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    may_narrow = options.dtype == "auto" and device.type == "cpu"
    path = check_path(owner, "model", path)
    if os.path.isdir(path):
        path = str(policy_directory(path))
    base = adapter_base(path)
    lora = options.adapter()
    if base is not None:
        if lora is not None:
            raise ConfigError(f"{owner}: {path!r} is an adapter already: leave lora out, or give its model")
        base = check_path(owner, "base model of the adapter", base)
    source = path if base is None else base
    tokenizer = open_chat_tokenizer(owner, path, source, options.gguf_file, options.chat_template)
    model = open_model(owner, source, dtype, attention=options.attention, gguf_file=options.gguf_file)
    if may_narrow and suits_bfloat16(model.num_parameters()):
        model, dtype = model.to(torch.bfloat16), "bfloat16"
    freeze_other_towers(model)
    model = place_model(model, device)
    rows, largest = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ConfigError(
            f"{owner}: the tokenizer of {path!r} has ids up to {largest}, the model {rows} embeddings: they do "
            "not belong together"
        )
    adapter = None
    if base is not None:
        adapter = Adapter.open(model, path)
    elif lora is not None:
        adapter = Adapter.add(model, lora, path, options.seed)
    return ChatModel(model, tokenizer, adapter, source, dtype)


def live_chat_model(owner: str, model: Any, tokenizer: Any, options: HFOptions) -> ChatModel:
    """A model that is in memory already, e.g. the one that another project's trainer trains: nothing is copied.

    Args:
        owner: what needs it, as error messages begin: "agent 'hf'".
        model: transformers' model, or peft's around it, whose adapter is then part of what samples.
        tokenizer: its tokenizer.
        options: the agent's options.

    Raises:
        ConfigError: an option that says how a model is loaded, or a model without a tokenizer or a chat template.
    """
    for name in ("dtype", "device", "lora", "attention", "engine", "gguf_file"):
        given, default = getattr(options, name), HFOptions.__dataclass_fields__[name].default
        if given != default:
            raise ConfigError(
                f"{owner}: {name} is {given!r}, but a live model is used as it is: leave {name} out"
            )
    if tokenizer is None:
        raise ConfigError(f"{owner}: a live {type(model).__name__} needs its tokenizer: give tokenizer=…")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    source = str(getattr(base, "name_or_path", "") or type(base).__name__)
    give_template(owner, source, tokenizer, options.chat_template)
    return ChatModel(base, tokenizer, None, source, str(base.dtype).removeprefix("torch."))


def open_chat_tokenizer(
    owner: str, path: str, source: str, gguf_file: str | None, chat_template: str | None
) -> Any:
    """The tokenizer of a model or an adapter, with a chat template.

    Args:
        owner: what needs it, as error messages begin.
        path: directory or id of the model or the adapter.
        source: that of the model: `path`, or the adapter's base.
        gguf_file: the GGUF file of the model, if it is one.
        chat_template: a name or a file; None: the tokenizer's own.

    Raises:
        ConfigError: it cannot be loaded or has no chat template.
    """
    if gguf_file is not None:
        check_gguf(owner, source, gguf_file)
    # An adapter that was saved with its tokenizer may have a template that the base does not have.
    if path != source and (Path(path) / "tokenizer_config.json").is_file():
        tokenizer = open_tokenizer(owner, path)
    else:
        tokenizer = open_tokenizer(owner, source, gguf_file=gguf_file)
    give_template(owner, path, tokenizer, chat_template)
    return tokenizer


def freeze_other_towers(model: Any) -> None:
    """Freeze what has no part in texts, such as the vision tower of a multimodal model: it never gets a gradient.

    Args:
        model: transformers' model.
    """
    parts = [decoder_of(model), model.get_output_embeddings() or torch.nn.Identity()]
    used = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def open_device(owner: str, name: str) -> torch.device:
    """The device of that name.

    Args:
        owner: what needs it, as error messages begin: "judge 'local'".
        name: a torch device, or "auto": a GPU if there is one.

    Raises:
        ConfigError: the device cannot be used on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # an assertion where torch is built without it
        raise ConfigError(f"{owner}: device {name!r} cannot be used here: {error}") from error
    return device


@contextmanager
def quietly() -> Iterator[None]:
    """Hides transformers' progress bars, which would disturb the live view of a training run."""
    logging: Any = transformers_logging  # partly untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_path(owner: str, option: str, path: object) -> str:
    """The path, if it is a directory or may be the id of a model on the Hub.

    Args:
        owner: what needs it, as error messages begin.
        option: name of the option that holds it.
        path: the value of the option.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(path, str) or not path:
        raise ConfigError(
            f"{owner}: {option} is {path!r}: give a directory or the id of a model on the Hugging Face Hub"
        )
    if not os.path.isdir(path) and (path.count("/") > 1 or path.startswith((".", "/", "~"))):
        raise ConfigError(f"{owner}: there is no directory {path!r}")
    return path


def check_dtype(owner: str, dtype: str, known: tuple[str, ...] = DTYPES) -> None:
    """Check the name of a data type.

    Args:
        owner: what needs it, as error messages begin.
        dtype: the name.
        known: the names that can be used.

    Raises:
        ConfigError: an unknown name.
    """
    if dtype not in known:
        raise ConfigError(
            f"{owner}: dtype is {dtype!r}.{did_you_mean(str(dtype), known)} Known: {', '.join(known)}."
        )


def open_tokenizer(owner: str, path: str, revision: str | None = None, gguf_file: str | None = None) -> Any:
    """The tokenizer of a model.

    Args:
        owner: what needs it, as error messages begin.
        path: directory or id.
        revision: branch, tag or commit on the Hub.
        gguf_file: the GGUF file in the directory that holds it; None: the tokenizer's own files.

    Raises:
        ConfigError: it cannot be loaded.
    """
    offline = _unreachable(path)
    given = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        with quietly():
            return AutoTokenizer.from_pretrained(
                path, revision=revision, trust_remote_code=False, local_files_only=bool(offline), **given
            )
    except Exception as error:  # the Hub, the file system and any tokenizer may raise anything
        if gguf_file is not None:
            raise not_read(owner, path, gguf_file, error) from error
        raise _not_loaded(owner, path, error, offline) from error


def open_model(
    owner: str,
    path: str,
    dtype: str,
    revision: str | None = None,
    attention: str | None = None,
    gguf_file: str | None = None,
) -> Any:
    """A causal language model in evaluation mode, on the CPU.

    Args:
        owner: what needs it, as error messages begin.
        path: directory or id.
        dtype: one of `DTYPES`; "auto": the data type in which the weights are stored.
        revision: branch, tag or commit on the Hub.
        attention: transformers' implementation; None: "sdpa", or "eager" where scores have a soft cap, which sdpa
            ignores.
        gguf_file: the GGUF file in the directory that holds the weights; None: its safetensors files.

    Raises:
        ConfigError: it cannot be loaded, or weights are missing.
    """
    offline = _unreachable(path)
    local: dict[str, Any] = {"revision": revision, "local_files_only": bool(offline)}
    if gguf_file is not None:
        local["gguf_file"] = gguf_file
    if os.path.isdir(path):
        check_files(Path(path))
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, **local)
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        loader: Any = AutoModelForCausalLM  # its annotations do not mention `output_loading_info`
        with quietly():
            model, found = loader.from_pretrained(
                path,
                trust_remote_code=False,
                use_safetensors=gguf_file is None,
                dtype=dtype,
                output_loading_info=True,
                attn_implementation=attention or ("eager" if capped else "sdpa"),
                **local,
            )
    except Exception as error:  # the Hub, the file system and any architecture may raise anything
        if gguf_file is not None:
            raise not_read(owner, path, gguf_file, error) from error
        raise _not_loaded(owner, path, error, offline) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigError(f"{owner}: {path!r} lacks weights of its own architecture: {missing[0]}, …")
    if gguf_file is not None:
        make_ordinary(model)
    return model.eval()


def _unreachable(path: str) -> str:
    """Why the Hub cannot be reached for a model, or "": transformers retries for a minute before it says so."""
    if os.path.isdir(path) or constants.HF_HUB_OFFLINE:
        return ""
    try:
        HfApi().model_info(path, timeout=_PROBE)
    except (errors.HfHubHTTPError, errors.HFValidationError):
        return ""  # the Hub answered, or the name is not one: transformers explains what is wrong
    except Exception as error:  # whatever the HTTP client raises where there is no network
        return str(error) or type(error).__name__
    return ""


def _not_loaded(owner: str, path: str, error: Exception, offline: str) -> ConfigError:
    if offline:
        return ConfigError(
            f"{owner}: the model {path!r} is not on this machine, and {constants.ENDPOINT} cannot be reached "
            f"({offline}): give a directory, or download the model on a machine with a network"
        )
    return ConfigError(f"{owner}: no model can be loaded from {path!r}: {type(error).__name__}: {error}")
