"""The credit audit against values computed by hand, by enumeration, and by playing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from searchgym.agents.candidate import CandidateAgent
from searchgym.agents.candidate.features import FEATURES
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError
from searchgym.rollouts.collection import agent_context_of, collect
from searchgym.trainers.algorithms.capf import CAPF
from searchgym.trainers.algorithms.cw_grpo import CWGRPO
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.credit_audit.auditing import AuditSettings, audit_credit
from searchgym.trainers.credit_audit.exact import ExactValues
from searchgym.trainers.credit_audit.gradients import gradient_scores, score_vectors
from searchgym.trainers.credit_audit.scores import (
    Rounds,
    credit_scores,
    gather_rounds,
    rank_correlation,
    score_intervals,
)
from searchgym.trainers.credit_audit.trainer_credit import trainer_credit
from searchgym.trainers.credit_audit.truth import TrueCredit
from searchgym.trainers.training import train

COLUMN = {name: i for i, name in enumerate(FEATURES)}
ARGUMENTS: dict[str, Any] = {"types": ["chain"], "hops": [1], "max_rounds": 3, "judge": "oracle"}


def lookup_agent(memory: bool = False) -> CandidateAgent:
    """A policy that looks the question's name up and answers what follows a relation, some of the time."""
    agent = CandidateAgent(memory=memory)
    weight = agent.module.weight.data
    weight[0, COLUMN["first name in the question"]] = 3.0
    weight[1, COLUMN["after a relation of the question"]] = 3.0
    weight[1, COLUMN["no search yet"]] = -3.0
    return agent


@pytest.fixture(scope="module")
def envs() -> SearchVectorEnv:
    return make_vec("SearchQA-Terse-v0", 64, autoreset_mode="Disabled", **ARGUMENTS)


@pytest.fixture(scope="module")
def plain(envs: SearchVectorEnv) -> SearchVectorEnv:
    return SearchVectorEnv.from_config(replace(envs.config, judge=None, judge_spec=None), 64)


@pytest.fixture(scope="module")
def solved(plain: SearchVectorEnv) -> tuple[CandidateAgent, ExactValues, list[Any]]:
    agent = lookup_agent()
    agent.bind(agent_context_of(plain.config))
    exact = ExactValues(agent, plain)
    tasks = plain.task_ids()[:4]
    exact.solve(tasks)
    agent.generator.manual_seed(3)
    return agent, exact, collect(plain, agent, [task for task in tasks for _ in range(100)])


def test_enumerated_values_are_the_mean_of_what_is_played(solved: Any) -> None:
    _, exact, episodes = solved
    for task in dict.fromkeys(episode.task_id for episode in episodes):
        returns = [episode.reward for episode in episodes if episode.task_id == task]
        value = exact.value(task)
        assert abs(np.mean(returns) - value) < 4 * np.sqrt(value * (1 - value) / len(returns))


def test_advantages_lead_from_the_first_value_to_the_return(solved: Any) -> None:
    """Σ A + V(s_0) = return, because the environment is deterministic."""
    _, exact, episodes = solved
    for episode in episodes:
        values, advantages = exact.true_credit(episode)
        assert values[0] == exact.value(episode.task_id)
        assert advantages.sum() + values[0] == pytest.approx(episode.reward, abs=1e-12)


def test_the_mean_advantage_of_a_state_is_zero(solved: Any) -> None:
    _, exact, _ = solved
    reach: dict[int, float] = {}
    for state in exact.decisions():
        assert float(state.probs_C @ (state.q_C - state.value)) == pytest.approx(0.0, abs=1e-9)
        assert state.probs_C.sum() == pytest.approx(1.0, abs=1e-9)
        reach[state.round] = reach.get(state.round, 0.0) + state.reach
    assert reach[1] == pytest.approx(1.0)


