"""Choose and open the engine that generates for a Hugging Face model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..lm.engine import GenerationEngine
from ..lm.vllm import VLLMEngine

__all__ = ["open_vllm"]


def open_vllm(
    kind: str,
    model: str,
    *,
    max_new_tokens: int,
    max_context: int,
    dtype: str,
    seed: int,
    lora_rank: int | None,
    options: Mapping[str, Any],
) -> GenerationEngine:
    """The engine `vllm` or `vllm-server`; see `VLLMEngine` and `VLLMServerEngine` for `options`.

    Raises:
        ConfigError: an option that cannot be used, or no server that can be.
        MissingExtraError: what the engine needs is not installed.
    """
    if kind == "vllm":
        return VLLMEngine(
            model,
            max_new_tokens=max_new_tokens,
            max_context=max_context,
            dtype=dtype,
            seed=seed,
            lora_rank=lora_rank,
            **options,
        )
    from ..lm.vllm_server import VLLMServerEngine

    return VLLMServerEngine(max_new_tokens=max_new_tokens, max_context=max_context, **options)
