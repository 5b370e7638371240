"""verl's agent loops on a search environment, with verl's own token builder and tool parser: reward 1.0, masks, failures.

    PYTHONPATH=tests/agents python tests/interop/verl_loops.py        # with searchgym[verl]

A scripted server stands in for the model: it samples the oracle's messages, token by token.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chat_families import family_tokenizer
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from scripts import ARGUMENTS, Down, oracle_messages
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.tools.tool_registry import load_all_tools
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from searchgym.errors import ConfigError, RetrievalError
from searchgym.interop.verl import SearchAgentLoop
from searchgym.interop.verl_rows import rows, tool_config
from searchgym.interop.verl_tools import SearchTool, SearchToolAgentLoop, compute_score

COUNT = 5
# A message looks the same wherever it stands, as verl's token builder demands.
TEMPLATE = (Path(__file__).parent / "verl_chat.jinja").read_text("utf-8")


class Server:
    """Samples the messages of a task in turn, with the token that ends a turn or, as at a stop string, without it."""

    def __init__(self, tokenizer: Any, messages: list[str], end: str) -> None:
        self.tokenizer, self.messages, self.end = tokenizer, iter(messages), end

    async def generate(self, request_id: str, prompt_ids: list[int], **_: Any) -> TokenOutput:
        text = next(self.messages, "I do not know.")
        ids = self.tokenizer.encode(text + self.end, add_special_tokens=False)
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids))


def tools(folder: Path) -> ToolListWrap:
    """The tools, as verl loads them from a file."""
    file = folder / "tools.json"
    file.write_text(json.dumps(tool_config(**ARGUMENTS)), "utf-8")
    return ToolListWrap(load_all_tools(str(file), None))


def config(longest_response: int = 16_384, *, v1: bool = False) -> Any:
    turns = {"max_user_turns": 8, "max_assistant_turns": 8, "max_parallel_calls": 1, "format": "hermes"}
    cut = {"max_tool_response_length": longest_response, "tool_response_truncate_side": "middle"}
    rollout = {
        "prompt_length": 8192,
        "response_length": 8192,
        "full_determinism": False,
        "multi_turn": turns | cut,
    }
    whole = {"actor_rollout_ref": {"rollout": rollout}, "trainer": {"use_v1": v1}}
    return DictConfigWrap(OmegaConf.create(whole))


def make(
    kind: Any, tokenizer: Any, messages: list[str], settings: Any = None, end: str = "<|im_end|>", **more: Any
) -> Any:
    empty = DictConfigWrap(OmegaConf.create({}))
    server = Server(tokenizer, messages, end)
    return kind(
        settings or config(), server, tokenizer, None, RLHFDataset, empty, hf_model_type="qwen3", **more
    )


async def play(kind: Any, dialect: str, agent_name: str, **more: Any) -> None:
    """The oracle's messages earn 1.0, and what the model did not write is masked."""
    tokenizer = family_tokenizer("qwen", TEMPLATE)
    messages = oracle_messages("train", COUNT, dialect)
    data = {row["extra_info"]["task_id"]: row for row in rows("train", agent_name=agent_name, **ARGUMENTS)}
    for task_id, said in messages.items():
        loop, row = make(kind, tokenizer, said, **more), data[task_id]
        extra = row["extra_info"]
        given = {"raw_prompt": row["prompt"], "extra_info": extra, "tools_kwargs": extra["tools_kwargs"]}
        output = await loop.run({}, **given)
        assert output.reward_score == 1.0, output
        sampled = [i for i, m in zip(output.response_ids, output.response_mask, strict=True) if m]
        seen = [i for i, m in zip(output.response_ids, output.response_mask, strict=True) if not m]
        assert tokenizer.decode(sampled, skip_special_tokens=True).replace("\n", "") == "".join(said).replace(
            "\n", ""
        )
        if len(said) > 1:
            assert "[1]" in tokenizer.decode(seen)
        assert len(output.response_logprobs) == len(output.response_ids) == len(output.response_mask)
        if kind is SearchAgentLoop:  # a server that stops at the closing tags: the model reads the same
            stopped = await make(kind, tokenizer, said, end="", **more).run({}, **given)
            assert stopped.response_ids == output.response_ids[:-1], tokenizer.decode(stopped.response_ids)
    print(
        f"{kind.__name__}: {len(messages)} episodes, reward 1.0 each; only the model's tokens are trained on"
    )


