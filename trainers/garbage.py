"""How often Python looks for garbage that has cycles, of which records of rounds and episodes have none."""

from __future__ import annotations

import gc

__all__ = ["collect_seldom"]


def collect_seldom() -> None:
    """Look for cyclic garbage seldom in this process: importing torch and playing episodes then take a tenth less time."""
    gc.set_threshold(100_000, 20, 20)
