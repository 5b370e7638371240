"""What trainable language models have in common: sampled tokens in, their log-probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from searchgym.dialects import Act
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Segment, segments_before

from ..answer_probes import AnswerProbe, Evaluate, ProbedAnswers
from ..policy import Policy, Sample, TokenOutputs
from .evaluation import EvaluationStats, TokenSequence, evaluate
from .generation import GenerationEngine
from .interface import Network
from .prefix_tree import split_by_budget
from .sampling import Sampling

__all__ = ["TokenPolicy"]


class TokenPolicy(Policy):
    """A policy whose acts are tokens of a causal language model.

    Attributes:
        network: the model, for training.
        engine: samples the acts.
        evaluation: tokens computed and shared by `evaluate_tokens` so far.
    """

    reads_text = True
    network: Network
    engine: GenerationEngine
    evaluation: EvaluationStats

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        """See `Policy`."""
        sequences = [self._sequence(sample) for sample in samples]
        return TokenOutputs(*evaluate(self.network, sequences, self.evaluation))

    def _sequence(self, sample: Sample) -> TokenSequence:
        segment, rounds = sample.segment, sample.episode.rounds
        targets = tuple(i for i, sampled in enumerate(segment.mask) if sampled)
        if targets and targets[0] == 0:
            raise ConfigError(
                f"episode {sample.episode.episode_id}: a segment starts with a sampled token, so there is no context "
                "that predicts it"
            )
        used = [rounds[segment.rounds[i]].temperature for i in targets]
        temperatures = tuple(self.temperature if t is None else t for t in used)
        return TokenSequence(tuple(segment.tokens), targets, temperatures)

    @contextmanager
    def remembering(self, episodes: Sequence[Episode]) -> Iterator[None]:
        """See `Policy`: keys and values up to the last act of each episode are computed once."""
        prompts = []
        for segment in (segment for episode in episodes for segment in episode.segments):
            end = max((i for i, sampled in enumerate(segment.mask, 1) if not sampled), default=0)
            prompts.append(segment.tokens[:end])
        self.engine.remember(prompts)
        try:
            yield
        finally:
            self.engine.forget()

    def probe_answers(self, probes: Sequence[AnswerProbe], evaluate: Evaluate) -> ProbedAnswers:
        """See `AnswerProber`: the answer is read behind the recorded context of its round, which is computed once for all
        probes with a common beginning."""
        written: dict[tuple[str, str], tuple[list[int], int, int]] = {}
        samples: list[Sample] = []
        owners: list[int] = []
        for index, probe in enumerate(probes):
            context = _context(probe.episode, probe.round_index)
            key = probe.answers[0], probe.thought
            if key not in written:
                written[key] = self._written_answer(*key)
            tokens, start, end = written[key]
            if context and len(context) + len(tokens) <= self.engine.max_context:
                first = start if probe.forced else 0
                mask = [0] * (len(context) + first) + [1] * (end - first) + [0] * (len(tokens) - end)
                length = len(mask)
                segment = Segment([*context, *tokens], mask, [0.0] * length, [probe.round_index] * length)
                samples.append(Sample(probe.episode, segment))
                owners += [index] * (end - first)
        values_N2 = evaluate(samples).double().numpy() if samples else np.zeros((0, 2))
        return ProbedAnswers(
            values_N2[:, 0],
            values_N2[:, 1],
            np.array(owners, dtype=np.int64),
            sum(len(sample.segment.tokens) for sample in samples),
        )

    def _written_answer(self, answer: str, thought: str) -> tuple[list[int], int, int]:
        """The ids of the act that gives an answer, and where the answer's own ids begin and end in them."""
        dialect = self.agent_context.dialect
        act = dialect.write(Act("answer", answer=answer))
        opening, _, closing = dialect.write(Act("answer", answer="ANSWER")).partition("ANSWER")
        ids = self._act_ids(dialect.write(Act("answer", answer=answer), thought))
        # Thoughts may be written in another way than the dialect's, but they stand before the act.
        begin = self._act_text(ids).rfind(act)
        if begin < 0:
            raise ConfigError(
                f"agent {self.name!r} cannot write the answer {answer!r}, so it cannot be probed"
            )
        begin, until = begin + len(opening), begin + len(act) - len(closing)
        ends = [len(self._act_text(ids[:count])) for count in range(1, len(ids) + 1)]
        start = next(i for i, end in enumerate(ends) if end > begin)
        return ids, start, next(i for i, end in enumerate(ends) if end >= until) + 1

    def _act_ids(self, text: str) -> list[int]:
        """The ids that this agent would have sampled for a message."""
        raise NotImplementedError

    def _act_text(self, ids: Sequence[int]) -> str:
        """The message that sampled ids stand for."""
        raise NotImplementedError

    def cost(self, sample: Sample) -> int:
        """See `Policy`: tokens after the last sampled one are not computed."""
        mask = sample.segment.mask
        return max((i for i in range(len(mask) - 1, 0, -1) if mask[i]), default=0)

    def micro_batches(self, samples: Sequence[Sample], budget: int) -> list[list[int]]:
        """See `Policy`. Samples with a common beginning stay together, and the shared tokens count once."""
        paths = [tuple(sample.segment.tokens[: self.cost(sample)]) for sample in samples]
        if 0 < sum(map(len, paths)) <= budget:
            return [list(range(len(paths)))]
        return split_by_budget(paths, budget)

    def _recorded_context(self, prefix: Episode, fork_round: int) -> list[int]:
        """The context after the first rounds of an episode, which ends with the act of the last of them.

        Raises:
            ConfigError: the episode does not hold this agent's tokens of these rounds.
        """
        segments = segments_before(prefix.segments, fork_round)
        acted = {r for s in segments for r, sampled in zip(s.rounds, s.mask, strict=True) if sampled}
        if (
            len(acted) < fork_round or self.name not in prefix.agent
        ):  # a planner's name contains those of its parts
            raise ConfigError(
                f"agent {self.name!r} continues an episode from the tokens it sampled, and episode "
                f"{prefix.episode_id!r} of agent {prefix.agent!r} does not have them: give an episode that this agent "
                "played"
            )
        return segments[-1].tokens

    def _sampling(self) -> Sampling:
        return Sampling(self.generator, self.temperature, self.top_p, self.greedy, self.rng_streams)


def _context(episode: Episode, round_index: int) -> list[int]:
    """All ids before the first one that was sampled in a round; empty if there is none."""
    for segment in episode.segments:
        for at, (round_, sampled) in enumerate(zip(segment.rounds, segment.mask, strict=True)):
            if sampled and round_ == round_index:
                return segment.tokens[:at]
    return []
