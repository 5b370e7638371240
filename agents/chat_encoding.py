"""Chat messages to token ids, so that no message can hold a control token.

A chat template turns messages into one text with control tokens in it, such as `<|im_end|>`. Tokenising that text
whole would turn the same characters inside a message into the control token: a passage could end the user's turn
and speak as the assistant. Here the template is rendered once with place-holders; its own pieces are tokenised
with control tokens, and every message by itself, without. Nor does a message's text reach the template, which may
look into it (Qwen3's cuts an assistant's text at `</think>`).

Where a tokenizer puts a space before every text (SentencePiece without byte-level BPE), messages begin with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from searchgym.errors import ConfigError
from searchgym.judges.prompt import Message

__all__ = ["ChatEncoder", "placeholder"]

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

    Raises:
        ConfigError: no chat template, or one that does not show every message once and in order.
    """

    def __init__(
        self, tokenizer: Any, *, thinking: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self.name = tokenizer.name_or_path
        if not tokenizer.chat_template:
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
        self._layouts: dict[tuple[tuple[str, ...], bool], list[str]] = {}
        self.takes_system = self._takes_system()
        self._first = self.layout(("system", "user")[not self.takes_system :])

    @property
    def opened_thought(self) -> str:
        """The start of a thought with which the template begins every reply, as for a model that always thinks."""
        shown = self._first[-1]
        start = shown.rfind("<think>")
        return shown[start:] if start > shown.rfind("</think>") else ""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's next message begins."""
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
        if roles[0] == "system" and not self.takes_system:
            opening = f"{contents[0]}\n\n{contents[1]}" if contents[0] else contents[1]
            roles, contents = roles[1:], [opening, *contents[2:]]
        first, *following = self.layout(tuple(roles))
        ids = self.template_ids(first)
        for content, piece in zip(contents, following, strict=True):
            ids += self.plain(content)
            ids += self.template_ids(piece)
        return ids

    def plain(self, text: str) -> list[int]:
        """The ids of a text, none of them a control token; `decode` gives the text back."""
        ids = self.template_ids(text)
        if self.control.isdisjoint(ids):
            return ids
        if len(text) == 1:  # a control token of one character, or one that normalises to it: left out
            return [id for id in ids if id not in self.control]
        # Cut in two until a cut falls inside the characters of the control token; all else keeps its ids.
        return self.plain(text[: len(text) // 2]) + self.plain(text[len(text) // 2 :])

    def template_ids(self, text: str) -> list[int]:
        """The ids of what a template wrote, control tokens included."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False) if text else []
        return ids

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
        template = self._tokenizer.get_chat_template(None, self.tools)
        try:
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
