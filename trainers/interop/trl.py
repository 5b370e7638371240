"""TRL's `GRPOTrainer(environment_factory=…)`: TRL samples, and the model calls the tools of an environment.

docs/interop/trl.md says how it is used and what TRL does that it has to cope with; `trl_rollouts` is the other way.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from searchgym import EpisodeSession, SearchEnv, find_question
from searchgym.env.lookup import prompt_text
from searchgym.env.session import dropped_rollouts
from searchgym.env.tools import tool_functions, tool_instructions
from searchgym.errors import ConfigError

from .peers import check_peer

__all__ = ["Environments"]


class Environments:
    """The `environment_factory` of a `GRPOTrainer`, and its data set.

    Args:
        num_generations: that of the `GRPOConfig`, only for training without a data set: TRL then resets each member of a
            group on its own, and the same question is drawn for all of them here.
        seed: of the questions that are drawn so.
        **arguments: arguments of the environment, e.g. `corpus` and `top_k`.

    Raises:
        MissingExtraError: TRL is not installed.
        PeerVersionError: its version was not tested.
        ConfigError: an argument that cannot be used.
    """

    def __init__(self, *, num_generations: int | None = None, seed: int = 0, **arguments: Any) -> None:
        check_peer("trl")
        self._arguments = {"dialect": "tools", **arguments}
        self.config = SearchEnv(**self._arguments).config
        self._num_generations, self._seed = num_generations, seed
        self._made = 0
        # TRL offers every public function of the class as a tool, and scores instances of exactly one class.
        tools = tool_functions(self.config, lambda env, name, given: env._session.call(name, given))
        self._class: type[_Environment] = type("SearchGym", (_Environment,), dict(tools))

    def __call__(self) -> _Environment:
        """One environment, for one rollout at a time."""
        self._made += 1
        return self._class(self, self._made - 1)

    def dataset(self, split: str | None = None) -> Any:
        """The questions of a split as a `datasets.Dataset` with the columns `prompt` and `task_id`.

        Args:
            split: default: that of the arguments.
        """
        from datasets import Dataset

        system = {"role": "system", "content": tool_instructions(self.config)}
        questions = self.config.tasks(split or self.config.split)
        prompts = [[system, {"role": "user", "content": question.text}] for question in questions]
        return Dataset.from_dict({"prompt": prompts, "task_id": [question.id for question in questions]})

    @staticmethod
    def dropped() -> dict[str, int]:
        """Rollouts of this process that got no reward, by reason."""
        return dropped_rollouts()

    def draw(self, number: int, resets: int) -> str:
        """A task for a reset without a data set: the same for all members of a group.

        Args:
            number: position of the environment among those of this process; TRL hands them out in this order.
            resets: how often it has been reset.
        """
        if self._num_generations is None:
            raise ConfigError(
                "TRL has no data set, so each member of a group would get a question of its own: give the trainer "
                "train_dataset=environments.dataset(), or the factory num_generations=…"
            )
        group = (int(os.environ.get("RANK", "0")) * self._made + number) // self._num_generations
        questions = self.config.tasks(self.config.split)
        drawn = np.random.default_rng([self._seed, resets, group]).integers(len(questions))
        return questions[int(drawn)].id


class _Environment:
    """What TRL sees: `reset`, `get_reward` and the tools; everything else is private."""

    def __init__(self, factory: Environments, number: int) -> None:
        self._factory, self._number, self._resets = factory, number, 0
        self._session = EpisodeSession(SearchEnv(**factory._arguments))

    def reset(self, task_id: str | None = None, prompt: Any = None, **row: Any) -> str | None:
        text = prompt_text(prompt)
        if task_id is None and text:
            task_id = find_question(self._factory.config.corpus, text).id
        question = self._session.reset(task_id or self._factory.draw(self._number, self._resets))
        self._resets += 1
        return None if text.endswith(question) else question  # TRL appends it to the last message

    def get_reward(self) -> float | None:
        return self._session.finish()  # None: TRL leaves the rollout out
