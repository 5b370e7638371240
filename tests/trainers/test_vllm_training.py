"""`searchgym train --agent hf` with the acts drawn by a vLLM server: the protocol is vLLM's, the numbers a real model's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.stub_vllm import StubVLLM
from test_hf_training import arguments, save_taught

from searchgym.cli import main


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_taught(tmp_path_factory.mktemp("model"))


@pytest.fixture
def stub(taught: str) -> Iterator[StubVLLM]:
    with StubVLLM(taught) as server:
        yield server


def served(stub: StubVLLM, run_dir: Path, iterations: int, *more: str) -> list[str]:
    engine = json.dumps({"base_url": stub.url, "patience": 0.3})
    options = ("--agent-option", "engine=vllm-server", "--agent-option", f"engine_options={engine}")
    room = ("--agent-option", "max_context=1500", "--temperature", "0.8")
    return arguments(str(stub._directory), run_dir, iterations, *options, *room, *more)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_an_adapter_is_trained_and_a_run_whose_server_died_is_resumed_bit_for_bit(
    stub: StubVLLM, tmp_path: Path, no_curve: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(served(stub, tmp_path / "straight", 2)) == 0
    last = rows(tmp_path / "straight")[-1]
    assert last["updates"] > 0
    assert last["sampling_gap"] < 1e-3  # the server samples from the trainer's own weights, tempered
    assert len(set(stub.loaded)) == 2  # in each iteration from another adapter
    assert {body["temperature"] for body in stub.bodies if len(body["prompt"]) > 1} == {0.8}

    assert main(served(stub, tmp_path / "broken", 1)) == 0
    resume = ["train", "--resume", "--run-dir", str(tmp_path / "broken"), "--iterations", "2"]
    stub.hang_up()
    assert main(resume) == 2
    assert "no vLLM server answers" in capsys.readouterr().err
    stub.start_anew()
    stub.listen()
    assert main(resume) == 0
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")


def test_all_weights_are_trained_on_what_the_server_draws(
    stub: StubVLLM, tmp_path: Path, no_curve: None
) -> None:
    assert main(served(stub, tmp_path, 2, "--agent-option", "lora=null", "--lr", "1e-3")) == 0
    assert rows(tmp_path)[-1]["sampling_gap"] < 1e-3
    assert len(stub.loaded) == 2


def test_acts_that_are_lost_lose_their_episodes_and_no_others(
    stub: StubVLLM, tmp_path: Path, no_curve: None
) -> None:
    stub.act = lambda number, body: "bad_request" if number in (3, 8) else "ok"
    assert main(served(stub, tmp_path, 1)) == 0
    row = rows(tmp_path)[-1]
    assert row["invalid_episodes"] == 2
    assert row["sampling_gap"] < 1e-3
