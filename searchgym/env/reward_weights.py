"""The argument `reward` of an environment: weights of built-in terms, registered ones, and functions of the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ConfigError, PluginError, SearchGymError, UnknownIdError
from ..options import plugins
from ..options.sources import absolute_name, load_source, source_name
from .rewards import REWARD_TERMS, RewardContext, RewardTerm

__all__ = ["EXACT_WRAPPERS", "RewardWeights", "open_reward", "portable_reward"]

EXACT_WRAPPERS = (gym.wrappers.TransformReward, gym.wrappers.ClipReward)
"""Wrappers of Gymnasium that compute a step's reward from that step's reward alone, so that batched episodes get the same."""

_KIND = "reward term"
_Transform = Callable[[float], float]


class RewardWeights(dict[str, float]):
    """The weight of each reward term, with the terms. Made by `open_reward`.

    Attributes:
        terms: the terms by the same names.
        wrappers: functions of a step's reward, in the order in which they are applied, by a name for records.

    Args:
        weights: by the name of the term.
        terms: see above.
        wrappers: see above.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        terms: Mapping[str, RewardTerm],
        wrappers: tuple[tuple[str, _Transform], ...] = (),
    ) -> None:
        super().__init__(weights)
        self.terms = dict(terms)
        self.wrappers = wrappers

    def wrapped(self, wrapper: Any) -> RewardWeights:
        """The same rewards behind one more wrapper.

        Args:
            wrapper: one of `EXACT_WRAPPERS`.
        """
        given = wrapper._saved_kwargs.values()
        shown = [_label(source_name(value)) if callable(value) else str(value) for value in given]
        entry = (f"{type(wrapper).__name__}({', '.join(shown)})", wrapper.func)
        return RewardWeights(self, self.terms, (*self.wrappers, entry))

    def pay(self, reward: float) -> float:
        """The reward of a step, from the sum of its weighted terms.

        Raises:
            PluginError: a wrapper's function raised, or gave something else than a finite number.
        """
        for name, function in self.wrappers:
            reward = _number(f"reward wrapper {name}", partial(function, reward))
        return reward

    def to_env(self) -> dict[str, Any]:
        """The entries of `Episode.env`."""
        named = [name for name, _ in self.wrappers]
        return {"reward": dict(self), **({"reward_wrappers": named} if named else {})}

    def __reduce__(self) -> tuple[Any, ...]:
        return (RewardWeights, (dict(self), self.terms, self.wrappers))


def open_reward(reward: Any) -> RewardWeights:
    """Find the terms of a reward.

    A term is a built-in or registered name, "file.py:name", "package.module:name", a function of a `RewardContext` or a
    `RewardTerm`. A function is a term of the outcome: it is called once, in the last step, and sees all rounds.

    Args:
        reward: a term; or a mapping of terms to weights; or what this function returned.

    Raises:
        UnknownIdError: a name that is not registered.
        ConfigError: a file that does not define the term, a weight that is not a finite number, or two terms of one name.
        PluginError: the code of a term cannot be loaded, or is not a term.
    """
    if isinstance(reward, RewardWeights):
        return reward
    weights: dict[str, float] = {}
    terms: dict[str, RewardTerm] = {}
    for key, weight in _items(reward):
        name, term = _open_term(key)
        if name in weights:
            raise ConfigError(f"reward has two terms that are named {name!r}: rename one of the functions")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
            raise ConfigError(f"the weight of reward term {name!r} is {weight!r}: give a finite number")
        weights[name], terms[name] = weight, term
    return RewardWeights(weights, terms)


def portable_reward(reward: Any, folder: Path | None = None) -> Any:
    """The same reward as a JSON value that means the same in another process and in another directory.

    Args:
        reward: see `open_reward`.
        folder: where a relative path is looked for first; default: the current directory.

    Raises:
        ConfigError: a function that cannot be found again by a name.
    """
    if isinstance(reward, RewardWeights):
        raise ConfigError("reward is already opened: give its terms as you gave them to the environment")
    if isinstance(reward, Mapping):
        return {_portable_term(term, folder): weight for term, weight in reward.items()}
    return _portable_term(reward, folder)


