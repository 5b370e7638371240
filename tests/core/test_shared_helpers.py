"""What every layer uses: checks of values, files that are complete or absent, one cache, pauses, declared options."""

from __future__ import annotations

import inspect
import math
import os
import random
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from searchgym.errors import ConfigError, UnknownIdError
from searchgym.files import atomic as files
from searchgym.lru import LRUCache
from searchgym.options import check_known, checks, takes_options
from searchgym.retries import Backoff, is_transient


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.integer("k", 0, 1), "k is 0: give a whole number of at least 1"),
        (lambda: checks.integer("k", 9, 1, 8), "k is 9: give a whole number from 1 to 8"),
        (lambda: checks.integer("k", True), "k is True: give a whole number"),
        (lambda: checks.integer("k", 1.0), "k is 1.0"),
        (lambda: checks.integer("k", np.int64(3)), "k is"),
        (lambda: checks.integer("k", None, high=3), "k is None: give a whole number of at most 3"),
        (lambda: checks.number("b", 1.5, 0, 1), "b is 1.5: give a number from 0 to 1"),
        (lambda: checks.number("b", "1"), "b is '1': give a number"),
        (lambda: checks.number("b", False), "b is False"),
        (lambda: checks.number("b", math.nan, 0), "b is nan: give a finite number of at least 0"),
        (lambda: checks.number("b", math.inf), "b is inf: give a finite number"),
        (lambda: checks.number("t", 0, above=0), "t is 0: give a number above 0"),
        (lambda: checks.number("t", 9, high=8, above=0), "t is 9: give a number above 0, at most 8"),
        (lambda: checks.boolean("x", 1), "x is 1: give true or false"),
        (lambda: checks.text("x", 1), "x is 1: give a string"),
        (
            lambda: checks.choice("kind", "flatt", ("flat", "ivf")),
            "use one of flat, ivf. Did you mean 'flat'",
        ),
        (lambda: checks.choice("kind", 3, ("flat", "ivf")), "kind is 3"),
        (lambda: checks.mapping("o", [1]), "o is [1]: give a mapping"),
        (lambda: checks.mapping("o", {1: 2}), "o is {1: 2}"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(check: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check()
    assert message in str(raised.value)


def test_checks_return_the_value() -> None:
    assert (checks.integer("k", 3, 1, 3), checks.number("b", 1, 0, 1)) == (3, 1.0)
    assert type(checks.number("b", 1)) is float
    assert checks.choice("kind", "ivf", ("flat", "ivf")) == "ivf"
    assert (checks.mapping("o", {"a": 1}), checks.boolean("x", False)) == ({"a": 1}, False)


@pytest.mark.parametrize("alone", [True, False])
def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "facts.json"
    files.write_text(path, "old\n", alone=alone)

    def fail() -> None:
        with files.replacing(path, alone=alone) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old\n"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["facts.json"]
    files.write_bytes(path, b"new\r\n", alone=alone, durable=False)
    assert path.read_bytes() == b"new\r\n"


def test_a_file_reaches_the_disk_before_its_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut needs; no test can cut the power."""
    path = tmp_path / "facts.json"
    flushed: list[tuple[bool, bool]] = []

    def fsync(handle: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_text(path, "{}")
    assert flushed == [(False, False), (True, True)]
    files.write_text(path, "{}", durable=False)
    assert len(flushed) == 2


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".facts.json.tmp").write_text("left by a killed process")
    files.write_text(tmp_path / "facts.json", "{}", alone=True)
    assert [file.name for file in tmp_path.iterdir()] == ["facts.json"]


def test_a_lock_file_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    held = files.lock_file(path)
    with pytest.raises(filelock.Timeout):
        files.lock_file(path)
    waiting = threading.Thread(target=lambda: files.lock_file(path, wait=True).release())
    waiting.start()
    held.release()
    waiting.join(10)
    assert not waiting.is_alive()


def test_the_most_recent_entries_are_kept_and_the_capacity_is_a_bound() -> None:
    """Against a list of all uses: every entry used within the last half of the capacity is there."""
    rng, cache, uses = random.Random(0), LRUCache[int, int](20), list[int]()
    for _ in range(3000):
        key = int(rng.expovariate(0.05))
        recent = list(dict.fromkeys(reversed(uses)))[:10]
        value = cache.find(key)
        assert value is not None or key not in recent
        if value is None:
            cache.put(key, -key)
        assert cache[key] == -key
        assert len(cache) + len(cache._older) <= 20
        uses.append(key)


def test_entries_weigh_what_they_are_said_to() -> None:
    cache = LRUCache[str, bytes](20, lambda key, value: len(value))
    for n in range(50):
        cache.put(f"k{n}", b"12345")
        assert sum(map(len, cache.values())) + sum(map(len, cache._older.values())) <= 20
    cache.put("large", b"12345678901")
    assert cache.find("large") is None
    with pytest.raises(KeyError):
        cache["large"]
    assert cache["k49"] == b"12345"


def test_threads_may_share_a_cache() -> None:
    cache = LRUCache[int, int](50)

    def use(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(5000):
            key = rng.randrange(100)
            value = cache.find(key)
            assert value in (None, key)
            if value is None:
                cache.put(key, key)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) <= 25 + 4


def test_a_thread_that_comes_between_does_not_drop_the_older_generation() -> None:
    class Interrupted(LRUCache[int, int]):
        def clear(self) -> None:
            super().clear()
            if -1 not in self._older:
                self.put(-1, -1)  # what another thread may do here

    cache = Interrupted(50)
    for key in range(26):
        cache.put(key, key)
    assert [key for key in range(20) if cache.find(key) is None] == []


def test_pauses_are_bounded_and_statuses_are_told_apart() -> None:
    backoff = Backoff(0.2, 10.0)
    assert [backoff.bound(n) for n in (1, 2, 3, 9, 5000)] == [0.2, 0.4, 0.8, 10.0, 10.0]
    assert all(0.05 <= backoff.pause(1) <= 0.2 for _ in range(100))
    assert all(3 <= backoff.pause(1, 3.0) <= 6 for _ in range(100))
    assert [s for s in (200, 400, 404, 408, 409, 425, 429, 500, 503) if is_transient(s)] == [
        408, 409, 425, 429, 500, 503,
    ]  # fmt: skip


@dataclass(frozen=True)
class _Options:
    owner: str
    size: int = 3
    name: str = "x"


@takes_options(_Options)
def _open(corpus: object, *, name: str = "y", **options: Any) -> dict[str, Any]:
    check_known("thing 'x'", _Options, options)
    return {"name": name, **options}


def test_declared_options_are_in_the_signature() -> None:
    parameters = inspect.signature(_open).parameters
    assert {name: p.default for name, p in list(parameters.items())[1:]} == {"name": "y", "size": 3}
    assert _open(None, size=1) == {"name": "y", "size": 1}
    with pytest.raises(UnknownIdError, match="Did you mean 'size'"):
        _open(None, sizes=1)
