"""Estimates of memory and operations, held to real (small) models."""

import ctypes
import dataclasses
import gc
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from searchgym.agents.hf.lora import Adapter, LoraOptions
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.network import open_network
from searchgym.errors import ConfigError
from searchgym.trainers.learner.optimizers import OPTIMIZERS, make_optimizer
from searchgym.trainers.planning.architecture import Architecture, read_architecture
from searchgym.trainers.planning.estimate import (
    HARDWARE,
    Plan,
    activation_bytes,
    memory,
    state_bytes,
    total,
)
from searchgym.trainers.planning.times import operations, seconds

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
TOKENS = 256


def meta_model(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(model):
    return sum(p.numel() for p in model.parameters())


def small_model(layers=3, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = Qwen3Config(**{**SMALL, "num_hidden_layers": layers, "tie_word_embeddings": True, **changes})
    return Qwen3ForCausalLM(config).to(dtype), Architecture.from_config(config.to_dict())


def plan(architecture, **changes):
    values = {
        "architecture": architecture,
        "element": 4,
        "rank": 0,
        "targets": (),
        "states": 8.0,
        "checkpointing": False,
        "reference": False,
        "engine": "transformers",
        "token_budget": TOKENS,
        "max_context": TOKENS,
        "max_act": 64,
        "rows": 8,
        "episodes": 8,
        "groups": 2,
        "epochs": 1,
        "iterations": 10,
        "rounds": 1.0,
        "prompt": 1,
        "act": TOKENS - 1,
        "observation": 0,
    }
    return Plan(**{**values, **changes})


def forward(network, tokens=TOKENS):
    ids = tuple(torch.randint(0, 300, (tokens,)).tolist())
    sequence = TokenSequence(ids, tuple(range(1, tokens)), (1.0,) * (tokens - 1))
    return evaluate(network, [sequence], EvaluationStats(), batch_tokens=tokens)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
        ("qwen2", {"head_dim": None}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {}),
        ("gemma", {}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("smollm3", {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}),
    ],
)
def test_weights_of_every_known_family_are_exact(family, changes):
    values = {k: v for k, v in {**SMALL, **changes}.items() if v is not None}
    config = AutoConfig.for_model(family, **values)
    assert Architecture.from_config(config.to_dict()).weights == count(meta_model(config))


@pytest.mark.parametrize(
    ("size", "without_embedding"), [("0.6B", 0.44e9), ("1.7B", 1.4e9), ("4B", 3.6e9), ("8B", 6.95e9)]
)
def test_weights_of_the_named_models_are_exact(size, without_embedding):
    a = read_architecture(f"Qwen/Qwen3-{size}")
    config = Qwen3Config(
        vocab_size=a.vocab,
        hidden_size=a.hidden,
        intermediate_size=a.intermediate,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        head_dim=a.head_dim,
        tie_word_embeddings=a.tied,
    )
    assert a.weights == count(meta_model(config))
    # What the model cards publish, to the digits they give.
    assert a.weights - a.embedding_weights * (1 if a.tied else 2) == pytest.approx(
        without_embedding, rel=0.012
    )


def test_what_cannot_be_counted_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no estimate for models of type 'gpt2'"):
        Architecture.from_config({"model_type": "gpt2"})
    with pytest.raises(ConfigError, match=r"give a directory with config\.json, or download the model first"):
        read_architecture(str(tmp_path))
    with pytest.raises(ConfigError, match="Did you mean 'q_proj'"):
        read_architecture("Qwen/Qwen3-0.6B").adapter_weights(8, ["q_prj"])


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_adapter_weights_are_pefts(targets):
    model, architecture = small_model()
    peft_model = get_peft_model(model, LoraConfig(r=5, target_modules=targets, task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in peft_model.parameters() if p.requires_grad)
    assert architecture.adapter_weights(5, targets) == trained


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [None, "all-linear", ("q_proj", "v_proj")])
def test_activations_are_what_a_layer_keeps(dtype, targets):
    """What two more layers keep for the backward pass, per token, against the formula: within 2 %.

    With peft's own products, as on a GPU: on a processor `narrow_lora` keeps less, and a trial measures it.
    """
    for checkpointing in (False, True):
        kept = {}
        for layers in (2, 4):
            model, architecture = small_model(layers, dtype)
            trained = model
            if targets is not None:
                wanted = targets if isinstance(targets, str) else list(targets)
                trained = get_peft_model(model, LoraConfig(r=4, target_modules=wanted, task_type="CAUSAL_LM"))
            network = open_network(model, checkpointing=checkpointing)
            kept[layers] = kept_bytes(trained, network)
        p = plan(
            architecture,
            element=dtype.itemsize,
            rank=0 if targets is None else 4,
            targets=() if targets is None else architecture.targets(targets),
            checkpointing=checkpointing,
        )
        expected = dtype.itemsize * architecture.hidden if checkpointing else activation_bytes(p)
        assert (kept[4] - kept[2]) / 2 / TOKENS == pytest.approx(expected, rel=0.02)


def kept_bytes(model, network):
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = forward(network)
    del outputs
    return sum(kept.values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_of_resident_memory(checkpointing):
    """Resident memory of a forward and backward pass over 1,024 tokens, against the estimate: within 30 %."""
    tokens = 1024
    model, architecture = small_model(8, hidden_size=96, intermediate_size=384)
    network = open_network(model, checkpointing=checkpointing)
    forward(network, 64)[0].sum().backward()  # gradients, and what libraries allocate once
    gc.collect(1)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests left to the allocator goes back to the system
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")  # the peak starts again
    forward(network, tokens)[0].sum().backward()
    p = plan(architecture, token_budget=tokens, max_context=tokens, checkpointing=checkpointing)
    activations, masks, *_ = memory(p).update  # the head's logits fit one small block here
    assert status("VmHWM") - before == pytest.approx(activations.value + masks.value, rel=0.3)


def status(name):
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) * 1024 for line in handle if line.startswith(name))


