"""Opens corpora and retrievers from JSON values, as `gym.make` takes them.

A spec is a registered name ("country", "bm25"), a path (of a directory with passages.jsonl, of a file of passages, or
of a built index), or a mapping {"name": …, **options}: a dict, or e.g. a `DictConfig` of Hydra. What was opened is shared within the process, so that sixty-four
environments hold one index.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .errors import ConfigError, MissingSecret, PluginError, UnknownIdError, expand
from .options import integer, plain, plugins
from .records.question import Corpus
from .records.retriever import CACHE_BYTES, CachedRetriever, Retriever

__all__ = ["ByIdentity", "Spec", "open_corpus", "open_retriever"]

Spec = str | Mapping[str, Any]


def split_spec(kind: str, spec: Spec) -> tuple[str, dict[str, Any]]:
    spec = plain(kind, spec)
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, dict) and isinstance(spec.get("name"), str):
        return spec["name"], {k: v for k, v in spec.items() if k != "name"}
    raise ConfigError(f'{kind} is {spec!r}: give a name, or a dict like {{"name": …, "option": …}}')


def open_corpus(spec: Spec | Corpus) -> Corpus:
    """Open a corpus by name, path or dict; a `Corpus` object is returned as it is.

    Raises:
        UnknownIdError: neither a registered name nor a path.
        CorpusError: the files cannot be used.
        ConfigError: an option the corpus does not take.
    """
    if not isinstance(spec, str | Mapping) and isinstance(spec, Corpus):
        return spec
    name, options = split_spec("corpus", spec)
    if name not in plugins.names("corpora"):
        if not os.path.exists(name):
            raise UnknownIdError("corpus", name, plugins.names("corpora"), "It is not a path either.")
        name, options = "jsonl", {"path": os.path.abspath(name), **options}
    return _open_corpus(name, _canonical("corpus", name, options), _stamp(options))


def _canonical(kind: str, name: str, options: dict[str, Any]) -> str:
    try:
        return json.dumps(options, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"an option of {kind} {name!r} is not a JSON value: {error}") from error


def _stamp(options: dict[str, Any]) -> tuple[Any, ...]:
    """Where the options' paths lead now, and what lies there: what was changed meanwhile is opened anew."""
    values = (one for value in options.values() for one in (value if isinstance(value, list) else [value]))
    return tuple(_lies_at(path) for path in values if isinstance(path, str) and os.path.exists(path))


def _lies_at(path: str) -> tuple[Any, ...]:
    real = os.path.realpath(path)
    if not os.path.isdir(path):
        facts = os.stat(path)
        return (real, facts.st_size, facts.st_mtime_ns)
    with os.scandir(path) as entries:
        return (
            real,
            *sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.is_file()),
        )


@lru_cache(maxsize=8)
def _open_corpus(name: str, options: str, stamp: tuple[Any, ...]) -> Corpus:
    corpus = call_factory("corpus", name, plugins.load("corpora", name), (), json.loads(options))
    if not isinstance(corpus, Corpus):
        raise PluginError(f"corpus {name!r} gave a {type(corpus).__name__}, not a searchgym Corpus")
    return corpus


def open_retriever(spec: Spec | Retriever, corpus: Corpus, *, cached: bool = True) -> Retriever:
    """Open a retriever over a corpus, behind the query cache; a `Retriever` object is returned as it is.

    Args:
        spec: the name may be the path of a built index (`searchgym index build`). In a dict, the option `cache_bytes` is the
            memory that the query cache may take, for every retriever.
        corpus: what is searched.
        cached: False for no cache, because the caller has one.

    Raises:
        UnknownIdError: neither a registered name nor a directory.
        IndexMismatchError: the directory holds no usable index of this corpus.
        ConfigError: an option the retriever does not take.
    """
    if not isinstance(spec, str | Mapping) and isinstance(spec, Retriever):
        return spec
    name, options = split_spec("retriever", spec)
    size = integer("cache_bytes", options.pop("cache_bytes", CACHE_BYTES), 0)
    if name not in plugins.names("retrievers") and os.path.isdir(name):
        name, options = "index-directory", {"path": os.path.abspath(name), **options}
    retriever = open_shared("retriever", name, options, corpus)
    if not isinstance(retriever, Retriever):
        raise PluginError(f"retriever {name!r} gave a {type(retriever).__name__}, not a searchgym Retriever")
    return _behind_cache(ByIdentity(retriever), size) if cached else retriever


def open_shared(kind: str, name: str, options: dict[str, Any], corpus: Corpus | None) -> Any:
    """What a registered factory of retrievers or judges gives for a corpus; the same object for the same call."""
    # Keyed by the corpus object's identity: the entry holds a reference, so the identity cannot be reused.
    canonical, stamp = _canonical(kind, name, options), _stamp(options)
    return _open_shared(kind, name, canonical, ByIdentity(corpus), stamp)


class ByIdentity:
    """A corpus or a retriever as a cache key: neither need be hashable.

    Args:
        value: the object, or None.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.value is self.value


@lru_cache(maxsize=16)
def _open_shared(kind: str, name: str, options: str, key: ByIdentity, stamp: tuple[Any, ...]) -> Any:
    return call_factory(kind, name, plugins.load(f"{kind}s", name), (key.value,), json.loads(options))


@lru_cache(maxsize=16)
def _behind_cache(retriever: ByIdentity, size: int) -> CachedRetriever:
    """The same cache for the same retriever and size."""
    return CachedRetriever(retriever.value, size)


def call_factory(kind: str, name: str, factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a factory; an option it does not take is the user's mistake, said as one.

    References `${NAME}` to credentials are replaced here and nowhere earlier, so that specs can be stored as they are.
    """
    options = plain(f"the options of {kind} {name!r}", options)
    bind_options(kind, name, factory, args, options)
    try:
        options = expand(options)
    except MissingSecret as error:
        raise ConfigError(f"{kind} {name!r}: {error}") from None
    return factory(*args, **options)


def bind_options(
    kind: str, name: str, factory: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """The options a factory would be called with, defaults included.

    Raises:
        UnknownIdError: an option it does not take.
        ConfigError: one it needs is missing.
    """
    try:
        bound = inspect.signature(factory).bind(*args, **options)
    except TypeError as error:
        known = [
            p.name
            for p in inspect.signature(factory).parameters.values()
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
        ][len(args) :]
        unknown = [o for o in options if o not in known]
        if unknown:
            raise UnknownIdError(f"option of {kind} {name!r}:", unknown[0], known) from error
        raise ConfigError(f"{kind} {name!r}: {error}") from error
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[len(args) :])
