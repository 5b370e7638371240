"""Enumeration on arrays against a plain recursion, and graphs that are shared by policies of the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from searchgym.agents.candidate import CandidateAgent
from searchgym.agents.candidate.features import FEATURES
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import agent_context_of, collect
from searchgym.trainers.credit_audit.exact import ExactValues
from searchgym.trainers.credit_audit.graph import StateGraphs, shared_graphs


@pytest.fixture(scope="module")
def envs() -> SearchVectorEnv:
    corpus = {"name": "forks", "family": "idle", "idle": 1, "wrong": 1, "train": 2, "dev": 0, "test": 0}
    return make_vec("SearchQA-Forks-v0", 64, corpus=corpus, max_rounds=3)


def some_policy(envs: SearchVectorEnv, seed: int) -> CandidateAgent:
    policy = CandidateAgent(seed=seed, init_std=0.7, memory=False, start="lookup")
    policy.bind(agent_context_of(envs.config))
    return policy


def recursive_value(
    policy: CandidateAgent,
    envs: SearchVectorEnv,
    state: Any,
    snapshot: Any,
    visits: list[tuple[int, float, float]],
) -> float:
    """V of a state by playing every act and those after it, without merging any states; notes (round, V, probabilities)."""
    acts, logprobs = policy.act_logprobs([state])
    probs = np.exp(logprobs[0].double().detach().numpy())
    values: dict[str, float] = {}
    for act in acts[0]:
        message = envs.config.dialect.write(act)
        if message in values:
            continue
        envs.restore(0, snapshot)
        record = envs.play({0: message})[0]
        values[message] = record.reward
        if record.outcome is None:
            after = policy.next_state(state, act, record.observation)
            values[message] += recursive_value(policy, envs, after, envs.snapshot(0), visits)
    q = np.array([values[envs.config.dialect.write(act)] for act in acts[0]])
    value = float(probs @ q / probs.sum())
    visits.append((snapshot["round"], value, float(np.sum(probs / probs.sum() * (q - value) ** 2))))
    return value


def test_arrays_give_what_a_plain_recursion_gives(envs: SearchVectorEnv) -> None:
    policy = some_policy(envs, 3)
    task = envs.task_ids()[0]
    exact = ExactValues(policy, envs)
    exact.solve([task])
    start = envs.start({0: task})[0]
    visits: list[tuple[int, float, float]] = []
    value = recursive_value(policy, envs, policy.start_state(start.observation, 0), envs.snapshot(0), visits)
    assert exact.value(task) == pytest.approx(
        value, abs=1e-6
    )  # single precision of single states and of batches
    spread = [float(d.probs_C @ (d.q_C - d.value) ** 2) for d in exact.decisions()]
    found = np.array([(d.round, d.value, s) for d, s in zip(exact.decisions(), spread, strict=True)])
    wanted = np.array([(n + 1, v, s) for n, v, s in visits])
    assert set(found[:, 0]) == {1, 2, 3}
    distance = np.abs(found[:, None] - wanted).max(axis=2)
    assert distance.min(axis=0).max() < 1e-6, "a state of the recursion is missing"
    assert distance.min(axis=1).max() < 1e-6, "an enumerated state does not occur"


def test_a_graph_serves_later_weights(envs: SearchVectorEnv) -> None:
    graphs = StateGraphs(envs, keep=True)
    tasks = envs.task_ids()
    first = ExactValues(some_policy(envs, 0), envs, graphs=graphs)
    first.solve(tasks)
    assert first.transitions > 0
    again, fresh = some_policy(envs, 1), some_policy(envs, 1)
    reused, alone = ExactValues(again, envs, graphs=graphs), ExactValues(fresh, envs)
    for order in (tasks, tasks[::-1], tasks[:1]):
        reused.solve(order)
        alone.solve(order)
        assert reused.transitions == 0
        assert reused.states == alone.states
        assert [reused.value(t) for t in order] == pytest.approx([alone.value(t) for t in order], abs=1e-12)
        assert torch.allclose(reused.policy_gradient(), alone.policy_gradient(), atol=1e-7)
    assert first.value(tasks[0]) != pytest.approx(reused.value(tasks[0]), abs=1e-6)


def test_graphs_are_shared_only_where_questions_and_policies_agree(envs: SearchVectorEnv) -> None:
    policy = some_policy(envs, 0)
    assert shared_graphs(policy, envs.config) is shared_graphs(some_policy(envs, 9), envs.config)
    assert shared_graphs(CandidateAgent(memory=True), envs.config) is not shared_graphs(policy, envs.config)
    corpus = {"name": "forks", "family": "idle", "idle": 2, "train": 2, "dev": 0, "test": 0}
    other = make_vec("SearchQA-Forks-v0", 1, corpus=corpus, max_rounds=3)
    assert shared_graphs(policy, other.config) is not shared_graphs(policy, envs.config)


def test_late_rounds_of_a_policy_without_memory_have_the_probabilities_it_played_with() -> None:
    """Enumeration counts searches only up to the number of relations."""
    corpus = {"name": "forks", "family": "idle", "train": 1, "dev": 0, "test": 0}
    envs = make_vec("SearchQA-Forks-v0", 32, corpus=corpus)
    policy = some_policy(envs, 5)
    policy.module.weight.data[1, FEATURES.index("any")] -= 3.0  # answers late
    longest = 0
    for episode in collect(envs, policy, envs.task_ids() * 32):
        (segment,) = episode.segments
        state = policy.start_state(episode.question, 0)
        for token, logprob, record in zip(segment.tokens, segment.logprobs, episode.rounds, strict=True):
            logprobs = policy.act_logprobs([state])[1].detach()
            assert float(logprobs[0, token]) == pytest.approx(logprob, abs=1e-5)
            state = policy.next_state(state, record.action, record.observation)
        longest = max(longest, len(episode.rounds))
    assert longest > 8


def test_more_states_than_allowed_are_refused_with_an_estimate(envs: SearchVectorEnv) -> None:
    policy = some_policy(envs, 0)
    one = ExactValues(policy, envs)
    one.solve(envs.task_ids()[:1])
    few = ExactValues(policy, envs, max_states=one.states + 1)
    with pytest.raises(ConfigError, match=r"after 1 questions .* about .* in all, and max_states is"):
        few.solve(envs.task_ids())
