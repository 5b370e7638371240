"""The state machine of one episode, without Gymnasium and without a retriever.

`SearchEnv` runs one `EpisodeState`, `SearchVectorEnv` many. A step has three phases: `begin_step` parses a message and
returns the queries to search, `apply_results` plays the round, and `finish_step` completes its record with the judge's
verdict, if there is one. Between the phases the environment searches and judges in batches of any size. The rules
are therefore written once, and a vector environment equals its single environments, batched.
"""

from __future__ import annotations

from dataclasses import replace

from ..dialects import Act, render_refusal
from ..errors import ConfigError, CorpusError, ResetNeededError, RetrievalError, UnknownIdError
from ..judges import Grade, Verdict, no_verdict
from ..judges.protocol import Trace
from ..records.episode import Feedback, Outcome, Retrieval, RoundRecord, StopReason, anchor_of
from ..records.question import Corpus, Passage, Question, find_passage
from ..records.retriever import Hit, SearchResult, distinct_hits
from ..scoring import recall, score_answer
from .config import EnvConfig
from .episode_start import EpisodeStart
from .feedback import write_feedback
from .rewards import RewardContext

__all__ = ["EpisodeState", "check_stop", "remembered"]

UNLIMITED = -1
_UNREAD_CHARS = 256
_NOT_JUDGED = no_verdict("off")
_PENDING = no_verdict("pending")


