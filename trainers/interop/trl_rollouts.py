"""TRL's `GRPOTrainer(rollout_func=…)`: `HFAgent` plays the episodes on the trainer's own weights, token by token.

docs/interop/trl.md says how it is used; `trl` is the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchgym import Episode, SearchVectorEnv, StopReason, find_question
from searchgym.env.lookup import prompt_text
from searchgym.rollouts import collect

from .peers import check_peer

check_peer("trl")

from searchgym.agents.hf import HFAgent  # noqa: E402  # needs torch, which the extra installs

__all__ = ["Rollouts"]


class Rollouts:
    """The `rollout_func` of a `GRPOTrainer`: `HFAgent` plays on the trainer's own weights, and TRL learns from its tokens.

    Give the trainer `reward_funcs=rollouts.reward`, too. For one process or data parallel training: the weights must be whole.

    Args:
        num_envs: episodes played at once.
        agent: options of `HFAgent`, e.g. `max_new_tokens` and `thinking`; the temperature is the trainer's.
        **arguments: arguments of the environment.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(self, *, num_envs: int = 64, agent: dict[str, Any] | None = None, **arguments: Any) -> None:
        self.envs = SearchVectorEnv(num_envs, **arguments)
        self._options = dict(agent or {})
        self._agent: HFAgent | None = None

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Play one episode per prompt; see TRL's `rollout_func`.

        Args:
            prompts: prompts that end with the text of a question.
            trainer: the trainer.
        """
        corpus = self.envs.config.corpus
        tasks = [find_question(corpus, prompt_text(prompt)).id for prompt in prompts]
        model = trainer.accelerator.unwrap_model(trainer.model)
        if self._agent is None:
            self._agent = HFAgent(model, trainer.processing_class, **self._options)
        self._agent.version, self._agent.temperature = trainer.state.global_step, trainer.temperature
        training = model.training
        model.eval()
        try:
            episodes = collect(self.envs, self._agent, tasks)
        finally:
            model.train(training)
        end = trainer.processing_class.eos_token_id
        rows = [_row(episode, end) for episode in episodes]
        names = ("prompt_ids", "completion_ids", "logprobs", "env_mask")
        return {
            "episode": episodes,
            **{name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)},
        }

    @staticmethod
    def reward(episode: Sequence[Episode], **_: Any) -> list[float | None]:
        """The reward function for these rollouts: None, so that TRL leaves it out, where an episode says nothing.

        Args:
            episode: the episodes, which TRL passes on from `__call__`.
        """
        return [one.reward if one.valid_for_training else None for one in episode]


def _row(episode: Episode, end: int) -> tuple[list[int], list[int], list[float], list[int]]:
    """Prompt ids, completion ids, log-probabilities and mask of an episode.

    A masked end of sequence is added, without which TRL takes a completion for cut off; not where the limit of tokens ended
    the episode. An episode in which nothing was sampled is this token alone.
    """
    segment = episode.segments[0] if episode.segments else None
    if segment is None or 1 not in segment.mask:
        return [end], [end], [0.0], [0]
    start = segment.mask.index(1)
    cut_off = episode.outcome is not None and episode.outcome.stop_reason is StopReason.TOKEN_BUDGET
    last = [] if cut_off else [end]
    return (
        segment.tokens[:start],
        segment.tokens[start:] + last,
        segment.logprobs[start:] + [0.0] * len(last),
        segment.mask[start:] + [0] * len(last),
    )
