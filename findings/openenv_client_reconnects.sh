#!/usr/bin/env bash
# An OpenEnv client whose server was restarted plays on in a fresh environment, without an error and without a reset: the step
# after the one that failed is answered by another episode.
#
# Versions: openenv 0.10.0, Python 3.11.
# Behaviour: the server keeps one environment for each websocket, so an episode ends with its socket. When the socket is lost,
#   the client's next step() raises ConnectionClosedError once; the step() after that opens a new socket by itself and succeeds,
#   in an environment that was made a moment ago and never reset. A training loop that retries a failed step (the usual cure for
#   a lost connection) therefore gets an observation and a reward of an episode that it did not start. Nothing in the result
#   says so; state() has another episode id, or None. An environment can defend itself only by refusing steps before reset();
#   a client has to drop the rollout at the first ConnectionClosedError.
# Seen 2026-11-29:
#   before: count 11 12 13 after reset(start=10)
#   first step after the restart: ConnectionClosedError
#   second step after the restart: count 1, done False, episode_id None
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openenv==0.10.0
cat > "$work/counter.py" <<'PY'
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Nothing(Action):
    pass


class Count(Observation):
    count: int = 0


class Counter(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self.count = 0
        self.episode = None

    def reset(self, seed=None, episode_id=None, start=0, **_):
        self.count, self.episode = start, episode_id
        return Count(count=start)

    def step(self, action, timeout_s=None, **_):
        self.count += 1
        return Count(count=self.count, reward=1.0)

    @property
    def state(self):
        return State(episode_id=self.episode, step_count=self.count)


app = create_fastapi_app(Counter, Nothing, Count, max_concurrent_envs=4)
PY
cat > "$work/probe.py" <<'PY'
import asyncio
import socket
import subprocess
import sys
import time

from counter import Count, Nothing
from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.types import State
from websockets.exceptions import ConnectionClosedError


class Client(EnvClient):
    def _step_payload(self, action):
        return {}

    def _parse_result(self, payload):
        return StepResult(observation=Count(**payload["observation"]), done=payload["done"])

    def _parse_state(self, payload):
        return State(**payload)


def start(port):
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "counter:app", "--port", str(port), "--log-level", "error"]
    )
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.1)
    raise SystemExit("the server did not start")


async def main():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(port)
    try:
        async with Client(base_url=f"ws://127.0.0.1:{port}") as env:
            await env.reset(start=10, episode_id="mine")
            before = [(await env.step(Nothing())).observation.count for _ in range(3)]
            print("before: count", *before, "after reset(start=10)")
            server.kill()
            server.wait()
            server = start(port)
            try:
                await env.step(Nothing())
                raise SystemExit("CHANGED: the first step after the restart succeeded")
            except ConnectionClosedError as error:
                print("first step after the restart:", type(error).__name__)
            result, state = await env.step(Nothing()), await env.state()
            print(
                f"second step after the restart: count {result.observation.count}, done {result.done}, "
                f"episode_id {state.episode_id}"
            )
            assert before == [11, 12, 13], before
            assert (result.observation.count, result.done, state.episode_id) == (1, False, None), (result, state)
    finally:
        server.kill()
        server.wait()


asyncio.run(main())
PY
cd "$work"
"$work/venv/bin/python" "$work/probe.py"
