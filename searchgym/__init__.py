"""SearchGym: a Gymnasium environment and training kit for search agents.

    import gymnasium as gym
    env = gym.make("searchgym:SearchQA-v0")

Importing this package registers the environments and loads nothing heavy: names below are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as _gym

from ._version import __version__
from .lazy import lazy_exports

_EXPORTS = {
    "Agent": "agent",
    "BudgetCurve": "rollouts.budgets",
    "Corpus": "question",
    "Episode": "episode",
    "EvalResult": "rollouts.evaluation",
    "Hit": "retriever",
    "Hop": "question",
    "Judge": "judges.protocol",
    "Outcome": "episode",
    "Passage": "question",
    "Question": "question",
    "Retriever": "retriever",
    "Round": "episode",
    "SearchEnv": "env.env",
    "SearchGymError": "errors",
    "SearchVectorEnv": "env.vector",
    "Segment": "episode",
    "StopReason": "episode",
    "Trace": "judges.protocol",
    "Turn": "agent",
    "Verdict": "judges.protocol",
    "collect": "rollouts.collection",
    "evaluate": "rollouts.evaluation",
    "evaluate_budgets": "rollouts.budgets",
    "judge_episodes": "env.judging",
    "load_episodes": "episode",
    "make_vec": "env.vector",
    "open_corpus": "specs",
    "open_judge": "judges.protocol",
    "open_retriever": "specs",
    "rollout": "rollouts.collection",
    "save_episodes": "episode",
}
_FUNCTIONS = ("resume", "train")
"""Functions of the higher packages, found through the entry-point group `searchgym.functions`."""

__all__ = ["__version__", *_EXPORTS, *_FUNCTIONS]

if TYPE_CHECKING:
    from .agent import Agent as Agent
    from .agent import Turn as Turn
    from .env.env import SearchEnv as SearchEnv
    from .env.judging import judge_episodes as judge_episodes
    from .env.vector import SearchVectorEnv as SearchVectorEnv
    from .env.vector import make_vec as make_vec
    from .episode import Episode as Episode
    from .episode import Outcome as Outcome
    from .episode import Round as Round
    from .episode import Segment as Segment
    from .episode import StopReason as StopReason
    from .episode import load_episodes as load_episodes
    from .episode import save_episodes as save_episodes
    from .errors import SearchGymError as SearchGymError
    from .judges.protocol import Judge as Judge
    from .judges.protocol import Trace as Trace
    from .judges.protocol import Verdict as Verdict
    from .judges.protocol import open_judge as open_judge
    from .question import Corpus as Corpus
    from .question import Hop as Hop
    from .question import Passage as Passage
    from .question import Question as Question
    from .retriever import Hit as Hit
    from .retriever import Retriever as Retriever
    from .rollouts.budgets import BudgetCurve as BudgetCurve
    from .rollouts.budgets import evaluate_budgets as evaluate_budgets
    from .rollouts.collection import collect as collect
    from .rollouts.collection import rollout as rollout
    from .rollouts.evaluation import EvalResult as EvalResult
    from .rollouts.evaluation import evaluate as evaluate
    from .specs import open_corpus as open_corpus
    from .specs import open_retriever as open_retriever


_get, _names = lazy_exports(__name__, _EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        from . import plugins

        return plugins.load("functions", name)
    return _get(name)


def __dir__() -> list[str]:
    return sorted({*_names(), *_FUNCTIONS})


_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "SearchQA-v0": {"corpus": "country"},
    "SearchQA-Terse-v0": {"corpus": "country-terse"},
    "SearchQA-Hard-v0": {"corpus": "country-hard", "top_k": 2, "max_rounds": 10},
}
for _id, _arguments in _ENVIRONMENTS.items():
    # No max_episode_steps: Gymnasium's TimeLimit can set terminated and truncated together, and forgets
    # restores. The budget is the argument `max_rounds`.
    _gym.register(
        id=_id,
        entry_point="searchgym.env.env:SearchEnv",
        vector_entry_point="searchgym.env.vector:SearchVectorEnv",
        kwargs=_arguments,
    )
