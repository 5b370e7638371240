"""verifiers (v1): the tools of the taskset `searchgym-vf`, which verifiers runs as a program of its own for each rollout.

A program, so the module is run with `python -m`; docs/interop/verifiers.md says how the taskset is used.
"""

from __future__ import annotations

from typing import Any

from searchgym import EpisodeSession, SearchEnv

from .peers import check_peer

check_peer("verifiers")

import verifiers.v1 as vf  # noqa: E402  (after the check of its version)
from pydantic import Field  # noqa: E402

__all__ = ["SearchGymData", "SearchGymState", "SearchTools", "start"]


class SearchGymData(vf.TaskData):  # type: ignore[misc]  # the package is not there when types are checked
    """A question: its id, and the arguments of the environment that asks it."""

    task_id: str
    arguments: dict[str, Any]


class SearchGymState(vf.State):  # type: ignore[misc]
    """What the environment, which may be in a process of its own, has to say about the episode."""

    over: bool = False
    reward: float = 0.0
    failure: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    snapshot: dict[str, Any] | None = None

    def note(self, session: EpisodeSession) -> None:
        """Take over the state of a session."""
        self.over, self.reward, self.metrics = session.over, session.reward, session.metrics()
        if not session.over:
            self.snapshot = session.env.snapshot()
        elif not self.failure:
            try:
                valid = session.finish() is not None
            except Exception as error:  # what a tool call has raised
                self.failure = f"{type(error).__name__}: {error}"
            else:
                self.failure = "" if valid else str(session.info["outcome"]["stop_reason"])


class SearchTools(vf.Toolset[vf.ToolsetConfig, SearchGymState]):  # type: ignore[misc]
    """The tools of one rollout, served by verifiers over MCP."""

    TOOL_PREFIX = None

    async def setup_task(self, task: SearchGymData) -> None:
        self.session = start(task)

    def _call(self, name: str, **arguments: str) -> str:
        text = self.session.call(name, arguments)
        self.state.note(self.session)
        return text

    @vf.tool  # type: ignore[untyped-decorator]
    def search(self, query: str) -> str:
        """Search the corpus for passages."""
        return self._call("search", query=query)

    @vf.tool  # type: ignore[untyped-decorator]
    def answer(self, answer: str) -> str:
        """Give the final answer, a few words, and end."""
        return self._call("answer", answer=answer)


def start(data: SearchGymData) -> EpisodeSession:
    """A session that has asked a task's question."""
    session = EpisodeSession(SearchEnv(**data.arguments))
    session.reset(data.task_id)
    return session


if __name__ == "__main__":
    SearchTools.run()
