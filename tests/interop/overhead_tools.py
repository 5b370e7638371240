"""What an adapter costs where the project has no search environment of its own: beside the smallest one written by hand.

    PYTHONPATH=tests/agents python tests/interop/overhead_tools.py verl
    python tests/interop/overhead_tools.py trl

The environment by hand searches the same index in the process, shows the same passages and scores the answer by exact match; no budget,
no metrics, no episode. verl: its own tool loop, token builder and parser play both, and a scripted server stands in for the
model. TRL: an episode is the calls that its trainer makes (reset, search, search, answer, get_reward), without the model. Medians
of rounds in which both alternate.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from overhead import EPISODES, ROUNDS
from scripts import ARGUMENTS, WORLD

from searchgym import SearchEnv, open_corpus, rollout
from searchgym.scoring import exact_match
from searchgym.specs import open_retriever

Play = Callable[[str, list[Any]], float]


class ByHand:
    """A search environment of a few lines."""

    def __init__(self) -> None:
        self.corpus = open_corpus(WORLD)
        self.retriever = open_retriever("bm25", self.corpus)

    def reset(self, task_id: str) -> None:
        self.answers, self.reward = self.corpus.question(task_id).answers, 0.0

    def search(self, query: str) -> str:
        (hits,) = self.retriever.search([query], ARGUMENTS["top_k"])
        return "\n".join(f"[{n}] {hit.title}\n{hit.text}" for n, hit in enumerate(hits, 1))

    def answer(self, answer: str) -> str:
        self.reward = float(exact_match(answer, self.answers))
        return "The episode has ended."


def verl_loops() -> dict[str, Play]:
    from chat_families import family_tokenizer
    from verl.experimental.agent_loop.agent_loop import ToolListWrap
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.tools.base_tool import BaseTool
    from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
    from verl_loops import TEMPLATE, make

    from searchgym.interop.verl_rows import rows, tool_config
    from searchgym.interop.verl_tools import SearchTool, SearchToolAgentLoop

    env, tokenizer = ByHand(), family_tokenizer("qwen", TEMPLATE)
    data = {
        row["extra_info"]["task_id"]: row for row in rows("dev", agent_name="searchgym_tools", **ARGUMENTS)
    }
    listed = tool_config(**ARGUMENTS)["tools"]

    class Tool(BaseTool):  # type: ignore[misc]
        async def execute(self, instance_id: str, parameters: dict[str, Any], **_: Any) -> Any:
            return ToolResponse(text=getattr(env, self.name)(**parameters)), 0.0, {}

    def tools(kind: Any) -> Any:
        schemas = [OpenAIFunctionToolSchema.model_validate(entry["tool_schema"]) for entry in listed]
        return ToolListWrap([kind({"arguments": ARGUMENTS}, schema) for schema in schemas])

    def loop(kind: Any, offered: Any) -> Play:
        async def run(task_id: str, messages: list[str]) -> float:
            row = data[task_id]
            extra = row["extra_info"]
            env.reset(task_id)
            made = make(kind, tokenizer, messages, tools=offered)
            given = {"raw_prompt": row["prompt"], "extra_info": extra, "tools_kwargs": extra["tools_kwargs"]}
            output = await made.run({}, **given)
            return float(env.reward if output.reward_score is None else output.reward_score)

        runner = asyncio.Runner()
        return lambda task_id, messages: runner.run(run(task_id, messages))

    return {
        "by hand": loop(ToolAgentLoop, tools(Tool)),
        "adapter": loop(SearchToolAgentLoop, tools(SearchTool)),
    }


def trl_calls() -> dict[str, Play]:
    from searchgym.interop.trl import Environments

    by_hand, made, bare = ByHand(), Environments(**ARGUMENTS)(), SearchEnv(**ARGUMENTS, dialect="tools")

    def play(env: Any, task_id: str, messages: list[str]) -> float:
        env.reset(task_id=task_id)
        for message in messages:
            call = json.loads(message.partition("<tool_call>")[2].partition("</tool_call>")[0])
            getattr(env, call["name"])(**call["arguments"])
        return float(env.get_reward() if hasattr(env, "get_reward") else env.reward)

    def play_bare(task_id: str, messages: list[str]) -> float:
        bare.reset(options={"task_id": task_id})
        return sum(bare.step(message)[1] for message in messages)

    return {
        "by hand": lambda task_id, messages: play(by_hand, task_id, messages),
        "adapter": lambda task_id, messages: play(made, task_id, messages),
        "SearchEnv alone": play_bare,
    }


def main(name: str) -> None:
    played = rollout("SearchQA-v0", "oracle", 50, split="dev", dialect="tools", **ARGUMENTS)
    found = {one.task_id: [r.text for r in one.rounds] for one in played if len(one.rounds) == 3}
    asked = dict(list(found.items())[:EPISODES])
    loops = verl_loops() if name == "verl" else trl_calls()
    times: dict[str, list[float]] = {kind: [] for kind in loops}
    for _ in range(ROUNDS):
        for kind, play in loops.items():
            started = time.perf_counter()
            rewards = [play(task_id, messages) for task_id, messages in asked.items()]
            times[kind].append((time.perf_counter() - started) / len(asked))
            assert rewards == [1.0] * len(asked), (kind, rewards)
    medians = {kind: statistics.median(values) * 1e3 for kind, values in times.items()}
    print(
        ", ".join(f"{kind} {value:.3f} ms" for kind, value in medians.items()), "per episode of three steps"
    )


if __name__ == "__main__":
    main(sys.argv[1])
