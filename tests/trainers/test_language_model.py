"""The loop with a real language model in a real environment: exact ratios, and resuming bit for bit."""

import numpy as np
import pytest

from searchgym.agents.tiny.agent import TinyAgent
from searchgym.agents.tiny.model import TinyConfig
from searchgym.agents.tiny.tokenizer import Tokenizer
from searchgym.env.vector import make_vec
from searchgym.records.episode import load_episodes
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.config import make_config
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.parts import Parts
from searchgym.trainers.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_curve")


class EvenIds(GRPO):
    """Pays for the share of sampled tokens with an even id: something that random weights do half the time."""

    def rewards(self, group):
        return np.array([share(episode) for episode in group])


def share(episode):
    tokens = [t for s in episode.segments for t, m in zip(s.tokens, s.mask, strict=True) if m]
    return np.mean([t % 2 == 0 for t in tokens]) if tokens else 0.0


def train(path, corpus, iterations, context=None, **changes):
    tokenizer = Tokenizer.build(["Anna", "Reed", "Corvin", "Mills", "town", "river"], ["velm"])
    config = TinyConfig(tokenizer.size, width=16, heads=2, kv_heads=2, head_dim=8, max_positions=512)
    policy = TinyAgent.random(config, tokenizer, max_new_tokens=12, max_context=context)
    options = make_config(
        {
            "iterations": iterations,
            "questions": 2,
            "lr": 1e-2,
            "eval_episodes": 2,
            "checkpoint_every": 2,
            **changes,
        }
    )
    envs = make_vec("SearchQA-v0", 16, corpus=corpus, max_rounds=2)
    algorithm = EvenIds({"group_size": 8, "kl_coef": 0.01})
    opener = RunDirectory.open if path.exists() else lambda p: RunDirectory.create(p, {})
    with opener(path) as run:
        trainer = Trainer(Parts(policy, algorithm, envs, TaskSampler(envs.task_ids(), 2, 0)), options, run)
        return trainer.run_to_end()


def test_it_learns_and_a_stopped_run_equals_a_straight_one(toy, tmp_path):
    straight = train(tmp_path / "a", toy, 8, lr=5e-2)
    train(tmp_path / "b", toy, 4, lr=5e-2)
    stopped = train(tmp_path / "b", toy, 8, lr=5e-2)
    rows = [[{k: v for k, v in row.items() if k != "eval"} for row in r.metrics] for r in (straight, stopped)]
    assert rows[0] == rows[1]
    assert straight.after == stopped.after
    assert all(row["sampling_gap"] < 1e-4 for row in rows[0][1:])
    assert all(row["updates"] == 2 for row in rows[0][1:])
    last = load_episodes(tmp_path / "a" / "episodes" / "train-000008.jsonl")
    assert np.mean([share(episode) for episode in last]) > 0.6


def test_the_token_budget_changes_only_rounding(toy, tmp_path):
    whole, cut = (train(tmp_path / str(b), toy, 1, token_budget=b).metrics[1] for b in (100_000, 200))
    for key in ("loss", "entropy", "grad_norm", "kl"):
        assert whole[key] == pytest.approx(cut[key], rel=1e-3, abs=1e-6), key
