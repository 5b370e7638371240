"""Episode files: exact round trips, atomic writes, errors that name the line, outcomes that can be recomputed."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import MESSAGES, RIGHT, SEARCH

from searchgym.agent import FunctionAgent
from searchgym.cli.rescore import rescore as rescore_command
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import EpisodeFileError, UnknownIdError
from searchgym.records.episode import (
    Episode,
    Segment,
    StopReason,
    check_writable,
    load_episodes,
    save_episodes,
)
from searchgym.rollouts.collection import collect, rollout
from searchgym.rollouts.rescoring import rescore


@pytest.fixture
def episodes(toy: str) -> list[Episode]:
    """Three episodes, one of them with odd characters and tokens."""
    played = rollout("SearchQA-v0", lambda o, i: SEARCH if "task_id" in i else RIGHT, 3, corpus=toy)
    played[1].rounds[0].text = "\ud800 naïve 北京 \u2028 \x00"
    played[1].segments = [Segment([1, 2], [0, 1], [0.0, -0.25], [0, 0])]
    return played


def test_round_trip_through_a_file(episodes: list[Episode], tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "episodes.jsonl"
    save_episodes(path, episodes)
    assert list(load_episodes(path)) == episodes
    assert path.read_bytes().count(b"\n") == 3
    assert os.listdir(path.parent) == ["episodes.jsonl"]
    (first, *_) = load_episodes(path)
    assert first.outcome.stop_reason is StopReason.ANSWERED
    assert first.schema == 2


def test_a_saved_file_has_the_permissions_of_any_new_file(episodes: list[Episode], tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    save_episodes(tmp_path / "saved", episodes)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "saved")}
    assert len(modes) == 1


def test_a_failure_midway_leaves_the_old_file(episodes: list[Episode], tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    save_episodes(path, episodes[:1])
    before = path.read_bytes()

    def breaks(error: BaseException) -> Iterator[Episode]:
        yield episodes[1]
        raise error

    for error in (KeyboardInterrupt(), RuntimeError("engine died")):
        with pytest.raises(type(error)):
            save_episodes(path, breaks(error))
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["episodes.jsonl"]
    save_episodes(path, load_episodes(path))  # may be read from where it is written to
    assert path.read_bytes() == before


def test_files_of_schema_1_still_load(tmp_path: Path) -> None:
    """The file was written by version 0.1.0; see the docs for what has changed."""
    path = Path(__file__).parents[1] / "fixtures" / "episodes-schema-1.jsonl"
    old = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert [data["schema"] for data in old] == [1, 1]
    answered, cut = load_episodes(path)
    search, invalid, feedback, answer = answered.rounds
    assert [len(hits) for hits in search.results] == [2, 2, 0]
    assert search.action.queries == ("Anna Reed born", "Corvin Mills", "zzz")
    assert (search.judge.status, search.judge.utility, search.retrieval.backend) == ("ok", 1.0, "bm25")
    assert (search.reward_terms, search.policy_version) == ({"em": 0.0, "new_recall": 0.5}, 7)
    assert (invalid.action.error, feedback.feedback.level, feedback.feedback.calls_left) == (
        "no_act",
        "hop",
        1,
    )
    assert (answer.action.answer, answered.outcome.em, answered.reward) == ("Tarn", 1.0, 1.5)
    assert answered.segments[0].tokens == [1, 2, 3, 4] * 4
    assert [record.round for record in answered.rounds + cut.rounds] == [1, 2, 3, 4, 1, 1]
    assert (cut.rounds[0].results, cut.rounds[1].action.kind, cut.rounds[1].text) == ([[]], "none", "cut o")
    for episode, data in zip((answered, cut), old, strict=True):
        assert rescore(episode) == episode.outcome
        for record, before in zip(episode.rounds, data["rounds"], strict=True):
            info = record.to_info()
            same = ("action", "hits", "retrieval", "judge", "feedback", "reward_terms")
            assert {name: info[name] for name in same} == {name: before[name] for name in same}
            assert (record.uid, record.anchor, record.text) == (
                before["uid"],
                before["anchor"],
                before["text"],
            )
    save_episodes(tmp_path / "new.jsonl", [answered, cut])
    assert list(load_episodes(tmp_path / "new.jsonl")) == [answered, cut]


def test_where_no_file_can_be_written(episodes: list[Episode], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "below.jsonl", tmp_path / ("x" * 300), tmp_path / "nul\0"):
        for call in (lambda p=path: save_episodes(p, episodes), lambda p=path: check_writable(p)):
            with pytest.raises(EpisodeFileError, match="cannot be written"):
                call()
    assert sorted(os.listdir(tmp_path)) == ["file"]


def damaged(line: str) -> dict[str, tuple[str, str]]:
    """Lines that are not an episode, with what the error must say."""
    good = json.loads(line)

    def but(**changes: Any) -> str:
        return json.dumps({**good, **changes})

    without = {k: v for k, v in good.items() if k != "outcome"}
    return {
        "cut": (line[: len(line) // 2], "the last line is cut off"),
        "not JSON": ("hello\n", "not JSON"),
        "blank": ("\n", "not JSON"),
        "not UTF-8": ("\udcff\n", "not JSON"),
        "too deep": ("[" * 100_000 + "\n", "not JSON"),
        "a list": ("[1]\n", "schema is 'list'"),
        "schema": (but(schema=99), "schema is 99, this version reads 1 and 2"),
        "no schema": ("{}", "schema is None"),
        "a field less": (json.dumps(without), "outcome"),
        "a field more": (but(surprise=1), "surprise"),
        "a round that is none": (but(rounds=["x"]), "not a complete episode"),
        "rounds a number": (but(rounds=3), "not a complete episode"),
        "an unknown stop": (but(outcome={**good["outcome"], "stop_reason": "bored"}), "bored"),
        "a score that is text": (but(outcome={**good["outcome"], "em": "1"}), "em of Outcome is '1'"),
        "a flag that is a number": (but(terminated=1), "terminated of Episode is 1"),
        "env a list": (but(env=[1]), "env of Episode"),
        "tokens a string": (
            but(segments=[{"tokens": "ab", "mask": [], "logprobs": [], "rounds": []}]),
            "tokens of Segment",
        ),
    }


def test_every_damage_names_file_and_line(episodes: list[Episode], tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    save_episodes(path, episodes)
    good = path.read_text("ascii").splitlines(keepends=True)
    for name, (line, message) in damaged(good[1]).items():
        path.write_bytes((good[0] + line).encode("utf-8", "surrogateescape"))
        loaded = load_episodes(path)
        assert next(loaded) == episodes[0], name  # what came before the damage is still read
        with pytest.raises(EpisodeFileError) as caught:
            next(loaded)
        assert f"{path}, line 2" in str(caught.value), name
        assert message in str(caught.value), name


def flipped(data: bytes, seed: int) -> bytes:
    rng, damaged = random.Random(seed), bytearray(data)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_is_found(episodes: list[Episode], tmp_path: Path, seed: int) -> None:
    path = tmp_path / "episodes.jsonl"
    save_episodes(path, episodes)
    path.write_bytes(flipped(path.read_bytes(), seed))
    with pytest.raises(EpisodeFileError, match=r"episodes\.jsonl, line \d"):
        list(load_episodes(path))


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off(episodes: list[Episode], tmp_path: Path, share: float) -> None:
    path = tmp_path / "episodes.jsonl"
    save_episodes(path, episodes)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(EpisodeFileError, match="the last line is cut off"):
        list(load_episodes(path))


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_lines_that_are_missing_at_the_end_are_said(
    episodes: list[Episode], tmp_path: Path, lines: int
) -> None:
    path = tmp_path / "episodes.jsonl"
    save_episodes(path, episodes)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    with pytest.warns(UserWarning, match="ends before the last|is empty"):
        assert list(load_episodes(path)) == episodes[:lines]


def test_lines_may_come_from_several_files_and_from_other_tools(
    episodes: list[Episode], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "episodes.jsonl"
    save_episodes(path, episodes)
    text = path.read_text("ascii")
    path.write_text(text + text, "ascii")
    assert list(load_episodes(path)) == episodes * 2
    spaced = [json.dumps(json.loads(line), indent=None) for line in text.splitlines()]
    path.write_text("\n".join(spaced), "utf-8")
    assert list(load_episodes(path)) == episodes
    bare = [{k: v for k, v in json.loads(line).items() if k != "check"} for line in text.splitlines()]
    bare[0]["gold"]["answers"] = ["changed on purpose"]
    path.write_text("".join(json.dumps(row) + "\n" for row in bare), "utf-8")
    assert next(load_episodes(path)).gold["answers"] == ["changed on purpose"]
    # Garbage of other tests may be found here and warn of what it left open.
    assert not [str(w.message) for w in recwarn.list if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", [1, 2.5]), ("tokens", [1, -2]), ("tokens", [1]), ("tokens", [True, 1]), ("mask", [0, 2]), ("mask", [None, 1]),
        ("logprobs", [0.0, float("inf")]), ("logprobs", [0.0, "x"]), ("logprobs", [0.0]), ("rounds", [0, 99]), ("rounds", [0, -1]),
    ],
)  # fmt: skip
def test_segments_that_cannot_be(episodes: list[Episode], name: str, value: list[Any]) -> None:
    data = episodes[0].to_json()
    good = {"tokens": [1, 2], "mask": [0, 1], "logprobs": [0.0, -0.5], "rounds": [0, 0]}
    assert Episode.from_json({**data, "segments": [good]}).segments == [Segment(**good)]  # type: ignore[arg-type]
    with pytest.raises(EpisodeFileError, match="not a complete episode"):
        Episode.from_json({**data, "segments": [{**good, name: value}]})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("score", "9"), ("score", float("nan")), ("id", 7), ("title", None), ("queries", [3]), ("answer", None), ("utility", "1"),
        ("reward", float("inf")), ("reward_terms", {"em": "1"}), ("anchor", 3), ("calls_left", "0"), ("status", None), ("level", 1),
    ],
)  # fmt: skip
def test_values_deep_in_a_round_that_cannot_be(episodes: list[Episode], place: str, value: Any) -> None:
    data = json.loads(json.dumps(episodes[0].to_json()))
    round_ = data["rounds"][0]
    parts = {
        "score": round_["results"][0][0], "id": round_["results"][0][0], "title": round_["results"][0][0],
        "queries": round_["action"], "answer": round_["action"], "utility": round_["judge"], "calls_left": round_["feedback"],
        "status": round_["retrieval"], "level": round_["feedback"],
    }  # fmt: skip
    parts.get(place, round_)[place] = value
    with pytest.raises(EpisodeFileError, match="not a complete episode"):
        Episode.from_json(data)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(EpisodeFileError, match="not a regular file"):
            list(load_episodes(tmp_path / name))


def test_no_file_no_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(EpisodeFileError, match="cannot be read"):
            list(load_episodes(path))


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    script=st.lists(MESSAGES, min_size=1, max_size=6),
    dialect=st.sampled_from(["tags", "tools"]),
    feedback=st.sampled_from([None, {"level": "gold", "calls": 1}]),
    max_queries=st.integers(1, 2),
)
def test_rescoring_gives_the_recorded_outcome(
    toy: str, script: list[str], dialect: str, feedback: dict[str, Any] | None, max_queries: int
) -> None:
    envs = SearchVectorEnv(
        1, corpus=toy, dialect=dialect, feedback=feedback, max_queries=max_queries, max_rounds=len(script)
    )
    messages = iter(script)
    (episode,) = collect(envs, FunctionAgent(lambda o, i: next(messages)), ["employer-town"])
    assert rescore(Episode.from_json(json.loads(json.dumps(episode.to_json())))) == episode.outcome


def test_rescoring_follows_the_text_not_the_record(episodes: list[Episode]) -> None:
    episode = episodes[0]
    episode.rounds[-1].text = "<answer>Velm</answer>"
    found = rescore(episode)
    assert (found.answer, found.em, found.stop_reason) == ("Velm", 0.0, StopReason.ANSWERED)
    episode.gold["answers"] = ["velm!"]
    assert rescore(episode).em == 1.0
    episode.rounds[0].results = []
    assert rescore(episode).recall == 0.0
    episode.env["dialect"] = "tgs"
    with pytest.raises(UnknownIdError, match="Did you mean 'tags'"):
        rescore(episode)
    for name, value in (("env", {}), ("gold", {}), ("gold", {"answers": 3}), ("rounds", [])):
        broken = Episode.from_json({**episodes[2].to_json(), name: value})
        with pytest.raises(EpisodeFileError, match="cannot be rescored"):
            rescore(broken)


def test_the_rescore_command(episodes: list[Episode], tmp_path: Path) -> None:
    path, out = tmp_path / "episodes.jsonl", tmp_path / "again.jsonl"
    episodes[0].outcome.em = 0.0  # as an older scorer may have said
    save_episodes(path, episodes)
    before = path.read_bytes()
    done = CliRunner().invoke(rescore_command, [str(path), "--out", str(out)])
    assert done.exit_code == 0
    row = next(line for line in done.output.splitlines() if " em " in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["em", "0.0000", "0.3333", "1"]
    assert path.read_bytes() == before
    assert [e.outcome.em for e in load_episodes(out)] == [1.0, 0.0, 0.0]
    CliRunner().invoke(rescore_command, [str(path), "--out", str(path)])
    assert path.read_bytes() == out.read_bytes()


def test_the_directory_of_a_run_is_answered_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "episodes").mkdir()
    with pytest.raises(EpisodeFileError, match=r"episodes/\*\.jsonl"):
        list(load_episodes(tmp_path))
