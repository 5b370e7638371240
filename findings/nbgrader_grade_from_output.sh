#!/usr/bin/env bash
# nbgrader grades an autograded cell by what the cell prints, not by whether its assertions pass: a warning on standard error makes the grade 0,
# and a number as the value of the last line becomes the grade.
#
# Versions: nbgrader 0.9.6, Python 3.11.
# Behaviour: `determine_grade` goes through the outputs of the executed cell in order. An error, or any text on standard error, is 0 points. A value of the
#   last line that can be read as a number from 0 on is the number of points (a larger one than the cell has is a ValueError). Everything else, no output included, is full points. So a
#   test cell whose assertions pass gets 0 if the student's correct function makes NumPy warn (a division by zero that is then masked), or logs; and a test cell that ends with an
#   expression, for a look at the value, gets that value as its grade. End test cells with an assertion, and silence warnings in them.
# Seen 2026-11-29, a cell of 5 points whose assertion passes:
#   no output                                      -> 5.0
#   numpy warns (RuntimeWarning on standard error) -> 0.0
#   print("done", file=sys.stderr)                 -> 0.0
#   last line: clipped(-3), whose value is 0       -> 0.0
#   last line: clipped(2), whose value is 2        -> 2.0
#   print("done")                                  -> 5.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check nbgrader==0.9.6 nbclient==0.11.0 ipykernel numpy
cat > "$work/probe.py" <<'PY'
import nbformat
from nbclient import NotebookClient
from nbgrader.utils import determine_grade

SOLUTION = """
import sys
import numpy as np

def clipped(x):
    return max(x, 0)

def inverse(x):
    x = np.asarray(x, dtype=float)
    return np.where(x == 0, 0.0, 1.0 / x)  # right, and warns
"""
CELLS = {
    "no output": "assert clipped(-3) == 0",
    "numpy warns": "assert inverse([0, 2]).tolist() == [0.0, 0.5]",
    "stderr": "assert clipped(-3) == 0\nprint('done', file=sys.stderr)",
    "value 0": "assert clipped(-3) == 0\nclipped(-3)",
    "value 2": "assert clipped(-3) == 0\nclipped(2)",
    "stdout": "assert clipped(-3) == 0\nprint('done')",
}
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOLUTION)])
for name, code in CELLS.items():
    cell = nbformat.v4.new_code_cell(code)
    cell.metadata.nbgrader = {
        "schema_version": 3, "grade_id": name.replace(" ", "-"), "points": 5,
        "grade": True, "solution": False, "locked": True, "task": False,
    }
    notebook.cells.append(cell)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
seen = {name: determine_grade(cell)[0] for name, cell in zip(CELLS, notebook.cells[1:])}
print(seen)
assert seen == {
    "no output": 5.0, "numpy warns": 0, "stderr": 0, "value 0": 0.0, "value 2": 2.0, "stdout": 5.0,
}, seen
PY
cd "$work"
"$work/venv/bin/python" "$work/probe.py"
