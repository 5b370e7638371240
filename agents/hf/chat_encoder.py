"""Encodes chat messages so that no message can contain a control token.

A chat template turns messages into one text with control tokens in it, such as `<|im_end|>`. If that text were tokenised
as a whole, the same characters inside a message would become the control token: a passage could end the user's turn and
speak as the assistant. Here the template is rendered once with placeholders; its own pieces are tokenised with control
tokens, and each message separately, without them. Nor does the text of a message reach the template, which may inspect it
(Qwen3's cuts the assistant's text at `</think>`).

Ordinary messages get the ids that tokenising the whole text would give them, except that the first characters of a message
are not merged with the template's text before them. Spaces before a message are part of it (`[INST] ` in Mistral's
template), and a tokenizer that puts a space before every text (as SentencePiece does) does not do so for the parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from searchgym.errors import ConfigError
from searchgym.judges.llm.prompt import Message

__all__ = ["ChatEncoder", "control_ids", "opened_thought", "placeholder"]

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
"""Prefix for templates that insert today's date, so that prompts do not change from day to day (Llama 3.1's default day)."""


def placeholder(number: int) -> str:
    """The placeholder of message `number` where a template is rendered to find its text around messages."""
    return f"searchgym-message-{number}-here"


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of a tokenizer's control tokens.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """
    # Some tokenizers list runs of white space among them, and an unknown character also encodes to one.
    return frozenset(
        id
        for text, id in tokenizer.get_added_vocab().items()
        if text.strip(" \n\t\r▁") and text != tokenizer.unk_token
    )


def opened_thought(before_reply: str) -> str:
    """The start of a thought with which a template begins a reply; "" if the model writes it itself."""
    start = before_reply.rfind("<think>")
    return before_reply[start:] if start > before_reply.rfind("</think>") else ""


class ChatEncoder:
    """See the module docstring.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        thinking: whether a reply may begin with a thought, for templates that offer the choice.
        tools: tools that the template lists, as JSON schemas.

    Attributes:
        takes_system: whether the template has a system role that stays in place as the conversation grows; otherwise
            the instructions open the first user message.
        control: ids of the tokenizer's control tokens.
        marks: the control tokens that are marks in a model's messages, such as Qwen3's `<think>`.
        template_ids: encodes text of the template, control tokens included.

    Raises:
        ConfigError: there is no chat template, or it does not show every message once and in order.
    """

    def __init__(
        self, tokenizer: Any, *, thinking: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self.name = tokenizer.name_or_path
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"{self.name!r} has no chat template, so it is not a chat model: use an instruction-tuned "
                "one (its tokenizer files contain a chat template)"
            )
        self._tokenizer = tokenizer
        self._options = {"enable_thinking": thinking, "thinking": thinking}
        self.tools = None if tools is None else [dict(tool) for tool in tools]
        self.control = control_ids(tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.marks = frozenset(id for id in self.control if id in added and not added[id].special)
        self.template_ids = _without_prefix(tokenizer)
        self._layouts: dict[tuple[tuple[str, ...], bool], list[str]] = {}
        self.takes_system = self._takes_system()
        self._first = self.layout(("system", "user")[not self.takes_system :])

    @property
    def opens_thought(self) -> bool:
        """Whether every reply begins inside a thought, as in the template of a model that always thinks."""
        return bool(opened_thought(self._first[-1]))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to the start of the assistant's next message."""
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
        if roles[0] == "system" and not self.takes_system:
            opening = f"{contents[0]}\n\n{contents[1]}" if contents[0] else contents[1]
            roles, contents = roles[1:], [opening, *contents[2:]]
        return self.join(self.layout(tuple(roles)), contents)

    def join(self, pieces: Sequence[str], contents: Sequence[str], *, marks: bool = False) -> list[int]:
        """The ids of the template's text with messages in it.

        Args:
            pieces: the template's text before, between and after the messages; one more than `contents`.
            contents: the messages.
            marks: whether the messages may contain marks.
        """
        ids: list[int] = []
        for piece, content in zip(pieces, contents, strict=False):
            before = piece.rstrip(" ")
            ids += self.template_ids(before)
            ids += self.plain(piece[len(before) :] + content, marks=marks)
        return ids + self.template_ids(pieces[-1])

    def plain(self, text: str, *, marks: bool = False) -> list[int]:
        """The ids of a text, none of them a control token; they decode to the same text.

        Args:
            text: the text.
            marks: whether the control tokens in `marks` are allowed.
        """
        ids = self.template_ids(text)
        forbidden = self.control - self.marks if marks else self.control
        if forbidden.isdisjoint(ids):
            return ids
        if len(text) == 1:  # a control token of one character, or one that normalises to it, is dropped
            return [id for id in ids if id not in forbidden]
        # Halve the text until a cut falls inside the control token; all other parts keep their ids.
        half = len(text) // 2
        return self.plain(text[:half], marks=marks) + self.plain(text[half:], marks=marks)

    def layout(self, roles: tuple[str, ...], *, reply: bool = True) -> list[str]:
        """The template's text before, between and after messages.

        Args:
            roles: roles of the messages.
            reply: whether the start of the assistant's next message follows.

        Raises:
            ConfigError: the template refuses these roles, or does not show every message once and in order.
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

        Args:
            messages: the messages.
            reply: whether the start of the assistant's next message follows.

        Raises:
            ConfigError: the template refuses the messages.
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
            # Templates are third-party programs: on unexpected messages they raise errors of any kind.
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
    """The tokenizer's `encode` without the space that some put before a text."""

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
    """A step of a tokenizer's description that adds no space before a text; None if nothing of it is left."""
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
