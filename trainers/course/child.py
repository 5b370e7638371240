"""The process in which a student's code runs. Started by `sandbox` as a script; imports nothing of the package.

It limits itself, reads the student's file and answers requests, one JSON object per line:

    from the grader    {"id", "function", "arguments", "probes"}   or, after a probe, {"id", "outcome"} or {"id", "refused"}
    to the grader      {"id", "value"} or {"id", "error"}          or {"id", "probe": [i, t]}

What comes from here is what the student's code returned. Whether it is right is not decided, and not known, in this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, NoReturn

_LOAD, _DUMP, _EXIT = json.loads, json.dumps, os._exit  # the student's code may replace those of the modules


# -- limits --------------------------------------------------------------------------------------------------


def limit(cpu_seconds: int, memory_mb: int, file_mb: int) -> None:
    """Limit this process and its children: processor time, address space, size of files, open files, processes.

    Threads count as processes. The limit on processes does not hold for the superuser.
    """
    for which, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_mb * 2**20),
        (resource.RLIMIT_FSIZE, file_mb * 2**20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that is too large is an OSError


_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls of Landlock, the same on every architecture
_LIST = 8  # read directories
_READ = 1 | 4 | _LIST  # execute, read files
_WRITE_FILE = 2
_BY_ABI = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # rights on files that each version added


def confine(readable: list[str], listable: list[str], writable: str) -> bool:
    """Let this process read some directories, write one, and reach neither network nor other processes (Landlock of Linux).

    Args:
        readable: directories and files that hold Python and its packages.
        listable: directories that it may list, with everything in them; Python's import needs that.
        writable: the working directory.

    Returns:
        Whether the kernel does it: files since 5.13, TCP since 6.7, signals since 6.12.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    files = sum(bits for since, bits in _BY_ABI.items() if version >= since)
    attributes = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    attributes = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    allowed = dict.fromkeys(listable, _LIST) | dict.fromkeys(readable, _READ)
    allowed |= {"/dev/null": 4 | _WRITE_FILE, "/dev/urandom": 4}
    for path, rights in (allowed | {writable: files}).items():
        if os.path.exists(path):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = rights if os.path.isdir(path) else rights & (1 | 2 | 4)
            libc.syscall(_ADD, rules, 1, struct.pack("=Qi", rights, place), 0)
            os.close(place)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, which restricting oneself needs
    done: int = libc.syscall(_RESTRICT, rules, 0)
    os.close(rules)
    return done == 0


class _NoSearchGym(MetaPathFinder):
    """Says why the package cannot be imported: it contains the formulas that are asked for. Landlock keeps its files from being read."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "searchgym":
            raise ImportError(
                "searchgym cannot be imported in an assignment: write the formula yourself", name=name
            )


# -- the student's file --------------------------------------------------------------------------------------


def cells_of(path: Path) -> list[str]:
    """The code cells of a notebook, or of a Python file with lines `# %%`, each with its line numbers in the file.

    A byte order mark, which editors of Windows write, is skipped.

    Raises:
        ValueError: not a notebook.
    """
    if path.suffix == ".ipynb":
        cells = _LOAD(path.read_text("utf-8-sig"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return ["\n".join("" if line[:1] in "%!" else line for line in s.split("\n")) for s in sources]
    cells, above = [""], 0
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n")):
        if line.startswith("# %%"):
            above = number
            cells.append("\n" * above)
        cells[-1] += line + "\n"
    return cells


def load(path: Path) -> tuple[dict[str, Any], str]:
    """Run a student's file cell by cell; a cell that fails does not stop the next ones.

    Returns:
        Its names, and what was wrong with the first cell that failed, "" if nothing was.
    """
    names: dict[str, Any] = {"__name__": "assignment", "__file__": str(path)}
    problem = ""
    try:
        cells = cells_of(path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return names, f"{path.name} cannot be read: {describe(error, path)}"
    for number, cell in enumerate(cells):
        place = f"{path.name}, cell {number + 1}" if path.suffix == ".ipynb" else path.name
        try:
            exec(compile(cell, place, "exec", dont_inherit=True), names)
        except BaseException as error:
            problem = problem or describe(error, path)
    return names, problem


def describe(error: BaseException, path: Path) -> str:
    """An error in one sentence, with its line in the student's file."""
    if isinstance(error, SyntaxError):
        return f"syntax error in line {error.lineno} of {error.filename or path.name}: {error.msg}"
    line = None
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name.startswith(path.name):
            line = f" (line {step.tb_lineno} of {name})"
        step = step.tb_next
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{': ' if text else ''}{text}{line or ''}"


def plain(value: Any, depth: int = 0) -> Any:
    """A result as JSON: numbers, text, lists. Arrays become lists.

    Raises:
        TypeError: something else.
    """
    if depth > 4:
        raise TypeError("lists are nested more than four deep")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(one, depth + 1) for one in value]
    raise TypeError(
        f"the function returned {'an object' if depth == 0 else 'a list that holds an object'} of type "
        f"{type(value).__name__}, not a list of numbers"
    )


# -- requests ------------------------------------------------------------------------------------------------


def serve(channel: socket.socket) -> NoReturn:
    """Answer requests until the grader closes the channel; each message carries the id of the newest one that was received."""
    lines = channel.makefile("rb")
    newest = ""

    def send(message: dict[str, Any]) -> None:
        channel.sendall(_DUMP({"id": newest, **message}).encode() + b"\n")

    def receive() -> dict[str, Any]:
        nonlocal newest
        line = lines.readline()
        if not line:
            _EXIT(0)
        message: dict[str, Any] = _LOAD(line)
        newest = message["id"]
        return message

    def probe(i: int, t: int) -> float:
        send({"probe": [int(i), int(t)]})
        reply = receive()
        if "refused" in reply:
            raise ValueError(reply["refused"])
        return float(reply["outcome"])

    setup = receive()
    path = Path(setup["file"])
    limit(setup["cpu_seconds"], setup["memory_mb"], setup["file_mb"])
    confined = confine(setup["readable"], setup["listable"], os.getcwd())
    sys.meta_path.insert(0, _NoSearchGym())
    sys.path.insert(0, os.getcwd())
    send({"confined": confined})
    request = receive()  # the file runs when the time of the first case has begun
    names, problem = load(path)
    while True:
        function = names.get(request["function"])
        if callable(function):
            try:
                arguments = [*request["arguments"], *([probe] if request["probes"] else [])]
                message = {"value": plain(function(*arguments))}
            except BaseException as error:
                message = {"error": describe(error, path)}
        else:
            missing = f"{path.name} defines no function {request['function']}"
            message = {"error": f"{missing}: {problem}" if problem else missing}
        send(message)
        request = receive()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
