"""How far a judge agrees with a reference, on recorded rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .auditing import AuditResult as AuditResult
    from .auditing import audit as audit

_MODULES = {
    "AuditResult": "auditing",
    "audit": "auditing",
}
__all__ = ["AuditResult", "audit"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
