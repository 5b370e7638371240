"""An episode while it is being played: turns and round records in, an `Episode` out."""

from __future__ import annotations

from ..agent import Turn
from ..env.config import EnvConfig, env_fingerprint
from ..errors import ConfigError
from ..records.episode import Episode, RoundRecord, Segment, segments_before
from ..records.question import Question, gold_record

__all__ = ["EpisodeRecorder"]


class EpisodeRecorder:
    """Collects the rounds and tokens of one episode.

    Args:
        episode_id: id of the episode; the uids of the rounds that are added begin with it.
        group_id: id of its group.
        question: the task.
        prefix: the episode that this one continues. Its first rounds are shared: they are the same records with the
            same uids, and their tokens are copied as they are.
        fork_round: number of shared rounds.

    Attributes:
        rounds: the records so far.
        segments: the tokens so far.
    """

    def __init__(
        self,
        episode_id: str,
        group_id: str,
        question: Question,
        prefix: Episode | None = None,
        fork_round: int = 0,
    ) -> None:
        self.episode_id, self.group_id, self.question = episode_id, group_id, question
        self._prefix, self._fork_round = prefix, fork_round
        self.rounds: list[RoundRecord] = []
        self.segments: list[Segment] = []
        if prefix is not None:
            self.rounds += prefix.rounds[:fork_round]
            self.segments = segments_before(prefix.segments, fork_round)

    def add(self, turn: Turn, record: RoundRecord) -> None:
        """Add a round.

        Args:
            turn: what the agent did; its sampling fields and its message go into the record, its tokens into the
                segments.
            record: what the environment made of it.

        Raises:
            ConfigError: the turn does not have one log-probability per sampled token.
        """
        index = len(self.rounds)
        record.uid = f"{self.episode_id}/{index}"
        record.text = turn.text
        record.policy_version, record.temperature, record.top_p = (
            turn.policy_version,
            turn.temperature,
            turn.top_p,
        )
        self.rounds.append(record)
        self._add_tokens(turn, index)

    def _add_tokens(self, turn: Turn, index: int) -> None:
        for earlier in turn.earlier:
            self._add_tokens(earlier, index)
        if len(turn.logprobs) != len(turn.token_ids):
            raise ConfigError(
                f"the agent gave {len(turn.logprobs)} log-probabilities for {len(turn.token_ids)} sampled tokens: "
                "give one per token"
            )
        if not turn.prompt_ids and not turn.token_ids:
            return
        if turn.new_segment or not self.segments:
            self.segments.append(Segment())
        segment = self.segments[-1]
        given, sampled = len(turn.prompt_ids), len(turn.token_ids)
        segment.tokens += turn.prompt_ids
        segment.tokens += turn.token_ids
        segment.mask += [0] * given + [1] * sampled
        segment.logprobs += [0.0] * given
        segment.logprobs += turn.logprobs
        segment.rounds += [index] * (given + sampled)

    def finish(self, config: EnvConfig, agent: str) -> Episode:
        """The finished episode.

        Args:
            config: the arguments of the environment it was played in.
            agent: name of the agent.
        """
        last, question, prefix = self.rounds[-1], self.question, self._prefix
        assert last.outcome is not None, "the episode has not ended"
        return Episode(
            episode_id=self.episode_id,
            group_id=self.group_id,
            tree_id=self.episode_id if prefix is None else prefix.tree_id,
            parent_id=None if prefix is None else prefix.episode_id,
            fork_round=None if prefix is None else self._fork_round,
            agent=agent,
            env=env_fingerprint(config),
            task_id=question.id,
            split=question.split,
            question=question.text,
            gold=gold_record(question),
            rounds=self.rounds,
            outcome=last.outcome,
            terminated=last.terminated,
            truncated=last.truncated,
            valid_for_training=last.valid_for_training,
            segments=self.segments,
            extra={"type": question.type, "hops": question.hops},
        )
