"""SearchGym: a Gymnasium environment and training kit for search agents.

    import gymnasium as gym
    env = gym.make("searchgym:SearchQA-v0")

Importing this package registers the environments and loads nothing heavy: names below are resolved on first use.
"""

from __future__ import annotations

import sys as _sys
from typing import Any

import gymnasium as _gym

from ._version import __version__
from .lazy import MovedModules as _MovedModules
from .lazy import lazy_exports

_EXPORTS = {
    "Act": "records.acts",
    "Agent": "agent",
    "BudgetCurve": "rollouts.budgets",
    "Corpus": "records.question",
    "Episode": "records.episode",
    "Episodes": "tables.episodes",
    "EpisodeSession": "env.session",
    "EvalResult": "rollouts.evaluation",
    "Hit": "records.retriever",
    "Hop": "records.question",
    "Judge": "judges.protocol",
    "Outcome": "records.episode",
    "Passage": "records.question",
    "Question": "records.question",
    "Retriever": "records.retriever",
    "RewardContext": "env.rewards",
    "RewardTerm": "env.rewards",
    "Round": "records.episode",
    "SearchEnv": "env.env",
    "SearchGymError": "errors",
    "SearchOptions": "rollouts.search",
    "SearchVectorEnv": "env.vector",
    "Segment": "records.episode",
    "StopReason": "records.episode",
    "Trace": "judges.protocol",
    "Turn": "agent",
    "Verdict": "judges.protocol",
    "collect": "rollouts.collection",
    "evaluate": "rollouts.evaluation",
    "evaluate_budgets": "rollouts.budgets",
    "evaluate_search": "rollouts.search",
    "find_question": "env.lookup",
    "judge_episodes": "env.judging",
    "load_episodes": "records.episode",
    "make_vec": "env.vector",
    "open_corpus": "specs",
    "open_judge": "judges.protocol",
    "open_retriever": "specs",
    "register_dialect": "dialects.registry",
    "rollout": "rollouts.collection",
    "save_episodes": "records.episode",
}
_FUNCTIONS = ("load_run", "resume", "train")
"""Functions of the higher packages, found through the entry-point group `searchgym.functions`."""

__all__ = ["__version__", *_EXPORTS, *_FUNCTIONS]

_get, _names = lazy_exports(__name__, _EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        from .options import plugins

        return plugins.load("functions", name)
    return _get(name)


def __dir__() -> list[str]:
    return sorted({*_names(), *_FUNCTIONS})


_sys.meta_path.append(_MovedModules())

_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "SearchQA-v0": {"corpus": "country"},
    "SearchQA-Terse-v0": {"corpus": "country-terse"},
    "SearchQA-Hard-v0": {"corpus": "country-hard", "top_k": 2, "max_rounds": 10},
    # b=0: a page is found by its title, however long it is. No limit of characters: states that differ in their characters
    # alone are the same state, so that true values can be enumerated.
    "SearchQA-Forks-v0": {
        "corpus": "forks",
        "retriever": {"name": "bm25", "b": 0.0},
        "top_k": 1,
        "max_rounds": 20,
        "max_chars": None,
    },
    "RewriteQuery-v0": {
        "corpus": "country",
        "task": "query",
        "max_rounds": 1,
        "top_k": 100,
        "reward": {"ndcg": 1.0, "query_format": 1.0},
    },
}
for _id, _arguments in _ENVIRONMENTS.items():
    # No max_episode_steps: Gymnasium's TimeLimit can set terminated and truncated together, and forgets
    # restores. The budget is the argument `max_rounds`.
    _gym.register(
        id=_id,
        entry_point="searchgym.env:SearchEnv",
        vector_entry_point="searchgym.env:SearchVectorEnv",
        kwargs=_arguments,
    )
