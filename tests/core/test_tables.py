"""Episodes as tables, causes of failure, and exports: on episodes that are made by hand, one of each kind."""

from __future__ import annotations

import csv
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine
from toys import SEARCH, Probe

import searchgym
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError, EpisodeFileError, UnknownIdError
from searchgym.records.episode import Episode, Segment, load_episodes, save_episodes
from searchgym.rollouts.collection import collect, open_agent, open_envs
from searchgym.tables import CAUSES, Episodes, cause_of, export_episodes, failure_statistics
from searchgym.tables.columns import COLUMNS
from searchgym.tables.exporting import FORMATS, ExportOptions
from searchgym.tables.training_rows import TRL_TYPES, conversation, trl_rows, verifiers_row

SECOND = "<search>Corvin Mills</search>"
BAD = "no act at all"
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "right": ("", [SEARCH, SECOND, "<answer>Tarn</answer>"], {}),
    "right without search": ("", ["<answer>the town of Tarn</answer>"], {}),
    "all found, another answer": ("gold_not_used", [SEARCH, SECOND, "<answer>Ostby</answer>"], {}),
    "the answer of hop one": ("wrong_hop", [SEARCH, SECOND, "<answer>Corvin Mills</answer>"], {}),
    "hop two not found": ("wrong_hop", [SEARCH, "<answer>Ostby</answer>"], {"top_k": 1}),
    "nothing found": ("no_gold_retrieved", ["<search>Trap</search>", "<answer>Velm</answer>"], {"top_k": 1}),
    "no search": ("no_gold_retrieved", ["<answer>Velm</answer>"], {}),
    "searches only": ("budget", [SEARCH, SECOND], {"max_rounds": 2}),
    "one bad act of three, not the last": ("budget", [BAD, SEARCH, SECOND], {"max_rounds": 3}),
    "characters": ("budget", [SEARCH], {"max_chars": 40}),
    "the last act is bad": ("malformed_act", [SEARCH, SECOND, BAD], {"max_rounds": 3}),
    "half of the acts are bad": ("malformed_act", [BAD, SEARCH], {"max_rounds": 2}),
    "bad acts, then a wrong answer": ("wrong_hop", [BAD, SEARCH, "<answer>Ostby</answer>"], {"top_k": 1}),
}


class Script:
    """An agent that sends given messages."""

    def __init__(self, messages: list[str]) -> None:
        self._messages = messages

    def __call__(self, observation: str, info: dict[str, Any]) -> str:
        return self._messages[info.get("round", 0)]


def play(toy: str, messages: list[str], name: str = "a", **arguments: Any) -> Episode:
    envs = open_envs("SearchQA-v0", open_agent(Script(messages)), 1, corpus=toy, **arguments)
    (episode,) = collect(envs, open_agent(Script(messages)), ["employer-town"], ids=random.Random(name))
    return replace(episode, agent="script")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Episode]:
    from toys import write_toy

    toy = write_toy(tmp_path_factory.mktemp("toy"))
    return {name: play(toy, messages, name, **arguments) for name, (_, messages, arguments) in CASES.items()}


# -- causes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_each_episode_has_the_cause_of_its_failure(name: str, cases: dict[str, Episode]) -> None:
    assert cause_of(cases[name]) == CASES[name][0]


def test_an_infrastructure_failure_is_no_wrong_answer(toy: str) -> None:
    env = SearchEnv(corpus=toy)
    retriever = Probe(env.config.retriever, down=True)
    (failed,) = searchgym.rollout(SearchEnv(corpus=toy, retriever=retriever), Script([SEARCH]), 1)
    assert cause_of(failed) == "infrastructure"
    judged = play(toy, [SEARCH, SECOND, "<answer>Tarn</answer>"])
    judged.valid_for_training = False  # a judge that the reward needs failed
    assert cause_of(judged) == "infrastructure"
    counted = failure_statistics([failed, judged])
    assert (counted.scored, counted.em, counted.causes["infrastructure"].episodes) == (0, None, 2)
    assert counted.causes["budget"].share is None


def test_without_gold_passages_a_passage_with_the_answer_counts(cases: dict[str, Episode]) -> None:
    unknown = {"answers": ["Tarn"], "supporting_ids": [], "chain": []}
    expected = {
        "all found, another answer": "gold_not_used",
        "hop two not found": "no_gold_retrieved",
        "no search": "no_gold_retrieved",
        "the answer of hop one": "gold_not_used",
    }
    found = {name: cause_of(replace(cases[name], gold=unknown)) for name in expected}
    assert found == expected


