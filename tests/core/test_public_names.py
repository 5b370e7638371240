"""What `import searchgym` offers."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import searchgym


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
