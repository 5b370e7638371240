"""One episode after another for frameworks that run their own loop and call the environment from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from ..errors import ResetNeededError, get_logger
from ..records.episode import StopReason
from .env import SearchEnv
from .tools import act_of_call, tool_functions, unwrapped

__all__ = ["METRICS", "OVER", "EpisodeSession", "dropped_rollouts"]

OVER = "The episode has ended. Further actions have no effect."
"""What a model reads that goes on after the end of its episode."""

METRICS = ("em", "f1", "sub_em", "recall", "rounds", "searches", "assisted")
"""The numbers of an outcome that `EpisodeSession.metrics` reports, beside `valid`."""

_dropped: Counter[str] = Counter()
_log = get_logger(__name__)


class EpisodeSession:
    """Plays episodes of one environment: by messages (`step`) or by tool calls (`call`).

    After the end of an episode, every further message or call is answered with `OVER` and searches nothing, because some
    frameworks cannot end a rollout. An episode that an infrastructure failure ended has no reward (`finish`).

    Args:
        env: the environment; a session owns its episodes.

    Attributes:
        env: the environment.
        over: whether no episode is running.
        reward: sum of the rewards of the episode so far.
        info: the last `info`; empty before the first reset.
    """

    def __init__(self, env: SearchEnv) -> None:
        self.env = env
        self.over = True
        self.reward = 0.0
        self.info: dict[str, Any] = {}
        self._error: Exception | None = None

    def reset(self, task_id: str | None = None, *, seed: int | None = None) -> str:
        """Start an episode and return the question.

        Args:
            task_id: the question. None: drawn from the environment's split.
            seed: seeds the environment's generator.

        Raises:
            UnknownIdError: the corpus has no such question.
            ConfigError: a value that cannot be used.
        """
        question, self.info = self.env.reset(
            seed=seed, options=None if task_id is None else {"task_id": task_id}
        )
        self.over, self.reward, self._error = False, 0.0, None
        return question

    def restore(self, state: dict[str, Any], reward: float) -> None:
        """Continue a snapshot of the environment.

        Args:
            state: from `SearchEnv.snapshot`.
            reward: what the episode had earned.

        Raises:
            SnapshotError: damaged, of another schema, or of another index. The running episode then continues.
        """
        self.env.restore(state)
        self.over, self.reward, self.info, self._error = False, reward, {"task_id": state["task_id"]}, None

    def step(self, message: str) -> str:
        """Play a message; returns the observation, "" at the end of the episode.

        Args:
            message: the model's message.

        Raises:
            ResetNeededError: before the first reset.
        """
        return OVER if self._ended() else self._take(self.env.step(message))

    def call(self, name: str, arguments: Mapping[str, Any] | str) -> str:
        """Play a tool call; returns the text that the tool answers, without a dialect's wrapping.

        Frameworks show exceptions of a tool to the model. So none is raised here: what should not happen ends the episode,
        and `finish` raises it.

        Args:
            name: name of the tool.
            arguments: its arguments, or their JSON text.

        Raises:
            ResetNeededError: before the first reset.
        """
        if self._ended():
            return OVER
        try:
            observation = self._take(self.env.play(act_of_call(self.env.config, name, arguments)))
        except Exception as error:
            _log.warning("a tool call failed, the episode is dropped: %s: %s", type(error).__name__, error)
            self.over, self._error = True, error
            _dropped[type(error).__name__] += 1
            return OVER
        return OVER if self.over else unwrapped(self.env.dialect, observation)

    def tools(self) -> list[Callable[..., str]]:
        """The tools as functions that play in this session; see `searchgym.env.tools.tool_functions`."""
        functions = tool_functions(self.env.config, EpisodeSession.call)
        return [MethodType(function, self) for function in functions.values()]

    def finish(self, stop: StopReason = StopReason.TOKEN_BUDGET) -> float | None:
        """End the episode if it is running, because the framework has stopped.

        Args:
            stop: the reason, e.g. the framework's limit of tokens or turns.

        Returns:
            The reward of the episode; None if it is not valid for training (an infrastructure failure): drop the rollout.

        Raises:
            ResetNeededError: before the first reset.
        """
        if self._error is not None:
            raise self._error
        if not self._ended():
            self._take(self.env.truncate(stop))
        return self.reward if self.info["valid_for_training"] else None

    def metrics(self) -> dict[str, float]:
        """The numbers of the outcome, and `valid`; empty while the episode is running."""
        outcome = self.info.get("outcome")
        if outcome is None:
            return {}
        return {name: float(outcome[name]) for name in METRICS} | {
            "valid": float(self.info["valid_for_training"])
        }

    def _ended(self) -> bool:
        if not self.info:
            raise ResetNeededError("no episode has been started: call reset() first")
        return self.over

    def _take(self, step: tuple[str, float, bool, bool, dict[str, Any]]) -> str:
        observation, reward, terminated, truncated, self.info = step
        self.reward += reward
        self.over = terminated or truncated
        if self.over and not self.info["valid_for_training"]:
            _dropped[self.info["outcome"]["stop_reason"]] += 1
        return observation


def dropped_rollouts() -> dict[str, int]:
    """How many episodes of this process's sessions were not valid for training, by stop reason or name of the exception."""
    return dict(_dropped)
