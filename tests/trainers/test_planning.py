"""Dry runs of adapters, of other families of models, and of directories in which something is broken."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import small_world
from transformers import AutoConfig, AutoModelForCausalLM

from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.hf.lora import Adapter, LoraOptions, saved_options
from searchgym.agents.hf.targets import in_feed_forward, is_expert, is_mixture, is_target
from searchgym.errors import ConfigError
from searchgym.trainers.config import make_config
from searchgym.trainers.planning.architecture import NoEstimateError, read_architecture
from searchgym.trainers.planning.dry_run import dry_run
from searchgym.trainers.planning.report import print_dry_run
from searchgym.trainers.planning.times import processor_seconds

sys.path.append(str(Path(__file__).resolve().parents[1] / "agents"))
from families import FAMILIES, build_config
from hf_models import save_family

WORLD = small_world("country-terse", train=40, dev=10, test=10)
OTHERS = {
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "phi3": {"pad_token_id": 0},
    "stablelm": {},
    "granite": {},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "first_k_dense_replace": 1,
    },
}
MIXTURES = ("qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "deepseek_v3")


def config_of(family):
    if family in FAMILIES:
        return build_config(family)
    shape = build_config("llama").to_dict()
    sizes = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    return AutoConfig.for_model(
        family, vocab_size=70, **{name: shape[name] for name in sizes}, **OTHERS[family]
    )


def values(model, **options):
    return {
        "agent": "hf",
        "agent_options": {"model": str(model), "max_new_tokens": 32, "device": "cpu", **options},
        "env": "SearchQA-v0",
        "env_options": {"corpus": WORLD},
        "eval_episodes": 5,
    }


def found_by(model, tmp_path, **options):
    found = dry_run(make_config(values(model, **options)), tmp_path / "no-run")
    return found, {check.name: check for check in found.checks}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_family(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


# -- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    ["all-linear", ["q_proj", "v_proj"], ["layers.1.self_attn.q_proj", "down_proj"], r".*\.[kv]_proj"],
)
def test_a_dry_run_of_an_adapter(targets, chat_model, tmp_path):
    """Its model's tokenizer and shape, and exactly its own weights: small models keep targets as full names."""
    agent = HFAgent(chat_model, lora={"rank": 3, "targets": targets}, max_new_tokens=8)
    agent.save(tmp_path / "adapter")
    trained = sum(p.numel() for p in agent.module.parameters() if p.requires_grad)
    found, checks = found_by(tmp_path / "adapter", tmp_path)
    assert found.passed, found.checks
    assert "the first prompt has" in checks["chat template"].text
    assert "peft" in checks["packages"].text
    assert (found.plan.rank, found.plan.trained) == (3, trained)
    assert saved_options(str(tmp_path / "adapter")).rank == 3


@pytest.mark.parametrize(
    ("file", "content", "check", "message"),
    [
        ("adapter_config.json", "{", "model", "cannot be read"),
        ("adapter_config.json", '{"base_model_name_or_path": ""}', "model", "does not name a base model"),
        ("adapter_config.json", '{"base_model_name_or_path": "BASE"}', "model", "cannot be read"),
        (
            "adapter_config.json",
            '{"base_model_name_or_path": "BASE", "r": 0, "lora_alpha": 1, "target_modules": []}',
            "model",
            "",
        ),
        ("config.json", "{", "model", "is not known here"),
        ("config.json", "[]", "model", "is not known here"),
        ("tokenizer.json", "{", "chat template", "no model can be loaded from"),
        ("tokenizer.json", None, "chat template", ""),
        ("chat_template.jinja", None, "chat template", "has no chat template"),
        ("chat_template.jinja", "{% for %}", "chat template", ""),
    ],
)
def test_what_is_broken_is_a_failed_check(file, content, check, message, chat_model, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for source in Path(chat_model).iterdir():
        (model / source.name).write_bytes(source.read_bytes())
    if content is None:
        (model / file).unlink()
    else:
        (model / file).write_text(content.replace("BASE", chat_model))
    _, checks = found_by(model, tmp_path)
    assert not checks[check].passed
    assert message in checks[check].text
    assert not (tmp_path / "no-run").exists()


def test_a_dry_run_of_a_checkpoint_and_of_a_target_that_does_not_exist(chat_model, tmp_path):
    run = tmp_path / "run"
    HFAgent(chat_model, lora={"rank": 2}).save(run / "checkpoints" / "step-000002" / "policy")
    (run / "config.json").write_text(json.dumps({"config": {"trainer": "grpo"}}))
    found, _ = found_by(run, tmp_path)
    assert found.passed, found.checks
    assert found.plan.rank == 2
    assert HFAgent(str(run)).describe()["lora"]["rank"] == 2
    found, checks = found_by(chat_model, tmp_path, lora={"targets": ["q_prj"]})
    assert "Did you mean 'q_proj'" in checks["model"].text


def test_the_tokenizer_of_a_model_that_is_not_here_is_not_checked(chat_model, tmp_path):
    adapter = tmp_path / "adapter"
    HFAgent(chat_model, lora={"rank": 2}).save(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "nobody/nothing"})
    )
    found, checks = found_by(adapter, tmp_path)
    assert found.passed, found.checks
    assert "not checked" in checks["chat template"].text


