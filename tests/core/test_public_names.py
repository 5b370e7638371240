"""What `import searchgym` offers."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import searchgym
from searchgym.lazy import MOVED


def test_no_submodule_hides_a_public_name() -> None:
    """Importing `searchgym.x` sets the attribute `x` of the package; no public name may be called so."""
    for module in pkgutil.iter_modules(searchgym.__path__):
        if module.name == "__main__":  # importing it runs the command line
            continue
        importlib.import_module(f"searchgym.{module.name}")
    for name in searchgym.__all__:
        for _ in range(2):
            assert not inspect.ismodule(getattr(searchgym, name)), name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, gymnasium, searchgym; print([m for m in ('torch', 'transformers', 'bm25s') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("old", sorted(MOVED))
def test_a_documented_path_of_0_1_0_still_imports(old: str) -> None:
    pytest.importorskip("torch", reason="the extra train is not installed")
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}"):
        moved = importlib.import_module(old)
    now = importlib.import_module(MOVED[old])
    for name in now.__all__:
        assert getattr(moved, name) is getattr(now, name)
    assert now.__spec__ is not None
    assert now.__spec__.name == MOVED[old]
