"""Weights in huge pages: the same values, in memory of the process's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hf_models import save_family
from transformers import AutoModelForCausalLM

from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.lm.huge_pages import place_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_values_and_ties_and_leave_their_file(tmp_path: Path, dtype: torch.dtype) -> None:
    path = save_family(tmp_path / "model")
    stored = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    before = {name: weight.clone() for name, weight in stored.state_dict().items()}
    model = place_model(stored, CPU)
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)  # in place: it would change the weights that are mapped
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    model(torch.tensor([[1, 2, 3]])).logits.float().sum().backward()
    weight = model.get_input_embeddings().weight
    torch.optim.SGD([weight], 1.0).step()
    assert not weight.equal(before["model.embed_tokens.weight"])


def test_copying_a_checkpoint_over_another_does_not_change_the_loaded_agent(tmp_path: Path) -> None:
    first, second = (save_family(tmp_path / name) for name in ("first", "second"))
    agent = HFAgent(model=first, dtype="float32", device="cpu")
    before = {name: weight.clone() for name, weight in agent.model.state_dict().items()}
    (Path(first) / "model.safetensors").write_bytes((Path(second) / "model.safetensors").read_bytes())
    for name, weight in agent.model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


def test_a_model_without_weights_and_one_elsewhere_stay() -> None:
    place_model(torch.nn.Identity(), CPU)
    meta = torch.nn.Linear(8, 8, device="meta")
    assert place_model(meta, torch.device("meta")).weight.is_meta
