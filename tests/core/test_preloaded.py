"""A preloaded process does what one that the interpreter starts does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest

PROGRAMS = {
    "output": "import sys; print('out'); print('err', file=sys.stderr); print('ü—')",
    "unflushed": "import os, sys; sys.stdout.write('kept'); sys.stderr.write('too')",
    "status": "raise SystemExit(7)",
    "status of 16 bits": "raise SystemExit(258)",
    "message": "raise SystemExit('a reason')",
    "error": "import json; json.loads('{')",
    "interrupt": "raise KeyboardInterrupt",
    "killed": "import os, signal; print('lost'); os.kill(os.getpid(), signal.SIGKILL)",
    "cut off": "import os; os.write(1, b'now'); os._exit(9)",
    "arguments": "import sys; print(sys.argv, sys.path[0], __name__)",
    "input": "import sys; print(sys.stdin.read().upper(), sys.stdin.encoding)",
    "place": "import os, here; print(os.getcwd(), here.NAME)",
    "path": "import there; print(there.NAME)",
    "environment": "import os; print(sorted(k for k in os.environ if k != 'LC_CTYPE'), os.environ['A'])",
    "end": "import atexit, threading; atexit.register(print, 'end'); threading.Thread(target=print, args=['t']).start()",
    "children": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(3); exit(4)']))",
    "spawn": "import multiprocessing as m; p = m.get_context('spawn').Process(target=print, args=[5]); p.start(); p.join()",
    "fork": "import os, sys; pid = os.fork(); sys.exit(6 if not pid else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
}
SCRIPT = """
import sys
import here
print(sys.argv, sys.path[0] == sys.argv[0].rpartition("/")[0], __file__ == sys.argv[0], here.NAME)
if __name__ == "__main__":
    print("main")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for folder, module in (("cwd", "here"), ("path", "there")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{module}.py").write_text(f"NAME = {module!r}\n")
    (tmp_path / "cwd" / "script.py").write_text(SCRIPT)
    return tmp_path


def both(place: Path, *arguments: str) -> list[tuple[int, str, list[str]]]:
    """Status, output and last line of the errors: of a process that starts anew, and of a preloaded one."""
    environment = {"PATH": os.environ["PATH"], "A": "b\n", "PYTHONPATH": str(place / "path")}
    command = [sys.executable, *arguments]
    options = {"cwd": place / "cwd", "env": environment, "input": "straße", "encoding": "utf-8"}
    runs = (run(command, capture_output=True, **options) for run in (subprocess.run, preloaded.run))
    return [(done.returncode, done.stdout, done.stderr.splitlines()[-1:]) for done in runs]


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_behave_alike(name: str, place: Path) -> None:
    anew, forked = both(place, "-c", PROGRAMS[name], "one", "-c")
    assert forked == anew
    assert anew != (0, "", [])


@pytest.mark.parametrize("program", [("script.py", "x"), ("-m", "here"), ("-m", "searchgym", "--version")])
def test_scripts_and_modules_behave_alike(program: tuple[str, ...], place: Path) -> None:
    arguments = [str(place / "cwd" / word) if word.endswith(".py") else word for word in program]
    anew, forked = both(place, *arguments)
    assert forked == anew
    assert anew[0] == 0


def test_it_is_waited_for_and_signalled() -> None:
    code = "import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()"
    command = [sys.executable, "-c", code]
    with preloaded.PreloadedPopen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid == os.getpgid(process.pid)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == process.poll() == -signal.SIGTERM


def test_a_failed_check_shows_the_errors() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        preloaded.run([sys.executable, "-c", "exit('a reason')"], capture_output=True, text=True, check=True)
    assert failed.value.stderr == "a reason\n"


def test_no_two_draw_the_same_numbers() -> None:
    code = "import random, numpy; print(random.random(), numpy.random.random())"
    command = [sys.executable, "-c", code]
    drawn = {preloaded.run(command, capture_output=True, check=True).stdout for _ in range(3)}
    assert len(drawn) == 3
