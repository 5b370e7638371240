"""Executes the notebooks of docs/notebooks/ and shows how long each takes, and its CPU time.

    python tests/docs/notebooks.py [--to DIR] [NAME …]

The notebooks are Python files in the percent format of jupytext, which editors open as notebooks and which can be read in diffs.
This script runs each in a process of its own, without a display, and fails with the first error. With `--to DIR` it executes them with
jupytext and nbconvert instead and writes DIR/NAME.ipynb and DIR/NAME.html with their output and pictures (extra `notebooks`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "docs" / "notebooks"


def _cpu() -> float:
    """CPU seconds of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def run(source: Path) -> None:
    """Run a notebook as a script, in an empty directory."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"MPLBACKEND": "agg"}
        subprocess.run([sys.executable, str(source)], cwd=folder, env=environment, check=True)


def convert(source: Path, target: Path) -> None:
    """Execute a notebook and write it with its output."""
    import jupytext
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import ExecutePreprocessor

    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        ExecutePreprocessor(timeout=600, kernel_name="python3").preprocess(
            notebook, {"metadata": {"path": folder}}
        )
    target.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, target / f"{source.stem}.ipynb")
    page, _ = HTMLExporter().from_notebook_node(notebook)
    (target / f"{source.stem}.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    for source in sorted(SOURCES.glob("*.py")):
        if given.names and source.stem not in given.names:
            continue
        started, before = time.perf_counter(), _cpu()
        if given.to is None:
            run(source)
        else:
            convert(source, given.to)
        spent = time.perf_counter() - started
        print(f"== {source.stem}: {spent:.0f} s, CPU {_cpu() - before:.0f} s", flush=True)
