"""Every error of the package survives pickling and copying: other processes, Ray workers and retries pass them on."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import searchgym
import searchgym.agents
import searchgym.corpora
import searchgym.trainers
from searchgym.errors import SearchGymError

VALUES = {"int": 503, "bool": True, "str": "a reason", "object": "a name", "Iterable[str]": ["one", "two"]}


def classes() -> Iterator[type[BaseException]]:
    packages = (
        searchgym,
        searchgym.corpora,
        searchgym.agents,
        searchgym.trainers,
    )  # the last three are other folders
    for module in (m for p in packages for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")):
        if module.name.endswith("__main__"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:  # an extra is not installed
            continue
        for value in vars(loaded).values():
            if (
                inspect.isclass(value)
                and issubclass(value, BaseException)
                and value.__module__ == module.name
            ):
                yield value


def made(kind: type[BaseException]) -> BaseException:
    """An error with a value for every parameter, optional ones too."""
    defining = next(parent for parent in kind.__mro__ if "__init__" in vars(parent))
    if defining.__module__ == "builtins":
        return kind("a reason")
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in inspect.signature(kind).parameters.values():
        wanted = str(parameter.annotation).split(" | ")[0]
        value: Any = {"retry-after": "3"} if "Mapping" in wanted else VALUES.get(wanted, "a reason")
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value
        else:
            arguments.append(value)
    return kind(*arguments, **named)


@pytest.mark.parametrize(
    "kind", sorted(set(classes()), key=lambda kind: f"{kind.__module__}.{kind.__name__}")
)
def test_it_survives_pickling_and_copying(kind: type[BaseException]) -> None:
    error = made(kind)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.args == error.args
        public = {name: value for name, value in vars(error).items() if not name.startswith("_")}
        assert {name: vars(again)[name] for name in public} == public


def test_all_of_them_are_found() -> None:
    found = {kind.__name__ for kind in classes()}
    assert {"UnknownIdError", "DamagedFileError", "Overloaded", "Refused", "RequestFailed"} <= found
    assert all(
        issubclass(kind, SearchGymError) for kind in classes() if kind.__module__ == "searchgym.errors"
    )
