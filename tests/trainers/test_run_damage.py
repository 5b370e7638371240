"""Damaged run directories and checkpoints: a typed error that names the file, and nothing is lost."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import candidate_run

from searchgym.agents.candidate import CandidateAgent
from searchgym.errors import CheckpointError, RunDirectoryError, SearchGymError
from searchgym.trainers import load_credit
from searchgym.trainers.learner.failures import load_failure
from searchgym.trainers.training import resume, train

pytestmark = pytest.mark.usefixtures("no_curve")

LAST = "checkpoints/step-000002"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, never changed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    world = {"name": "country-terse", "size": 1000, "train": 20, "dev": 5, "test": 5}
    changes: dict[str, Any] = {
        "env_options": {"corpus": world, "reward": {"recall": 1.0}},
        "iterations": 2,
        "questions": 2,
        "checkpoint_every": 1,
        "eval_episodes": 2,
        "eval_every": 1,
        "keep_best": "em",
        "rollout_lag": 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("searchgym.trainers.training.recorder.draw_curve", lambda *_: None)
        train(candidate_run(**changes), path)
    return path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


FILES = [
    "config.json",
    f"{LAST}/trainer.json",
    f"{LAST}/tensors.safetensors",
    f"{LAST}/policy/candidate.json",
    f"{LAST}/policy/model.safetensors",
    f"{LAST}/policy/checksums.json",
    "checkpoints/step-000000/policy/model.safetensors",
    "checkpoints/step-000000/trainer.json",
]


def weights(run: Path) -> Path:
    return next((run / LAST / "policy").glob("*.safetensors"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(run: Path, name: str, seed: int) -> None:
    path = weights(run) if name == f"{LAST}/policy/model.safetensors" else run / name
    if "step-000000/policy" in name:
        path = run / "checkpoints" / "step-000000" / "policy" / weights(run).name
    data, rng = bytearray(path.read_bytes()), random.Random(f"{name} {seed}")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(
        (RunDirectoryError, CheckpointError), match=r"damaged|not what was written|schema|config\.json"
    ):
        resume(run, iterations=3)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_every_single_bit_of_the_first_bytes_of_weights(run: Path) -> None:
    path, agent = weights(run), CandidateAgent()
    good = path.read_bytes()
    for bit in range(0, 8 * 40, 7):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged"):
            agent.load_weights(path.parent)
    path.write_bytes(good)
    agent.load_weights(path.parent)


@pytest.mark.parametrize(
    "name", [*FILES[:3], "metrics.jsonl", "timings.jsonl", "checkpoints/step-000001/ahead.jsonl"]
)
@pytest.mark.parametrize("kind", ["pipe", "endless", "directory", "half"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_something_else_in_the_place_of_a_file(run: Path, name: str, kind: str) -> None:
    path = run / name
    if "step-000001" in name:
        shutil.rmtree(run / LAST)
    content = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(content[: len(content) // 2])
        if name in ("metrics.jsonl", "timings.jsonl"):  # a cut last line is what a kill leaves
            path.write_bytes(content[: len(content) // 2] + b"\n")
    with pytest.raises(SearchGymError) as caught:
        resume(run, iterations=3)
    assert Path(name).name in str(caught.value) or "checkpoint" in str(caught.value)


LINES = [
    b"{",
    b"[]",
    b"3",
    b"null",
    b"\xff\xfe",
    b'{"iteration": "2"}',
    b'{"iteration": true}',
    b'{"iteration": 1.0}',
    b'{"iteration": -1}',
    b'{"iteration": 1}',
    b"{}",
    b'{"iteration": NaN}',
    b'{"iteration": 1e999}',
    b"[" * 100_000,
    b'{"iteration": 3, "update": "fast"}',
    b'{"iteration": 3, "update": [1]}',
    b'{"iteration": 3, "update": Infinity}',
    b'{"iteration": ' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
def test_a_bad_line_is_named(run: Path, name: str, line: bytes) -> None:
    with (run / name).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RunDirectoryError, match=rf"{name}, line 4: damaged"):
        resume(run, iterations=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"episodes": None},
        {"episodes": "many"},
        {"invalid_episodes": -1},
        {"groups": 2.5},
        {"em": 1.5},
        {"em": "0.5"},
        {"truncated": -0.1},
        {"eval": []},
        {"eval": {}},
        {"eval": {"metrics": {"em": 0.5}}},
        {"eval": {"metrics": {"em": {"mean": None, "low": 0, "high": 1}}}},
        {"alarms": {"em": 1}},
    ],
)
def test_a_row_without_what_a_resumed_run_needs(run: Path, changes: dict[str, Any]) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl, line 2: damaged"):
        resume(run, iterations=3)


def change_config(run: Path, change: Callable[[dict[str, Any]], Any], seal: bool) -> None:
    stored = json.loads((run / "config.json").read_text())
    change(stored)
    if not seal:
        del stored["digest"]
    (run / "config.json").write_text(json.dumps(stored))


JUNK: list[Any] = [None, True, -1, 10**30, float("nan"), float("inf"), "x", [], {"a": 1}]


@pytest.mark.parametrize("value", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize(
    "key",
    ["iterations", "lr", "seed", "env_options", "settings", "eval_split", "keep_best", "agent", "threads"],
)
def test_values_of_a_configuration_that_cannot_be(run: Path, key: str, value: Any) -> None:
    """Found by the digest; and without one, by the options' own checks."""
    change_config(run, lambda stored: stored["config"].update({key: value}), seal=True)
    with pytest.raises(RunDirectoryError, match=r"config\.json is (damaged|not what was written)"):
        resume(run)
    if (key, value) in (
        ("iterations", 10**30),
        ("lr", True),
        ("seed", True),
        ("settings", {}),
        ("lr", 10**30),
    ):
        return  # a legal value, or a very long run
    change_config(run, lambda stored: None, seal=False)
    with pytest.raises(SearchGymError):
        resume(run)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "3", "null", '{"schema": 1}', '{"schema": true, "config": {}}', '{"schema": 1, "config": []}'],
)
def test_a_configuration_that_is_none(run: Path, content: str) -> None:
    (run / "config.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"config\.json"):
        resume(run)


def test_rows_that_were_changed_are_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["em"] = 0.75
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        resume(run, iterations=3)
    assert "rows up to iteration 2 were changed" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        resume(run, iterations=4)
    assert "were changed" not in caplog.text, "what was said once is known"


def test_checkpoints_that_are_gone_do_not_start_the_run_again(run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunDirectoryError, match="no checkpoint"):
        resume(run, iterations=3)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_of_another_iteration(run: Path) -> None:
    (run / LAST).rename(run / "checkpoints" / "step-000001-old")
    shutil.copytree(run / "checkpoints" / "step-000001", run / LAST)
    with pytest.raises(CheckpointError, match="of iteration 1"):
        resume(run, iterations=3)


def test_what_a_kill_left_is_removed(run: Path) -> None:
    left = [run / "episodes" / ".train-000002.jsonl.0a1b2c3d.tmp", run / "credit" / ".train-000002.safetensors.tmp",
            run / ".config.json.tmp", run / "checkpoints" / ".tmp-3" / "trainer.json", run / "episodes" / ".tmp-x"]  # fmt: skip
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half of")
    kept = run / "episodes" / "notes.tmp"
    kept.write_text("a file of the user")
    resume(run)
    assert not [path for path in left if path.exists()]
    assert not (run / "checkpoints" / ".tmp-3").exists()
    assert kept.exists()


def test_checkpoints_of_earlier_versions_have_no_checksums(run: Path) -> None:
    for path in run.rglob("checksums.json"):
        path.unlink()
    for path in run.rglob("trainer.json"):
        data = json.loads(path.read_text())
        for name in ("checksums", "digest"):
            del data[name]
        for name in ("rows", "counts"):
            del data["counters"][name]
        path.write_text(json.dumps(data))
    assert len(resume(run, iterations=3).metrics) == 4


TRAINER_JUNK: list[tuple[str, Any]] = [
    ("policy", []), ("parameters", None), ("parameters", [1]), ("policy_version", "x"), ("counters", []),
    ("counters", {"iteration": 2}), ("optimizer_values", [1]), ("optimizer_values", [["weights", [], 1]]), ("schema", None),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), TRAINER_JUNK, ids=range(len(TRAINER_JUNK)))
def test_unsealed_checkpoints_are_checked_value_by_value(run: Path, key: str, value: Any) -> None:
    path = run / LAST / "trainer.json"
    data = json.loads(path.read_text())
    del data["digest"]
    path.write_text(json.dumps(data | {key: value}))
    with pytest.raises(CheckpointError, match="step-000002"):
        resume(run, iterations=3)


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_credit_record(run: Path, seed: int) -> None:
    path = run / "credit" / "train-000002.safetensors"
    data, rng = bytearray(path.read_bytes()), random.Random(seed)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    with pytest.raises(RunDirectoryError, match="is damaged"):
        load_credit(run, 2)


def test_a_failure_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not hold a complete failure"):
        load_failure(tmp_path / "failed-000001")
