"""Reported faults, replayed: every script of a folder, and the tests that hold their kinds.

    python tests/campaigns/replay_cases.py CASES             the scripts CASES/*/case.py
    python tests/campaigns/replay_cases.py CASES --variants  and the variants of each kind, which are part of the test suite

A case is a script whose last printed word is PASS or FAIL, run from the root of the project, with the variable PROJECT naming
that folder. Anything else, an error or 300 seconds without an end count as failed. Exit status 1 if a case or a variant failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "acts in thoughts": ["core/test_scanner.py", "core/test_importer_acts.py", "agents/test_streaming.py"],
    "tool calls": ["core/test_dialects.py", "agents/test_api_replies.py"],
    "ids": ["corpora/test_passage_ids.py"],
    "numbers": ["corpora/test_finite_numbers.py"],
    "words": ["corpora/test_bm25_scripts.py", "core/test_scoring.py"],
    "data": [
        "corpora/test_published_schemas.py",
        "corpora/test_question_sets.py",
        "corpora/test_bad_corpus_lines.py",
    ],
    "resuming": ["trainers/test_run_inputs.py"],
    "the /retrieve protocol": ["corpora/test_service_dialects.py", "corpora/test_remote.py"],
    "importers": ["core/test_other_files.py", "core/test_importers.py"],
    "all kinds": ["core/test_real_data_variants.py"],
}
"""Test files of each kind, below `tests/`."""


def replay(script: Path) -> str:
    """ "" if a case passed; otherwise the last line that it printed, or what ended it."""
    environment = {**os.environ, "PROJECT": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, str(script.resolve())],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        return "no end after 300 s"
    words = done.stdout.split()
    if done.returncode == 0 and words[-1:] == ["PASS"] and "FAIL" not in words:
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return f"status {done.returncode}: {lines[-2:] if lines else 'nothing printed'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the cases")
    parser.add_argument("--variants", action="store_true", help="also run the tests of each kind")
    options = parser.parse_args()
    scripts = sorted(options.folder.glob("*/case.py"))
    if not scripts:
        parser.error(f"{options.folder} has no */case.py")
    failed = []
    for script in scripts:
        reason = replay(script)
        print(f"{'FAIL' if reason else 'PASS'} {script.parent.name} {reason}".rstrip(), flush=True)
        failed += [script.parent.name] * bool(reason)
    print(f"{len(scripts) - len(failed)} of {len(scripts)} cases passed")
    if options.variants:
        for kind, files in VARIANTS.items():
            paths = [str(ROOT / "tests" / file) for file in files]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", *paths], cwd=ROOT, capture_output=True, text=True
            )
            last = (done.stdout.strip().splitlines() or ["nothing printed"])[-1]
            print(f"{'FAIL' if done.returncode else 'PASS'} variants of {kind}: {last}", flush=True)
            failed += [kind] * bool(done.returncode)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
