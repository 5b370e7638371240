"""Optimizers and schedules by name: values, refusals, and resuming each of them bit for bit."""

import subprocess
import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_run import assert_same_run
from toy_bandit import VOCABULARY, make_trainer, run_toy

from searchgym.errors import ConfigError, MissingExtraError
from searchgym.trainers.conformance import TabularPolicy
from searchgym.trainers.learner.master_weights import MasterWeights
from searchgym.trainers.learner.optimizers import OPTIMIZERS, check_optimizer, lr_factor, make_optimizer
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training.loop import Loop

pytestmark = pytest.mark.usefixtures("no_curve")

TORCH = [name for name, (module, _) in OPTIMIZERS.items() if module == "torch.optim"]


def stop_and_resume(path, monkeypatch, at=4, **changes):
    """A run that is interrupted after collecting in iteration `at`, continued to its end."""
    real = Loop.iterate

    def interrupt(self, watch=None):
        if self.iteration == at - 1:
            raise KeyboardInterrupt
        return real(self, watch)

    monkeypatch.setattr(Loop, "iterate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_toy(path, **changes)
    monkeypatch.setattr(Loop, "iterate", real)
    return run_toy(path, **changes)


def test_factors_by_hand():
    constant, linear, cosine = (
        [round(lr_factor(s, i, 4), 6) for i in range(1, 5)] for s in ("constant", "linear", "cosine")
    )
    assert constant == [1.0] * 4
    assert linear == [1.0, 0.75, 0.5, 0.25]
    assert cosine == [1.0, 0.853553, 0.5, 0.146447]


def test_warm_up_rises_to_the_full_rate_and_the_floor_is_where_a_schedule_ends():
    rates = [lr_factor("linear", i, 6, warmup=2, floor=0.1) for i in range(1, 8)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 0.775, 0.55, 0.325, 0.1])
    assert lr_factor("constant", 3, 6, warmup=2) == 1.0
    assert lr_factor("cosine", 1, 1, warmup=5) == pytest.approx(1 / 6)


def test_linear_without_warm_up_is_that_of_transformers():
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 0, 7)
    for i in range(1, 8):
        assert lr_factor("linear", i, 7) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_a_schedule_reaches_the_optimizer_and_the_metrics(tmp_path):
    with RunDirectory.create(tmp_path, {}) as run:
        trainer = make_trainer(run, iterations=3, lr=0.2, lr_schedule="linear", lr_warmup=1)
        result = trainer.run_to_end()
    assert [row["lr"] for row in result.metrics[1:]] == pytest.approx([0.1, 0.2, 0.1])
    assert "lr" not in run_toy(tmp_path / "constant", iterations=1).metrics[1]


@pytest.mark.parametrize("name", TORCH)
def test_every_optimizer_of_torch_resumes_bit_for_bit(tmp_path, monkeypatch, name):
    options = {"momentum": 0.9} if name in ("sgd", "rmsprop") else {}
    changes = {
        "iterations": 5, "optimizer": name, "optimizer_options": options, "lr_schedule": "cosine", "lr_warmup": 2,
        "minibatches": 2, "settings": {"group_size": 4, "skip_equal": False}, "eval_episodes": 0,
    }  # fmt: skip
    run_toy(tmp_path / "straight", **changes)
    stop_and_resume(tmp_path / "stopped", monkeypatch, **changes)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_torch(name):
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1.0, 1.0, 12).reshape(3, 4)) for _ in range(2))
    fused = {"fused": True} if name in ("adamw", "adam", "sgd") else {}
    reference = getattr(torch.optim, OPTIMIZERS[name][1])([theirs], lr=0.1, weight_decay=0.01, **fused)
    optimizer = make_optimizer(name, {}, [{"params": [ours]}], 0.1, 0.01)
    for step in range(4):
        for weights, one in ((ours, optimizer), (theirs, reference)):
            one.zero_grad()
            (weights**2 * (step + 1)).sum().backward()
            one.step()
    assert torch.equal(ours, theirs)
    kept, wanted = (one.state_dict()["state"].get(0, {}) for one in (optimizer, reference))
    assert list(kept) == list(wanted)


