"""Check types with mypy on a temporary tree of symbolic links.

Type checkers cannot follow the package-dir mapping of an editable installation, so this script links the folders the
way they are imported: searchgym, searchgym/corpora, searchgym/agents, searchgym/trainers and searchgym/interop. Its
arguments are passed to mypy.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def link_package(folder: Path) -> None:
    """Link the package into a folder as it is imported."""
    package = folder / "searchgym"
    package.mkdir()
    for entry in (ROOT / "searchgym").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    for name in ("corpora", "agents", "trainers"):
        (package / name).symlink_to(ROOT / name)
    (package / "interop").symlink_to(ROOT / "trainers" / "interop")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        link_package(Path(folder))
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command += ["--cache-dir", str(ROOT / ".mypy_cache"), *sys.argv[1:], "-p", "searchgym"]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
