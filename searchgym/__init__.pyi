# What type checkers and editors see: `__init__.py` resolves these names on first use.

from collections.abc import Callable
from typing import Any

from .acts import Act as Act
from .agent import Agent as Agent
from .agent import Turn as Turn
from .dialects.registry import register_dialect as register_dialect
from .env.env import SearchEnv as SearchEnv
from .env.judging import judge_episodes as judge_episodes
from .env.rewards import RewardContext as RewardContext
from .env.rewards import RewardTerm as RewardTerm
from .env.session import EpisodeSession as EpisodeSession
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
from .lookup import find_question as find_question
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
from .rollouts.search import SearchOptions as SearchOptions
from .rollouts.search import evaluate_search as evaluate_search
from .specs import open_corpus as open_corpus
from .specs import open_retriever as open_retriever
from .tables.episodes import Episodes as Episodes

__version__: str
load_run: Callable[..., Any]
resume: Callable[..., Any]
train: Callable[..., Any]
