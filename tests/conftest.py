"""Shared by all tests: one cache directory for the session, the toy corpus, and a small generated world."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import write_toy

from searchgym.env.env import SearchEnv

SMALL_WORLD: dict[str, Any] = {"name": "country", "size": 1000, "train": 50, "dev": 20, "test": 20}
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def searchgym_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches of this session: never the user's, and shared by its workers and subprocesses."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "searchgym-home"
    before = os.environ.get("SEARCHGYM_HOME")
    os.environ["SEARCHGYM_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["SEARCHGYM_HOME"]
    else:
        os.environ["SEARCHGYM_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Whoever starts the tests in the background has them ignore Ctrl-C, and so every process they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests share their machine; small models gain nothing from threads."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of the toy corpus, as the argument `corpus` takes it."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def small_world() -> dict[str, Any]:
    """The argument `corpus` for a generated world that opens in a moment."""
    return dict(SMALL_WORLD)


@pytest.fixture
def env(toy: str) -> SearchEnv:
    """A fresh environment on the toy corpus."""
    return SearchEnv(corpus=toy, top_k=2)


@pytest.fixture(scope="session")
def hotpotqa() -> str:
    """The directory of the HotpotQA sample beside the repository."""
    if not (DATA / "hotpotqa").is_dir():
        pytest.skip("the data set does not lie in ../shared/data/hotpotqa")
    return str(DATA / "hotpotqa")
