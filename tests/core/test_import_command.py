"""`searchgym import`: the files of other projects become episode files that every other command reads, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import searchgym
from searchgym.importing import import_rollouts, report
from searchgym.records.episode import Episode
from searchgym.tables import Episodes, export_episodes
from searchgym.tables.exporting import ExportOptions


@pytest.fixture(scope="module")
def played(small_world: dict[str, Any]) -> list[Episode]:
    """Episodes of two agents, one of which is right."""
    where: dict[str, Any] = {"corpus": small_world, "split": "dev"}
    return [
        *searchgym.rollout("SearchQA-v0", "oracle", 4, **where),
        *searchgym.rollout("SearchQA-v0", "copy", 4, **where),
    ]


@pytest.fixture
def exported(played: list[Episode], tmp_path: Path) -> Path:
    searchgym.save_episodes(tmp_path / "ours.jsonl", played)
    source = Episodes(tmp_path / "ours.jsonl")
    export_episodes(source, tmp_path / "verifiers", "verifiers")
    export_episodes(source, tmp_path / "verl.jsonl", "verl")
    return tmp_path


def acts(episode: Episode) -> list[tuple[str, tuple[str, ...]]]:
    return [(record.action.kind, tuple(record.action.queries)) for record in episode.rounds]


@pytest.mark.parametrize("name", ["verifiers/traces.jsonl", "verl.jsonl"])
def test_what_is_exported_comes_back(
    name: str, exported: Path, played: list[Episode], small_world: dict[str, Any]
) -> None:
    imported = import_rollouts(exported / name, searchgym.open_corpus(small_world))
    assert imported.reasons == {}
    for ours, theirs in zip(played, imported.episodes, strict=True):
        assert acts(theirs) == acts(ours)
        assert (theirs.task_id, theirs.question) == (ours.task_id, ours.question)
        assert [h.id for r in theirs.rounds for h in r.hits if h.id in ours.gold["supporting_ids"]] == [
            h.id for r in ours.rounds for h in r.hits if h.id in ours.gold["supporting_ids"]
        ]
        for metric in ("answer", "em", "f1", "sub_em", "recall", "searches"):
            assert getattr(theirs.outcome, metric) == getattr(ours.outcome, metric), metric


def test_an_imported_file_is_judged_audited_and_shown(
    cli: Any, exported: Path, small_world: dict[str, Any]
) -> None:
    world, out = json.dumps(small_world), str(exported / "imported.jsonl")
    status, printed, said = cli("import", str(exported / "verl.jsonl"), "--out", out, "--corpus", world)
    assert status == 0, said
    assert "wrote 8 episodes" in printed + said
    assert cli("rescore", out).status == 0
    audit = cli("judge", "audit", "--from", out, "--judge", "rules", "--corpus", world, "--json")
    assert audit.status == 0, audit.err
    result = json.loads(audit.out)
    assert (result["failed_episodes"], result["errors"]) == (0, 0)
    assert result["compared"] == result["rounds"] > 8
    causes = json.loads(cli("stats", "--json", out).out)["causes"]
    assert causes["infrastructure"]["episodes"] == 0  # they have no tokens, and are no failures for that
    again = exported / "again.jsonl"
    assert cli("export", out, "--to", "verl", "--out", str(again)).status == 0
    assert [json.loads(line)["output"] for line in again.read_text().splitlines()] == [
        json.loads(line)["output"] for line in (exported / "verl.jsonl").read_text().splitlines()
    ]
    done = export_episodes(Episodes(out), exported / "sft.jsonl", "trl", ExportOptions())
    assert (done.rows, done.left_out) == (8, 0)


def test_rows_that_are_not_used_are_counted_and_nothing_is_written_for_none(cli: Any, tmp_path: Path) -> None:
    path, out = tmp_path / "dump.jsonl", tmp_path / "out.jsonl"
    good = {"input": "user\nWho?\nassistant\n", "output": "<answer>Ann</answer>", "gts": "Ann", "score": 1.0}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "gts": None}) + "\n")
    status, printed, _ = cli("import", str(path), "--out", str(out), "--json")
    assert status == 0
    counts = json.loads(printed.splitlines()[0])
    assert (counts["episodes"], counts["skipped"], counts["sources"][0]["em_agree"]) == (1, 1, 1)
    path.write_text(json.dumps({**good, "gts": None}) + "\n")
    out.unlink()
    status, printed, said = cli("import", str(path), "--out", str(out))
    assert status != 0
    assert "no gold answer is recorded" in printed
    assert "no row of" in said
    assert not out.exists()


def test_a_missing_score_of_skyrl_is_no_disagreement(tmp_path: Path) -> None:
    row = '{"input_prompt": "Q", "output_response": "<answer>x</answer>", "score": %s, "env_extras": {"reward_spec": {"ground_truth": ["x"]}}}'
    file = tmp_path / "dump.jsonl"
    file.write_text("\n".join(row % score for score in ("NaN", "null", "[0.0, 1.0]", "0.0")) + "\n", "utf-8")
    (source,) = report(import_rollouts(file))
    assert (source.em_agree, source.em_agree_of) == (1, 2)
