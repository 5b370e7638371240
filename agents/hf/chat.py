"""Episodes as chats: all token ids before, between and after the acts that a language model samples.

A context only grows: `opening(question)`, a sampled act, `reply(observation)`, an act, … The ids of an act stay as they
were sampled, so training uses exactly what was played. The usual method renders and tokenises the whole conversation in
every round, which changes earlier ids: templates drop earlier thoughts (Qwen3's) or trim messages (Gemma's), and a text
does not always encode to the ids it was decoded from. `drift` measures by how much.

The text that the template writes around messages is found once, with placeholders instead of messages (`chat_encoder`),
and must be the same in every round. So the text of a message never reaches the template, and none of its ids is a control
token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from searchgym.agent import AgentContext
from searchgym.dialects import THOUGHT_NAMES, ToolsDialect
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode

from ..lm.stopping import ActWatch
from .chat_encoder import ChatEncoder, opened_thought
from .tool_calls import as_written, call_reader, tool_text

__all__ = ["ChatFormat", "Drift"]

_THOUGHT_TAG = re.compile(rf"(?i)<(?P<end>/?)(?:{THOUGHT_NAMES})>")

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Drift:
    """How the ids of an episode differ from those of its conversation, rendered and tokenised again.

    Attributes:
        tokens: number of ids that the episode was played with, up to the last sampled one.
        changed: how many of them the new ids do not contain, in order.
        first: position of the first difference; None if there is none.
        causes: causes of the differences: "thoughts" (the template leaves out or adds thoughts), "template" (it changes
            other text), "control tokens" (text of a message became one), "boundaries" (the same text is split into other
            tokens).
    """

    tokens: int
    changed: int
    first: int | None
    causes: tuple[str, ...]

    @property
    def share(self) -> float:
        """Fraction of the played ids that the new ones do not contain."""
        return self.changed / self.tokens if self.tokens else 0.0


class ChatFormat:
    """The format of one model's chats in one environment.

    With the tools dialect, the template lists the tools itself if it can and if its calls can be read; observations are
    then tool messages. Otherwise the dialect's own prompt lists them, as in any other dialect, and observations are user
    messages.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template; a padding token is not needed.
        agent_context: the environment's context.
        thinking: whether the model thinks before it acts, for templates that offer the choice.
        generation_config: the model's, for the ids that end its messages.

    Attributes:
        end_ids: sampled ids that end the assistant's message.
        native_tools: whether the template itself lists the tools.
        why_not_native: why it does not; "" for a dialect without tools.

    Raises:
        ConfigError: the template cannot be used; says why.
    """

    def __init__(
        self,
        tokenizer: Any,
        agent_context: AgentContext,
        *,
        thinking: bool = False,
        generation_config: Any = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._dialect = agent_context.dialect
        self._system_prompt = agent_context.system_prompt
        self._observer = "user"
        self._read: Callable[[str], str] = as_written
        self._write: Callable[[str], str] = as_written
        self.native_tools, self.why_not_native = False, ""
        self._encoder = ChatEncoder(tokenizer, thinking=thinking)
        if isinstance(agent_context.dialect, ToolsDialect):
            self._use_tools(agent_context.dialect, agent_context, thinking)
        if not self.native_tools:
            self._find_rounds()
        ends = getattr(generation_config, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        self._find_end(ends)
        self.end_ids = frozenset(ends)
        self._head, self._around_question = self._find_head()
        self._slashes, self._ends = self._ids_with("/"), self._ids_with(">")

    def opening(self, question: str) -> list[int]:
        """All ids before the first act."""
        return [*self._head, *self._encoder.join(self._around_question, [question])]

    def reply(self, observation: str, ended: bool) -> list[int]:
        """The ids between two acts.

        Args:
            observation: what the environment answered.
            ended: whether the last id of the act is one of `end_ids`, so the message has ended already.
        """
        between = self._after_end if ended else self._after_act
        return self._encoder.join([between, self._before_act], [self._shown(observation)])

    def act(self, text: str) -> list[int]:
        """The ids that the model would have sampled for a recorded message, for learning from texts.

        Marks such as `<think>` become the model's own tokens. The ids end with the closing of the act, or else with the
        end of the message.

        Raises:
            ConfigError: the template writes calls in a format of its own, which differs from that of recorded messages.
        """
        if self._read is not as_written:
            raise ConfigError(
                f"{self._encoder.name!r} writes tool calls in a format of its own, so it cannot learn from recorded "
                "texts in the tools dialect: use dialect='tags'"
            )
        reading = self._dialect.read(text)
        ids = self._encoder.plain(self._continued(self._dialect.cut(text), reading.unopened), marks=True)
        return ids if reading.blocks else [*ids, self._turn_end]

    def plain(self, text: str) -> list[int]:
        """The ids of a text, none of them a control token."""
        return self._encoder.plain(text)

    def text(self, ids: Sequence[int]) -> str:
        """The message for `env.step` that sampled ids stand for.

        It includes a thought that the template opens for the model. Calls in the template's own format are translated.
        """
        return self._read(self._opened + self._decode(self._without_end(ids)))

    def watch(self) -> ActWatch:
        """A watch for a new act: it takes the sampled ids one by one and tells which one completes the act.

        A closing tag may end inside the text of an id and begin in any earlier id. One that a thought quotes, or a string
        in a tool call, ends nothing (see `searchgym.dialects.scanner`); a thought that the template opens is one.
        """
        scanner = self._dialect.scanner()
        scanner.feed(self._opened)
        return ActWatch(scanner, self._decode, self._slashes, self._ends)

    def closes(self, ids: Sequence[int]) -> bool:
        """Whether the message ends with the last of the sampled ids; see `watch`."""
        completes = self.watch()
        return [completes(id) for id in ids][-1:] == [True]

    def drift(self, episode: Episode) -> Drift:
        """Compare the ids of an episode with those of its conversation, rendered and tokenised as a whole.

        Raises:
            ConfigError: the episode does not have exactly one context.
        """
        if len(episode.segments) != 1:
            raise ConfigError(
                f"episode {episode.episode_id} has {len(episode.segments)} contexts: drift compares episodes with one context"
            )
        segment = episode.segments[0]
        acts: list[list[int]] = []
        end = 0
        for at, (token, sampled, round_) in enumerate(
            zip(segment.tokens, segment.mask, segment.rounds, strict=True)
        ):
            if sampled:
                acts += [[] for _ in range(round_ + 1 - len(acts))]
                acts[round_].append(token)
                end = at + 1
        if not acts:
            return Drift(0, 0, None, ())
        texts = [self._opened + self._decode(self._without_end(act)) for act in acts]
        fresh_text = self._render(episode.question, texts, [round_.observation for round_ in episode.rounds])
        fresh = self._encoder.template_ids(fresh_text)
        played = self._without_end(segment.tokens[:end])
        matcher = SequenceMatcher(None, played, fresh, autojunk=False)
        kept = sum(block.size for block in matcher.get_matching_blocks())
        pairs = enumerate(zip(played, fresh, strict=False))
        shorter = min(len(played), len(fresh))
        first = next((i for i, (a, b) in pairs if a != b), None if len(played) == len(fresh) else shorter)
        causes = () if first is None else self._causes(played, fresh, fresh_text, acts)
        return Drift(len(played), len(played) - kept, first, causes)

    # -- what the template writes ------------------------------------------------------------------------------

    def _use_tools(self, dialect: ToolsDialect, agent_context: AgentContext, thinking: bool) -> None:
        """Let the template list the tools if it can."""
        feedback, max_queries = agent_context.feedback_calls > 0, agent_context.max_queries
        usual = self._encoder
        try:
            self._encoder = ChatEncoder(
                self._tokenizer,
                thinking=thinking,
                tools=dialect.tools(feedback=feedback, max_queries=max_queries),
            )
            self._read = call_reader(self._encoder, agent_context)
            self._write = tool_text(self._encoder, (*self._roles, "assistant", "tool"))
            self._observer = "tool"
            self._find_rounds()
        except ConfigError as error:
            self._encoder, self._observer, self._read, self._write = usual, "user", as_written, as_written
            self.why_not_native = str(error)
        else:
            listed = dialect.tool_section(feedback=feedback, max_queries=max_queries)
            self._system_prompt = agent_context.system_prompt.replace(listed, "")
            self.native_tools = True

    @property
    def _roles(self) -> tuple[str, ...]:
        return ("system", "user")[not self._encoder.takes_system :]

    def _find_rounds(self) -> None:
        """Find the ids around observations; a template that changes them between rounds is refused."""
        layout, opening = self._encoder.layout, self._roles
        one = layout((*opening, "assistant", self._observer))
        two = layout((*opening, *("assistant", self._observer) * 2))
        first, n = layout(opening), len(opening)
        same_start = first[:n] == one[:n] == two[:n] and opened_thought(first[-1]) == opened_thought(one[-1])
        if not same_start or not one[-2:] == two[-4:-3] + two[-1:] == two[-2:]:
            raise ConfigError(
                f"the chat template of {self._encoder.name!r} writes earlier messages differently as the conversation "
                "grows, so ids that were already used as context would change: use another model"
            )
        control = self._encoder.control
        header, prompt = (
            self._encoder.template_ids(_THOUGHT_TAG.sub("", text)) for text in (one[n], first[n])
        )
        if not control.isdisjoint(header[_common(header, prompt) :]):
            raise ConfigError(
                f"the chat template of {self._encoder.name!r} puts control tokens between the start of a reply and its "
                "text, which the model would have to write: use another model"
            )
        self._after_act, self._before_act = one[-2:]
        self._opened = opened_thought(one[-1])

    def _find_head(self) -> tuple[list[int], list[str]]:
        """The ids up to the question, and the template's text around it. The system prompt may contain marks."""
        before, *around = self._encoder.layout(self._roles)
        system = self._system_prompt
        if not self._encoder.takes_system:
            if not system:
                return [], [before, *around]
            system, around = f"{system}\n\n", ["", *around]
        return self._encoder.join([before, ""], [system], marks=True), around

    def _find_end(self, ends: set[int]) -> None:
        """Find the token that ends a message; without one in the template, the next message's header may (GLM's)."""
        tail = self._encoder.layout((*self._roles, "assistant"), reply=False)[-1]
        own = [id for id in self._encoder.template_ids(tail) if id in self._encoder.control]
        own += [id for id in self._encoder.template_ids(self._after_act) if id in ends]
        if not own and self._tokenizer.eos_token_id is None:
            raise ConfigError(
                f"{self._encoder.name!r} has no token that ends a message: its chat template does not write one and its "
                "tokenizer has no eos_token; set one, or use another model"
            )
        self._turn_end: int = own[0] if own else self._tokenizer.eos_token_id
        ends.add(self._turn_end)
        token = self._tokenizer.convert_ids_to_tokens(self._turn_end)
        found = token in self._after_act
        self._after_end = self._after_act.partition(token)[2] if found else self._after_act

    def _continued(self, text: str, unopened: bool) -> str:
        """The part of a recorded message that the model writes: the template may open a thought for it, or not."""
        opening = _THOUGHT_TAG.match(text.lstrip())
        if not self._opened:
            return f"<think>{text}" if unopened else text
        if opening is not None and not opening["end"]:
            if text.startswith(self._opened):
                return text.removeprefix(self._opened)
            return text.lstrip()[opening.end() :]
        return text if unopened else f"</think>\n\n{text}"

    def _ids_with(self, character: str) -> frozenset[int]:
        """Ids whose text holds an ASCII character; of the 256 bytes that some vocabularies hold, only its own."""
        own = f"<0x{ord(character):02X}>"
        vocabulary = self._tokenizer.get_vocab().items()
        return frozenset(
            id
            for token, id in vocabulary
            if token == own or (character in token and not _BYTE.fullmatch(token))
        )

    # -- texts -------------------------------------------------------------------------------------------------

    def _shown(self, observation: str) -> str:
        """The text of the observation's message; a template with tool messages writes its own marks around it."""
        if self._observer == "tool":
            before, after = ToolsDialect.response
            return self._write(observation.removeprefix(before).removesuffix(after))
        return observation

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _without_end(self, ids: Sequence[int]) -> Sequence[int]:
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def _render(self, question: str, acts: Sequence[str], observations: Sequence[str]) -> str:
        """The complete conversation as the template writes it, without the end of the last message."""
        contents = [self._system_prompt, question]
        if not self._encoder.takes_system:
            contents = ["\n\n".join(filter(None, contents))]
        messages = [{"role": role, "content": text} for role, text in zip(self._roles, contents, strict=True)]
        for number, act in enumerate(acts):
            messages.append({"role": "assistant", "content": act})
            if number + 1 < len(acts):
                shown = observations[number]
                if self._observer == "tool":
                    shown = shown.removeprefix(ToolsDialect.response[0]).removesuffix(
                        ToolsDialect.response[1]
                    )
                messages.append({"role": self._observer, "content": shown})
        tail = self._encoder.layout((*self._roles, "assistant"), reply=False)[-1]
        return self._encoder.render(messages, reply=False).removesuffix(tail)

    def _causes(
        self, played: Sequence[int], fresh: Sequence[int], fresh_text: str, acts: Sequence[Sequence[int]]
    ) -> tuple[str, ...]:
        causes = []
        played_text = self._decode(played)
        if played_text != fresh_text:
            thoughts = played_text.count("<think>") != fresh_text.count("<think>")
            causes += ["thoughts"] if thoughts else []
            if not thoughts or _unthought(played_text) != _unthought(fresh_text):
                causes.append("template")
        control = self._encoder.control
        if sum(id in control for id in fresh) > sum(id in control for id in played):
            causes.append("control tokens")
        if played_text == fresh_text or any(
            self._encoder.template_ids(self._decode(a)) != list(a) for a in acts
        ):
            causes.append("boundaries")
        return tuple(causes)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _unthought(text: str) -> str:
    """The text without thoughts and white space."""
    kept = []
    for number, part in enumerate(text.split("<think>")):
        kept.append(part if number == 0 else part.partition("</think>")[2])
    return "".join("".join(kept).split())
