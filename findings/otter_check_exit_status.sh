#!/usr/bin/env bash
# `otter check` ends with status 0 whether the tests pass or fail: a CI job or a script that relies on its status accepts every submission.
#
# Versions: otter-grader 7.0.0, Python 3.11.
# Behaviour: `otter check FILE -t tests -q q1` prints "All tests passed!" or the failed examples, and ends with status 0 in both cases. Read what it prints, or
#   let `otter run` write results.json and read that.
# Seen 2026-11-29:
#   double(x) = 2 * x   -> "All tests passed!", status 0
#   double(x) = x       -> "q1 results: … Test result: ❌ Test case failed", status 0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check otter-grader==7.0.0 ipykernel
cd "$work"
mkdir tests
cat > tests/q1.py <<'PY'
OK_FORMAT = True
test = {
    "name": "q1",
    "points": 1,
    "suites": [{"type": "doctest", "scored": True, "setup": "", "teardown": "",
                "cases": [{"code": ">>> double(3)\n6", "hidden": False, "locked": False}]}],
}
PY
cat > notebooks.py <<'PY'
import nbformat

for name, code in (("right", "def double(x): return 2 * x"), ("wrong", "def double(x): return x")):
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), f"{name}.ipynb")
PY
"$work/venv/bin/python" notebooks.py
export PATH="$work/venv/bin:$PATH"
for name in right wrong; do
    status=0
    otter check $name.ipynb -t tests -q q1 > $name.txt 2>&1 || status=$?
    echo "$name: status $status, $(grep -c 'All tests passed!' $name.txt || true) time(s) \"All tests passed!\""
    [ $status = 0 ]
done
grep -q "All tests passed!" right.txt
if grep -q "All tests passed!" wrong.txt; then exit 1; fi
grep -q "Test case failed" wrong.txt
