"""A plug-in of pytest that runs only the tests that an earlier version has too, to compare the times of two suites.

    PYTHONPATH=tests/benchmarks pytest -n auto -p same_tests --also-in EARLIER/tests

A test is the same if its function has the same name; it may have moved to another file and have other parameters.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--also-in", type=Path, required=True, help="folder of the earlier version's tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    files = config.getoption("also_in").rglob("test_*.py")
    names = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
    same = [getattr(item, "originalname", item.name) in names for item in items]
    config.hook.pytest_deselected(items=[item for item, kept in zip(items, same, strict=True) if not kept])
    items[:] = [item for item, kept in zip(items, same, strict=True) if kept]
