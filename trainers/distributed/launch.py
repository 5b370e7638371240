"""Join the processes that a launcher started together with this one."""

from __future__ import annotations

import os
from datetime import timedelta

import torch

from searchgym.errors import MissingExtraError

from ..processes import World, set_world, world
from .data_parallel import Distributed, lost_process

__all__ = ["connect"]


def connect(timeout: float) -> World:
    """Join the processes that a launcher started with this one; without a launcher, this process stays alone.

    Args:
        timeout: seconds to wait for other processes.

    Raises:
        MissingExtraError: accelerate is not installed.
        LostProcessError: the other processes did not join in time.
    """
    if world().count > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return world()
    try:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs
    except ModuleNotFoundError as error:
        raise MissingExtraError("training with several processes", "accelerate", "train") from error
    with lost_process(f"process {os.environ.get('RANK')}", timeout):
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))],
        )
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes"):
            from .fsdp import Sharded

            joined: Distributed = Sharded(accelerator, timeout)
        else:
            joined = Distributed(accelerator, timeout)
    set_world(joined)
    return joined
