"""What an adapter costs beside the project's built-in search environment: same questions, same searches, same server.

    python tests/interop/overhead.py skyrl|gem

One episode is: make the environment (skyrl-gym) or reset it (GEM), search, search, answer. The built-in environment asks
`searchgym index serve` over HTTP; so does `adapter`, without a query cache, so that both loops do the same work. The cost of
the adapter itself is `local` minus `bare`: the adapter and `SearchEnv` without it, both over an index in the process, where
the network does not hide it. Medians of rounds in which all of them alternate.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from scripts import WORLD

from searchgym import SearchEnv, open_corpus, rollout

ROUNDS, EPISODES = 15, 20
Episode = Callable[[str, list[str]], float]


def loops(name: str, url: str) -> dict[str, Episode]:
    """How each plays an episode: question id, messages -> reward."""
    local: dict[str, Any] = {"corpus": WORLD, "top_k": 3}
    remote = {**local, "retriever": {"name": "remote", "url": url, "cache_bytes": 0}}
    corpus = open_corpus(WORLD)

    def bare_episode(env: SearchEnv, task_id: str, messages: list[str]) -> float:
        env.reset(options={"task_id": task_id})
        return sum(env.step(message)[1] for message in messages)

    if name == "skyrl":
        import skyrl_gym
        from skyrl_gym.envs.search.env import SearchEnvConfig

        from searchgym.interop.skyrl import ID

        config = SearchEnvConfig(search_url=url, topk=3)

        def skyrl_episode(env: Any, messages: list[str]) -> float:
            env.init([])
            return float(sum(env.step(message)["reward"] for message in messages))

        def built_in(task_id: str, messages: list[str]) -> float:
            truth = {"target": list(corpus.question(task_id).answers)}
            extras = {"reward_spec": {"ground_truth": truth}, "max_turns": 8}
            return skyrl_episode(skyrl_gym.make("search", env_config=config, extras=extras), messages)

        def adapter(arguments: dict[str, Any], task_id: str, messages: list[str]) -> float:
            extras = {"task_id": task_id}
            return skyrl_episode(skyrl_gym.make(ID, env_config=arguments, extras=extras), messages)

        return {
            "built-in": built_in,
            "adapter": partial(adapter, remote),
            "local": partial(adapter, local),
            "bare": lambda task_id, messages: bare_episode(SearchEnv(**local), task_id, messages),
        }

    import gem
    from datasets import Dataset
    from gem.envs.qa_env import QaEnv
    from gem.tools.search_tool import SearchTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper

    from searchgym.interop.gem import ID

    def gem_episode(env: Any, messages: list[str]) -> float:
        env.reset()
        return float(sum(env.step(message)[1] for message in messages))

    def wrapped(task_id: str) -> Any:
        question = corpus.question(task_id)
        row = {"question": question.text, "answer": list(question.answers)}
        return ToolEnvWrapper(
            QaEnv(dataset=Dataset.from_list([row])), [SearchTool(search_url=url)], tool_reward=0.0
        )

    def adapter(made: dict[str, Any], task_id: str, messages: list[str]) -> float:
        return gem_episode(made[task_id], messages)

    asked, bare = questions(EPISODES), SearchEnv(**local)
    return {
        "built-in": partial(adapter, {task_id: wrapped(task_id) for task_id in asked}),
        "adapter": partial(adapter, {task_id: gem.make(ID, task_id=task_id, **remote) for task_id in asked}),
        "local": partial(adapter, {task_id: gem.make(ID, task_id=task_id, **local) for task_id in asked}),
        "bare": partial(bare_episode, bare),
    }


def questions(count: int) -> dict[str, list[str]]:
    """Ids of questions that need two searches, and the messages of the oracle."""
    played = rollout("SearchQA-v0", "oracle", 50, split="dev", corpus=WORLD)
    found = {one.task_id: [r.text for r in one.rounds] for one in played if len(one.rounds) == 3}
    return dict(list(found.items())[:count])


def main(name: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["searchgym", "index", "serve", "bm25", "--corpus", json.dumps(WORLD), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/retrieve"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").read()
                break
            except OSError:
                time.sleep(0.2)
        asked, episodes = questions(EPISODES), loops(name, url)
        times: dict[str, list[float]] = {kind: [] for kind in episodes}
        for _ in range(ROUNDS):
            for kind, episode in episodes.items():
                started = time.perf_counter()
                rewards = [episode(task_id, messages) for task_id, messages in asked.items()]
                times[kind].append((time.perf_counter() - started) / len(asked))
                assert rewards == [1.0] * len(asked), (kind, rewards)
    finally:
        server.terminate()
    medians = {kind: statistics.median(values) * 1e3 for kind, values in times.items()}
    overhead = (medians["local"] - medians["bare"]) / medians["built-in"]
    print(
        ", ".join(f"{kind} {value:.3f} ms" for kind, value in medians.items()), "per episode of three steps"
    )
    print(
        f"the adapter itself: {overhead:+.1%} of the built-in loop; adapter / built-in: {medians['adapter'] / medians['built-in']:.2f}"
    )


if __name__ == "__main__":
    main(sys.argv[1])
