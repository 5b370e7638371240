"""Checks that every trainer must pass, and the synthetic episodes they use; run them on your own trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchgym.lazy import lazy_exports

if TYPE_CHECKING:
    from .checks import TabularPolicy as TabularPolicy
    from .checks import check_trainer as check_trainer
    from .checks import make_episode as make_episode
    from .checks import synthetic_groups as synthetic_groups

_MODULES = {
    "TabularPolicy": "checks",
    "check_trainer": "checks",
    "make_episode": "checks",
    "synthetic_groups": "checks",
}
__all__ = ["TabularPolicy", "check_trainer", "make_episode", "synthetic_groups"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
