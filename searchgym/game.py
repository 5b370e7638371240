"""The rules of one episode, without Gymnasium and without a retriever.

`SearchEnv` runs one `Game`, `SearchVectorEnv` many; both ask a game which queries a message holds
(`begin_step`), search them in whatever batch they like, and hand the results back (`end_step`). So the rules
are written once, and a vector environment is exactly its single environments, batched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from math import isfinite
from typing import Any

from . import feedback as _feedback
from .dialects import Act, Dialect, get_dialect
from .episode import Outcome, StopReason
from .errors import ConfigError, CorpusError, ResetNeededError, RetrievalError, SnapshotError, UnknownIdError
from .question import Corpus, Question, find_passage
from .retriever import Hit, Retriever, SearchResult
from .scoring import exact_match, f1, recall, sub_exact_match

__all__ = ["INFO_SCHEMA", "REWARD_TERMS", "SNAPSHOT_SCHEMA", "Game", "Rules", "Step"]

INFO_SCHEMA = 1
SNAPSHOT_SCHEMA = 1
UNLIMITED = -1
REWARD_TERMS = ("em", "f1", "sub_em", "recall")

Step = tuple[str, float, bool, bool, dict[str, Any]]
"""(observation, reward, terminated, truncated, info), as `gymnasium.Env.step` returns it."""


@dataclass(frozen=True)
class Rules:
    """Everything about an environment that does not change between episodes; see `SearchEnv` for the meaning
    of each argument. Checked at construction; raises `ConfigError`."""

    corpus: Corpus
    retriever: Retriever
    split: str = "train"
    types: tuple[str, ...] | None = None
    hops: tuple[int, ...] | None = None
    dialect_name: str = "tags"
    top_k: int = 3
    max_rounds: int = 8
    max_searches: int | None = None
    max_chars: int | None = 200_000
    max_action_chars: int = 16_384
    max_observation_chars: int = 16_384
    max_queries: int = 1
    reward: dict[str, float] = field(default_factory=lambda: {"em": 1.0})
    feedback_level: str | None = None
    feedback_calls: int = 0
    reveal_gold: bool = False

    def __post_init__(self) -> None:
        get_dialect(self.dialect_name)
        for name in ("top_k", "max_rounds", "max_action_chars", "max_observation_chars", "max_queries"):
            check_count(name, getattr(self, name), 1)
        for name, least in (("max_searches", 0), ("max_chars", 1)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        if not isinstance(self.reward, dict) or not self.reward:
            raise ConfigError(f"reward is {self.reward!r}: give a term, or weights like {{'em': 1.0}}")
        if not isinstance(self.reveal_gold, bool):
            raise ConfigError(f"reveal_gold is {self.reveal_gold!r}: give True or False")
        for term, weight in self.reward.items():
            if term not in REWARD_TERMS:
                raise UnknownIdError("reward term", term, REWARD_TERMS)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
                raise ConfigError(f"the weight of reward term {term!r} is {weight!r}: give a finite number")
        if self.feedback_level is not None:
            _feedback.check_level(self.feedback_level)
            check_count("feedback calls", self.feedback_calls, 1)
        self.tasks(self.split)

    @property
    def dialect(self) -> Dialect:
        """The dialect object (kept out of the fields, so that rules pickle)."""
        return get_dialect(self.dialect_name)

    @property
    def feedback(self) -> bool:
        """Whether the feedback act exists."""
        return self.feedback_level is not None

    @property
    def system_prompt(self) -> str:
        """The instructions for a language model."""
        return self.dialect.system_prompt(feedback=self.feedback, max_queries=self.max_queries)

    def tasks(self, split: str) -> list[Question]:
        """The questions of a split that pass the `types` and `hops` filters, in corpus order.

        Raises:
            UnknownIdError: no such split.
            ConfigError: no question passes.
        """
        if not isinstance(split, str):
            raise ConfigError(f"split is {split!r}: give one of {', '.join(self.corpus.splits)}")
        cache: dict[str, list[Question]] = self.__dict__.setdefault("_tasks", {})
        if split not in cache:
            questions = self.corpus.questions(split)
            kept = [
                q
                for q in questions
                if (self.types is None or q.type in self.types) and (self.hops is None or q.hops in self.hops)
            ]
            if not kept:
                raise ConfigError(
                    f"no question of split {split!r} of corpus {self.corpus.name!r} has types={self.types} and "
                    f"hops={self.hops}: it has types {sorted({q.type for q in questions})} and "
                    f"hops {sorted({q.hops for q in questions})}"
                )
            cache[split] = kept
        return cache[split]


def check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}: give a whole number of at least {least}")


def anchor_of(observation: str) -> str:
    """Name of the state an observation puts the agent in: equal observations, equal anchors."""
    return blake2b(observation.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Game:
    """One episode at a time under fixed `Rules`."""

    __slots__ = (
        "_act",
        "_dialect",
        "_length",
        "anchor",
        "answer",
        "assisted",
        "chars",
        "feedback_left",
        "found",
        "question",
        "round",
        "rules",
        "running",
        "searches",
    )

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.running = False
        self._act: Act | None = None
        self._length = 0
        self._dialect = rules.dialect

    # -- life cycle ------------------------------------------------------------------------------------

    def start(self, question: Question) -> tuple[str, dict[str, Any]]:
        """Begin an episode; returns the first observation (the question) and the reset info."""
        self.question = question
        self.round = self.searches = self.chars = 0
        self.feedback_left = self.rules.feedback_calls if self.rules.feedback else 0
        self.found: set[str] = set()  # gold passages retrieved so far; others change nothing later
        self.answer, self.assisted = "", False
        self._act = None
        self.running = True
        observation = question.text[: self.rules.max_observation_chars]
        self.anchor = anchor_of(observation)
        info: dict[str, Any] = {
            "schema": INFO_SCHEMA,
            "task_id": question.id,
            "split": question.split,
            "question": question.text,
            "anchor": self.anchor,
            "budget": self.budget(),
        }
        if self.rules.reveal_gold:
            info["gold"] = gold_record(question)
        return observation, info

    def budget(self) -> dict[str, int]:
        """What is left: rounds, searches, characters (-1: no limit)."""
        rules = self.rules
        return {
            "rounds": rules.max_rounds - self.round,
            "searches": UNLIMITED if rules.max_searches is None else rules.max_searches - self.searches,
            "chars": UNLIMITED if rules.max_chars is None else max(0, rules.max_chars - self.chars),
        }

    def begin_step(self, text: str) -> tuple[str, ...]:
        """Read a message; returns the queries to search (none for other acts).

        Nothing is counted before `end_step`: a step that is interrupted in between can be played again.
        """
        if not self.running:
            raise ResetNeededError("no episode is running: call reset() first")
        if not isinstance(text, str):
            raise ConfigError(f"the action is a {type(text).__name__}, not a string: {text!r}")
        rules = self.rules
        self._length = len(text)
        if len(text) > rules.max_action_chars:
            act = Act("invalid", error="too_long")
        else:
            act = self._dialect.parse(text, feedback=rules.feedback, max_queries=rules.max_queries)
            if act.kind == "feedback" and not self.feedback_left:
                act = Act("invalid", error="feedback_spent")
        self._act = act
        if act.kind != "search":
            return ()
        if rules.max_searches is not None and self.searches + len(act.queries) > rules.max_searches:
            return ()  # end_step truncates: searching on a spent budget
        return act.queries

    def end_step(self, results: list[SearchResult]) -> Step:
        """Finish the step with one result per query that `begin_step` returned."""
        rules, act = self.rules, self._act
        assert act is not None, "end_step without begin_step"
        self._act = None
        self.round += 1
        self.chars += self._length
        stop: StopReason | None = None
        observation = ""
        hits: list[dict[str, Any]] = []
        status = "none"
        feedback_text = ""

        if act.kind == "answer":
            self.answer = act.answer
            stop = StopReason.ANSWERED
        elif act.kind == "search":
            self.searches += len(results)
            if not results:
                stop = StopReason.SEARCH_BUDGET
            elif any([isinstance(result, RetrievalError) for result in results]):  # noqa: C419  (twice as fast)
                status, stop = "error", StopReason.RETRIEVAL_FAILED
            else:
                status = "ok"
                hits, shown = self._take(results)  # type: ignore[arg-type]  # no failure among them
                observation = self._dialect.render_hits(shown, rules.max_observation_chars)
        elif act.kind == "feedback":
            self.feedback_left -= 1
            self.assisted = True
            titles = (
                {hop_id: self._title(hop_id) for hop_id in self.question.supporting_ids}
                if (rules.feedback_level == "revealing")
                else {}
            )
            feedback_text = _feedback.write_feedback(
                self.question, act.draft, self.found, rules.feedback_level or "", titles
            )
            # 7/8: quoting makes the shortest tag one character longer, and observations are bounded.
            shown_text = feedback_text[: rules.max_observation_chars * 7 // 8]
            observation = self._dialect.render_feedback(shown_text)
        else:
            observation = self._dialect.render_invalid(act.error, feedback=rules.feedback)

        if stop is None:
            self.chars += len(observation)
            if rules.max_chars is not None and self.chars > rules.max_chars:
                stop = StopReason.CHARACTER_BUDGET
            elif self.round >= rules.max_rounds:
                stop = StopReason.ROUND_BUDGET
        if stop is not None:
            observation = ""
        self.anchor = anchor_of(observation) if stop is None else ""

        info = self._info(act, hits, status, feedback_text)
        reward = 0.0
        if stop is not None:
            reward = self._close(stop, info)
        return observation, reward, stop is StopReason.ANSWERED, _truncates(stop), info

    def truncate(self, stop: StopReason) -> Step:
        """End the running episode from outside (token limits, an agent's failure) without an act."""
        if not self.running:
            raise ResetNeededError("no episode is running: call reset() first")
        stop = truncating(stop)
        self.anchor = ""
        info = self._info(Act("none"), [], "none", "")
        return "", self._close(stop, info), False, True, info

    # -- snapshots -------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The running episode as plain JSON; see `SearchEnv.snapshot`."""
        if not self.running:
            raise ResetNeededError("no episode is running: there is nothing to snapshot; call reset() first")
        return {
            "schema": SNAPSHOT_SCHEMA,
            "index_hash": self.rules.retriever.index_hash,
            "task_id": self.question.id,
            "round": self.round,
            "searches": self.searches,
            "chars": self.chars,
            "feedback_left": self.feedback_left,
            "assisted": self.assisted,
            "found": sorted(self.found),
            "anchor": self.anchor,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a snapshot; see `SearchEnv.restore`."""
        rules = self.rules
        schema, index_hash = _field(state, "schema", int), _field(state, "index_hash", str)
        if schema != SNAPSHOT_SCHEMA:
            raise SnapshotError(f"the snapshot's schema is {schema!r}, this version reads {SNAPSHOT_SCHEMA}")
        if index_hash != rules.retriever.index_hash:
            raise SnapshotError(
                f"the snapshot was taken on index {index_hash!r}, this environment searches "
                f"{rules.retriever.index_hash!r}: restore it on the same corpus and retriever"
            )
        counts = [_field(state, name, int) for name in ("round", "searches", "chars", "feedback_left")]
        anchor, assisted = _field(state, "anchor", str), _field(state, "assisted", bool)
        question = rules.corpus.question(_field(state, "task_id", str))
        found = _field(state, "found", list)
        if min(counts) < 0 or not all(i in question.supporting_ids for i in found):
            raise SnapshotError(f"the snapshot of {question.id!r} is damaged: take it again with snapshot()")
        # Everything has been checked: from here on nothing fails.
        self.question, self.found = question, set(found)
        self.round, self.searches, self.chars, self.feedback_left = counts
        self.anchor, self.assisted, self.answer = anchor, assisted, ""
        self._act = None
        self.running = True

    # -- parts -----------------------------------------------------------------------------------------

    def _info(self, act: Act, hits: list[dict[str, Any]], status: str, feedback_text: str) -> dict[str, Any]:
        """A fresh step info, before `_close` adds what only the last one has."""
        rules = self.rules
        info: dict[str, Any] = {
            "schema": INFO_SCHEMA,
            "round": self.round,
            "action": {
                "kind": act.kind,
                "queries": list(act.queries),
                "draft": act.draft,
                "answer": act.answer,
                "error": act.error,
            },
            "hits": hits,
            "retrieval": {
                "status": status,
                "backend": rules.retriever.name,
                "index_hash": rules.retriever.index_hash,
            },
            "judge": {"status": "off", "utility": None, "reasoning": None, "reason": ""},
            "feedback": {
                "level": rules.feedback_level or "off",
                "text": feedback_text,
                "calls_left": self.feedback_left,
            },
            "reward_terms": dict.fromkeys(rules.reward, 0.0),
            "anchor": self.anchor,
        }
        if rules.reveal_gold:
            info["gold"] = gold_record(self.question)
        return info

    def _take(self, results: list[list[Hit]]) -> tuple[list[dict[str, Any]], list[Hit]]:
        """The info records of all hits, and the hits to show: each passage once, in order."""
        records = [
            {
                "id": id_,
                "title": title,
                "text": text,
                "score": float(score),  # a retriever may return its array's scalar: not JSON
                "rank": rank,
                "query_index": query_index,
            }
            for query_index, result in enumerate(results)
            for rank, (id_, title, text, score) in enumerate(result, 1)
        ]
        shown: dict[str, Hit] = {}
        for result in results:
            for hit in result:
                shown.setdefault(hit.id, hit)
        self.found.update([i for i in self.question.supporting_ids if i in shown])
        return records, list(shown.values())

    def _title(self, passage_id: str) -> str:
        return passage_title(self.rules.corpus, passage_id)

    def _close(self, stop: StopReason, info: dict[str, Any]) -> float:
        """Score the episode into `info`; returns the final reward."""
        self.running = False
        golds, answer = self.question.answers, self.answer
        metrics = {
            "em": exact_match(answer, golds),
            "f1": f1(answer, golds),
            "sub_em": sub_exact_match(answer, golds),
            "recall": recall(self.found, self.question.supporting_ids),
        }
        outcome = Outcome(
            answer=answer,
            rounds=self.round,
            searches=self.searches,
            assisted=self.assisted,
            stop_reason=stop,
            **metrics,
        )
        info["outcome"] = {name: getattr(outcome, name) for name in Outcome.__slots__} | {
            "stop_reason": stop.value
        }
        info["valid_for_training"] = not stop.is_failure
        if not stop.is_failure:
            info["reward_terms"] = {t: w * metrics[t] for t, w in self.rules.reward.items()}
        return float(sum(info["reward_terms"].values()))


def truncating(stop: StopReason) -> StopReason:
    """A stop reason (or its value) that `truncate` takes; raises `ConfigError`."""
    try:
        stop = StopReason(stop)
    except ValueError:
        raise UnknownIdError("stop reason", stop, [str(s) for s in StopReason]) from None
    if stop is StopReason.ANSWERED:
        raise ConfigError("truncate(StopReason.ANSWERED): only an answer act can answer")
    return stop


def _field(state: dict[str, Any], name: str, kind: type) -> Any:
    value = state.get(name) if isinstance(state, dict) else None
    if type(value) is not kind:
        raise SnapshotError(f"not a snapshot: its {name!r} is {value!r:.80}. Pass what snapshot() returned")
    return value


def _truncates(stop: StopReason | None) -> bool:
    return stop is not None and stop is not StopReason.ANSWERED


def passage_title(corpus: Corpus, passage_id: str) -> str:
    """Title of a passage by id (passages are ordered by id)."""
    try:
        return find_passage(corpus, passage_id).title
    except UnknownIdError as error:
        raise CorpusError(
            f"corpus {corpus.name!r} has no passage {passage_id!r}, which a question names as gold"
        ) from error


def gold_record(question: Question) -> dict[str, Any]:
    """What `info["gold"]` and `Episode.gold` hold; a fresh JSON value."""
    return {
        "answers": list(question.answers),
        "supporting_ids": list(question.supporting_ids),
        "chain": [
            {
                "query": hop.query,
                "relation": hop.relation,
                "passage_ids": list(hop.passage_ids),
                "bridge": hop.bridge,
            }
            for hop in question.chain
        ],
    }
