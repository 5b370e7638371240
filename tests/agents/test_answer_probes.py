"""Probes of answers: what the policy would say, read off without changing the episode."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import WORLD, save_family
from torch import Tensor

from searchgym.agents.answer_probes import AnswerProbe, AnswerProber
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.lm.token_policy import TokenPolicy
from searchgym.agents.policy import Sample
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.records.episode import Episode, Segment
from searchgym.rollouts.collection import rollout
from searchgym.scoring import exact_match


def evaluator(policy: TokenPolicy):
    def evaluate(samples) -> Tensor:
        with torch.no_grad():
            outputs = policy.evaluate_tokens(samples)
        return torch.stack([outputs.logprobs_N, outputs.entropy_N], 1)

    return evaluate


def probes_of(episode: Episode, answers: tuple[str, ...], **more) -> list[AnswerProbe]:
    return [AnswerProbe(episode, t, answers, **more) for t in range(len(episode.rounds))]


def test_the_candidate_policy_sums_its_acts_exactly() -> None:
    policy = CandidateAgent(init_std=1.0, seed=3)
    (episode,) = rollout("SearchQA-Terse-v0", policy, 1, seed=5, corpus=WORLD, max_rounds=3)
    states = [policy.start_state(episode.question, 0)]
    for done in episode.rounds[:-1]:
        states.append(policy.next_state(states[-1], done.action, done.observation))
    acts, logprobs = policy.act_logprobs(states)
    gold = (acts[-1][-1].answer,)  # the last phrase of the newest result
    for forced in (True, False):
        said = policy.probe_answers(probes_of(episode, gold, forced=forced), lambda samples: 1 / 0)
        assert said.probe_N.tolist() == list(range(len(states)))
        assert said.tokens == len(states)
        for t, listed in enumerate(acts):
            probs = logprobs[t].exp().tolist()
            right = sum(p for a, p in zip(listed, probs, strict=False) if exact_match(a.answer, gold))
            answering = sum(p for a, p in zip(listed, probs, strict=False) if a.kind == "answer")
            wanted = right / answering if forced else right
            assert np.exp(said.logprobs_N[t]) == pytest.approx(wanted, rel=1e-5, abs=1e-12)
    assert np.isfinite(said.logprobs_N[-1])
    # Of a forced answer, the entropy is that of distinct answers.
    merged: dict[str, float] = {}
    for a, p in zip(acts[-1], logprobs[-1].exp().tolist(), strict=False):
        if a.kind == "answer":
            merged[a.answer] = merged.get(a.answer, 0.0) + p
    shares = [p / sum(merged.values()) for p in merged.values()]
    entropy = -sum(p * math.log(p) for p in shares)
    forced_said = policy.probe_answers(probes_of(episode, gold), lambda samples: 1 / 0)
    assert forced_said.entropy_N[-1] == pytest.approx(entropy, rel=1e-5)


def test_an_answer_that_is_no_candidate_has_probability_zero() -> None:
    policy = CandidateAgent()
    (episode,) = rollout("SearchQA-Terse-v0", policy, 1, seed=5, corpus=WORLD, max_rounds=2)
    said = policy.probe_answers(probes_of(episode, ("nowhere to be found",)), lambda samples: 1 / 0)
    assert (said.logprobs_N == -np.inf).all()


@pytest.mark.parametrize("kind", ["tiny", "tiny with history", "hf"])
def test_a_language_model_reads_the_answer_behind_the_recorded_context(kind: str, tmp_path: Path) -> None:
    policy: TokenPolicy
    if kind == "hf":
        policy = HFAgent(save_family(tmp_path), max_new_tokens=16)
    else:
        policy = TinyAgent(history=1 if kind.endswith("history") else None)
    assert isinstance(policy, AnswerProber)
    episodes = rollout("SearchQA-Terse-v0", policy, 3, seed=2, corpus=WORLD, max_rounds=3)
    episode = max(episodes, key=lambda e: len(e.rounds))
    before, generator = copy.deepcopy(episode), policy.generator.get_state()
    answer = "Mira Voss"
    said = policy.probe_answers(probes_of(episode, (answer, "another")), evaluator(policy))
    free = policy.probe_answers(probes_of(episode, (answer,), forced=False), evaluator(policy))
    assert episode == before
    assert torch.equal(generator, policy.generator.get_state())
    message = policy.agent_context.dialect.write(policy.agent_context.dialect.parse(
        f"<answer> {answer} </answer>", feedback=False, max_queries=1
    ))  # fmt: skip
    act = policy._act_ids(message)
    assert said.tokens == free.tokens
    for t in range(len(episode.rounds)):
        segment = next(s for s in episode.segments if t in s.rounds)
        first = next(i for i, m in enumerate(segment.mask) if m and segment.rounds[i] == t)
        whole = Segment([*segment.tokens[:first], *act], [0] * first + [1] * len(act), rounds=[t] * 999)
        whole.rounds = whole.rounds[: len(whole.tokens)]
        with torch.no_grad():
            outputs = policy.evaluate_tokens([Sample(episode, whole)])
        ours = said.logprobs_N[said.probe_N == t]
        ends = [len(policy._act_text(act[:i])) for i in range(len(act) + 1)]
        start = policy._act_text(act).index(answer)
        inside = [i for i in range(len(act)) if ends[i + 1] > start and ends[i] < start + len(answer)]
        np.testing.assert_allclose(ours, outputs.logprobs_N[inside].numpy(), rtol=1e-4, atol=1e-5)
        every = free.logprobs_N[free.probe_N == t]
        assert 0 < len(ours) < len(every)
        np.testing.assert_allclose(every, outputs.logprobs_N[: len(every)].numpy(), rtol=1e-4, atol=1e-5)


def test_a_thought_stands_before_the_forced_answer_and_is_not_counted() -> None:
    policy = TinyAgent()
    (episode,) = rollout("SearchQA-Terse-v0", policy, 1, seed=2, corpus=WORLD)
    plain = policy.probe_answers(probes_of(episode, ("Mira Voss",)), evaluator(policy))
    thought = policy.probe_answers(
        probes_of(episode, ("Mira Voss",), thought="1 mayor Mira Voss"), evaluator(policy)
    )
    assert plain.probe_N.tolist() == thought.probe_N.tolist()
    assert thought.tokens > plain.tokens
    assert thought.logprobs_N.sum() > plain.logprobs_N.sum()  # it was taught to answer what its thought says


def test_rounds_without_tokens_and_answers_without_room_are_left_out() -> None:
    policy = TinyAgent()
    (episode,) = rollout("SearchQA-Terse-v0", policy, 1, seed=2, corpus=WORLD)
    policy.engine.max_context = 40
    long = policy.probe_answers(probes_of(episode, ("Mira " * 40,)), evaluator(policy))
    assert len(long.probe_N) == 0
    policy.engine.max_context = 512
    short = copy.deepcopy(episode)
    short.segments[0].mask = [
        m if r else 0 for m, r in zip(short.segments[0].mask, short.segments[0].rounds, strict=True)
    ]
    said = policy.probe_answers(probes_of(short, ("Mira",)), evaluator(policy))
    assert 0 not in said.probe_N
    assert 1 in said.probe_N