class EpisodeState:
    """One episode at a time under a fixed `EnvConfig`.

    Attributes:
        config: the environment's arguments.
        running: whether an episode is in progress.
        question: the task that is played.
        round: rounds played.
        searches: queries searched.
        chars: characters of all actions and observations.
        invalid: invalid rounds.
        feedback_left: feedback acts the episode may still use.
        found: gold passages retrieved so far.
        answer: the final answer; "" before it is given.
        assisted: whether the feedback act was used.
        unjudged: whether a verdict that the reward needs has failed.
        rounds: the records so far, if a judge or a reward term looks back; empty otherwise.
        observation: the last observation; "" after a restore, which does not know it.
    """

    __slots__ = (
        "_act",
        "_anchor",
        "_dialect",
        "_feedback",
        "_record",
        "_stop",
        "_text",
        "answer",
        "assisted",
        "chars",
        "config",
        "feedback_left",
        "found",
        "invalid",
        "observation",
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
        self._text = ""
        self._record: RoundRecord | None = None
        self._stop: StopReason | None = None
        self._dialect = config.dialect

    # -- life cycle ------------------------------------------------------------------------------------

    def start(self, question: Question) -> EpisodeStart:
        """Begin an episode."""
        config = self.config
        self.question = question
        self.round = self.searches = self.chars = self.invalid = 0
        self.rounds: list[RoundRecord] = []
        self.unjudged = False
        self.feedback_left, self._feedback = config.feedback_calls, config.unused_feedback
        self.found: set[str] = set()  # other passages never matter again
        self.answer, self.assisted = "", False
        self._act = self._record = None
        self.running = True
        self.observation = question.text[: config.max_observation_chars]
        self._anchor = ""
        return EpisodeStart(self.observation, question, self.budget(), config.reveal_gold)

    def budget(self) -> dict[str, int]:
        """What is left: rounds, searches and characters (-1: no limit)."""
        config = self.config
        return {
            "rounds": config.max_rounds - self.round,
            "searches": UNLIMITED if config.max_searches is None else config.max_searches - self.searches,
            "chars": UNLIMITED if config.max_chars is None else max(0, config.max_chars - self.chars),
        }

    @property
    def anchor(self) -> str:
        """The state in which the next act is chosen."""
        if not self._anchor:
            self._anchor = anchor_of(self.observation)
        return self._anchor

    def begin_step(self, text: str, act: Act | None = None) -> tuple[str, ...]:
        """Parse a message and return the queries to search, which is empty for acts other than searches.

        Nothing is counted before `apply_results`: a step that is interrupted in between can be played again.

        Args:
            text: the message.
            act: what it does, where that was read elsewhere (`allowed_act`); the message is then not parsed.

        Raises:
            ResetNeededError: no episode is running.
            ConfigError: the message is not a string.
        """
        if not self.running:
            raise ResetNeededError("no episode is running: call reset() first")
        if not isinstance(text, str):
            raise ConfigError(f"the action is a {type(text).__name__}, not a string: {text!r}")
        config = self.config
        self._text = text
        if len(text) > config.max_action_chars:
            act = Act("invalid", error="too_long")
        else:
            if act is None:
                act = self._dialect.parse(text, feedback=config.has_feedback, max_queries=config.max_queries)
            if act.kind == "feedback" and not self.feedback_left:
                act = Act("invalid", error="feedback_spent")
            if act.kind == "answer" and config.task == "query":
                act = Act("invalid", error="answer_off")
        self._act = act
        if act.kind != "search":
            return ()
        if config.max_searches is not None and self.searches + len(act.queries) > config.max_searches:
            return ()  # apply_results truncates: the search budget is spent
        return act.queries

    def apply_results(self, results: list[SearchResult]) -> None:
        """Play the round.

        Args:
            results: one per query that `begin_step` returned.
        """
        config, act = self.config, self._act
        assert act is not None, "apply_results without begin_step"
        self._act = None
        self.round += 1
        self.chars += len(self._text)
        stop: StopReason | None = None
        observation = ""
        kind = act.kind
        hits: list[list[Hit]] = []
        retrieval, feedback = config.no_retrieval, self._feedback
        judge = _NOT_JUDGED if config.judge is None else _PENDING

        if kind == "search":
            self.searches += len(results)
            failed = False
            for result in results:
                failed |= isinstance(result, RetrievalError)
            if not results:
                stop = StopReason.SEARCH_BUDGET
            elif failed:
                retrieval, stop, judge = config.failed_retrieval, StopReason.RETRIEVAL_FAILED, _NOT_JUDGED
            else:
                hits, retrieval = results, config.ok_retrieval  # type: ignore[assignment]  # no failure among them
                shown = self._note_hits(hits)
                if config.task == "query":
                    stop = StopReason.QUERIED
                else:
                    observation = self._dialect.render_hits(shown, config.max_observation_chars)
        elif kind == "answer":
            self.answer = act.answer
            stop = StopReason.ANSWERED
        elif kind == "feedback":
            self._allow_feedback(self.feedback_left - 1)
            self.assisted = True
            feedback = self._feedback._replace(text=self._write_feedback(act.draft))
            judge = _NOT_JUDGED
            # 7/8: quoting makes the shortest tag one character longer, and observations are bounded.
            told = feedback.text[: config.max_observation_chars * 7 // 8]
            observation = self._dialect.render_feedback(told)
        else:
            self.invalid += 1
            observation = render_refusal(
                self._dialect, config.task, act.error, feedback=config.has_feedback, reason=act.reason
            )

        if stop is None:
            self.chars += len(observation)
            if config.max_chars is not None and self.chars > config.max_chars:
                stop = StopReason.CHARACTER_BUDGET
            elif self.round >= config.max_rounds:
                stop = StopReason.QUERIED if config.task == "query" else StopReason.ROUND_BUDGET
        self._stop = stop
        self._make_record(act, hits, "" if stop is not None else observation, retrieval, judge, feedback)

    def to_judge(self) -> Trace | None:
        """What a judge that runs in every step is to judge now; None if this round is not judged."""
        assert self._record is not None, "to_judge without apply_results"
        pending = self.config.judges_steps and self._record.judge.status == "pending"
        return Trace(self.question, tuple(self.rounds)) if pending else None

    def to_grade(self) -> str | None:
        """The answer that a grader is to grade now; None without one."""
        assert self._record is not None, "to_grade without apply_results"
        return self.answer if self.config.grades and self._stop is StopReason.ANSWERED else None

    def finish_step(self, verdict: Verdict | None = None, grade: Grade | None = None) -> RoundRecord:
        """Complete the record of the step with its reward.

        Args:
            verdict: on the round, if `to_judge` returned a trace.
            grade: of the answer, if `to_grade` returned one.
        """
        record = self._record
        assert record is not None, "finish_step without apply_results"
        self._record = None
        config = self.config
        if verdict is not None:
            record.judge = verdict.without_cost()
            if verdict.status == "error":
                self.unjudged |= config.verdict_pays
                verdict = None
        if grade is not None and grade.status == "error":
            self.unjudged, grade = True, None
        self._reward(record, verdict, grade)
        if config.reward.wrappers:
            record.reward = config.reward.pay(record.reward)
        return record

    def _reward(self, record: RoundRecord, verdict: Verdict | None, grade: Grade | None) -> None:
        """Set the reward of the step, and close the episode if it ends here."""
        config, stop = self.config, self._stop
        if stop is None:
            if config.round_terms:
                self._pay(record, config.round_terms, verdict, grade)
            return
        outcome = record.outcome = self._close(stop)
        failed = stop.is_failure
        record.valid_for_training = not (failed or self.unjudged)
        if not failed:
            for term in config.metric_terms:
                record.reward_terms[term] = config.reward[term] * getattr(outcome, term) + 0.0
            if config.other_terms:
                self._pay(record, config.other_terms, verdict, grade)
        record.reward = float(sum(record.reward_terms.values()))

    def truncate(self, stop: StopReason) -> RoundRecord:
        """End the running episode from outside (token limits, an agent's failure) without an act.

        Raises:
            ResetNeededError: no episode is running.
            ConfigError: not a reason to truncate.
        """
        if not self.running:
            raise ResetNeededError("no episode is running: call reset() first")
        self._stop, self._text = check_stop(stop), ""
        self._make_record(Act("none"), [], "", self.config.no_retrieval, _NOT_JUDGED, self._feedback)
        return self.finish_step()

    def resume(
        self,
        question: Question,
        found: set[str],
        rounds: list[RoundRecord],
        anchor: str,
        feedback_left: int,
    ) -> None:
        """Continue an episode that was begun elsewhere; the caller sets the other counters.

        Args:
            question: the task.
            found: gold passages retrieved so far.
            rounds: the records so far, if this environment's judge or reward looks back.
            anchor: the state in which the next act is chosen.
            feedback_left: feedback acts the episode may still use.
        """
        self.question, self.found, self.rounds = question, found, rounds
        self.answer = self.observation = ""
        self._anchor = anchor
        self._allow_feedback(feedback_left)
        self._act = self._record = None
        self.running = True

    # -- parts -----------------------------------------------------------------------------------------

    def _allow_feedback(self, calls: int) -> None:
        self.feedback_left = calls
        self._feedback = self.config.unused_feedback._replace(calls_left=calls)

    def _make_record(
        self,
        act: Act,
        hits: list[list[Hit]],
        observation: str,
        retrieval: Retrieval,
        judge: Verdict,
        feedback: Feedback,
    ) -> None:
        """The record of the round, before `finish_step` completes it."""
        config = self.config
        record = self._record = RoundRecord(
            self._text,
            act,
            hits,
            observation,
            self.round,
            retrieval,
            judge,
            feedback,
            0.0,
            config.zero_terms.copy(),
        )
        record.before, record._anchor = self.observation, self._anchor
        self.observation, self._anchor = observation, ""
        if config.reveal_gold:
            record.gold = self.question
        if config.keeps_trace and act.kind != "none":
            self.rounds.append(remembered(record))

    def _note_hits(self, results: list[list[Hit]]) -> list[Hit]:
        """Remember the gold passages among the hits; returns the hits to show: each passage once, in order."""
        shown = results[0] if len(results) == 1 else [hit for result in results for hit in result]
        ids = {hit[0] for hit in shown}
        for gold in self.question.supporting_ids:
            if gold in ids:
                self.found.add(gold)
        if len(ids) == len(shown):
            return shown
        return distinct_hits(shown)

    def _write_feedback(self, draft: str) -> str:
        level = self.config.feedback_level or ""
        return write_feedback(self.question, draft, self.found, level, self._gold_passage)

    def _gold_passage(self, passage_id: str) -> Passage:
        return gold_passage(self.config.corpus, passage_id)

    def _pay(
        self, record: RoundRecord, terms: tuple[str, ...], verdict: Verdict | None, grade: Grade | None
    ) -> None:
        """Compute reward terms of the step and its reward."""
        config = self.config
        context = RewardContext(
            question=self.question,
            record=record,
            earlier=self.rounds if record.action.kind == "none" else self.rounds[:-1],
            invalid=self.invalid,
            verdict=verdict,
            grade=grade,
            top_k=config.top_k,
            gain=config.gain,
        )
        for term in terms:
            value = config.reward.terms[term].value
            assert value is not None, "a metric of the outcome is not computed from a round"
            record.reward_terms[term] = config.reward[term] * value(context) + 0.0  # no negative zero
        record.reward = float(sum(record.reward_terms.values()))

    def _close(self, stop: StopReason) -> Outcome:
        """End and score the episode."""
        self.running = False
        scores = score_answer(self.answer, self.question.answers, self.config.segmentation)
        return Outcome(
            answer=self.answer,
            em=scores.em,
            f1=scores.f1,
            sub_em=scores.sub_em,
            recall=recall(self.found, self.question.supporting_ids),
            rounds=self.round,
            searches=self.searches,
            assisted=self.assisted,
            stop_reason=stop,
        )


def remembered(record: RoundRecord) -> RoundRecord:
    """What judges, reward terms and snapshots remember of a round: of a message too long to be read, its beginning."""
    if record.action.error == "too_long":
        return replace(record, text=record.text[:_UNREAD_CHARS])
    return record


def check_stop(stop: StopReason) -> StopReason:
    """A stop reason, or its value, that `truncate` accepts.

    Raises:
        UnknownIdError: not a stop reason.
        ConfigError: the reason of an answer.
    """
    try:
        stop = StopReason(stop)
    except ValueError:
        raise UnknownIdError("stop reason", stop, [str(s) for s in StopReason]) from None
    if stop.is_terminal:
        raise ConfigError(
            f"truncate(StopReason.{stop.name}): only an act of the agent can end an episode with it"
        )
    return stop


def gold_passage(corpus: Corpus, passage_id: str) -> Passage:
    """A passage that a question names as gold; raises `CorpusError` if the corpus does not have it."""
    try:
        return find_passage(corpus, passage_id)
    except UnknownIdError as error:
        raise CorpusError(
            f"corpus {corpus.name!r} has no passage {passage_id!r}, which a question names as gold"
        ) from error
