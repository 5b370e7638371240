"""Text and indexes: corpora to search, retrievers to search them with.

Names are loaded when first used, so that `import searchgym.corpora` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .bm25.index import BM25, open_bm25
    from .datasets.jsonl import JsonlCorpus, open_jsonl
    from .indexing.backend import Estimate, IndexBackend, build_index, open_index
    from .indexing.cache import cached_directory, home, verify_directory
    from .service.app import Limits, create_app
    from .service.client import open_remote
    from .service.server import local_service, serve

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
    "BM25": "bm25.index",
    "Estimate": "indexing.backend",
    "IndexBackend": "indexing.backend",
    "JsonlCorpus": "datasets.jsonl",
    "Limits": "service.app",
    "build_index": "indexing.backend",
    "cached_directory": "indexing.cache",
    "create_app": "service.app",
    "home": "indexing.cache",
    "local_service": "service.server",
    "open_bm25": "bm25.index",
    "open_index": "indexing.backend",
    "open_jsonl": "datasets.jsonl",
    "open_remote": "service.client",
    "serve": "service.server",
    "verify_directory": "indexing.cache",
}


__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
