"""The rules of one episode, without Gymnasium and without a retriever.

`SearchEnv` runs one `Game`, `SearchVectorEnv` many. A step has three phases: `begin_step` reads a message and says
which queries to search, `take_results` plays the round, `end_step` closes it with the judge's verdict if there is
one. Between the phases the environment searches and judges in whatever batch it likes. So the rules are written
once, and a vector environment is exactly its single environments, batched.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from math import isfinite
from typing import Any

from . import feedback as _feedback
from .dialects import Act, Dialect, get_dialect
from .episode import Outcome, StopReason
from .errors import ConfigError, CorpusError, ResetNeededError, RetrievalError, SnapshotError, UnknownIdError
from .judges.gain import InformationGain
from .judges.protocol import Grade, Grader, Judge, Trace, TraceRound, Verdict, no_verdict
from .question import Corpus, Passage, Question, find_passage
from .retriever import Hit, Retriever, SearchResult
from .rewards import REWARD_TERMS, Played
from .scoring import exact_match, f1, recall, sub_exact_match

__all__ = ["INFO_SCHEMA", "JUDGE_WHEN", "SNAPSHOT_SCHEMA", "Game", "Rules", "Step"]

INFO_SCHEMA = 1
SNAPSHOT_SCHEMA = 2
UNLIMITED = -1
_NOT_JUDGED = no_verdict("off")
JUDGE_WHEN = ("step", "end", "success", "unequal", "unequal-success")
"""When rounds are judged: each in its step; or after the episodes: all, those answered right, those in groups of
unequal rewards, those answered right in such groups."""

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
    judge: Judge | None = None
    judge_spec: Any = None
    judge_when: str = "step"
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
        if self.judge_when not in JUDGE_WHEN:
            raise UnknownIdError("judge_when", self.judge_when, JUDGE_WHEN)
        for term in self.reward:
            self._check_needs(term)
        if self.feedback_level is not None:
            _feedback.check_level(self.feedback_level)
            check_count("feedback calls", self.feedback_calls, 1)
        self.tasks(self.split)

    def _check_needs(self, term: str) -> None:
        """Refuse a reward term whose judge is missing, late or no grader."""
        needs = REWARD_TERMS[term]
        if needs.needs_verdict and self.judge is None:
            raise ConfigError(f'reward term {term!r} needs a judge: give judge="oracle", or another one')
        if needs.needs_verdict and self.judge_when != "step":
            raise ConfigError(
                f"reward term {term!r} needs the verdict in the step itself, but judge_when is "
                f'{self.judge_when!r}: use judge_when="step"'
            )
        if needs.needs_grade and not isinstance(self.judge, Grader):
            have = "there is no judge" if self.judge is None else f"judge {self.judge.name!r} does not"
            raise ConfigError(f'reward term {term!r} needs a judge that grades answers, e.g. "llm"; {have}')

    @property
    def dialect(self) -> Dialect:
        """The dialect object (kept out of the fields, so that rules pickle)."""
        return get_dialect(self.dialect_name)

    @property
    def feedback(self) -> bool:
        """Whether the feedback act exists."""
        return self.feedback_level is not None

    @cached_property
    def judges_steps(self) -> bool:
        """Whether each round is judged in its step."""
        return self.judge is not None and self.judge_when == "step"

    @cached_property
    def grades(self) -> bool:
        """Whether answers are graded by the judge."""
        return any(REWARD_TERMS[term].needs_grade for term in self.reward)

    @cached_property
    def keeps_trace(self) -> bool:
        """Whether a game remembers its rounds: for the judge, or for a reward term."""
        return self.judges_steps or any(REWARD_TERMS[term].needs_trace for term in self.reward)

    @cached_property
    def metric_terms(self) -> tuple[str, ...]:
        """The reward terms that are a metric of the outcome."""
        return tuple(term for term in self.reward if REWARD_TERMS[term].value is None)

    @cached_property
    def other_terms(self) -> tuple[str, ...]:
        """The reward terms that are computed from what was played."""
        return tuple(term for term in self.reward if REWARD_TERMS[term].value is not None)

    @cached_property
    def round_terms(self) -> tuple[str, ...]:
        """Those of them that are paid in every step."""
        return tuple(term for term in self.other_terms if not REWARD_TERMS[term].last)

    @cached_property
    def verdict_pays(self) -> bool:
        """Whether the judge's verdict is part of the reward."""
        return any(REWARD_TERMS[term].needs_verdict for term in self.reward)

    @cached_property
    def gain(self) -> InformationGain:
        """Information gain over the corpus."""
        return InformationGain(self.corpus)

    def for_evaluation(self) -> Rules:
        """The same questions without what exists for training only: no judge, no feedback, plain EM."""
        return replace(
            self,
            judge=None,
            judge_spec=None,
            judge_when="step",
            feedback_level=None,
            feedback_calls=0,
            reward={"em": 1.0},
        )

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
        "_message",
        "_played",
        "anchor",
        "answer",
        "assisted",
        "chars",
        "feedback_left",
        "found",
        "invalid",
        "question",
        "round",
        "rounds",
        "rules",
        "running",
        "searches",
        "unjudged",
    )

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.running = False
        self._act: Act | None = None
        self._message = ""
        self._played: tuple[str, StopReason | None, dict[str, Any]] | None = None
        self._dialect = rules.dialect

    # -- life cycle ------------------------------------------------------------------------------------

    def start(self, question: Question) -> tuple[str, dict[str, Any]]:
        """Begin an episode; returns the first observation (the question) and the reset info."""
        self.question = question
        self.round = self.searches = self.chars = self.invalid = 0
        self.rounds: list[TraceRound] = []  # only where rules.keeps_trace
        self.unjudged = False  # a verdict that the reward needs has failed
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
        self._message = text
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

    def take_results(self, results: list[SearchResult]) -> None:
        """Play the round, given one result per query that `begin_step` returned."""
        rules, act = self.rules, self._act
        assert act is not None, "take_results without begin_step"
        self._act = None
        self.round += 1
        self.chars += len(self._message)
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
            feedback_text = self._feedback(act.draft)
            # 7/8: quoting makes the shortest tag one character longer, and observations are bounded.
            shown_text = feedback_text[: rules.max_observation_chars * 7 // 8]
            observation = self._dialect.render_feedback(shown_text)
        else:
            self.invalid += 1
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
        if rules.judge is not None and status != "error" and act.kind != "feedback":
            info["judge"] = no_verdict("pending")
        if rules.keeps_trace:
            # Copies: who changes an info must not change what the judge sees in later rounds.
            copied = [dict(hit) for hit in hits]
            self.rounds.append(TraceRound(self._message, dict(info["action"]), copied, observation))
        self._played = (observation, stop, info)

    def to_judge(self) -> Trace | None:
        """What a judge that runs every step is to see now; None if this round is not judged."""
        assert self._played is not None, "to_judge without take_results"
        pending = self.rules.judges_steps and self._played[2]["judge"]["status"] == "pending"
        return Trace(self.question, tuple(self.rounds)) if pending else None

    def to_grade(self) -> str | None:
        """The answer that a grader is to see now, if there is one."""
        assert self._played is not None, "to_grade without take_results"
        return self.answer if self.rules.grades and self._played[1] is StopReason.ANSWERED else None

    def end_step(self, verdict: Verdict | None = None, grade: Grade | None = None) -> Step:
        """Finish the step: its reward, with the verdict and the grade asked for, and the outcome at the end."""
        assert self._played is not None, "end_step without take_results"
        observation, stop, info = self._played
        self._played = None
        rules = self.rules
        if verdict is not None:
            info["judge"] = verdict.to_info()
            if verdict.status == "error":
                self.unjudged |= rules.verdict_pays
                verdict = None
        if grade is not None and grade.status == "error":
            self.unjudged, grade = True, None
        if stop is not None:
            self._close(stop, info)
        terms = info["reward_terms"]
        due = rules.round_terms if stop is None else rules.other_terms
        if due and not (stop is not None and stop.is_failure):
            played = self._moment(info, verdict, grade)
            for term in due:
                if (value := REWARD_TERMS[term].value) is not None:
                    terms[term] = rules.reward[term] * value(played) + 0.0  # no negative zero
        reward = float(sum(terms.values())) if due or stop is not None else 0.0
        return observation, reward, stop is StopReason.ANSWERED, _truncates(stop), info

    def truncate(self, stop: StopReason) -> Step:
        """End the running episode from outside (token limits, an agent's failure) without an act."""
        if not self.running:
            raise ResetNeededError("no episode is running: call reset() first")
        stop = truncating(stop)
        self.anchor = ""
        self._played = ("", stop, self._info(Act("none"), [], "none", ""))
        return self.end_step()

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
            "invalid": self.invalid,
            "unjudged": self.unjudged,
            "found": sorted(self.found),
            "anchor": self.anchor,
            "trace": self._pack_trace(),
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
        names = ("round", "searches", "chars", "feedback_left", "invalid")
        counts = [_field(state, name, int) for name in names]
        anchor = _field(state, "anchor", str)
        assisted, unjudged = _field(state, "assisted", bool), _field(state, "unjudged", bool)
        question = rules.corpus.question(_field(state, "task_id", str))
        found = _field(state, "found", list)
        packed = _field(state, "trace", dict)
        sound = all(i in question.supporting_ids for i in found) and set(packed) == {"passages", "rounds"}
        if min(counts) < 0 or not sound:
            raise SnapshotError(f"the snapshot of {question.id!r} is damaged: take it again with snapshot()")
        rounds = self._unpack_trace(packed, counts[0]) if rules.keeps_trace else []
        # Everything has been checked: from here on nothing fails.
        self.question, self.found = question, set(found)
        self.round, self.searches, self.chars, self.feedback_left, self.invalid = counts
        self.anchor, self.assisted, self.unjudged, self.answer = anchor, assisted, unjudged, ""
        self.rounds = rounds
        self._act = self._played = None
        self.running = True

    def _pack_trace(self) -> dict[str, Any]:
        """The remembered rounds as JSON, each passage once; observations of searches are rendered again."""
        passages: dict[str, list[str]] = {}
        rounds = []
        for played in self.rounds:
            hits = []
            for hit in played.hits:
                passages[hit["id"]] = [hit["title"], hit["text"]]
                hits.append([hit["id"], hit["score"], hit["rank"], hit["query_index"]])
            said = "" if played.hits else played.observation
            rounds.append([played.text, dict(played.action), hits, said])
        return {"passages": passages, "rounds": rounds}

    def _unpack_trace(self, packed: dict[str, Any], count: int) -> list[TraceRound]:
        try:
            passages = packed["passages"]
            rounds = [
                self._unpack_round(text, action, hits, said, passages)
                for text, action, hits, said in packed["rounds"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(
                f"the snapshot's trace is damaged ({error!r}): take it again with snapshot()"
            ) from error
        if len(rounds) != count:
            raise SnapshotError(
                f"the snapshot remembers {len(rounds)} of {count} rounds, but this environment's judge or reward "
                "needs all of them: take the snapshot in an environment with the same judge and reward"
            )
        return rounds

    def _unpack_round(
        self, text: str, action: dict[str, Any], hits: list[Any], said: str, passages: dict[str, list[str]]
    ) -> TraceRound:
        records = [
            {
                "id": id_,
                "title": passages[id_][0],
                "text": passages[id_][1],
                "score": score,
                "rank": rank,
                "query_index": query_index,
            }
            for id_, score, rank, query_index in hits
        ]
        if records:
            shown = {r["id"]: Hit(r["id"], r["title"], r["text"], r["score"]) for r in reversed(records)}
            ordered = [shown[id_] for id_ in dict.fromkeys(r["id"] for r in records)]
            said = self._dialect.render_hits(ordered, self.rules.max_observation_chars)
        return TraceRound(text, dict(action), records, said)

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
            "judge": _NOT_JUDGED.copy(),
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

    def _feedback(self, draft: str) -> str:
        level = self.rules.feedback_level or ""
        return _feedback.write_feedback(self.question, draft, self.found, level, self._gold_passage)

    def _gold_passage(self, passage_id: str) -> Passage:
        return gold_passage(self.rules.corpus, passage_id)

    def _moment(self, info: dict[str, Any], verdict: Verdict | None, grade: Grade | None) -> Played:
        """What the reward terms of this step are computed from."""
        outcome = info.get("outcome")
        return Played(
            question=self.question,
            action=info["action"],
            hits=info["hits"],
            round=self.round,
            invalid=self.invalid,
            earlier=self.rounds if info["action"]["kind"] == "none" else self.rounds[:-1],
            verdict=verdict,
            grade=grade,
            top_k=self.rules.top_k,
            gain=self.rules.gain,
            outcome=outcome,
            answered=outcome is not None and outcome["stop_reason"] == StopReason.ANSWERED.value,
        )

    def _close(self, stop: StopReason, info: dict[str, Any]) -> None:
        """Score the episode into `info`."""
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
        info["valid_for_training"] = not (stop.is_failure or self.unjudged)
        if not stop.is_failure:
            for term in self.rules.metric_terms:
                info["reward_terms"][term] = self.rules.reward[term] * metrics[term] + 0.0


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


def gold_passage(corpus: Corpus, passage_id: str) -> Passage:
    """A passage that a question names as gold; raises `CorpusError` if the corpus lacks it."""
    try:
        return find_passage(corpus, passage_id)
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
