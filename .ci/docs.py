"""Build the documentation site with mkdocs; any warning (a dead link, a page outside the navigation) is an error.

    python .ci/docs.py            # into site/ (options of `mkdocs build` may follow)
    python .ci/docs.py serve      # at http://127.0.0.1:8000, rebuilt when a page changes

mkdocstrings reads the docstrings from a temporary tree of symbolic links, because the four folders of the repository are one
package when they are installed. Needs the extra `docs`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from typecheck import ROOT, link_package


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        link_package(Path(folder))
        given = sys.argv[1:]
        words = given if given[:1] == ["serve"] else ["build", "--strict", *given]
        command = [sys.executable, "-m", "mkdocs", *words]
        environment = os.environ | {"SEARCHGYM_SOURCE": folder}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