def test_a_policy_with_memory_has_other_states_and_values_of_its_own(plain: SearchVectorEnv) -> None:
    agent = lookup_agent(memory=True)
    agent.module.weight.data[0, COLUMN["searched before"]] = -2.0
    agent.bind(agent_context_of(plain.config))
    task = plain.task_ids()[0]
    exact = ExactValues(agent, plain)
    exact.solve([task])
    forgetful = lookup_agent()
    forgetful.bind(agent_context_of(plain.config))
    other = ExactValues(forgetful, plain)
    other.solve([task])
    assert exact.states > other.states
    episodes = collect(plain, agent, [task] * 200)
    returns = [episode.reward for episode in episodes]
    assert abs(np.mean(returns) - exact.value(task)) < 4 * np.sqrt(0.25 / 200)
    for episode in episodes:
        values, advantages = exact.true_credit(episode)
        assert advantages.sum() + values[0] == pytest.approx(episode.reward, abs=1e-12)


def test_the_exact_gradient_is_that_of_the_value(plain: SearchVectorEnv) -> None:
    """Finite differences of the enumerated value."""
    agent = lookup_agent()
    agent.bind(agent_context_of(plain.config))
    tasks = plain.task_ids()[:2]
    exact = ExactValues(agent, plain)

    def objective() -> float:
        exact.solve(tasks)
        return float(np.mean([exact.value(task) for task in tasks]))

    objective()
    gradient = exact.policy_gradient()
    weight = agent.module.weight.data
    width = weight.shape[1]
    for row, name in ((0, "first name in the question"), (1, "after a relation of the question"), (1, "any")):
        column = COLUMN[name]
        values = []
        for step in (1e-2, -2e-2, 1e-2):
            weight[row, column] += step
            values.append(objective())
        slope = (values[0] - values[1]) / 2e-2
        names = [n for n, _ in agent.module.named_parameters()]
        offset = sum(
            p.numel() for n, p in agent.module.named_parameters() if names.index(n) < names.index("weight")
        )
        assert float(gradient[offset + row * width + column]) == pytest.approx(slope, abs=2e-4)


def test_what_cannot_be_enumerated_is_refused(plain: SearchVectorEnv) -> None:
    agent = lookup_agent()
    agent.bind(agent_context_of(plain.config))
    with pytest.raises(ConfigError, match="max_states is 50"):
        ExactValues(agent, plain, max_states=50).solve(plain.task_ids()[:4])
    exact = ExactValues(agent, plain)
    exact.solve(plain.task_ids()[:1])
    (episode,) = collect(plain, agent, plain.task_ids()[:1])
    episode.rounds[0].text = "<search> something else </search>"
    with pytest.raises(ConfigError, match="not played by this policy"):
        exact.true_credit(episode)


def some_rounds(count: int = 400, seed: int = 0) -> Rounds:
    generator = np.random.default_rng(seed)
    true_R = generator.normal(size=count) * (generator.random(count) < 0.7)
    return Rounds(
        true_R,
        np.abs(true_R) <= 0.01,
        np.arange(count) % 4 == 3,
        np.arange(count) // 4,
        np.arange(count // 4) // 5,
    )


def test_the_truth_scores_one_its_opposite_minus_one_and_noise_zero() -> None:
    rounds = some_rounds()
    scores = credit_scores(rounds, 3.0 * rounds.true_R)
    assert [scores[name] for name in ("sign", "pearson", "spearman", "within")] == pytest.approx([1.0] * 4)
    assert scores["slope"] == pytest.approx(1 / 3)
    assert (scores["idle share"], scores["answer bias"], scores["noise"]) == pytest.approx((0.0, 0.0, 0.0))
    opposite = credit_scores(rounds, -rounds.true_R)
    assert [opposite[name] for name in ("sign", "pearson", "spearman", "within")] == pytest.approx([-1.0] * 4)
    noise = credit_scores(rounds, np.random.default_rng(5).normal(size=400))
    assert all(abs(noise[name]) < 0.15 for name in ("sign", "pearson", "spearman", "within"))
    assert noise["idle share"] == pytest.approx(rounds.neutral_R.mean(), abs=0.08)


def test_scores_by_hand() -> None:
    """Two episodes: (search, search, answer) with A = (0.5, 0, −0.5) and (search, answer) with A = (0.2, 0.3)."""
    rounds = Rounds(
        np.array([0.5, 0.0, -0.5, 0.2, 0.3]),
        np.array([False, True, False, False, False]),
        np.array([False, False, True, False, True]),
        np.array([0, 0, 0, 1, 1]),
        np.array([0, 1]),
    )
    scores = credit_scores(rounds, np.array([1.0, 1.0, 1.0, -1.0, 2.0]))
    assert scores["sign"] == pytest.approx((1 - 1 - 1 + 1) / 4)
    assert scores["idle share"] == pytest.approx(1 / 6)
    assert scores["within"] == pytest.approx((0.0 + 1.0) / 2)  # constant credit ranks nothing
    rms_c, rms_a = np.sqrt(8 / 5), np.sqrt(0.63 / 5)
    bias = ((1 / rms_c + 0.5 / rms_a) + (2 / rms_c - 0.3 / rms_a)) / 2
    assert scores["answer bias"] == pytest.approx(bias)


def test_rank_correlation_shares_ranks() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 20.0])) == pytest.approx(
        np.corrcoef([0, 1, 2], [0, 1.5, 1.5])[0, 1]
    )
    assert rank_correlation(np.ones(4), np.arange(4.0)) == 0.0


