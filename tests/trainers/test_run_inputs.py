"""A run is continued with the corpus, index, questions, tokenizer and files it was started with, or not at all."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searchgym.errors import CheckpointError, ConfigError, RunDirectoryError
from searchgym.files import json_digest
from searchgym.trainers.runs.inputs import INPUTS, check_allowed, check_inputs, describe_inputs
from searchgym.trainers.training import resume, train
from searchgym.trainers.training.loading import load_run

pytestmark = pytest.mark.usefixtures("no_curve")

Lines = list[dict[str, Any]]


def write(folder: Path, passages: Lines, questions: Lines) -> None:
    folder.mkdir(exist_ok=True)
    for name, rows in (("passages", passages), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def towns(count: int = 6) -> Lines:
    return [
        {"id": f"p{i}", "title": f"Town {i}", "text": f"Town {i} has the mayor Smith {i}."}
        for i in range(count)
    ]


def asked(count: int = 6, split: str = "train") -> Lines:
    return [
        {
            "id": f"{split}{i}",
            "question": f"Who is mayor of Town {i}?",
            "answers": [f"Smith {i}"],
            "split": split,
        }
        for i in range(count)
    ]


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "agent": "candidate",
        "env_options": {"corpus": str(folder)},
        "questions": 2,
        "iterations": 1,
        "eval_episodes": 2,
        "checkpoint_every": 1,
        "settings": {"group_size": 2, "skip_equal": False},
        **changes,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "c", towns(), [*asked(), *asked(3, "dev")])
    train(config(tmp_path / "c"), tmp_path / "run")
    return tmp_path / "run"


def state_of(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"
    }


def another_text(rows: Lines, questions: Lines) -> None:
    rows[2]["text"] = "Town 2 has the mayor Jones."


def another_title(rows: Lines, questions: Lines) -> None:
    rows[2]["title"] = "City 2"


def another_id(rows: Lines, questions: Lines) -> None:
    rows[5]["id"] = "p9"


def more_passages(rows: Lines, questions: Lines) -> None:
    rows.append({"id": "p7", "title": "Town 7", "text": "Town 7 has no mayor."})


def another_answer(rows: Lines, questions: Lines) -> None:
    questions[0]["answers"] = ["Jones"]


def another_question(rows: Lines, questions: Lines) -> None:
    questions[1]["question"] += " Tell me."


def fewer_questions(rows: Lines, questions: Lines) -> None:
    del questions[3]


def another_order(rows: Lines, questions: Lines) -> None:
    questions[0], questions[1] = questions[1], questions[0]


def another_dev_answer(rows: Lines, questions: Lines) -> None:
    questions[-1]["answers"] = ["Jones"]


def another_dev_split(rows: Lines, questions: Lines) -> None:
    questions[-1]["split"] = "test"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (another_text, {"corpus", "index"}),
        (another_title, {"corpus", "index"}),
        (another_id, {"corpus", "index"}),
        (more_passages, {"corpus", "index"}),
        (another_answer, {"questions"}),
        (another_question, {"questions"}),
        (fewer_questions, {"questions"}),
        (another_order, {"questions"}),
        (another_dev_answer, {"eval_questions"}),
        (another_dev_split, {"eval_questions"}),
    ],
)
def test_what_changed_is_refused_named_and_can_be_allowed(
    run: Path, change: Callable[[Lines, Lines], None], named: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = state_of(run)
    passages, questions = towns(), [*asked(), *asked(3, "dev")]
    change(passages, questions)
    write(run.parent / "c", passages, questions)
    with pytest.raises(RunDirectoryError) as refused:
        resume(run, iterations=2)
    text = str(refused.value)
    flag = text.partition("--allow-changed ")[2].partition(" ")[0]
    assert set(flag.split(",")) == named
    assert state_of(run) == before, "a refused run is as it was"
    with pytest.raises(RunDirectoryError, match="other inputs"):
        resume(
            run, iterations=2, allow_changed=[name for name in INPUTS if name not in {*named, "tokenizer"}]
        )
    with caplog.at_level(logging.WARNING):
        assert len(resume(run, iterations=2, allow_changed=flag.split(",")).metrics) == 3
    assert "as you allowed" in caplog.text
    resume(run, iterations=3)  # from now on these are its inputs


def test_another_index_of_the_same_corpus(run: Path) -> None:
    """The configuration names the retriever, so it takes another environment to get there."""
    stored = json.loads((run / "config.json").read_text())
    stored["config"]["env_options"]["retriever"] = {"name": "bm25", "k1": 1.3}
    del stored["digest"]
    (run / "config.json").write_text(json.dumps(stored))
    with pytest.raises(RunDirectoryError, match=r"inputs: index .*--allow-changed index "):
        resume(run, iterations=2)


def test_a_run_of_an_earlier_version_is_continued_with_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = json.loads((run / "config.json").read_text())
    del stored["inputs"], stored["digest"]
    (run / "config.json").write_text(json.dumps(stored))
    with caplog.at_level(logging.WARNING):
        resume(run, iterations=2)
    assert "kept no digests of its inputs" in caplog.text
    assert set(json.loads((run / "config.json").read_text())["inputs"]) >= {"corpus", "index", "questions"}


def test_a_run_without_evaluation_does_not_look_at_evaluation_questions(tmp_path: Path) -> None:
    write(tmp_path / "c", towns(), [*asked(), *asked(3, "dev")])
    train(config(tmp_path / "c", eval_episodes=0), tmp_path / "run")
    write(tmp_path / "c", towns(), asked())
    assert len(resume(tmp_path / "run", iterations=2).metrics) == 3


@pytest.mark.parametrize("allowed", ["all", ["all"], ["corpus", "index"]])
def test_all_stands_for_every_input(run: Path, allowed: Any) -> None:
    write(run.parent / "c", towns(7), [*asked(), *asked(3, "dev")])
    resume(run, iterations=2, allow_changed=allowed)


@pytest.mark.parametrize("name", ["tokenizer", "corpora", "", 3])
def test_what_cannot_be_allowed(run: Path, name: Any) -> None:
    with pytest.raises(ConfigError, match="allow_changed names"):
        resume(run, allow_changed=[name])


def test_the_flag(run: Path, cli: Any) -> None:
    write(run.parent / "c", towns(7), [*asked(), *asked(3, "dev")])
    command = ["train", "--resume", "--run-dir", str(run), "--iterations", "2"]
    refused = cli(*command)
    assert refused.status == 2
    assert "--allow-changed corpus,index" in refused.err
    assert cli(*command, "--allow-changed", "corpus").status == 2
    assert cli(*command, "--allow-changed", "corpus, index").status == 0


def test_files_of_the_agent_and_of_the_trainer() -> None:
    check_inputs(Path("run"), {"corpus": "a"}, {"corpus": "a"})
    for name in ("agent_files", "trainer_files"):
        with pytest.raises(RunDirectoryError, match=f"--allow-changed {name}"):
            check_inputs(Path("run"), {"corpus": "a", name: "b"}, {"corpus": "a", name: "c"})
        check_inputs(Path("run"), {"corpus": "a", name: "b"}, {"corpus": "a"}, check_allowed([name]))
    with pytest.raises(RunDirectoryError, match=r"start a new run$"):
        check_inputs(Path("run"), {"tokenizer": "b"}, {"tokenizer": "c"}, check_allowed(["all"]))
    with pytest.raises(RunDirectoryError, match="damaged"):
        check_inputs(Path("run"), ["corpus"], {"corpus": "a"})


def test_a_directory_that_a_run_writes_to_is_no_input(run: Path, tmp_path: Path) -> None:
    opened = load_run(run)
    folder = tmp_path / "shared"
    folder.mkdir()
    options = {"engine": "vllm", "engine_options": {"sync_dir": str(folder)}}
    settings = dataclasses.replace(opened.config, agent_options=options)
    before = describe_inputs(settings, opened.envs.config, {})
    (folder / "adapter").write_bytes(b"of iteration 3")
    assert describe_inputs(settings, opened.envs.config, {}) == before
    assert "agent_files" not in before


def test_a_changed_warm_start_and_a_changed_tokenizer(tmp_path: Path, toy: str) -> None:
    tiny = pytest.importorskip("searchgym.agents.tiny")
    tiny.TinyAgent().save(tmp_path / "start")
    options = {"checkpoint": str(tmp_path / "start")}
    train(
        config(Path(toy), agent="tiny", agent_options=options, iterations=0, eval_episodes=0),
        tmp_path / "run",
    )
    tokenizer = tmp_path / "start" / "tokenizer.json"
    whole, table = tokenizer.read_text(), json.loads(tokenizer.read_text())
    notes = tmp_path / "start" / "notes.txt"
    notes.write_text("another file next to the weights")
    with pytest.raises(RunDirectoryError, match=r"agent_files .*--allow-changed agent_files"):
        resume(tmp_path / "run")
    notes.unlink()
    words = max((texts for _, texts in table["vocabulary"]), key=len)
    words[-1], words[-2] = words[-2], words[-1]
    tokenizer.write_text(json.dumps(table))
    with pytest.raises((RunDirectoryError, CheckpointError), match="tokenizer"):
        resume(tmp_path / "run", allow_changed="all")
    tokenizer.write_text(whole)
    resume(tmp_path / "run")


def test_the_digest_does_not_depend_on_the_layout() -> None:
    assert json_digest({"a": 1, "b": [1.0]}) == json_digest({"b": (1.0,), "a": 1}) != json_digest({"a": 2})


def test_a_run_is_not_evaluated_on_changed_data_as_if_it_were_the_same(run: Path) -> None:
    folder = Path(json.loads((run / "config.json").read_text())["config"]["env_options"]["corpus"])
    before = load_run(run).evaluate()
    write(folder, towns(), asked(9) + asked(3, "dev"))  # the training questions are not evaluated on
    assert load_run(run).evaluate().metrics["em"] == before.metrics["em"]
    write(folder, towns(7), asked() + asked(3, "dev"))
    with pytest.raises(RunDirectoryError, match="the passages of the corpus"):
        load_run(run)
    assert load_run(run, env_options={"corpus": str(folder)}).evaluate().episodes
