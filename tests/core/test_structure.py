"""The layout: imports run one way and without cycles, the core is light, entry points resolve, the wheel is complete."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from searchgym.lazy import MOVED

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["searchgym", "corpora", "agents", "trainers", "interop"]  # each may import the ones before it
FOLDERS = {name: "trainers/interop" if name == "interop" else name for name in PACKAGES}
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


FOLDER_OF = PROJECT["tool"]["setuptools"]["package-dir"]


def packed_name(path: Path) -> str:
    """Where a file lies in the wheel."""
    given = path.relative_to(ROOT)
    package, folder = max(
        ((name, Path(folder)) for name, folder in FOLDER_OF.items() if given.is_relative_to(folder)),
        key=lambda one: len(one[1].parts),
    )
    return "/".join([*package.split("."), *given.relative_to(folder).parts])


def module_name(path: Path) -> str:
    """The import name of a source file."""
    return packed_name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def package_of(module: str) -> str:
    """The top-level package of a module: the folder at the root of the repository."""
    parts = module.split(".")
    if parts[0] == "searchgym_vf":
        return "interop"
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES[1:] else "searchgym"


def files(package: str) -> list[Path]:
    """The source files of a package, without those of a package whose folder lies inside its own."""
    folder = ROOT / FOLDERS[package]
    inside = {ROOT / other for other in FOLDERS.values()} - {folder, *folder.parents}
    found = sorted(folder.rglob("*.py"))
    return [p for p in found if "__pycache__" not in p.parts and not inside.intersection(p.parents)]


@dataclass(frozen=True)
class Import:
    """One imported name: its line, the number of leading dots, its absolute name, and whether only types need it."""

    line: int
    level: int
    name: str
    typing_only: bool


def imports(path: Path, text: str) -> list[Import]:
    """Everything that a file imports, including imports inside functions."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: list[Import] = []

    def visit(node: ast.AST, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(node.lineno, 0, alias.name, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found.extend(
                Import(node.lineno, node.level, f"{stem}.{alias.name}", typing_only) for alias in node.names
            )
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, typing_only)
        elif not isinstance(node, ast.expr):
            for child in ast.iter_child_nodes(node):
                visit(child, typing_only)

    visit(ast.parse(text), False)
    return found


@functools.cache
def our_modules() -> dict[str, tuple[Path, str, list[Import]]]:
    """Module -> its file, its text and its imports.

    `searchgym/__main__.py` is left out: it only starts the command line, and nothing imports it.
    """
    found = {}
    for path in (path for package in PACKAGES for path in files(package) if path.name != "__main__.py"):
        text = path.read_text("utf-8")
        found[module_name(path)] = (path, text, imports(path, text))
    return found


def graph(added: dict[str, str] | None = None) -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports at run time.

    Args:
        added: module -> code that the graph contains in addition to what is in its file.
    """
    modules = our_modules()
    found: dict[str, set[str]] = {}
    for module, (path, _, imported) in modules.items():
        if module in (added or {}):
            imported = [*imported, *imports(path, added[module])]
        names = [one.name for one in imported if not one.typing_only]
        reached = {m for name in names for m in (name, name.rpartition(".")[0]) if m in modules}
        found[module] = reached - {module}
    return found


def cycles(arrows: dict[str, set[str]]) -> list[str]:
    """The nodes that lie on import cycles or between them: the rest after removing leaves from both ends."""
    left = {node: set(targets) & set(arrows) for node, targets in arrows.items()}
    while True:
        wanted = {target for targets in left.values() for target in targets}
        leaves = {node for node, targets in left.items() if not targets or node not in wanted}
        if not leaves:
            return sorted(left)
        left = {node: targets - leaves for node, targets in left.items() if node not in leaves}


def by_package(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph between packages and sub-packages."""
    packages = {module for module, (path, *_) in our_modules().items() if path.name == "__init__.py"}

    def package(module: str) -> str:
        return module if module in packages else module.rpartition(".")[0]

    found: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        own = package(module)
        found.setdefault(own, set()).update(package(target) for target in targets)
        found[own].discard(own)
    return found


def test_no_import_cycles_between_files_or_packages() -> None:
    arrows = graph()
    assert cycles(arrows) == []
    assert cycles(by_package(arrows)) == []


def test_the_cycle_check_can_fail() -> None:
    for module, code in (
        ("searchgym.env.spaces", "def f():\n    from .env import SearchEnv"),
        ("searchgym.errors", "def f():\n    from ..env import config"),
        ("searchgym.judges.protocol", "from ..rollouts.evaluation import evaluate"),
    ):
        arrows = graph({module: code})
        assert cycles(by_package(arrows)) or cycles(arrows), code
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..env.env import SearchEnv"
    assert cycles(graph({"searchgym.errors": typed})) == []


def test_folders_stay_loosely_coupled() -> None:
    """Imports between the files and sub-packages that lie directly in a top-level package, and the longest chains of them."""
    count, longest = 0, 0
    for package in PACKAGES[:-1]:
        root = package if package == "searchgym" else f"searchgym.{package}"
        child = {
            module: module.removeprefix(root).split(".")[1] if module != root else ""
            for module in our_modules()
            if package_of(module) == package
        }
        between: dict[str, set[str]] = {name: set() for name in child.values()}
        for module, targets in graph().items():
            if module in child:
                between[child[module]] |= {child[target] for target in targets if target in child}

        @functools.cache
        def height(name: str, between: dict[str, set[str]] = between) -> int:
            return 1 + max((height(target) for target in between[name] - {name}), default=0)

        count += sum(len(targets - {name}) for name, targets in between.items())
        longest += max(height(name) for name in between)
    assert count <= 200
    assert longest <= 26


def test_nothing_of_ours_uses_the_old_path_of_a_module() -> None:
    old = {
        f"{path.relative_to(ROOT)}:{one.line} imports {one.name}"
        for path, _, imported in our_modules().values()
        for one in imported
        if MOVED.keys() & {one.name, one.name.rpartition(".")[0]}
    }
    assert old == set()


def test_every_package_says_what_may_be_in_it() -> None:
    for module, (path, text, _) in our_modules().items():
        if path.name == "__init__.py":
            docstring = ast.get_docstring(ast.parse(text))
            assert (docstring or "").partition("\n")[0].endswith("."), module


def direction_errors(path: Path, package: str, imported: list[Import]) -> list[str]:
    errors = []
    for one in imported:
        if one.name != "searchgym" and not one.name.startswith("searchgym."):
            continue
        target = package_of(one.name)
        where = f"{path.relative_to(ROOT)}:{one.line} imports {one.name}"
        if PACKAGES.index(target) > PACKAGES.index(package):
            errors.append(f"{where}, which is higher")
        elif one.level and target != package:
            errors.append(f"{where} relatively, out of its package")
    return errors


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    modules = [one for name, one in our_modules().items() if package_of(name) == package]
    assert modules
    assert [e for path, _, imported in modules for e in direction_errors(path, package, imported)] == []


def test_the_direction_check_can_fail() -> None:
    core, agents = ROOT / "searchgym" / "plugins.py", ROOT / "agents" / "api.py"
    for path, package, text in (
        (core, "searchgym", "def f():\n    from searchgym.corpora import World"),
        (core, "searchgym", "import searchgym.agents.tiny.agent"),
        (core, "searchgym", "from . import corpora"),
        (core, "searchgym", "from .corpora.world import World"),
        (agents, "agents", "from searchgym.trainers.runs import directory"),
        (agents, "agents", "from ..errors import ConfigError"),
        (agents, "agents", "from .. import corpora"),
    ):
        assert len(direction_errors(path, package, imports(path, text))) == 1, text
    for path, package, text in (
        (
            core,
            "searchgym",
            "from .errors import ConfigError\nfrom searchgym.errors import ConfigError\nimport torch",
        ),
        (
            agents,
            "agents",
            "from searchgym.corpora import World\nfrom .engine import Engine\nimport searchgym",
        ),
    ):
        assert direction_errors(path, package, imports(path, text)) == []


def test_the_core_never_mentions_heavy_libraries() -> None:
    for path, _, imported in our_modules().values():
        if path.is_relative_to(ROOT / "searchgym"):
            for one in imported:
                assert one.name.split(".")[0] not in HEAVY, f"{path}:{one.line} imports {one.name}"


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


def test_the_eight_groups_exist_and_the_script_runs() -> None:
    groups = {"corpora", "retrievers", "judges", "dialects", "agents", "trainers", "commands", "functions"}
    assert set(PROJECT["project"]["entry-points"]) == {f"searchgym.{g}" for g in groups}
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="searchgym")
    assert callable(script.load())


def tracked() -> list[str]:
    """Files of the four packages that a commit would contain: tracked ones, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *FOLDERS.values()]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return sorted({name for name in listed if name and (ROOT / name).is_file()})


def test_the_wheel_holds_exactly_the_tracked_files(tmp_path: Path) -> None:
    """A sub-package that is not listed in pyproject.toml is missing from wheels, but from nowhere else."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
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
    expected = {packed_name(ROOT / name) for name in tracked()}
    assert packed == expected
    assert "searchgym/py.typed" in packed
    assert "py3-none-any" in wheel.name
