"""Chat messages to token ids, so that no message can hold a control token.

A chat template turns messages into one text with control tokens in it, such as `<|im_end|>`. Tokenising that text
whole would turn the same characters inside a message into the control token: a passage could end the user's turn
and speak as the assistant. Here the template is rendered once with place-holders; its own pieces are tokenised
with control tokens, and every message by itself, without. Nor does a message's text reach the template, which may
look into it (Qwen3's cuts an assistant's text at `</think>`).

Where a tokenizer puts a space before every text (SentencePiece without byte-level BPE), messages begin with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from searchgym.errors import ConfigError
from searchgym.judges.prompt import Message

__all__ = ["ChatEncoder"]


class ChatEncoder:
    """See the module docstring.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.

    Raises:
        ConfigError: no chat template, or one that does not show every message once and in order.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"{tokenizer.name_or_path!r} has no chat template, so it is no chat model: use an instruction-tuned "
                "one (its tokenizer files hold a chat template)"
            )
        self._tokenizer = tokenizer
        # White space is no control token, though some tokenizers list runs of it beside them.
        self._control = frozenset(
            id
            for text, id in tokenizer.get_added_vocab().items()
            if text.strip(" \n\t\r▁") and text != tokenizer.unk_token  # which any unknown character gives
        )
        self._layouts: dict[tuple[str, ...], list[list[int]]] = {}
        self._system = self._takes_system()
        self._layout(("system", "user")[not self._system :])

    @property
    def opens_thought(self) -> bool:
        """Whether the template makes every reply begin inside a thought, as that of a model that always thinks."""
        shown = self._render(("user",))
        return shown.rfind("<think>") > shown.rfind("</think>")

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's next message begins."""
        roles = [message["role"] for message in messages]
        contents = [message["content"] for message in messages]
        if roles[0] == "system" and not self._system:
            roles, contents = roles[1:], [f"{contents[0]}\n\n{contents[1]}", *contents[2:]]
        first, *following = self._layout(tuple(roles))
        ids = list(first)
        for content, piece in zip(contents, following, strict=True):
            ids += self.plain(content)
            ids += piece
        return ids

    def plain(self, text: str) -> list[int]:
        """The ids of a text, none of them a control token; `decode` gives the text back."""
        ids = self._encode(text)
        if self._control.isdisjoint(ids):
            return ids
        if len(text) == 1:  # a control token of one character, or one that normalises to it: left out
            return [id for id in ids if id not in self._control]
        # Cut in two until a cut falls inside the characters of the control token; all else keeps its ids.
        return self.plain(text[: len(text) // 2]) + self.plain(text[len(text) // 2 :])

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False) if text else []
        return ids

    def _takes_system(self) -> bool:
        """Whether the template has the role; where it has not, the instructions open the user's message."""
        try:
            self._layout(("system", "user"))
        except ConfigError:
            return False
        return True

    def _layout(self, roles: tuple[str, ...]) -> list[list[int]]:
        """The ids of what the template writes before, between and after messages of these roles."""
        if roles not in self._layouts:
            pieces, rest = [], self._render(roles)
            for number, role in enumerate(roles):
                shown = rest.count(_placeholder(number))
                before, _, rest = rest.partition(_placeholder(number))
                if shown != 1 or any(_placeholder(later) in before for later in range(len(roles))):
                    raise ConfigError(
                        f"the chat template of {self._tokenizer.name_or_path!r} does not show the {role} message "
                        "once and in order: use another model"
                    )
                pieces.append(before)
            self._layouts[roles] = [self._encode(piece) for piece in [*pieces, rest]]
        return self._layouts[roles]

    def _render(self, roles: Sequence[str]) -> str:
        messages = [{"role": role, "content": _placeholder(number)} for number, role in enumerate(roles)]
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # for templates that offer the choice; others do not read it
            )
        except TemplateError as error:
            raise ConfigError(
                f"the chat template of {self._tokenizer.name_or_path!r} refuses messages of {', '.join(roles)}: "
                f"{error}"
            ) from error
        return rendered


def _placeholder(number: int) -> str:
    return f"searchgym-message-{number}-here"
