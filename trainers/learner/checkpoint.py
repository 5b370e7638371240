"""The state of a training run as safetensors and JSON, without pickle.

policy/               what `Policy.save` writes
tensors.safetensors   the optimizer's state, float32 copies of bfloat16 weights, extra modules, generator states
trainer.json          counters, the policy's description, NumPy generator states, the optimizer's other values; checksums of
                      the other files and a digest of itself (policy/ has its own checksums.json)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from searchgym.agents.policy import Policy
from searchgym.errors import CheckpointError
from searchgym.files import (
    check_files,
    checksums,
    compare_checksums,
    json_digest,
    read_json,
    write_checksums,
    write_text,
)

from ..processes import world
from .learner import Learner

__all__ = ["load_checkpoint", "load_policy", "save_checkpoint"]

_SCHEMA = 1


def save_checkpoint(directory: Path, learner: Learner, counters: dict[str, Any]) -> None:
    """Fill a directory; files that are in it already become part of the checkpoint.

    Args:
        directory: see `RunDirectory.checkpoint`.
        learner: its policy, extra modules and optimizer are saved.
        counters: JSON values that `load_checkpoint` returns.
    """
    policy = learner.policy
    with world().unsharded(policy):
        if world().main:
            policy.save(directory / "policy")
            write_checksums(directory / "policy")
    tensors = {f"generator/{name}": state for name, state in _generators(policy).items()}
    for module, body in learner.extra.items():
        tensors |= {f"module/{module}/{name}": t for name, t in body.state_dict().items()}
    for name, master in learner.master_weights.named(learner.names).items():
        tensors[f"master/{name}"] = world().full(master)
    values: list[Any] = []
    for index, state in learner.optimizer.state_dict()["state"].items():
        name = learner.names[index]
        for path, value in _leaves(state):
            if isinstance(value, Tensor):
                tensors["/".join(("optimizer", name, *path))] = world().full(value)
            else:
                values.append([name, path, value])
    if not world().main:  # it was needed to gather sharded tensors
        return
    save_file(_apart(tensors), directory / "tensors.safetensors")
    metadata = {
        "schema": _SCHEMA,
        "policy": policy.describe(),
        "policy_version": policy.version,
        "parameters": learner.names,
        "optimizer_values": values,
        "counters": counters,
        "checksums": checksums(directory),
    }
    content = json.dumps(metadata | {"digest": json_digest(metadata)}, indent=1) + "\n"
    write_text(directory / "trainer.json", content, alone=True)


def load_policy(directory: Path, policy: Policy) -> dict[str, Any]:
    """Load a checkpoint's weights into a policy.

    Args:
        directory: the checkpoint.
        policy: of the architecture that was saved.

    Returns:
        The content of trainer.json.

    Raises:
        CheckpointError: damaged, or of another architecture or version.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"checkpoint {directory} does not exist: restore it from a copy, or start a new run"
        )
    check_files(directory)
    if (directory / "policy").is_dir():
        check_files(directory / "policy")
    try:
        metadata: dict[str, Any] = read_json(directory / "trainer.json")
        schema, saved = metadata["schema"], metadata["policy"]
        if not isinstance(saved, dict):
            raise ValueError("its policy is not a table")
        digest = metadata.pop("digest", None)  # absent in checkpoints of earlier versions
        if digest is not None and digest != json_digest(metadata):
            raise ValueError("trainer.json is not what was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, error) from error
    if schema != _SCHEMA:
        raise CheckpointError(f"checkpoint {directory} has schema {schema!r}, this version reads {_SCHEMA}")
    compare_checksums(directory, metadata.get("checksums", {}))
    here = json.loads(json.dumps(policy.describe()))
    if saved != here:
        was, now = _flat(saved), _flat(here)
        keys = sorted(k for k in {*was, *now} if was.get(k) != now.get(k))
        raise CheckpointError(
            f"checkpoint {directory} is of another architecture: it has { {k: was.get(k) for k in keys} }, the "
            f"agent has { {k: now.get(k) for k in keys} }: build the agent with the options it was saved with; if these "
            "are the same, the agent's own files have changed since: resume with the version of searchgym that saved it, "
            f"or start a new run from its weights in {directory / 'policy'}"
        )
    policy.load_weights(directory / "policy")
    return metadata


def _flat(described: dict[str, Any]) -> dict[str, Any]:
    """A description with the entries of its tables named "table.entry"."""
    flat: dict[str, Any] = {}
    for name, value in described.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def load_checkpoint(directory: Path, learner: Learner) -> dict[str, Any]:
    """Restore a saved state.

    Args:
        directory: the checkpoint.
        learner: its policy, extra modules and optimizer are restored.

    Returns:
        The counters.

    Raises:
        CheckpointError: damaged, or of another architecture.
    """
    policy, names = learner.policy, learner.names
    with world().unsharded(policy, load=True):
        metadata = load_policy(directory, policy)
    parameters = metadata.get("parameters")
    if not isinstance(parameters, list) or not all(isinstance(name, str) for name in parameters):
        raise _damaged(directory, ValueError(f"parameters is {parameters!r:.60}"))
    if sorted(parameters) != sorted(names):
        odd = sorted({*parameters} ^ {*names}) or names
        raise CheckpointError(
            f"checkpoint {directory} optimizes other parameters (first difference: {odd[0]!r}): resume with the "
            "trainer and settings it was saved with"
        )
    try:
        tensors = load_file(directory / "tensors.safetensors")
        modules = {
            m: {name: tensors[f"module/{m}/{name}"] for name in body.state_dict()}
            for m, body in learner.extra.items()
        }
        generators = {
            k.removeprefix("generator/"): t for k, t in tensors.items() if k.startswith("generator/")
        }
        version, counters = metadata["policy_version"], dict(metadata["counters"])
        if type(version) is not int:
            raise TypeError(f"policy_version is {version!r:.60}")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(directory, error) from error
    policy.version = version
    try:
        for m, body in learner.extra.items():
            body.load_state_dict(modules[m])
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {directory} is of another architecture: {error}") from error
    try:
        _load_optimizer(learner, metadata.get("optimizer_values", []), tensors)
        _set_generators(policy, generators)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise _damaged(directory, error) from error
    return counters


def _load_optimizer(learner: Learner, values: list[Any], tensors: dict[str, Tensor]) -> None:
    """Restore the float32 copies of the weights and the optimizer's state."""
    names = learner.names
    index = {name: i for i, name in enumerate(names)}
    for name, master in learner.master_weights.named(names).items():
        master.copy_(world().reshard_like(tensors[f"master/{name}"], master))
    state: dict[int, dict[str, Any]] = {}
    for name, path, value in values:
        _plant(state.setdefault(index[name], {}), path, value)
    for key, tensor in tensors.items():
        kind, *path = key.split("/")
        if kind == "optimizer":
            name = path.pop(0)
            whole = world().reshard_like(tensor, learner.parameters[index[name]])
            _plant(state.setdefault(index[name], {}), path, whole)
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _leaves(state: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of an optimizer's state with their paths in it: bitsandbytes nests dicts."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _plant(state: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """The reverse of `_leaves`."""
    *branches, last = path
    for key in branches:
        state = state.setdefault(key, {})
    state[last] = value


def _generators(policy: Policy) -> dict[str, Tensor]:
    """The states of torch's random generators, by name."""
    states = {"policy": policy.generator.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_generators(policy: Policy, states: dict[str, Tensor]) -> None:
    policy.generator.set_state(states["policy"])
    torch.set_rng_state(states["torch"])
    for i in range(torch.cuda.device_count()):
        if f"cuda:{i}" in states:  # a run may continue with fewer devices, or on the CPU
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, which safetensors requires."""
    apart: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in places else tensor
        places.add(place)
    return apart


def _damaged(directory: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {directory} is damaged ({type(error).__name__}: {error}): remove that directory to continue from the one "
        "before it"
    )
