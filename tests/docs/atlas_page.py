"""Puts an atlas into docs/credit/atlas.md: the tables after the marker, and the plots.

    searchgym credit atlas --questions 16 --out DIR
    python tests/docs/atlas_page.py DIR

The text before the marker is written by hand.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from doc_pages import ROOT

PAGE = ROOT / "docs" / "credit" / "atlas.md"
MARKER = "<!-- tables: python tests/docs/atlas_page.py DIR -->\n"


def with_tables(page: str, report: str) -> str:
    """The page with the tables of an atlas.md, whose title and command are left out.

    Args:
        page: docs/credit/atlas.md.
        report: atlas.md of `searchgym credit atlas`.
    """
    written = page[: page.index(MARKER)]
    _title, _command, tables = report.split("\n\n", 2)
    return f"{written}{MARKER}\n{tables}"


def main() -> None:
    made = Path(sys.argv[1])
    PAGE.write_text(with_tables(PAGE.read_text("utf-8"), (made / "atlas.md").read_text("utf-8")), "utf-8")
    for plot in made.glob("*.svg"):
        shutil.copy(plot, PAGE.parent / "atlas" / plot.name)


if __name__ == "__main__":
    main()
