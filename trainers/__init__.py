"""Training algorithms and what they are made of; sub-packages hold the learner, run directories and the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .runs.credit_record import CreditRecord as CreditRecord
    from .runs.credit_record import load_credit as load_credit

_MODULES = {
    "CreditRecord": "runs.credit_record",
    "load_credit": "runs.credit_record",
}
__all__ = ["CreditRecord", "load_credit"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
