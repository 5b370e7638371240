"""A trained run is evaluated again exactly as its training evaluated it, from its own configuration."""

import json
import shlex

import pytest
from helpers import small_world

import searchgym
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.errors import CheckpointError, ConfigError
from searchgym.files import policy_directory, run_of, step_of
from searchgym.records.episode import load_episodes
from searchgym.trainers.training.api import train
from searchgym.trainers.training.loading import load_run

WORLD = small_world("country-terse", train=40, dev=60, test=30)
COMMON = {
    "questions": 4,
    "settings": {"group_size": 4},
    "eval_episodes": 12,
    "env": "SearchQA-Terse-v0",
    "env_options": {"corpus": WORLD, "types": ["chain"], "hops": [1, 2], "max_rounds": 5},
}


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    """A run of the candidate policy with checkpoints of iterations 0, 2 and 4, in a directory with an awkward name."""
    run_dir = tmp_path_factory.mktemp("runs") / "it's [bold]a[/b] run"
    learns = {"questions": 16, "settings": {"group_size": 8}, "lr": 0.5, "iterations": 4, "seed": 1}
    options = {"agent": "candidate", "checkpoint_every": 2, "eval_every": 2, **learns}
    return train({**COMMON, **options}, run_dir).run_dir


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run of the tiny language model whose context is rebuilt each round."""
    options = {"agent": "tiny", "agent_options": {"history": 2}, "iterations": 1, "num_envs": 8, "seed": 3}
    options |= {"eval_episodes": 5}
    return train({**COMMON, **options}, tmp_path_factory.mktemp("runs") / "tiny").run_dir


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def recorded(run_dir, iteration):
    return [e.to_json() for e in load_episodes(run_dir / "episodes" / f"eval-{iteration:06d}.jsonl")]


@pytest.mark.parametrize(
    ("name", "iteration"), [("candidate", 0), ("candidate", 2), ("candidate", 4), ("tiny", 0), ("tiny", 1)]
)
def test_a_run_is_evaluated_as_its_training_did(name, iteration, request):
    run_dir = request.getfixturevalue(name)
    run = load_run(run_dir / "checkpoints" / f"step-{iteration:06d}")
    result = run.evaluate()
    assert [episode.to_json() for episode in result.episodes] == recorded(run_dir, iteration)
    row = rows(run_dir)[iteration]["eval"]
    assert run.recorded == row
    assert {k: v.to_json() for k, v in result.metrics.items()} == row["metrics"]
    assert (run.iteration, run.split, run.episodes) == (iteration, "dev", {"candidate": 12, "tiny": 5}[name])
    assert str(run_dir) in repr(run)
    assert len(repr(run)) < 400


def test_the_newest_checkpoint_is_loaded_by_default(candidate):
    assert searchgym.load_run(candidate).iteration == 4
    assert searchgym.load_run(str(candidate / "checkpoints" / "step-000002" / "policy")).iteration == 2


def test_what_a_training_only_has_is_left_out_and_the_rest_kept(tmp_path):
    env_options = {
        **COMMON["env_options"],
        "judge": "oracle",
        "reward": {"em": 1.0, "recall": 0.2},
        "top_k": 2,
    }
    options = {"agent": "candidate", "iterations": 1, "trainer": "capf", "env_options": env_options}
    run_dir = train({**COMMON, **options}, tmp_path / "run").run_dir
    run = load_run(run_dir)
    config = run.envs.config
    assert (config.judge, config.has_feedback, config.reward, config.top_k) == (None, False, {"em": 1.0}, 2)
    assert [e.to_json() for e in run.evaluate().episodes] == recorded(run_dir, 1)


def test_options_replace_those_of_the_run(candidate):
    run = load_run(candidate, env_options={"max_searches": 1, "top_k": 1})
    assert (run.envs.config.max_searches, run.envs.config.max_rounds) == (1, 5)


# -- paths ----------------------------------------------------------------------------------------------------------


def test_every_path_of_a_run_leads_to_its_weights(candidate, tmp_path):
    newest = candidate / "checkpoints" / "step-000004"
    for path in (candidate, newest, newest / "policy"):
        assert run_of(path) == candidate
        assert policy_directory(path) == newest / "policy"
    assert [step_of(path) for path in (candidate, newest, newest / "policy")] == [None, 4, 4]
    for other in (tmp_path, tmp_path / "policy", candidate / "episodes", tmp_path / "step-000001"):
        assert run_of(other) is None
        assert policy_directory(other) == other


@pytest.mark.parametrize(
    "content", [None, "{", "[]", "{}", '{"config": 3}', '{"model_type": "qwen3", "config": {}}', "\udcff"]
)
def test_other_directories_with_a_configuration_are_no_runs(content, tmp_path):
    (tmp_path / "checkpoints" / "step-000001" / "policy").mkdir(parents=True)
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert run_of(tmp_path) is None
    assert run_of(tmp_path / "checkpoints" / "step-000001") is None


def test_a_run_without_a_checkpoint_is_said(candidate, tmp_path):
    (tmp_path / "config.json").write_bytes((candidate / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="has no complete checkpoint yet"):
        load_run(tmp_path)


def test_agents_open_run_directories_as_weights(candidate, tiny):
    for run_dir, kind in ((candidate, CandidateAgent), (tiny, TinyAgent)):
        newest = kind(checkpoint=str(policy_directory(run_dir)))
        for path in (run_dir, policy_directory(run_dir).parent):
            opened = kind(checkpoint=str(path))
            for name, value in opened.module.state_dict().items():
                assert value.equal(newest.module.state_dict()[name])
    result = searchgym.evaluate(
        "SearchQA-Terse-v0", {"name": "candidate", "checkpoint": str(candidate)}, episodes=3, corpus=WORLD
    )
    assert result.agent == "candidate"


# -- the command ----------------------------------------------------------------------------------------------------


def test_train_ends_with_the_command_that_evaluates_the_run(cli, tmp_path):
    run_dir = tmp_path / "a [b] 'c'; exit"
    arguments = [
        "--agent",
        "candidate",
        "--iterations",
        "1",
        "--questions",
        "2",
        "--group-size",
        "2",
        "--eval-episodes",
        "6",
    ]
    status, out, err = cli("train", *arguments, "--corpus", json.dumps(WORLD), "--run-dir", str(run_dir))
    assert status == 0, err
    prefix = "evaluate it again with: "
    (line,) = (line for line in out.splitlines() if line.startswith(prefix))
    program, *words = shlex.split(line.removeprefix(prefix))
    assert (program, words) == ("searchgym", ["eval", "--run", str(run_dir)])
    status, out, err = cli(*words)
    assert status == 0, err
    em = rows(run_dir)[-1]["eval"]["metrics"]["em"]["mean"]
    assert "decoding: greedy" in out
    assert f"the run recorded EM {em:.3f} after iteration 1: the same" in out
    assert "6 questions x 1" in out


@pytest.mark.parametrize("flag", ["--run", "--checkpoint"])
def test_eval_of_a_run_prints_the_recorded_figure(flag, candidate, cli):
    em = rows(candidate)[4]["eval"]["metrics"]["em"]["mean"]
    status, out, err = cli("eval", flag, str(candidate), "--json")
    assert status == 0, err
    data = json.loads(out)
    assert (data["metrics"]["em"]["mean"], data["questions"], data["env"]["max_rounds"]) == (em, 12, 5)
    status, out, _ = cli("eval", flag, str(candidate / "checkpoints" / "step-000002"))
    assert "iteration 2" in out.replace("\n", " ")
    assert ": the same" in out


@pytest.mark.parametrize(
    ("options", "questions"),
    [
        (["--episodes", "5"], 5),
        (["--split", "test"], 30),
        (["--env-option", "top_k=1"], 12),
        (["--num-envs", "3"], 12),
    ],
)
def test_options_of_eval_replace_those_of_the_run(options, questions, candidate, cli):
    status, out, err = cli("eval", "--run", str(candidate), *options, "--json")
    assert status == 0, err
    assert json.loads(out)["questions"] <= questions
    _, out, _ = cli("eval", "--run", str(candidate), *options)
    assert ("the run recorded" in out) == (options[0] == "--num-envs")


def test_several_samples_of_a_run_are_sampled(candidate, cli):
    status, out, err = cli("eval", "--run", str(candidate), "--samples", "3", "--judge", "oracle")
    assert status == 0, err
    assert "decoding: sampled, temperature 1" in out
    assert "pass@3" in out
    assert "verdicts, 0 errors" in out
    status, out, err = cli("eval", "--run", str(candidate), "--budget", "1,2")
    assert status == 0, err
    assert "stopped by the budget" in out


def test_weights_of_a_run_under_another_environment_are_noted(candidate, cli):
    arguments = ["eval", "--agent", "candidate", "--corpus", json.dumps(WORLD), "--episodes", "3"]
    status, out, err = cli(*arguments, "--agent-option", f"checkpoint={candidate}")
    assert status == 0, err
    assert f"these weights belong to the training run {candidate}" in out
    assert "decoding: sampled" in out
    status, out, _ = cli(*arguments)
    assert "these weights" not in out


def test_other_weights_are_opened_by_the_agent_that_is_named(candidate, cli, tmp_path):
    weights = tmp_path / "weights"
    CandidateAgent(checkpoint=candidate).save(weights)
    arguments = ["--checkpoint", str(weights), "--corpus", json.dumps(WORLD), "--episodes", "3"]
    assert cli("eval", "--agent", "candidate", *arguments).status == 0
    status, _, err = cli("eval", "--agent", "copy", *arguments)
    assert status == 2
    assert "'copy' has no weights to open with --checkpoint" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "nothing"], "--run nothing is not a training run"),
        (["--run", "RUN", "--checkpoint", "RUN"], "exclude each other"),
        (["--run", "RUN", "--agent", "copy"], "--agent copy does not go with the training run"),
        (["--run", "RUN", "--env", "SearchQA-v0"], "--env SearchQA-v0 does not go with"),
        (["--run", "RUN", "--replay", "tape"], "--replay tape does not go with"),
        (["--run", "RUN", "--env-option", "reward=f1"], "exists in training only"),
        (["--run", "RUN", "--env-option", "topk=1"], "Did you mean 'top_k'"),
        (["--run", "RUN", "--agent-option", "sed=1"], "Did you mean 'seed'"),
        (["--checkpoint", "RUN/checkpoints/step-000009"], "step-000009"),
    ],
)
def test_refusals(options, message, candidate, cli):
    status, out, err = cli("eval", *(word.replace("RUN", str(candidate)) for word in options))
    assert (status, out) == (2, "")
    assert message in err


def test_a_notebook_class_is_given_again(tmp_path):
    from searchgym.trainers.algorithms.grpo import GRPO

    class Mine(GRPO):
        pass

    run_dir = train({**COMMON, "agent": "candidate", "iterations": 1}, tmp_path / "run", trainer=Mine).run_dir
    with pytest.raises(ConfigError, match="Mine is a class of the session"):
        load_run(run_dir)
    assert load_run(run_dir, trainer=Mine).evaluate().questions == 12


def test_results_have_short_reprs(candidate, tmp_path):
    result = train({**COMMON, "agent": "candidate", "iterations": 1}, tmp_path / "run")
    for value in (result, load_run(candidate).evaluate(), result.trainer.loop.iterate()):
        assert len(repr(value)) < 400