def test_an_optimizer_does_not_import_the_compiler():
    code = """
import sys, torch
from searchgym.trainers.learner.optimizers import make_optimizer
weights = torch.nn.Parameter(torch.ones(3))
optimizer = make_optimizer("adamw", {}, [{"params": [weights]}], 0.1, 0.0)
optimizer.zero_grad()
weights.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert weights.detach().max() < 1.0
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_plain_sgd_keeps_no_state_and_resumes(tmp_path, monkeypatch):
    run_toy(tmp_path / "straight", iterations=5, optimizer="sgd")
    stop_and_resume(tmp_path / "stopped", monkeypatch, iterations=5, optimizer="sgd")
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


class Quantized(torch.optim.Optimizer):
    """Keeps its state as bitsandbytes does: bytes, a table that all weights share, plain numbers, a dict in the dict."""

    table = torch.linspace(-1.0, 1.0, 256)

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def state_dict(self):
        whole = super().state_dict()
        return {
            **whole,
            "state": {i: {"step": s["step"], "nested": {**s}} for i, s in whole["state"].items()},
        }

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        weights = [p for g in self.param_groups for p in g["params"]]
        for p, saved in zip(weights, state_dict["state"].values(), strict=True):
            assert saved["step"] == saved["nested"]["step"]
            self.state[p] = dict(
                saved["nested"]
            )  # as it is: torch casts every tensor to the type of the weights

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(
                        step=0,
                        state1=torch.full(p.shape, 127, dtype=torch.uint8),
                        qmap1=self.table,
                        unused=None,
                    )
                state["step"] += 1
                mean = 0.9 * state["qmap1"][state["state1"].long()] + 0.1 * p.grad
                state["state1"] = (mean[..., None] - state["qmap1"]).abs().argmin(-1).to(torch.uint8)
                p -= group["lr"] * mean / (1.0 - 0.9 ** state["step"])


def test_the_state_of_an_8_bit_optimizer_is_kept(tmp_path, monkeypatch):
    package, module = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    module.AdamW8bit = Quantized
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    changes = {"iterations": 5, "optimizer": "adamw8bit", "lr_schedule": "linear"}
    run_toy(tmp_path / "straight", **changes)
    stop_and_resume(tmp_path / "stopped", monkeypatch, **changes)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("name", ["adamw8bit", "lion8bit", "paged-adamw8bit"])
def test_bitsandbytes_itself_resumes_bit_for_bit(tmp_path, monkeypatch, name):
    pytest.importorskip("bitsandbytes", reason="needs the package bitsandbytes")

    def wide(path, at=None):
        """70 x 70 weights: smaller ones bitsandbytes keeps in 32 bits."""
        opener = (
            RunDirectory.open if (path / "config.json").exists() else lambda p: RunDirectory.create(p, {})
        )
        with opener(path) as run:
            policy = TabularPolicy(70)
            trainer = make_trainer(
                run, policy=policy, iterations=4, optimizer=name, lr=0.01, eval_episodes=0,
                settings={"group_size": 4, "skip_equal": False, "kl_coef": 0.1},
            )  # fmt: skip
            trainer.config = replace(trainer.config, iterations=at or 4)
            trainer.run_to_end()

    wide(tmp_path / "straight")
    wide(tmp_path / "stopped", 2)
    saved = load_file(tmp_path / "stopped" / "checkpoints" / "step-000002" / "tensors.safetensors")
    assert any(tensor.dtype == torch.uint8 for key, tensor in saved.items() if key.startswith("optimizer/"))
    wide(tmp_path / "stopped")
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_names_and_options_that_there_are_not(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown optimizer 'sdg'. Did you mean 'sgd'"):
        check_optimizer("sdg", {})
    with pytest.raises(ConfigError, match=r"'adamw' has no option 'beta'. Did you mean 'betas'"):
        check_optimizer("adamw", {"beta": 0.9})
    with pytest.raises(ConfigError, match="give --weight-decay"):
        check_optimizer("sgd", {"weight_decay": 0.1})
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"'adamw8bit' needs the module 'bitsandbytes': pip install"):
        check_optimizer("adamw8bit", {})


def test_a_value_that_an_optimizer_refuses():
    weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ConfigError, match=r"optimizer 'adamw' refuses its options .*betas"):
        make_optimizer("adamw", {"betas": [2.0, 0.9]}, [{"params": [weight]}], 0.1, 0.0)
    optimizer = make_optimizer("adamw", {"betas": [0.5, 0.9]}, [{"params": [weight]}], 0.1, 0.0)
    assert optimizer.defaults["betas"] == (0.5, 0.9)
    assert optimizer.defaults["fused"]


class Half(TabularPolicy):
    """The tabular policy with bfloat16 weights."""

    def __init__(self, vocabulary=VOCABULARY, seed=0):
        super().__init__(vocabulary, seed)
        self.module.bfloat16()

    def _table(self):
        return super()._table().float()


def run_half(path, **changes):
    opener = RunDirectory.open if (path / "config.json").exists() else lambda p: RunDirectory.create(p, {})
    with opener(path) as run:
        trainer = make_trainer(run, policy=Half(), **changes)
        trainer.run_to_end()
    return trainer


def test_steps_too_small_for_bfloat16_add_up(tmp_path):
    with torch.no_grad():
        before = Half().module.weight.clone()
    trainer = run_half(tmp_path, iterations=1, lr=1e-5, settings={"group_size": 8, "skip_equal": False})
    (master,) = trainer.loop.learner.master_weights.named(["weight"]).values()
    moved = (master - before.float()).abs()
    assert 0 < moved.max() < 1e-4  # two steps of 1e-5, which bfloat16 cannot show where weights are near 0.1
    assert (trainer.policy.module.weight == before).float().mean() > 0.5
    assert torch.equal(trainer.policy.module.weight, master.bfloat16())


def test_float32_copies_learn_and_resume_bit_for_bit(tmp_path):
    run_half(tmp_path / "straight", iterations=6, token_budget=20)
    run_half(tmp_path / "stopped", iterations=3, token_budget=20, eval_episodes=0)
    run_half(tmp_path / "stopped", iterations=6, token_budget=20)
    last = [
        load_file(tmp_path / n / "checkpoints" / "step-000006" / "tensors.safetensors")
        for n in ("straight", "stopped")
    ]
    assert last[0]["master/policy.weight"].dtype == torch.float32
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    with safe_open(
        tmp_path / "straight" / "checkpoints" / "step-000006" / "policy" / "table.safetensors", "pt"
    ) as table:
        assert torch.equal(table.get_tensor("weight"), last[0]["master/policy.weight"].bfloat16())


def test_gradients_of_micro_batches_add_up_in_float32():
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    masters = MasterWeights([weight])
    with masters.accumulating_grads():
        for part in (1.0, 2.0**-9):  # their sum is not a bfloat16 number
            (part * weight).sum().backward()
    assert weight.grad is None
    assert float(masters.parameters[0].grad) == 1.0 + 2.0**-9
    (weight * 1.0).sum().backward()  # nothing is moved once it is over
    assert float(weight.grad) == 1.0
