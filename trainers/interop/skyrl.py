"""skyrl-gym: importing this module registers `skyrl_gym.make("searchgym", …)`; docs/interop/skyrl.md says how it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from searchgym import EpisodeSession, SearchEnv
from searchgym.errors import ConfigError, RetrievalError
from searchgym.options import choice, plain

from .peers import check_peer

check_peer("skyrl")

import skyrl_gym  # noqa: E402  (after the check of its version)
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput, ConversationType  # noqa: E402

__all__ = ["SkyRLEnv", "rows"]

ID = "searchgym"


class SkyRLEnv(BaseTextEnv):  # type: ignore[misc]  # the package has no types
    """One question per environment, as SkyRL makes them.

    Args:
        env_config: arguments of the environment, a dict or a `DictConfig`; SkyRL passes its section `environment.skyrl_gym.searchgym`.
        extras: the row of the data set: `task_id`; `searchgym`, more arguments as JSON text; `max_turns`, as `max_rounds`.
            `on_failure`: what happens when the search fails: "raise" (default), or "mark": the episode ends with reward 0 and
            `valid` 0 in its metrics and metadata, for a trainer that drops such rollouts by these.

    Raises:
        ConfigError: a row without `task_id`, or an argument that cannot be used.
    """

    def __init__(self, env_config: Any = None, extras: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        row = dict(extras or {})
        if "task_id" not in row:
            raise ConfigError("the row has no task_id: make the data set with searchgym.interop.skyrl.rows")
        arguments = {**plain("env_config", env_config or {}), **json.loads(row.get("searchgym") or "{}")}
        if "max_turns" in row:
            arguments["max_rounds"] = row["max_turns"]
        self._marks = choice("on_failure", row.get("on_failure", "raise"), ("raise", "mark")) == "mark"
        self._task_id = row["task_id"]
        self.session = EpisodeSession(SearchEnv(**arguments))
        self.max_turns = self.session.env.config.max_rounds

    def init(self, prompt: ConversationType) -> tuple[ConversationType, dict[str, Any]]:
        """Start the episode; an empty prompt is replaced by system prompt and question.

        Args:
            prompt: the row's prompt.

        Raises:
            UnknownIdError: the corpus has no question of the row's `task_id`.
        """
        question = self.session.reset(self._task_id)
        return prompt or _prompt(self.session.env, question), self.session.info

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Play a message.

        Args:
            action: the model's message.

        Raises:
            RetrievalError: the search failed; SkyRL has no way to drop a rollout.
        """
        self.turns += 1
        earned, ended = self.session.reward, self.session.over
        observation = self.session.step(action)
        info = self.session.info
        if self.session.over and not ended and not info["valid_for_training"] and not self._marks:
            raise RetrievalError(
                f"episode of {self._task_id!r}: {info['outcome']['stop_reason']}; it has no reward"
            )
        return BaseTextEnvStepOutput(
            observations=[{"role": "user", "content": observation}] if observation else [],
            reward=self.session.reward - earned,
            done=self.session.over,
            metadata=info,
        )

    def get_metrics(self) -> dict[str, float]:
        """The numbers of the outcome, and `valid`; SkyRL averages them."""
        return self.session.metrics()


def rows(split: str, **arguments: Any) -> list[dict[str, Any]]:
    """Rows for SkyRL's `PromptDataset`, e.g. to be written as parquet.

    Args:
        split: whose questions.
        **arguments: arguments of the environment, JSON values; each row carries them.
    """
    env = SearchEnv(**arguments)
    given = json.dumps(plain("arguments", arguments))
    return [
        {
            "data_source": env.corpus.name,
            "prompt": _prompt(env, question.text),
            "env_class": ID,
            "task_id": question.id,
            "searchgym": given,
            "reward_spec": {"method": "rule", "ground_truth": {"target": list(question.answers)}},
        }
        for question in env.config.tasks(split)
    ]


def _prompt(env: SearchEnv, question: str) -> ConversationType:
    return [{"role": "system", "content": env.system_prompt}, {"role": "user", "content": question}]


skyrl_gym.register(id=ID, entry_point=SkyRLEnv)
