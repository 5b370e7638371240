"""True values by continuations: against enumeration, their cost, and what interrupts or refuses them."""

from __future__ import annotations

import json
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
import pytest

from searchgym.agent import FunctionAgent
from searchgym.agents.candidate import CandidateAgent
from searchgym.agents.scripted import CopyAgent
from searchgym.corpora.forks import FAMILIES
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError, RunDirectoryError
from searchgym.files import seal
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import agent_context_of, collect
from searchgym.trainers.credit_audit.exact import ExactValues
from searchgym.trainers.credit_audit.monte_carlo import (
    Continued,
    Precision,
    check_can_continue,
    continue_episodes,
)
from searchgym.trainers.credit_audit.scores import credit_scores, gather_rounds
from searchgym.trainers.credit_audit.store import ContinuationStore
from searchgym.trainers.credit_audit.truth import TrueCredit


def forks(family: str) -> SearchVectorEnv:
    corpus = {"name": "forks", "family": family, "train": 2, "dev": 0, "test": 0}
    return make_vec("SearchQA-Forks-v0", 128, corpus=corpus, autoreset_mode="Disabled")


def lookup(envs: SearchVectorEnv) -> CandidateAgent:
    agent = CandidateAgent(memory=False, start="lookup", seed=1)
    agent.bind(agent_context_of(envs.config))
    return agent


@cache
def played(family: str) -> tuple[SearchVectorEnv, CandidateAgent, list[Episode]]:
    envs = forks(family)
    agent = lookup(envs)
    return envs, agent, collect(envs, agent, [envs.task_ids()[1]] * 6)


ROUGH = Precision(error=0.12, continuations=40)


@cache
def estimated(family: str) -> Continued:
    envs, agent, episodes = played(family)
    return continue_episodes(agent, envs, episodes, ROUGH, seed=1)


@cache
def enumerated(family: str) -> tuple[TrueCredit, ...]:
    envs, agent, episodes = played(family)
    exact = ExactValues(agent, envs)
    exact.solve([episodes[0].task_id])
    return tuple(TrueCredit.exact(e.episode_id, *exact.true_credit(e)) for e in episodes)


@pytest.mark.parametrize("family", FAMILIES)
def test_continuations_agree_with_enumeration_within_the_stated_error(family: str) -> None:
    found = estimated(family).truth
    z = np.concatenate(
        [
            (one.advantages_R - true.advantages_R) / one.errors_R
            for one, true in zip(found, enumerated(family), strict=True)
        ]
    )
    assert np.abs(z).max() < 4.5
    assert np.sqrt(np.mean(z**2)) < 1.6
    errors = np.concatenate([one.errors_R for one in found])
    assert errors.max() <= ROUGH.error


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_recognise_the_truth_its_opposite_and_noise(family: str) -> None:
    episodes = played(family)[2]
    for truth in (enumerated(family), estimated(family).truth):
        rounds = gather_rounds(episodes, truth)
        scores = {
            name: credit_scores(rounds, credit_R)
            for name, credit_R in {
                "true": rounds.true_R,
                "reversed": -rounds.true_R,
                # Right by construction: the return minus the exact V is an unbiased estimate of A.
                "baseline": np.concatenate(
                    [e.reward - t.values_R for e, t in zip(episodes, enumerated(family), strict=True)]
                ),
            }.items()
        }
        for name in ("sign", "pearson", "spearman", "within"):
            assert scores["true"][name] == pytest.approx(1.0)
            assert scores["reversed"][name] == pytest.approx(-1.0)
        random = np.mean(
            [
                credit_scores(
                    rounds, np.random.default_rng(i).standard_normal(len(rounds.true_R)), ["sign", "pearson"]
                )["pearson"]
                for i in range(200)
            ]
        )
        assert abs(random) < 0.1
        assert scores["baseline"]["pearson"] > 0.2


