"""The tiny model's shape, its files, and what happens to damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from searchgym.agents.tiny.model import TinyConfig, build_model, load_model, load_weights, save_model
from searchgym.errors import CheckpointError, ConfigError

CONFIG = TinyConfig(vocab_size=90, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, rope_theta=500.0)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(build_model(CONFIG, seed=1), CONFIG, tmp_path)
    return tmp_path


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_model(CONFIG, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    assert all(p.dtype == torch.float32 for p in first.parameters())


def test_the_default_shape_has_the_intended_size() -> None:
    count = sum(p.numel() for p in build_model(TinyConfig(vocab_size=1500), seed=0).parameters())
    assert 100_000 < count < 700_000


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_models_are_equal_and_transformers_reads_them(tmp_path: Path, tied: bool) -> None:
    config = TinyConfig(
        vocab_size=90, width=32, head_dim=8, mlp_ratio=2.5, rope_theta=777.0, tie_embeddings=tied
    )
    model = build_model(config, seed=3)
    save_model(model, config, tmp_path)
    loaded, read = load_model(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert read == config
    ids = torch.arange(2, 80).unsqueeze(0)
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.equal(loaded(ids).logits, expected)
        assert torch.equal(theirs(ids).logits, expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_weights_of_another_shape_are_refused_and_nothing_changes(saved: Path) -> None:
    wider = TinyConfig(vocab_size=90, width=48, layers=2, heads=4, kv_heads=2, head_dim=8)
    deeper = TinyConfig(vocab_size=90, width=32, layers=3, heads=4, kv_heads=2, head_dim=8)
    for config, message in ((wider, "is \\[90, 32\\], this model's is \\[90, 48\\]"), (deeper, "layers.2")):
        model = build_model(config, seed=4)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            load_weights(model, config, saved)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_damaged_files_are_named(saved: Path) -> None:
    weights, config = saved / "model.safetensors", saved / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(saved)
    weights.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        load_model(saved)
    config.write_text(config.read_text()[:40])
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load_model(saved)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_model(saved)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds values that are not finite"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_size": "wide"}, "not a usable model configuration"),
        ({"hidden_size": 0}, "not a usable model configuration"),
        ({"num_key_value_heads": 3}, "must be a multiple of kv_heads"),
    ],
)
def test_configurations_of_something_else_are_refused(
    saved: Path, change: dict[str, object], message: str
) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"heads": 3, "kv_heads": 2}, "heads \\(3\\)"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan"),
    ],
)
def test_impossible_shapes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TinyConfig(**{"vocab_size": 90, **options})  # type: ignore[arg-type]
