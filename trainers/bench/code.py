"""Which code a run was made with: a hash over the sources of the package, of plug-ins and of the numeric libraries."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from searchgym.env.config import ARGUMENTS
from searchgym.env.setup import registered_arguments
from searchgym.errors import ConfigError, MissingExtraError, PluginError
from searchgym.files import write_text
from searchgym.home import home
from searchgym.options import plugins

from ..core.registry import load_trainer

__all__ = ["fingerprint", "load_parts", "versions"]

_PACKAGES = ("corpora", "agents", "trainers")
_SUFFIXES = {".py", ".json", ".safetensors", ".txt"}
_LIBRARIES = ("gymnasium", "numpy", "safetensors", "tokenizers", "torch", "transformers")
_MEASURES = {
    "worker",
    "probe",
    "learning_probe",
}  # of this package: the rest only reads what runs have left behind
_LAZY_TABLES = {"_EXPORTS", "_MODULES"}  # name -> submodule: an address, as an import is


def versions() -> dict[str, str]:
    """Of Python and the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("searchgym", *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def fingerprint(trainer: str, agent: str) -> str:
    """Hash of everything a run of this trainer and agent can depend on: any change of it gives another version.

    Covers the package's sources and data (of the benchmark only what runs and measures), the packages of plug-ins
    that trainer and agent come from, and `versions`. The location of a file is not part of it, nor are docstrings and
    comments: a module that moves, with the imports that follow it, is not a new version. It is of the code this process
    has loaded: a campaign and its worker processes load the parts of all runs first (`load_parts`), and what is edited afterwards does not
    reach it.
    """
    plugin = _digest(_plugin_files(trainer, agent).values())
    return hashlib.sha256(f"{_own_code()} {plugin}".encode()).hexdigest()[:16]


def load_parts(places: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Import the corpora, the retrievers and the judges of environments, those that they have by default included.

    Args:
        places: registered ids, each with arguments. One that cannot be used is passed over: the run says so in its own words.
    """
    for env, env_options in places:
        try:
            given = registered_arguments(env, dict(env_options))
        except ConfigError:
            continue
        for group, option in (("corpora", "corpus"), ("retrievers", "retriever"), ("judges", "judge")):
            spec = given.get(option, ARGUMENTS[option].default)
            name = spec.get("name") if isinstance(spec, Mapping) else spec
            if isinstance(name, str) and name in plugins.names(group):
                with suppress(MissingExtraError, PluginError):
                    plugins.load(group, name)


@cache
def _own_code() -> str:
    importlib.import_module("searchgym.trainers.training.api")
    own = _own_files()
    data = [path for path in own.values() if path.suffix != ".py"]
    modules = {name: path.read_bytes() for name, path in own.items() if path.suffix == ".py"}
    return f"{sorted(versions().items())} {_digest(data)} {_kept_code_digest(modules)}"


def _kept_code_digest(modules: Mapping[str, bytes]) -> str:
    """`_code_digest`, which takes seconds for the whole package, computed once for the same sources and kept as a file."""
    parts = [f"{name} {hashlib.sha256(source).hexdigest()}" for name, source in sorted(modules.items())]
    method = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # how it is computed
    key = hashlib.sha256("\n".join([platform.python_version(), method, *parts]).encode()).hexdigest()
    path = home() / "code" / f"{key}.txt"
    with suppress(OSError, UnicodeDecodeError):
        kept, check = path.read_text("utf-8").split()
        if check == _seal(key, kept):
            return kept
    digest = _code_digest(modules)
    with suppress(OSError):  # a home that cannot be written costs the time again, and nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"{digest} {_seal(key, digest)}\n")
    return digest


def _seal(key: str, digest: str) -> str:
    """Of a kept digest: a file with another one was not written here."""
    return hashlib.sha256(f"{key} {digest}".encode()).hexdigest()


def _digest(files: Iterable[Path]) -> str:
    """Hash of the contents of files, independent of their names."""
    contents = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256(" ".join(contents).encode()).hexdigest()


def _code_digest(modules: Mapping[str, bytes]) -> str:
    """Of what modules do, independent of their names.

    Args:
        modules: dotted name -> source. An import of one of them counts as the definition it reaches, not as its address.
    """
    packages = {name.rpartition(".")[0] for name in modules}
    imports: dict[str, list[ast.Import | ast.ImportFrom]] = {}
    bodies: dict[str, list[str]] = {}
    defined: dict[tuple[str, str], str] = {}
    # One tree at a time: the garbage collector looks at all that are kept.
    for name, source in modules.items():
        stripped = _Stripped()
        statements = [
            (_defines(statement), ast.dump(stripped.visit(statement))) for statement in ast.parse(source).body
        ]
        imports[name] = stripped.imports
        bodies[name] = [text for symbols, text in statements if not _LAZY_TABLES.intersection(symbols)]
        defined |= {(name, symbol): text for symbols, text in statements for symbol in symbols}
    digests = []
    for name in modules:
        package = name if name in packages else name.rpartition(".")[0]
        reached = sorted(line for node in imports[name] for line in _reached(node, package, defined))
        digests.append(hashlib.sha256("\0".join([*bodies[name], *reached]).encode()).hexdigest())
    return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()


def _reached(
    node: ast.Import | ast.ImportFrom, package: str, defined: Mapping[tuple[str, str], str]
) -> list[str]:
    """What an import gives: of ours the definitions (of a module, its statements are hashed already)."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.partition(".")[0] != "searchgym"]
    base = _absolute(node, package)
    if base.partition(".")[0] != "searchgym":
        return [ast.dump(node)]
    return [
        f"{alias.name} {alias.asname} {defined[base, alias.name]}"
        for alias in node.names
        if (base, alias.name) in defined
    ]


class _Stripped(ast.NodeTransformer):
    """Takes docstrings and imports out of statements; the imports are kept here."""

    def __init__(self) -> None:
        self.imports: list[ast.Import | ast.ImportFrom] = []

    def visit_Import(self, node: ast.Import) -> ast.AST:
        self.imports.append(node)
        return ast.Pass()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        self.imports.append(node)
        return ast.Pass()

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        return self.generic_visit(node)


def _defines(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _own_files() -> dict[str, Path]:
    """Dotted module names (data files: with their suffix) and files."""
    files = {}
    for part in ("", *_PACKAGES):
        module = ".".join(filter(None, ("searchgym", part)))
        root = _folder(module)
        for path in _sources(root):
            inside = path.relative_to(root)
            if not part and inside.parts[0] in _PACKAGES:  # an installed wheel has these packages in here
                continue
            if part == "trainers" and inside.parts[0] == "bench" and inside.stem not in _MEASURES:
                continue
            named = inside.with_suffix("") if path.suffix == ".py" else inside
            parts = named.parts[:-1] if named.name == "__init__" else named.parts
            files[".".join([module, *parts])] = path
    return files


def _plugin_files(trainer: str, agent: str) -> dict[str, Path]:
    """The top-level modules, as files or whole folders, of classes that are not ours."""
    files: dict[str, Path] = {}
    for kind in (load_trainer(trainer), plugins.load("agents", agent)):
        for base in getattr(kind, "__mro__", ()):
            top = base.__module__.partition(".")[0]
            if top in ("searchgym", "builtins", "abc", "typing", "torch", "gymnasium"):
                continue
            file = Path(str(sys.modules[top].__file__ or base.__module__))
            found = _sources(file.parent) if file.name == "__init__.py" else [file]
            files |= {f"{top}/{p.relative_to(file.parent).as_posix()}": p for p in found}
    return files


def _folder(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__)).parent


def _sources(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.suffix in _SUFFIXES and "__pycache__" not in path.parts and path.is_file():
            yield path
