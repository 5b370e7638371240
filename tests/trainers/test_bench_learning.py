"""Learning speed, fidelity of credit, heaps of outcomes and differing settings in the reports of `searchgym bench`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchgym.cli import main
from searchgym.errors import ConfigError
from searchgym.statistics import percentile_interval
from searchgym.trainers.bench import learning
from searchgym.trainers.bench.campaign import selection_score
from searchgym.trainers.bench.learning import analyse_learning, episodes_to_half, learning_speed
from searchgym.trainers.bench.modality import find_heaps
from searchgym.trainers.bench.report import markdown
from searchgym.trainers.bench.results import analyse
from searchgym.trainers.bench.spec import Spec, load_spec, parse_spec
from searchgym.trainers.bench.worker import read_result
from searchgym.trainers.credit_audit.exact_credit import ExactCredit
from searchgym.trainers.credit_audit.scores import rank_correlation

SPEC = """
name = "audited"
budget = { episodes = 24 }
seeds = 2
selection_seeds = 0
rates = [0.2]
references = ["truth"]

[audit]
at = [1, 3]
every = 2
questions = 2

[train]
agent = "candidate"
agent_options = { start = "lookup", memory = false }
questions = 2
eval_episodes = 0
checkpoint_every = 100

[environments.decoys]
env = "SearchQA-Forks-v0"
env_options = { corpus = { name = "forks", family = "decoys", decoys = 1, train = 2, dev = 2, test = 2 }, max_rounds = 4 }

[[entries]]
label = "grpo"
settings = { group_size = 4, skip_equal = false, entropy_coef = 0.01 }

[[entries]]
label = "truth"
trainer = "searchgym.trainers.credit_audit.exact_credit:ExactCredit"
settings = { group_size = 4, skip_equal = false }

