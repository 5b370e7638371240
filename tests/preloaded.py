"""Python processes that start as forks of one that has imported the libraries: importing torch takes longer than most tests.

`PreloadedPopen` is `subprocess.Popen` for `[sys.executable, …]`: the same pipes, signals, exit status, working directory and
environment; `run` is `subprocess.run`. What differs from a real start: modules are imported already, with the environment
of the server, and the seed of `hash` is the server's. A test of what is imported, of `PYTHON…` variables, or of
memory starts a real process.

The processes of a test session share one server, which ends with the last of them. Each of them keeps a connection open; a
request comes on a connection of its own: the job as JSON, with the three standard streams. The server forks a monitor,
which takes over the connection; the monitor forks the process, sends its id and, when it has ended, its exit status.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

MODULES = (
    "searchgym.cli",
    "searchgym.conformance",
    "searchgym.corpora.cli",
    "searchgym.corpora.bm25.index",
    "searchgym.corpora.service.server",
    "searchgym.judges.llm.judge",
    "searchgym.agents.candidate.agent",
    "searchgym.agents.hf.agent",
    "searchgym.trainers.bench.cli",
    "searchgym.trainers.credit_audit.cli",
    "searchgym.trainers.conformance",
    "searchgym.trainers.distributed.fsdp",
    "searchgym.trainers.training.api",
    "torch._dynamo",
    "transformers.models.qwen3.modeling_qwen3",
    "uvicorn",
)
"""Imported by the server; those that need a missing extra are left out."""

SHARED: list[Path] = []
"""The directory where the processes of a test session find their server; conftest.py fills it in."""

_NUMBER = struct.Struct("!i")


def skip_flushes() -> None:
    """Let files reach the disk when the system likes: a flush waits for it, 7 ms, and the tests ask for tens of thousands.

    Only a power cut would show the difference.
    """

    def flush(file: int) -> None:
        os.fstat(file)  # an error where there is no such file

    os.fsync = flush  # type: ignore[assignment]


# -- the tests' side -----------------------------------------------------------------------------------------


class PreloadedPopen(subprocess.Popen[Any]):
    """`subprocess.Popen` whose process is a fork of the server.

    Its arguments are `[sys.executable, "-c", code, …]`, `[sys.executable, "-m", module, …]` or
    `[sys.executable, script, …]`; of the options, streams, `text`, `cwd`, `env` and `start_new_session` are known.
    """

    def __init__(self, args: list[Any], *, start_new_session: bool = False, **options: Any) -> None:
        self._new_session = start_new_session
        super().__init__(args, **options)

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        """Called by `Popen` with the ends of the pipes, in one order in all versions of Python 3."""
        _, _, cwd, env, _, _, _, *pipes = rest
        stdin, to_stdin, from_stdout, stdout, from_stderr, stderr = pipes[:6]
        assert args[0] == sys.executable, args
        job = {
            "args": [os.fspath(argument) for argument in args[1:]],
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "session": self._new_session,
        }
        data = json.dumps(job).encode()
        streams = [own if fd == -1 else fd for own, fd in enumerate((stdin, stdout, stderr))]
        self._monitor = _connect()
        socket.send_fds(self._monitor, [_NUMBER.pack(len(data))], streams)
        self._monitor.sendall(data)
        self._close_pipe_fds(stdin, to_stdin, from_stdout, stdout, from_stderr, stderr)  # type: ignore[attr-defined]
        self._child_created = True
        self.pid = self._receive()

    def _receive(self) -> int:
        return _NUMBER.unpack(_exactly(self._monitor, _NUMBER.size))[0]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._monitor, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._receive()
            self._monitor.close()
        return self.returncode


def run(
    args: list[Any], *, input: Any = None, timeout: float | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` with a process that is a fork of the server."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with PreloadedPopen(args, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _connect() -> socket.socket:
    address, _ = _server()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection


@functools.cache
def _server() -> tuple[str, socket.socket]:
    """The address of the server, which is started if there is none, and the connection that keeps it alive."""
    from filelock import FileLock

    with FileLock(SHARED[-1] / "server.lock"):
        link, connection = SHARED[-1] / "server", socket.socket(socket.AF_UNIX)
        atexit.register(connection.close)
        with contextlib.suppress(OSError):
            connection.connect(os.readlink(link))
            return os.readlink(link), connection
        address = f"{tempfile.mkdtemp()}/socket"  # the path of a socket has at most 107 characters
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            command = [sys.executable, __file__, str(listener.fileno()), address]
            subprocess.Popen(command, pass_fds=[listener.fileno()], cwd="/", stdin=subprocess.DEVNULL)
        connection.connect(address)
        link.unlink(missing_ok=True)
        link.symlink_to(address)
        return address, connection


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError("the server of preloaded processes has ended")
        data += part
    return data


# -- the server ----------------------------------------------------------------------------------------------


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork processes until the last connection ends.

    Returns:
        In a forked process its job; in the server None.
    """
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    kept = 0
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                kept += 1
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            selector.unregister(connection)
            kept -= 1
            size, streams, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
            if size:
                job = json.loads(_exactly(connection, *_NUMBER.unpack(size)))
                if not os.fork():
                    listener.close()
                    selector.close()
                    return _monitor(connection, job, streams)
            for stream in streams:
                os.close(stream)
            connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not kept:
            return None


