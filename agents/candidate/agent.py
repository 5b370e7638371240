"""A policy that trains in seconds: a softmax over candidate acts built from the observation texts.

    π(c | s) = softmax_c( w_kind(c) · φ(phrase(c), s) / temperature )

with φ the 0/1 features of `features.py` and one weight vector per kind of act: search, answer and, where the
environment offers it, feedback. The weights start at zero, so the untrained policy is uniform over the candidates. A
round is one token: the index of the candidate. The model is so small that a training run takes seconds, which allows
statistics over many seeds, lectures and tests of credit functions. Every trainer runs on it unchanged.

Feedback has weights of its own. Where it is not offered they are not used and get no gradient, so such a run is the same,
bit for bit, as if the feedback act did not exist.

The shipped demonstration is `SearchQA-Terse-v0` with chains of 1-3 hops; see docs/agents/candidate.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from searchgym.agent import Turn, played_act
from searchgym.dialects import Act
from searchgym.errors import CheckpointError, ConfigError
from searchgym.files import check_files, forget_checksums, policy_directory, read_bytes, read_json
from searchgym.options import choice
from searchgym.records.episode import Episode, Segment

from ..answer_probes import AnswerProbe, Evaluate, ProbedAnswers
from ..policy import Policy, Sample, TokenOutputs
from .features import (
    FEATURES,
    FEEDBACK_FEATURES,
    KINDS,
    MEMORY_FEATURES,
    WIDTH,
    CandidateSet,
    add_feedback,
    count_relations,
    list_candidates,
)
from .probing import answer_logprob
from .starts import STARTS

__all__ = ["CandidateAgent"]

CONFIG_FILE = "candidate.json"
WEIGHTS_FILE = "candidate.safetensors"


@dataclass(slots=True)
class _State:
    """The texts of an episode so far, which are all that the policy acts on.

    Attributes:
        question: the first observation.
        calls: feedback acts that the environment allows.
        queries: the queries searched so far.
        observations: what the searches returned.
        feedback_history: the drafts submitted for feedback, each with the text that came back.
    """

    question: str
    calls: int
    queries: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    feedback_history: tuple[tuple[str, str], ...] = ()

    def after(self, action: Act, observation: str) -> _State:
        if action.kind == "feedback":
            return replace(self, feedback_history=(*self.feedback_history, (action.draft, observation)))
        queries, observations = (*self.queries, *action.queries), (*self.observations, observation)
        return _State(self.question, self.calls, queries, observations, self.feedback_history)

    def candidates(self) -> CandidateSet:
        texts = self.question, self.queries, self.observations
        if not self.calls:
            return list_candidates(*texts)
        return add_feedback(*texts, self.feedback_history, len(self.feedback_history) < self.calls)


class _Scores(nn.Linear):
    """A score per phrase and kind of act; the parameter names are those of saved weights.

    Attributes:
        weight: weights of search and answer, [2, F].
        ask: weights of the feedback act, [1, F].
        told: weights of the feedback features for each of the three kinds, [3, F'].
    """

    def __init__(self) -> None:
        super().__init__(WIDTH, 2, bias=False)
        self.ask = nn.Parameter(torch.zeros(1, WIDTH))
        self.told = nn.Parameter(torch.zeros(3, len(FEEDBACK_FEATURES)))

    def with_feedback(self, rows_PF: Tensor, feedback_features_PF: Tensor) -> Tensor:
        scores_PK = torch.cat([self(rows_PF), rows_PF @ self.ask.T], dim=1)
        return scores_PK + feedback_features_PF @ self.told.T


class CandidateAgent(Policy):
    """A linear softmax over at least 20 candidate acts per round.

    Args:
        seed: seed of the sampling generator.
        init_std: standard deviation of random initial weights; 0: all are zero. The weights of feedback always start
            at zero.
        memory: whether the features may tell what happened before the newest result ("searched before", "stands in
            an earlier result too"). Without them the policy depends on its last search and the number of searches
            alone, so few states differ and long episodes can be enumerated exactly.
        checkpoint: a directory written by `save`, a training run or one of its checkpoints, whose weights are loaded.
        start: a name of `starts.STARTS`: weights to which the random ones are added. "uniform": zero; "lookup": looks
            names up and answers a number that follows a relation of the question.

    Raises:
        ConfigError: `init_std` is negative, or an unknown start.
        CheckpointError: the checkpoint is missing, damaged or of other features.
    """

    name = "candidate"
    module: _Scores

    def __init__(
        self,
        seed: int = 0,
        init_std: float = 0.0,
        memory: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
        start: str = "uniform",
    ) -> None:
        if not init_std >= 0.0:
            raise ConfigError(f"init_std is {init_std!r}: give 0 or a positive number")
        initial = STARTS[choice("start", start, tuple(STARTS))]
        self.memory = memory
        self.generator = torch.Generator().manual_seed(seed)
        self.module = _Scores()
        with torch.no_grad():
            self.module.weight.copy_(torch.randn(2, WIDTH, generator=self.generator) * init_std)
            for row, kind in zip(self.module.weight, KINDS[:2], strict=True):
                for name, weight in initial[kind].items():
                    row[FEATURES.index(name)] += weight
        self._states: dict[int, _State] = {}
        if checkpoint is not None:
            self.load_weights(policy_directory(checkpoint))

    # -- playing -----------------------------------------------------------------------------------------------

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._states.pop(slot, None)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`."""
        state = self._states.get(source)
        for target in targets:
            self._states.pop(target, None)
            if state is not None:
                self._states[target] = state
        if state is not None:
            self._fork_streams(source, targets)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`. The texts of the rounds are sufficient, so the episode may be another agent's."""
        state = _start(prefix)
        for done in prefix.rounds[: fork_round - 1]:
            state = state.after(done.action, done.observation)
        self._states[slot] = state

    @torch.no_grad()
    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        for index, (slot, observation) in enumerate(zip(slots, observations, strict=True)):
            state = self._states.get(slot)
            if state is None:
                self._states[slot] = _State(observation, self.agent_context.feedback_calls)
            else:
                self._states[slot] = state.after(played_act(infos, index), observation)
        candidate_sets = [self._states[slot].candidates() for slot in slots]
        logprobs_BC = self._logprobs(candidate_sets)
        if self.greedy:
            chosen_B = logprobs_BC.argmax(dim=1)
        else:
            chosen_B = self._draw(slots, _nucleus(logprobs_BC.exp(), self.top_p))
        taken_B = logprobs_BC.gather(1, chosen_B[:, None])[:, 0].tolist()
        turns: list[str | Turn] = []
        for candidates, index, logprob in zip(candidate_sets, chosen_B.tolist(), taken_B, strict=True):
            turns.append(
                Turn(
                    self.agent_context.dialect.write(candidates.act(index)),
                    token_ids=[index],
                    logprobs=[logprob],
                    policy_version=self.version,
                    temperature=self.temperature,
                    top_p=self.top_p,
                )
            )
        return turns

    def _draw(self, slots: Sequence[int], probs_BC: Tensor) -> Tensor:
        if self.rng_streams is None:
            return torch.multinomial(probs_BC, 1, generator=self.generator)[:, 0]
        cumulative_BC = probs_BC.double().cumsum(dim=1)
        uniform_B1 = torch.from_numpy(self.rng_streams.uniform(slots, 1)).double()
        return torch.searchsorted(cumulative_BC, uniform_B1 * cumulative_BC[:, -1:], right=True)[:, 0]

    # -- enumeration: `agents.enumerable.EnumerablePolicy` -------------------------------------------------------

    def start_state(self, question: str, feedback_calls: int) -> _State:
        """See `EnumerablePolicy`."""
        return _State(question, feedback_calls)

    def next_state(self, state: _State, action: Act, observation: str) -> _State:
        """See `EnumerablePolicy`."""
        if self.memory or action.kind == "feedback":
            return state.after(action, observation)
        # Without memory only the number of older searches matters, and only up to that of the relations: all later searches
        # are equally late. Equal states then share their cached candidates.
        older = ("",) * min(len(state.queries), count_relations(state.question))
        queries, observations = (*older, *action.queries), (*older, observation)
        return _State(state.question, state.calls, queries, observations, state.feedback_history)

    def state_key(self, state: _State) -> Hashable:
        """See `EnumerablePolicy`."""
        newest = (state.queries[-1:], state.observations[-1:], len(state.queries))
        past = frozenset(zip(state.queries, state.observations, strict=True)) if self.memory else None
        return state.question, state.calls, newest, past, state.feedback_history

    def act_logprobs(self, states: Sequence[_State]) -> tuple[list[tuple[Act, ...]], Tensor]:
        """See `EnumerablePolicy`."""
        candidate_sets = [state.candidates() for state in states]
        distinct = {id(candidates): candidates for candidates in candidate_sets}
        acts = {key: _acts(candidates.phrases, candidates.kinds) for key, candidates in distinct.items()}
        row = {key: i for i, key in enumerate(distinct)}
        logprobs_DC = self._logprobs(list(distinct.values()))
        keys = [id(candidates) for candidates in candidate_sets]
        return [acts[key] for key in keys], logprobs_DC[[row[key] for key in keys]]

    # -- training ----------------------------------------------------------------------------------------------

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        """See `Policy`. The candidates are rebuilt from the texts of the episode.

        `hidden_N` holds, per feature, the mean over the round's phrases and their largest value: [N, 2 F].
        """
        candidate_sets: list[CandidateSet] = []
        indices: list[int] = []
        for sample in samples:
            states = _visited(sample.episode)
            segment = sample.segment
            for token, sampled, round_index in zip(segment.tokens, segment.mask, segment.rounds, strict=True):
                if sampled:
                    candidate_sets.append(states[round_index].candidates())
                    indices.append(token)
        if not candidate_sets:
            empty = torch.zeros(0)
            return TokenOutputs(empty, empty, torch.zeros(0, 2 * WIDTH))
        logprobs_NC = self._logprobs(candidate_sets)
        taken_N = logprobs_NC.gather(1, torch.tensor(indices)[:, None])[:, 0]
        # exp(-inf) * -inf is NaN: padding has probability 0 and contributes nothing.
        finite_NC = logprobs_NC.masked_fill(logprobs_NC == -torch.inf, 0.0)
        entropy_N = -(logprobs_NC.exp() * finite_NC).sum(dim=1)
        return TokenOutputs(taken_N, entropy_N, partial(self._hidden, candidate_sets))

    @torch.no_grad()
    def probe_answers(self, probes: Sequence[AnswerProbe], evaluate: Evaluate) -> ProbedAnswers:
        """See `AnswerProber`: exact sums over the acts that answer, so `evaluate` is not needed."""
        states: dict[int, list[_State]] = {}
        for episode in {id(probe.episode): probe.episode for probe in probes}.values():
            states[id(episode)] = _visited(episode)
        asked = [(states[id(p.episode)][p.round_index].candidates(), p.answers, p.forced) for p in probes]
        distinct = {(id(c), answers, forced): i for i, (c, answers, forced) in enumerate(asked)}
        sets = [asked[i][0] for i in distinct.values()]
        probs_DC = self._logprobs(sets).double().exp().numpy() if sets else np.zeros((0, 0))
        said = {
            key: answer_logprob(candidates, probs_C, *key[1:])
            for key, candidates, probs_C in zip(distinct, sets, probs_DC, strict=True)
        }
        both_P2 = np.array([said[id(c), answers, forced] for c, answers, forced in asked]).reshape(-1, 2)
        return ProbedAnswers(both_P2[:, 0], both_P2[:, 1], np.arange(len(probes)), len(probes))

    def encode(self, episode: Episode) -> list[Segment]:
        """See `Policy`. A phrase that occurs in several places is encoded as its first occurrence."""
        segment, state = Segment(), _start(episode)
        for index, round_ in enumerate(episode.rounds):
            candidates, action = state.candidates(), round_.action
            kind = action.kind
            phrases = {"answer": [action.answer], "feedback": [action.draft]}.get(kind, list(action.queries))
            if kind in KINDS[: candidates.kinds] and len(phrases) == 1 and phrases[0] in candidates.phrases:
                segment.tokens.append(
                    candidates.phrases.index(phrases[0]) + KINDS.index(kind) * len(candidates.phrases)
                )
                segment.mask.append(1)
                segment.logprobs.append(0.0)
                segment.rounds.append(index)
            state = state.after(action, round_.observation)
        return [segment]

    def _logprobs(self, candidate_sets: Sequence[CandidateSet]) -> Tensor:
        """Log-probabilities [B, C], padded with -inf; column c is candidate c."""
        counts_B = np.array([len(candidates.phrases) for candidates in candidate_sets])
        kinds_B = np.array([candidates.kinds for candidates in candidate_sets])
        rows_PF = torch.from_numpy(self._rows(candidate_sets).astype(np.float32))
        scores_PK = self._scores(candidate_sets, rows_PF) / self.temperature
        kinds = scores_PK.shape[1]
        # The columns of a set are its phrases for search, then its phrases for answer, and so on.
        width = int((kinds_B * counts_B).max())
        starts_B = np.cumsum(counts_B) - counts_B
        first_P = np.repeat(np.arange(len(counts_B)) * width - starts_B, counts_B) + np.arange(len(rows_PF))
        place_PK = first_P[:, None] + np.repeat(counts_B, counts_B)[:, None] * np.arange(kinds)
        place, scores = torch.from_numpy(place_PK).flatten(), scores_PK.flatten()
        if kinds_B.min() < kinds:  # acts that some of the sets do not have
            offered = torch.from_numpy((np.arange(kinds) < np.repeat(kinds_B, counts_B)[:, None]).ravel())
            place, scores = place[offered], scores[offered]
        padded = torch.full((len(counts_B) * width,), -torch.inf)
        return torch.log_softmax(padded.index_copy(0, place, scores).view(-1, width), dim=1)

    def _hidden(self, candidate_sets: Sequence[CandidateSet]) -> Tensor:
        """Hidden states, [B, 2 F]; see `evaluate_tokens`."""
        counts_B = np.array([len(candidates.phrases) for candidates in candidate_sets])
        rows_PF, starts_B = self._rows(candidate_sets), np.cumsum(counts_B) - counts_B
        means_BF = np.add.reduceat(rows_PF, starts_B, axis=0, dtype=np.float32) / counts_B[:, None]
        peaks_BF = np.maximum.reduceat(rows_PF, starts_B, axis=0)
        return torch.from_numpy(np.concatenate([means_BF, peaks_BF], axis=1).astype(np.float32))

    def _rows(self, candidate_sets: Sequence[CandidateSet]) -> NDArray[np.uint8]:
        """The features of all phrases, set by set, [P, F]."""
        rows_PF = np.concatenate([candidates.rows_PF for candidates in candidate_sets])
        if not self.memory:
            rows_PF[:, MEMORY_FEATURES] = 0
        return rows_PF

    def _scores(self, candidate_sets: Sequence[CandidateSet], rows_PF: Tensor) -> Tensor:
        """Scores of each phrase for search and answer, [P, 2], or for feedback too where it is offered, [P, 3]."""
        if all(candidates.feedback_features_PF is None for candidates in candidate_sets):
            scores_PK: Tensor = self.module(rows_PF)
            return scores_PK
        nothing = np.zeros((len(rows_PF), len(FEEDBACK_FEATURES)), dtype=np.uint8)
        feedback_features_PF = np.concatenate(
            [
                nothing[: len(c.phrases)] if c.feedback_features_PF is None else c.feedback_features_PF
                for c in candidate_sets
            ]
        )
        return self.module.with_feedback(rows_PF, torch.from_numpy(feedback_features_PF.astype(np.float32)))

    # -- files -------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """See `Policy`. The features are part of it: weights fit only the features they were trained on."""
        return {
            "architecture": "candidate-softmax",
            "features": list(FEATURES),
            "feedback_features": list(FEEDBACK_FEATURES),
            "weights": sum(parameter.numel() for parameter in self.module.parameters()),
            **({} if self.memory else {"memory": False}),
        }

    def save(self, directory: Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        forget_checksums(directory)
        (directory / CONFIG_FILE).write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
        (directory / WEIGHTS_FILE).write_bytes(save_tensors(self.module.state_dict()))

    def load_weights(self, directory: Path) -> None:
        directory = Path(directory)
        if directory.is_dir():
            check_files(directory)
        try:
            described = read_json(directory / CONFIG_FILE)
            weights = load_tensors(read_bytes(directory / WEIGHTS_FILE))
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{directory} does not hold weights of the candidate agent: {error}"
            ) from error
        shapes = {name: value.shape for name, value in self.module.state_dict().items()}
        if described != self.describe() or {n: v.shape for n, v in weights.items()} != shapes:
            raise CheckpointError(
                f"{directory} holds weights for other features than this version of the candidate agent has: train it again"
            )
        if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
            raise CheckpointError(
                f"{directory / WEIGHTS_FILE} holds weights that are not finite: train it again"
            )
        self.module.load_state_dict(weights)


@lru_cache(maxsize=1 << 14)
def _acts(phrases: tuple[str, ...], kinds: int) -> tuple[Act, ...]:
    """The act of every candidate."""
    candidates = CandidateSet(phrases, np.zeros((len(phrases), 0), dtype=np.uint8), kinds=kinds)
    return tuple(candidates.act(index) for index in range(len(candidates)))


def _start(episode: Episode) -> _State:
    return _State(episode.question, episode.env.get("feedback_calls", 0))


def _visited(episode: Episode) -> list[_State]:
    """The states in which the acts of an episode were chosen."""
    states = [_start(episode)]
    for done in episode.rounds[:-1]:
        states.append(states[-1].after(done.action, done.observation))
    return states


def _nucleus(probs_BC: Tensor, top_p: float) -> Tensor:
    """Keep the most likely candidates up to a total probability of `top_p`, at least one."""
    if top_p >= 1.0:
        return probs_BC
    sorted_BC, order_BC = probs_BC.sort(dim=1, descending=True)
    dropped_BC = sorted_BC.cumsum(dim=1) - sorted_BC >= top_p
    return torch.zeros_like(probs_BC).scatter(1, order_BC, sorted_BC.masked_fill(dropped_BC, 0.0))
