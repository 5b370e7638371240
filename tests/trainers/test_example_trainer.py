"""A trainer in a package of its own, as a third party would write it: installed into a temporary place, it is found through
its entry point, shown in the help, trained, checked by the conformance suite, and compared with GRPO."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest

PACKAGE = Path(__file__).parent / "example_trainer"
SPEC = """
extends = "seconds"
keep = ["grpo"]
name = "small"
budget = { episodes = 32 }
seeds = 2
selection_seeds = 0
test_questions = 10

[train]
questions = 4
eval_episodes = 5

[environments.chains-and-lists]
env = "SearchQA-Terse-v0"
env_options = { corpus = { name = "country-terse", size = 1000, train = 100, dev = 20, test = 20 }, types = ["chain"], hops = [1] }
"""
# What a person would type in four commands, in one process: importing torch is most of the time.
SESSION = """
from searchgym.options import plugins
from searchgym.cli import main
from searchgym.trainers.conformance import check_trainer

status = main(["train", "--help"])
kind = plugins.load("trainers", "found-gold")
check_trainer(kind({"bonus": 2.0}))
print("conforms")
small = ["--env-option", 'corpus={"name": "country-terse", "size": 1000, "train": 100, "dev": 20, "test": 20}']
status += main(["train", "--trainer", "found-gold", "--set", "bonus=0.5", "--agent", "candidate", "--iterations", "2",
                "--questions", "2", "--group-size", "4", "--eval-episodes", "5", "--run-dir", "trained", *small])
status += main(["bench", "small.toml", "--compare", "found-gold", "grpo", "--processes", "1", "--out", "compared"])
raise SystemExit(status)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package, installed offline into a folder of its own."""
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source)  # building writes next to the sources
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


def test_the_example_is_short() -> None:
    assert len((PACKAGE / "found_gold.py").read_text("utf-8").splitlines()) < 50


@pytest.mark.slow
def test_a_third_party_trainer_is_a_trainer_like_any_other(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SPEC, "utf-8")
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH", "")]))
    done = preloaded.run(
        [sys.executable, "-c", SESSION],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "found-gold" in done.stdout.partition("--set")[0]  # the line of --trainer
    assert "conforms" in done.stdout
    assert (tmp_path / "trained" / "summary.json").exists()
    assert "found-gold against grpo: undecided" in done.stdout or "found-gold is" in done.stdout
    report = (tmp_path / "compared" / "report.md").read_text("utf-8")
    assert "| `found-gold` | 2 |" in report
    assert "GRPO whose rounds earn more" in report  # its method family, from the head of its file
