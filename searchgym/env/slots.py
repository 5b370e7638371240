"""The arguments of a vector environment that hold a value per slot: messages, the reset mask, tasks and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from ..errors import ConfigError, UnknownIdError
from .setup import check_seed

__all__ = ["check_messages", "read_autoreset_mode", "slot_generators", "slot_mask", "slot_task_ids"]


def check_messages(messages: Any, num_envs: int) -> None:
    """Raise `ConfigError` unless there is one message per slot."""
    if isinstance(messages, str) or not hasattr(messages, "__len__") or len(messages) != num_envs:
        raise ConfigError(f"actions is {messages!r:.80}: give one message per slot ({num_envs})")


def slot_mask(mask: Any, num_envs: int) -> NDArray[np.bool_]:
    """The option `reset_mask`; all slots without it.

    Args:
        mask: as given.
        num_envs: number of slots.

    Raises:
        ConfigError: not one boolean per slot.
    """
    if mask is None:
        return np.ones(num_envs, dtype=np.bool_)
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape != (num_envs,):
        raise ConfigError(
            f"reset_mask has dtype {mask.dtype} and shape {mask.shape}: give {num_envs} booleans"
        )
    checked: NDArray[np.bool_] = mask.astype(np.bool_)
    return checked


def slot_task_ids(task_ids: Any, mask: NDArray[np.bool_]) -> list[str | None]:
    """The option `task_ids`, one entry per slot.

    Args:
        task_ids: as given: None, one entry per slot, or one per slot of the mask.
        mask: the slots that are reset, [num_envs].

    Raises:
        ConfigError: not a sequence, or of another length.
    """
    num_envs, chosen = len(mask), int(mask.sum())
    if task_ids is None:
        return [None] * num_envs
    if not isinstance(task_ids, Sequence | np.ndarray) or isinstance(task_ids, str):
        raise ConfigError(f"task_ids is {task_ids!r:.80}: give a list with one id or None per slot")
    if len(task_ids) not in (num_envs, chosen):
        raise ConfigError(
            f"task_ids is {task_ids!r:.80}: give one id or None per slot ({num_envs}), or one per slot "
            f"of the reset mask ({chosen})"
        )
    if len(task_ids) == num_envs:
        return list(task_ids)
    spread: list[str | None] = [None] * num_envs
    for slot, task_id in zip(np.flatnonzero(mask).tolist(), task_ids, strict=True):
        spread[slot] = task_id
    return spread


def slot_generators(seed: Any, slots: list[int], num_envs: int) -> dict[int, np.random.Generator]:
    """New generators of the slots that a seed is given for.

    Args:
        seed: None; a number, to which each slot adds its own; or one seed or None per slot.
        slots: the slots that are reset.
        num_envs: number of slots.

    Raises:
        ConfigError: not a seed, or not one per slot.
    """
    if seed is None:
        return {}
    if isinstance(seed, np.ndarray):
        seed = seed.tolist()
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes):
        if len(seed) != num_envs:
            raise ConfigError(f"{len(seed)} seeds for {num_envs} slots: give one per slot")
        seeds = [None if one is None else check_seed(one) for one in seed]
    else:
        first = check_seed(seed)
        seeds = [first + slot for slot in range(num_envs)]
    return {i: gym.utils.seeding.np_random(seeds[i])[0] for i in slots if seeds[i] is not None}


def read_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Gymnasium's autoreset mode of that value; raises `UnknownIdError` for any other."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise UnknownIdError("autoreset_mode", mode, [m.value for m in AutoresetMode]) from None
