"""Recipes load and say the truth about themselves; the tiny one runs; a dry run finds what is wrong and does nothing."""

import json
import re
import sys
from pathlib import Path

import pytest
from helpers import small_world

from searchgym.agents.policy import Policy
from searchgym.corpora.indexing.disk import human
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.options import plugins
from searchgym.specs import bind_options
from searchgym.trainers.config import make_config
from searchgym.trainers.core.algorithm import training_envs
from searchgym.trainers.planning.architecture import read_architecture
from searchgym.trainers.planning.dry_run import dry_run, make_plan
from searchgym.trainers.planning.estimate import ASSUMED, HARDWARE, memory, total
from searchgym.trainers.planning.report import duration
from searchgym.trainers.planning.times import seconds
from searchgym.trainers.recipes import RECIPES, load_recipe

sys.path.append(str(Path(__file__).resolve().parents[1] / "agents"))
from hf_models import save_family

SMALL = small_world("country-terse", train=40, dev=10, test=10)
LARGE = [name for name in RECIPES if load_recipe(name).about.hardware != "CPU"]


@pytest.fixture
def run(cli):
    """Run `searchgym train`; the output without line breaks."""

    def call(*arguments):
        status, out, err = cli("train", *arguments)
        return status, " ".join(out.split()), err

    return call


def plan_of(recipe):
    algorithm = plugins.load("trainers", recipe.config.trainer)(recipe.config.settings)
    kind = plugins.load("agents", recipe.config.agent)
    assert issubclass(kind, Policy)
    options = bind_options("agent", recipe.config.agent, kind, (), dict(recipe.config.agent_options))
    architecture = read_architecture(options["model"])
    assert options["max_context"] <= architecture.positions
    return make_plan(recipe.config, algorithm, options, architecture, recipe.about, recipe.expected)


def comment(recipe):
    lines = recipe.path.read_text("utf-8").splitlines()
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return [line.removeprefix("#").strip() for line in head]