[[entries]]
label = "capf"
"""


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audited") / "audited.toml"
    path.write_text(SPEC, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(spec_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main(["bench", str(spec_file), "--out", str(out), "--processes", "1"]) == 0
    return out


def test_an_audited_run_records_true_em_and_fidelity(finished: Path) -> None:
    result = read_result(finished / "runs" / "final" / "truth" / "decoys" / "seed-0")
    assert result is not None
    assert [(p["iteration"], p["episodes"]) for p in result["curve"]] == [(0, 0), (2, 16), (3, 24)]
    assert result["test"]["metrics"]["em"] == result["curve"][-1]["em"] == np.mean(result["test"]["right"])
    assert [audit["iteration"] for audit in result["fidelity"]] == [1, 3]
    for audit in result["fidelity"]:
        assert (audit["sign"], audit["pearson"]) == pytest.approx((1.0, 1.0))
        assert -1.0 <= audit["cosine"] <= 1.0
    assert result["audit"]["split"] == "test"
    feedback = read_result(finished / "runs" / "final" / "capf" / "decoys" / "seed-0")
    assert feedback is not None
    assert any("cosine" not in audit for audit in feedback["fidelity"]) or not feedback["fidelity"]


def test_true_em_is_measured_where_every_group_is_skipped(spec_file: Path, tmp_path: Path) -> None:
    """Otherwise the curve of a trainer that skips groups would begin late, at an EM of its own."""
    (tmp_path / "skips.py").write_text(
        "from searchgym.trainers.algorithms.grpo import GRPO\n\n"
        "class Skips(GRPO):\n    def select(self, groups):\n        return [False] * len(groups)\n"
    )
    spec = SPEC[: SPEC.index("[[entries]]")] + (
        '[[entries]]\nlabel = "grpo"\ntrainer = "skips.py:Skips"\nsettings = { group_size = 4 }\n'
    )
    path = tmp_path / "skips.toml"
    path.write_text(spec.replace('references = ["truth"]\n', ""), encoding="utf-8")
    assert main(["bench", str(path), "--out", str(tmp_path / "out"), "--processes", "1"]) == 0
    result = read_result(tmp_path / "out" / "runs" / "final" / "grpo" / "decoys" / "seed-0")
    assert result is not None
    assert [p["iteration"] for p in result["curve"]] == [0, 2, 3]
    assert len({p["em"] for p in result["curve"]}) == 1
    assert result["fidelity"] == []


def test_rates_are_selected_on_dev_questions_by_the_mean_over_training(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    scopes = [spec.scope("decoys", phase) for phase in ("selection", "calibration", "final")]
    assert [scope and scope.split for scope in scopes] == ["dev", "dev", "test"]
    early = {"failed": "", "audit": {}, "curve": curve(0.2, 0.8, 0.8)}
    late = {"failed": "", "audit": {}, "curve": curve(0.2, 0.2, 0.9)}
    assert selection_score(early) == pytest.approx(0.65)
    assert selection_score(late) == pytest.approx(0.375)
    assert selection_score({**early, "failed": "loss"}) == 0.0


def test_the_report_has_every_section_and_the_picture(finished: Path) -> None:
    report = (finished / "report.md").read_text("utf-8")
    for title in ("## Learning speed", "## Differences to `grpo`", "## Credit fidelity while learning",
                  "## Does fidelity predict learning speed?", "## One heap or two", "## Settings"):  # fmt: skip
        assert title in report
    assert "greedy" not in report.lower()
    assert (finished / "learning.svg").read_text("utf-8").startswith("<?xml")
    analysis = json.loads((finished / "results.json").read_text("utf-8"))
    assert [p["row"] for p in analysis["learning"]["points"]] == ["grpo", "truth", "capf"]
    assert analysis["learning"]["rivals"]["decoys"]["row"] == "capf", "a reference is no rival"


def test_a_row_with_default_settings_says_what_differs_from_a_tuned_baseline(
    finished: Path, spec_file: Path
) -> None:
    rows = analyse(load_spec(spec_file), finished)["rows"]
    assert rows["capf"]["settings_differ_in"] == [
        "group_size=8 (grpo: 4)", "entropy_coef=0.0 (grpo: 0.01)", "skip_equal=True (grpo: False)"
    ]  # fmt: skip
    assert rows["capf"]["marks"][0].startswith("DEFAULT SETTINGS, which differ: group_size=8")
    assert rows["truth"]["settings_differ_in"] == ["entropy_coef=0.0 (grpo: 0.01)"]
    assert not any(mark.startswith("DEFAULT") for mark in rows["truth"]["marks"])


def test_two_heaps_are_reported_and_one_is_not(finished: Path, spec_file: Path) -> None:
    analysis = analyse(load_spec(spec_file), finished)
    assert "Not tested" in markdown(analysis)
    drawn = np.random.default_rng(0)
    two = np.concatenate([drawn.normal(0.3, 0.03, 12), drawn.normal(0.9, 0.03, 18)])
    one = drawn.normal(0.8, 0.05, 30)
    for row, outcomes in (("grpo", two), ("truth", one)):
        analysis["rows"][row]["heaps"]["decoys"] = asdict(find_heaps(outcomes))
    report = markdown(analysis)
    assert "The mean misleads in 1 of 2 tests: `grpo`." in report
    assert re.search(r"40% around 0\.(29|30|31), 60% around 0\.(89|90|91)", report)


def test_heaps_keep_their_level() -> None:
    drawn = np.random.default_rng(1)
    found = [find_heaps(drawn.normal(size=20), seed=i).p for i in range(40)]
    assert sum(p is not None and p < 0.05 for p in found) <= 5
    assert find_heaps(np.ones(20)).p is None
    assert find_heaps(np.arange(5.0)).p is None


def curve(*em: float) -> list[dict[str, float]]:
    return [{"episodes": 10.0 * i, "em": value} for i, value in enumerate(em)]


def test_learning_speed_and_episodes_to_half_by_hand() -> None:
    assert learning_speed(curve(0.2, 0.2, 0.2), "episodes", 20) == pytest.approx(0.0)
    assert learning_speed(curve(0.2, 1.0, 1.0), "episodes", 20) == pytest.approx(0.75)
    assert learning_speed(curve(0.2, 1.0), "episodes", 20) == pytest.approx(0.75)  # the last value holds
    assert learning_speed(curve(0.2, 0.6, 1.0), "episodes", 10) == pytest.approx(
        0.25
    )  # no credit beyond the budget
    assert learning_speed(curve(1.0, 1.0), "episodes", 10) == 0.0
    assert episodes_to_half(curve(0.2, 0.4, 0.8), "episodes") == pytest.approx(15.0)
    assert episodes_to_half(curve(0.2, 0.4), "episodes") is None


def audited(spec: Spec, quality: dict[str, float], cosine: dict[str, float]) -> dict[str, Any]:
    """The analysis of made-up runs: each row's final EM grows with its quality, plus what all rows of a seed share."""
    drawn = np.random.default_rng(2)
    shared = drawn.normal(0, 0.05, (spec.seeds, len(spec.environments)))
    runs = {}
    for label in quality:
        own = drawn.normal(0, 0.002, shared.shape)
        runs[label] = [
            [
                {
                    "failed": "",
                    "curve": curve(0.3, *[0.6 + quality[label] + shared[s, e] + own[s, e]] * 2),
                    "sums": {"episodes": 20.0, "iterations": 2.0},
                    "fidelity": [
                        {"iteration": 1, "cosine": cosine[label] + 0.1 * e, "snr": 0.1 + 0.2 * cosine[label]}
                    ],
                }
                for e in range(len(spec.environments))
            ]
            for s in range(spec.seeds)
        ]
    return analyse_learning(spec, runs)


