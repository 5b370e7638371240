"""Tapes where users meet them: the environment's arguments `record` and `replay`, and the commands."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from fixtures.stub_llm import StubLLM
from helpers import CommandLine, Result
from toys import RIGHT, SEARCH, WRONG, Probe, play

import searchgym
from searchgym.env.env import SearchEnv
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, TapeError
from searchgym.judges.oracle import OracleJudge
from searchgym.options import plugins
from searchgym.records.episode import Episode, load_episodes
from searchgym.rollouts.collection import open_agent
from searchgym.specs import open_corpus, open_retriever

ARGUMENTS: dict[str, Any] = {"judge": "oracle", "reward": {"em": 1.0, "utility": 0.5}, "top_k": 2}
MESSAGES = [SEARCH, "<search>Corvin Mills</search>", "no act", RIGHT]


@pytest.fixture
def no_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which no retriever and no judge can be opened."""
    load = plugins.load

    def only_others(group: str, name: str) -> Any:
        assert group not in ("retrievers", "judges"), f"a replay opened {name!r} of {group}"
        return load(group, name)

    def forbid() -> None:
        from searchgym import specs

        specs._open_shared.cache_clear()
        monkeypatch.setattr(plugins, "load", only_others)

    return forbid


def same(episodes: list[Episode]) -> list[dict[str, Any]]:
    """Episodes without their random ids."""
    records = [e.to_json() for e in episodes]
    for record in records:
        for name in ("episode_id", "group_id", "tree_id"):
            del record[name]
        for round_ in record["rounds"]:
            del round_["uid"]
    return records


def test_an_environment_replays_every_step(toy: str, tmp_path: Path, no_parts: Callable[[], None]) -> None:
    tape = str(tmp_path / "t")
    plain = play(SearchEnv(corpus=toy, **ARGUMENTS), *MESSAGES)
    assert play(SearchEnv(corpus=toy, record=tape, **ARGUMENTS), *MESSAGES) == plain
    no_parts()
    env = SearchEnv(corpus=toy, replay=tape, **ARGUMENTS)
    assert play(env, *MESSAGES) == plain
    assert plain[1][4]["judge"]["utility"] == 1.0
    assert env.stats["judgements"] == 4
    with pytest.raises(TapeError, match="has no verdict on round 1 of question 'employer-town'"):
        play(env, WRONG)


def test_gymnasium_makes_pickles_and_spells_it_out(
    toy: str, tmp_path: Path, no_parts: Callable[[], None]
) -> None:
    arguments = {"corpus": toy, "record": str(tmp_path / "t"), **ARGUMENTS}
    env = gym.make("SearchQA-v0", **arguments)
    copied = pickle.loads(pickle.dumps(env))  # in one process it is the same tape
    expected = play(copied.unwrapped, *MESSAGES)
    assert play(env.unwrapped, *MESSAGES) == expected  # type: ignore[arg-type]
    no_parts()
    arguments["replay"] = arguments.pop("record")
    made = gym.make("SearchQA-v0", **arguments)
    assert made.spec is not None
    for replayed in (
        made,
        pickle.loads(pickle.dumps(made)),
        gym.make(type(made.spec).from_json(made.spec.to_json())),
    ):
        assert play(replayed.unwrapped, *MESSAGES) == expected


def test_a_vector_replays_a_vector_and_its_snapshots(
    toy: str, tmp_path: Path, no_parts: Callable[[], None]
) -> None:
    def course(**tape: str) -> list[Any]:
        envs = SearchVectorEnv(2, corpus=toy, autoreset_mode="Disabled", **ARGUMENTS, **tape)
        envs.reset(options={"task_ids": ["employer-town", "river-length"]})
        seen = [envs.step([SEARCH, "<search>Velm town</search>"])]
        envs.restore(1, envs.snapshot(0))
        seen += [envs.step(["<search>Corvin Mills</search>", RIGHT]), envs.step([WRONG, ""])]
        return [repr(step) for step in seen]

    recorded = course(record=str(tmp_path / "t"))
    no_parts()
    assert course(replay=str(tmp_path / "t")) == recorded


def test_failures_of_live_parts_are_replayed(toy: str, tmp_path: Path) -> None:
    tape = str(tmp_path / "t")
    flaky = Probe(open_retriever("bm25", open_corpus(toy)), fails=lambda query: query == "Corvin Mills")
    recorded = play(SearchEnv(corpus=toy, retriever=flaky, judge=OracleJudge(), record=tape), *MESSAGES[:2])
    flaky.down = True
    replayed = play(SearchEnv(corpus=toy, retriever=flaky, judge=OracleJudge(), replay=tape), *MESSAGES[:2])
    assert replayed == recorded
    assert replayed[-1][4]["outcome"]["stop_reason"] == "retrieval_failed"
    assert len(flaky.calls) == 2  # the replay asked nothing