def test_intervals_resample_questions_with_all_their_episodes() -> None:
    rounds = some_rounds()
    interval = score_intervals(
        rounds, rounds.true_R + np.random.default_rng(1).normal(size=400), ["pearson"]
    )["pearson"]
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low < 0.3
    same = score_intervals(rounds, rounds.true_R, ["sign"])["sign"]
    assert (same.low, same.value, same.high) == (1.0, 1.0, 1.0)


def test_a_round_within_its_error_is_neutral(solved: Any) -> None:
    _, _, episodes = solved
    episode = next(e for e in episodes if len(e.rounds) == 2)
    truth = TrueCredit(
        episode.episode_id, np.zeros(2), np.array([0.05, 0.3]), np.array([0.04, 0.04]), np.zeros((2, 2))
    )
    assert gather_rounds([episode], [truth]).neutral_R.tolist() == [True, False]


def test_score_vectors_are_the_gradients_of_each_round(solved: Any) -> None:
    agent, exact, episodes = solved
    some = episodes[:6]
    vectors = score_vectors(agent, some)
    assert vectors.shape[0] == sum(len(e.rounds) for e in some)
    from searchgym.agents.policy import Sample

    logprobs = agent.evaluate_tokens([Sample(some[0], some[0].segments[0])]).logprobs_N
    gradients = torch.autograd.grad(logprobs[0], list(agent.module.parameters()), allow_unused=True)
    flat = torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(agent.module.parameters(), gradients, strict=True)
        ]
    )
    assert vectors[0] == pytest.approx(flat.numpy(), abs=1e-6)
    truth = [exact.true_credit(e)[1] for e in episodes]
    episode_R = np.repeat(np.arange(len(episodes)), [len(e.rounds) for e in episodes])
    found = gradient_scores(
        score_vectors(agent, episodes), np.concatenate(truth), episode_R, exact.policy_gradient().numpy()
    )
    assert found["cosine"] > 0.95
    reverse = gradient_scores(
        score_vectors(agent, episodes), -np.concatenate(truth), episode_R, exact.policy_gradient().numpy()
    )
    assert reverse["cosine"] == pytest.approx(-found["cosine"])


def test_trainer_credit_is_zero_where_nothing_is_learned(envs: SearchVectorEnv) -> None:
    agent = lookup_agent()
    tasks = envs.task_ids()[:6]
    played = collect(envs, agent, [task for task in tasks for _ in range(4)])
    groups = [played[i : i + 4] for i in range(0, len(played), 4)]
    given = trainer_credit(GRPO({"group_size": 4}), agent, groups, np.random.default_rng(0))
    credit_R = given.credit_R
    assert given.unit == "episode"
    assert given.pass_tokens == 0
    place = 0
    for group in groups:
        equal = len({episode.reward for episode in group}) == 1
        for episode in group:
            part = credit_R[place : place + len(episode.rounds)]
            place += len(part)
            assert (not part.any()) if equal else (np.sign(part) == np.sign(episode.reward - 0.5)).all()
    weighed = trainer_credit(CWGRPO({"group_size": 4}), agent, groups, np.random.default_rng(0))
    assert weighed.credit_R.shape == credit_R.shape
    assert weighed.unit == "round"


