"""Text and indexes: corpora to search, retrievers to search them with.

Names are loaded when first used, so that `import searchgym.corpora` stays cheap.
"""

from __future__ import annotations

from searchgym.lazy import lazy_exports

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
    "Limits": "service.limits",
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
    "verify_directory": "indexing.sealed",
}


__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