def _items(reward: Any) -> list[tuple[Any, Any]]:
    if (isinstance(reward, str) and reward) or callable(reward) or isinstance(reward, RewardTerm):
        return [(reward, 1.0)]
    if isinstance(reward, Mapping) and reward:
        return list(reward.items())
    raise ConfigError(
        f'reward is {reward!r}: give a term like "em", {{"em": 1.0, "recall": 0.2}}, "FILE.py:NAME" or a function'
    )


def _open_term(term: Any) -> tuple[str, RewardTerm]:
    """The name of a term in `info["reward_terms"]`, and the term."""
    if not isinstance(term, str):
        return _label(_name(term)), _checked(_label(_name(term)), term)
    if ":" in term:
        found = load_source(
            _KIND, "function", term, lambda value: isinstance(value, RewardTerm) or callable(value)
        )
        return _label(term), _checked(_label(term), found)
    if term in REWARD_TERMS:
        return term, REWARD_TERMS[term]
    known = plugins.names("rewards")
    if term not in known:
        raise UnknownIdError(
            _KIND,
            term,
            {*REWARD_TERMS, *known},
            'A function of your own is "FILE.py:NAME", or the function itself.',
        )
    return term, _checked(term, plugins.load("rewards", term))


def _portable_term(term: Any, folder: Path | None) -> Any:
    if isinstance(term, str):
        return absolute_name(term, folder)
    if not (callable(term) or isinstance(term, RewardTerm)):
        return term  # `open_reward` says what is wrong with it
    name = _name(term)
    if name.startswith("<"):
        raise ConfigError(
            f"reward term {name} is code of this session, which a run directory cannot keep: move it into a file and give "
            f'"FILE.py:NAME"'
        )
    return name


def _name(term: Any) -> str:
    """See `searchgym.options.sources.source_name`; a `RewardTerm` has the name of the variable that holds it in its function's module."""
    if not isinstance(term, RewardTerm):
        return source_name(term) if hasattr(term, "__qualname__") else f"<{type(term).__name__}>"
    module = sys.modules.get(getattr(term.value, "__module__", ""))
    name = next((name for name, value in vars(module).items() if value is term), "") if module else ""
    if module is None or not name or module.__name__ == "__main__" or not getattr(module, "__file__", None):
        return f"<{name or getattr(term.value, '__name__', 'RewardTerm').strip('<>')}>"
    source = module.__name__ if "." in module.__name__ else os.path.abspath(str(module.__file__))
    return f"{source}:{name}"


def _label(name: str) -> str:
    """A name for records, which do not depend on where a file lies."""
    source, _, attribute = name.rpartition(":")
    return f"{os.path.basename(source)}:{attribute}" if source.endswith(".py") else name


def _checked(name: str, found: Any) -> RewardTerm:
    """A term of foreign code, whose failures become typed errors."""
    if not isinstance(found, RewardTerm):
        if not callable(found) or isinstance(found, type):
            raise PluginError(
                f"reward term {name!r} is {found!r:.80}: give a function of a RewardContext, or a searchgym.RewardTerm"
            )
        found = RewardTerm(found, (found.__doc__ or "").partition("\n")[0], last=True, needs_trace=True)
    function = found.value
    if not callable(function):
        raise PluginError(f"reward term {name!r} has no function: give RewardTerm(function, …)")

    def value(context: RewardContext) -> float:
        place = f"reward term {name!r}, question {context.question.id!r}, round {context.record.round}"
        return _number(place, lambda: function(context))

    term: RewardTerm = replace(found, value=value)
    return term


def _number(place: str, compute: Callable[[], Any]) -> float:
    """What a user's function gives, if it is a finite number."""
    try:
        value = compute()
    except SearchGymError:
        raise
    except Exception as error:
        raise PluginError(f"{place}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Real | np.bool_) or not isfinite(value):
        raise PluginError(f"{place}: it gave {value!r:.80}: return a finite number")
    return float(value)
