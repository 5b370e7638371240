"""How far a judge agrees with a reference, on recorded rounds."""

from .auditing import AuditResult, audit

__all__ = ["AuditResult", "audit"]
