"""Text encoders for dense retrieval: sentence-transformers models, with the prefixes of `model_files` or of the options.

Queries are encoded one at a time: the floating-point sums of a matrix product depend on the shape of the batch, and a
query must get the same vector alone and in a batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, MissingExtraError, RetrievalError
from searchgym.options import check_known, choice, integer, mapping, text

from .model_files import MINILM, check_modules, find_prefixes, locate_encoder, model_files
from .threads import torch_threads

__all__ = ["MAX_CHARACTERS", "Encoder", "EncoderOptions", "EncoderSpec"]

MAX_CHARACTERS = 20_000
"""Characters of a text that are read; encoders read 256 to 8,192 tokens anyway."""

_DTYPES = ("float32", "bfloat16", "float16")
_FINGERPRINTED = ("river", " ".join(f"Which river number {n} flows through the town?" for n in range(24)))

# Tokenizers are not thread-safe, and torch's thread count applies to the whole process.
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a forked worker must not inherit a lock that is held
    os.register_at_fork(after_in_child=_renew_lock)


EncoderSpec = str | Mapping[str, Any]
"""The name of an encoder, or a dict of the options of `EncoderOptions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """An encoder, and how it is used.

    Attributes:
        name: "minilm", the directory of a sentence-transformers model, or its id on the Hugging Face Hub.
        revision: commit, tag or branch, for a model of the hub.
        query_prefix: put before queries; None for the prefix the model is known to need.
        passage_prefix: put before passages; None for the prefix the model is known to need.
        max_length: tokens read of a text; None for the model's own limit.
        dtype: number format of the weights while encoding: "float32", "bfloat16" or "float16".
        device: e.g. "cuda:1"; None for a CUDA device if there is one, else the CPU.
        threads: CPU threads of the encoder, and of faiss; None for one when searching, and all when building.

    Raises:
        ConfigError: an option has a value that cannot be used.
    """

    name: str = MINILM
    revision: str | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_length: int | None = None
    dtype: str = "float32"
    device: str | None = None
    threads: int | None = None

    @classmethod
    def parse(cls, spec: EncoderSpec) -> EncoderOptions:
        """The options in a specification, with a directory as an absolute path.

        Raises:
            UnknownIdError: an unknown option.
            ConfigError: an option has a value that cannot be used.
        """
        options = {"name": spec} if isinstance(spec, str) else mapping("encoder", spec)
        check_known("the encoder", cls, options)
        parsed = cls(**options)
        if parsed.name != MINILM and Path(parsed.name).expanduser().is_dir():
            return replace(parsed, name=str(Path(parsed.name).expanduser().absolute()))
        return parsed

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(
                f"encoder name is {self.name!r}: give {MINILM!r}, a directory, or a repository id of the hub"
            )
        choice("encoder dtype", self.dtype, _DTYPES)
        for option in ("max_length", "threads"):
            if getattr(self, option) is not None:
                integer(f"encoder {option}", getattr(self, option), 1)
        for option in ("revision", "query_prefix", "passage_prefix", "device"):
            if getattr(self, option) is not None:
                text(f"encoder {option}", getattr(self, option))


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model with its prefixes; its vectors have length 1. The model is loaded on first use.

    Attributes:
        path: the directory of the model.
        identity: what determines its vectors, as JSON values: model, query_prefix, passage_prefix, max_length, dtype.
            Part of the key of every index built with it.
        device: see `EncoderOptions`.
        threads: see `EncoderOptions`.
    """

    path: Path
    identity: dict[str, Any]
    device: str | None = None
    threads: int | None = None

    @classmethod
    def find(cls, spec: EncoderSpec) -> Encoder:
        """The encoder of a specification; a model of the hub that is not on this machine is downloaded.

        Args:
            spec: a name, or a dict of the options of `EncoderOptions`.

        Raises:
            ConfigError: no such model, one that needs Python code of its own, or an option has a value that cannot be used.
            MissingExtraError: "minilm" without its package.
        """
        options = EncoderOptions.parse(spec)
        path, model = locate_encoder(options.name, options.revision)
        check_modules(path)
        query, passage = find_prefixes(options.name, path)
        identity = {
            "model": model,
            "query_prefix": query if options.query_prefix is None else options.query_prefix,
            "passage_prefix": passage if options.passage_prefix is None else options.passage_prefix,
            "max_length": options.max_length,
            "dtype": options.dtype,
        }
        return cls(path, identity, options.device, options.threads)

    @property
    def query_prefix(self) -> str:
        """Put before every query."""
        return str(self.identity["query_prefix"])

    @property
    def passage_prefix(self) -> str:
        """Put before every passage."""
        return str(self.identity["passage_prefix"])

    @cached_property
    def dimension(self) -> int:
        """The number of components of a vector.

        Raises:
            ConfigError: the encoder gives vectors that are not finite.
        """
        try:
            return len(self.encode_query("dimension"))
        except RetrievalError as error:
            raise ConfigError(f"{error}: use dtype float32, or another encoder") from error

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the vectors of a short and a long query.

        Encoders whose fingerprints are equal compute the same bits. Other processors, devices, numbers of threads and
        versions of torch do not.
        """
        state = hashlib.blake2b(digest_size=16)
        for query in _FINGERPRINTED:
            state.update(self.encode_query(query).tobytes())
        return state.hexdigest()

    @cached_property
    def on_gpu(self) -> bool:
        """Whether it computes on a CUDA device."""
        return self._device.startswith("cuda")

    @cached_property
    def weights(self) -> int:
        """The size of the model's weight files, in bytes."""
        return sum(
            file.stat().st_size for file in model_files(self.path) if file.suffix in (".safetensors", ".bin")
        )

    @cached_property
    def max_tokens(self) -> int:
        """Tokens read of a text at most."""
        return int(self._model.max_seq_length or 512)

    @cached_property
    def operations(self) -> float:
        """Multiplications per token: the number of weights in the layers, without the word embeddings."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            config = json.loads((self.path / "config.json").read_text("utf-8"))
            return float(12 * config["num_hidden_layers"] * config["hidden_size"] ** 2)
        return self.weights / 4

    def encode_query(self, query: str) -> NDArray[np.float32]:
        """The vector of one query, float32 [dimension], of length 1. Any string is accepted.

        Raises:
            RetrievalError: a component is not a finite number.
        """
        with _lock, torch_threads(self.threads or 1):
            found = self._model.encode_query(
                [_encodable(query)], prompt=self.query_prefix, **self._arguments(1)
            )
        vector = np.asarray(found[0], np.float32)
        if not np.isfinite(vector).all():
            raise RetrievalError(
                f"encoder {self.path.name!r} gives a vector that is not finite for query {query[:60]!r}"
            )
        return vector

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of passages, float32 [texts, dimension], each of length 1.

        Raises:
            ConfigError: a component is not a finite number.
        """
        # On a CPU, padding costs more than small batches: 24 passages per second at 8, 18 at 64 (MiniLM).
        batch = 256 if self.on_gpu else 8
        with _lock, torch_threads(self.threads):
            found = self._model.encode_document(
                [_encodable(text) for text in texts], prompt=self.passage_prefix, **self._arguments(batch)
            )
        vectors = np.asarray(found, np.float32)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise ConfigError(
                f"encoder {self.path.name!r} gives a vector that is not finite for the passage that begins with "
                f"{texts[int(bad[0])][:60]!r}: use dtype float32, or another encoder"
            )
        return vectors

    def _arguments(self, batch: int) -> dict[str, Any]:
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
        check_modules(self.path)
        bars = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()
        try:
            model = sentence_transformers.SentenceTransformer(
                str(self.path),
                device=self._device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"torch_dtype": getattr(torch, self.identity["dtype"])},
            )
        except Exception as error:  # files from anywhere may raise anything
            raise ConfigError(
                f"the encoder in {self.path} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        finally:
            if bars:
                transformers.utils.logging.enable_progress_bar()
        if self.identity["max_length"] is not None:
            model.max_seq_length = self.identity["max_length"]
        return model.eval()

    def __reduce__(self) -> tuple[Any, ...]:  # a worker loads the model itself
        return (Encoder, (self.path, self.identity, self.device, self.threads))


def _encodable(text: str) -> str:
    """At most `MAX_CHARACTERS`, without lone surrogates, which no tokenizer accepts."""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
