"""The passages that a planner found, and how an answerer is shown them. All wording of the planner agent is in this file.

An agent that follows instructions gets one message with the question, the passages and the instruction. The wording
follows s3's prompt for its frozen generator (arXiv 2505.14146, figure 12: contexts, some of which may be irrelevant, then
the question, then the instruction to answer directly). An agent that knows only the environment's protocol gets the
question, and the passages as the result of its first search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from searchgym.agent import AgentContext
from searchgym.dialects import Act, Dialect, TagsDialect, ToolsDialect
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import check_count
from searchgym.records.retriever import Hit

from ..options import read_options

__all__ = [
    "ORDERS",
    "EvidenceOptions",
    "Found",
    "answer_context",
    "answer_message",
    "budget_note",
    "refusal",
    "select",
]

ORDERS = ("found", "newest", "rank")
"""The order of passages: as they were found; those of the last search first; the best of every search first."""
FORMS = ("message", "result")

_ROLE = (
    "You answer questions from passages that somebody else has searched for. You cannot search. First think, then do "
    "exactly one act and stop."
)
_MESSAGE = """\
Searching is over. Answer the question from the passages below; some of them may be irrelevant.

Passages:
{passages}

Question: {question}
{draft}
Do not search. Think first if you need to, then write exactly one act:
{act}"""
_DRAFT = "A draft answer, which may be wrong: {draft}\n"
_NOTHING = "(nothing was found)"
_REFUSAL = "Searching is over. Answer now from the passages you have, with exactly one act."
_BUDGET = "\n({searches} and {rounds} left.)"


@dataclass(frozen=True, slots=True)
class EvidenceOptions:
    """How the passages are handed over.

    Attributes:
        max_chars: limit of all passages together. Beyond it, whole passages are left out: those of the worst ranks
            first, and of equal ranks the oldest first.
        order: one of `ORDERS`.
        deduplicate: show a passage once, at the place where it was found first.
        form: "message" or "result" (see the module docstring); None: the one that suits the answerer.

    Raises:
        ConfigError: a value that cannot be used.
    """

    max_chars: int = 16_000
    order: str = "found"
    deduplicate: bool = True
    form: str | None = None

    def __post_init__(self) -> None:
        check_count("evidence max_chars", self.max_chars, 1)
        if self.order not in ORDERS:
            raise UnknownIdError("evidence order", self.order, ORDERS)
        if self.form not in (None, *FORMS):
            raise UnknownIdError("evidence form", self.form, FORMS)
        if not isinstance(self.deduplicate, bool):
            raise ConfigError(f"evidence deduplicate is {self.deduplicate!r}: give true or false")

    @classmethod
    def parse(cls, options: Mapping[str, Any] | EvidenceOptions | None) -> EvidenceOptions:
        """From the value of the planner agent's option `evidence`.

        Raises:
            ConfigError: an unknown option or a value that cannot be used.
        """
        if isinstance(options, EvidenceOptions):
            return options
        if not isinstance(options, Mapping | None):
            raise ConfigError(f'evidence is {options!r}: give options like {{"max_chars": 8000}}')
        return read_options("evidence", cls, options or {})


@dataclass(frozen=True, slots=True)
class Found:
    """One passage of one search.

    Attributes:
        search: index of the query in the episode.
        rank: its rank in the result.
        hit: the passage.
    """

    search: int
    rank: int
    hit: Hit


def select(found: Sequence[Found], options: EvidenceOptions) -> list[Hit]:
    """The passages to show, in order.

    Args:
        found: the passages of all searches, in order.
        options: limit and order.
    """
    if options.deduplicate:
        first: dict[str, Found] = {}
        for one in found:
            known = first.setdefault(one.hit.id, one)
            if one.rank < known.rank:
                first[one.hit.id] = Found(known.search, one.rank, one.hit)
        found = list(first.values())
    kept: list[int] = []
    room = options.max_chars
    for i in sorted(range(len(found)), key=lambda i: (found[i].rank, -i)):
        size = len(found[i].hit.title) + len(found[i].hit.text) + len("[10] \n\n")
        if size <= room or not kept:  # the best one always stays; rendering truncates it
            kept.append(i)
            room -= size
    order = {
        "found": lambda i: (i,),
        "newest": lambda i: (-found[i].search, found[i].rank),
        "rank": lambda i: (found[i].rank, i),
    }[options.order]
    return [found[i].hit for i in sorted(kept, key=order)]


class _AnswerTags(TagsDialect):
    """The tags dialect for an agent that can only answer."""

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        return f"{_ROLE} Write your thoughts as <think>…</think>.\n- {_form(self)} is the act."


class _AnswerTools(ToolsDialect):
    """The tools dialect with the answer tool only."""

    def tools(self, *, feedback: bool, max_queries: int) -> list[dict[str, Any]]:
        every = super().tools(feedback=False, max_queries=1)
        return [tool for tool in every if tool["function"]["name"] == "answer"]

    def system_prompt(self, *, feedback: bool, max_queries: int) -> str:
        return _ROLE + self.tool_section(feedback=feedback, max_queries=max_queries)


_ANSWERING: dict[str, Dialect] = {"tags": _AnswerTags(), "tools": _AnswerTools()}


def answer_context(agent_context: AgentContext) -> AgentContext:
    """The context of an answerer that follows instructions: its prompt does not mention search.

    A dialect that is not built in stays as it is.
    """
    dialect = _ANSWERING.get(agent_context.dialect.name, agent_context.dialect)
    if dialect is agent_context.dialect:
        return agent_context
    prompt = dialect.system_prompt(feedback=False, max_queries=1)
    return replace(agent_context, dialect=dialect, system_prompt=prompt, feedback_calls=0, max_queries=1)


def answer_message(
    question: str, found: Sequence[Found], options: EvidenceOptions, dialect: Dialect, draft: str = ""
) -> str:
    """The message that asks for an answer from the passages.

    Args:
        question: the question.
        found: the passages of all searches, in order.
        options: limit and order of the passages.
        dialect: the environment's dialect.
        draft: the planner's own answer; "" leaves it out.
    """
    shown = select(found, options)
    # Without the lines around a result, because this message does not answer a search.
    passages = (
        "\n".join(dialect.render_hits(shown, options.max_chars).split("\n")[1:-1]) if shown else _NOTHING
    )
    return _MESSAGE.format(
        passages=passages,
        question=question,
        draft=_DRAFT.format(draft=draft) if draft else "",
        act=_form(dialect),
    )


def refusal(dialect: Dialect) -> str:
    """The observation of an answerer that searches although it was told not to."""
    return dialect.render_feedback(_REFUSAL)


def budget_note(searches: int, rounds: int) -> str:
    """The line that tells a planner its remaining budget.

    Args:
        searches: searches left; -1 where only rounds are limited.
        rounds: rounds left.
    """
    left = "any number of searches" if searches < 0 else _count(searches, "search", "searches")
    return _BUDGET.format(searches=left, rounds=_count(rounds, "round", "rounds"))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _form(dialect: Dialect) -> str:
    return dialect.write(Act("answer", answer="only the answer, a few words"))
