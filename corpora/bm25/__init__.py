"""The embedded BM25 index: analysis, construction, search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .index import BM25 as BM25
    from .index import BM25_BACKEND as BM25_BACKEND
    from .index import open_bm25 as open_bm25

_MODULES = {
    "BM25": "index",
    "BM25_BACKEND": "index",
    "open_bm25": "index",
}
__all__ = ["BM25", "BM25_BACKEND", "open_bm25"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
