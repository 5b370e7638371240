"""Opens corpora and retrievers from JSON values, as `gym.make` takes them.

A spec is a registered name ("country", "bm25"), a path (of a directory with passages.jsonl, of a file of passages, or
of a built index), or a dict {"name": …, **options}. What was opened is shared within the process, so that sixty-four
environments hold one index.
"""

from __future__ import annotations

import inspect
import json
import os
from functools import lru_cache
from typing import Any

from . import plugins
from .credentials import MissingSecret, expand
from .errors import ConfigError, PluginError, UnknownIdError
from .question import Corpus
from .retriever import CachedRetriever, Retriever

__all__ = ["ByIdentity", "Spec", "open_corpus", "open_retriever"]

Spec = str | dict[str, Any]


def split_spec(kind: str, spec: Spec) -> tuple[str, dict[str, Any]]:
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
    if not isinstance(spec, str | dict) and isinstance(spec, Corpus):
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


def open_retriever(spec: Spec | Retriever, corpus: Corpus) -> Retriever:
    """Open a retriever over a corpus, behind the query cache; a `Retriever` object is returned as it is.

    The name may be the path of a built index (`searchgym index build`).

    Raises:
        UnknownIdError: neither a registered name nor a directory.
        IndexMismatchError: the directory holds no usable index of this corpus.
        ConfigError: an option the retriever does not take.
    """
    if not isinstance(spec, str | dict) and isinstance(spec, Retriever):
        return spec
    name, options = split_spec("retriever", spec)
    if name not in plugins.names("retrievers") and os.path.isdir(name):
        name, options = "index-directory", {"path": os.path.abspath(name), **options}
    retriever = open_shared("retriever", name, options, corpus)
    if not isinstance(retriever, Retriever):
        raise PluginError(f"retriever {name!r} gave a {type(retriever).__name__}, not a searchgym Retriever")
    return retriever


def open_shared(kind: str, name: str, options: dict[str, Any], corpus: Corpus | None) -> Any:
    """What a registered factory of retrievers or judges gives for a corpus; the same object for the same call."""
    # Keyed by the corpus object's identity: the entry holds a reference, so the identity cannot be reused.
    canonical, stamp = _canonical(kind, name, options), _stamp(options)
    return _open_shared(kind, name, canonical, ByIdentity(corpus), stamp)


class ByIdentity:
    """A corpus as a cache key: corpora need not be hashable.

    Args:
        corpus: the corpus, or None.
    """

    def __init__(self, corpus: Corpus | None) -> None:
        self.corpus = corpus

    def __hash__(self) -> int:
        return id(self.corpus)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.corpus is self.corpus


@lru_cache(maxsize=16)
def _open_shared(kind: str, name: str, options: str, key: ByIdentity, stamp: tuple[Any, ...]) -> Any:
    made = call_factory(kind, name, plugins.load(f"{kind}s", name), (key.corpus,), json.loads(options))
    return CachedRetriever(made) if kind == "retriever" and isinstance(made, Retriever) else made


def call_factory(kind: str, name: str, factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a factory; an option it does not take is the user's mistake, said as one.

    References `${NAME}` to credentials are replaced here and nowhere earlier, so that specs can be stored as they are.
    """
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