@pytest.mark.parametrize("targets", [None, "all-linear"])
def test_operations_are_those_torch_counts(targets):
    """Matrix products of a real pass (torch does not count attention on the CPU): within 10 %."""
    model, architecture = small_model(4)
    if targets is not None:
        Adapter.add(model, LoraOptions(rank=4, targets=targets), "x", 0)
    network = open_network(model)
    with FlopCounterMode(display=False) as only_forward, torch.no_grad():
        forward(network)
    with FlopCounterMode(display=False) as both:
        forward(network)[0].sum().backward()
    p = plan(
        architecture,
        rank=4 if targets else 0,
        targets=architecture.targets(targets) if targets else (),
    )
    attention = 2 * architecture.layers * architecture.heads * architecture.head_dim * p.length**2
    expected_forward, expected_both = operations(p)
    assert only_forward.get_total_flops() == pytest.approx(expected_forward - attention, rel=0.1)
    assert both.get_total_flops() == pytest.approx(expected_both - 3 * attention, rel=0.1)


TORCH = [name for name, (module, _) in OPTIMIZERS.items() if module.startswith("torch")]


@pytest.mark.parametrize("name", TORCH)
def test_optimizer_states_are_those_of_a_real_step(name):
    model, architecture = small_model(2)
    parameters = list(model.parameters())
    optimizer = make_optimizer(name, {}, [{"params": parameters, "lr": 1e-3}], 1e-3, 0.0)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    held = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    )
    # Adafactor keeps sums of rows and columns: less than a twentieth of a number per weight here.
    assert held / architecture.weights == pytest.approx(state_bytes(name), rel=0.01, abs=0.2)


def test_memory_names_what_it_is_computed_from_and_divides_among_devices():
    one = plan(read_architecture("Qwen/Qwen3-8B"), element=2, reference=True, checkpointing=True)
    four = dataclasses.replace(one, gpus=4, sharded=True)
    weights = one.architecture.weights
    held = {figure.name: figure.value for figure in memory(one).held}
    assert held == {
        "weights": 2 * weights,
        "reference": 2 * weights,
        "masters": 4 * weights,
        "gradients": 4 * weights,
        "optimizer states": 8 * weights,
    }
    layers = one.architecture.layers * one.architecture.layer_weights
    here = layers / 4 + (weights - layers)  # embedding and head are not cut
    assert total(memory(four).held) == pytest.approx(20 * here)
    rollouts = [figure.value for figure in memory(four).rollouts]
    cache, logits = 8 * (TOKENS + 64) * one.architecture.cache_bytes(2), 2 * 8 * 151_936 * 4
    assert rollouts == [2 * (weights - here), cache, logits]
    need = memory(four)
    assert all(figure.source for figure in (*need.held, *need.update, *need.rollouts))
    adapters = dataclasses.replace(one, rank=8, targets=("q_proj",))
    assert "reference" not in {
        figure.name for figure in memory(adapters).held
    }  # the model without the adapter
    assert total(memory(adapters).held) < total(memory(one).held) / 7


def test_times_follow_the_hardware_and_the_work():
    p = plan(read_architecture("Qwen/Qwen3-8B"), element=2, engine="vllm", max_context=2048)
    slow, fast = (total(seconds(p, HARDWARE[name])) for name in ("L4", "H100"))
    assert slow > 5 * fast
    more = dataclasses.replace(p, episodes=16, rows=16)
    assert total(seconds(p, HARDWARE["H100"])) < total(seconds(more, HARDWARE["H100"]))
    decode = {f.name: f for f in seconds(p, HARDWARE["H100"])}["decode"]
    # 255 steps that read 8.19 billion weights of two bytes and eight half-full caches at 60 % of 3.35 TB/s.
    read = p.architecture.weights * 2 + 8 * 128 * p.architecture.cache_bytes(2)
    assert decode.value == pytest.approx(255 * read / (0.6 * 3.35e12), rel=0.01)
    served = dataclasses.replace(p, engine="vllm-server")  # that server's time is not ours to know
    assert "decode" not in {f.name for f in seconds(served, HARDWARE["H100"])}
