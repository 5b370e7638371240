"""The pages name every option, setting and metric there is."""

import dataclasses
import re
from pathlib import Path

from toy_bandit import run_toy

from searchgym.options import plugins
from searchgym.trainers.algorithms.grpo import GRPOSettings
from searchgym.trainers.config import TrainConfig

DOCS = Path(__file__).resolve().parents[2] / "docs" / "trainers"


def named_on(page):
    return set(re.findall(r"`([^`\n]+)`", (DOCS / page).read_text("utf-8")))


def test_every_option_and_setting_is_named():
    names = named_on("index.md") | named_on("../training.md") | named_on("../distributed.md")
    options = {name.split(" ")[0].removeprefix("--").replace("-", "_") for name in names}
    options |= {f"{name}s" for name in options}  # the flag of one pair, the field of all
    assert {f.name for f in dataclasses.fields(TrainConfig)} <= options
    assert {f.name for f in dataclasses.fields(GRPOSettings)} <= named_on("grpo.md")


def test_every_trainer_has_its_page():
    index = (DOCS / "index.md").read_text("utf-8")
    for name in plugins.names("trainers"):
        assert f"| `{name}` |" in index
        assert (DOCS / f"{name}.md").exists()


def test_every_metric_is_named(tmp_path):
    result = run_toy(tmp_path, iterations=1, settings={"group_size": 8, "kl_coef": 0.1})
    keys = set().union(*(row.keys() for row in result.metrics))
    assert len(keys) > 25
    assert keys - named_on("index.md") == set()


def test_the_departures_are_those_of_the_code():
    import searchgym.trainers.algorithms.grpo as grpo
    import searchgym.trainers.algorithms.variants as variants

    def numbers(text):
        return re.findall(r"^(\d+)\. ", text, re.MULTILINE)

    page = (DOCS / "grpo.md").read_text("utf-8")
    of_paper, _, of_variants = page.partition("## Departures from the paper")[2].partition("## Departures of")
    assert numbers(grpo.__doc__.split("Departures from the paper")[1]) == numbers(of_paper) != []
    assert numbers(variants.__doc__.split("Departures from the papers")[1]) == numbers(of_variants) != []
