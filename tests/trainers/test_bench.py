"""`searchgym bench`, run as a user would, on a world and a budget small enough for a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import start_searchgym, wait_until

from searchgym.cli import main
from searchgym.errors import ConfigError
from searchgym.trainers.bench import campaign as campaign_module
from searchgym.trainers.bench import worker
from searchgym.trainers.bench.campaign import Campaign, chosen_rates
from searchgym.trainers.bench.code import fingerprint
from searchgym.trainers.bench.report import markdown
from searchgym.trainers.bench.results import FEEDBACK_NEEDED, analyse, compare_rows
from searchgym.trainers.bench.spec import Spec, load_spec
from searchgym.trainers.bench.worker import read_result, write_result
from searchgym.trainers.training.loop import Loop

WORLD = '{ name = "country-terse", size = 1000, train = 100, dev = 20, test = 20 }'
SPEC = f"""
name = "small"
budget = {{ episodes = 24 }}
seeds = 2
selection_seeds = 1
rates = [0.1, 0.3]
test_questions = 12

[train]
agent = "candidate"
questions = 2
eval_episodes = 6
eval_every = 1
checkpoint_every = 1

[environments.one-hop]
env = "SearchQA-Terse-v0"
env_options = {{ corpus = {WORLD}, types = ["chain"], hops = [1], reward = {{ recall = 1.0 }} }}

[[entries]]
label = "grpo"
settings = {{ group_size = 4 }}

[[entries]]
label = "cw-grpo"
settings = {{ group_size = 4 }}
env_options = {{ judge = "oracle" }}

[[entries]]
label = "capf"
settings = {{ group_size = 4 }}
"""


@pytest.fixture(autouse=True)
def fast(no_curve: None) -> None:
    """The loop's own curves are not looked at here."""


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "small.toml"
    path.write_text(SPEC, "utf-8")
    return path


