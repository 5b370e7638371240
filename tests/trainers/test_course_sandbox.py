"""What students' code cannot do to the grader: each test is one attempt."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra train is not installed")

import searchgym
from searchgym.trainers.course import sandbox as sandbox_module
from searchgym.trainers.course.grading import Grader
from searchgym.trainers.course.sandbox import Limits, Reply, Sandbox

GOOD = """
def group_advantage(rewards):
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    std = (sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5
    return [(r - mean) / (std + 1e-6) for r in rewards]
"""


def landlock_version() -> int:
    if sys.platform != "linux":
        return 0
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1))


def calls(tmp_path: Path, code: str, *arguments: Any, **limits: Any) -> list[Reply]:
    """The replies of `f` to each argument."""
    file = tmp_path / "1_group_advantage.py"
    file.write_text(code)
    with Sandbox(file, Limits(**limits)) as sandbox:
        return [sandbox.call("f", [argument]) for argument in arguments]


ATTEMPTS = {
    "an endless loop": ("while True: pass", "did not end within 1.5 seconds"),
    "a stopped process": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "did not end within 1.5 seconds",
    ),
    "os._exit": ("import os; os._exit(0)", "process ended with status 0"),
    "sys.exit": ("import sys; sys.exit(0)", "SystemExit: 0 (line 4"),
    "abort": ("import os; os.abort()", "process ended by signal 6"),
    "too much memory": ("bytearray(10**11)", "MemoryError"),
    "a huge result": ("return 'x' * 10**7", "returned more than 4 MB"),
    "a huge file": (
        "open('big', 'wb').write(b'x' * 2**21) or open('big', 'ab').write(b'x' * 2**21)",
        "File too large",
    ),
    "a list in itself": ("a = []; a.append(a); return a", "nested more than four deep"),
    "an object": ("return object()", "an object of type object"),
    "endless recursion": ("return f(x)", "RecursionError"),
    "the grader's connection closed": ("import os; os.closerange(3, 65536)", "before the function returned"),
    "the package": (
        "import searchgym.trainers.core.objective",
        "searchgym cannot be imported in an assignment",
    ),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_costs_its_case_and_no_other(name: str, tmp_path: Path) -> None:
    attempt, said = ATTEMPTS[name]
    code = f"def f(x):\n    if x == 1:\n        return 10\n    {attempt}\n"
    first, failed, last = calls(tmp_path, code, 1, 2, 1, seconds=1.5 if "within" in said else 20.0)
    assert first == last == Reply(10)
    assert said in failed.error
    assert failed.value is None


def test_processor_time_is_limited(tmp_path: Path) -> None:
    (reply,) = calls(tmp_path, "def f(x):\n    while True: pass\n", 1, seconds=60.0, cpu_seconds=1)
    assert "after 1 seconds of processor time" in reply.error


def test_a_process_that_always_dies_is_not_started_for_ever(tmp_path: Path) -> None:
    replies = calls(tmp_path, "import os\ndef f(x): os._exit(3)\n", *range(6), seconds=20.0)
    assert ["status 3" in reply.error for reply in replies] == [True] * 3 + [False] * 3
    assert all("not run" in reply.error for reply in replies[3:])


def test_what_it_prints_is_dropped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import os, sys\ndef f(x):\n    print('y' * 10**6)\n    os.write(1, b'z' * 10**6)\n"
        "    print('y' * 10**6, file=sys.stderr)\n    return input() if x else 5\n"
    )
    printed, read = calls(tmp_path, code, 0, 1, seconds=20.0)
    assert printed == Reply(5)
    assert "EOFError" in read.error
    assert capfd.readouterr() == ("", "")


def test_patching_changes_no_grade(tmp_path: Path) -> None:
    attack = """
import builtins, json, math, os, sys
builtins.abs = lambda x: 0
builtins.min = builtins.max = lambda *a, **k: 0
math.isfinite = lambda x: True
json.dumps = lambda *a, **k: '{"value": [0]}'
json.loads = lambda *a, **k: {}
os._exit = lambda *a: None
sys.exit = lambda *a: None
class Equal(float):
    def __eq__(self, other): return True
    __ne__ = __lt__ = __gt__ = lambda self, other: False
    def __sub__(self, other): return 0.0
def group_advantage(rewards):
    return [Equal(7)] * len(rewards)
"""
    (tmp_path / "1_group_advantage.py").write_text(attack)
    graded = Grader(assignments=[1]).grade(tmp_path)
    assert graded.score == 0
    assert graded.points == 20


def test_nothing_that_is_expected_can_be_read(tmp_path: Path) -> None:
    """Frames and objects hold no expected value, and no file of the grader can be read."""
    secret = tmp_path / "elsewhere" / "grades.json"
    secret.parent.mkdir()
    secret.write_text("secret")
    code = f"""
import gc, os, sys
def f(x):
    found = []
    frame = sys._getframe()
    while frame:
        found += [n for n in (*frame.f_locals, *frame.f_globals) if "expected" in n.lower()]
        frame = frame.f_back
    found += [repr(o)[:80] for o in gc.get_objects() if isinstance(o, dict) and "expected" in o]
    for path in ("/proc/%d/mem", "/proc/%d/environ", "/proc/%d/cmdline", "/proc/%d/fd/0"):
        try:
            open(path % os.getppid(), "rb").read(1)
            found.append(path)
        except OSError:
            pass
    for path, mode in (({str(secret)!r}, "r"), ({str(secret)!r}, "w"), ({str(secret.parent / "new")!r}, "w")):
        try:
            open(path, mode).close()
            found.append(path)
        except OSError:
            pass
    return found
"""
    (reply,) = calls(tmp_path, code, 1, seconds=30.0)
    if landlock_version() < 1:
        reply = Reply([name for name in reply.value if "/" not in name], reply.error)
    assert reply == Reply([])
    assert landlock_version() < 1 or secret.read_text() == "secret"


@pytest.mark.skipif(landlock_version() < 6, reason="this kernel cannot keep processes from signalling others")
def test_it_can_neither_end_the_grader_nor_reach_the_network(tmp_path: Path) -> None:
    code = """
import os, signal, socket
def f(x):
    try:
        os.kill(os.getppid(), signal.SIGTERM if x else 0)
        return "signal"
    except PermissionError:
        pass
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
        return "connected"
    except PermissionError:
        return "nothing"
"""
    assert calls(tmp_path, code, 0, seconds=20.0) == [Reply("nothing")]


def test_processes_that_it_leaves_behind_are_killed(tmp_path: Path) -> None:
    """A grandchild in a session of its own. Only the superuser can fork at all."""
    code = """
import os, time
def f(x):
    read, write = os.pipe()
    try:
        pid = os.fork()
    except BlockingIOError:
        return 0
    if pid == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(write, str(os.getpid()).encode())
        time.sleep(1000)
    return int(os.read(read, 20))
"""
    file = tmp_path / "1_group_advantage.py"
    file.write_text(code)
    with Sandbox(file, Limits(seconds=20.0)) as sandbox:
        pid = sandbox.call("f", [1]).value
        assert pid == 0 or Path(f"/proc/{pid}").exists()
    assert isinstance(pid, int)
    assert pid == 0 or not Path(f"/proc/{pid}").exists()


def test_a_forked_copy_answers_no_other_case(tmp_path: Path) -> None:
    code = """
import os
def f(x):
    try:
        os.fork()
    except BlockingIOError:
        pass
    return x
"""
    started = time.monotonic()
    replies = calls(tmp_path, code, *range(4), seconds=20.0)
    for number, reply in enumerate(replies):
        assert reply.value == number or reply.error
    assert time.monotonic() - started < 200


def test_the_rest_of_the_folder_can_be_imported_and_stays_as_it_is(tmp_path: Path) -> None:
    helper = tmp_path / "helper.py"
    helper.write_text("VALUE = 4\n")
    (tmp_path / "link.py").symlink_to("/etc/hostname")
    code = "import os, helper\ndef f(x):\n    open('helper.py', 'w').write('')\n    return [helper.VALUE, os.path.exists('link.py')]\n"
    assert calls(tmp_path, code, 1, seconds=20.0) == [Reply([4, False])]
    assert helper.read_text() == "VALUE = 4\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("1_group_advantage.py", "x = 1\ndef group_advantage(rewards:\n", "syntax error in line 2 of 1_group"),
        ("1_group_advantage.py", "x = 1\x00\n", "source code string cannot contain null bytes"),
        ("1_group_advantage.py", "x = 1\n", "defines no function group_advantage"),
        ("1_group_advantage.py", "group_advantage = 3\n1 / 0\n", "ZeroDivisionError: division by zero (line 2"),
        ("1_group_advantage.ipynb", "{", "1_group_advantage.ipynb cannot be read"),
        ("1_group_advantage.ipynb", '{"cells": [{"cell_type": "code"}]}', "cannot be read: KeyError"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_run_is_a_sentence(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    graded = Grader(assignments=[1]).grade(tmp_path)
    assert graded.score == 0
    assert all(said in sentence for check in graded.checks for sentence in check.sentences)
    assert graded.checks[0].sentences


def test_a_notebook_runs_cell_by_cell(tmp_path: Path) -> None:
    sources = [
        "%matplotlib inline\n",
        "1 / 0\n",
        ["!ls\n", *GOOD.splitlines(keepends=True)],
        "assert False\n",
    ]
    cells = [{"cell_type": "code", "source": source} for source in sources]
    cells.insert(0, {"cell_type": "markdown", "source": "text"})
    (tmp_path / "1_group_advantage.ipynb").write_text(json.dumps({"cells": cells}))
    assert Grader(assignments=[1]).grade(tmp_path).score == 20


def test_the_environment_of_the_grader_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "hidden")
    (reply,) = calls(tmp_path, "import os\ndef f(x): return 'API_TOKEN' in os.environ\n", 1, seconds=20.0)
    assert reply == Reply(False)
    assert os.environ["API_TOKEN"] == "hidden"


# Replies that the student's code writes itself, and a folder that is hard to remove.
FORGED = "import __main__\n__main__.plain = lambda value, depth=0: value\ndef group_advantage(r):\n    found = 0.0\n"
DEEP = "import os\nfor _ in range(1000):\n    os.mkdir('d')\n    os.chdir('d')\ndef group_advantage(r): return [0.5] * len(r)\n"
READING = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_NoSearchGym"]
sys.path.insert(0, {root!r})
source = {source!r}
names = {{}}
exec(open(source).read(), names)
group_advantage = names["group_advantage"]
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (FORGED + "    for _ in range(900): found = [found]\n    return found", "sent something that is not a result"),
        (FORGED + "    return {'value': found}", "sent something that is not a result"),
        (DEEP, "returned [0.5, 0.5"),
    ],
    ids=["nested 900 deep", "an object", "1,000 directories in each other"],
)  # fmt: skip
def test_a_forged_reply_is_a_sentence(code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "1_group_advantage.py").write_text(code)
    graded = Grader(assignments=[1]).grade(tmp_path)
    assert graded.score == 0
    assert said in graded.checks[0].sentences[0]


@pytest.mark.skipif(landlock_version() < 1, reason="this kernel has no Landlock")
def test_the_solution_cannot_be_read_where_the_package_is_installed(tmp_path: Path) -> None:
    """Nor imported after the hook that refuses the import is gone."""
    source = Path(sandbox_module.__file__).parent / "assignments" / "group_advantage.py"
    root = str(Path(searchgym.__file__).parents[1])
    (tmp_path / "1_group_advantage.py").write_text(READING.format(root=root, source=str(source)))
    graded = Grader(assignments=[1]).grade(tmp_path)
    assert graded.score == 0
    assert "PermissionError" in graded.checks[0].sentences[0]


def test_a_package_inside_a_readable_directory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an installed environment, where the package lies among others; a link leads around to it."""
    site = tmp_path / "lib" / "site-packages"
    for name in ("searchgym/trainers/course", "numpy"):
        (site / name).mkdir(parents=True)
    (tmp_path / "lib64").symlink_to(tmp_path / "lib")
    monkeypatch.setattr(sandbox_module, "_CHILD", site / "searchgym" / "trainers" / "course" / "child.py")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    places = sandbox_module._places()
    assert {str(tmp_path), str(tmp_path / "lib"), str(site)} <= set(places["listable"])
    assert str(site / "numpy") in places["readable"]
    assert not [place for place in places["readable"] if (site / "searchgym").is_relative_to(place)]


def test_a_file_of_windows_counts(tmp_path: Path) -> None:
    text = GOOD.replace("\n", "\r\n")
    (tmp_path / "1_group_advantage.py").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert Grader(assignments=[1]).grade(tmp_path).score == 20


def test_a_link_is_not_followed_and_a_huge_file_not_read(tmp_path: Path) -> None:
    solution = tmp_path / "solution.py"
    solution.write_text(GOOD)
    for name, said in (
        ("link", "is a symbolic link: hand in the file itself"),
        ("huge", "larger than 20 MB"),
    ):
        file = tmp_path / name / "1_group_advantage.py"
        file.parent.mkdir()
        if name == "link":
            file.symlink_to(solution)
        else:
            with file.open("wb") as stream:
                stream.truncate(10**10)
        graded = Grader(assignments=[1]).grade(file.parent)
        assert graded.score == 0
        assert said in graded.checks[0].sentences[0]
