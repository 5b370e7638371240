"""The client of an OpenEnv server for a search environment. Tested versions: `peers.PEERS`.

    async with SearchClient(base_url="ws://127.0.0.1:8140") as env:
        await env.reset(split="dev", index=0)

`searchgym openenv` starts the server (`openenv_app`). An episode that the infrastructure ended has the reward None and
`info["valid_for_training"]` False.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from searchgym.errors import ConfigError

from .peers import check_peer

check_peer("openenv")

from openenv.core import EnvClient  # noqa: E402  # after the check of its version
from openenv.core.client_types import StepResult  # noqa: E402
from openenv.core.env_server.types import Action, Observation, State  # noqa: E402
from pydantic import Field  # noqa: E402
from websockets.exceptions import WebSocketException  # noqa: E402

__all__ = ["Message", "SearchClient", "SearchState", "Text", "rollout", "shown"]

_SHOWN = ("task_id", "split", "round", "action", "reward_terms", "outcome", "valid_for_training")
# A step that is refused counts as lost, too: the client reconnects by itself, to a session in which no episode is running.
_LOST = (OSError, TimeoutError, RuntimeError, WebSocketException)


class Message(Action):  # type: ignore[misc]  # the package need not be installed
    """What the agent wrote in one round: its thinking and exactly one act."""

    message: str


class Text(Observation):  # type: ignore[misc]  # the package need not be installed
    """The new text, "" at the end; `info` is what of the environment's info is not in the text, and always the task's id."""

    text: str = ""
    truncated: bool = False
    info: dict[str, Any] = Field(default_factory=dict)


class SearchState(State):  # type: ignore[misc]  # the package need not be installed
    """`snapshot` continues the episode in any environment of the same arguments (`SearchEnv.restore`)."""

    task_id: str | None = None
    snapshot: dict[str, Any] | None = None


class SearchClient(EnvClient[Message, Text, SearchState]):  # type: ignore[misc]  # the package need not be installed
    """The client; `.sync()` is its blocking form."""

    def _step_payload(self, action: Message) -> dict[str, Any]:
        return {"message": action.message}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Text]:
        reward, done = payload.get("reward"), payload.get("done", False)
        text = Text(**payload["observation"], reward=reward, done=done)
        return StepResult(observation=text, reward=reward, done=done)

    def _parse_state(self, payload: dict[str, Any]) -> SearchState:
        return SearchState(**payload)


async def rollout(
    url: str, act: Callable[[Text], str], tasks: Iterable[Mapping[str, Any]], *, sessions: int = 64
) -> tuple[list[Text], Counter[str]]:
    """Play episodes on a server, several at a time.

    Args:
        url: of the server, e.g. "ws://127.0.0.1:8140".
        act: the agent: what it writes after a text.
        tasks: the reset arguments of each episode, e.g. {"task_id": …}.
        sessions: episodes played at a time.

    Returns:
        The last observation of each valid episode, in the order of the tasks; and how many others were dropped, by reason:
        the stop reason of an infrastructure failure, or the name of the exception of a lost connection.

    Raises:
        ConfigError: the server refused a task, e.g. the id of a question of another corpus.
    """
    dropped: Counter[str] = Counter()
    turns = asyncio.Semaphore(sessions)

    async def play(task: Mapping[str, Any]) -> Text | None:
        async with turns:
            try:
                async with SearchClient(base_url=url) as client:
                    try:
                        result = await client.reset(**task)
                    except RuntimeError as error:
                        raise ConfigError(f"the server refused {dict(task)!r}: {error}") from error
                    while not result.done:
                        result = await client.step(Message(message=act(result.observation)))
            except _LOST as error:
                dropped[type(error).__name__] += 1
                return None
        last: Text = result.observation
        if result.reward is None:
            dropped[last.info["outcome"]["stop_reason"]] += 1
            return None
        return last

    played = await asyncio.gather(*map(play, tasks))
    return [last for last in played if last is not None], dropped


def shown(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a server sends of an environment's info."""
    sent = {name: info[name] for name in _SHOWN if name in info}
    return sent | ({"hits": [hit["id"] for hit in info["hits"]]} if "hits" in info else {})
