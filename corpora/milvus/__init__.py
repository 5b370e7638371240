"""The Milvus backend, for indexes larger than one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .index import open_milvus as open_milvus

_MODULES = {
    "open_milvus": "index",
}
__all__ = ["open_milvus"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
