"""The leaderboard: one HTML file without scripts, from files of grades."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, printable
from searchgym.files import read_json

__all__ = ["leaderboard_html", "read_grades"]

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Leaderboard</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --bar: #4a90d9; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }}
th.n, td.n {{ text-align: right; }}
tr.reference {{ font-style: italic; opacity: .75; }}
.bar {{ display: block; height: .55rem; width: 8rem; background: var(--line); border-radius: .3rem; }}
.bar i {{ display: block; height: 100%; background: var(--bar); border-radius: .3rem; }}
p {{ color: color-mix(in srgb, currentColor 70%, transparent); }}
</style>
<h1>Whose rule knows which round deserved the reward?</h1>
<p>Agreement: correlation of the credit with the true advantage, over all rounds of the hidden questions (seed {seed}).
Order: mean rank correlation inside an episode. Lines in italics are for comparison.</p>
<div class="wide"><table>
<tr><th class="n">#<th>Who<th>Agreement<th class="n"><th class="n">Order<th class="n">Probes<th class="n">Points</tr>
{rows}
</table></div>
</html>
"""


def read_grades(paths: Sequence[Path]) -> dict[str, Any]:
    """The grades of several files as one; of a student in several files, the last counts.

    Args:
        paths: files that `course grade --json` wrote, with the same seed.

    Raises:
        ConfigError: a file of something else, or grades of different seeds, which cannot be compared.
    """
    merged: dict[str, Any] = {"seed": None, "references": {}, "submissions": {}}
    for path in paths:
        try:
            grades = read_json(path)
            seed, students = grades["seed"], {s["student"]: s for s in grades["submissions"]}
            references = grades["references"]
            measured = [*(s["measures"] for s in students.values()), *references.values()]
            if not all(isinstance(value, int | float) for row in measured for value in row.values()):
                raise ValueError("a measure is no number")
            if not all(
                isinstance(s[key], int | float) for s in students.values() for key in ("score", "max_score")
            ):
                raise ValueError("a score is no number")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{str(path)!r} holds no grades: give files that `course grade --json` wrote"
            ) from error
        if merged["seed"] not in (None, seed):
            raise ConfigError(
                f"{str(path)!r} was graded with seed {seed}, another file with {merged['seed']}: only grades of one seed "
                "can be compared; grade again with --seed"
            )
        merged["seed"] = seed
        merged["references"] |= references
        merged["submissions"] |= students
    return merged


def leaderboard_html(grades: dict[str, Any]) -> str:
    """The page.

    Args:
        grades: see `read_grades`.
    """
    lines = [(label, measures, None) for label, measures in grades["references"].items()]
    lines += [(s["student"], s["measures"], s) for s in grades["submissions"].values()]
    lines.sort(key=lambda line: (-line[1].get("agreement", -9.0), line[0]))
    rows, rank = [], 0
    for name, measures, submission in lines:
        rank += submission is not None
        agreement = measures.get("agreement")
        width = max(0.0, min(1.0, agreement or 0.0)) * 100
        points = f"{submission['score']:g} / {submission['max_score']:g}" if submission else ""
        cells = [
            f'<td class="n">{rank if submission else ""}',
            f"<td>{escape(printable(str(name)))}",
            f'<td><span class="bar"><i style="width:{width:.0f}%"></i></span>',
            f'<td class="n">{_number(agreement)}',
            f'<td class="n">{_number(measures.get("order"))}',
            f'<td class="n">{format(measures["probes"], ".1f") if "probes" in measures else ""}',
            f'<td class="n">{points}',
        ]
        kind = "" if submission else ' class="reference"'
        rows.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return _PAGE.format(rows="\n".join(rows), seed=escape(str(grades["seed"])))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
