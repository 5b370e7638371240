#!/usr/bin/env bash
# The course kit's notebooks in nbgrader and otter-grader: solutions pass, unfinished notebooks get no point.
#
#   bash tests/interop/graders.sh
#
# Needs `searchgym` on the path; the graders are installed into $SEARCHGYM_INTEROP/graders (see run.sh).
set -euo pipefail
venv=${SEARCHGYM_INTEROP:-${XDG_CACHE_HOME:-$HOME/.cache}/searchgym-interop}/graders
[ -d "$venv" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check nbgrader==0.9.6 otter-grader==7.0.0
cd "$(mktemp -d)"
searchgym course new kit --notebooks >made.txt
searchgym course solutions solved --notebooks >>made.txt
export PATH=$venv/bin:$PATH

for n in 1 2 3 4; do # its exit status is 0 in both cases
    otter check solved/${n}_*.ipynb -t solved/tests -q q$n 2>&1 | grep "All tests passed!"
    if otter check kit/${n}_*.ipynb -t kit/tests -q q$n 2>&1 | grep -q "All tests passed!"; then exit 1; fi
done

mkdir -p course/source/credit course/submitted/{solved,unfinished}/credit
cp solved/*.ipynb course/source/credit/
cd course
echo "get_config().CourseDirectory.course_id = 'credit'" >nbgrader_config.py
nbgrader generate_assignment credit 2>nbgrader.log
if grep -l "SOLUTION" release/credit/*.ipynb; then exit 1; fi
cp source/credit/*.ipynb submitted/solved/credit/
cp release/credit/*.ipynb submitted/unfinished/credit/
nbgrader autograde credit 2>>nbgrader.log
nbgrader export 2>>nbgrader.log
cut -d, -f4,8,11 grades.csv
grep -q "^credit,,,solved,,,,4.0,0.0,4.0,4.0" grades.csv
grep -q "^credit,,,unfinished,,,,0.0,0.0,0.0,4.0" grades.csv
searchgym course grade submitted/*/credit --assignment 1
