"""The state of a training run as safetensors and JSON; nothing is pickled.

policy/               what `Policy.save` writes
tensors.safetensors   Adam moments, extra modules, generator states
trainer.json          counters, the policy's description, NumPy generator states
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from searchgym.agents.policy import Policy
from searchgym.errors import CheckpointError

__all__ = ["load_checkpoint", "load_policy", "save_checkpoint"]

_SCHEMA = 1


def save_checkpoint(
    directory: Path,
    policy: Policy,
    extra: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    names: list[str],
    counters: dict[str, Any],
) -> None:
    """Fill an empty directory.

    Args:
        directory: see `RunDirectory.checkpoint`.
        policy: its weights, generator and version are saved.
        extra: the algorithm's modules.
        optimizer: its per-parameter tensors are saved.
        names: of the optimizer's parameters, in its order.
        counters: JSON values given back by `load_checkpoint`.
    """
    policy.save(directory / "policy")
    tensors: dict[str, Tensor] = {
        "generator/policy": policy.generator.get_state(),
        "generator/torch": torch.get_rng_state(),
    }
    for module, body in extra.items():
        tensors |= {f"module/{module}/{name}": t for name, t in body.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{names[index]}/{key}": torch.as_tensor(t) for key, t in state.items()}
    save_file(
        {k: t.detach().cpu().contiguous() for k, t in tensors.items()}, directory / "tensors.safetensors"
    )
    card = {
        "schema": _SCHEMA,
        "policy": policy.describe(),
        "policy_version": policy.version,
        "parameters": names,
        "counters": counters,
    }
    (directory / "trainer.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")


def load_policy(directory: Path, policy: Policy) -> dict[str, Any]:
    """Load a checkpoint's weights into a policy; returns the content of trainer.json.

    Raises:
        CheckpointError: damaged, or of another architecture or version.
    """
    try:
        card: dict[str, Any] = json.loads((directory / "trainer.json").read_text("utf-8"))
        schema, saved = card["schema"], card["policy"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, error) from error
    if schema != _SCHEMA:
        raise CheckpointError(f"checkpoint {directory} has schema {schema!r}, this version reads {_SCHEMA}")
    here = json.loads(json.dumps(policy.describe()))
    if saved != here:
        keys = sorted(k for k in {*saved, *here} if saved.get(k) != here.get(k))
        raise CheckpointError(
            f"checkpoint {directory} is of another architecture: it has { {k: saved.get(k) for k in keys} }, the "
            f"agent has { {k: here.get(k) for k in keys} }: build the agent with the options it was saved with"
        )
    policy.load_weights(directory / "policy")
    return card


def load_checkpoint(
    directory: Path,
    policy: Policy,
    extra: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    names: list[str],
) -> dict[str, Any]:
    """Put a saved state back; returns the counters.

    Raises:
        CheckpointError: damaged, or of another architecture.
    """
    card = load_policy(directory, policy)
    if card["parameters"] != names:
        odd = sorted({*card["parameters"]} ^ {*names}) or names
        raise CheckpointError(
            f"checkpoint {directory} optimises other parameters (first difference: {odd[0]!r}): resume with the "
            "trainer and settings it was saved with"
        )
    try:
        tensors = load_file(directory / "tensors.safetensors")
        modules = {
            m: {name: tensors[f"module/{m}/{name}"] for name in body.state_dict()}
            for m, body in extra.items()
        }
        generators = tensors["generator/policy"], tensors["generator/torch"]
        version, counters = card["policy_version"], card["counters"]
    except (OSError, SafetensorError, KeyError) as error:
        raise _damaged(directory, error) from error
    policy.version = version
    try:
        for m, body in extra.items():
            body.load_state_dict(modules[m])
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {directory} is of another architecture: {error}") from error
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimizer":
            name, _, field = rest.rpartition("/")
            state.setdefault(index[name], {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    policy.generator.set_state(generators[0])
    torch.set_rng_state(generators[1])
    return dict(counters)


def _damaged(directory: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {directory} is damaged ({error}): remove that directory to continue from the one before it"
    )
