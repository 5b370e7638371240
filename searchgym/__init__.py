"""SearchGym: a Gymnasium environment and training kit for search agents.

    import gymnasium as gym
    env = gym.make("searchgym:SearchQA-v0")

Importing this package registers the environments and loads nothing heavy: names below are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as _gym

__version__ = "0.1.0"

_EXPORTS = {
    "Agent": "agent",
    "BudgetCurve": "budgets",
    "Corpus": "question",
    "Episode": "episode",
    "EvalResult": "evaluation",
    "Hit": "retriever",
    "Hop": "question",
    "Judge": "judges.protocol",
    "Outcome": "episode",
    "Passage": "question",
    "Question": "question",
    "Retriever": "retriever",
    "Round": "episode",
    "SearchEnv": "env",
    "SearchGymError": "errors",
    "SearchVectorEnv": "vector",
    "Segment": "episode",
    "StopReason": "episode",
    "Trace": "judges.protocol",
    "Turn": "agent",
    "Verdict": "judges.protocol",
    "collect": "rollouts",
    "evaluate": "evaluation",
    "evaluate_budgets": "budgets",
    "judge_episodes": "judging",
    "load_episodes": "episode",
    "make_vec": "vector",
    "open_corpus": "opening",
    "open_judge": "judges.protocol",
    "open_retriever": "opening",
    "rollout": "rollouts",
    "save_episodes": "episode",
}
__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from .agent import Agent as Agent
    from .agent import Turn as Turn
    from .budgets import BudgetCurve as BudgetCurve
    from .budgets import evaluate_budgets as evaluate_budgets
    from .env import SearchEnv as SearchEnv
    from .episode import Episode as Episode
    from .episode import Outcome as Outcome
    from .episode import Round as Round
    from .episode import Segment as Segment
    from .episode import StopReason as StopReason
    from .episode import load_episodes as load_episodes
    from .episode import save_episodes as save_episodes
    from .errors import SearchGymError as SearchGymError
    from .evaluation import EvalResult as EvalResult
    from .evaluation import evaluate as evaluate
    from .judges.protocol import Judge as Judge
    from .judges.protocol import Trace as Trace
    from .judges.protocol import Verdict as Verdict
    from .judges.protocol import open_judge as open_judge
    from .judging import judge_episodes as judge_episodes
    from .opening import open_corpus as open_corpus
    from .opening import open_retriever as open_retriever
    from .question import Corpus as Corpus
    from .question import Hop as Hop
    from .question import Passage as Passage
    from .question import Question as Question
    from .retriever import Hit as Hit
    from .retriever import Retriever as Retriever
    from .rollouts import collect as collect
    from .rollouts import rollout as rollout
    from .vector import SearchVectorEnv as SearchVectorEnv
    from .vector import make_vec as make_vec


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
        entry_point="searchgym.env:SearchEnv",
        vector_entry_point="searchgym.vector:SearchVectorEnv",
        kwargs=_arguments,
    )
