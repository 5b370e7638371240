"""Opens the engine that samples for a Hugging Face model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchgym.errors import ConfigError

from ..lm.engine import Engine
from ..lm.generation import GenerationEngine
from ..lm.interface import Network
from ..lm.vllm import VLLMEngine
from .loading import ChatModel
from .options import OWNER, HFOptions

__all__ = ["open_engine", "open_vllm"]

_SHARE_FROM = 32  # tokens; shorter common beginnings are not worth a pass of their own
_WIDE = 512


def open_engine(options: HFOptions, network: Network, chat_model: ChatModel) -> GenerationEngine:
    """The engine that the options name.

    Args:
        options: the agent's options.
        network: the model, for an engine in this process.
        chat_model: the model's source, data type and adapter, for vLLM.

    Raises:
        ConfigError: an option that cannot be used, or no usable server.
        MissingExtraError: a package that the engine needs is not installed.
    """
    context = network.positions if options.max_context is None else options.max_context
    if options.engine == "transformers":
        return _open_transformers(options, network, context)
    if context > network.positions:
        raise ConfigError(f"max_context is {context!r}: this model takes 2 to {network.positions} tokens")
    adapter = chat_model.adapter
    return open_vllm(
        options.engine,
        chat_model.source,
        max_new_tokens=options.max_new_tokens,
        max_context=context,
        dtype=chat_model.dtype,
        seed=options.seed,
        lora_rank=None if adapter is None else adapter.describe()["rank"],
        options=options.engine_options or {},
    )


def _open_transformers(options: HFOptions, network: Network, context: int) -> Engine:
    own = dict(options.engine_options or {})
    batch = own.pop("batch_tokens", _prefill_tokens(network))
    if own:
        raise ConfigError(
            f"{OWNER}: engine 'transformers' has no option {next(iter(own))!r}. Known: batch_tokens."
        )
    if type(batch) is not int or batch < 1:
        raise ConfigError(f"{OWNER}: batch_tokens is {batch!r}: give a whole number >= 1")
    return Engine(
        network,
        (),
        max_new_tokens=options.max_new_tokens,
        max_context=context,
        batch_tokens=batch,
        share_from=_SHARE_FROM,
    )


def _prefill_tokens(network: Network) -> int:
    """Tokens of a prefill pass by default. A processor is as fast with small passes of a wide model, and these pad less."""
    if network.device.type == "cuda":
        return 16_384
    return 512 if network.width >= _WIDE else 2048


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
    """The engine `vllm` or `vllm-server`.

    Args:
        kind: "vllm" or "vllm-server".
        model: a directory or the id of a model on the Hugging Face Hub.
        max_new_tokens: limit of one act, in tokens.
        max_context: limit of an episode, in tokens, prompts included.
        dtype: "float32" or "bfloat16".
        seed: seed of vLLM's own generators.
        lora_rank: rank of the adapter; None where all weights are trained.
        options: see `VLLMEngine` and `VLLMServerEngine`.

    Raises:
        ConfigError: an option that cannot be used, or no usable server.
        MissingExtraError: a package that the engine needs is not installed.
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
