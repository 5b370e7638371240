"""`searchgym play`: budgets, hints, refusals that cost no round, and the episode that is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import CommandLine

from searchgym.cli.play import write_hint
from searchgym.records.episode import StopReason, load_episodes
from searchgym.records.question import Hop, Question
from searchgym.rollouts.rescoring import rescore

CHAIN = (
    Hop("Anna Reed born", "employer", ("p0",), "Corvin Mills"),
    Hop("Corvin Mills", "town", ("p2",), "Tarn"),
)


def question(chain: tuple[Hop, ...] = CHAIN, supporting: tuple[str, ...] = ("p0", "p2")) -> Question:
    return Question("q", "Where?", ("Tarn",), "train", supporting_ids=supporting, chain=chain)


@pytest.fixture
def play(cli: CommandLine, toy: str):  # type: ignore[no-untyped-def]
    def call(typed: str, *options: str):  # type: ignore[no-untyped-def]
        return cli("play", "--corpus", toy, "--task-id", "employer-town", *options, stdin=typed)

    return call


def test_the_budget_line_shows_every_limit(play) -> None:  # type: ignore[no-untyped-def]
    limits = ["max_rounds=4", "max_searches=2", "max_chars=1000", 'feedback={"level": "hop", "calls": 1}']
    options = [word for limit in limits for word in ("--env-option", limit)]
    status, out, _ = play("Anna Reed born\n/feedback Velm\n/feedback Velm\n/answer Tarn\n", *options)
    assert status == 0
    left = [line.split(" left")[0] for line in out.splitlines() if " left > " in line]
    assert left[0] == "4 rounds, 2 searches, 1,000 characters, 1 feedback"
    assert [line.split(", ")[i] for line, i in zip(left[1:], (0, 1, 3), strict=True)] == [
        "3 rounds", "1 searches", "0 feedback",
    ]  # fmt: skip
    assert left[2].startswith("2 rounds")
    assert left[3].startswith("2 rounds")  # the second feedback was refused
    assert "no feedback is left; no round was spent" in out


def test_feedback_that_is_off_costs_no_round(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, _ = play("/feedback Tarn\n/answer Tarn\n", "--save", str(tmp_path / "a.jsonl"))
    assert (status, "feedback is off" in out) == (0, True)
    (episode,) = load_episodes(tmp_path / "a.jsonl")
    assert [record.action.kind for record in episode.rounds] == ["answer"]


def test_a_saved_episode_is_like_any_other(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "new" / "a.jsonl"
    assert play("Anna Reed born\n/hint\n/raw nonsense\n/answer Tarn\n", "--save", str(path)).status == 0
    assert f"saved in {path}" in play("Trap\n/quit\n", "--save", str(path)).out
    won, stopped = load_episodes(path)
    assert [r.action.kind for r in won.rounds] == ["search", "invalid", "answer"]
    assert (won.agent, won.outcome.em, won.extra["hints"], won.valid_for_training) == ("human", 1.0, 1, True)
    assert won.rounds[0].hits[0].id == "p0"
    assert rescore(won) == won.outcome
    assert (stopped.outcome.stop_reason, stopped.valid_for_training) == (StopReason.ABORTED, False)
    assert [r.action.kind for r in stopped.rounds] == ["search", "none"]
    before = path.read_bytes()
    assert play("/quit\n", "--save", str(path)).status == 0  # nothing was played
    assert path.read_bytes() == before


def test_a_file_that_cannot_take_the_episode_is_refused_first(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.jsonl").write_text("no episode\n")
    for path, message in ((tmp_path / "a.jsonl", "line 1: not JSON"), (tmp_path, "it is a directory")):
        status, out, err = play("/answer Tarn\n", "--save", str(path))
        assert (status, out, message in err) == (2, "", True)
    assert (tmp_path / "a.jsonl").read_text() == "no episode\n"


def test_hints_follow_the_derivation() -> None:
    asked = question()
    assert write_hint(asked, set(), False) == "step 1 of 2 is open: it looks up 'employer'"
    assert write_hint(asked, {"p0"}, True).endswith("'town'; search for: Corvin Mills")
    assert "everything needed has been found" in write_hint(asked, {"p0", "p2"}, True)
    assert "1 of 2 passages" in write_hint(question(chain=()), {"p0"}, False)
    assert "everything needed" in write_hint(question(chain=()), {"p0", "p2"}, False)
    assert "no hint" in write_hint(question((), ()), set(), True)


def test_a_second_hint_in_the_same_state_is_stronger(play) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = play("/hint\n/hint\nAnna Reed born\n/hint\n/answer Tarn\n", "--env-option", "top_k=1")
    hints = [line for line in out.splitlines() if line.startswith("step ")]
    assert ["search for" in hint for hint in hints] == [False, True, False]
    assert hints[2].startswith("step 2 of 2")
    assert "hints: 3" in out


def test_the_result_is_the_episode_as_it_is_rendered(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = play("Anna Reed born\n/answer Tarn\n", "--save", str(tmp_path / "a.jsonl"))
    (episode,) = load_episodes(tmp_path / "a.jsonl")
    *rounds, _, _ = episode.render(width=200).splitlines()
    assert "★" in "".join(rounds)
    assert "★" not in out.partition(" result ")[0]  # gold passages are not told while the episode is played
    assert " ".join(episode.render().split()) in " ".join(out.split())
    assert "1. Anna Reed born → employer → Corvin Mills" in out