def test_there_is_a_recipe_for_every_size():
    models = {load_recipe(name).config.agent_options.get("model") for name in RECIPES}
    ours = {None, "gemma-3-270m", "runs/gemma3-270m-sft"}
    assert models == {*ours, *(f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B"))}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_its_command_and_whether_it_was_run(name):
    recipe = load_recipe(name)
    head = comment(recipe)
    assert head[0] == recipe.about.command
    assert f"--recipe {name}" in recipe.about.command
    assert recipe.about.title
    assert recipe.about.run == "not run" or re.match(r"\d{4}-\d\d-\d\d", recipe.about.run)
    assert f"Run: {recipe.about.run}" in " ".join(head)


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_can_be_built_and_names_the_memory_and_time_it_needs(name):
    recipe = load_recipe(name)
    plan = plan_of(recipe)
    need, hardware = memory(plan), HARDWARE[recipe.about.hardware]
    assert need.peak <= hardware.bytes * (1 - ASSUMED["reserve"])
    run = total(seconds(plan, hardware)) * plan.iterations
    assert (
        f"Projected, not measured: {human(need.peak)} per GPU, {duration(run)} on {recipe.about.gpus} x "
        f"{recipe.about.hardware}"
    ) in " ".join(comment(recipe))


@pytest.mark.parametrize("name", LARGE)
def test_environment_judge_and_index_take_the_options_of_a_recipe(name):
    config = load_recipe(name).config
    stand_ins = {"corpus": dict(SMALL), "retriever": "bm25", "judge": "oracle"}
    given = dict(config.env_options)
    for key, group in (("corpus", "corpora"), ("retriever", "retrievers"), ("judge", "judges")):
        if key in given:
            options = dict(given[key])
            kind = options.pop("name")
            before = () if key == "corpus" else (None,)
            bind_options(key, kind, plugins.load(group, kind), before, options)
            given[key] = stand_ins[key]
    algorithm = plugins.load("trainers", config.trainer)(config.settings)
    envs = training_envs(algorithm, make_vec(config.env, 1, **{"corpus": dict(SMALL), **given}))
    assert envs.config.max_rounds == config.env_options["max_rounds"]
    assert envs.config.has_feedback == (config.trainer == "capf")


def test_the_tiny_recipe_is_the_readmes_command():
    assert load_recipe("tiny-cpu").config == make_config({})


def test_the_tiny_recipe_runs(tmp_path, run):
    arguments = ("--iterations", "2", "--questions", "4", "--set", "group_size=4", "--eval-episodes", "8")
    code, _, err = run("--recipe", "tiny-cpu", *arguments, "--run-dir", str(tmp_path / "run"))
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["iterations"], config["questions"]) == (2, 4)
    assert config["settings"] == {"group_size": 4}
    assert config["env_options"] == {"types": ["chain"], "hops": [2, 3]}
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_list_recipes(run):
    code, out, _ = run("--list-recipes")
    assert code == 0
    assert all(name[:10] in out for name in RECIPES)


def test_a_dry_run_of_the_tiny_recipe_finds_nothing_wrong_and_writes_nothing(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("--recipe", "tiny-cpu", "--dry-run", "--run-dir", "here")
    assert code == 0, out + err
    assert "349,600 weights" in out
    assert "hits for the first question" in out
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_ones_own_and_options_that_win_over_it(tmp_path, run):
    file = tmp_path / "mine.toml"
    file.write_text(
        'agent = "candidate"\nquestions = 2\niterations = 7\neval_episodes = 0\n[settings]\ngroup_size = 4\n'
        '[env_options]\ntop_k = 2\n[recipe]\ntitle = "mine"\nexpected = { rounds = 2 }\n'
    )
    more = tmp_path / "here.toml"
    more.write_text("[env_options]\nhops = [2]\n")
    arguments = [
        "--recipe",
        str(file),
        "--config",
        str(more),
        "--iterations",
        "1",
        "--run-dir",
        str(tmp_path / "r"),
    ]
    code, _, err = run(*arguments)
    assert code == 0, err
    config = json.loads((tmp_path / "r" / "config.json").read_text())["config"]
    assert config["iterations"] == 1
    assert config["questions"] == 2
    assert config["env_options"] == {"top_k": 2, "hops": [2]}
    recipe = load_recipe(file)
    assert (recipe.about.title, recipe.expected.rounds, recipe.config.iterations) == ("mine", 2.0, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iteratons = 3\n", "unknown training option 'iteratons'. Did you mean 'iterations'"),
        ('[recipe]\ntitel = "x"\n', "'titel'. Did you mean 'title'"),
        ("[recipe]\nexpected = { round = 2 }\n", "'round'. Did you mean 'rounds'"),
        ("recipe = 3\n", r"write a table \[recipe\]"),
        ("iterations = \n", "is not valid TOML"),
    ],
)
def test_mistakes_in_a_recipe_are_named(text, message, tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(file)


def test_an_unknown_recipe_is_told_from_its_neighbours(run):
    with pytest.raises(UnknownIdError, match=r"Did you mean 'qwen3-1\.7b'"):
        load_recipe("qwen-1.7b")
    code, _, err = run("--recipe", "tiny")
    assert code == 2
    assert "Did you mean 'tiny-cpu'" in err


def test_a_dry_run_names_everything_that_is_wrong_at_once(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    recipe = load_recipe("tiny-cpu")
    values = {
        **recipe.values,
        "settings": {"group_siz": 4},
        "env_options": {"retriever": {"name": "remote", "url": "http://127.0.0.1:9", "retries": 0}},
        "agent_options": {"max_context": 10_000},
        "eval_split": "test",
    }
    found = dry_run(make_config(values), tmp_path)
    failed = {check.name: check.text for check in found.checks if not check.passed}
    assert not found.passed
    assert set(failed) == {"trainer", "environment", "model", "run directory"}
    assert "Did you mean 'group_size'" in failed["trainer"]
    assert "127.0.0.1:9" in failed["environment"]
    assert "max_context is 10000" in failed["model"]
    assert "already holds a run" in failed["run directory"]


def test_a_dry_run_of_a_chat_model_on_this_machine(tmp_path):
    """Its size comes from config.json, the first prompt from its own chat template; its weights are not needed."""
    model = Path(save_family(tmp_path / "model", max_position_embeddings=2048))
    weights = sum(1 for _ in model.glob("*.safetensors"))
    for file in model.glob("*.safetensors"):
        file.unlink()
    assert weights
    values = {
        "agent": "hf",
        "agent_options": {"model": str(model), "lora": {"rank": 2}, "max_new_tokens": 32, "device": "cpu"},
        "env": "SearchQA-v0",
        "env_options": {"corpus": SMALL},
        "eval_episodes": 5,
    }
    found = dry_run(make_config(values), tmp_path / "run")
    assert found.passed, found.checks
    assert re.search(r"the first prompt has \d\d+ tokens", found.checks[-4].text)
    assert found.plan.rank == 2
    assert found.plan.max_context == 2048
    assert not (tmp_path / "run").exists()
    values["agent_options"]["max_context"] = 40
    found = dry_run(make_config(values), tmp_path / "run")
    (failed,) = (check for check in found.checks if not check.passed)
    assert failed.name == "chat template"
    assert "max_context=40 has no room for both" in failed.text


def test_what_cannot_be_known_is_no_failure(tmp_path):
    values = {"env": "SearchQA-v0", "env_options": {"corpus": SMALL}, "eval_episodes": 5}
    found = dry_run(make_config({**values, "agent": "candidate"}), tmp_path / "run")
    assert found.passed, found.checks
    assert found.plan is None
    hub = {"agent": "hf", "agent_options": {"model": "nobody/no-such-model", "device": "cpu"}}
    found = dry_run(make_config({**values, **hub}), tmp_path / "run")
    assert found.passed, found.checks
    assert "Without that, no estimates" in next(c.text for c in found.checks if c.name == "model")


def test_a_dry_run_is_of_a_new_run(tmp_path, run):
    code, _, err = run("--dry-run", "--resume", "--run-dir", str(tmp_path))
    assert code == 2
    assert "leave out --resume" in err
    file = tmp_path / "mine.toml"
    file.write_text('[recipe]\ntitel = "x"\n')
    code, _, err = run("--recipe", str(file))
    assert code == 2
    assert "Did you mean 'title'" in err
