"""The Lucene index, built and searched with pyserini's jar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .index import LUCENE_BACKEND as LUCENE_BACKEND

_MODULES = {
    "LUCENE_BACKEND": "index",
}
__all__ = ["LUCENE_BACKEND"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
