"""What surrounds the scores of an audit: breakdowns, costs, checkpoints, recorded episodes, bad input, atlas, structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchgym.agents.candidate import CandidateAgent
from searchgym.agents.candidate.features import FEATURES
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError
from searchgym.options import plugins
from searchgym.records.episode import save_episodes
from searchgym.rollouts.collection import agent_context_of, collect
from searchgym.trainers.algorithms.cw_grpo import CWGRPO
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.algorithms.mt_ppo import MTPPO
from searchgym.trainers.algorithms.tree_grpo import TreeGRPO
from searchgym.trainers.credit_audit.auditing import AuditSettings, CreditAudit, audit_credit
from searchgym.trainers.credit_audit.breakdown import break_down
from searchgym.trainers.credit_audit.card import FAMILIES_OF_METHODS
from searchgym.trainers.credit_audit.exact import ExactValues
from searchgym.trainers.credit_audit.graph import StateGraphs
from searchgym.trainers.credit_audit.opening import open_trainers
from searchgym.trainers.credit_audit.report import audit_json, audit_markdown
from searchgym.trainers.training import train

ROUGH = AuditSettings(questions=4, group_size=4, method="monte-carlo", error=0.25, num_envs=32)
FORKS: dict[str, Any] = {
    "corpus": {"name": "forks", "train": 16, "dev": 0, "test": 0},
    "types": ["decoys", "trap"],
}


def lookup() -> CandidateAgent:
    return CandidateAgent(start="lookup", seed=2)


@pytest.fixture(scope="module")
def audit() -> CreditAudit:
    config = make_vec("SearchQA-Forks-v0", 1, **FORKS, judge="oracle").config
    trainers = {
        "grpo": GRPO({"group_size": 4}),
        "cw-grpo": CWGRPO({"group_size": 4}),
        "mt-ppo": MTPPO({"group_size": 4}),
        "tree-grpo": TreeGRPO({"group_size": 6}),
    }
    settings = AuditSettings(**{**vars(ROUGH), "judge_noise": (0.0, 1.0)})
    return audit_credit(lookup(), config, trainers, settings)


def test_a_trainer_is_audited_in_the_environment_that_it_needs(audit: CreditAudit) -> None:
    rules = {rule.label: rule for rule in audit.trainers}
    assert not audit.left_out
    assert (rules["grpo"].shared, rules["cw-grpo"].shared) == (True, True)
    paid = {record.reward for e in rules["mt-ppo"].sampled.episodes for record in e.rounds[:-1]}
    assert len(paid) > 1  # its reward pays every round
    assert "episodes of its own" in rules["mt-ppo"].note
    assert "groups of 6" in rules["tree-grpo"].note
    assert {len(group) for group in rules["tree-grpo"].sampled.groups} == {6}


def test_the_card_names_the_family_of_every_registered_trainer() -> None:
    """A trainer without one would be called a plug-in."""
    assert set(FAMILIES_OF_METHODS) == set(plugins.names("trainers"))


def test_costs_are_counted(audit: CreditAudit) -> None:
    costs = {rule.label: rule.cost for rule in audit.trainers}
    assert (costs["grpo"].judge_calls, costs["grpo"].pass_tokens, costs["grpo"].restores) == (0, 0, 0)
    rounds = len(audit.sampled.rounds.true_R)
    assert costs["cw-grpo"].judge_calls == rounds  # judge_when=step
    assert costs["mt-ppo"].pass_tokens > 0
    assert costs["mt-ppo"].judge_calls > 0
    assert costs["tree-grpo"].restores > 0
    own = audit.trainers[-1].sampled.episodes
    assert costs["tree-grpo"].tokens < sum(len(e.rounds) for e in own)  # shared rounds were sampled once


def test_noise_of_the_judge_lowers_the_score_of_those_who_read_it(audit: CreditAudit) -> None:
    rules = {rule.label: rule for rule in audit.trainers}
    assert rules["grpo"].noise == ()
    none, all_flipped = rules["cw-grpo"].noise
    for name, value in none.scores.items():
        assert value == pytest.approx(rules["cw-grpo"].scores[name].value, nan_ok=True)
    assert all_flipped.scores["within"] < none.scores["within"]
    assert all(r.judge.status == "ok" for e in audit.sampled.episodes for r in e.rounds)  # copies were judged


def test_the_breakdown_divides_the_episodes(audit: CreditAudit) -> None:
    rows = [row for row in break_down({"": audit}) if row.rule == "cw-grpo"]
    by = {key: [row for row in rows if row.by == key] for key in dict.fromkeys(row.by for row in rows)}
    assert list(by) == ["all", "family", "success", "judge noise"]  # all questions have three hops
    (everything,) = by["all"]
    assert (everything.episodes, everything.rounds) == (16, len(audit.sampled.rounds.true_R))
    assert [row.value for row in by["family"]] == ["decoys", "trap"]
    assert [(row.value, row.em) for row in by["success"]] == [("right", 1.0), ("wrong", 0.0)]
    for key in ("family", "success"):
        assert sum(row.rounds for row in by[key]) == everything.rounds
        assert np.average([row.em for row in by[key]], weights=[r.episodes for r in by[key]]) == everything.em
    saved = json.loads(json.dumps(audit_json(audit), allow_nan=False))["breakdown"]
    assert len(saved) == len(break_down({"": audit}))


def test_the_report_has_the_card_and_the_checklist(audit: CreditAudit) -> None:
    report = audit_markdown(audit, "the command")
    for field in ("unit and estimand", "effective state", "intervention source", "downstream protocol"):
        assert f"| {field} |" in report
    for item in ("| MUST | base model", "| MUST | mean trajectory length", "| SHOULD | overhead of credit"):
        assert item in report
    assert "| grpo | episode | Monte Carlo" in report
    assert "| MUST | episode-level baseline | grpo" in report
    assert "Noise floor" in report


# -- bad input -------------------------------------------------------------------------------------------------


def test_a_policy_that_never_answers_is_refused_before_values_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_vec("SearchQA-Forks-v0", 1, **FORKS, max_rounds=3).config
    agent = lookup()
    agent.module.weight.data[1, FEATURES.index("any")] = -1e3
    monkeypatch.setattr("searchgym.trainers.credit_audit.sampling.continue_episodes", None)
    with pytest.raises(ConfigError, match=r"never answers: all 16 episodes ended with round_budget"):
        audit_credit(agent, config, {"grpo": GRPO({"group_size": 4})}, ROUGH)


def test_what_is_missing_is_refused_before_an_episode_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_vec("SearchQA-Forks-v0", 1, **FORKS).config
    agent = lookup()
    monkeypatch.setattr(CandidateAgent, "act", None)
    with pytest.raises(ConfigError, match="no judge"):
        audit_credit(agent, config, {"cw-grpo": CWGRPO({"group_size": 4})}, ROUGH)
    monkeypatch.delattr(CandidateAgent, "fork")
    with pytest.raises(ConfigError, match="cannot fork an episode"):
        audit_credit(agent, config, {"grpo": GRPO({"group_size": 4})}, ROUGH)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    train(
        {
            "agent": "candidate",
            "agent_options": {"memory": False, "start": "lookup"},
            "env": "SearchQA-Forks-v0",
            "env_options": FORKS,
            "questions": 2,
            "iterations": 3,
            "checkpoint_every": 1,
            "eval_episodes": 0,
        },
        path,
    )
    return path


AUDIT = (
    "credit",
    "audit",
    "--trainer",
    "grpo",
    "--questions",
    "2",
    "--group-size",
    "3",
    "--method",
    "monte-carlo",
    "--error",
    "0.3",
)


def test_checkpoints_of_a_run_are_compared(run: Path, tmp_path: Path, cli: Any) -> None:
    status, printed, errors = cli(*AUDIT, "--run", str(run), "--checkpoints", "2", "--out", str(tmp_path))
    assert status == 0, errors
    saved = json.loads((tmp_path / "audit.json").read_text())
    assert saved["policies"] == ["step-000000", "step-000003"]
    everything = [row for row in saved["breakdown"] if row["by"] == "all"]
    assert [row["policy"] for row in everything] == saved["policies"]
    for label in saved["policies"]:
        assert f"{label}:" in printed
        assert (tmp_path / label / "report.md").exists()
    assert "| grpo | step-000003 | all |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--checkpoints", "9"), "has 3 checkpoints and --checkpoints requests 9"),
        (
            ("--env-option", 'corpus={"name": "forks", "seed": 5, "train": 16, "dev": 0, "test": 0}'),
            "was trained on a corpus with hash",
        ),
        (("--budget", "10"), "and the budget is 10"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(
    run: Path, cli: Any, arguments: tuple[str, ...], says: str
) -> None:
    status, _, errors = cli(*AUDIT, "--run", str(run), *arguments)
    assert status == 2
    assert says in " ".join(errors.split())


def test_checkpoints_need_a_run(cli: Any) -> None:
    status, _, errors = cli(*AUDIT, "--checkpoints", "2")
    assert status == 2
    assert "there is no --run" in errors


# -- agents without weights, recorded episodes -----------------------------------------------------------------


@pytest.mark.parametrize("skill", ["oracle", "greedy"])
def test_an_agent_without_weights_is_audited(skill: str, tmp_path: Path, cli: Any) -> None:
    small = '{"name": "country", "size": 1000, "train": 20, "dev": 5, "test": 5}'
    options = [
        "--agent",
        "stumbling",
        "--agent-option",
        f"skill={skill}",
        "--env",
        "SearchQA-v0",
        "--corpus",
        small,
    ]
    options += ["--env-option", "max_rounds=5", "--trainer", "cw-grpo", "--trainer", "ppo"]
    status, _, errors = cli(*AUDIT, *options, "--out", str(tmp_path))
    assert status == 0, errors
    assert "without ppo: agent 'stumbling' has no weights" in " ".join(errors.split())
    saved = json.loads((tmp_path / "audit.json").read_text())
    assert [rule["label"] for rule in saved["rules"]][4:] == ["grpo", "cw-grpo"]
    assert saved["counts"]["restores"] > 0


def test_recorded_episodes_are_audited_with_the_continuations_of_an_agent(tmp_path: Path, cli: Any) -> None:
    envs = make_vec("SearchQA-Forks-v0", 16, **FORKS, autoreset_mode="Disabled")
    tasks = envs.task_ids()[:2]
    episodes = collect(
        envs, lookup(), [t for t in tasks for _ in range(4)], group_ids=[t for t in tasks for _ in range(4)]
    )
    save_episodes(tmp_path / "played.jsonl", episodes)
    options = [
        "--episodes",
        str(tmp_path / "played.jsonl"),
        "--env",
        "SearchQA-Forks-v0",
        "--trainer",
        "tree-grpo",
    ]
    for name, value in FORKS.items():
        options += ["--env-option", f"{name}={json.dumps(value)}"]
    status, _, errors = cli(
        *AUDIT, *options, "--agent-option", "start=lookup", "--out", str(tmp_path / "out")
    )
    assert status == 0, errors
    assert "without tree-grpo: it plays episodes of its own" in " ".join(errors.split())
    saved = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (saved["episodes"], saved["rounds"]) == (8, sum(len(e.rounds) for e in episodes))


# -- structure and atlas ---------------------------------------------------------------------------------------


def test_the_structure_of_a_family_is_printed(tmp_path: Path, cli: Any) -> None:
    file = tmp_path / "structure.json"
    status, printed, errors = cli(
        "credit", "structure", "trap", "--questions", "1", "--parameter", "traps=1", "--json", str(file)
    )
    assert status == 0, errors
    found = json.loads(file.read_text())["trap"]
    assert f"{found['decisive_share']:.2f}" in printed
    status, _, errors = cli("credit", "structure", "traps")
    assert status == 2
    assert "Did you mean 'trap'?" in errors


def test_an_atlas_is_made_once_and_continued(
    tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        "credit",
        "atlas",
        "--trainer",
        "cw-grpo",
        "--questions",
        "1",
        "--group-size",
        "3",
        "--iterations",
        "2",
        "--out",
        str(tmp_path),
    ]
    status, _, errors = cli(*command, "--family", "decoys")
    assert status == 0, errors
    report = (tmp_path / "atlas.md").read_text()
    for heading in ("cosine", "By policy strength", "By success", "By judge"):
        assert f"\n## {heading}\n" in report
    by_judge = report[report.index("## By judge") :]
    assert "| rule | oracle | 10% flipped | 30% flipped | judge rules |" in by_judge
    assert "| `cw-grpo` | " in by_judge[: by_judge.index("## Cost")]
    audits = json.loads((tmp_path / "atlas.json").read_text())["families"]["decoys"]["audits"]
    assert list(audits) == ["early", "middle", "late", "judge rules"]
    values = [audits[label]["rules"][0]["scores"]["slope"]["mean"] for label in ("early", "middle", "late")]
    assert values == pytest.approx([1.0] * 3)  # A of each policy is that policy's own
    assert len({json.dumps(audits[label]["rules"][2]) for label in ("early", "middle", "late")}) == 3
    for plot in ("fidelity.svg", "gradient.svg"):
        assert (tmp_path / plot).read_text().startswith("<?xml")
    monkeypatch.setattr("searchgym.trainers.credit_audit.atlas.audit_credit", None)
    assert cli(*command, "--family", "decoys")[0] == 0
    assert (tmp_path / "atlas.md").read_text() == report
    status, _, errors = cli(*command, "--seed", "1")
    assert status != 0
    assert "other settings" in errors
    status, _, errors = cli(*command, "--iterations", "3")
    assert status == 2
    assert "give an even number" in errors


def test_states_are_enumerated_once_for_trainers_that_play_episodes_of_their_own() -> None:
    """The figures are those of an audit of that trainer alone; a registered trainer without credit is named."""
    counted: dict[str, Any] = {}
    config = make_vec("SearchQA-Forks-v0", 1, **FORKS, max_rounds=5).config
    settings = AuditSettings(questions=2, group_size=4)
    for label, names in (("both", ("grpo", "tree-grpo")), ("alone", ("tree-grpo",))):
        policy = CandidateAgent(start="lookup", memory=False)
        trainers, _ = open_trainers(names, {}, 6, config)
        counted[label] = audit_credit(policy, config, trainers, settings).trainers[-1]
    assert counted["both"].sampled.counts["environment steps"] == 0
    assert counted["both"].scores == counted["alone"].scores
    assert counted["both"].gradient == counted["alone"].gradient
    assert {"sft", "skillrl", "structrag"} <= open_trainers((), {}, 4, config)[1].keys()


def test_flips_that_do_not_reach_a_rule_are_no_noise_score() -> None:
    """SLATE asks its judge while it plays; WebSTAR reads the verdicts of its episodes."""
    config = make_vec("SearchQA-Forks-v0", 1, **FORKS, judge="oracle", max_rounds=4).config
    trainers, _ = open_trainers(("slate", "webstar"), {}, 4, config)
    settings = AuditSettings(**{**vars(ROUGH), "questions": 2, "judge_noise": (1.0,)})
    rules = {rule.label: rule for rule in audit_credit(lookup(), config, trainers, settings).trainers}
    assert not rules["slate"].noise
    assert rules["webstar"].noise[0].scores["pearson"] < rules["webstar"].scores["pearson"].value


def test_graphs_that_are_not_requested_make_room_for_others() -> None:
    envs = make_vec("SearchQA-Forks-v0", 16, **FORKS, max_rounds=4, autoreset_mode="Disabled")
    policy = CandidateAgent(start="lookup", memory=False)
    policy.bind(agent_context_of(envs.config))
    first, second = envs.task_ids()[:2]
    sizes = {}
    for task in (first, second):
        exact = ExactValues(policy, envs)
        exact.solve([task])
        sizes[task] = exact.states
    tight = StateGraphs(envs, max(sizes.values()), keep=True)
    exact = ExactValues(policy, envs, graphs=tight)
    for task in (first, second, first):
        exact.solve([task])
        assert (exact.states, exact.transitions > 0) == (sizes[task], True)
    with pytest.raises(ConfigError, match=f"max_states is {max(sizes.values())}"):
        exact.solve([first, second])