def test_every_cause_is_tried_and_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text("utf-8")
    assert {cause for cause, _, _ in CASES.values()} == {*CAUSES, ""} - {"infrastructure"}
    assert all(f"| `{cause}` | {text} |" in page for cause, text in CAUSES.items())


# -- statistics ----------------------------------------------------------------------------------------------


def test_shares_are_of_the_scored_episodes_and_intervals_are_over_questions(
    cases: dict[str, Episode],
) -> None:
    right, wrong, lost = cases["right"], cases["no search"], replace(cases["right"], valid_for_training=False)
    played = [replace(e, task_id=f"q{i}") for i, e in enumerate([right, right, wrong, wrong, lost])]
    stats = failure_statistics(played)
    assert (stats.episodes, stats.questions, stats.scored, stats.successes) == (5, 5, 4, 2)
    share = stats.causes["no_gold_retrieved"].share
    assert stats.em is not None
    assert share is not None
    assert (stats.em.value, share.value) == (0.5, 0.5)
    assert (share.low, share.high) == (0.0, 1.0)
    assert stats.causes["infrastructure"].share.value == pytest.approx(0.2)  # type: ignore[union-attr]
    # Ten copies of each question say no more about other questions.
    copies = failure_statistics(played * 10)
    assert copies.causes["no_gold_retrieved"].share == share
    # The shares weigh episodes, the intervals questions: one question with three wrong episodes, one with a right one.
    uneven = failure_statistics([replace(wrong, task_id="a")] * 3 + [replace(right, task_id="b")])
    assert uneven.causes["no_gold_retrieved"].share.value == 0.75  # type: ignore[union-attr]


def test_examples_are_of_different_questions(cases: dict[str, Episode]) -> None:
    wrong = cases["no search"]
    played = [replace(wrong, task_id=f"q{i // 2}", episode_id=f"e{i}") for i in range(6)]
    assert failure_statistics(played, 2).causes["no_gold_retrieved"].examples == ["e0", "e2"]
    assert failure_statistics(played, 0).causes["no_gold_retrieved"].examples == []


