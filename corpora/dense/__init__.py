"""Sentence encoders: the dense index with its vectors and FAISS, and the evidence judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .evidence import EvidenceJudge as EvidenceJudge
    from .index import DENSE_BACKEND as DENSE_BACKEND

_MODULES = {
    "EvidenceJudge": "evidence",
    "DENSE_BACKEND": "index",
}
__all__ = ["DENSE_BACKEND", "EvidenceJudge"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
