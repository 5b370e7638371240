"""A training run replayed from its tape equals the recorded one bit for bit, without index and without judge."""

import json
import sys
import warnings
from pathlib import Path

import preloaded
import pytest
from flaky_parts import break_parts, mend_parts
from helpers import small_world

import searchgym.trainers.training.loop
from searchgym.cli import main
from searchgym.corpora.bm25.index import BM25
from searchgym.errors import ConfigError, TapeError
from searchgym.judges.oracle import OracleJudge
from searchgym.records.episode import load_episodes
from searchgym.trainers.training.api import resume, train

pytestmark = pytest.mark.usefixtures("no_curve")

WORLD = small_world("country-terse")
CONFIG = {
    "agent": "candidate",
    "env_options": {"corpus": WORLD, "judge": "oracle", "reward": {"recall": 1.0, "utility": 0.1}},
    "iterations": 6,
    "questions": 4,
    "settings": {"group_size": 4},
    "eval_episodes": 6,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
}


@pytest.fixture
def no_parts(monkeypatch):
    """A function after which neither index nor judge can be opened or asked."""

    def forbid():
        def touched(*_, **__):
            raise AssertionError("a replay touched the index or the judge")

        monkeypatch.setattr("searchgym.corpora.bm25.index.open_bm25", touched)
        monkeypatch.setattr(BM25, "search", touched)
        monkeypatch.setattr(OracleJudge, "__init__", touched)
        monkeypatch.setattr(OracleJudge, "judge", touched)

    return forbid


def outputs(run_dir):
    """Everything a run leaves that is not a time or a path: metrics, checkpoints, weights, episodes."""
    files = [run_dir / "metrics.jsonl"]
    files += [p for place in ("checkpoints", "episodes") for p in (run_dir / place).rglob("*") if p.is_file()]
    assert any(f.suffix == ".safetensors" for f in files)
    return {str(f.relative_to(run_dir)): f.read_bytes() for f in files}