def test_continuations_that_come_by_a_state_count_for_it() -> None:
    """Continuation i of a later state is the rest of continuation i of an earlier one that comes by."""
    counts = estimated("decoys").counts
    assert counts["shared"] > 0
    assert counts["restores"] < counts["continuations"]
    envs, agent, episodes = played("decoys")
    alone = continue_episodes(agent, envs, [episodes[0]], ROUGH, seed=1)
    together = estimated("decoys").truth[0]
    # The same numbers whatever else is continued; how many there are may differ.
    assert alone.truth[0].values_R == pytest.approx(together.values_R, abs=4 * ROUGH.error)


def test_what_cannot_be_reached_is_refused_before_anything_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    envs, agent, episodes = played("decoys")
    monkeypatch.setattr(type(agent), "act", None)
    for precision, says in (
        (Precision(0.0), "standard error is 0"),
        (Precision(0.01), "5,000 continuations of each state, and at most 200"),
        (
            Precision(0.05, 200, budget=1000),
            r"may take [\d,]+ continuations of \d+ states, and the budget is 1,000.* error of 0\.\d",
        ),
        (Precision(0.5, 1), "give at least 2"),
    ):
        with pytest.raises(ConfigError, match=says):
            continue_episodes(agent, envs, episodes, precision)


@pytest.mark.parametrize(
    ("agent", "says"),
    [
        (FunctionAgent(lambda observation, info: ""), "has no random stream per episode"),
        (type("Mute", (CopyAgent,), {"resume": None, "name": "mute"}), "cannot continue a recorded episode"),
    ],
)
def test_an_agent_that_cannot_fork_is_refused(agent: Any, says: str) -> None:
    if isinstance(agent, type):
        from searchgym.agent import Agent

        agent.resume = Agent.resume  # type: ignore[attr-defined]
        agent = agent()
    with pytest.raises(ConfigError, match=says):
        check_can_continue(agent)


def test_an_interrupted_audit_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    envs, agent, episodes = played("trap")
    whole = continue_episodes(agent, envs, episodes, ROUGH, seed=1)
    path = tmp_path / "continuations.jsonl"
    with ContinuationStore(path, {"seed": 1}) as store:
        continue_episodes(agent, envs, episodes[:2], ROUGH, seed=1, store=store)
    path.write_bytes(path.read_bytes() + b'{"returns": {"cut of')
    with ContinuationStore(path, {"seed": 1}) as store:
        again = continue_episodes(agent, envs, episodes, ROUGH, seed=1, store=store)
    before = path.read_bytes()
    with ContinuationStore(path, {"seed": 1}) as store:
        repeated = continue_episodes(agent, envs, episodes, ROUGH, seed=1, store=store)
    assert repeated.counts == again.counts
    assert path.read_bytes() == before
    for found in (again, repeated):
        for one, other in zip(whole.truth, found.truth, strict=True):
            assert one.advantages_R.tolist() == other.advantages_R.tolist()
            assert one.errors_R.tolist() == other.errors_R.tolist()


KILLED = """
import os, signal, sys
import searchgym.trainers.credit_audit.monte_carlo as monte_carlo
from searchgym.cli import main
from searchgym.trainers.credit_audit.store import ContinuationStore

add, parts = ContinuationStore.add, []

def killing(self, returns, cost):
    add(self, returns, cost)
    parts.append(returns)
    if len(parts) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

ContinuationStore.add, monte_carlo._PART = killing, 16
main(sys.argv[1:])
"""