def test_fidelity_that_predicts_speed_is_found_and_a_paired_difference_decided() -> None:
    place = {"env": "SearchQA-Forks-v0"}
    entries = [{"label": label, "trainer": "grpo"} for label in ("grpo", "a", "b", "c", "ref")]
    spec = parse_spec(
        {"name": "x", "budget": {"episodes": 20}, "seeds": 8, "rates": [0.1], "references": ["ref"],
         "audit": {"at": [1]}, "train": {"eval_episodes": 0}, "environments": {"one": place, "two": place, "three": place}, "entries": entries}
    )  # fmt: skip
    quality = {"grpo": 0.0, "a": 0.03, "b": 0.06, "c": -0.03, "ref": 0.1}
    found = audited(spec, quality, {label: 0.5 + value for label, value in quality.items()})
    methods = next(c for c in found["correlations"] if c["score"] == "cosine" and not c["references"])
    assert methods["points"] == 12
    assert methods["value"] > 0.9
    assert methods["over_environments"]["low"] > 0.8
    assert {rival["row"] for rival in found["rivals"].values()} == {"b"}
    assert {rival["verdict"] for rival in found["rivals"].values()} == {"better"}
    difference = found["differences"]["two"]["c"]["difference"]
    assert difference["low"] < -0.03 / 0.7 * 0.75 < difference["high"] < 0
    # Of 10 episodes an iteration: the bias of 1/n is taken off.
    point = next(p for p in found["points"] if p["row"] == "grpo")
    assert point["fidelity"]["snr"] == pytest.approx(0.2 * 0.9 - 0.1)
    opposite = audited(spec, quality, {label: 0.5 - value for label, value in quality.items()})
    assert opposite["correlations"][0]["value"] < -0.9


@pytest.mark.parametrize("sizes", [(3, 3, 3), (1, 5, 2, 9)])
def test_the_interval_of_a_rank_correlation_is_that_of_resamples_one_by_one(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "_RESAMPLES", 200)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    generator = np.random.default_rng(3)
    x = generator.normal(size=len(cluster)).round(1)  # some are equal
    y = (x + generator.normal(size=len(cluster))).round()
    draw, found = np.random.default_rng(0), []
    for _ in range(200):
        chosen = draw.integers(len(sizes), size=len(sizes))
        drawn = np.concatenate([np.flatnonzero(cluster == c) for c in chosen])
        found.append(rank_correlation(x[drawn], y[drawn]))
    expected = percentile_interval(0.5, np.array(found))
    assert learning._clustered(x, y, cluster, 0.5) == expected
    assert expected.low < expected.high


def test_what_an_audit_cannot_measure_is_refused_before_any_run(spec_file: Path) -> None:
    values = load_spec(spec_file).to_json()
    with pytest.raises(ConfigError, match=r"audit.at is \[0\]"):
        parse_spec({**values, "audit": {"at": [0]}})
    with pytest.raises(ConfigError, match=r"set train\.eval_episodes to 0"):
        parse_spec({**values, "train": {**values["train"], "eval_episodes": 5}})
    with pytest.raises(ConfigError, match="reference 'nobody'"):
        parse_spec({**values, "references": ["nobody"]})


def test_noise_of_exact_credit_has_the_stated_size(finished: Path) -> None:
    with pytest.raises(ConfigError, match="noise"):
        ExactCredit({"noise": -1.0})