def learned(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return rows[-1]["policy_version"] > 0 and any(row.get("judged") for row in rows)


def test_a_replayed_run_equals_the_recorded_one(tmp_path, no_parts):
    train(CONFIG, tmp_path / "plain")
    train({**CONFIG, "record": str(tmp_path / "t")}, tmp_path / "recorded")
    no_parts()
    train({**CONFIG, "replay": str(tmp_path / "t")}, tmp_path / "replayed")
    assert learned(tmp_path / "recorded")
    recorded = outputs(tmp_path / "recorded")
    assert outputs(tmp_path / "replayed") == recorded
    # Recording changes nothing either, but for where on the tape each checkpoint stands.
    plain = outputs(tmp_path / "plain")
    assert {k for k in plain if plain[k] != recorded[k]} == {
        f"checkpoints/step-{i:06d}/trainer.json" for i in (0, 2, 4, 6)
    }


def test_the_language_model_too(tmp_path, no_parts):
    config = {
        **CONFIG,
        "agent": "tiny",
        "env_options": {**CONFIG["env_options"], "types": ["chain"], "judge_when": "unequal"},
        "iterations": 2,
    }
    config["env_options"]["reward"] = "f1"
    train({**config, "record": str(tmp_path / "t")}, tmp_path / "recorded")
    no_parts()
    train({**config, "replay": str(tmp_path / "t")}, tmp_path / "replayed")
    assert learned(tmp_path / "recorded")
    assert outputs(tmp_path / "replayed") == outputs(tmp_path / "recorded")


def test_failures_are_replayed_where_they_happened_also_after_a_kill(tmp_path, no_parts):
    """kill -9 while recording, resumed with other failures: the replay of the whole equals the resumed run."""
    config = {**CONFIG, "record": str(tmp_path / "t")}
    script = Path(__file__).parent / "flaky_parts.py"
    preloaded.run([sys.executable, script, json.dumps(config), tmp_path / "recorded"], check=True)
    recorded = outputs(tmp_path / "recorded")
    rows = [json.loads(line) for line in recorded["metrics.jsonl"].splitlines()]
    assert sum(row.get("judge_errors", 0) for row in rows) > 0
    assert sum(row.get("invalid_episodes", 0) for row in rows) > 0
    assert '"keep":' in (tmp_path / "t").read_text()  # the killed course was left
    no_parts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train({**CONFIG, "replay": str(tmp_path / "t")}, tmp_path / "replayed")
    assert outputs(tmp_path / "replayed") == recorded


def test_an_interrupted_recording_and_an_interrupted_replay(tmp_path, no_parts, monkeypatch):
    real = searchgym.trainers.training.loop.Loop.iterate

    def interrupt(self, watch):
        result = real(self, watch)
        if self.iteration == 5:
            raise KeyboardInterrupt
        return result

    def in_two_parts(config, run_dir):
        with monkeypatch.context() as patch:
            patch.setattr(searchgym.trainers.training.loop.Loop, "iterate", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(config, run_dir)
        resume(run_dir)

    try:
        break_parts(3)
        in_two_parts({**CONFIG, "record": str(tmp_path / "t")}, tmp_path / "recorded")
    finally:
        mend_parts()
    no_parts()
    in_two_parts({**CONFIG, "replay": str(tmp_path / "t")}, tmp_path / "replayed")
    assert outputs(tmp_path / "replayed") == outputs(tmp_path / "recorded")
    train({**CONFIG, "replay": str(tmp_path / "t")}, tmp_path / "straight")
    assert outputs(tmp_path / "straight") == outputs(tmp_path / "recorded")


def test_what_the_tape_lacks_ends_the_run_and_it_can_go_on_with_more(tmp_path):
    train({**CONFIG, "iterations": 2, "record": str(tmp_path / "t")}, tmp_path / "recorded")
    with pytest.raises(TapeError, match=r"has no (search|verdict)"):
        train({**CONFIG, "replay": str(tmp_path / "t")}, tmp_path / "replayed")
    resume(tmp_path / "recorded", iterations=6)  # continues to record
    resume(tmp_path / "replayed")
    plain = train({**CONFIG, "replay": str(tmp_path / "t")}, tmp_path / "straight")
    assert outputs(tmp_path / "replayed") == outputs(tmp_path / "straight")
    assert plain.metrics[-1]["iteration"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": "rules"}, "judge 'oracle', here 'rules'"),
        ({"retriever": {"name": "bm25", "k1": 1.2}}, "retriever 'bm25', here {'name': 'bm25', 'k1': 1.2}"),
        ({"corpus": {**WORLD, "size": 2000}}, "corpus_hash"),
    ],
)
def test_a_tape_of_something_else_stops_before_anything_is_written(tmp_path, changes, message):
    train({**CONFIG, "iterations": 1, "record": str(tmp_path / "t")}, tmp_path / "recorded")
    changed = {**CONFIG, "env_options": {**CONFIG["env_options"], **changes}}
    for option in ("record", "replay"):
        with pytest.raises(TapeError) as caught:
            train({**changed, option: str(tmp_path / "t")}, tmp_path / "other")
        assert message in str(caught.value)
    assert not (tmp_path / "other").exists()


def test_from_the_command_line(tmp_path, capsys, monkeypatch, no_parts):
    monkeypatch.chdir(tmp_path)
    options = ["--agent", "candidate", "--iterations", "1", "--questions", "2", "--group-size", "2"]
    options += ["--eval-episodes", "2", "--env-option", f"corpus={json.dumps(WORLD)}"]
    assert main(["train", *options, "--record", "t", "--run-dir", "a"]) == 0
    assert main(["train", *options, "--record", "t", "--replay", "t", "--run-dir", "b"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["train", "--resume", "--record", "u", "--run-dir", "a"]) == 2
    assert "record cannot change when resuming" in capsys.readouterr().err
    no_parts()
    assert main(["train", *options, "--replay", "t", "--run-dir", "b"]) == 0
    monkeypatch.chdir(tmp_path / "a")  # a run keeps its tape wherever it is resumed from
    assert main(["train", "--resume", "--run-dir", "../b", "--replay", "../t"]) == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
    cards = [json.loads((tmp_path / n / "config.json").read_text()) for n in "ab"]
    assert [c["config"].pop("record") for c in cards] == [str(tmp_path / "t"), ""]
    assert [c["config"].pop("replay") for c in cards] == ["", str(tmp_path / "t")]
    assert cards[0] == cards[1]


def test_the_records_name_what_was_recorded(tmp_path, no_parts):
    train({**CONFIG, "iterations": 1, "record": str(tmp_path / "t")}, tmp_path / "recorded")
    no_parts()
    train({**CONFIG, "iterations": 1, "replay": str(tmp_path / "t")}, tmp_path / "replayed")
    episode = next(load_episodes(tmp_path / "replayed" / "episodes" / "train-000001.jsonl"))
    assert episode.env["retriever"] == "bm25"
    assert episode.env["judge"] == "oracle"
    assert len(episode.env["index_hash"]) == 32


def test_a_tape_inside_the_run_directory_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="is not empty"):
        train({**CONFIG, "record": str(tmp_path / "run" / "t")}, tmp_path / "run")
