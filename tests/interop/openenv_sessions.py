"""`searchgym openenv` with the real client: episodes at reward 1.0, state, tasks, bad input, a lost server, throughput.

python tests/interop/openenv_sessions.py        # with searchgym[openenv]
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

from scripts import ARGUMENTS, WORLD, oracle_messages
from websockets.asyncio.client import connect

import searchgym
from searchgym.audit import audit
from searchgym.errors import ConfigError
from searchgym.interop.openenv import Message, SearchClient, Text, rollout

SESSIONS, EPISODES, ROUNDS, REPEATS = 64, 4, 7, 6
ECHO = """
import sys, uvicorn

async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})

uvicorn.run(app, port=int(sys.argv[1]), log_level="error", ws="websockets-sansio", ws_per_message_deflate=False)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    """A server that accepts connections."""
    server = subprocess.Popen([*command, str(port)])
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.1)
    raise AssertionError("the server did not start")


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def check(url: str) -> None:
    """One session: what comes back, and what is refused."""
    env = searchgym.SearchEnv(**ARGUMENTS)
    task_id = env.task_ids("dev")[3]
    question, _ = env.reset(options={"task_id": task_id})
    async with SearchClient(base_url=url) as client:
        begun = await client.reset(split="dev", index=3)
        assert (begun.observation.text, begun.observation.info["task_id"]) == (question, task_id)
        assert begun.observation.info["system_prompt"] == env.system_prompt
        step = await client.step(Message(message="<search> river </search>"))
        observation, reward, _, _, info = env.step("<search> river </search>")
        assert (step.observation.text, step.reward, step.done) == (observation, reward, False)
        assert step.observation.info["hits"] == [hit["id"] for hit in info["hits"]]
        state = await client.state()
        assert (state.task_id, state.step_count) == (task_id, 1)
        other = searchgym.SearchEnv(**ARGUMENTS)
        other.restore(state.snapshot)
        assert other.step("<answer> x </answer>") == env.step("<answer> x </answer>")
        for refused, said in (
            ({"task_id": "hotpot-1"}, "unknown task id 'hotpot-1'"),
            ({"seed": -1}, "seed is -1"),
            ({"strat": 3}, "unknown reset option 'strat'"),
            ({"split": "dev", "index": 50}, "the split has 50 questions"),
        ):
            try:
                await client.reset(**refused)
            except RuntimeError as error:
                told = str(error)
            else:
                raise AssertionError(f"{refused} was accepted")
            assert said in told, told
    body = json.dumps({"split": "dev", "index": 3}).encode()
    address = url.replace("ws", "http", 1) + "/searchgym/task"
    asked = urllib.request.Request(address, body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        assert task_id in answer.read().decode()
    print(
        "a session: observations, rewards, state and tasks equal the environment's; bad input is refused by name"
    )


async def check_episodes(url: str, save: Path) -> None:
    """The oracle's messages through the server earn 1.0, and the saved episodes equal those of a local rollout."""
    messages = oracle_messages("dev", 12)

    def act(text: Text) -> str:
        return messages[text.info["task_id"]][text.info.get("round", 0)]

    played, dropped = await rollout(url, act, [{"task_id": task_id} for task_id in messages])
    assert [last.info["outcome"]["em"] for last in played] == [1.0] * len(messages)
    assert not dropped, dropped
    saved = {episode.task_id: episode for episode in searchgym.load_episodes(save) if episode.outcome.em}
    assert {task_id: [r.text for r in saved[task_id].rounds] for task_id in messages} == messages
    agreement = audit("rules", list(saved.values()), corpus=searchgym.open_corpus(WORLD))
    assert agreement.compared == sum(len(episode.rounds) for episode in saved.values()), agreement
    try:
        await rollout(url, act, [{"task_id": "of another corpus"}])
    except ConfigError as error:
        told = str(error)
    else:
        raise AssertionError("a task of another corpus was played")
    assert "of another corpus" in told, told
    print(f"{len(messages)} episodes of the oracle over websockets: reward 1.0 each; saved, judged, audited")


async def measure(url: str, server: int) -> None:
    """Round trips a second of 64 sessions, beside a server that only echoes messages of that size, in turns."""

    async def session(number: int) -> None:
        async with SearchClient(base_url=url) as client:
            for episode in range(EPISODES):
                seen = await client.reset(split="train", index=(number + episode) % 200)
                for turn in range(ROUNDS):
                    query = f"<search>{seen.observation.text[:40]} {turn}</search>"
                    seen = await client.step(Message(message=query))

    async def echoed(_: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}", max_size=None) as socket:
            for _ in range(EPISODES * (1 + ROUNDS)):
                await socket.send("x" * 1100)
                await socket.recv()

    trips = SESSIONS * EPISODES * (1 + ROUNDS)
    port = free_port()
    echo = start([sys.executable, "-c", ECHO], port)
    rates: dict[str, list[float]] = {"sessions": [], "echoes": []}
    costs: dict[str, list[float]] = {"server": [], "client": [], "echo": []}
    try:
        for _ in range(REPEATS):
            for kind, one, process in (("sessions", session, server), ("echoes", echoed, echo.pid)):
                begun, used, own = time.perf_counter(), cpu_seconds(process), time.process_time()
                await asyncio.gather(*map(one, range(SESSIONS)))
                rates[kind].append(trips / (time.perf_counter() - begun))
                costs["server" if kind == "sessions" else "echo"].append(
                    1000 * (cpu_seconds(process) - used) / trips
                )
                if kind == "sessions":
                    costs["client"].append(1000 * (time.process_time() - own) / trips)
    finally:
        echo.kill()
        echo.wait()
    middle = {kind: statistics.median(values) for kind, values in rates.items()}
    print(
        f"{SESSIONS} sessions: best {max(rates['sessions']):,.0f} round trips/s, median {middle['sessions']:,.0f}; bare echo: "
        f"best {max(rates['echoes']):,.0f}, median {middle['echoes']:,.0f}; ratio of medians "
        f"{middle['sessions'] / middle['echoes']:.2f}"
    )
    least = {kind: min(values) for kind, values in costs.items()}
    print(
        f"processor time of a round trip: server {least['server']:.3f} ms, client {least['client']:.3f} ms, bare echo server "
        f"{least['echo']:.3f} ms: an idle core for each gives {1000 / max(least['server'], least['client']):,.0f} round trips/s"
    )


async def check_lost(url: str, server: subprocess.Popen[bytes]) -> None:
    """A server that is killed during episodes: these are dropped and counted."""

    def act(text: Text) -> str:
        if text.info.get("round") == 2:
            server.kill()
        return "<search> river </search>"

    played, dropped = await rollout(url, act, [{"split": "dev", "index": index} for index in range(8)])
    assert (len(played), sum(dropped.values())) == (0, 8), (played, dropped)
    print(f"a server that is killed: no episode is scored, dropped: {dict(dropped)}")


async def main() -> None:
    print(f"openenv {version('openenv')}")
    with tempfile.TemporaryDirectory() as folder:
        save, port = Path(folder) / "episodes.jsonl", free_port()
        command = [str(Path(sys.executable).parent / "searchgym"), "openenv", "--corpus", json.dumps(WORLD)]
        server = start([*command, "--save", str(save), "--agent-name", "oracle-over-ws", "--port"], port)
        try:
            url = f"ws://127.0.0.1:{port}"
            await check(url)
            await check_episodes(url, save)
            await measure(url, server.pid)
            await check_lost(url, server)
        finally:
            server.kill()
            server.wait()


asyncio.run(main())
