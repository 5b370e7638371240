"""Real chat templates: those that TRL ships, read from its package where it is installed."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from chat_families import agent_context
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from searchgym.agents.hf.chat import ChatFormat
from searchgym.errors import ConfigError

_FOUND = importlib.util.find_spec("trl")
FOLDER = (
    Path(next(iter(_FOUND.submodule_search_locations or ()), "")) / "chat_templates" if _FOUND else Path()
)
NATIVE = (
    "llama3_1 llama3_2 nemotron_3_5_lightning nemotron_3_nano nemotron_3_super nemotron_3_ultra qwen2_5 qwen3 "
    "qwen3_5_nothink qwen3_5_think qwen3_6 qwen3_8 qwen3_instruct_2507 qwen3_vl"
).split()
"""Templates whose own tools are used: Hermes calls, bare calls, calls in marks."""
PLAIN = (
    "cohere cohere2 deepseek_r1_distill deepseekv3 gemma gemma3 gemma4 glm4moe lfm2 lfm2_2_5 llama3 phi3 phi3_5 "
    "qwen2_5_vl"
).split()
"""Templates that are used for chats, while the dialect's prompt lists the tools."""
REFUSED = {
    "gptoss": "control tokens between the start of a reply",
    "muse_glimmer": "control tokens between the start of a reply",
    "idefics3": "once and in order",
    "llava_next": "once and in order",
    "smolvlm": "once and in order",
}
"""Formats of several channels, and templates that want lists of images and texts as messages."""
_MARKUP = re.compile(
    r"<\|?[a-z_A-Z]+\|?>|</?s>|\[/?[A-Z_]+\]|<｜[^｜]+｜>|</?(?:think|tool_call|tool_response)>"
)

pytestmark = pytest.mark.skipif(
    _FOUND is None or not FOLDER.is_dir(), reason="TRL, whose chat templates these are, is not installed"
)


@functools.cache
def tokenizer_of(name: str) -> Any:
    """A tokenizer of single bytes with the control tokens that a template mentions."""
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<eos>", "<bos>", *sorted(set(_MARKUP.findall(template)))]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<bos>", chat_template=template
    )


@pytest.mark.parametrize("name", [*NATIVE, *PLAIN])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_real_template_is_handled(name: str, thinking: bool) -> None:
    tokenizer = tokenizer_of(name)
    for dialect in ("tags", "tools"):
        chat = ChatFormat(tokenizer, agent_context(dialect), thinking=thinking)
        assert chat.native_tools == (dialect == "tools" and name in NATIVE), chat.why_not_native
        opening = tokenizer.decode(chat.opening("Who is it?"))
        assert opening.count("Who is it?") == 1
        assert opening.count("exactly one action and stop") == 1
        assert opening.count("Give the final answer and end.") == (dialect == "tools")
        observation = "<tool_response>\nA lake.\n</tool_response>" if dialect == "tools" else "A lake."
        reply = tokenizer.decode(chat.reply(observation, False))
        assert reply.count("A lake.") == 1
        assert reply.count("<tool_response>") <= 1
        assert len(chat.reply(observation, True)) < len(chat.reply(observation, False)) or name == "glm4moe"


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_template_that_cannot_be_handled_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[name]):
        ChatFormat(tokenizer_of(name), agent_context("tags"))
