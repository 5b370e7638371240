"""Executes the notebooks of docs/notebooks/ and shows how long each takes, and its CPU time.

    python tests/docs/notebooks.py [--to DIR] [NAME …]

The notebooks are Python files in the percent format of jupytext, which editors open as notebooks and which can be read in diffs.
This script runs each in a process of its own, two at a time, without a display. It fails if one fails or takes more than
two minutes of CPU time. With `--to DIR` it executes them with jupytext and nbconvert instead and writes DIR/NAME.ipynb and DIR/NAME.html with
their output and pictures (extra `notebooks`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
LONGEST = 120.0
"""CPU seconds of a notebook."""
_HANGS = 1200.0  # seconds by the clock, on whatever machine


def run(source: Path) -> str:
    """Run a notebook as a script, in an empty directory.

    Returns:
        What went wrong; "" if nothing did.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        environment = os.environ | {"MPLBACKEND": "agg"}
        process = subprocess.Popen(
            [sys.executable, str(source)],
            cwd=folder,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        cpu = _wait(process)
        printed.seek(0)
        shown = printed.read().decode(errors="replace")
    print(f"{shown}== {source.stem}: {time.perf_counter() - started:.0f} s, CPU {cpu:.0f} s", flush=True)
    if process.returncode:
        return f"{source.stem} failed with status {process.returncode}"
    return f"{source.stem} takes {cpu:.0f} s of CPU time, more than {LONGEST:.0f}" if cpu > LONGEST else ""


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; returns its CPU seconds."""
    deadline = time.monotonic() + _HANGS
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.1)


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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    sources = [s for s in sorted(SOURCES.glob("*.py")) if not given.names or s.stem in given.names]
    if given.to is not None:
        for source in sources:
            convert(source, given.to)
        return 0
    with ThreadPoolExecutor(2) as pool:
        problems = [problem for problem in pool.map(run, sources) if problem]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
