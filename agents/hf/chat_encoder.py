"""Chat messages to token ids, so that no message can hold a control token.

A chat template turns messages into one text with control tokens in it, such as `<|im_end|>`. Tokenising that text
whole would turn the same characters inside a message into the control token: a passage could end the user's turn
and speak as the assistant. Here the template is rendered once with place-holders; its own pieces are tokenised
with control tokens, and every message by itself, without. Nor does a message's text reach the template, which may
look into it (Qwen3's cuts an assistant's text at `</think>`).

Harmless messages get the ids that tokenising the whole would give them, but for the first characters of a message:
what the template writes before them is no part of their tokens. Spaces are (`[INST] ` of Mistral's), and a tokenizer
that puts a space before every text (SentencePiece's way) does so for none of the parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from searchgym.errors import ConfigError
from searchgym.judges.llm.prompt import Message

__all__ = ["ChatEncoder", "opened_thought", "placeholder"]

_DAY = {
    "%d": "26",
    "%-d": "26",
    "%b": "Jul",
    "%B": "July",
    "%m": "07",
    "%Y": "2024",
    "%y": "24",
    "%A": "Friday",
}
_SAME_DAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('{code}', '{value}')" for code, value in _DAY.items())
    + "}}{% endmacro %}{{ '' }}"
)
"""Put before templates that ask for today's date: the same prompt today and tomorrow. (The day Llama 3.1's has.)"""


def placeholder(number: int) -> str:
    """What stands for message `number` where a template is rendered to see what it writes around messages."""
    return f"searchgym-message-{number}-here"


def opened_thought(before_reply: str) -> str:
    """The start of a thought with which a template begins a reply; "" where it leaves that to the model."""
    start = before_reply.rfind("<think>")
    return before_reply[start:] if start > before_reply.rfind("</think>") else ""


class ChatEncoder:
    """See the module docstring.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        thinking: for templates that offer the choice: whether a reply may begin with a thought.
        tools: tools for the template to list, as JSON schemas.

    Attributes:
        takes_system: whether the template has a system role; where it has not (or writes its text elsewhere as a
            conversation goes on), the instructions open the first user's message.
        control: ids of the tokenizer's control tokens.
        marks: those of them that are marks in a model's messages, such as Qwen3's `<think>`.

    Raises:
        ConfigError: no chat template, or one that does not show every message once and in order.
    """

    def __init__(
        self, tokenizer: Any, *, thinking: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self.name = tokenizer.name_or_path
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"{self.name!r} has no chat template, so it is no chat model: use an instruction-tuned "
                "one (its tokenizer files hold a chat template)"
            )
        self._tokenizer = tokenizer
        self._options = {"enable_thinking": thinking, "thinking": thinking}
        self.tools = None if tools is None else [dict(tool) for tool in tools]
        # White space is no control token, though some tokenizers list runs of it beside them.
        self.control = frozenset(
            id
            for text, id in tokenizer.get_added_vocab().items()
            if text.strip(" \n\t\r▁") and text != tokenizer.unk_token  # which any unknown character gives
        )
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.marks = frozenset(id for id in self.control if id in added and not added[id].special)
        self.template_ids = _without_prefix(tokenizer)
        """The ids of what a template wrote, control tokens included."""
        self._layouts: dict[tuple[tuple[str, ...], bool], list[str]] = {}
        self.takes_system = self._takes_system()
        self._first = self.layout(("system", "user")[not self.takes_system :])

    @property
    def opens_thought(self) -> bool:
        """Whether the template makes every reply begin inside a thought, as that of a model that always thinks."""
        return bool(opened_thought(self._first[-1]))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's next message begins."""
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
        if roles[0] == "system" and not self.takes_system:
            opening = f"{contents[0]}\n\n{contents[1]}" if contents[0] else contents[1]
            roles, contents = roles[1:], [opening, *contents[2:]]
        return self.join(self.layout(tuple(roles)), contents)

    def join(self, pieces: Sequence[str], contents: Sequence[str], *, marks: bool = False) -> list[int]:
        """The ids of what a template writes, with messages between: `pieces` is one longer than `contents`."""
        ids: list[int] = []
        for piece, content in zip(pieces, contents, strict=False):
            before = piece.rstrip(" ")
            ids += self.template_ids(before)
            ids += self.plain(piece[len(before) :] + content, marks=marks)
        return ids + self.template_ids(pieces[-1])

    def plain(self, text: str, *, marks: bool = False) -> list[int]:
        """The ids of a text, none of them a control token (but for `marks`, if so said); `decode` gives it back."""
        ids = self.template_ids(text)
        forbidden = self.control - self.marks if marks else self.control
        if forbidden.isdisjoint(ids):
            return ids
        if len(text) == 1:  # a control token of one character, or one that normalises to it: left out
            return [id for id in ids if id not in forbidden]
        # Cut in two until a cut falls inside the characters of the control token; all else keeps its ids.
        half = len(text) // 2
        return self.plain(text[:half], marks=marks) + self.plain(text[half:], marks=marks)

    def layout(self, roles: tuple[str, ...], *, reply: bool = True) -> list[str]:
        """What the template writes before, between and after messages of these roles.

        Args:
            roles: of the messages.
            reply: whether the assistant's next message is about to begin.

        Raises:
            ConfigError: it refuses these roles, or does not show every message once and in order.
        """
        if (roles, reply) not in self._layouts:
            messages = [{"role": role, "content": placeholder(number)} for number, role in enumerate(roles)]
            pieces, rest = [], self.render(messages, reply=reply)
            for number, role in enumerate(roles):
                shown = rest.count(placeholder(number))
                before, _, rest = rest.partition(placeholder(number))
                if shown != 1 or any(placeholder(later) in before for later in range(len(roles))):
                    raise ConfigError(
                        f"the chat template of {self.name!r} does not show the {role} message "
                        "once and in order: use another model"
                    )
                pieces.append(before)
            self._layouts[roles, reply] = [*pieces, rest]
        return self._layouts[roles, reply]

    def render(self, messages: Sequence[Mapping[str, Any]], *, reply: bool) -> str:
        """The template's text of a whole conversation.

        Raises:
            ConfigError: the template refuses it.
        """
        try:
            template = self._tokenizer.get_chat_template(None, self.tools)
            rendered: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=_SAME_DAY + template if "strftime_now" in template else template,
                tokenize=False,
                add_generation_prompt=reply,
                tools=self.tools,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            # Templates are programs of strangers: what they do not expect, they refuse or fall over.
            roles = ", ".join(message["role"] for message in messages)
            raise ConfigError(
                f"the chat template of {self.name!r} refuses messages of {roles}: {error}"
            ) from error
        return rendered

    def _takes_system(self) -> bool:
        try:
            short, long = (
                self.layout(("system", "user")),
                self.layout(("system", "user", "assistant", "user")),
            )
        except ConfigError:
            return False
        return short[:2] == long[:2]


def _without_prefix(tokenizer: Any) -> Callable[[str], list[int]]:
    """The tokenizer's `encode`, which puts no space before a text."""

    def usual(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False) if text else []
        return ids

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not tokenizer.convert_ids_to_tokens(usual("a"))[0].startswith(("▁", "Ġ")):
        return usual
    data = json.loads(backend.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        data[part] = _drop_prefix(data[part])
    bare = Tokenizer.from_str(json.dumps(data))
    return lambda text: list(bare.encode(text, add_special_tokens=False).ids)


def _drop_prefix(step: Any) -> Any:
    """A step of a tokenizer's description without what puts a space before a text; None where nothing is left."""
    if step is None or step["type"] == "Prepend":
        return None
    changes: dict[str, dict[str, object]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
    }
    step = {**step, **changes.get(step["type"], {})}
    for name in ("normalizers", "pretokenizers"):
        if name in step:
            step[name] = [left for inner in step[name] if (left := _drop_prefix(inner)) is not None]
    return step
