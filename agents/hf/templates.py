"""Chat templates for models that come without one: `chat_template=` by name or as a file.

A template of a chat model is used as it is. Base models, and models read from GGUF files, have none. The template that a
model saw in training is the one to give; "plain" writes no marks, for base models that saw none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, did_you_mean

from .chat_encoder import control_ids

__all__ = ["TEMPLATES", "give_template"]

_BOS = "{{ bos_token if bos_token is defined and bos_token else '' }}"
_SYSTEM_IN_USER = (
    "{% set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
)

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "gemma": (
        f"{_BOS}{_SYSTEM_IN_USER}"
        "{% for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ system if loop.first else '' }}{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "llama3": (
        f"{_BOS}"
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "plain": (
        f"{_BOS}{_SYSTEM_IN_USER}"
        "{{ system }}{% for m in rest %}{{ 'Question: ' if loop.first else '' }}{{ m.content }}\n{% endfor %}"
    ),
}
"""The templates by name: ChatML (Qwen), Gemma's, Llama 3's, and text without marks, as Search-R1 prompts base models."""

_MARKS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "plain": (),
}


def give_template(owner: str, path: str, tokenizer: Any, template: str | None) -> None:
    """Make sure that a tokenizer has a chat template.

    Args:
        owner: what needs it, as error messages begin: "agent 'hf'".
        path: directory or id of the model, for messages.
        tokenizer: its tokenizer; the template is written to it, so it is saved with it.
        template: a name in `TEMPLATES` or a file with a Jinja template; None: the tokenizer's own.

    Raises:
        ConfigError: neither a name nor a readable file; there is no template; or the tokenizer does not have the marks
            of the named one as control tokens, so that a passage that contains them could end a message.
    """
    if template is None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"{owner}: {path!r} has no chat template, so it is not a chat model: use an instruction-tuned one (its "
                "tokenizer files contain a chat template), or give chat_template: "
                f"{', '.join(TEMPLATES)} or a file; for a base model, plain"
            )
        return
    if template in TEMPLATES:
        control = control_ids(tokenizer)
        for mark in _MARKS[template]:
            ids = tokenizer.encode(mark, add_special_tokens=False)
            if len(ids) != 1 or ids[0] not in control:
                fitting = [
                    name
                    for name, marks in _MARKS.items()
                    if all(tokenizer.convert_tokens_to_ids(m) in control for m in marks)
                ]
                raise ConfigError(
                    f"{owner}: chat_template {template!r} writes {mark!r}, which is not a control token of the tokenizer "
                    f"of {path!r}, so a passage could contain it: give one of {', '.join(fitting)}, or a file"
                )
        tokenizer.chat_template = TEMPLATES[template]
        return
    if not os.path.isfile(template):
        raise ConfigError(
            f"{owner}: chat_template is {template!r}: neither a file nor one of {', '.join(TEMPLATES)}."
            f"{did_you_mean(template, TEMPLATES)}"
        )
    try:
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{owner}: the chat template {template!r} cannot be read: {error}") from error
