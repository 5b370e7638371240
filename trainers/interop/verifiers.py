"""verifiers (v1): the taskset `searchgym-vf`, by messages (tags) or by tools.

docs/interop/verifiers.md says how it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

from searchgym import SearchEnv
from searchgym.env.tools import tool_instructions
from searchgym.errors import ConfigError, RetrievalError
from searchgym.options import plain

from .verifiers_tools import SearchGymData, SearchGymState, SearchTools, start

import verifiers.v1 as vf  # isort: skip  (after `verifiers_tools`, which checks its version)
from pydantic import Field  # isort: skip

__all__ = ["SearchGymEnv", "SearchGymTaskset"]


class SearchGymTaskConfig(vf.TaskConfig):  # type: ignore[misc]
    """How the model acts: `tags` in its messages, or `tools`."""

    dialect: Literal["tags", "tools"] = "tags"
    tools: vf.ToolsetConfig = vf.ToolsetConfig()


class SearchGymTask(vf.Task[SearchGymData, SearchGymState, SearchGymTaskConfig]):  # type: ignore[misc]
    """One question, scored by the environment."""

    @property
    def key(self) -> str:
        return str(self.data.task_id)

    @classmethod
    def toolsets(cls, config: SearchGymTaskConfig) -> list[Any]:
        return [SearchTools(config.tools)] if config.dialect == "tools" else []

    @vf.stop  # type: ignore[untyped-decorator]
    async def over(self, trace: vf.Trace) -> bool:
        return bool(trace.state.over)

    @vf.reward(weight=1.0)  # type: ignore[untyped-decorator]
    async def searchgym(self, trace: vf.Trace) -> float:
        state = trace.state
        if not state.over:  # the model or a limit ended the rollout: the environment ends it here
            session = start(self.data)
            if state.snapshot is not None:
                session.restore(state.snapshot, state.reward)
            session.finish()
            state.note(session)
        if state.failure:
            raise RetrievalError(
                f"the episode says nothing about the model: {state.failure}"
            )  # drops the rollout
        trace.record_metrics(state.metrics)
        return float(state.reward)


class SearchGymTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """`arguments` of the environment, and the `split` whose questions are asked."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    split: str = "dev"
    task: SearchGymTaskConfig = SearchGymTaskConfig()


class SearchGymTaskset(vf.Taskset[SearchGymTask, SearchGymTasksetConfig]):  # type: ignore[misc]
    """The questions of a split."""

    def load(self) -> Iterator[SearchGymTask]:
        dialect = self.config.task.dialect
        arguments = {**plain("arguments", self.config.arguments), "dialect": dialect}
        if "dialect" in self.config.arguments:
            raise ConfigError(
                "dialect stands in the arguments of the environment: give env.taskset.task.dialect"
            )
        env = SearchEnv(**arguments)
        if dialect == "tools" and len(env.tool_schemas) * env.config.max_queries != 2:
            raise ConfigError("the taskset's tools are search, with one query, and answer: use dialect tags")
        system = tool_instructions(env.config) if dialect == "tools" else env.system_prompt
        for question in env.config.tasks(self.config.split):
            data = SearchGymData(
                id=question.id,
                name=question.id,
                prompt=question.text,
                system_prompt=system,
                task_id=question.id,
                arguments=arguments,
            )
            yield SearchGymTask(data, self.config.task)


class SearchGymEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """One agent."""

    agent: vf.AgentConfig = vf.AgentConfig()


class SearchGymEnv(vf.Env[SearchGymEnvConfig]):  # type: ignore[misc]
    """With tags, the environment is the user of the conversation: each message is a round."""

    async def run(self, task: SearchGymTask, agents: vf.Agents) -> None:
        if task.config.dialect == "tools":
            await agents.agent.run(task)
            return
        session = await asyncio.to_thread(start, task.data)
        async with agents.agent.interaction(task) as interaction:
            turn = await interaction.turn()
            while not turn.terminated:
                observation = await asyncio.to_thread(session.step, turn.last_reply)
                if session.over:
                    break
                turn = await interaction.turn(observation)
            interaction.trace.state.note(session)
