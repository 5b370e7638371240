"""SkillRL and SLEA-RL: the bank grows where the policy fails, the library learns what a round was worth; both are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import small_world

import searchgym
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.memory.experience import Experience
from searchgym.agents.memory.policy import MemoryPolicy
from searchgym.agents.memory.skills import Skill, SkillBank
from searchgym.errors import ConfigError
from searchgym.trainers.algorithms.gigpo import GiGPO
from searchgym.trainers.algorithms.memory.skillrl import SkillRL
from searchgym.trainers.algorithms.memory.slea_rl import SLEARL
from searchgym.trainers.conformance import TabularPolicy, synthetic_groups
from searchgym.trainers.core.algorithm import TrainContext
from searchgym.trainers.core.groups import Groups

pytestmark = pytest.mark.usefixtures("no_curve")
WORLD = small_world("country-terse")


def opened(algorithm: Any, memory: Any) -> Any:
    """An algorithm that was set up with a policy that has a memory."""
    policy = TabularPolicy() if memory is None else MemoryPolicy(TabularPolicy(), memory, "never")
    algorithm.setup(TrainContext(policy, np.random.default_rng(0)))
    return algorithm


def played(success: list[float]) -> list[Any]:
    """Episodes of one question with these scores."""
    (group,) = synthetic_groups(TabularPolicy(), groups=1, group_size=len(success))
    for episode, em in zip(group, success, strict=True):
        episode.outcome.em = em
        episode.extra = {"type": "chain"}
    return group


@pytest.mark.parametrize(("success", "new"), [([1.0, 1.0, 0.0, 0.0], 0), ([1.0, 0.0, 0.0, 0.0], 1)])
def test_the_bank_grows_below_a_success_of_0_4(success: list[float], new: int) -> None:
    bank = SkillBank(writer=lambda episodes: [Skill("task", f"from {len(episodes)} episodes")])
    algorithm = opened(SkillRL(), bank)
    algorithm._update(played(success))
    assert len(bank.skills) == 2 + new
    assert algorithm._metrics == {"skills": 2.0 + new, "new_skills": float(new)}


def test_success_is_measured_by_type() -> None:
    seen: list[int] = []
    bank = SkillBank(writer=lambda episodes: seen.append(len(episodes)) or [])
    episodes = played([0.0, 1.0, 1.0, 0.0])
    episodes[3].extra = {"type": "comparison"}
    opened(SkillRL(), bank)._update(episodes)  # chain: 2 of 3; comparison: 0 of 1
    assert seen == [1]


@pytest.mark.parametrize("policy", [TabularPolicy(), MemoryPolicy(TabularPolicy(), Experience(), "never")])
def test_skillrl_needs_its_memory_before_it_plays(policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"skillrl needs an agent with the memory 'skills'.*--agent memory"):
        SkillRL().check_policy(policy)
    SkillRL().check_policy(MemoryPolicy(TabularPolicy(), SkillBank(), "never"))


def test_a_run_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs an agent with the memory"):
        searchgym.train(
            trainer="skillrl", agent="candidate", env_options={"corpus": WORLD}, run_dir=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("trainer", "memory"), [("skillrl", "skills"), ("slea-rl", "experience")])
def test_agents_that_would_not_share_the_memory_are_refused_before_play(
    trainer: str, memory: str, tmp_path: Path
) -> None:
    options = {"agent": "candidate", "memory": memory, "recall": "never"}
    config = {
        "trainer": trainer,
        "agent": "memory",
        "agent_options": options,
        "env_options": {"corpus": WORLD},
    }
    with pytest.raises(ConfigError, match=r"rollout_lag is 1, but .* changes the memory"):
        searchgym.train({**config, "rollout_lag": 1}, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not SLEARL().changes_memory(CandidateAgent())


def test_slea_rl_has_the_credit_of_gigpo_over_clusters() -> None:
    groups = synthetic_groups(TabularPolicy())
    rewards = [np.array([e.reward for e in group]) for group in groups]
    found = opened(SLEARL(), Experience()).credit(Groups(groups, rewards))
    alone = opened(SLEARL(), None).credit(Groups(groups, rewards))
    wanted = opened(GiGPO({"similarity": 0.85}), None).credit(Groups(groups, rewards))
    for credit in (found, alone):
        assert [[v.tolist() for v in g] for g in credit.values] == [
            [v.tolist() for v in g] for g in wanted.values
        ]
    assert {"strategies", "warnings"} <= found.metrics.keys()
    assert not {"strategies", "warnings"} & alone.metrics.keys()


def test_the_library_learns_the_step_advantage() -> None:
    """Two episodes of one question begin in one state: returns 1 and 0, so A^S = ±0.707 in the first rounds."""
    (group,) = synthetic_groups(TabularPolicy(), groups=1, group_size=2)
    for episode, reward in zip(group, (1.0, 0.0), strict=True):
        del episode.rounds[:-1]
        episode.rounds[-1].reward = reward
        episode.rounds[-1].action = episode.rounds[-1].action._replace(answer="right" if reward else "wrong")
    library = Experience(warmup=1)
    algorithm = opened(SLEARL(), library)
    algorithm.prepare(algorithm.context.policy, Groups([group], [np.array([1.0, 0.0])]))
    held = library.to_json()
    assert [(act, round(score, 3)) for _, act, score in held["strategies"]] == [("answer right", 0.707)]
    assert [(act, round(score, 3)) for _, act, score in held["warnings"]] == [("answer wrong", -0.707)]
    question = group[0].question
    assert library.recall(question, question) == ""
    library.advance()
    assert library.recall(question, question) == (
        "From experience:\n- It helped here to answer right.\n- It did not help here to answer wrong."
    )


def test_a_run_keeps_its_bank_and_evaluates_with_and_without_it(tmp_path: Path) -> None:
    result = searchgym.train(
        trainer="skillrl",
        agent="memory",
        agent_options={"agent": {"name": "tiny", "max_new_tokens": 16}, "memory": "skills"},
        env_options={"corpus": WORLD, "types": ["chain"], "hops": [1], "max_rounds": 2},
        settings={"group_size": 2, "threshold": 1.0},
        iterations=1,
        questions=2,
        eval_episodes=2,
        run_dir=tmp_path / "run",
    )
    bank = result.policy.memory
    assert len(bank.skills) > 2
    loaded = searchgym.load_run(tmp_path / "run")
    assert loaded.policy.memory.skills == bank.skills
    with_bank, without = (
        loaded.evaluate(),
        searchgym.load_run(tmp_path / "run", agent_options={"recall": "never"}).evaluate(),
    )
    lengths = [[len(s.tokens) for e in r.episodes for s in e.segments] for r in (with_bank, without)]
    assert lengths[0] != lengths[1]  # the skills are in the prompt of one of them
