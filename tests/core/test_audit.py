"""The audit of judges: kappa by hand, what is compared and what is not, the corrupted judge, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine

import searchgym
from searchgym.audit.agreement import agreement, cohen_kappa
from searchgym.audit.auditing import CRITERIA, audit
from searchgym.conformance import check_judge
from searchgym.dialects import Act
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.judges import Trace, Verdict, open_judge, traces_of
from searchgym.judges.corrupted import CorruptedJudge
from searchgym.judges.oracle import OracleJudge
from searchgym.records.episode import (
    Episode,
    Outcome,
    Retrieval,
    Round,
    StopReason,
    load_episodes,
    save_episodes,
)

# -- kappa ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [
        # p_o = 35/50, p_e = (25·30 + 25·20)/50² = 1/2
        ((20, 5, 10, 15), 0.4),
        # p_o = 60/100, p_e = (70·60 + 30·40)/100² = 0.54: (0.60 − 0.54)/0.46
        ((45, 25, 15, 15), 6 / 46),
        ((7, 0, 0, 3), 1.0),
        ((0, 5, 5, 0), -1.0),
        ((6, 4, 0, 0), 0.0),  # one judge always says yes: no more agreement than by chance
        ((10, 0, 0, 0), None),
        ((0, 0, 0, 10), None),
        ((0, 0, 0, 0), None),
    ],
)
def test_kappa_by_hand(counts: tuple[int, int, int, int], kappa: float | None) -> None:
    assert cohen_kappa(*counts) == (None if kappa is None else pytest.approx(kappa, abs=1e-12))
    yes_no = [(True, True), (True, False), (False, True), (False, False)]
    pairs = [pair for pair, n in zip(yes_no, counts, strict=True) for _ in range(n)]
    found = agreement([a for a, _ in pairs], [b for _, b in pairs], [str(i) for i in range(len(pairs))])
    assert (found.true_positive, found.false_positive, found.false_negative, found.true_negative) == counts
    assert found.rounds == sum(counts)
    if kappa is None:
        assert found.kappa is None
    else:
        assert found.kappa is not None
        assert found.kappa.value == pytest.approx(kappa, abs=1e-12)
        assert found.kappa.low <= kappa + 1e-12
        assert found.kappa.high >= kappa - 1e-12
    if sum(counts):
        assert found.accuracy is not None
        assert found.accuracy.value == pytest.approx((counts[0] + counts[3]) / sum(counts))
    else:
        assert found.accuracy is None


def test_intervals_resample_questions_and_not_rounds() -> None:
    judged = [True, True, False, False] * 50
    known = ([True] * 4 + [False] * 4) * 25
    alone = agreement(judged, known, [str(i) for i in range(200)])
    together = agreement(judged, known, [str(i // 20) for i in range(200)])
    assert alone.kappa == agreement(judged, known, [str(i) for i in range(200)]).kappa
    assert alone.kappa is not None
    assert together.kappa is not None
    assert alone.kappa.value == together.kappa.value == 0.0
    # Every cluster of 20 holds the same mixture or nearly: far less varies between them than between rounds.
    assert together.kappa.high - together.kappa.low < 0.5 * (alone.kappa.high - alone.kappa.low)
    # A normal approximation of the accuracy's interval at n = 200: ±1.96·sqrt(1/4/200) = ±0.069.
    assert alone.accuracy is not None
    assert alone.accuracy.high - alone.accuracy.low == pytest.approx(2 * 0.069, rel=0.1)


# -- audit ---------------------------------------------------------------------------------------------------

ACTS: dict[str, Any] = {
    "search": {"queries": ("q",)},
    "answer": {"answer": "x"},
    "invalid": {},
    "feedback": {},
    "none": {},
}


def episode(
    *acts: str, task: str = "t", kind: str = "chain", em: float = 1.0, stop: StopReason = StopReason.ANSWERED
) -> Episode:
    rounds = [
        Round(
            f"{task} {act} {i}",
            Act(act, **ACTS[act]),
            uid=f"{task}/{i}",
        )
        for i, act in enumerate(acts)
    ]
    outcome = Outcome("x", em, em, em, 0.0, len(rounds), 0, False, stop)
    return Episode(
        episode_id=f"e-{task}",
        group_id="g",
        tree_id="e",
        parent_id=None,
        fork_round=None,
        agent="a",
        env={},
        task_id=task,
        split="dev",
        question="Where?",
        gold={"answers": ["x"], "supporting_ids": ["p"], "chain": []},
        rounds=rounds,
        outcome=outcome,
        terminated=True,
        truncated=False,
        valid_for_training=True,
        extra={"type": kind},
    )


class Scripted:
    """Gives (u, v) by (task id, round), (0, 0) where nothing is said, and an error for None."""

    def __init__(self, name: str, says: dict[tuple[str, int], tuple[float, float] | None]) -> None:
        self.name, self.says = name, says
        self.batches: list[int] = []

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        self.batches.append(len(traces))
        verdicts = []
        for trace in traces:
            said = self.says.get((trace.question.id, len(trace.rounds) - 1), (0.0, 0.0))
            cost = {"calls": 1, "usd": 0.5}
            verdicts.append(Verdict.error("no reply", cost) if said is None else Verdict.ok(*said, "", cost))
        return verdicts


def test_what_is_compared_and_what_is_not() -> None:
    episodes = [
        episode("search", "feedback", "search", "answer", task="a"),
        episode("search", "invalid", task="b", kind="comparison", em=0.0, stop=StopReason.ROUND_BUDGET),
        episode("search", "none", task="c", stop=StopReason.ABORTED),
        episode("search", "answer", task="d", em=0.0),
    ]
    episodes[0].rounds.append(episode("search").rounds[0])
    episodes[0].rounds[-1].retrieval = Retrieval("error")
    judge = Scripted("mine", {("a", 0): (1, 1), ("a", 2): (0.9, 0.5), ("b", 0): (1, 0), ("d", 0): None})
    truth = Scripted("truth", {("a", 0): (1, 1), ("a", 2): (1, 1), ("b", 0): (0, 0), ("d", 1): None})
    calls: list[int] = []
    result = audit(judge, episodes, truth, batch_size=3, on_judged=calls.append)
    assert (result.judge, result.reference) == ("mine", "truth")
    assert judge.batches == calls == [3, 3, 1]  # neither the feedback nor the aborted episode
    assert (result.episodes, result.failed_episodes, result.rounds) == (3, 1, 7)
    assert (result.errors, result.reference_errors, result.compared) == (1, 1, 5)
    assert result.error_reasons == {"judge": {"no reply": 1}, "reference": {"no reply": 1}}
    u, v, p = (result.criteria[name] for name in CRITERIA)
    assert (u.true_positive, u.false_positive, u.false_negative, u.true_negative) == (2, 1, 0, 2)
    assert (v.true_positive, v.false_positive, v.false_negative, v.true_negative) == (2, 0, 0, 3)
    assert (p.true_positive, p.false_positive, p.false_negative, p.true_negative) == (
        1,
        0,
        1,
        3,
    )  # 0.45 is a no
    assert {k: g["utility"].rounds for k, g in result.by_type.items()} == {"chain": 3, "comparison": 2}
    assert {k: g["utility"].rounds for k, g in result.by_act.items()} == {
        "search": 3,
        "answer": 1,
        "invalid": 1,
    }
    assert result.contributing == {
        "judge": {"all": 1 / 5, "successful": 1 / 3},
        "reference": {"all": 2 / 5, "successful": 2 / 3},
    }
    assert result.cost == {"calls": 7.0, "usd": 3.5}  # an error costs too
    assert result.latency is not None
    assert (result.latency.batch_size, result.latency.per_second > 0) == (3, True)
    data = json.loads(json.dumps(result.to_json()))
    assert data["criteria"]["contribution"]["kappa"]["value"] == result.criteria["contribution"].kappa.value  # type: ignore[union-attr]
    assert "verdicts" not in data


def test_verdicts_are_written_back_and_audited_from_there() -> None:
    episodes = [episode("search", "feedback", "answer", task="a"), episode("search", task="b")]
    judge = Scripted("mine", {("a", 0): (1, 1), ("b", 0): None})
    truth = Scripted("truth", {("a", 0): (1, 1), ("a", 2): (0, 1)})
    fresh = audit(judge, episodes, truth)
    fresh.write_to(episodes)
    first, skipped, last = episodes[0].rounds
    assert (first.judge.status, first.judge.utility) == ("ok", 1.0)
    assert skipped.judge.status == "off"
    assert skipped.extra == {}
    assert last.extra["reference_judge"]["name"] == "truth"
    assert last.extra["reference_judge"]["reasoning"] == 1.0
    assert episodes[1].rounds[0].judge.status == "error"
    again = audit(None, episodes, truth)
    assert again.criteria == fresh.criteria
    assert (again.judge, again.errors, again.latency, again.cost) == ("recorded", 1, None, {})
    assert again.error_reasons["judge"] == {"no reply": 1}
    assert (again.rounds, fresh.rounds) == (3, 3)


def test_edges() -> None:
    truth = Scripted("truth", {})
    for episodes in (
        [],
        [episode()],
        [episode("search", stop=StopReason.RETRIEVAL_FAILED)],
        [episode("none")],
    ):
        with pytest.raises(ConfigError, match=f"none of {len(episodes)} episodes has a round"):
            audit(truth, episodes, truth)
    one = [episode("search")]
    same = audit(truth, one, truth)
    assert all(
        c.kappa is None and c.accuracy is not None and c.accuracy.value == 1.0 for c in same.criteria.values()
    )
    nothing = audit(Scripted("mine", {("t", 0): None}), one, truth)
    assert (nothing.compared, nothing.errors, nothing.by_type) == (0, 1, {})
    assert all(c.accuracy is None and c.kappa is None for c in nothing.criteria.values())
    assert nothing.contributing["judge"] == {"all": None, "successful": None}
    json.dumps(nothing.to_json(), allow_nan=False)
    for wrong in ({"threshold": 0.0}, {"threshold": math.nan}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            audit(truth, one, truth, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownIdError, match="oracle"):
        audit("orcale", one)


def test_a_judge_that_cannot_work_or_miscounts_is_refused_before_anything_is_compared() -> None:
    class Keyless(Scripted):
        def check(self) -> None:
            raise ConfigError("no key")

    class Short(Scripted):
        def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
            return []

    one, truth = [episode("search")], Scripted("truth", {})
    for judge, reference in (
        (Keyless("k", {}), truth),
        (truth, Keyless("k", {})),
        (CorruptedJudge(judge=Keyless("k", {})), truth),
    ):
        with pytest.raises(ConfigError, match="no key"):
            audit(judge, one, reference)
    with pytest.raises(ConfigError, match="0 verdicts for 1"):
        audit(Short("s", {}), one, truth)


def test_thresholds_are_the_judges_alone() -> None:
    judge = Scripted("mine", {("t", 0): (0.3, 1), ("t", 1): (0.1, 1)})
    truth = Scripted("truth", {("t", 0): (1, 1), ("t", 1): (0.3, 1)})
    rounds = [episode("search", "search")]
    assert audit(judge, rounds, truth).criteria["utility"].true_positive == 0
    low = audit(judge, rounds, truth, threshold=0.2).criteria["utility"]
    assert (low.true_positive, low.true_negative) == (1, 1)


# -- the corrupted judge -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(small_world: dict[str, Any]) -> list[Episode]:
    return [
        e
        for agent in ("oracle", "random")
        for e in searchgym.rollout("SearchQA-v0", agent, 150, corpus=small_world, split="train")
    ]


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_audit_of_a_corrupted_oracle_finds_the_rate(played: list[Episode], rate: float) -> None:
    result = audit({"name": "corrupted", "judge": "oracle", "rate": rate, "seed": 1}, played)
    assert result.judge == "corrupted"
    n = result.compared
    assert n > 500
    for name in ("utility", "reasoning"):
        found = result.criteria[name]
        positives = (found.true_positive + found.false_negative) / n
        assert 0.1 < positives < 0.95
        said = positives * (1 - rate) + (1 - positives) * rate
        chance = positives * said + (1 - positives) * (1 - said)
        kappa = (1 - rate - chance) / (1 - chance)
        assert found.accuracy is not None
        assert found.kappa is not None
        # Copies of one trace flip together, hence somewhat more than the binomial standard error.
        assert abs(found.accuracy.value - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / n)
        assert abs(found.kappa.value - kappa) < 0.1
        assert found.kappa.low < kappa + 0.03
        assert found.kappa.high > kappa - 0.03


def test_what_is_flipped_depends_on_the_trace_and_the_seed_alone(played: list[Episode]) -> None:
    traces = [t for e in played[:40] for t in traces_of(e)]
    clean = [(v.utility, v.reasoning) for v in OracleJudge().judge(traces)]

    def flips(**options: Any) -> list[tuple[bool, bool]]:
        judge = CorruptedJudge(judge="oracle", **options)
        backwards = judge.judge(traces[::-1])[::-1]
        assert judge.judge(traces) == backwards == [judge.judge([t])[0] for t in traces]
        return [(v.utility != u, v.reasoning != r) for v, (u, r) in zip(backwards, clean, strict=True)]

    assert set(flips(rate=0.0)) == {(False, False)}
    assert set(flips(rate=1)) == {(True, True)}
    assert flips(rate=0.4, seed=1) != flips(rate=0.4, seed=2)
    assert flips(rate=0.4) == flips(rate=0.4, seed=0)
    few, many = flips(rate=0.2), flips(rate=0.4)
    assert all(
        a <= c and b <= d for (a, b), (c, d) in zip(few, many, strict=True)
    )  # more noise, the same and more
    both = sum(a and b for a, b in many)
    assert 0 < both < sum(a for a, _ in many)  # the two criteria are flipped independently


def test_the_corrupted_judge_keeps_degrees_costs_and_failures() -> None:
    inner = Scripted("inner", {("a", 0): (0.25, 0.75), ("b", 0): None})
    (trace,), (failing,) = traces_of(episode("search", task="a")), traces_of(episode("search", task="b"))
    flipped, failed = CorruptedJudge(judge=inner, rate=1.0).judge([trace, failing])
    assert (flipped.utility, flipped.reasoning, dict(flipped.cost)) == (0.75, 0.25, {"calls": 1, "usd": 0.5})
    assert "u and v flipped" in flipped.reason
    assert (failed.status, failed.utility) == ("error", None)
    check_judge(CorruptedJudge(judge="oracle", rate=0.5))


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan, "half", True])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigError, match="rate"):
        open_judge({"name": "corrupted", "rate": rate})
    with pytest.raises(UnknownIdError, match="orcale"):
        open_judge({"name": "corrupted", "judge": "orcale"})


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(cli: CommandLine) -> CommandLine:
    """Run `searchgym judge audit`."""
    return partial(cli, "judge", "audit")


def test_the_command_plays_saves_and_audits_again(run: CommandLine, toy: str, tmp_path: Path) -> None:
    saved, world = tmp_path / "audited.jsonl", ("--env-option", f"corpus={toy}")
    status, out, err = run(
        "--judge", "rules", *world, "--agent", "gold", "--agent", "copy", "--save", str(saved), "--json"
    )
    assert status == 0, err
    data = json.loads(out)
    assert (data["judge"], data["reference"], data["episodes"]) == ("rules", "oracle", 8)
    assert out.count("\n") == 1
    episodes = list(load_episodes(saved))
    assert {e.agent for e in episodes} == {"gold", "copy"}
    assert all(r.judge.status == "ok" and "reference_judge" in r.extra for e in episodes for r in e.rounds)
    status, out, err = run("--from", str(saved), *world, "--json")
    assert status == 0, err
    assert json.loads(out)["criteria"] == data["criteria"]
    status, out, err = run("--from", str(saved), *world, "--judge", "rules", "--threshold", "0.1")
    assert status == 0, err
    for shown in (
        "rules against oracle",
        "utility",
        "search",
        "8 episodes",
        "verdicts/s",
        "errors of rules: 0",
    ):
        assert shown in out
    status, _, err = run(
        "--from", str(saved), "--judge", "rules"
    )  # played on another corpus than the default's
    assert (status, "needs a corpus" in err) == (2, True)


def test_the_command_reads_options_of_judges(run: CommandLine, toy: str, tmp_path: Path) -> None:
    config = tmp_path / "audit.toml"
    config.write_text(
        f'judge = "corrupted"\nagent = ["gold"]\n[judge-option]\nrate = 1.0\n[env-option]\ncorpus = "{toy}"\n'
    )
    status, out, err = run("--config", str(config), "--json")
    assert status == 0, err
    assert json.loads(out)["criteria"]["reasoning"]["accuracy"]["value"] == 0.0
    status, out, err = run("--config", str(config), "--json", "--judge-option", "rate=0")
    assert json.loads(out)["criteria"]["reasoning"]["accuracy"]["value"] == 1.0


def test_the_command_on_recorded_rollouts(run: CommandLine, toy: str, tmp_path: Path) -> None:
    text = (
        "Question: In which town is the company that Anna Reed works for?\nThought 1: a\nAction 1: Search[Anna Reed]\n"
        "Observation 1: She works for Corvin Mills.\nThought 2: b\nAction 2: Finish[Tarn]\nObservation 2: Answer is CORRECT\n"
    )
    rows = [
        {
            "source": "s",
            "row": 1,
            "format": "react numbered",
            "text": text,
            "gold": "Tarn",
            "predicted": "tarn",
        },
        {"source": "s", "row": 2, "format": "react numbered", "text": text, "gold": None},
        {
            "source": "s",
            "row": 3,
            "format": "react numbered",
            "text": text.replace("town", "city", 1),
            "gold": "Tarn",
        },
    ]
    path = tmp_path / "rollouts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--rollouts", str(path), "--judge", "oracle")
    status, out, err = run(*common, "--gold-corpus", toy)
    assert status == 0, err
    for shown in (
        "  1  s (react numbered)",
        "not used: s, rows 2: no gold answer",
        "2 x the question has no gold",
    ):
        assert shown in out
    status, out, err = run(
        *common, "--gold-corpus", toy, "--json", "--save", str(tmp_path / "imported.jsonl")
    )
    data = json.loads(out)
    assert (data["compared"], data["errors"], len(data["skipped"])) == (2, 2, 1)
    assert (data["sources"][0]["matched"], data["sources"][0]["new_gold_share"]) == (1, 1.0)
    status, out, err = run(
        "--from", str(tmp_path / "imported.jsonl"), "--env-option", f"corpus={toy}", "--judge", "rules"
    )
    assert status == 0, err
    status, out, err = run(*common)  # no corpus: nothing to compare, and it is said why
    assert (status, "0 compared" in out, "4 x the question has no gold passages" in out) == (0, True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one with --judge"),
        (["--judge", "orcale"], "Did you mean 'oracle'"),
        (["--judge", "oracle", "--reference", "orcale"], "Did you mean 'oracle'"),
        (["--judge-option", "rate=1"], "given without a judge"),
        (["--judge", "corrupted", "--judge-option", "rte=1"], "Did you mean 'rate'"),
        (["--judge", "corrupted", "--judge-option", "name=rules"], "name the judge with --judge"),
        (["--judge", "oracle", "--from", "a", "--rollouts", "b"], "exclude each other"),
        (["--judge", "oracle", "--gold-corpus", "a"], "only applies to --rollouts"),
        (["--judge", "oracle", "--agent-option", "seed=1"], "ambiguous for 3 agents"),
        (["--judge", "oracle", "--agent", "cpy"], "Did you mean 'copy'"),
        (["--judge", "oracle", "--from", "missing.jsonl"], "missing.jsonl"),
        (["--judge", "oracle", "--rollouts", "missing.jsonl"], "missing.jsonl"),
        (["--judge", "oracle", "--threshold", "2"], "threshold is 2.0"),
        (["--judge", "oracle", "--save", "/"], "cannot be written"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_mistakes_are_one_line(arguments: list[str], message: str, run: CommandLine, toy: str) -> None:
    status, out, err = run(*arguments, "--env-option", f"corpus={toy}")
    assert (status, out) == (2, ""), err
    assert message in err


def test_judges_are_asked_before_any_episode_is_played(
    run: CommandLine, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_key(judge: OracleJudge) -> None:
        raise ConfigError("no key")

    monkeypatch.setattr("searchgym.cli.judge.collect", lambda *_, **__: pytest.fail("an episode was played"))
    monkeypatch.setattr(OracleJudge, "check", no_key, raising=False)
    for arguments in (["--judge", "oracle"], ["--judge", "rules"]):
        status, _, err = run(*arguments, "--env-option", f"corpus={toy}")
        assert (status, "no key" in err) == (2, True)


def test_saved_episodes_without_rounds_or_verdicts_are_refused(
    run: CommandLine, toy: str, tmp_path: Path
) -> None:
    path, common = (
        tmp_path / "e.jsonl",
        ("--from", str(tmp_path / "e.jsonl"), "--env-option", f"corpus={toy}"),
    )
    save_episodes(path, [])
    status, _, err = run(*common, "--judge", "oracle")
    assert (status, "none of 0 episodes has a round to judge" in err) == (2, True)
    save_episodes(path, [episode("search")])
    status, _, err = run(*common)
    assert (status, "none of 1 episodes has a recorded verdict" in err) == (2, True)
