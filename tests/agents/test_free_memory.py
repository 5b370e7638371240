"""Pages of freed memory go back to the system when there are many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from searchgym.agents.lm import free_memory
from searchgym.agents.lm.free_memory import give_back_freed

MIB = 2**20


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def test_holes_between_living_tensors_are_given_back() -> None:
    if sys.platform != "linux" or free_memory._glibc() is None:
        pytest.skip("needs glibc 2.33 or later")
    large = torch.ones(8 * MIB // 4)
    del large  # from now on glibc serves 2 MiB from its heap
    blocks = [torch.ones(2 * MIB // 4) for _ in range(200)]
    kept = blocks[::8]
    del blocks
    before = resident()
    give_back_freed()
    assert before - resident() > 250 * MIB
    assert all(bool((block == 1).all()) for block in kept)


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Another:
        def __init__(self, name: None) -> None:
            """A C library without `mallinfo2`."""

    monkeypatch.setattr(free_memory.ctypes, "CDLL", Another)
    monkeypatch.setattr(free_memory, "_glibc", free_memory._glibc.__wrapped__)
    give_back_freed()
