"""Fixtures of all tests: one cache directory per session, the command line, the toy corpus, a small world."""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import hypothesis
import preloaded
import pytest
from helpers import CommandLine, Result, sketch_curve
from toys import write_toy

from searchgym.cli import main
from searchgym.env.env import SearchEnv

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


hypothesis.settings.register_profile("searchgym", deadline=None)  # tests share their machine
hypothesis.settings.load_profile("searchgym")


def pytest_configure(config: pytest.Config) -> None:
    """Wait for no disk. Let idle processes take over tests of busy ones, unless another distribution is given."""
    preloaded.skip_flushes()
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "worksteal"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of `pytest -n auto`: one more than cores, because many tests wait for processes and servers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect garbage seldom: looking for some among 700,000 objects of modules and tests took a tenth of the time.

    They are not frozen: a training run asks how many objects are, which are counted one by one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.set_threshold(50_000, 20, 100)
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """Look for garbage among the youngest objects only: pytest looks twice at all of them, which takes seconds in each process."""
    gc.collect(1)
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files with slow tests first: at the end, the processes share short ones."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let runs end with a white dot for their learning curve, also those of fixtures of a module: drawing takes 0.2 s, longer
    than most runs of these tests. A test that looks at the curve has the fixture `drawn_curve`."""
    recorder = sys.modules.get("searchgym.trainers.training.recorder")
    if recorder is not None:
        real = sys.modules["searchgym.trainers.runs.curve"].draw_curve
        recorder.draw_curve = real if "drawn_curve" in getattr(item, "fixturenames", ()) else sketch_curve


@pytest.fixture(scope="session", autouse=True)
def searchgym_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches of this session: never the user's, and shared by its workers and subprocesses."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    preloaded.SHARED.append(shared)
    home = shared / "searchgym-home"
    before = os.environ.get("SEARCHGYM_HOME")
    os.environ["SEARCHGYM_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["SEARCHGYM_HOME"]
    else:
        os.environ["SEARCHGYM_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Accept Ctrl-C: a shell that starts the tests in the background makes them, and their processes, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests share their machine; small models gain nothing from threads."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def drawn_curve() -> None:
    """Runs draw their learning curve, see `pytest_runtest_setup`."""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Run the command line in this process, in a wide terminal; no command may show a traceback."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        status = main(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(status, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of the toy corpus, as the argument `corpus` takes it."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def small_world() -> dict[str, Any]:
    """The argument `corpus` for a generated world that opens in a moment."""
    return helpers.small_world()


@pytest.fixture
def env(toy: str) -> SearchEnv:
    """A fresh environment on the toy corpus."""
    return SearchEnv(corpus=toy, top_k=2)


@pytest.fixture(scope="session")
def hotpotqa() -> str:
    """The directory of the HotpotQA sample next to the repository."""
    if not (DATA / "hotpotqa").is_dir():
        pytest.skip("the data set is not in ../shared/data/hotpotqa")
    return str(DATA / "hotpotqa")
