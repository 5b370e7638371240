"""Loaded weights: the same values, in memory of the process's own, in huge pages if they are large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hf_models import save_family
from transformers import AutoModelForCausalLM

from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.hf.judge import LocalJudge
from searchgym.agents.lm import huge_pages
from searchgym.agents.lm.huge_pages import place_model
from searchgym.trainers.prm.backbones import open_backbone

CPU = torch.device("cpu")


@pytest.mark.parametrize("smallest", [1, 2**21])  # bytes of a weight that gets pages of its own
def test_weights_keep_values_and_ties_and_can_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smallest: int
) -> None:
    monkeypatch.setattr(huge_pages, "_HUGE", smallest)
    path = save_family(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    place_model(model, CPU)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)
    weight = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is weight
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    torch.optim.SGD([weight], 1.0).step()
    assert not weight.equal(before["model.embed_tokens.weight"])


OPENED: dict[str, Callable[[str], torch.nn.Module]] = {
    "agent": lambda path: HFAgent(model=path, dtype="float32", device="cpu").model,
    "judge": lambda path: LocalJudge(None, path, dtype="float32", device="cpu")._reader._lm.model,
    "reward model": lambda path: open_backbone("hf", {"checkpoint": path, "device": "cpu"}).network.model,
}


@pytest.mark.parametrize("what", OPENED)
def test_a_checkpoint_that_is_copied_over_another_does_not_change_what_is_loaded(
    tmp_path: Path, what: str
) -> None:
    files = [
        Path(save_family(tmp_path / str(n), initializer_range=0.1 + n)) / "model.safetensors" for n in (0, 1)
    ]
    model = OPENED[what](str(files[0].parent))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    old = files[0].read_bytes()
    files[0].write_bytes(files[1].read_bytes())
    assert files[0].read_bytes() != old
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_weights_of_other_kinds() -> None:
    model = torch.nn.Module()
    storage = torch.arange(6.0)
    model.one, model.other = torch.nn.Parameter(storage), torch.nn.Parameter(storage)
    model.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    model.register_buffer("quantised", torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8))
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    model.register_buffer("empty", torch.empty(0))
    place_model(model, CPU)
    with torch.no_grad():
        model.one[0] = 7.0
    assert model.other[0] == 7.0
    assert storage[0] == 0.0
    assert model.turned.tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert model.turned.stride() == (1, 3)
    assert model.quantised.dequantize().tolist() == pytest.approx([1.0] * 4)
    assert model.sparse.to_dense().equal(torch.eye(3))


def test_without_memory_for_a_copy_the_model_is_used_as_it_was_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(huge_pages, "_HUGE", 4096)
    monkeypatch.setattr(huge_pages.mmap, "mmap", full)
    layer = torch.nn.Linear(64, 64)
    before = layer.weight.detach().clone()
    assert place_model(layer, CPU).weight.equal(before)