def test_the_command_stats_prints_causes(cases: dict[str, Episode], cli: CommandLine, tmp_path: Path) -> None:
    save_episodes(tmp_path / "a.jsonl", cases.values())
    status, out, _ = cli("stats", str(tmp_path / "a.jsonl"))
    assert status == 0
    assert "13 episodes of 1 questions; 13 scored, 2 with an exact match" in out
    data = json.loads(cli("stats", "--json", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")).out)
    assert {cause: data["causes"][cause]["episodes"] for cause in CAUSES} == {
        "infrastructure": 0, "malformed_act": 4, "budget": 6, "no_gold_retrieved": 4, "wrong_hop": 6, "gold_not_used": 2,
    }  # fmt: skip
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.warns(UserWarning, match="is empty"):
        status, _, err = cli("stats", str(tmp_path / "empty.jsonl"))
    assert (status, "no episode" in err) == (2, True)


# -- the table -----------------------------------------------------------------------------------------------


def test_rows_and_columns_of_both_levels(cases: dict[str, Episode], tmp_path: Path) -> None:
    save_episodes(tmp_path / "a.jsonl", cases.values())
    for table in (Episodes(tmp_path / "a.jsonl"), Episodes(list(cases.values()))):
        assert len(table) == len(list(table)) == 13
        assert table["cause"] == [cause for cause, _, _ in CASES.values()]
        assert table.column("kind", "rounds")[:3] == ["search", "search", "answer"]
        assert table.column("new_gold_ids", "rounds")[:3] == [["p0"], ["p2"], []]
        assert table.columns() == list(next(table.rows()))
        records = [Episode.from_json(json.loads(record)) for record in table["record"]]
        assert records == list(cases.values())
    both = Episodes([tmp_path / "a.jsonl", cases["right"]])
    assert len(both) == 14
    with pytest.raises(UnknownIdError, match="Did you mean 'em'"):
        both["emm"]
    with pytest.raises(UnknownIdError, match="unknown level 'round'"):
        both.to_pandas("round")
    with pytest.raises(ConfigError, match="source holds 3"):
        Episodes([3])  # type: ignore[list-item]


def test_a_record_without_what_is_read_names_its_episode(cases: dict[str, Episode]) -> None:
    broken = replace(
        cases["the answer of hop one"], gold={"answers": ["Tarn"], "chain": [{}, {}]}, episode_id="odd"
    )
    for read in (lambda: failure_statistics([broken]), lambda: list(Episodes([broken]).rows())):
        with pytest.raises(EpisodeFileError, match="episode 'odd' lacks"):
            read()
    with pytest.raises(EpisodeFileError, match="no dialect"):
        conversation(replace(broken, env={}), "texts")


def test_data_frames_and_data_sets_have_the_types_of_their_columns(cases: dict[str, Episode]) -> None:
    pytest.importorskip("datasets", reason="the extra export is not installed")
    odd = replace(cases["no search"], question="\ud800 naïve", fork_round=2)
    table = Episodes([cases["right"], odd])
    frame, data = table.to_pandas(), table.to_dataset()
    assert list(frame.columns) == data.column_names == table.columns()
    assert frame["fork_round"].tolist()[1] == data["fork_round"][1] == 2
    assert str(frame["fork_round"].dtype) == "Int64"
    assert data["question"][1] == "\ufffd naïve"
    assert Episode.from_json(json.loads(data["record"][1])) == odd
    assert {data.features[n].dtype for n, kind in COLUMNS["episodes"].items() if kind == "float"} == {
        "float64"
    }
    assert table.to_dataset("rounds").num_rows == len(table.to_pandas("rounds")) == 4


# -- exports -------------------------------------------------------------------------------------------------


def test_csv_holds_every_column_but_the_record(cases: dict[str, Episode], tmp_path: Path) -> None:
    odd = replace(cases["no search"], question='a "quoted",\r\nline\ud800')
    done = export_episodes(Episodes([cases["right"], odd]), tmp_path / "a.csv", "csv")
    assert (done.rows, done.episodes, done.left_out) == (2, 2, 0)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == [name for name in COLUMNS["episodes"] if name != "record"]
    assert rows[1]["question"] == 'a "quoted",\r\nline\ufffd'
    assert json.loads(rows[0]["gold_answers"]) == ["Tarn", "the town of Tarn"]
    assert (rows[0]["em"], rows[0]["fork_round"]) == ("1.0", "")


def test_parquet_and_the_hub_directory_read_back_equal(cases: dict[str, Episode], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra export is not installed")
    cache = str(tmp_path / "cache")
    played = [*cases.values(), replace(cases["right"], split="my-split")]
    export_episodes(Episodes(played), tmp_path / "a.parquet", "parquet", ExportOptions(level="rounds"))
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=cache
    )
    assert read.to_list() == list(Episodes(played).rows("rounds"))
    export_episodes(Episodes(played), tmp_path / "hf", "hf")
    read = datasets.load_dataset(str(tmp_path / "hf"), cache_dir=cache)
    assert {split: rows.num_rows for split, rows in read.items()} == {"train": 13, "my_split": 1}
    assert [Episode.from_json(json.loads(record)) for record in read["train"]["record"]] == played[:-1]
    rounds = datasets.load_dataset(str(tmp_path / "hf"), "rounds", split="train", cache_dir=cache)
    assert rounds.num_rows == sum(len(e.rounds) for e in played[:-1])


def test_trl_rows_learn_from_acts_alone(cases: dict[str, Episode]) -> None:
    episode = cases["bad acts, then a wrong answer"]
    (whole,) = trl_rows([episode], "language-modeling", "texts")
    roles = [message["role"] for message in whole["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
    assert "searching texts" in whole["messages"][0]["content"]
    assert [m["content"] for m in whole["messages"][2::2]] == [r.text for r in episode.rounds]
    assert whole["messages"][3]["content"] == episode.rounds[0].observation
    pairs = list(trl_rows([episode], "prompt-completion", "texts"))
    assert [row["completion"][0]["content"] for row in pairs] == [r.text for r in episode.rounds[1:]]
    assert [len(row["prompt"]) for row in pairs] == [4, 6]
    labelled = list(trl_rows([episode, cases["right"]], "unpaired-preference", "texts"))
    assert [row["label"] for row in labelled] == [False] * 3 + [True] * 3
    (asked,) = trl_rows([episode, cases["right"]], "prompt-only", "texts")
    assert (len(asked["prompt"]), asked["task_id"], asked["answers"][0]) == (2, "employer-town", "Tarn")


def test_verifiers_traces_hold_the_sampled_tokens(cases: dict[str, Episode]) -> None:
    episode = cases["right"]
    episode.segments = [
        Segment(
            [1, 2, 3, 4, 5, 6, 7, 8],
            [0, 0, 1, 0, 0, 1, 0, 1],
            [0, 0, -0.5, 0, 0, -0.25, 0, -1],
            [0, 0, 0, 0, 1, 1, 2, 2],
        )
    ]
    row = verifiers_row(episode, "texts")
    (trace,) = row["traces"]
    assert [node["parent"] for node in trace["nodes"]] == [None, 0, 1, 2, 3, 4, 5]
    assert [node.get("token_ids") for node in trace["nodes"]] == [None, [1, 2], [3, 4], [5], [6], [7], [8]]
    assert [node.get("logprobs") for node in trace["nodes"]][2:4] == [[-0.5], []]
    assert [call["usage"]["prompt_tokens"] for call in trace["calls"]] == [3, 5, 7]
    assert (trace["rewards"]["reward"]["score"], trace["ok"]) == (1.0, True)
    lost = verifiers_row(replace(episode, valid_for_training=False, segments=[]), "texts")
    assert (lost["ok"], lost["traces"][0]["rewards"]) == (False, {"reward": None})
    assert "token_ids" not in lost["traces"][0]["nodes"][2]


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_is_whole_or_absent_and_replaces_only_by_force(
    to: str, cases: dict[str, Episode], cli: CommandLine, tmp_path: Path
) -> None:
    if to in ("parquet", "hf"):
        pytest.importorskip("pyarrow", reason="the extra export is not installed")
    source, cut, out = tmp_path / "a.jsonl", tmp_path / "cut.jsonl", tmp_path / "out"
    save_episodes(source, [cases["right"], cases["no search"]])
    cut.write_bytes(source.read_bytes()[:-100])
    command = ["export", "--to", to, "--out", str(out)]
    assert cli(*command, str(cut)).status == 2
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "cut.jsonl"]
    status, printed, _ = cli(*command, str(source))
    assert (status, "from 2 episodes (0 left out)" in printed) == (0, True)
    before = _contents(out)
    status, _, err = cli(*command, str(source))
    assert (status, "exists: choose another path" in err) == (2, True)
    assert cli(*command, "--force", str(cut)).status == 2
    assert _contents(out) == before
    assert cli(*command, "--force", "--successes", str(source)).status == 0
    assert _contents(out) != before
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "cut.jsonl", "out"]


def _contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


def test_what_is_never_replaced(cases: dict[str, Episode], tmp_path: Path) -> None:
    source, own = tmp_path / "a.jsonl", tmp_path / "own"
    save_episodes(source, [cases["right"]])
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    force = ExportOptions(force=True)
    with pytest.raises(ConfigError, match="not the directory of an earlier export"):
        export_episodes(Episodes(source), own, "verifiers", force)
    with pytest.raises(ConfigError, match="is the file that is read"):
        export_episodes(Episodes(source), source, "trl", force)
    with pytest.raises(EpisodeFileError, match="it is a directory"):
        export_episodes(Episodes(source), own, "csv", force)
    assert list(load_episodes(source)) == [cases["right"]]
    assert os.listdir(own) == ["thesis.txt"]


def test_what_cannot_be_exported_is_refused_before_anything_is_read(
    cases: dict[str, Episode], tmp_path: Path
) -> None:
    reads: list[int] = []

    class Watched(Episodes):
        def __iter__(self) -> Any:
            reads.append(1)
            return super().__iter__()

    table = Watched([cases["no search"]])
    for to, options, message in (
        ("json", ExportOptions(), "unknown export format 'json'"),
        ("csv", ExportOptions(level="round"), "Did you mean 'rounds'"),
        ("trl", ExportOptions(trl_type="sft"), "unknown TRL data set type 'sft'"),
    ):
        with pytest.raises(UnknownIdError, match=message):
            export_episodes(table, tmp_path / "x", to, options)
    assert not reads
    with pytest.raises(ConfigError, match="none of 1 episodes is left"):
        export_episodes(table, tmp_path / "x", "trl", ExportOptions(successes=True))
    lost = Episodes([replace(cases["right"], valid_for_training=False)])
    with pytest.raises(ConfigError, match="1 were left out"):
        export_episodes(lost, tmp_path / "x", "trl")
    assert os.listdir(tmp_path) == []


def test_the_formats_and_types_are_on_the_page(request: pytest.FixtureRequest) -> None:
    page = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text("utf-8")
    named: Callable[[str], bool] = lambda name: f"`{name}`" in page  # noqa: E731
    assert all(map(named, [*FORMATS, *TRL_TYPES]))
    assert all(named(column) for level in COLUMNS.values() for column in level)