def _monitor(connection: socket.socket, job: dict[str, Any], streams: list[int]) -> dict[str, Any]:
    """Fork the process, in which this returns its job, and report on it."""
    if not (pid := os.fork()):
        connection.close()
        return {**job, "streams": streams}
    for number in (*streams, 0, 1, 2):
        os.close(number)
    connection.sendall(_NUMBER.pack(pid))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # who asked has ended
        connection.sendall(_NUMBER.pack(status))
    os._exit(0)


def become(args: list[str], cwd: str, env: dict[str, str], session: bool, streams: list[int]) -> None:
    """Make this process what the interpreter makes of one with these arguments, and run its program."""
    if session:
        os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        text = io.TextIOWrapper(
            os.fdopen(number, "wb" if number else "rb", closefd=False),
            "utf-8",
            "backslashreplace" if name == "stderr" else "strict",
            line_buffering=name == "stderr",
            write_through=bool(number and env.get("PYTHONUNBUFFERED")),
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None  # found with the environment of the server
    _draw_anew()
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    option, *rest = args
    if option == "-c":
        code, sys.argv = rest[0], ["-c", *rest[1:]]
        sys.path[:] = ["", *paths, *sys.path]
        module = types.ModuleType("__main__")
        module.__builtins__ = __builtins__  # type: ignore[attr-defined]
        sys.modules["__main__"] = module
        exec(compile(code, "<string>", "exec"), module.__dict__)
    elif option == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path[:] = [cwd, *paths, *sys.path]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        sys.path[:] = [str(Path(option).resolve().parent), *paths, *sys.path]
        runpy.run_path(option, run_name="__main__")


def _draw_anew() -> None:
    """No two processes draw the same random numbers because they are forks of one."""
    random.seed()
    for name, function in (("numpy", "random.seed"), ("torch", "seed")):
        if name in sys.modules:
            owner, _, call = f"{name}.{function}".rpartition(".")
            getattr(sys.modules[owner], call)()


def main() -> None:
    """Import the libraries and serve; returns in the server and in each process at its end."""
    number, address = sys.argv[1:]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they this server
    sys.path.pop(0)
    for module in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    skip_flushes()
    gc.freeze()
    job = serve(socket.socket(fileno=int(number)))
    if job is None:
        os.unlink(address)
        os.rmdir(os.path.dirname(address))
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 0
    try:
        become(**job)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    # What the interpreter does at its end, but for clearing a thousand modules, which takes a quarter of a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
