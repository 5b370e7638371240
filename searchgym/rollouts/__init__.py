"""Play episodes and measure them: collection, evaluation, search budgets, rescoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .budgets import evaluate_budgets as evaluate_budgets
    from .collection import collect as collect
    from .collection import open_agent as open_agent
    from .collection import rollout as rollout
    from .evaluation import evaluate as evaluate
    from .recorder import EpisodeRecorder as EpisodeRecorder
    from .rescoring import rescore as rescore
    from .search import SearchOptions as SearchOptions
    from .search import evaluate_search as evaluate_search
    from .starts import Start as Start

_MODULES = {
    "EpisodeRecorder": "recorder",
    "SearchOptions": "search",
    "Start": "starts",
    "collect": "collection",
    "evaluate": "evaluation",
    "evaluate_budgets": "budgets",
    "evaluate_search": "search",
    "open_agent": "collection",
    "rescore": "rescoring",
    "rollout": "collection",
}
__all__ = [
    "EpisodeRecorder",
    "SearchOptions",
    "Start",
    "collect",
    "evaluate",
    "evaluate_budgets",
    "evaluate_search",
    "open_agent",
    "rescore",
    "rollout",
]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