# -- other families -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*OTHERS, "cohere", "qwen3_moe"])
@pytest.mark.parametrize("targets", ["all-linear", ["o_proj"]])
def test_weights_and_adapters_of_other_families_are_counted(family, targets, tmp_path):
    config = config_of(family)
    config.save_pretrained(tmp_path)
    architecture = read_architecture(str(tmp_path))
    model = AutoModelForCausalLM.from_config(config)
    assert architecture.weights == sum(p.numel() for p in model.parameters())
    try:
        adapter = Adapter.add(model, LoraOptions(rank=3, targets=targets), "x", 0)
    except ConfigError:
        with pytest.raises(ConfigError, match="is not a matrix of a layer"):
            architecture.adapter_weights(3, targets)
        return
    trained = sum(p.numel() for p in adapter.model.parameters() if p.requires_grad)
    assert architecture.adapter_weights(3, targets) == trained


@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe"])
def test_experts_that_are_named_are_counted(family, tmp_path):
    config, targets = config_of(family), ["q_proj", "gate_proj", "up_proj", "down_proj"]
    config.save_pretrained(tmp_path)
    adapter = Adapter.add(
        AutoModelForCausalLM.from_config(config), LoraOptions(rank=3, targets=targets), "x", 0
    )
    trained = sum(p.numel() for p in adapter.model.parameters() if p.requires_grad)
    assert read_architecture(str(tmp_path)).adapter_weights(3, targets) == trained


def test_an_unknown_family_is_estimated_and_says_how(tmp_path):
    """On this processor its layers are tried; without that, they are taken for a Llama's."""
    from io import StringIO

    from searchgym.cli.console import Console

    model = save_family(tmp_path / "model", "cohere", max_position_embeddings=2048)
    found, checks = found_by(model, tmp_path, lora={"rank": 2})
    assert found.passed, found.checks
    assert "the rest of its shape is estimated" in checks["model"].text
    assert found.memory.peak > 0
    out = StringIO()
    print_dry_run(Console(file=out, width=200), found)
    assert "2 of 2 layers with random weights" in out.getvalue()
    assert "this family is not one whose layers are known here" not in out.getvalue()
    found.plan = dataclasses.replace(found.plan, processor=None)
    print_dry_run(Console(file=out, width=200), found)
    assert "this family is not one whose layers are known here" in out.getvalue()


@pytest.mark.parametrize("family", ["gemma3_text", "lfm2", "qwen3_5_moe_text"])
def test_every_family_that_trains_is_tried(family, tmp_path):
    """Windows, convolutions, recurrent states and experts: what is kept and cached is counted in the layers themselves."""
    model = save_family(tmp_path / "model", family, max_position_embeddings=2048)
    found, _ = found_by(model, tmp_path, lora={"rank": 2})
    tried = found.plan.trial
    agent = HFAgent(model, lora={"rank": 2}, max_new_tokens=4)
    shapes = [shape for pair in agent.network.kv_shapes.values() for shape in pair]
    assert tried.cache == sum(heads * size * 4 for heads, size in shapes)
    assert (tried.states > 0) is not agent.network.pads
    assert min(tried.kept, tried.prefill, tried.update, tried.head, tried.step) > 0
    assert [figure.name for figure in processor_seconds(found.plan, tried)] == ["decode", "prefill", "update"]
    assert found.memory.held[0].name == "process"


