"""Runs a student's function in a process with limits and asks it for values.

The process (`child`) gets arguments one case at a time and never an expected value. It is limited in processor time, memory, files
and processes, writes nothing but its own temporary directory, and, where Linux has Landlock, reads nothing but Python and reaches neither network nor
other processes. When it ends, hangs or floods, the case fails and the next one gets a new process.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError
from searchgym.files import temporary_directory

from .child import plain

__all__ = ["Limits", "Reply", "Sandbox"]

Probe = Callable[[int, int], float]

_CHILD = Path(__file__).with_name("child.py")
_MOST_RESTARTS = 3
_LONGEST_LINE = 4 * 2**20  # bytes of one reply
_START_SECONDS = 60.0  # for Python to start on a busy machine
_FOLDER_FILES, _FOLDER_BYTES = 50, 1_000_000  # files of a submission that are copied, and their size


@dataclass(frozen=True)
class Limits:
    """What a student's code may use.

    Attributes:
        seconds: of one case, by the clock.
        cpu_seconds: of one process, which serves all cases of an assignment.
        memory_mb: address space of a process.
        file_mb: size of a file that it writes.
    """

    seconds: float = 10.0
    cpu_seconds: int = 60
    memory_mb: int = 1024
    file_mb: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"seconds is {self.seconds}: give the time of one case, above 0")


@dataclass(frozen=True)
class Reply:
    """What came back from a case.

    Attributes:
        value: what the function returned; None if there was an error.
        error: why there is no value, in one sentence; "" if there is one.
    """

    value: Any = None
    error: str = ""


@dataclass
class Sandbox:
    """A student's file and the process that runs it; a context manager.

    Args:
        file: the student's file; the small files beside it are copied with it.
        limits: what the process may use.

    Attributes:
        confined: whether the process is confined by Landlock; None before the first case.
    """

    file: Path
    limits: Limits = field(default_factory=Limits)
    confined: bool | None = None

    def __enter__(self) -> Sandbox:
        self._folder = temporary_directory("searchgym-course-")
        self._place = self._folder.__enter__()
        _copy_folder(self.file, self._place)
        self._process: subprocess.Popen[bytes] | None = None
        self._deaths = 0
        self._others = _adopt_orphans(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        _adopt_orphans(False)
        _flatten(self._place)
        self._folder.__exit__(None, None, None)

    def call(self, function: str, arguments: Sequence[Any], probe: Probe | None = None) -> Reply:
        """Call a function of the student's file.

        Args:
            function: its name.
            arguments: JSON values.
            probe: answers the calls of a probe that the function gets as its last argument; a `ValueError` refuses one. None: it
                gets no probe.
        """
        if self._deaths >= _MOST_RESTARTS:
            return Reply(
                error=f"not run: the process had already been ended {_MOST_RESTARTS} times by other cases"
            )
        try:
            if self._process is None:
                self._start()
            request = {"function": function, "arguments": list(arguments), "probes": probe is not None}
            return self._converse(request, probe)
        except _Ended as ended:
            self._deaths += 1
            self._stop()
            return Reply(error=str(ended))

    # -- one process -------------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(_CHILD), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=self._place,
                env={
                    "PATH": os.defpath,
                    "HOME": str(self._place),
                    "TMPDIR": str(self._place),
                    "LC_ALL": "C.UTF-8",
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel, self._rest = ours, b""
        limits = self.limits
        setup = {
            "file": str(self._place / self.file.name),
            **_places(),
            "cpu_seconds": limits.cpu_seconds,
            "memory_mb": limits.memory_mb,
            "file_mb": limits.file_mb,
        }
        self.confined = self._exchange(setup, time.monotonic() + _START_SECONDS)["confined"]

    def _stop(self) -> None:
        if self._process is None:
            return
        self._channel.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        _end_orphans(self._others)

    def _converse(self, request: dict[str, Any], probe: Probe | None) -> Reply:
        deadline = time.monotonic() + self.limits.seconds
        message = self._exchange(request, deadline)
        while "probe" in message and probe is not None:
            try:
                i, t = message["probe"]
                answer: dict[str, Any] = {"outcome": probe(int(i), int(t))}
            except (TypeError, ValueError, OverflowError) as refused:
                answer = {"refused": str(refused)}
            message = self._exchange(answer, deadline)
        error = message.get("error", "")
        try:  # the student's code may write to the channel itself
            return (
                Reply(error=error[:500])
                if error and isinstance(error, str)
                else Reply(plain(message["value"]))
            )
        except (KeyError, TypeError):
            return Reply(error="it sent something that is not a result")

    def _exchange(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send a message and wait for the reply to it; others are dropped (a forked copy of the process may write, too)."""
        number = secrets.token_hex(8)
        line = json.dumps(message | {"id": number}).encode() + b"\n"
        while line:
            self._wait_until(deadline)
            try:
                line = line[self._channel.send(line) :]
            except TimeoutError:
                continue
            except OSError:
                raise self._death() from None
        while True:
            reply = self._receive(deadline)
            if reply.get("id") == number:
                return reply

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._rest:
            self._wait_until(deadline)
            assert self._process is not None
            ended = self._process.poll() is not None
            try:
                piece = self._channel.recv(65536)
            except TimeoutError:
                if ended:
                    raise self._death() from None
                continue
            except OSError:
                raise self._death() from None
            if not piece:
                raise self._death()
            self._rest += piece
            if len(self._rest) > _LONGEST_LINE:
                raise _Ended(f"it returned more than {_LONGEST_LINE / 2**20:.0f} MB")
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        return reply if isinstance(reply, dict) else {}

    def _wait_until(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _Ended(f"it did not end within {self.limits.seconds:g} seconds")
        self._channel.settimeout(min(left, 0.1))

    def _death(self) -> _Ended:
        assert self._process is not None
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return _Ended("it closed its connection to the grader")
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            return _Ended(
                f"its process was ended after {self.limits.cpu_seconds} seconds of processor time, or by the system"
            )
        how = f"with status {status}" if status >= 0 else f"by signal {-status}"
        return _Ended(f"its process ended {how} before the function returned")


class _Ended(Exception):
    """The process is of no use any more."""


# -- surroundings --------------------------------------------------------------------------------------------


def _copy_folder(file: Path, target: Path) -> None:
    """Copy a student's file, and the small regular files beside it, which it may import."""
    shutil.copyfile(file, target / file.name)
    beside = [p for p in sorted(file.parent.iterdir()) if p.is_file() and not p.is_symlink() and p != file]
    for path in [p for p in beside if p.stat().st_size <= _FOLDER_BYTES][:_FOLDER_FILES]:
        shutil.copyfile(path, target / path.name)


def _flatten(place: Path) -> None:
    """Move what nested directories hold up, so that removing them needs no recursion: there may be thousands in each other."""
    pending = [entry for entry in place.iterdir() if entry.is_dir() and not entry.is_symlink()]
    number = 0
    while pending:
        directory = pending.pop()
        directory.chmod(0o700)
        for entry in list(directory.iterdir()):
            number += 1
            moved = entry.rename(place / f".{number}-{secrets.token_hex(4)}")
            if moved.is_dir() and not moved.is_symlink():
                pending.append(moved)


def _places() -> dict[str, list[str]]:
    """Where Python, its packages and the system's libraries are, without this package, which holds formulas and solutions.

    Returns:
        "readable": what may be read with all that is in it; "listable": the directories around this package.
    """
    import searchgym

    hidden = {place.resolve() for place in (*map(Path, searchgym.__path__), _CHILD.parents[1])}
    installed = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    system = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu"]
    readable: set[Path] = set()
    listable: set[Path] = set()
    pending = [Path(place).resolve() for place in (*installed, *packages, *system)]
    while pending:
        place = pending.pop()
        if place in readable or place in listable or any(place.is_relative_to(one) for one in hidden):
            continue
        if any(one.is_relative_to(place) for one in hidden):
            listable.add(place)
            pending += [entry.resolve() for entry in place.iterdir()]  # a link may lead around
        else:
            readable.add(place)
    return {"readable": sorted(map(str, readable)), "listable": sorted(map(str, listable))}


def _adopt_orphans(adopt: bool) -> set[int]:
    """Become the parent of processes whose parent dies, so that a student's process cannot leave any behind (Linux).

    Returns:
        The children of this process.
    """
    if sys.platform != "linux":
        return set()
    ctypes.CDLL(None).prctl(36, int(adopt), 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    return _children()


def _end_orphans(others: set[int]) -> None:
    """Kill the processes that were adopted; killing one may bring its children."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        adopted = [pid for pid in _children() - others if _is_stranger(pid)]
        if not adopted:
            return
        for pid in adopted:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with suppress(OSError):
                os.waitpid(pid, 0)


def _is_stranger(pid: int) -> bool:
    """Whether a child is in another session than this process; what this process started itself usually shares it."""
    try:
        return os.getsid(pid) != os.getsid(0)
    except OSError:
        return False


def _children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else []:
        with suppress(OSError, ValueError, IndexError):
            parent = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(entry.name))
    return found
