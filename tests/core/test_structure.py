"""The house rules: imports run one way, the core is light, every entry point exists, the wheel forgets nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WINGS = ["searchgym", "corpora", "agents", "trainers"]  # each may import those before it
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "matplotlib",
    "bm25s",
    "numba",
    "Stemmer",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def module_name(path: Path) -> str:
    """The import name of a file of a wing."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "searchgym":
        parts.insert(0, "searchgym")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wing_of(module: str) -> str:
    """The wing a module under `searchgym` belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in WINGS[1:] else "searchgym"


def imports(path: Path, tree: ast.AST) -> list[tuple[int, int, str]]:
    """(line, level, absolute name) of everything a file imports, wherever in it."""
    found = []
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, 0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, node.level, f"{stem}.{alias.name}") for alias in node.names]
    return found


def files(wing: str) -> list[Path]:
    return [p for p in sorted((ROOT / wing).rglob("*.py")) if "__pycache__" not in p.parts]


def direction_errors(path: Path, wing: str, text: str) -> list[str]:
    errors = []
    for line, level, name in imports(path, ast.parse(text)):
        if name != "searchgym" and not name.startswith("searchgym."):
            continue
        target = wing_of(name)
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if WINGS.index(target) > WINGS.index(wing):
            errors.append(f"{where}, which is higher")
        elif level and target != wing:
            errors.append(f"{where} relatively, out of its wing")
    return errors


@pytest.mark.parametrize("wing", WINGS)
def test_imports_run_one_way(wing: str) -> None:
    assert files(wing)
    found = [e for path in files(wing) for e in direction_errors(path, wing, path.read_text("utf-8"))]
    assert found == []


def test_the_direction_check_can_fail() -> None:
    core, agents = ROOT / "searchgym" / "env.py", ROOT / "agents" / "tiny.py"
    for path, wing, text in (
        (core, "searchgym", "def f():\n    from searchgym.corpora import World"),
        (core, "searchgym", "import searchgym.agents.tiny"),
        (core, "searchgym", "from . import corpora"),
        (core, "searchgym", "from .corpora.world import World"),
        (agents, "agents", "from searchgym.trainers import run"),
        (agents, "agents", "from ..errors import ConfigError"),
        (agents, "agents", "from .. import corpora"),
    ):
        assert len(direction_errors(path, wing, text)) == 1, text
    for path, wing, text in (
        (core, "searchgym", "from .game import Game\nfrom searchgym.errors import ConfigError\nimport torch"),
        (
            agents,
            "agents",
            "from searchgym.corpora import World\nfrom .engine import Engine\nimport searchgym",
        ),
    ):
        assert direction_errors(path, wing, text) == []


def test_the_core_never_mentions_what_is_heavy() -> None:
    for path in files("searchgym"):
        for line, _, name in imports(path, ast.parse(path.read_text("utf-8"))):
            assert name.split(".")[0] not in HEAVY, f"{path}:{line} imports {name}"


def test_import_and_first_episode_stay_light(toy: str) -> None:
    code = (
        "import sys, gymnasium, numpy\n"
        "before = set(sys.modules)\n"
        "import searchgym\n"
        "assert {m for m in set(sys.modules) - before if not m.startswith('searchgym')} == set(), sys.modules\n"
        "searchgym.SearchEnv, searchgym.evaluate, searchgym.SearchVectorEnv\n"
        f"env = gymnasium.make('SearchQA-v0', corpus={toy!r})\n"
        "env.reset()\n"
        "env.step(env.action_space.sample())\n"
        "print(sorted(m for m in ('torch', 'transformers', 'matplotlib', 'click') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.parametrize("group", sorted(PROJECT["project"]["entry-points"]))
def test_every_declared_entry_point_resolves(group: str) -> None:
    declared = PROJECT["project"]["entry-points"][group]
    installed = {e.name: e for e in importlib.metadata.entry_points(group=group)}
    for name, value in declared.items():
        assert name in installed, (
            f"{name} of {group} is declared but not installed: install the package again"
        )
        assert installed[name].value == value
        assert callable(installed[name].load()), f"{group}: {name}"


def test_the_six_groups_exist_and_the_script_runs() -> None:
    groups = {"corpora", "retrievers", "judges", "agents", "trainers", "commands"}
    assert set(PROJECT["project"]["entry-points"]) == {f"searchgym.{g}" for g in groups}
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="searchgym")
    assert callable(script.load())


def tracked() -> list[str]:
    """Files of the four wings that a commit would hold: tracked ones and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *WINGS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return sorted({name for name in listed if name and (ROOT / name).is_file()})


def test_the_wheel_holds_exactly_the_tracked_files(tmp_path: Path) -> None:
    """A subpackage that pyproject.toml does not list is missing from wheels, and nowhere else."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of files to compare with")
    source = tmp_path / "source"
    for name in [*tracked(), "pyproject.toml", "README.md", "LICENSE"]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--disable-pip-version-check", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = {n if n.startswith("searchgym/") else f"searchgym/{n}" for n in tracked()}
    assert packed == expected
    assert "searchgym/py.typed" in packed
    assert "py3-none-any" in wheel.name
