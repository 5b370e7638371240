"""Which layers of a model an adapter changes, by name, as peft matches them. This file does not import torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["ALL_LINEAR", "in_feed_forward", "is_expert", "is_mixture", "is_target"]

ALL_LINEAR = "all-linear"
"""All linear layers except the head; in a mixture of experts, those of the attention."""

_EXPERTS = re.compile(r"(^|\.)experts(\.|$)")
_FEED_FORWARD = re.compile(r"(^|\.)(mlp|ffn|moe|feed_forward|block_sparse_moe|experts|router|gate)(\.|$)")


def is_mixture(names: Iterable[str]) -> bool:
    """Whether a model is a mixture of experts.

    Args:
        names: full names of its modules.
    """
    return any(map(is_expert, names))


def is_expert(name: str) -> bool:
    """Whether a module or parameter belongs to the experts of a mixture.

    Args:
        name: its full name.
    """
    return _EXPERTS.search(name) is not None


def in_feed_forward(name: str) -> bool:
    """Whether a module belongs to the feed-forward part of a layer, experts and router included.

    Args:
        name: full name of the module, e.g. "model.layers.0.mlp.experts.3.up_proj".
    """
    return _FEED_FORWARD.search(name) is not None


def is_target(name: str, targets: str | Sequence[str]) -> bool:
    """Whether peft adapts a module.

    Args:
        name: full name of the module, e.g. "model.layers.0.self_attn.q_proj".
        targets: names or ends of names, or one regular expression for the full name.
    """
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
