"""Text and indexes: corpora to search, retrievers to search them with.

Names are loaded when first used, so that `import searchgym.corpora` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bm25 import BM25, open_bm25
    from .cache import cached_directory, home, verify_directory
    from .indexes import Estimate, IndexBackend, build_index, open_index
    from .jsonl import JsonlCorpus, open_jsonl
    from .remote import open_remote
    from .service import Limits, create_app
    from .serving import local_service, serve

__all__ = [
    "BM25",
    "Estimate",
    "IndexBackend",
    "JsonlCorpus",
    "Limits",
    "build_index",
    "cached_directory",
    "create_app",
    "home",
    "local_service",
    "open_bm25",
    "open_index",
    "open_jsonl",
    "open_remote",
    "serve",
    "verify_directory",
]

_MODULES = {
    "BM25": "bm25",
    "Estimate": "indexes",
    "IndexBackend": "indexes",
    "JsonlCorpus": "jsonl",
    "Limits": "service",
    "build_index": "indexes",
    "cached_directory": "cache",
    "create_app": "service",
    "home": "cache",
    "local_service": "serving",
    "open_bm25": "bm25",
    "open_index": "indexes",
    "open_jsonl": "jsonl",
    "open_remote": "remote",
    "serve": "serving",
    "verify_directory": "cache",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
