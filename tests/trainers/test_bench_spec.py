"""Benchmark files: those of the package, and what is wrong with others, said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import plugins
from searchgym.trainers.bench.spec import SHIPPED, Spec, load_spec, parse_spec, restrict
from searchgym.trainers.config import parse_settings
from searchgym.trainers.core.registry import load_trainer

GOOD: dict[str, Any] = {
    "name": "good",
    "budget": {"episodes": 64},
    "rates": [0.2, 0.1],
    "environments": {"terse": {"env": "SearchQA-Terse-v0"}},
    "entries": [{"label": "grpo"}, {"label": "mine", "trainer": "grpo", "settings": {"advantage": "rloo"}}],
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_benchmarks_give_every_row_the_same(name: str) -> None:
    spec = load_spec(name)
    played = set()
    for row in spec.rows:
        for environment in spec.environments:
            config = spec.config(row, environment, spec.rates[0], 7)
            kind = load_trainer(row.trainer)
            settings = kind(row.settings).settings
            played.add(config.questions * settings.group_size)
            assert getattr(config, f"max_{spec.unit}") == spec.amount
            assert (config.split, config.eval_split, config.seed, config.threads) == ("train", "dev", 7, 1)
            questions = {
                k: v for k, v in config.env_options.items() if k in ("types", "hops", "corpus", "max_rounds")
            }
            assert questions == spec.environments[environment].get("env_options", {})
    if (
        name != "methods"
    ):  # what its rows sample for values and candidates differs, so a budget of acts ends them
        assert len(played) == 1, "episodes per iteration differ, and with them the number of updates"
        assert spec.amount % played.pop() == 0
    # With an audit rows are compared in learning speed, so runs may end near the ceiling.
    assert spec.window == ([0.5, 0.98] if spec.plan else [0.3, 0.8])


def test_the_two_main_benchmarks_are_as_large_as_they_claim() -> None:
    seconds, tiny, methods = load_spec("seconds"), load_spec("tiny"), load_spec("methods")
    assert seconds.seeds >= 20
    assert tiny.seeds >= 5
    rows = {row.trainer for spec in (seconds, methods) for row in spec.rows}
    of_other_agents = {"skillrl", "structrag"}
    assert rows >= {*plugins.names("trainers")} - of_other_agents - third_party()
    assert {row.trainer for row in tiny.rows} >= {"grpo", "cw-grpo", "capf", "gigpo", "mt-ppo"}
    for spec in (seconds, tiny):
        assert len(spec.rates) == 3
        assert all(0.3 <= em <= 0.8 for em in spec.measured["dev_em"].values())
    rates = [row.env_options["judge"]["rate"] for row in load_spec("noise").rows if row.trainer == "cw-grpo"]
    assert rates == [0.0, 0.05, 0.1, 0.2, 0.4]
    capf = {
        (r.settings["level"], r.settings["retention"]) for r in load_spec("capf").rows if r.trainer == "capf"
    }
    levels = ("kind", "hop", "revealing", "gold")
    assert capf == {(level, rho) for level in levels for rho in (0.0, 0.25, 0.5, 0.75, 1.0)}


def third_party() -> set[str]:
    """Trainers of plug-ins: some may be installed where the tests run."""
    names = plugins.names("trainers")
    return {n for n in names if not plugins.load("trainers", n).__module__.startswith("searchgym.")}


def test_selection_and_final_runs_share_no_seed() -> None:
    spec = parse_spec(GOOD)
    selection = spec.selection_runs()
    final = spec.final_runs({"grpo": 0.1, "mine": 0.2})
    assert {run.seed for run in selection}.isdisjoint({run.seed for run in final})
    assert len(selection) == 2 * 2 * 2
    assert [(run.label, run.seed, run.lr) for run in final[:3]] == [
        ("grpo", 0, 0.1),
        ("mine", 0, 0.2),
        ("grpo", 1, 0.1),
    ]
    assert len({run.place for run in [*selection, *final]}) == len(selection) + len(final)
    assert spec.rates == [0.1, 0.2]
    assert parse_spec({**GOOD, "selection_seeds": 0}).selection_runs() == []


def test_rows_are_checked_as_training_would() -> None:
    spec = parse_spec({**GOOD, "train": {"agent": "candidate", "questions": 4}})
    config = spec.config(spec.entry("mine"), "terse", 0.1, 3)
    assert (config.trainer, config.settings, config.questions, config.lr) == (
        "grpo",
        {"advantage": "rloo"},
        4,
        0.1,
    )
    settings = plugins.load("trainers", "grpo").settings_class
    assert parse_settings(settings, config.settings).advantage == "rloo"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {}}, "give one of episodes, tokens, seconds"),
        ({"budget": {"episodes": 1, "tokens": 2}}, "give one of episodes, tokens, seconds"),
        ({"budget": {"epsiodes": 64}}, "give one of episodes, tokens, seconds"),
        ({"budget": {"episodes": 0}}, "budget episodes is 0: give a positive number"),
        ({"rates": []}, "give the learning rates to choose from"),
        ({"rates": [0.1, -1.0]}, "give the learning rates to choose from"),
        ({"environments": {}}, "names no environment"),
        ({"environments": {"terse": {"id": "SearchQA-Terse-v0"}}}, "give env = ID"),
        ({"baseline": "grop"}, "the baseline 'grop' is not an entry. Did you mean 'grpo'?"),
        ({"train": {"lr": 0.1}}, "train.lr: a benchmark sets lr for each run itself"),
        ({"train": {"agnet": "tiny"}}, "unknown training option 'agnet'. Did you mean 'agent'"),
        ({"sedes": 3}, "unknown key of the benchmark 'sedes'. Did you mean 'seeds'"),
        ({"seeds": 0}, "'seeds' is 0: it must be at least 1"),
        ({"entries": [{"label": "grpo"}, {"label": "grpo"}]}, "every entry needs a label of its own"),
        ({"entries": [{"label": "a/b", "trainer": "grpo"}]}, "without a slash"),
        ({"entries": [{"label": "grpo", "settings": {"adv": 1}}]}, "unknown trainer setting 'adv'"),
        ({"name": "a/b"}, "without a slash"),
    ],
)
def test_what_is_wrong_with_a_benchmark(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec({**GOOD, **change})
    assert message in str(caught.value)


def test_a_trainer_nobody_registered() -> None:
    with pytest.raises(UnknownIdError, match="grop"):
        parse_spec({**GOOD, "entries": [*GOOD["entries"], {"label": "grop"}]})
    with pytest.raises(UnknownIdError, match="row or trainer 'rlo'"):
        restrict(parse_spec(GOOD), ["rlo"])


def test_restricting_keeps_rows_and_gives_registered_trainers_one() -> None:
    spec = restrict(parse_spec(GOOD), ["ppo", "mine"], baseline="mine")
    assert [row.label for row in spec.rows] == ["ppo", "mine"]
    assert spec.entry("mine").settings == {"advantage": "rloo"}
    assert spec.entry("ppo").trainer == "ppo"
    assert spec.baseline == "mine"
    assert isinstance(spec, Spec)


def test_a_file_that_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        'name = "base"\nbudget = { episodes = 64 }\nrates = [0.1]\n[train]\nquestions = 4\nagent = "candidate"\n'
        '[environments.terse]\nenv = "SearchQA-Terse-v0"\n[[entries]]\nlabel = "grpo"\n'
        '[[entries]]\nlabel = "a"\ntrainer = "grpo"\n[[entries]]\nlabel = "b"\ntrainer = "grpo"\n',
        "utf-8",
    )
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'extends = "base.toml"\nkeep = ["grpo", "a"]\nname = "mine"\n[train]\nquestions = 8\n'
        '[[entries]]\nlabel = "a"\ntrainer = "ppo"\n[[entries]]\nlabel = "c"\ntrainer = "grpo"\n',
        "utf-8",
    )
    spec = load_spec(mine)
    assert [(row.label, row.trainer) for row in spec.rows] == [("grpo", "grpo"), ("a", "ppo"), ("c", "grpo")]
    assert spec.train == {"questions": 8, "agent": "candidate"}
    mine.write_text('extends = "base.toml"\nkeep = ["grpp"]\nname = "mine"\n', "utf-8")
    with pytest.raises(UnknownIdError, match="grpp"):
        load_spec(mine)


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'seconds'"):
        load_spec("second")
    (tmp_path / "bad.toml").write_text("name = ", "utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_spec(tmp_path / "bad.toml")


def test_trainers_say_what_they_are_told() -> None:
    told = {name: plugins.load("trainers", name)().told for name in plugins.names("trainers")}
    assert {"grpo", "gigpo", "cw-grpo", "dpo", "rtmc", "vineppo"} <= {
        n for n, text in told.items() if not text
    }
    assert told["igpo"] == told["spae"] == "the gold answer"
    gold = {"step-search", "match-tir", "scribe", "vimrag", "virl", "hiper", "int"}
    assert gold <= {name for name, text in told.items() if "gold" in text}
    assert not plugins.load("trainers", "vimrag")({"valid": "judge"}).told
