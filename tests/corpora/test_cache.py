"""The cache: built once, despite interruptions, races and damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import preloaded
import pytest

from searchgym.corpora.indexing import cache, sealed
from searchgym.corpora.indexing.cache import cached_directory
from searchgym.corpora.indexing.sealed import open_checked, verify_directory
from searchgym.errors import ConfigError, DamagedFileError

KEY = {"format": 1, "size": 3}


def fill(directory: Path) -> None:
    (directory / "part").mkdir()
    (directory / "part" / "numbers.bin").write_bytes(bytes(range(100)))
    (directory / "words.txt").write_text("one two three")


def never(directory: Path) -> None:
    raise AssertionError("built a second time")


def start(code: str, home: Path, **variables: str) -> subprocess.Popen[str]:
    """A second process that has `home` and `cached_directory` at hand."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom searchgym.corpora.indexing.cache import cached_directory\n"
    return preloaded.PreloadedPopen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        env={**os.environ, "SEARCHGYM_HOME": str(home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    return out.strip()


def litter(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "cache").rglob("*.tmp"))


def test_built_once_and_found_again(home: Path) -> None:
    first = cached_directory("thing", KEY, fill)
    assert (first / "words.txt").read_text() == "one two three"
    assert cached_directory("thing", {"size": 3, "format": 1}, never) == first
    assert cached_directory("thing", {"format": 1, "size": 4}, fill) != first
    assert cached_directory("thing", {"format": 2, "size": 3}, fill) != first
    assert home in first.parents
    assert verify_directory(first) == []
    assert sealed.read_key(first) == KEY
    assert litter(home) == []


def test_home_is_the_variable_or_the_platforms_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEARCHGYM_HOME", str(tmp_path))
    assert cache.home() == tmp_path
    monkeypatch.setenv("SEARCHGYM_HOME", "")
    assert cache.home() == Path(platformdirs.user_cache_dir("searchgym"))
    monkeypatch.delenv("SEARCHGYM_HOME")
    assert cache.home() == Path(platformdirs.user_cache_dir("searchgym"))


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("thing", {"size": 3}, "no 'format'"),
        ("thing", {"format": 1, "size": {1, 2}}, "not JSON"),
        ("thing", {"format": 1, "size": float("nan")}, "not JSON"),
        ("../thing", {"format": 1}, "lower-case"),
        ("", {"format": 1}, "lower-case"),
    ],
)
def test_bad_names_and_keys_are_refused(name: str, key: dict[str, object], message: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        cached_directory(name, key, never)
    assert not home.exists()


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing_and_can_be_tried_again(home: Path, error: BaseException) -> None:
    def fail(directory: Path) -> None:
        fill(directory)
        raise error

    with pytest.raises(type(error)):
        cached_directory("thing", KEY, fail)
    assert litter(home) == []
    assert [path for path in (home / "cache" / "thing").iterdir() if path.is_dir()] == []
    assert (cached_directory("thing", KEY, fill) / "words.txt").exists()


def truncate(entry: Path) -> None:
    (entry / "part" / "numbers.bin").write_bytes(bytes(range(60)))


def change(entry: Path) -> None:
    (entry / "words.txt").write_text("one two threE")


def remove(entry: Path) -> None:
    (entry / "words.txt").unlink()


def break_manifest(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"schema": 1, "files": [')


def remove_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


@pytest.mark.parametrize("harm", [truncate, change, remove, break_manifest, remove_manifest])
def test_a_damaged_entry_is_rebuilt_with_a_warning(home: Path, harm: Callable[[Path], None]) -> None:
    entry = cached_directory("thing", KEY, fill)
    harm(entry)
    assert verify_directory(entry) != []
    with pytest.warns(RuntimeWarning, match="a cache entry cannot be used"):
        assert cached_directory("thing", KEY, fill) == entry
    assert verify_directory(entry) == []
    assert litter(home) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached_directory("thing", KEY, never)


def test_lazy_files_are_compared_when_they_are_read(home: Path) -> None:
    entry = cached_directory("thing", KEY, fill, lazy=["words.*"])
    change(entry)
    assert cached_directory("thing", KEY, never) == entry
    assert verify_directory(entry) == [f"{entry / 'words.txt'} has changed since it was written"]
    (words,) = open_checked(entry, "words.txt")
    with pytest.raises(DamagedFileError, match=r"words.txt is damaged: bytes 0 to 13 have changed"):
        words.check(4, 5)
    with pytest.warns(RuntimeWarning, match="a cache entry cannot be used: .*words.txt is damaged"):
        assert (
            cached_directory("thing", KEY, fill, lazy=["words.*"]) == entry
        )  # what was found is not forgotten
    assert verify_directory(entry) == []


def test_processes_at_once_build_once(home: Path, tmp_path: Path) -> None:
    code = """
        import warnings
        warnings.simplefilter("error")  # such as the one that the home cannot be written
        here = Path(os.environ["HERE"])
        (here / f"ready-{os.getpid()}").touch()
        while len(list(here.glob("ready-*"))) < 3:
            time.sleep(0.001)
        for number in range(30):
            def build(directory):
                with open(here / "builds", "a") as log:
                    log.write(f"{number}\\n")
                (directory / "x").write_text(str(number))
            print((cached_directory("thing", {"format": 1, "number": number}, build) / "x").read_text())
    """
    racers = [start(code, home, HERE=str(tmp_path)) for _ in range(3)]
    expected = [str(number) for number in range(30)]
    assert [finish(process).split() for process in racers] == [expected] * 3
    assert sorted((tmp_path / "builds").read_text().split(), key=int) == expected
    assert litter(home) == []


def test_a_probe_swept_by_another_process_is_no_failure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once this sent the slower of two processes to a private home."""
    real, swept = Path.mkdir, []

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        real(path, *args, **options)
        if path.suffix == ".tmp" and not swept:
            swept.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert home in cached_directory("thing", KEY, fill).parents
    assert len(swept) == 1


def test_the_second_process_waits_for_the_first(home: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    first = start(SLOW_BUILD, home, FLAG=str(flag))
    wait_for(flag.exists)
    second = start(SLOW_BUILD, home, FLAG=str(tmp_path / "other"))
    time.sleep(0.3)
    assert second.poll() is None
    (tmp_path / "flag-go-on").touch()
    assert finish(first) == finish(second)
    assert not (tmp_path / "other").exists()  # it never built


SLOW_BUILD = """
    def build(directory):
        (directory / "half").write_text("x" * 1000)
        Path(os.environ["FLAG"]).touch()
        while not os.path.exists(os.environ["FLAG"] + "-go-on"):
            time.sleep(0.01)
    print(cached_directory("thing", {"format": 1, "slow": True}, build))
"""


def test_kill_9_leaves_litter_that_the_next_build_removes(home: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    for key in ({"format": 1, "slow": True}, {"format": 1, "other": True}):  # the same entry, and another one
        for _ in range(2):  # killed in a loop, it does not pile up
            victim = start(SLOW_BUILD, home, FLAG=str(flag))
            wait_for(flag.exists)
            os.kill(victim.pid, signal.SIGKILL)
            victim.communicate()
            flag.unlink()
            assert len(litter(home)) == 1
        entry = cached_directory("thing", key, fill)
        assert verify_directory(entry) == []
        assert litter(home) == []
        cached_directory("thing", key, never)
        for name in (
            "words.txt",
            "part/numbers.bin",
            "checksums.u32",
            "manifest.json",
        ):  # the second victim must build again
            (entry / name).unlink()
        (entry / "part").rmdir()
        entry.rmdir()


def test_a_build_in_progress_is_not_litter(home: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    builder = start(SLOW_BUILD, home, FLAG=str(flag))
    wait_for(flag.exists)
    cached_directory("thing", KEY, fill)
    assert len(litter(home)) == 1
    (tmp_path / "flag-go-on").touch()
    assert (Path(finish(builder)) / "half").read_text() == "x" * 1000


UNWRITABLE = """
    import warnings
    def build(directory):
        (directory / "x").write_text("here")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        entry = cached_directory("thing", {"format": 1}, build)
        again = cached_directory("thing", {"format": 1}, None)
        cached_directory("other", {"format": 1}, build)
    assert entry == again, (entry, again)
    assert (entry / "x").read_text() == "here"
    child = os.fork()
    if child == 0:
        sys.exit(0)  # runs the exit handlers of the parent
    assert os.waitpid(child, 0)[1] == 0
    assert (entry / "x").read_text() == "here"
    print(entry)
    print(*[warning.message for warning in caught], sep="\\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_an_unwritable_home_gives_a_private_directory_and_one_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"  # a file where the home should be: binds for root too, unlike chmod
    blocked.write_text("")
    entry, *messages = finish(start(UNWRITABLE, blocked, TMPDIR=str(tmp_path))).splitlines()
    assert len(messages) == 1
    assert "cannot be written" in messages[0]
    assert "SEARCHGYM_HOME" in messages[0]
    assert tmp_path in Path(entry).parents
    assert list(tmp_path.iterdir()) == [blocked]  # cleaned at exit, and not by the forked child


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_without_write_permission_falls_back_too(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    home.chmod(0o500)
    try:
        entry, *messages = finish(start(UNWRITABLE, home, TMPDIR=str(tmp_path))).splitlines()
    finally:
        home.chmod(0o700)
    assert len(messages) == 1
    assert home not in Path(entry).parents


def test_an_intact_entry_is_opened_without_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = cached_directory("thing", KEY, fill)

    def refuse(*_: object) -> None:
        raise AssertionError("a read-only home would fail here")

    monkeypatch.setattr(cache, "_locked", refuse)
    assert cached_directory("thing", KEY, never) == entry