def test_fidelity_that_was_measured_elsewhere_meets_speed_on_sampled_episodes(
    finished: Path, tmp_path: Path, cli: Any
) -> None:
    """Without an audit; `truth` has the fidelity of the audited benchmark, but the sign of the audits given first."""
    unaudited = SPEC.replace("[audit]\nat = [1, 3]\nevery = 2\nquestions = 2\n", "")
    path = tmp_path / "sampled.toml"
    path.write_text(unaudited.replace("eval_episodes = 0", "eval_episodes = 2"), encoding="utf-8")
    for step, sign in (("one", 0.25), ("two", 0.75)):
        audit: dict[str, Any] = {
            "episodes": 50,
            "rules": [
                {
                    "label": "truth",
                    "episodes": 5,
                    "gradient": {"snr": 0.5},
                    "scores": {"sign": {"mean": sign}},
                }
            ],
        }
        for score in ("within", "pearson"):
            audit["rules"][0]["scores"][score] = {"mean": None}
        place = tmp_path / "audits" / "decoys" / step
        place.mkdir(parents=True)
        (place / "audit.json").write_text(json.dumps(audit))
    given = ["--fidelity", str(tmp_path / "audits"), "--fidelity", str(finished / "results.json")]
    command = ["bench", str(path), "--out", str(tmp_path / "out"), "--processes", "1"]
    status, _, errors = cli(*command, *given)
    assert status == 0, errors
    learning = json.loads((tmp_path / "out" / "results.json").read_text())["learning"]
    assert learning["measure"] == "sampled"
    points = {p["row"]: p for p in learning["points"]}
    assert points["truth"]["fidelity"]["sign"] == pytest.approx(0.5)
    assert points["truth"]["fidelity"]["pearson"] == pytest.approx(1.0)
    assert points["truth"]["fidelity"]["snr"] == pytest.approx(
        0.5 * 4 / 5 - 1 / 5
    )  # without the bias of 5 episodes
    assert points["capf"]["fidelity"] == {}
    runs = [
        read_result(tmp_path / "out" / "runs" / "final" / "truth" / "decoys" / f"seed-{i}") for i in (0, 1)
    ]
    shares = [run["sums"]["em"] / run["sums"]["valid"] for run in runs if run is not None]
    start = points["truth"]["start"]
    assert points["truth"]["speed"]["value"] == pytest.approx((np.mean(shares) - start) / (1 - start))
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Greedy EM on the test split" in report
    assert "Fidelity was measured elsewhere" in report
    status, _, errors = cli(*command, "--fidelity", str(tmp_path / "sampled.toml"))
    assert status == 2
    assert "cannot be read as results of a benchmark" in errors
    (tmp_path / "none").mkdir()
    status, _, errors = cli(*command, "--fidelity", str(tmp_path / "none"))
    assert status == 2
    assert "has no fidelity of the benchmark's rows and environments" in errors


def test_where_sampled_learning_began_is_known_or_an_error() -> None:
    place = {"env": "SearchQA-Forks-v0", "env_options": {"corpus": {"name": "forks", "family": "decoys"}}}
    spec = parse_spec(
        {"name": "x", "budget": {"episodes": 20}, "seeds": 2, "rates": [0.1], "environments": {"one": place},
         "entries": [{"label": "grpo"}]}
    )  # fmt: skip
    first = {"valid": 8.0, "assisted": 0.0, "right_unassisted": 2.0}
    whole = {**first, "valid": 20.0, "right_unassisted": 10.0, "episodes": 20.0, "iterations": 2.0}
    test = {"metrics": {"em": 0.5}}
    run = {
        "failed": "",
        "curve": [],
        "fidelity": [],
        "feedback": False,
        "first": first,
        "sums": whole,
        "test": test,
    }
    (point,) = analyse_learning(spec, {"grpo": [[run], [run]]}, {})["points"]
    assert (point["start"], point["speed"]["value"]) == (0.25, pytest.approx((0.5 - 0.25) / 0.75))
    failed = {**run, "failed": "loss"}
    (point,) = analyse_learning(spec, {"grpo": [[failed], [failed]]}, {})["points"]
    assert (point["start"], point["speed"]["value"]) == (None, 0.0)
    assisted = {**run, "feedback": True}
    with pytest.raises(ConfigError, match="'one' has no finished run without feedback"):
        analyse_learning(spec, {"grpo": [[assisted], [assisted]]}, {})