async def lose(kind: Any, dialect: str, **more: Any) -> None:
    """A retriever that is down: nothing of the rollout is trained on."""
    tokenizer = family_tokenizer("qwen", TEMPLATE)
    ((task_id, said),) = oracle_messages("train", 1, dialect).items()
    extra = {"task_id": task_id, "tools_kwargs": {"task_id": task_id}}
    loop = make(kind, tokenizer, said, **more)
    prompt = [{"role": "user", "content": "a question"}]
    output = await loop.run({}, raw_prompt=prompt, extra_info=extra, tools_kwargs=extra["tools_kwargs"])
    assert output.reward_score == 0.0
    assert sum(output.response_mask) == 0, sum(output.response_mask)
    assert "secret" not in tokenizer.decode(output.response_ids)
    loop = make(kind, tokenizer, said, config(v1=True), **more)
    try:
        await loop.run({}, raw_prompt=prompt, extra_info=extra, tools_kwargs=extra["tools_kwargs"])
    except RetrievalError as error:
        told = str(error)
    else:
        raise AssertionError("verl's trainer would have trained on an episode without a reward")
    assert "verl drops the rollout" in told, told
    print(
        f"{kind.__name__}: a failed retrieval drops the rollout; under the older trainer, 0 tokens are trained on"
    )


async def reward_manager() -> None:
    """verl's reward manager calls the reward function, found by verl's own loader, with what the tools kept."""
    tokenizer = family_tokenizer("qwen", TEMPLATE)
    with initialize_config_module(config_module="verl.trainer.config", version_base=None):
        function = "reward.custom_reward_function"
        path = "pkg://searchgym.interop.verl_tools"
        whole = compose("ppo_trainer", [f"{function}.path={path}", f"{function}.name=compute_score"])
    manager = load_reward_manager(whole, tokenizer)
    kept = {"searchgym": {"reward": 1.0, "valid": True, "em": 1.0}}
    tokens = torch.tensor([tokenizer.encode("<answer> wrong </answer>", add_special_tokens=False)])
    data = DataProto.from_dict(
        tensors={"responses": tokens, "attention_mask": torch.ones_like(tokens)},
        non_tensors={
            "data_source": np.array(["searchgym"]),
            "reward_model": np.array([{"ground_truth": ["right"]}], dtype=object),
            "extra_info": np.array([{}], dtype=object),
            "tool_extra_fields": np.array([kept], dtype=object),
        },
    )
    result = await manager.run_single(data)
    assert (result["reward_score"], result["reward_extra_info"]["em"]) == (1.0, 1.0), result
    print(
        f"{type(manager).__name__}: the score is what the tools' episode was paid, {result['reward_score']}"
    )


async def main(folder: Path) -> None:
    print(f"verl {version('verl')}")
    down = {**ARGUMENTS, "retriever": Down()}
    await play(SearchAgentLoop, "tags", "searchgym")
    await lose(SearchAgentLoop, "tags", arguments=down)
    await play(SearchToolAgentLoop, "tools", "searchgym_tools", tools=tools(folder))
    lost = [SearchTool({"arguments": down}, tool.tool_schema) for tool in tools(folder).tools]
    await lose(SearchToolAgentLoop, "tools", tools=ToolListWrap(lost))
    await reward_manager()
    try:
        make(
            SearchToolAgentLoop,
            family_tokenizer("qwen", TEMPLATE),
            [],
            config(256),
            tools=tools(folder),
        )
    except ConfigError as error:
        told = str(error)
    else:
        raise AssertionError("tool responses that verl cuts were accepted")
    assert "max_tool_response_length is 256" in told, told
    assert compute_score("", "<answer> right </answer>", "right", {})["score"] == 0.0  # a text is no episode


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        asyncio.run(main(Path(temporary)))