def test_a_killed_audit_continues(tmp_path: Path, cli: Any) -> None:
    """kill -9 in the middle; the same command then gives the report of an audit that was not killed."""
    arguments = ["credit", "audit", "--env", "SearchQA-Forks-v0", "--env-option", 'types=["trap"]']
    arguments += ["--env-option", 'corpus={"name": "forks", "train": 16, "dev": 0, "test": 0}']
    arguments += ["--agent-option", "start=lookup", "--method", "monte-carlo", "--error", "0.2"]
    arguments += ["--questions", "2", "--group-size", "4", "--trainer", "grpo", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = preloaded.run([sys.executable, "-c", KILLED, *arguments, str(killed)], capture_output=True)
    assert process.returncode == -signal.SIGKILL
    left = (killed / "continuations.jsonl").read_bytes()
    assert left.count(b"\n") == 4
    assert not (killed / "report.md").exists()
    audits = []
    for out in (whole, killed):
        status, _, errors = cli(*arguments, str(out))
        assert status == 0, errors
        audits.append(json.loads((out / "audit.json").read_text()))
    assert (killed / "continuations.jsonl").read_bytes().startswith(left)
    counts = [audit["counts"] for audit in audits]
    assert min(count.pop("seconds") for count in counts) > 0.0
    assert {"continuations", "restores", "shared", "rounds", "tokens"} <= counts[0].keys()
    scores = [{rule["label"]: rule["scores"] for rule in audit["rules"]} for audit in audits]
    assert scores[0] == scores[1]


def test_the_cost_of_an_interrupted_audit_is_that_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchgym.trainers.credit_audit.monte_carlo._PART", 16)
    envs, agent, episodes = played("trap")
    path = tmp_path / "continuations.jsonl"

    def counted() -> dict[str, float]:
        with ContinuationStore(path, {"seed": 1}) as store:
            counts = continue_episodes(agent, envs, episodes, ROUGH, seed=1, store=store).counts
        return {name: count for name, count in counts.items() if name != "seconds"}

    whole = counted()
    content = path.read_bytes()
    lines = content.count(b"\n")
    assert lines > 5
    for cut in range(0, len(content), len(content) // 7):
        path.write_bytes(content[:cut])
        assert counted() == whole
        assert path.read_bytes().count(b"\n") == lines


def test_continuations_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "continuations.jsonl"
    with ContinuationStore(path, {"policy": "a", "seed": 1}) as store:
        store.add({"s": {0: 1.0, 5: 0.0}}, {"tokens": 3.0})
        assert store.returns("s") == {0: 1.0, 5: 0.0}
        with pytest.raises(RunDirectoryError, match="in use"):
            ContinuationStore(path, {"policy": "a", "seed": 1})
    with ContinuationStore(path, {"policy": "a", "seed": 1}) as store:
        assert store.returns("s") == {0: 1.0, 5: 0.0}
        assert store.cost == {"tokens": 3.0}
    with pytest.raises(RunDirectoryError, match="another policy"):
        ContinuationStore(path, {"policy": "b", "seed": 1})
    lines = path.read_text().splitlines()
    path.write_text('{"schema": 2, "made_with": {"policy": "a", "seed": 1}}\n{"state": "s"}\n')
    with pytest.raises(RunDirectoryError, match="another schema"):
        ContinuationStore(path, {"policy": "a", "seed": 1})
    (endless := tmp_path / "endless.jsonl").symlink_to("/dev/zero")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        ContinuationStore(endless, {"policy": "a", "seed": 1})
    rows = (
        {"returns": {"s": {"5": 1}}, "cost": {}},
        {"returns": {"s": [1]}, "cost": {}},
        {"returns": {"s": {"6": "x"}}, "cost": {}},
        {"returns": {"s": {"6": 1}}},
    )
    other_return = lines[1].replace("0.0", "1.0")
    assert other_return != lines[1]
    for damaged in (
        [*lines, "{"],
        [*lines, '{"returns": {"s": {"6": 1}}, "cost": {"tokens": NaN}}'],
        *([*lines, json.dumps(seal(row))] for row in rows),
        [lines[0], other_return],
    ):
        path.write_text("\n".join(damaged) + "\n")
        with pytest.raises(RunDirectoryError, match="damaged"):
            ContinuationStore(path, {"policy": "a", "seed": 1})