@pytest.mark.parametrize("method", ["exact", "monte-carlo"])
def test_the_audit_recognises_a_rule_that_is_right(envs: SearchVectorEnv, method: Any) -> None:
    agent = lookup_agent()
    before = {name: value.clone() for name, value in agent.module.state_dict().items()}
    audit = audit_credit(
        agent,
        envs.config,
        {"grpo": GRPO({"group_size": 4})},
        AuditSettings(questions=6, group_size=4, method=method, error=0.1, continuations=50, num_envs=64),
    )
    rules = {rule.label: rule for rule in audit.rules}
    assert rules["true advantage"].scores["sign"].value == pytest.approx(1.0)
    assert rules["reversed"].scores["sign"].value == pytest.approx(-1.0)
    assert rules["return − V(s)"].scores["pearson"].value > rules["grpo"].scores["pearson"].value
    assert abs(rules["random"].scores["pearson"].value) < 0.4
    assert (audit.floor["pearson"] == pytest.approx(1.0)) is (method == "exact")
    assert bool(rules["grpo"].gradient) is (method == "exact")
    assert all(torch.equal(value, before[name]) for name, value in agent.module.state_dict().items())


def test_own_episodes_that_cannot_be_enumerated_are_continued(envs: SearchVectorEnv) -> None:
    settings = AuditSettings(questions=1, group_size=4, max_states=200, error=0.25, num_envs=64)
    capf = {"capf": CAPF({"group_size": 4})}
    audit = audit_credit(lookup_agent(), envs.config, {"grpo": GRPO({"group_size": 4}), **capf}, settings)
    grpo, rule = audit.trainers
    assert (grpo.sampled.method, grpo.shared) == ("exact", True)
    assert (rule.sampled.method, rule.shared, rule.gradient) == ("monte-carlo", False, {})
    assert "values by monte-carlo" in rule.note
    unreachable = replace(settings, continuations=4)
    audit = audit_credit(lookup_agent(), envs.config, {"grpo": GRPO({"group_size": 4}), **capf}, unreachable)
    assert [rule.label for rule in audit.trainers] == ["grpo"]
    assert re.search(r"max_states is \d+.*give at least 8", audit.left_out["capf"])
    with pytest.raises(ConfigError, match=r"max_states is \d+.*continuations of each state: give at least 8"):
        audit_credit(lookup_agent(), envs.config, capf, unreachable)


RULE = '''
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.core.credit import Credit


class LastRound(GRPO):
    """All credit to the last round."""

    def credit(self, groups):
        values = self.advantages(groups)
        return Credit.per_round(
            [
                [[0.0] * (len(episode.rounds) - 1) + [value] for episode, value in zip(group, v_G)]
                for group, v_G in zip(groups, values)
            ]
        )
'''


def test_the_command_scores_a_rule_of_ones_own(tmp_path: Path, cli: Any) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(RULE)
    out = tmp_path / "audit"
    arguments = ["credit", "audit", "--env", "SearchQA-Terse-v0", "--agent-option", "memory=false"]
    for pair in ('types=["chain"]', "hops=[1]", "max_rounds=2"):
        arguments += ["--env-option", pair]
    arguments += [
        "--questions",
        "4",
        "--group-size",
        "4",
        "--trainer",
        f"{rule}:LastRound",
        "--trainer",
        "grpo",
    ]
    status, printed, errors = cli(*arguments, "--out", str(out))
    assert status == 0, errors
    assert "LastRound" in printed
    saved = json.loads((out / "audit.json").read_text())
    assert [r["label"] for r in saved["rules"]][-2:] == ["LastRound", "grpo"]
    assert (out / "report.md").read_text().startswith("# Credit audit")
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_the_policy_of_a_run_is_audited(tmp_path: Path, cli: Any) -> None:
    run = tmp_path / "run"
    options = {"types": ["chain"], "hops": [1], "max_rounds": 2}
    train(
        {
            "agent": "candidate",
            "agent_options": {"memory": False},
            "env": "SearchQA-Terse-v0",
            "env_options": options,
            "questions": 2,
            "iterations": 1,
            "eval_episodes": 0,
        },
        run,
    )
    out = tmp_path / "audit"
    status, _, errors = cli(
        "credit", "audit", "--run", str(run), "--questions", "2", "--trainer", "grpo", "--out", str(out)
    )
    assert status == 0, errors
    saved = json.loads((out / "audit.json").read_text())
    assert saved["env"]["max_rounds"] == 2
    assert saved["settings"]["method"] == "exact"