@pytest.mark.parametrize("when", ["step", "end", "success", "unequal"])
def test_an_evaluation_replays_whenever_its_judge_runs(
    small_world: dict[str, Any], tmp_path: Path, when: str, no_parts: Callable[[], None]
) -> None:
    arguments: dict[str, Any] = {"corpus": small_world, "judge": "oracle", "judge_when": when, "num_envs": 7}
    tape = str(tmp_path / "t")
    recorded = searchgym.evaluate("SearchQA-v0", "copy", 20, samples=2, record=tape, **arguments)
    no_parts()
    replayed = searchgym.evaluate("SearchQA-v0", "copy", 20, samples=2, replay=tape, **arguments)
    assert same(replayed.episodes) == same(recorded.episodes)
    # Another batch size makes the same calls in another order.
    arguments["num_envs"] = 3
    again = searchgym.evaluate("SearchQA-v0", "copy", 20, samples=2, replay=tape, **arguments)
    assert same(again.episodes) == same(recorded.episodes)


def test_a_run_judged_by_a_language_model_replays_without_it(
    small_world: dict[str, Any], tmp_path: Path
) -> None:
    with StubLLM() as server:
        options = {
            "base_url": server.url,
            "model": server.model,
            "api_key_env": None,
            "cache": str(tmp_path / "a"),
        }
        arguments: dict[str, Any] = {
            "corpus": small_world,
            "split": "dev",
            "judge": {"name": "llm", **options},
            "reward": {"correct": 1.0, "contribution": 0.5},
        }
        tape = str(tmp_path / "t")
        recorded = searchgym.rollout("SearchQA-v0", "copy", 6, record=tape, **arguments)
        asked = len(server.bodies)
    assert {r.judge.status for e in recorded for r in e.rounds} == {"ok"}
    envs = searchgym.make_vec("SearchQA-v0", 6, replay=tape, **arguments)
    replayed = searchgym.collect(envs, open_agent("copy"), [e.task_id for e in recorded])
    assert same(replayed) == same(recorded)
    assert asked == len(server.bodies) > 0
    stats = envs.stats
    assert stats["judge_calls"] == stats["judge_usd"] == 0
    assert stats["judge_replayed_calls"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"record": "a", "replay": "b"}, "record='a' and replay='b': give one of them"),
        ({"record": 5}, "record is 5: give the path of a tape"),
        ({"replay": ""}, "replay is '': give the path of a tape"),
        ({"replay": "no such tape"}, "cannot be read: No such file"),
    ],
)
def test_arguments_that_cannot_be_used(toy: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchEnv(corpus=toy, **arguments)


# -- the commands --------------------------------------------------------------------------------------


@pytest.fixture
def run(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy: str) -> CommandLine:
    """Run a command on the toy corpus in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: str, stdin: str = "") -> Result:
        return cli(command, "--env-option", f"corpus={json.dumps(toy)}", *arguments, stdin=stdin)

    return call


def test_eval_records_and_replays(run: CommandLine, no_parts: Callable[[], None]) -> None:
    judged = ["--agent", "copy", "--judge", "oracle", "--json"]
    status, first, _ = run("eval", *judged, "--record", "t", "--save", "a.jsonl")
    assert status == 0
    no_parts()
    status, second, _ = run("eval", *judged, "--replay", "t", "--save", "b.jsonl")
    assert status == 0
    assert same(list(load_episodes("a.jsonl"))) == same(list(load_episodes("b.jsonl")))
    results = [json.loads(out) for out in (first, second)]
    for result in results:
        result.get("judged", {}).pop("judge_seconds", None)
    assert results[0] == results[1]

    status, _, err = run("eval", "--agent", "copy", "--replay", "t")
    assert status == 2
    assert "was recorded with judge 'oracle', here None" in err
    status, _, err = run("eval", *judged, "--replay", "t", "--split", "train")
    assert status == 2
    assert "has no search for" in err
    status, _, err = run("eval", "--env-option", "replay=t")
    assert status == 2
    assert "--env-option replay=t: use --replay t" in err


def test_play_records_and_replays(run: CommandLine, no_parts: Callable[[], None]) -> None:
    typed = "Anna Reed\n/answer Tarn\n"
    options = ["--task-id", "employer-town"]
    first = run("play", *options, "--record", "t", stdin=typed)
    assert first[0] == 0
    no_parts()
    assert run("play", *options, "--replay", "t", stdin=typed) == first
    status, _, err = run("play", *options, "--replay", "t", stdin="Corvin Mills\n")
    assert status == 2
    assert "has no search for 'Corvin Mills' with k=3 (call 0 of this run)" in err
