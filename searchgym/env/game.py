"""The rules of one episode, without Gymnasium and without a retriever.

`SearchEnv` runs one `Game`, `SearchVectorEnv` many. A step has three phases: `begin_step` reads a message and says
which queries to search, `take_results` plays the round, `end_step` closes it with the judge's verdict if there is
one. Between the phases the environment searches and judges in whatever batch it likes. So the rules are written
once, and a vector environment is exactly its single environments, batched.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from ..dialects import Act
from ..episode import Outcome, StopReason
from ..errors import ConfigError, CorpusError, ResetNeededError, RetrievalError, UnknownIdError
from ..judges.protocol import Grade, Trace, TraceRound, Verdict, no_verdict
from ..question import Corpus, Passage, Question, find_passage
from ..retriever import Hit, SearchResult
from ..scoring import exact_match, f1, recall, sub_exact_match
from .config import EnvConfig
from .feedback import write_feedback
from .rewards import REWARD_TERMS, Played

__all__ = ["INFO_SCHEMA", "Game", "Step", "gold_record", "truncating"]

INFO_SCHEMA = 1
UNLIMITED = -1
_NOT_JUDGED = no_verdict("off")
Step = tuple[str, float, bool, bool, dict[str, Any]]
"""(observation, reward, terminated, truncated, info), as `gymnasium.Env.step` returns it."""


def anchor_of(observation: str) -> str:
    """Name of the state an observation puts the agent in: equal observations, equal anchors."""
    return blake2b(observation.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Game:
    """One episode at a time under fixed `EnvConfig`."""

    __slots__ = (
        "_act",
        "_dialect",
        "_message",
        "_played",
        "anchor",
        "answer",
        "assisted",
        "chars",
        "config",
        "feedback_left",
        "found",
        "invalid",
        "question",
        "round",
        "rounds",
        "running",
        "searches",
        "unjudged",
    )

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.running = False
        self._act: Act | None = None
        self._message = ""
        self._played: tuple[str, StopReason | None, dict[str, Any]] | None = None
        self._dialect = config.dialect

    # -- life cycle ------------------------------------------------------------------------------------

    def start(self, question: Question) -> tuple[str, dict[str, Any]]:
        """Begin an episode; returns the first observation (the question) and the reset info."""
        self.question = question
        self.round = self.searches = self.chars = self.invalid = 0
        self.rounds: list[TraceRound] = []  # only where rules.keeps_trace
        self.unjudged = False  # a verdict that the reward needs has failed
        self.feedback_left = self.config.feedback_calls if self.config.feedback else 0
        self.found: set[str] = set()  # gold passages retrieved so far; others change nothing later
        self.answer, self.assisted = "", False
        self._act = None
        self.running = True
        observation = question.text[: self.config.max_observation_chars]
        self.anchor = anchor_of(observation)
        info: dict[str, Any] = {
            "schema": INFO_SCHEMA,
            "task_id": question.id,
            "split": question.split,
            "question": question.text,
            "anchor": self.anchor,
            "budget": self.budget(),
        }
        if self.config.reveal_gold:
            info["gold"] = gold_record(question)
        return observation, info

    def budget(self) -> dict[str, int]:
        """What is left: rounds, searches, characters (-1: no limit)."""
        config = self.config
        return {
            "rounds": config.max_rounds - self.round,
            "searches": UNLIMITED if config.max_searches is None else config.max_searches - self.searches,
            "chars": UNLIMITED if config.max_chars is None else max(0, config.max_chars - self.chars),
        }

    def begin_step(self, text: str) -> tuple[str, ...]:
        """Read a message; returns the queries to search (none for other acts).

        Nothing is counted before `end_step`: a step that is interrupted in between can be played again.
        """
        if not self.running:
            raise ResetNeededError("no episode is running: call reset() first")
        if not isinstance(text, str):
            raise ConfigError(f"the action is a {type(text).__name__}, not a string: {text!r}")
        config = self.config
        self._message = text
        if len(text) > config.max_action_chars:
            act = Act("invalid", error="too_long")
        else:
            act = self._dialect.parse(text, feedback=config.feedback, max_queries=config.max_queries)
            if act.kind == "feedback" and not self.feedback_left:
                act = Act("invalid", error="feedback_spent")
        self._act = act
        if act.kind != "search":
            return ()
        if config.max_searches is not None and self.searches + len(act.queries) > config.max_searches:
            return ()  # end_step truncates: searching on a spent budget
        return act.queries

    def take_results(self, results: list[SearchResult]) -> None:
        """Play the round, given one result per query that `begin_step` returned."""
        config, act = self.config, self._act
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
                observation = self._dialect.render_hits(shown, config.max_observation_chars)
        elif act.kind == "feedback":
            self.feedback_left -= 1
            self.assisted = True
            feedback_text = self._feedback(act.draft)
            # 7/8: quoting makes the shortest tag one character longer, and observations are bounded.
            shown_text = feedback_text[: config.max_observation_chars * 7 // 8]
            observation = self._dialect.render_feedback(shown_text)
        else:
            self.invalid += 1
            observation = self._dialect.render_invalid(act.error, feedback=config.feedback)

        if stop is None:
            self.chars += len(observation)
            if config.max_chars is not None and self.chars > config.max_chars:
                stop = StopReason.CHARACTER_BUDGET
            elif self.round >= config.max_rounds:
                stop = StopReason.ROUND_BUDGET
        if stop is not None:
            observation = ""
        self.anchor = anchor_of(observation) if stop is None else ""

        info = self._info(act, hits, status, feedback_text)
        if config.judge is not None and status != "error" and act.kind != "feedback":
            info["judge"] = no_verdict("pending")
        if config.keeps_trace:
            # Copies: who changes an info must not change what the judge sees in later rounds.
            copied = [dict(hit) for hit in hits]
            self.rounds.append(TraceRound(self._message, dict(info["action"]), copied, observation))
        self._played = (observation, stop, info)

    def to_judge(self) -> Trace | None:
        """What a judge that runs every step is to see now; None if this round is not judged."""
        assert self._played is not None, "to_judge without take_results"
        pending = self.config.judges_steps and self._played[2]["judge"]["status"] == "pending"
        return Trace(self.question, tuple(self.rounds)) if pending else None

    def to_grade(self) -> str | None:
        """The answer that a grader is to see now, if there is one."""
        assert self._played is not None, "to_grade without take_results"
        return self.answer if self.config.grades and self._played[1] is StopReason.ANSWERED else None

    def end_step(self, verdict: Verdict | None = None, grade: Grade | None = None) -> Step:
        """Finish the step: its reward, with the verdict and the grade asked for, and the outcome at the end."""
        assert self._played is not None, "end_step without take_results"
        observation, stop, info = self._played
        self._played = None
        config = self.config
        if verdict is not None:
            info["judge"] = verdict.to_info()
            if verdict.status == "error":
                self.unjudged |= config.verdict_pays
                verdict = None
        if grade is not None and grade.status == "error":
            self.unjudged, grade = True, None
        if stop is not None:
            self._close(stop, info)
        terms = info["reward_terms"]
        due = config.round_terms if stop is None else config.other_terms
        if due and not (stop is not None and stop.is_failure):
            played = self._moment(info, verdict, grade)
            for term in due:
                if (value := REWARD_TERMS[term].value) is not None:
                    terms[term] = config.reward[term] * value(played) + 0.0  # no negative zero
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

    def resume(self, question: Question, found: set[str], rounds: list[TraceRound]) -> None:
        """Run an episode that was begun elsewhere; its counters are the caller's to set."""
        self.question, self.found, self.rounds = question, found, rounds
        self.answer = ""
        self._act = self._played = None
        self.running = True

    # -- parts -----------------------------------------------------------------------------------------

    def _info(self, act: Act, hits: list[dict[str, Any]], status: str, feedback_text: str) -> dict[str, Any]:
        """A fresh step info, before `_close` adds what only the last one has."""
        config = self.config
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
                "backend": config.retriever.name,
                "index_hash": config.retriever.index_hash,
            },
            "judge": _NOT_JUDGED.copy(),
            "feedback": {
                "level": config.feedback_level or "off",
                "text": feedback_text,
                "calls_left": self.feedback_left,
            },
            "reward_terms": dict.fromkeys(config.reward, 0.0),
            "anchor": self.anchor,
        }
        if config.reveal_gold:
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
        level = self.config.feedback_level or ""
        return write_feedback(self.question, draft, self.found, level, self._gold_passage)

    def _gold_passage(self, passage_id: str) -> Passage:
        return gold_passage(self.config.corpus, passage_id)

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
            top_k=self.config.top_k,
            gain=self.config.gain,
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
            for term in self.config.metric_terms:
                info["reward_terms"][term] = self.config.reward[term] * metrics[term] + 0.0


def truncating(stop: StopReason) -> StopReason:
    """A stop reason (or its value) that `truncate` takes; raises `ConfigError`."""
    try:
        stop = StopReason(stop)
    except ValueError:
        raise UnknownIdError("stop reason", stop, [str(s) for s in StopReason]) from None
    if stop is StopReason.ANSWERED:
        raise ConfigError("truncate(StopReason.ANSWERED): only an answer act can answer")
    return stop


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
