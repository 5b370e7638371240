"""Each trainer teaches the candidate policy to look up one fact, with the oracle as its judge."""

import pytest
from helpers import small_world

from searchgym.trainers.bench.results import FEEDBACK_NEEDED
from searchgym.trainers.training.api import train

WORLD = small_world("country-terse", train=300, dev=400)
GROUPS = {"questions": 16, "settings": {"group_size": 8, "entropy_coef": 0.01, "skip_equal": False}}
TREES = {**GROUPS, "settings": {**GROUPS["settings"], "nodes": 3}}
SINGLES = {"questions": 128, "settings": {"entropy_coef": 0.01}}
JUDGED = {"judge": "oracle", "judge_when": "unequal-success"}


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(
    ("trainer", "options", "env_options"),
    [
        ("cw-grpo", GROUPS, JUDGED),
        ("capf", GROUPS, {}),
        ("tree-grpo", TREES, {}),
        ("ppo", SINGLES, {}),
        ("mt-ppo", SINGLES, {"judge": "oracle", "reward": "mt_ppo"}),
    ],
)
def test_it_learns(trainer, options, env_options, tmp_path):
    config = {
        "trainer": trainer,
        "agent": "candidate",
        "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1], **env_options},
        "iterations": 16,
        "lr": 0.15,
        "eval_episodes": 20,
        "checkpoint_every": 100,
        **options,
    }
    result = train(config, tmp_path / "run")
    assert result.before["em"].value <= 0.1
    assert result.after["em"].value >= 0.9
    if trainer == "capf":  # and not as GRPO by another name
        trained = result.metrics[1:]
        assert sum(row["assisted"] for row in trained) / len(trained) >= FEEDBACK_NEEDED
        assert trained[0]["retained"] < 1.0
