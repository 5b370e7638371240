"""GEM: importing this module registers `gem.make("searchgym:SearchQA", …)`; docs/interop/gem.md says how it is used."""

from __future__ import annotations

from typing import Any

from searchgym import EpisodeSession, SearchEnv
from searchgym.errors import RetrievalError
from searchgym.options import choice

from .peers import check_peer

check_peer("gem")

import gem  # noqa: E402  (after the check of its version)
from gem.utils.constants import TERMINAL_STATE  # noqa: E402

__all__ = ["GEMEnv"]

ID = "searchgym:SearchQA"


class GEMEnv(gem.Env):  # type: ignore[misc]  # the package has no types
    """The environment as GEM's wrappers, vector environments and trainers expect it.

    Args:
        seed: of the first reset, which `gem.make_vec` passes to the constructor.
        prompt: whether the first observation begins with the system prompt, as GEM's own environments do.
        task_id: ask this question at each reset.
        on_failure: what happens when the search fails: "raise", or "mark": the episode is truncated with reward 0, and
            `info["valid_for_training"]` is False, for a loop that drops such episodes by it.
        **arguments: arguments of the environment.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        prompt: bool = True,
        task_id: str | None = None,
        on_failure: str = "raise",
        **arguments: Any,
    ) -> None:
        super().__init__()
        choice("on_failure", on_failure, ("raise", "mark"))
        self._given = {"prompt": prompt, "task_id": task_id, "on_failure": on_failure, **arguments}
        self.session = EpisodeSession(SearchEnv(seed=seed, **arguments))
        self._last = ""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the environment's generator. GEM's own environments seed Python's and NumPy's global generators too.
        """
        question = self.session.reset(self._given["task_id"], seed=seed)
        prompt = f"{self.session.env.system_prompt}\n\nQuestion: {question}\n"
        self._last = prompt if self._given["prompt"] else question
        return self._last, self.session.info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play a message.

        Args:
            action: the model's message.

        Raises:
            RetrievalError: the search failed; GEM has no way to drop an episode.
        """
        earned = self.session.reward
        observation = self.session.step(action)
        info, over = self.session.info, self.session.over
        if over and not info["valid_for_training"] and self._given["on_failure"] == "raise":
            raise RetrievalError(f"the episode ended with {info['outcome']['stop_reason']}: it has no reward")
        terminated = over and info["outcome"]["stop_reason"] == "answered"
        self._last = TERMINAL_STATE if over else observation
        return self._last, self.session.reward - earned, terminated, over and not terminated, info

    def sample_random_action(self) -> str:
        """A valid search or answer."""
        return str(self.session.env.action_space.sample())

    def get_state(self) -> dict[str, Any]:
        """The running episode as plain JSON, for `set_state`, also in another process."""
        return {"episode": self.session.env.snapshot(), "reward": self.session.reward, "last": self._last}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue a state of `get_state`.

        Args:
            state: the state.

        Raises:
            SnapshotError: damaged, or of another index.
        """
        self.session.restore(state["episode"], state["reward"])
        self._last = state["last"]

    def spawn(self, same_state: bool = False, **kwargs: Any) -> GEMEnv:
        """Another environment with the same arguments.

        Args:
            same_state: whether it continues this one's episode.
            **kwargs: arguments to change.
        """
        twin = GEMEnv(**{**self._given, **kwargs})
        if same_state:
            twin.set_state(self.get_state())
        return twin


gem.register(ID, GEMEnv)
