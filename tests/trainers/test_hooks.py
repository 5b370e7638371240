"""The page "One iteration, hook by hook" names the hooks in the order in which the loop calls them."""

import re
from itertools import groupby
from pathlib import Path

import pytest
from helpers import small_world

import searchgym
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.core.algorithm import Algorithm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainers" / "iteration.md"
HOOKS = (
    "configure_env", "check_policy", "setup", "extra_modules", "collect", "rewards", "select", "prepare", "credit", "loss",
)  # fmt: skip


def recording(name, calls):
    def hook(self, *arguments):
        calls.append(name)
        return getattr(GRPO, name)(self, *arguments)

    return hook


@pytest.mark.usefixtures("no_curve")
def test_the_page_has_the_order_of_the_loop(tmp_path):
    calls = []
    kind = type("Recording", (GRPO,), {name: recording(name, calls) for name in HOOKS})
    world = small_world("country-terse", train=60)
    searchgym.train(
        trainer=kind, agent="candidate", iterations=2, questions=4, eval_episodes=0, run_dir=tmp_path / "run",
        env_options={"corpus": world, "reward": {"recall": 1.0}}, settings={"group_size": 4},
    )  # fmt: skip
    order = [name for name, _ in groupby(calls)]
    on_page = re.findall(r"\*\*`(\w+)`\*\*", PAGE.read_text("utf-8"))
    assert order == [*on_page, *on_page[4:]]  # what comes before training happens once
    assert calls.count("rewards") == 8
    assert tuple(on_page) == HOOKS


def test_the_head_of_the_class_has_the_same_order():
    import searchgym.trainers.core.algorithm as module

    assert tuple(re.findall(r"^    (\w+)\(", module.__doc__, re.MULTILINE)) == HOOKS
    assert {"credit", "loss"} == Algorithm.__abstractmethods__


def test_files_that_the_page_names_exist():
    text = PAGE.read_text("utf-8")
    for path in re.findall(r"`(trainers/[\w/]+\.py)`", text):
        assert (PAGE.parents[2] / path).exists(), path
