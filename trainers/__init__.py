"""Training algorithms and what they are made of; sub-packages hold the learner, run directories and the loop."""

from __future__ import annotations

from searchgym.lazy import lazy_exports

_MODULES = {
    "CreditRecord": "runs.credit_record",
    "load_credit": "runs.credit_record",
}
__all__ = ["CreditRecord", "load_credit"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
