"""Weights in huge pages: the same values, in memory of the process's own."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from hf_models import save_family
from transformers import AutoModelForCausalLM

from searchgym.agents.lm import huge_pages
from searchgym.agents.lm.huge_pages import place_model

CPU = torch.device("cpu")


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no huge pages to ask for")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_values_and_ties_and_leave_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    path = save_family(tmp_path / "model")
    stored = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    before = {name: weight.clone() for name, weight in stored.state_dict().items()}
    monkeypatch.setattr(huge_pages, "_WORTHWHILE", 1)
    model = place_model(stored, CPU)
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)  # in place: a mapped file would change the weights
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    model(torch.tensor([[1, 2, 3]])).logits.float().sum().backward()
    weight = model.get_input_embeddings().weight
    torch.optim.SGD([weight], 1.0).step()
    assert not weight.equal(before["model.embed_tokens.weight"])


def test_small_models_stay_where_they_are() -> None:
    layer = torch.nn.Linear(8, 8)
    address = layer.weight.data_ptr()
    assert place_model(layer, CPU).weight.data_ptr() == address
