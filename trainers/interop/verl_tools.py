"""verl's own tool loop on a search environment: the tools, the loop `searchgym_tools` and a reward function.

verl makes and releases a tool around every single call, so the episode is kept with the trajectory. The loop drops an episode
that the infrastructure ended; verl's stock loop would show the error to the model and train on it.
"""

from __future__ import annotations

import json
from typing import Any

from searchgym import EpisodeSession, SearchEnv
from searchgym.env.session import METRICS
from searchgym.errors import ConfigError

from .verl import failed  # checks verl's version, before it is imported

# isort: split
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import ToolResponse

__all__ = ["SearchTool", "SearchToolAgentLoop", "compute_score"]

_KEY = "searchgym"
_ROOM = 4096
"""Characters that the loop must leave of a tool's response: verl cuts longer ones, by default to 256, in the middle."""


class SearchTool(BaseTool):  # type: ignore[misc]  # the package need not be installed
    """One act of the environment as a tool; the tool's name says which. `verl_rows.tool_config` lists all."""

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        trajectory = kwargs["agent_data"]
        session = getattr(trajectory, "searchgym_session", None)
        if session is None:
            given = trajectory.tools_kwargs
            arguments = {**self.config.get("arguments", {}), **json.loads(given.get("arguments", "{}"))}
            session = EpisodeSession(SearchEnv(**{**arguments, "dialect": "tools"}))
            session.reset(given["task_id"])
            trajectory.searchgym_session = session
        if session.over:
            return ToolResponse(text=session.call(self.name, parameters)), 0.0, {}
        before = session.reward
        text = session.call(self.name, parameters)
        failed = session.over and (not session.info.get("valid_for_training", False))
        trajectory.extra_fields[_KEY] = {
            "reward": session.reward,
            "valid": not failed,
            **session.metrics(),
            **({"tokens": len(trajectory.response_mask)} if session.over else {}),
        }
        return ToolResponse(text=text), session.reward - before, {}


@register("searchgym_tools")
class SearchToolAgentLoop(ToolAgentLoop):  # type: ignore[misc]  # the package need not be installed
    """verl's tool loop; an episode that the infrastructure ended is not trained on, and neither is what a model writes after
    the end of its episode, where verl asks it on.

    Raises:
        ConfigError: when it is made: verl would cut the tools' responses.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.max_tool_response_length < _ROOM:
            raise ConfigError(
                f"rollout.multi_turn.max_tool_response_length is {self.max_tool_response_length}: verl would cut passages in "
                f"the middle; give at least {_ROOM}"
            )

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **row)
        played = output.extra_fields.get(_KEY, {"valid": True})
        end = played.pop("tokens", None)
        output.response_ids, output.response_mask = output.response_ids[:end], output.response_mask[:end]
        output.response_logprobs = output.response_logprobs and output.response_logprobs[:end]
        score = compute_score("", "", None, output.extra_fields)
        output.reward_score = score.pop("score")
        output.extra_fields["reward_extra_info"] = score
        return output if played["valid"] else failed(self.config, output)


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any
) -> dict[str, float]:
    """A reward function for verl: what the environment paid in the tools' episode.

    The response's text is not read, because retrieved passages stand in it, and an answer in a passage is not the agent's.

    Args:
        data_source: not used.
        solution_str: not used.
        ground_truth: not used.
        extra_info: of the row, to which verl adds what the tools kept with the trajectory.

    Returns:
        `score`, 0 for a trajectory without any call; `valid` 0 if the infrastructure ended the episode; and the metrics of an
        episode that has ended, 0 otherwise: verl wants the same names in each row.
    """
    played = (extra_info or {}).get(_KEY, {"reward": 0.0, "valid": True})
    numbers = {name: float(played.get(name, 0.0)) for name in METRICS}
    score = float(played["reward"]) if played["valid"] else 0.0
    return {"score": score, **numbers, "valid": float(played["valid"])}
