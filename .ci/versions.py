"""Run the tests with the newest allowed and with the lowest declared versions of four libraries.

    python .ci/versions.py                       # both, on the tests that use these libraries most
    python .ci/versions.py lowest tests/agents   # one of them, on chosen tests

Each run installs the package into a fresh virtual environment. `newest` takes what pip chooses within the bounds of
pyproject.toml, `lowest` exactly the lower bounds. The exit status is 1 if a run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("transformers", "peft", "accelerate", "gymnasium")
EXTRAS = "train,judge,serve,dev"
QUICK = [
    "tests/agents/test_network.py",
    "tests/agents/test_cached_forward.py",
    "tests/agents/test_hf.py",
    "tests/agents/test_local_judge.py",
    "tests/agents/test_tiny.py",
    "tests/core/test_env.py",
    "tests/core/test_vector.py",
    "tests/trainers/test_sharding.py",
    "tests/trainers/test_trackers.py",
]


def lower_bounds() -> dict[str, str]:
    """The lowest version that pyproject.toml allows of each library."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    found = (re.match(r"([A-Za-z0-9_-]+)>=([0-9.]+)", line) for line in lines)
    bounds = {match[1].lower(): match[2] for match in found if match}
    return {name: bounds[name] for name in LIBRARIES}


def install(python: Path, constraints: list[str], folder: Path) -> dict[str, str]:
    """Install the package and its test tools; returns the versions that pip chose of the four libraries."""
    file = folder / "constraints.txt"
    file.write_text("\n".join(constraints) + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    pins = ["-c", str(ROOT / "constraints.txt"), "-c", str(file)]
    subprocess.run([*pip, "install", "--quiet", *pins, "-e", f"{ROOT}[{EXTRAS}]"], check=True)
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True, text=True)
    versions = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
    return {name: versions[name] for name in LIBRARIES}


def run(kind: str, tests: list[str]) -> bool:
    """One run in an environment of its own; returns whether the tests passed."""
    with tempfile.TemporaryDirectory(prefix=f"searchgym-{kind}-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        python = folder / "venv" / "bin" / "python"
        pins = [f"{library}=={version}" for library, version in lower_bounds().items()]
        versions = install(python, pins if kind == "lowest" else [], folder)
        print(
            f"== {kind}: {', '.join(f'{name} {version}' for name, version in versions.items())}", flush=True
        )
        start = time.monotonic()
        environment = os.environ | {
            "SEARCHGYM_HOME": str(folder / "home"),
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run([str(python), "-m", "pytest", *tests], cwd=ROOT, env=environment)
        print(f"== {kind}: exit status {done.returncode}, {time.monotonic() - start:.0f} s", flush=True)
        return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=("newest", "lowest", "both"), default="both")
    parser.add_argument("tests", nargs="*", help="tests, or options of pytest after --")
    arguments = parser.parse_args()
    kinds = ("newest", "lowest") if arguments.kind == "both" else (arguments.kind,)
    passed = [run(kind, arguments.tests or QUICK) for kind in kinds]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
