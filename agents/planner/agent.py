"""Planning separated from synthesis: one agent searches, another one answers from the passages that were found.

    question -> planner -> search -> … -> planner stops, or the budget is spent
                                              |
             question + evidence, in a new context -> answerer -> answer

The planner stops by answering. The answerer also takes over when the planner cannot continue: in the last round, when no
search is left, or when its context is full. So an episode ends on a budget only if the answerer does not answer, which
makes this agent the fair way to measure accuracy under a search budget (`searchgym.evaluate_budgets`).

The division of labour is that of s3 (arXiv 2505.14146), where a trained searcher feeds a frozen generator. Departures:
the planner acts in the environment's own dialect and sees every result in full; it does not select documents; everything
that was found is handed over, within `EvidenceOptions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.dialects import Act
from searchgym.errors import ConfigError
from searchgym.records.episode import INFO_SCHEMA, Episode, StopReason, anchor_of, segments_before
from searchgym.records.retriever import Hit
from searchgym.rollouts.collection import AgentLike, open_agent

from .evidence import EvidenceOptions, Found, answer_context, answer_message, budget_note, refusal, select

__all__ = [
    "PlannerAgent",
]

_MOST_ACTS = 3  # of an answerer in one round: its first search is answered, its second one refused


@dataclass(slots=True)
class _State:
    """A running episode: the budgets that are left, and the passages that were found.

    Attributes:
        question: the first observation.
        reset_info: the info that came with it.
        rounds: rounds left.
        searches: searches left; -1 without a limit.
        chars: characters left; -1 without a limit.
        longest: length of the longest result so far, the estimate of the next one's.
        found: the passages found.
        queries: number of queries so far.
        draft: the planner's own answer.
        answering: whether the answerer has taken over.
        shown: whether the answerer was shown the evidence as a search result.
    """

    question: str
    reset_info: dict[str, Any]
    rounds: int
    searches: int
    chars: int
    longest: int = 0
    found: list[Found] = field(default_factory=list)
    queries: int = 0
    draft: str = ""
    answering: bool = False
    shown: bool = False

    def read(self, observation: str, info: dict[str, Any]) -> None:
        """Update the budgets and the passages with the answer to the last act."""
        self.rounds -= 1
        if self.chars >= 0:
            self.chars = max(0, self.chars - len(observation))
        if info["action"]["kind"] == "search":
            self.longest = max(self.longest, len(observation))
            if self.searches >= 0:
                self.searches -= len(info["action"]["queries"])
            self.found += [
                Found(
                    self.queries + h["query_index"],
                    h["rank"],
                    Hit(h["id"], h["title"], h["text"], h["score"]),
                )
                for h in info["hits"]
            ]
            self.queries += len(info["action"]["queries"])

    @property
    def spent(self) -> bool:
        """Whether the next act must be the answer."""
        return self.rounds <= 1 or self.searches == 0

    def affords(self, act: Act, text: str) -> bool:
        """Whether the environment would execute this act and continue the episode."""
        if act.kind == "search" and 0 <= self.searches < len(act.queries):
            return False
        return self.chars < 0 or len(text) + self.longest <= self.chars


class PlannerAgent(Agent):
    """A planner that searches and an answerer that writes the answer.

    Args:
        planner: chooses the searches: an agent, a registered name, or {"name": …, **options}.
        answerer: writes the answer from the evidence, in a context of its own; None: the planner itself.
        evidence: options of `EvidenceOptions`.
        draft: show the answerer the planner's own answer as a draft (only where the evidence is a message).
        tell_budget: add a line with the remaining searches and rounds to each observation of the planner.

    Raises:
        ConfigError: a part or an option that cannot be used.
    """

    name = "planner"

    def __init__(
        self,
        planner: AgentLike,
        answerer: AgentLike | None = None,
        evidence: Mapping[str, Any] | EvidenceOptions | None = None,
        draft: bool = False,
        tell_budget: bool = False,
    ) -> None:
        self.evidence = EvidenceOptions.parse(evidence)
        for option, value in (("draft", draft), ("tell_budget", tell_budget)):
            if not isinstance(value, bool):
                raise ConfigError(f"{option} is {value!r}: give true or false")
        self.planner = open_agent(planner)
        self.answerer = self.planner if answerer is None else open_agent(answerer)
        self.form = self.evidence.form or ("message" if self.answerer.reads_system_prompt else "result")
        if draft and self.form == "result":
            raise ConfigError(
                f"draft is True, but agent {self.answerer.name!r} is shown its evidence as a search result, which has no "
                'place for a draft: leave draft out, or set evidence={"form": "message"} if it follows instructions'
            )
        self.draft, self.tell_budget = draft, tell_budget
        self.parts = (self.planner,) if self.answerer is self.planner else (self.planner, self.answerer)
        self.name = f"planner({', '.join(part.name for part in self.parts)})"
        self.needs_gold = any(part.needs_gold for part in self.parts)
        self.recorded = self.parts
        """The parts whose tokens are recorded in episodes."""
        self._states: dict[int, _State] = {}

    def bind(self, agent_context: AgentContext) -> None:
        super().bind(agent_context)
        self.planner.bind(agent_context)
        if self.answerer is not self.planner:
            self.answerer.bind(answer_context(agent_context) if self.form == "message" else agent_context)
        self._states.clear()

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._states.pop(slot, None)
        self.planner.begin(slots)

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        for part in self.parts:
            part.seed(slots, seeds)

    def costs(self) -> dict[str, float]:
        """See `Agent`: the sum over both parts."""
        total: dict[str, float] = {}
        for part in self.parts:
            for name, value in part.costs().items():
                total[name] = total.get(name, 0.0) + value
        return total

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`. The part that is at work forks its context; the other one has none in this slot."""
        state = self._states.get(source)
        for target in targets:
            self._states.pop(target, None)
            if state is not None:
                self._states[target] = replace(state, found=list(state.found))
        working = self.answerer if state is not None and state.answering else self.planner
        working.fork(source, targets)
        for part in self.parts:
            streams = getattr(part, "rng_streams", None)  # a policy's, where episodes have seeds
            if part is not working and streams is not None:
                streams.fork(source, targets)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`.

        Raises:
            ConfigError: the answerer has taken over in these rounds, or may have: what it was shown is not recorded.
        """
        limits = {name: prefix.env[f"max_{name}"] for name in ("rounds", "searches", "chars")}
        budget = {name: -1 if limit is None else limit for name, limit in limits.items()}
        info = {
            "schema": INFO_SCHEMA,
            "task_id": prefix.task_id,
            "split": prefix.split,
            "question": prefix.question,
            "anchor": anchor_of(prefix.question),
            "budget": budget,
        }
        if self.needs_gold:
            info["gold"] = prefix.gold
        state = _State(prefix.question, info, budget["rounds"], budget["searches"], budget["chars"])
        contexts = len(segments_before(prefix.segments, fork_round))
        for index, record in enumerate(prefix.rounds[:fork_round]):
            if index:
                before = prefix.rounds[index - 1]
                state.read(before.observation, before.to_info())
            if state.spent or (record.action.kind == "invalid" and contexts != 1):
                raise ConfigError(
                    f"agent {self.name} cannot continue episode {prefix.episode_id!r} after {fork_round} rounds: its answerer "
                    "may have taken over by then; give a smaller fork_round"
                )
            if state.chars >= 0:
                state.chars = max(0, state.chars - len(record.text))
        self._states[slot] = state
        self.planner.resume(slot, prefix, fork_round)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        inputs = {s: (o, i) for s, o, i in zip(slots, observations, infos, strict=True)}
        for slot, (observation, info) in inputs.items():
            self._read(slot, observation, info)
        unsent: dict[int, list[Turn]] = {slot: [] for slot in slots}
        turns: dict[int, Turn] = {}
        planning = [s for s in slots if not (self._states[s].answering or self._states[s].spent)]
        for slot, turn in self._act_batch(
            self.planner, {s: self._planner_view(s, *inputs[s]) for s in planning}
        ).items():
            if self._continues(slot, turn):
                turns[slot] = turn
            else:
                unsent[slot].append(turn)
        turns |= self._synthesise({s: inputs[s] for s in slots if s not in turns}, unsent)
        for slot, turn in turns.items():
            if self._states[slot].chars >= 0:
                self._states[slot].chars = max(0, self._states[slot].chars - len(turn.text))
        return [turns[slot] for slot in slots]

    def _read(self, slot: int, observation: str, info: dict[str, Any]) -> None:
        if slot in self._states:
            self._states[slot].read(observation, info)
        else:
            left = info["budget"]
            self._states[slot] = _State(observation, info, left["rounds"], left["searches"], left["chars"])

    def _planner_view(self, slot: int, observation: str, info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The planner's observation and info."""
        state = self._states[slot]
        return observation + (budget_note(state.searches, state.rounds) if self.tell_budget else ""), info

    def _continues(self, slot: int, turn: Turn) -> bool:
        """Whether the planner's act is sent to the environment; otherwise the answerer takes over."""
        if turn.stop is not None:
            return turn.stop.is_failure
        act = self._parse(turn.text)
        if act.kind == "answer":
            self._states[slot].draft = act.answer
            return False
        return self._states[slot].affords(act, turn.text)

    def _synthesise(
        self, inputs: Mapping[int, tuple[str, dict[str, Any]]], unsent: dict[int, list[Turn]]
    ) -> dict[int, Turn]:
        """The answerer's acts. Its searches are answered here, not by the environment."""
        fresh = {slot for slot in inputs if not self._states[slot].answering}
        self.answerer.begin(sorted(fresh))
        pending = {slot: self._opening(slot) if slot in fresh else inputs[slot] for slot in inputs}
        turns: dict[int, Turn] = {}
        for attempt in range(_MOST_ACTS):
            again: dict[int, tuple[str, dict[str, Any]]] = {}
            for slot, turn in self._act_batch(self.answerer, pending).items():
                if attempt == 0 and slot in fresh:
                    turn = replace(turn, new_segment=True)
                act = self._parse(turn.text)
                if turn.stop is not None or act.kind not in ("search", "feedback"):
                    turns[slot] = turn
                elif attempt == _MOST_ACTS - 1:
                    turns[slot] = replace(turn, stop=StopReason.ROUND_BUDGET)
                else:
                    unsent[slot].append(turn)
                    again[slot] = self._reply(slot, act, inputs[slot][1])
            pending = again
        return {slot: _after(unsent[slot], turn) for slot, turn in turns.items()}

    def _opening(self, slot: int) -> tuple[str, dict[str, Any]]:
        """The answerer's first observation: a message with the evidence, or the question only."""
        state = self._states[slot]
        state.answering = True
        info = state.reset_info | {"budget": {"rounds": state.rounds, "searches": 0, "chars": state.chars}}
        if self.form == "result":
            return state.question, info
        draft = state.draft if self.draft else ""
        return answer_message(
            state.question, state.found, self.evidence, self.agent_context.dialect, draft
        ), info

    def _reply(self, slot: int, act: Act, info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The answer to an answerer's search: the evidence as its result, once, unless the message contained it."""
        state, dialect = self._states[slot], self.agent_context.dialect
        info = info | {"action": act._asdict() | {"queries": list(act.queries)}, "hits": []}
        if self.form == "message":
            return refusal(dialect), info
        if state.shown or act.kind != "search":
            return dialect.render_hits([], 1), info
        state.shown = True
        hits = select(state.found, self.evidence)
        info["hits"] = [h._asdict() | {"rank": rank, "query_index": 0} for rank, h in enumerate(hits, 1)]
        return dialect.render_hits(hits, self.evidence.max_chars), info

    def _parse(self, text: str) -> Act:
        agent_context = self.agent_context
        return agent_context.dialect.parse(
            text, feedback=agent_context.feedback_calls > 0, max_queries=agent_context.max_queries
        )

    def _act_batch(self, part: Agent, inputs: Mapping[int, tuple[str, dict[str, Any]]]) -> dict[int, Turn]:
        """The acts of one part by slot, computed in one batch."""
        slots = list(inputs)
        if not slots:
            return {}
        acts = part.act(slots, [inputs[s][0] for s in slots], [inputs[s][1] for s in slots])
        if len(acts) != len(slots):
            raise ConfigError(f"agent {part.name!r} gave {len(acts)} acts for {len(slots)} observations")
        turns = {s: a if isinstance(a, Turn) else Turn(a) for s, a in zip(slots, acts, strict=True)}
        if part in self.recorded:
            return turns
        return {s: Turn(t.text, stop=t.stop) for s, t in turns.items()}


def _after(unsent: Iterable[Turn], turn: Turn) -> Turn:
    """A turn with what was sampled before it in its round.

    A turn without sampling settings (a text agent's) takes over those of the turns before it.
    """
    unsent = tuple(unsent)
    if unsent and turn.temperature is None:
        how = unsent[-1]
        turn = replace(turn, policy_version=how.policy_version, temperature=how.temperature, top_p=how.top_p)
    return replace(turn, earlier=(*unsent, *turn.earlier))