@pytest.fixture(scope="module")
def finished(spec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark that ran to its end in this process."""
    out = tmp_path_factory.mktemp("bench") / "out"
    assert main(["bench", str(spec_file), "--out", str(out), "--processes", "1"]) == 0
    return out


def results(out: Path) -> dict[str, dict[str, Any]]:
    """Every sealed result by its place, without what differs between equal runs."""
    found = {}
    for path in sorted((out / "runs").rglob("result.json")):
        data = json.loads(path.read_text("utf-8"))
        kept = {k: data[k] for k in ("run", "code", "config", "test", "failed") if k in data}
        kept["curve"] = [{k: v for k, v in point.items() if k != "seconds"} for point in data["curve"]]
        kept["sums"] = {k: v for k, v in data["sums"].items() if k != "seconds"}
        kept["counts"] = {
            k: data.get("stats", {}).get(k) for k in ("episodes", "steps", "queries", "batches")
        }
        found[str(path.parent.relative_to(out))] = kept
    return found


def test_every_row_gets_the_budget_and_one_test(finished: Path, spec_file: Path) -> None:
    found = results(finished)
    phases = [place.split("/")[1] for place in found]
    assert {phase: phases.count(phase) for phase in phases} == {"calibration": 3, "selection": 6, "final": 6}
    for place, result in found.items():
        if "calibration" in place:
            continue
        assert result["sums"]["episodes"] == 24, place
        assert [point["episodes"] for point in result["curve"]] == [0, 8, 16, 24]
        assert ("test" in result) == ("final" in place), "only final runs may see the test split"
    rates = chosen_rates(load_spec(spec_file), finished)
    assert rates is not None
    for label, rate in rates.items():
        scores = {
            lr: found[f"runs/selection/{label}/one-hop/lr-{lr:g}/seed-1000"]["curve"][-1]["em"]
            for lr in (0.1, 0.3)
        }
        assert scores[rate] == max(scores.values())
        assert found[f"runs/final/{label}/one-hop/seed-0"]["config"]["lr"] == rate


def test_the_report_says_what_must_be_said(finished: Path) -> None:
    report = (finished / "report.md").read_text("utf-8")
    analysis = json.loads((finished / "results.json").read_text("utf-8"))
    rows = analysis["rows"]
    assert rows["cw-grpo"]["marks"] == ["upper bound: its judge knows the gold passages"]
    assert rows["capf"]["per_episode"]["assisted"] >= FEEDBACK_NEEDED
    assert rows["capf"]["marks"][0].startswith("feedback in ")
    assert "not count" not in report.lower()
    assert (
        rows["cw-grpo"]["credit_on_contributing"] is None or rows["cw-grpo"]["credit_on_contributing"] <= 1.0
    )
    assert rows["grpo"]["credit_unit"] == "episode"
    assert rows["cw-grpo"]["credit_unit"] == "round"
    assert rows["cw-grpo"]["costs"]["judgements"] > 0 == rows["grpo"]["costs"]["judgements"]
    assert rows["cw-grpo"]["differs_in"] == ["judge=oracle"]
    for item in ("base model and version", "credit granularity", "total GPU-hours", "mean trajectory length",
                 "at least 3 seeds", "overhead of credit", "distribution of trajectory lengths"):  # fmt: skip
        assert item in report
    assert "NO: 2 seeds" in report
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_is_no_better_than_itself(finished: Path, spec_file: Path) -> None:
    pair = compare_rows(load_spec(spec_file), finished, "grpo", "grpo")
    assert pair.difference.value == pair.difference.low == pair.difference.high == 0.0
    assert pair.verdict() == "undecided"


def test_capf_with_too_little_feedback_does_not_count(
    finished: Path, spec_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchgym.trainers.bench.results.FEEDBACK_NEEDED", 1.1)
    analysis = analyse(load_spec(spec_file), finished)
    assert analysis["rows"]["capf"]["marks"][0].startswith("DOES NOT COUNT: feedback in ")
    report = markdown(analysis)
    assert report.count("It does not count: too few training episodes used feedback.") == 1


def test_what_is_sealed_is_not_played_again(
    finished: Path, spec_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(job: Any) -> None:
        raise AssertionError(f"played again: {job.path}")

    monkeypatch.setattr("searchgym.trainers.bench.schedule.run_job", forbidden)
    arguments = [
        "bench",
        str(spec_file),
        "--out",
        str(finished),
        "--processes",
        "1",
        "--compare",
        "cw-grpo",
        "grpo",
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "0 of    4 runs to do" in printed
    assert "cw-grpo against grpo: undecided" in printed or "cw-grpo is" in printed
    assert "cw-grpo: upper bound" in printed


def test_a_benchmark_in_pieces(
    finished: Path, spec_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    arguments = ["bench", str(spec_file), "--out", str(tmp_path), "--processes", "1", "--minutes", "0"]
    assert main([*arguments, "--seeds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "time limit reached" in printed
    assert "| `cw-grpo` | 2 |" in (tmp_path / "report.md").read_text("utf-8")  # what there is, is reported
    (tmp_path / "report.md").unlink()
    for phase in ("selection", "final"):
        shutil.rmtree(tmp_path / "runs" / phase)
    assert main(arguments) == 0
    assert "time limit reached" in capsys.readouterr().out
    assert not (tmp_path / "report.md").exists()
    assert main([*arguments, "--report-only"]) == 2
    assert "holds no complete seed of the baseline 'grpo' yet" in capsys.readouterr().err


def test_other_code_is_never_mixed_in(
    finished: Path,
    spec_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, copy = results(finished), tmp_path / "copy"
    arguments = ["bench", str(spec_file), "--out", str(finished), "--processes", "1"]
    assert main([*arguments, "--budget", "episodes=16"]) == 2
    assert "made by other code or under another spec" in capsys.readouterr().err
    other = lambda trainer, agent: fingerprint(trainer, agent) + ("-" if trainer == "capf" else "")  # noqa: E731
    monkeypatch.setattr(campaign_module, "fingerprint", other)
    monkeypatch.setattr(worker, "fingerprint", other)
    campaign = Campaign(load_spec(spec_file), finished)
    with pytest.raises(ConfigError, match=r"2 runs in .* \(capf\) .*: give --rerun"):
        campaign.clear_stale(rerun=False)
    assert results(finished) == before
    shutil.copytree(finished, copy)
    campaign = Campaign(load_spec(spec_file), copy)
    campaign.clear_stale(rerun=True)
    gone = before.keys() - results(copy).keys()
    assert gone == {place for place in before if place.startswith("runs/selection/capf/")}


def test_the_fingerprint_covers_package_and_plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from searchgym.trainers.bench import code

    names = set(code._own_files())
    assert {
        "searchgym.trainers.algorithms.grpo",
        "searchgym.env.env",
        "searchgym.corpora.bm25.index",
        "searchgym.agents.candidate.agent",
        "searchgym.agents.tiny.data.model.safetensors",
        "searchgym.trainers.bench.worker",
    } <= names
    assert "searchgym.trainers.bench.report" not in names
    (tmp_path / "student.py").write_text(
        "from searchgym.trainers.algorithms.grpo import GRPO\nclass Mine(GRPO):\n    pass\n", "utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from student import Mine  # type: ignore[import-not-found]

    monkeypatch.setattr(code.plugins, "load", lambda group, name: Mine if name == "mine" else object)
    files = code._plugin_files("mine", "none")
    assert list(files) == ["student/student.py"]
    first = code._digest(files.values())
    (tmp_path / "student.py").write_text("# changed\n", "utf-8")
    assert code._digest(files.values()) != first


def test_a_move_is_no_new_version_and_an_edit_is_one() -> None:
    from searchgym.trainers.bench.code import _code_digest

    user = b"from {} import double\n\ndef four():\n    return double(2)\n"
    double = b'"""Doubles."""\n\ndef double(x):\n    return 2 * x\n'
    triple = b"def double(x):\n    return 3 * x\n"
    before = _code_digest(
        {"searchgym.a": user.replace(b"{}", b".b"), "searchgym.b": double, "searchgym.c": triple}
    )
    moved = {
        "searchgym.p": b"",
        "searchgym.p.user": user.replace(b"{}", b"..b"),
        "searchgym.b": b"# only a comment\n" + double.replace(b"Doubles", b"Twice"),
        "searchgym.c": triple,
    }
    empty = {"searchgym.q": b""}
    assert _code_digest(moved) == _code_digest(
        {"searchgym.a": user.replace(b"{}", b"searchgym.b"), "searchgym.b": double, "searchgym.c": triple}
        | empty
    )
    assert before != _code_digest(
        {"searchgym.a": user.replace(b"{}", b".c"), "searchgym.b": double, "searchgym.c": triple}
    ), "the import reaches another definition"
    assert before != _code_digest(
        {
            "searchgym.a": user.replace(b"{}", b".b"),
            "searchgym.b": double.replace(b"2 *", b"4 *"),
            "searchgym.c": triple,
        }
    )


def test_the_digest_of_code_is_kept_for_the_same_sources_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchgym.trainers.bench import code

    monkeypatch.setenv("SEARCHGYM_HOME", str(tmp_path / "home"))
    modules = {"searchgym.a": b"x = 1\n"}
    first = code._kept_code_digest(modules)
    assert first == code._code_digest(modules)
    asked: list[object] = []
    real = code._code_digest
    monkeypatch.setattr(code, "_code_digest", lambda modules: asked.append(modules) or real(modules))
    assert code._kept_code_digest(modules) == first
    assert not asked
    assert code._kept_code_digest({"searchgym.a": b"x = 2\n"}) != first
    assert len(asked) == 1
    for kept in (tmp_path / "home" / "code").iterdir():
        kept.write_text(kept.read_text("utf-8").replace(first[:8], "00000000"), "utf-8")
    assert code._kept_code_digest(modules) == first, "an edited file is not believed"
    (tmp_path / "home" / "code").rename(tmp_path / "away")
    (tmp_path / "home" / "code").write_text("in the way", "utf-8")
    assert code._kept_code_digest(modules) == first


def test_a_result_with_episodes_of_ten_rounds_reads_back(tmp_path: Path) -> None:
    """Its keys are numbers when it is sealed and strings when it is read, which sort in another order."""
    write_result(tmp_path, {"test": {"rounds": {2: 5, 10: 1}}, "stats": {}})
    found = read_result(tmp_path)
    assert found is not None
    assert found["test"]["rounds"] == {"2": 5, "10": 1}
    (tmp_path / "result.json").write_text(
        (tmp_path / "result.json").read_text("utf-8").replace(": 5", ": 6"), "utf-8"
    )
    with pytest.raises(ConfigError, match="changed after it was sealed"):
        read_result(tmp_path)


def test_an_edited_result_is_refused(finished: Path, tmp_path: Path) -> None:
    source = next((finished / "runs" / "final").rglob("result.json"))
    data = json.loads(source.read_text("utf-8"))
    data["test"]["metrics"]["em"] = 1.0
    (tmp_path / "result.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(ConfigError, match="was changed after it was sealed"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match="is damaged"):
        read_result(tmp_path)


@pytest.mark.parametrize("stops", [[1], [2], [1, 2], [2, 2]])
def test_a_resumed_run_counts_like_an_uninterrupted_one(
    finished: Path, spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: list[int]
) -> None:
    spec = load_spec(spec_file)
    rates = chosen_rates(spec, finished)
    assert rates is not None
    run = spec.final_runs(rates)[0]
    job = Campaign(spec, tmp_path / "out").job(run)
    real = Loop.iterate
    for stop in stops:

        def iterate(self: Loop, watch: Any = None, stop: int = stop) -> Any:
            if self.iteration == stop:
                raise KeyboardInterrupt
            return real(self, watch)

        monkeypatch.setattr(Loop, "iterate", iterate)
        with pytest.raises(KeyboardInterrupt):
            worker.run_job(job)
    monkeypatch.setattr(Loop, "iterate", real)
    worker.run_job(job)
    place = f"runs/{run.place}"
    assert results(tmp_path / "out")[place] == results(finished)[place]


@pytest.mark.parametrize("content", [b"[]", b"3", b"\xff", b"NaN", b"[" * 100_000])
def test_a_result_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        read_result(tmp_path)


@pytest.mark.parametrize("unit", ["tokens", "seconds"])
def test_other_budgets(unit: str, spec_file: Path, tmp_path: Path) -> None:
    amount = {"tokens": 40, "seconds": 0.05}[unit]
    spec = load_spec(spec_file, budget={unit: amount}, selection_seeds=0, seeds=1)
    campaign = Campaign(spec, tmp_path / "out")
    run = spec.final_runs({"grpo": 0.1, "cw-grpo": 0.1, "capf": 0.1})[0]
    result = worker.run_job(campaign.job(run))
    assert result["spent"][unit] >= amount
    steps = [point[unit] for point in result["curve"]]
    assert steps == sorted(steps)
    assert steps[-2] < amount, "it should have ended an iteration earlier"


def test_a_failed_run_scores_zero_and_is_counted(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from searchgym.errors import TrainingError
    from searchgym.trainers.algorithms.grpo import GRPO

    spec = load_spec(spec_file, selection_seeds=0, seeds=2)
    spec = campaign_module.replace(spec, entries=[e for e in spec.entries if e["label"] != "cw-grpo"])
    campaign = Campaign(spec, tmp_path / "out")
    runs = spec.final_runs({"grpo": 0.3, "capf": 0.3})
    for run in runs:
        with monkeypatch.context() as patch:
            if (run.label, run.seed) == ("grpo", 1):

                def broken(*_: Any) -> None:
                    raise TrainingError("the loss is not finite")

                patch.setattr(GRPO, "loss", broken)
                patch.setattr(GRPO, "select", lambda self, groups: [True] * len(groups))
            worker.run_job(campaign.job(run))
    row = analyse(spec, tmp_path / "out")["rows"]["grpo"]
    assert row["failed"] == 1
    assert row["marks"] == ["1 runs failed and score 0"]
    assert row["mean"]["value"] <= 0.5


@pytest.mark.slow
def test_kill_9_in_the_middle_changes_nothing(finished: Path, spec_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["bench", str(spec_file), "--out", str(out), "--only", "grpo"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = start_searchgym(*arguments, "--processes", "2", env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: finished_runs(out), "a finished run", killed, 300)
        killed.send_signal(signal.SIGSTOP)  # it starts no further run while this test looks
        workers = children(killed.pid)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert workers or not Path("/proc").exists()
    wait_until(
        lambda: not any(map(alive, workers)), "the end of the workers", timeout=300
    )  # they must not outlive it
    whole = {place: result for place, result in results(finished).items() if "/grpo/" in place}
    assert len(results(out)) < len(whole) == 5
    assert main([*arguments, "--processes", "1"]) == 0
    assert results(out) == whole


def finished_runs(out: Path) -> int:
    """Number of results; `os.walk` passes over folders that a worker removes meanwhile."""
    return sum("result.json" in names for _, _, names in os.walk(out / "runs"))


def children(parent: int) -> list[int]:
    """Processes that a process started, where /proc tells."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if (found := process_state(pid)) and found[1] == str(parent)]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    found = process_state(pid)
    return found is not None and found[0] != "Z"


def process_state(pid: int) -> list[str] | None:
    """State letter and parent of a process; None where it is gone, or where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None


def test_the_package_names_its_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "capf, forks, forks-tiny, methods, noise, seconds, tiny" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["bench", "secnods"]) == 2
    assert "Did you mean 'seconds'" in capsys.readouterr().err
    assert main(["bench", "--compare", "grpo", "gropo"]) == 2
    assert isinstance(load_spec("seconds"), Spec)


def test_a_benchmark_loads_the_parts_of_its_runs_before_it_hashes_the_code() -> None:
    """Also those that environments have by default: a module that is imported later may be of other code than the hash."""
    script = (
        "import sys; from searchgym.trainers.bench.code import load_parts; "
        "load_parts([('SearchQA-Terse-v0', {'judge': {'name': 'oracle'}}), ('No-v0', {})]); "
        "before = {m for m in sys.modules if m.startswith('searchgym.corpora')}; "
        "import searchgym; searchgym.make_vec('SearchQA-Terse-v0', 1, judge='oracle'); "
        "print(sorted({m for m in sys.modules if m.startswith('searchgym.corpora')} - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
