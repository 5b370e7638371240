"""Calls transformers' own forward with a key-value cache, and makes sure that the model uses it.

The argument is called `cache` in newer versions of transformers and `past_key_values` in older ones; 5.24 announces that
5.40 removes the old name. Nearly every forward also takes `**kwargs`, so a model ignores an argument that it does not
know and computes other numbers. Hence the name is read from the signature, the other arguments are looked up there too,
and a call must return the cache that it was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import transformers

from searchgym.errors import ConfigError

__all__ = ["CachedForward", "decoder_of"]

_CACHE_NAMES = ("cache", "past_key_values")
_INPUTS = ("input_ids", "attention_mask", "position_ids")


class CachedForward:
    """A causal language model, or its decoder, called with a cache.

    Args:
        module: transformers' module.

    Raises:
        ConfigError: its forward does not take a cache, token ids, an attention mask or positions.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        own, inherited = _named_arguments(module)
        self._named = {*own, *inherited}
        self._name = next((name for named in (own, inherited) for name in _CACHE_NAMES if name in named), "")
        missing = [name for name in _INPUTS if name not in self._named]
        if not self._name:
            missing.insert(0, " or ".join(_CACHE_NAMES))
        if missing:
            raise self._unusable(f"does not take the argument {missing[0]}")

    def takes(self, name: str) -> bool:
        """Whether the forward has an argument of this name."""
        return name in self._named

    def uncached(self, **inputs: Any) -> Any:
        """The outputs of one pass without a cache."""
        return self._module(**inputs, use_cache=False)

    def __call__(self, cache: Any = None, **inputs: Any) -> tuple[Any, Any]:
        """One pass that reads the earlier keys and values from a cache and adds the new ones.

        Args:
            cache: a `transformers.Cache`; None starts a new one.
            **inputs: the other arguments of the forward.

        Returns:
            The model's outputs, and the cache.

        Raises:
            ConfigError: the model did not use the cache, so its outputs are those of another context.
        """
        given = {} if cache is None else {self._name: cache}
        outputs = self._module(**inputs, **given, use_cache=True)
        returned = getattr(outputs, self._name, None)
        if returned is None or (cache is not None and returned is not cache):
            raise self._unusable(f"ignored the argument {self._name}")
        return outputs, returned

    def _unusable(self, what: str) -> ConfigError:
        return ConfigError(
            f"the forward of {type(self._module).__name__} in transformers {transformers.__version__} {what}: install a "
            'version that searchgym was tested with (pip install "searchgym[train]"), or use another model'
        )


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that turns token ids into hidden states."""
    decoder = model.get_decoder()
    if decoder is not model:
        return decoder
    # Before version 5, transformers finds it only under some names; Llama 4's has another one than its base.
    return getattr(model, "model", model) if model.base_model is model else model.base_model


def _named_arguments(module: Any) -> tuple[Collection[str], Collection[str]]:
    """The arguments that a forward names, and those that its decoder's names where it hands others down (`**kwargs`)."""
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not takes_any or not hasattr(module, "get_decoder"):
        return parameters, ()
    return parameters, inspect.signature(decoder_of(module).forward).parameters
