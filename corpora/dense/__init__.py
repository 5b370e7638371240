"""The dense index: sentence encoders, vectors, FAISS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .index import DENSE_BACKEND as DENSE_BACKEND

_MODULES = {
    "DENSE_BACKEND": "index",
}
__all__ = ["DENSE_BACKEND"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
