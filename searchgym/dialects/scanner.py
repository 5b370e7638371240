"""What is open in a message, read piece by piece: a thought, an act, a tool call, a string inside a call.

One scanner serves everybody who has to know where an act ends: the dialects read whole messages with it, the engines
stop sampling by it, the agent `api` cuts replies with it, and SFT cuts the messages that it learns from.

A thought stands between `<think>` and `</think>` (also `thinking`, `thought`, `reasoning`, `seed:think`; upper and lower case), or between the marks
`[THINK]` and `[/THINK]`, `◁think▷` and `◁/think▷`, `<|START_THINKING|>` and `<|END_THINKING|>`. Nothing in it is an act.

- It ends at the closing tag that balances its opening tags, so a thought may quote a whole `<think>…</think>`. An
  opening tag that only white space separates from another one is its repetition: templates write one, and models write
  it again. If a thought quotes a single opening tag, the tags never balance: it then ends at its last closing tag,
  provided that the message ends with an act.
- A thought that is never closed reaches to the end of the message, which then has no act there.
- A closing tag without an opening one ends a thought that began with the message: a chat template opened it, and a
  server without a reasoning parser returns what follows.

An act is open until its own closing tag. One that is never closed is plain text. A closing tag that closes nothing is
plain text, too, but a model that writes one outside a thought has ended its message (`stray`). In a tool call whose body is JSON, a
closing tag inside a string is text; in one whose body is `<function=…>…</function>`, a closing tag before
`</function>` is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["THOUGHT_NAMES", "Block", "Grammar", "Scanner", "after_thoughts", "begins_inside", "with_tags"]

THOUGHT_NAMES = "think|thinking|thought|reasoning|seed:think"
"""The names of tags around a thought, as a regular expression."""

_THOUGHT = f"(?i:<(?P<end>/?)(?:{THOUGHT_NAMES})>)"
_THOUGHT_END = f"(?P<end>(?i:</(?:{THOUGHT_NAMES})>))"
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'  # of JSON, where all of it is there
_LONGEST = len("<|START_THINKING|>")  # no tag is longer
_MARKS = {
    "[THINK]": "<think>",
    "[/THINK]": "</think>",
    "◁think▷": "<think>",
    "◁/think▷": "</think>",
    "<|START_THINKING|>": f"<think>{' ' * 11}",
    "<|END_THINKING|>": f"{' ' * 8}</think>",
}  # of one length each


def with_tags(text: str) -> str:
    """A text of the same length in which the thought marks of Mistral, Kimi and Cohere models are tags."""
    if "[" in text or "◁" in text or "_THINKING|>" in text:
        for mark, tag in _MARKS.items():
            text = text.replace(mark, tag)
    return text


class Block(NamedTuple):
    """An act or a tool call.

    Attributes:
        name: of its tags.
        body: the text between them, without the thoughts in it.
        end: the position after its closing tag in the message.
    """

    name: str
    body: str
    end: int


class Grammar:
    """The tags that a dialect writes its acts with.

    Args:
        names: names of the tags; none for thoughts alone.
        calls: whether the body of a block is a tool call. Strings in it are opaque, also for thought tags.
    """

    def __init__(self, names: Sequence[str], *, calls: bool = False) -> None:
        self.first_mode = "start" if calls else "plain"
        opening = f"<(?P<open>{'|'.join(names) or '(?!)'})>"
        stray = f"</(?P<stray>{'|'.join(names) or '(?!)'})>"
        self.text = re.compile(f"{_THOUGHT}|{opening}|{stray}")
        self.bodies = {
            name: {
                "start": re.compile(r"\S"),
                "plain": re.compile(f"{_THOUGHT}|(?P<close></{name}>)|{opening}|{stray}"),
                "json": re.compile(f'{_STRING}|"|(?P<close></{name}>)|{_THOUGHT_END}', re.DOTALL),
                "string": re.compile(r'"|\\.', re.DOTALL),
                "markup": re.compile("</function>"),
                "markup_end": re.compile(rf"(?P<close></{name}>)|\S"),
            }
            for name in names
        }


_THOUGHT_TAG = re.compile(_THOUGHT)


def after_thoughts(text: str) -> str:
    """What follows the last thought of a message in a format of its own, up to one that is never closed.

    Args:
        text: the message; without a thought tag it is returned as it is.
    """
    tags = list(_THOUGHT_TAG.finditer(text))
    closed = max((tag.end() for tag in tags if tag["end"]), default=0)
    unclosed = min((tag.start() for tag in tags if tag.start() >= closed), default=len(text))
    return text[closed:unclosed]


class Scanner:
    """Reads one message; see the module docstring.

    Its state is small (what is open, the act that is open, and the beginning of a tag that the last piece ends in), and
    every character is looked at once.

    Args:
        grammar: the dialect's tags.

    Attributes:
        blocks: the complete acts outside thoughts, in order.
        depth: opening thought tags that are not closed yet; above 0 inside a thought.
        name: the tag of the act that is open; "" if none is.
        thoughts: whether any thought tag was read.
        unopened: whether a closing thought tag came without an opening one.
        stray: whether an act's closing tag came, outside thoughts, that closed nothing.
    """

    __slots__ = (
        "_at",
        "_body",
        "_first_mode",
        "_fresh",
        "_grammar",
        "_ignored",
        "_inside",
        "_mode",
        "_opened",
        "_tail",
        "_thought_end",
        "blocks",
        "depth",
        "name",
        "stray",
        "thoughts",
        "unopened",
    )

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self.blocks: list[Block] = []
        self.depth = 0
        self.name = ""
        self.thoughts = self.unopened = self.stray = False
        self._first_mode = grammar.first_mode
        self._mode = ""  # of the body of the open act
        self._body: list[str] = []
        self._opened = 0  # where the body begins
        self._fresh = False  # nothing but white space since the last opening thought tag
        self._thought_end = -1  # after the last closing tag in the thought that is open
        self._inside: set[str] = set()  # acts that opened inside the open one
        self._ignored: set[str] = set()  # acts that are known to be never closed
        self._tail = ""  # the end of the last piece, where it may be the beginning of a tag
        self._at = 0  # the position of the tail in the message

    @property
    def closable(self) -> bool:
        """Whether an act is open that its closing tag would complete here, and nothing is open inside it."""
        inside = self.depth or self._inside or self._mode in ("string", "markup")
        return self.name != "" and not inside

    def feed(self, piece: str) -> bool:
        """Read on.

        Args:
            piece: the next characters of the message, any number of them.

        Returns:
            Whether an act is complete.
        """
        text = self._tail + piece
        end = len(text)
        partial = text.rfind("<", max(0, end - _LONGEST))
        if partial >= 0 and ">" not in text[partial:]:
            end = partial
        if "[" in text or "◁" in text:  # perhaps the beginning of a mark
            for mark in _MARKS:
                begin = text.rfind(mark[0], max(0, end - len(mark) + 1), end)
                if begin >= 0 and mark.startswith(text[begin:end]):
                    end = begin
        tagged = with_tags(text)
        position = 0
        while (match := self._pattern().search(tagged, position, end)) is not None:
            position = self._read(match, text, position)
        if self._mode == "string" and text.endswith("\\", position, end):
            end -= 1  # half an escape
        self._skip(text[position:end])
        self._tail = text[end:]
        self._at += end
        return bool(self.blocks)

    def finish(self, message: str) -> None:
        """Decide what the end of the message decides: thoughts that do not balance, acts that are never closed.

        Args:
            message: all that was fed.
        """
        unbalanced = len(message)
        while True:
            if self.depth:
                if self._thought_end < 0:
                    break
                unbalanced, self.depth = self._thought_end, 0
                self._resume(message, unbalanced)
            elif self.name:
                name, body, self.name = self.name, self._opened, ""
                self._inside.clear()
                closing = -1 if self._mode == "plain" else message.find(f"</{name}>", body)
                if closing < 0:
                    self._ignored.add(name)
                    self._resume(message, body)
                else:  # a call whose body is broken; the rest is read as prose, in linear time
                    end = closing + len(name) + 3
                    self._first_mode = "plain"
                    self.blocks.append(Block(name, message[body:closing], end))
                    self._resume(message, end)
            else:
                break
        if self.blocks and unbalanced < self.blocks[-1].end < len(message.rstrip()):
            self.blocks = [block for block in self.blocks if block.end <= unbalanced]

    def _resume(self, message: str, position: int) -> None:
        self._tail, self._at = "", position
        self.feed(message[position:])

    def _pattern(self) -> re.Pattern[str]:
        if self.depth:
            return _THOUGHT_TAG
        return self._grammar.bodies[self.name][self._mode] if self.name else self._grammar.text

    def _skip(self, text: str) -> None:
        """Pass over text in which nothing opens or closes."""
        if self.depth:
            self._fresh = self._fresh and not text.strip()
        elif self.name:
            self._body.append(text)

    def _read(self, match: re.Match[str], text: str, position: int) -> int:
        """Act on a match after `position`; returns where to read on."""
        start, end = match.span()
        mode = self._mode if self.name and not self.depth else ""
        if mode in ("start", "markup_end") and match.lastgroup != "close":
            self._skip(text[position:start])
            if mode == "start" and match[0] in '{["':
                self._mode = "json"
            elif mode == "start":
                self._mode = "markup" if text.startswith("<function", start) else "plain"
            else:
                self._mode = "markup"
            return start
        if mode in ("json", "string", "markup") and match.lastgroup is None:
            self._skip(text[position:end])
            if mode == "markup":
                self._mode = "markup_end"
            elif match[0] == '"':
                self._mode = "string" if mode == "json" else "json"
            return end
        self._skip(text[position:start])
        if match.lastgroup == "close":
            self.blocks.append(Block(self.name, "".join(self._body), self._at + end))
            self.name = ""
            self._inside.clear()
        elif match.lastgroup == "end" and match["end"] and self.name and self.thoughts and not self.depth:
            self._skip(
                text[start:end]
            )  # this message shows its opening tags: the closing tag is text of the act
        elif match.lastgroup == "end":
            self._thought_tag(closing=match["end"] != "", end=self._at + end)
        elif match.lastgroup == "stray":
            self._skip(match[0])
            self.stray = self.stray or match["stray"] not in self._inside
        elif self.name and self._grammar.first_mode == "plain":
            self._skip(match[0])
            self._inside.add(match["open"])
        elif (
            match["open"] not in self._ignored
        ):  # in prose about calls, the last <tool_call> is the one that counts
            self.name, self._mode = match["open"], self._first_mode
            self._body, self._opened = [], self._at + end
            self._inside.clear()
        return end

    def _thought_tag(self, *, closing: bool, end: int) -> None:
        self.thoughts = True
        if not closing:
            if not self.depth:
                self._thought_end = -1
            if not (self.depth and self._fresh):
                self.depth += 1
            self._fresh = True
        elif self.depth:
            self.depth -= 1
            self._thought_end = end
            self._fresh = False
        else:  # all that came before is a thought
            self.unopened, self.stray, self.name = True, False, ""
            self.blocks.clear()
            self._inside.clear()


_THOUGHTS = Grammar(())


def begins_inside(text: str) -> bool:
    """Whether a message begins inside a thought: a closing tag has no opening one before it.

    Args:
        text: the message. Nothing in it hides a thought tag, no act and no string in a call.
    """
    scanner = Scanner(_THOUGHTS)
    scanner.feed(text)
    return scanner.unopened
