"""`searchgym warmup`: what it writes, that it repeats, that it leaves no half-made thing; and the packaged result."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import searchgym.agents.tiny.warmup as module
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.agents.tiny.warmup import PHASES, Progress, WarmupConfig, warm_up
from searchgym.cli import main
from searchgym.errors import ConfigError
from searchgym.rollouts.evaluation import evaluate

SMALL = WarmupConfig(worlds=1, questions=40, batch_tokens=512, width=16, heads=2, head_dim=8, layers=1)
FILES = ["config.json", "model.safetensors", "tokenizer.json", "warmup.json"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command with a small world and model."""
    fields = ("worlds", "questions", "batch_tokens", "width", "heads", "head_dim", "layers")
    monkeypatch.setattr(
        module, "WarmupConfig", partial(WarmupConfig, **{f: getattr(SMALL, f) for f in fields})
    )
    library = module.Library
    monkeypatch.setattr(module, "Library", lambda seed, questions: library(seed, 1000, questions))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_command_writes_a_loadable_warm_start_and_repeats_itself(tmp_path, capsys):
    for name in ("a", "b"):
        assert main(["warmup", "--steps", "8", "--out", str(tmp_path / name)]) == 0
        assert f"wrote {tmp_path / name}" in capsys.readouterr().out
    assert main(["warmup", "--steps", "8", "--seed", "1", "--out", str(tmp_path / "c")]) == 0
    assert sorted(contents(tmp_path / "a")) == FILES
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["model.safetensors"] != contents(tmp_path / "c")["model.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
    agent = TinyAgent(checkpoint=tmp_path / "a")
    assert agent.config.width == 16
    made = json.loads((tmp_path / "a" / "warmup.json").read_text())
    assert len(made["config"]["steps"]) == len(PHASES)
    assert made["config"]["seed"] == 0


def test_it_learns(tmp_path):
    config = replace(SMALL, steps=(60, 1, 1, 1), warmup_steps=5, learning_rate=1e-2)
    reports = warm_up(tmp_path / "out", config, report_every=15)
    names = [r for r in reports if r.phase == "names"]
    assert names[-1].loss < 0.8 * names[0].loss
    assert [r.step for r in reports] == [15, 30, 45, 60, 63]


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_leaves_the_old_one(before, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    if before:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"old")
    real = module.warm_up

    def interrupted(out, config, *, report, **rest):
        def stop(progress: Progress) -> None:
            report(progress)
            raise KeyboardInterrupt

        return real(out, config, report=stop, report_every=2, **rest)

    monkeypatch.setattr(module, "warm_up", interrupted)
    assert main(["warmup", "--steps", "8", "--out", str(out)]) == 130
    error = capsys.readouterr().err
    assert "step 2" in error
    assert "Traceback" not in error
    assert contents(tmp_path) == ({"out/model.safetensors": b"old"} if before else {})


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_model", full)
    with pytest.raises(OSError, match="disk full"):
        warm_up(out, SMALL.shortened(4))
    assert contents(tmp_path) == {"out/model.safetensors": b"old"}


def test_mistakes_are_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for arguments, message in [
        (["--out", str(file)], "it is a file, give a directory"),
        (
            ["--out", str(tmp_path / "new"), "--device", "tpu"],
            "device 'tpu' is not available here: use 'cpu'",
        ),
    ]:
        assert main(["warmup", "--steps", "8", *arguments]) == 2
        captured = capsys.readouterr()
        said = [line for line in captured.err.splitlines() if line.startswith("searchgym: ")]
        assert len(said) == 1
        assert message in said[0]
        assert "Traceback" not in captured.err
    assert contents(tmp_path) == {"file": b"mine"}
    assert main(["warmup"]) == 2
    with pytest.raises(ConfigError, match="give 4 numbers"):
        WarmupConfig(steps=(1, 2))
    with pytest.raises(ConfigError, match="at least one"):
        WarmupConfig(worlds=0)


def test_the_packaged_warm_start_is_small_and_leaves_room_to_learn():
    data = Path(str(importlib.resources.files("searchgym.agents.tiny") / "data"))
    assert sorted(p.name for p in data.iterdir() if p.is_file()) == FILES
    assert (data / "model.safetensors").stat().st_size < 3_000_000
    agent = TinyAgent(greedy=True)
    result = evaluate("SearchQA-Terse-v0", agent, 60, split="dev", seed=0, types=["chain"], hops=[2, 3])
    assert result.questions == 60
    assert 0.1 < result.metrics["em"].value < 0.5