def test_a_model_without_sizes_is_no_failure(tmp_path):
    AutoConfig.for_model("mamba", vocab_size=70, hidden_size=16, num_hidden_layers=1).save_pretrained(
        tmp_path / "m"
    )
    with pytest.raises(NoEstimateError):
        read_architecture(str(tmp_path / "m"))
    found, checks = found_by(tmp_path / "m", tmp_path)
    assert checks["model"].passed
    assert "it may train all the same" in checks["model"].text
    assert found.plan is None


# -- mixtures of experts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MIXTURES)
def test_all_linear_in_a_mixture_is_the_attention(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family))
    adapter = Adapter.add(model, LoraOptions(rank=2), "x", 0)
    adapted = [name for name, p in adapter.model.named_parameters() if p.requires_grad]
    assert adapted
    assert all("self_attn" in name for name in adapted)
    described = adapter.describe()
    assert "parameters" not in described
    assert all("self_attn" in name or name.endswith("_proj") for name in described["targets"])


def test_an_adapter_of_experts_describes_them():
    model = AutoModelForCausalLM.from_config(config_of("qwen3_moe"))
    described = Adapter.add(
        model, LoraOptions(targets=["q_proj", "gate_proj", "up_proj", "down_proj"]), "x", 0
    ).describe()
    assert described["parameters"] == ["down_proj", "gate_up_proj"]


def test_an_adapter_of_a_mixture_is_saved_and_opened(tmp_path):
    path = save_family(tmp_path / "model", "qwen3_moe")
    agent = HFAgent(path, lora={"rank": 2}, max_new_tokens=4)
    with torch.no_grad():
        for name, parameter in agent.module.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    agent.save(tmp_path / "adapter")
    again = HFAgent(str(tmp_path / "adapter"), max_new_tokens=4)
    assert again.describe()["lora"] == agent.describe()["lora"]
    for name, value in agent.module.state_dict().items():
        assert value.equal(again.module.state_dict()[name]), name


@pytest.mark.parametrize(
    ("family", "targets", "near"),
    [("phi3", ["down_proj", "gate_proj"], "gate_up_proj"), ("llama", ["q_proj", "k_prj"], "k_proj")],
)
def test_a_target_that_no_layer_has_is_refused(family, targets, near):
    """peft is content if one of the names matches, and the others are never adapted."""
    model = AutoModelForCausalLM.from_config(config_of(family))
    with pytest.raises(ConfigError, match=f"is not a linear layer of this model. Did you mean '{near}'"):
        Adapter.add(model, LoraOptions(targets=targets), "x", 0)


@pytest.mark.parametrize(
    ("name", "expert", "feed_forward"),
    [
        ("model.layers.0.mlp.experts.3.up_proj", True, True),
        ("model.layers.0.block_sparse_moe.gate", False, True),
        ("model.layers.0.feed_forward.router", False, True),
        ("model.layers.0.mlp.shared_expert.up_proj", False, True),
        ("model.layers.0.self_attn.q_proj", False, False),
        ("model.layers.0.attention.gate_proj", False, False),
    ],
)
def test_parts_of_a_mixture_by_name(name, expert, feed_forward):
    assert (is_expert(name), in_feed_forward(name), is_mixture([name])) == (expert, feed_forward, expert)


@pytest.mark.parametrize(
    ("targets", "matches"),
    [
        (["q_proj"], True),
        (["self_attn.q_proj"], True),
        (["model.layers.0.self_attn.q_proj"], True),
        (["proj"], False),
        (["layers.0"], False),
        ("q_proj", False),
        (r".*\.q_proj", True),
    ],
)
def test_targets_match_as_in_peft(targets, matches):
    assert is_target("model.layers.0.self_attn.q_proj", targets) is matches
