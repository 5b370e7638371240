"""verl's agent loops on a search environment, with verl's own token builder and tool parser: reward 1.0, masks, failures.

    PYTHONPATH=tests/agents python tests/interop/verl_loops.py        # with searchgym[verl]

A scripted server stands in for the model: it samples the oracle's messages, token by token.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from chat_families import family_tokenizer
from omegaconf import OmegaConf
from scripts import ARGUMENTS, Down, oracle_messages
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from searchgym.errors import ConfigError
from searchgym.interop.verl import SearchAgentLoop
from searchgym.interop.verl_rows import rows
from searchgym.interop.verl_tools import SearchToolAgentLoop, compute_score, tools

COUNT = 5
# A message looks the same wherever it stands, as verl's token builder demands.
TEMPLATE = """{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{% if loop.first and tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{% if m.role == 'tool' %}<tool_response>
{% endif %}{{ m.content or '' }}{% if m.role == 'tool' %}
</tool_response>{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class Server:
    """Samples the messages of a task in turn."""

    def __init__(self, tokenizer: Any, messages: list[str]) -> None:
        self.tokenizer, self.messages = tokenizer, iter(messages)

    async def generate(self, request_id: str, prompt_ids: list[int], **_: Any) -> TokenOutput:
        text = next(self.messages, "I do not know.")
        ids = self.tokenizer.encode(text + "<|im_end|>", add_special_tokens=False)
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids))


def config(longest_response: int = 16_384) -> Any:
    turns = {"max_user_turns": 8, "max_assistant_turns": 8, "max_parallel_calls": 1, "format": "hermes"}
    cut = {"max_tool_response_length": longest_response, "tool_response_truncate_side": "middle"}
    rollout = {
        "prompt_length": 8192,
        "response_length": 8192,
        "full_determinism": False,
        "multi_turn": turns | cut,
    }
    return DictConfigWrap(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}}))


def make(kind: Any, tokenizer: Any, messages: list[str], settings: Any = None, **more: Any) -> Any:
    empty = DictConfigWrap(OmegaConf.create({}))
    server = Server(tokenizer, messages)
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
    print(f"{kind.__name__}: a failed retrieval leaves {sum(output.response_mask)} tokens to train on")


async def main() -> None:
    print(f"verl {version('verl')}")
    down = {**ARGUMENTS, "retriever": Down()}
    await play(SearchAgentLoop, "tags", "searchgym")
    await lose(SearchAgentLoop, "tags", arguments=down)
    await play(SearchToolAgentLoop, "tools", "searchgym_tools", tools=ToolListWrap(tools(**ARGUMENTS)))
    await lose(SearchToolAgentLoop, "tools", tools=ToolListWrap(tools(**down)))
    try:
        make(
            SearchToolAgentLoop,
            family_tokenizer("qwen", TEMPLATE),
            [],
            config(256),
            tools=ToolListWrap(tools(**ARGUMENTS)),
        )
    except ConfigError as error:
        told = str(error)
    else:
        raise AssertionError("tool responses that verl cuts were accepted")
    assert "max_tool_response_length is 256" in told, told
    assert compute_score("", "<answer> right </answer>", "right", {})["score"] == 0.0  # a text is no episode


asyncio.run(main())
