"""The search-budget scaling curve: the same questions with increasing search budgets.

curve = searchgym.evaluate_budgets("SearchQA-v0", {"name": "planner", "planner": "tiny"}, budgets=(1, 2, 4, 8))
print(curve)
curve.plot("budgets.png")

A budget is the environment's `max_searches`. A search beyond it ends the episode without an answer, so the curve of an
agent that ignores its budget shows where it was cut off, not what it knows; `on_budget` says how often. The planner
agent answers when its budget is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from ..env.vector import SearchVectorEnv
from ..errors import ConfigError
from ..options import check_count
from ..records.episode import Episode
from .collection import AgentLike, EnvLike, open_agent, open_envs
from .evaluation import EvalResult, evaluate
from .plot import draw_budgets

__all__ = ["BudgetCurve", "BudgetPoint", "check_budgets", "evaluate_budgets"]

_NUM_ENVS = 64


@dataclass(frozen=True, slots=True, repr=False)
class BudgetPoint:
    """An evaluation under one budget.

    Attributes:
        budget: searches allowed per episode.
        result: see `EvalResult`.
        tokens: sampled tokens per episode, for agents that record or pay for them; None for others, and if cached
            replies cost nothing.
        on_budget: share of the scored episodes that a budget ended before an answer.
    """

    budget: int
    result: EvalResult
    tokens: float | None
    on_budget: float

    def to_json(self) -> dict[str, Any]:
        """Everything but the episodes, as JSON data."""
        return {
            "budget": self.budget,
            "tokens": self.tokens,
            "on_budget": self.on_budget,
            **self.result.to_json(),
        }

    def __repr__(self) -> str:
        return f"<BudgetPoint {self.budget}: EM {self.result.metrics['em']}>"


@dataclass(frozen=True, slots=True, repr=False)
class BudgetCurve:
    """The result of `evaluate_budgets`.

    Attributes:
        agent: name of the agent.
        max_rounds: rounds allowed per episode, the same under every budget.
        points: one per budget, in increasing order.
    """

    agent: str
    max_rounds: int
    points: list[BudgetPoint]

    @property
    def episodes(self) -> list[Episode]:
        """All episodes, budget by budget; `episode.env["max_searches"]` tells them apart."""
        return [episode for point in self.points for episode in point.result.episodes]

    def to_json(self) -> dict[str, Any]:
        """Everything but the episodes, as JSON data."""
        points = [point.to_json() for point in self.points]
        return {"agent": self.agent, "max_rounds": self.max_rounds, "points": points}

    def __repr__(self) -> str:
        return f"<BudgetCurve {self.agent}: {', '.join(map(repr, self.points))}>"

    def plot(self, path: str | PathLike[str], *others: BudgetCurve) -> None:
        """Draw the curve.

        Args:
            path: the file, which is written in the format of its suffix: .png, .pdf or .svg.
            *others: curves of the same questions, drawn in the same figure.

        Raises:
            ConfigError: another suffix.
            MissingExtraError: matplotlib is not installed.
        """
        draw_budgets(Path(path), [self, *others])

    def __str__(self) -> str:
        return "\n".join(
            f"{self.agent}, budget {p.budget}: EM {p.result.metrics['em']}, searches "
            f"{p.result.metrics['searches'].value:.2f}"
            + ("" if p.tokens is None else f", sampled tokens {p.tokens:.1f}")
            + f", ended on the budget {p.on_budget:.1%}"
            for p in self.points
        )


def check_budgets(budgets: Sequence[int]) -> list[int]:
    """The budgets in increasing order; raises `ConfigError` for an empty list, a negative number or a repetition."""
    if not budgets:
        raise ConfigError(f"budgets is {budgets!r}: give numbers of searches, e.g. 1, 2, 4, 8")
    for budget in budgets:
        check_count("a budget", budget, 0)
    if len(set(budgets)) < len(budgets):
        raise ConfigError(f"budgets is {list(budgets)}: give each number once")
    return sorted(budgets)


def evaluate_budgets(
    env: EnvLike,
    agent: AgentLike,
    budgets: Sequence[int] = (1, 2, 4, 8),
    episodes: int | None = 200,
    *,
    samples: int = 1,
    split: str | None = "dev",
    seed: int | None = None,
    on_episode: Callable[[Episode], None] | None = None,
    **arguments: Any,
) -> BudgetCurve:
    """Evaluate on the same questions under each search budget.

    Only `max_searches` differs between budgets. `max_rounds` is the environment's, or one more than the largest budget if
    that is larger, so that a last round is left for the answer.

    Args:
        env: see `evaluate`; 64 episodes are played at once, or as many as a vector environment has slots.
        agent: see `evaluate`.
        budgets: searches allowed per episode.
        episodes: see `evaluate`.
        samples: see `evaluate`.
        split: see `evaluate`.
        seed: see `evaluate`.
        on_episode: see `evaluate`.
        **arguments: see `evaluate`.

    Raises:
        ConfigError: an argument that cannot be used, or no episode that can be scored.
    """
    budgets = check_budgets(budgets)
    opened = open_agent(agent)
    envs = open_envs(env, opened, _NUM_ENVS, split, **arguments)
    env_config = envs.config
    if env_config.max_searches is not None:
        raise ConfigError(
            f"max_searches is {env_config.max_searches!r}, but budgets sets it: give one of the two"
        )
    max_rounds = max(env_config.max_rounds, budgets[-1] + 1)
    points = []
    for budget in budgets:
        limited = replace(env_config, max_searches=budget, max_rounds=max_rounds)
        result = evaluate(
            SearchVectorEnv.from_config(limited, envs.num_envs),
            opened,
            episodes,
            samples=samples,
            split=split,
            seed=seed,
            on_episode=on_episode,
        )
        points.append(_point(budget, result))
    return BudgetCurve(opened.name, max_rounds, points)


def _point(budget: int, result: EvalResult) -> BudgetPoint:
    scored = [episode for episode in result.episodes if episode.valid_for_training]
    tokens = None
    if any(episode.segments for episode in scored):
        tokens = sum(sum(s.mask) for e in scored for s in e.segments) / len(scored)
    elif result.costs.get("output_tokens") and not result.costs.get("cached"):
        tokens = result.costs["output_tokens"] / len(result.episodes)
    return BudgetPoint(budget, result, tokens, sum(e.truncated for e in scored) / len(scored))
