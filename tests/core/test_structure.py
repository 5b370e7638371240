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


class _Untyped(ast.NodeTransformer):
    """Drops what only type checkers read."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return [self.visit(statement) for statement in node.orelse] or ast.Pass()
        return self.generic_visit(node)


def graph(sources: dict[str, tuple[Path, str]]) -> dict[str, set[str]]:
    """module -> modules of ours that it imports anywhere, also inside functions."""
    found: dict[str, set[str]] = {}
    for module, (path, text) in sources.items():
        reached: set[str] = set()
        for _, _, name in imports(path, _Untyped().visit(ast.parse(text))):
            reached |= {m for m in (name, name.rpartition(".")[0]) if m in sources and m != module}
        found[module] = reached
    return found


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (what is left when leaves are taken away again and again, both ways)."""
    left = {node: set(targets) & set(arrows) for node, targets in arrows.items()}
    while True:
        wanted = {target for targets in left.values() for target in targets}
        leaves = {node for node, targets in left.items() if not targets or node not in wanted}
        if not leaves:
            return [sorted(left)] if left else []
        left = {node: targets - leaves for node, targets in left.items() if node not in leaves}


def by_package(arrows: dict[str, set[str]], packages: set[str]) -> dict[str, set[str]]:
    def package(module: str) -> str:
        return module if module in packages else module.rpartition(".")[0]

    found: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        own = package(module)
        found.setdefault(own, set()).update(package(target) for target in targets)
        found[own].discard(own)
    return found


def our_sources() -> tuple[dict[str, tuple[Path, str]], set[str]]:
    paths = [path for wing in WINGS for path in files(wing) if path.name != "__main__.py"]
    packages = {module_name(path) for path in paths if path.name == "__init__.py"}
    return {module_name(path): (path, path.read_text("utf-8")) for path in paths}, packages


def test_no_import_circles_between_files_or_packages() -> None:
    """`searchgym/__main__.py` is left out: nothing imports it, it only starts the command line."""
    sources, packages = our_sources()
    arrows = graph(sources)
    assert circles(arrows) == []
    assert circles(by_package(arrows, packages)) == []


def test_the_circle_check_can_fail() -> None:
    sources, packages = our_sources()
    for module, line in (
        ("searchgym.env.episode_state", "def f():\n    from .env import SearchEnv"),
        ("searchgym.errors", "def f():\n    from .env import rules"),
        ("searchgym.judges.protocol", "from ..rollouts.evaluation import evaluate"),
    ):
        path, text = sources[module]
        arrows = graph(sources | {module: (path, f"{text}\n{line}\n")})
        assert circles(by_package(arrows, packages)) or circles(arrows), line
    path, text = sources["searchgym.errors"]
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .env.env import SearchEnv"
    assert circles(graph(sources | {"searchgym.errors": (path, f"{text}\n{typed}\n")})) == []


def test_every_package_says_what_may_be_in_it() -> None:
    sources, packages = our_sources()
    for module in packages:
        docstring = ast.get_docstring(ast.parse(sources[module][1]))
        assert (docstring or "").partition("\n")[0].endswith("."), module


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
    core, agents = ROOT / "searchgym" / "plugins.py", ROOT / "agents" / "api.py"
    for path, wing, text in (
        (core, "searchgym", "def f():\n    from searchgym.corpora import World"),
        (core, "searchgym", "import searchgym.agents.tiny.agent"),
        (core, "searchgym", "from . import corpora"),
        (core, "searchgym", "from .corpora.world import World"),
        (agents, "agents", "from searchgym.trainers.runs import directory"),
        (agents, "agents", "from ..errors import ConfigError"),
        (agents, "agents", "from .. import corpora"),
    ):
        assert len(direction_errors(path, wing, text)) == 1, text
    for path, wing, text in (
        (
            core,
            "searchgym",
            "from .episode_state import EpisodeState\nfrom searchgym.errors import ConfigError\nimport torch",
        ),
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


def test_the_seven_groups_exist_and_the_script_runs() -> None:
    groups = {"corpora", "retrievers", "judges", "agents", "trainers", "commands", "functions"}
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
