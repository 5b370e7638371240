"""`searchgym train --agent hf`: a small chat model with an adapter learns, is stopped, continues, and opens elsewhere."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import preloaded
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from searchgym.agents.hf.agent import HFAgent
from searchgym.cli import main

sys.path.append(str(Path(__file__).resolve().parents[1] / "agents"))
from hf_models import WORLD, save_taught

LORA = {"rank": 4}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_taught(tmp_path_factory.mktemp("model"))


def arguments(model: str, run_dir: Path, iterations: int, *more: str) -> list[str]:
    options = {"model": model, "max_new_tokens": 16, "lora": json.dumps(LORA)}
    env_config = {
        "corpus": json.dumps(WORLD),
        "max_rounds": 2,
        "reward": '{"em": 1, "invalid": -0.5, "new_recall": 1}',
    }
    return [
        *("train", "--agent", "hf", "--run-dir", str(run_dir), "--iterations", str(iterations)),
        *(part for name, value in options.items() for part in ("--agent-option", f"{name}={value}")),
        *(part for name, value in env_config.items() for part in ("--env-option", f"{name}={value}")),
        *("--questions", "2", "--group-size", "4", "--eval-episodes", "0", "--checkpoint-every", "1"),
        *("--lr", "1e-2", *more),
    ]


def adapter(run_dir: Path, step: int) -> Path:
    (found,) = (p for p in (run_dir / "checkpoints").iterdir() if p.name.endswith(f"{step:06d}"))
    return found / "policy"


def test_two_iterations_are_resumed_bit_for_bit_and_the_adapter_opens_in_peft(
    taught: str, tmp_path: Path, no_curve: None
) -> None:
    more = ("--set", "kl_coef=0.05", "--token-budget", "400")
    assert main(arguments(taught, tmp_path / "a", 2, *more)) == 0
    assert main(arguments(taught, tmp_path / "b", 1, *more)) == 0
    assert main(["train", "--resume", "--run-dir", str(tmp_path / "b"), "--iterations", "2"]) == 0
    rows = [(tmp_path / name / "metrics.jsonl").read_text() for name in "ab"]
    assert rows[0] == rows[1]
    last = json.loads(rows[0].splitlines()[-1])
    assert last["updates"] > 0
    assert last["sampling_gap"] < 1e-3
    weights = [load_file(adapter(tmp_path / n, 2) / "adapter_model.safetensors") for n in "ab"]
    initial = load_file(adapter(tmp_path / "a", 0) / "adapter_model.safetensors")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in initial)
    assert any(not torch.equal(weights[0][name], initial[name]) for name in initial)

    base = AutoModelForCausalLM.from_pretrained(taught)
    plain = PeftModel.from_pretrained(base, adapter(tmp_path / "a", 2)).eval()
    agent = HFAgent(str(adapter(tmp_path / "a", 2)))
    tokens = torch.tensor([agent.tokenizer.encode("What is the river of Mira?")])
    with torch.no_grad():
        torch.testing.assert_close(agent.module(tokens).logits, plain(tokens).logits)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_run_goes_on_as_if_nothing_had_happened(taught: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from searchgym.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    child = preloaded.PreloadedPopen([*command, *arguments(taught, tmp_path / "killed", 3)])
    deadline = time.monotonic() + 600
    while not list((tmp_path / "killed").glob("checkpoints/*000001/trainer.json")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert main(["train", "--resume", "--run-dir", str(tmp_path / "killed")]) == 0
    assert main(arguments(taught, tmp_path / "straight", 3)) == 0
    killed, straight = ((tmp_path / n / "metrics.jsonl").read_text() for n in ("killed", "straight"))
    assert killed == straight
    weights = [
        (adapter(tmp_path / n, 3) / "adapter_model.safetensors").read_bytes() for n in ("killed", "straight")
    ]
    assert weights[0] == weights[1]
