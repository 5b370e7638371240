"""The file of a tape: cut off, damaged, full disk, several processes; and runs that go back on it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tape_parts import Pages, Scripted, record, replay
from toys import QUICK, FixedRetriever

from searchgym.errors import RetrievalError, TapeError
from searchgym.records.retriever import Hit, SearchResult
from searchgym.tape.file import Player
from searchgym.tape.recorder import Call, Recorder
from searchgym.tape.recording import recording

CARD = {"corpus": "c", "top_k": 3}

# -- damage --------------------------------------------------------------------------------------------


def three_calls(path: Path) -> list[bytes]:
    """A tape of three searches; its lines."""
    recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0)))
    for query in "xyz":
        recorder.search([query], 3)
    return path.read_bytes().splitlines(keepends=True)


def test_every_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t"
    recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0), Hit("b", "B", "other", 0.5)))
    recorder.search(["x"], 3)
    content = path.read_bytes()
    del recorder
    expected = replay(path)[0].search(["x"], 3)
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a last line without its end is left out
            try:
                found = replay(path)[0].search(["x"], 3)
            except TapeError:
                continue
        assert found == expected, bit


def test_a_tape_of_version_0_1_0_is_replayed_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "t"
    lines = [json.loads(line) for line in three_calls(path)]
    lines[0]["tape"] = 1
    old = [json.dumps({k: v for k, v in line.items() if k != "crc"}, separators=(",", ":")) for line in lines]
    path.write_text("\n".join(old) + "\n")
    recorder, _ = record(path, FixedRetriever(Hit("b", "B", "other", 1.0)))
    recorder.search(["new"], 3)
    del recorder
    player, _ = replay(path)
    assert [hits[0].id for hits in player.search(["x", "y", "z", "new"], 3)] == ["a", "a", "a", "b"]


def test_a_last_line_that_was_cut_off_is_left_out_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "t"
    lines = three_calls(path)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        with pytest.warns(UserWarning, match="its last line, 5, is cut off and left out"):
            player, _ = replay(path)
        player.search(["x", "y"], 3)
        with pytest.raises(TapeError):
            player.search(["z"], 3)
        with pytest.warns(UserWarning, match="cut off"):
            recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0)))
        recorder.search(["z"], 3)
        written, expected = (
            [json.loads(line) | {"crc": ""} for line in some]
            for some in (path.read_bytes().splitlines(), lines)
        )
        assert written == [*expected[:-1], expected[-1] | {"at": 0}]
        del recorder


@pytest.mark.parametrize("cut", [0, 1, 7, 60])
def test_a_header_that_was_cut_off_begins_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "t"
    lines = three_calls(path)
    path.write_bytes(lines[0][:cut])
    with pytest.raises(TapeError, match=r"is empty|is not a tape"):
        replay(path)
    assert three_calls(path) == lines


def test_a_long_header_is_a_header(tmp_path: Path) -> None:
    spec = {"name": "scripted", "prompt": "word " * 2_000}
    for query in "xy":
        recorder, _ = recording(tmp_path / "t", Pages(), Scripted([]), top_k=3, retriever_spec=spec)
        recorder.search([query], 3)
        del recorder
    assert replay(tmp_path / "t", spec)[0].search(["x", "y"], 3) == [[], []]


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, b"[]\n", "is not a tape"),
        (0, b'{"tape": 9, "searchgym": "3.1"}\n', r"has schema 9, this version reads 2: replay it with .* \(3.1\)"),
        (0, b'{"tape": 1, "card": 5}\n', "is not a tape"),
        (1, b"{\n", "is damaged in line 2"),
        (1, b'{"passage":1,"id":"a","title":"","text":""}\n', "is damaged in line 2 .*passage 1 where 0 was due"),
        (2, b'{"search":"x","k":3,"at":0,"hits":[[1,1.0]]}\n', "line 3 .*passage 1 is not on the tape"),
        (2, b'{"search":"x","k":3,"at":0,"hits":[[-1,1.0]]}\n', "line 3 .*passage -1 is not on the tape"),
        (2, b'{"search":"x","k":3,"hits":[]}\n', "line 3 .*'at'"),
        (2, b'{"judge":"d","at":0,"status":"ok","utility":2,"reasoning":0,"reason":""}\n', r"line 3 .*\[0, 1\]"),
        (2, b'{"judge":"d","at":0,"status":"odd","utility":1,"reasoning":0,"reason":""}\n', "line 3 .*'odd'"),
        (2, b'{"grade":"d","at":0,"status":"ok","score":null,"reason":""}\n', "is damaged in line 3"),
        (2, b"\n", "is damaged in line 3"),
        (2, b"\xff\n", "is damaged in line 3"),
        (2, b"[" * 100_000 + b"\n", "is damaged in line 3"),
    ],
)  # fmt: skip
def test_a_damaged_tape_is_refused_and_left_alone(
    tmp_path: Path, line: int, text: bytes, message: str
) -> None:
    path = tmp_path / "t"
    lines = three_calls(path)
    lines[line] = text
    path.write_bytes(b"".join(lines))
    for opening in (lambda: replay(path), lambda: record(path, FixedRetriever())):
        with pytest.raises(TapeError, match=message):
            opening()
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"\x00\x01\x02", b'{"tap'[:3] + b"x"])
def test_a_file_that_is_no_tape_is_never_written_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    for opening in (lambda: replay(path), lambda: record(path, FixedRetriever())):
        with pytest.raises(TapeError, match="is not a tape"):
            opening()
    assert path.read_bytes() == content


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TapeError, match=r"cannot be read: No such file"):
        replay(tmp_path / "none")
    with pytest.raises(TapeError, match=r"cannot be read: Is a directory"):
        replay(tmp_path)
    for bad in (tmp_path, tmp_path / "file" / "t"):
        with pytest.raises(TapeError, match="cannot be written"):
            record(bad, FixedRetriever())
    assert not list(tmp_path.glob(".*"))
    record(tmp_path / "new" / "folder" / "t", FixedRetriever())  # the folder is made


def test_a_full_disk_stops_the_run_and_leaves_a_sound_tape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = three_calls(tmp_path / "t")
    recorder, _ = record(tmp_path / "t", FixedRetriever(Hit("a", "A", "text", 1.0)))
    write = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 20:
            return write(handle, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TapeError, match="cannot be written: No space left on device"):
        recorder.search(["new"], 3)
    monkeypatch.undo()
    assert (tmp_path / "t").read_bytes() == b"".join(lines)
    with pytest.raises(TapeError, match="No space left"):  # what it knows is ahead of the file
        recorder.search(["newer"], 3)
    assert (tmp_path / "t").read_bytes() == b"".join(lines)


# -- processes -----------------------------------------------------------------------------------------


def test_one_process_shares_its_recorder(tmp_path: Path) -> None:
    first, _ = record(tmp_path / "t", FixedRetriever())
    second, _ = record(tmp_path / "." / "t", FixedRetriever())
    assert first.tape is second.tape
    assert pickle.loads(pickle.dumps(first)).tape is first.tape


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from tape_parts import *
from toys import *
from searchgym.records.retriever import Hit
recorder, _ = record(Path({path!r}), FixedRetriever(Hit("a", "A", "text", 1.0)))
count = 0
while True:
    recorder.search([f"query {{count + i}}" for i in range(7)], 3)
    count += 7
    print(count, flush=True)
"""


def test_a_second_process_is_refused_and_a_kill_loses_nothing_finished(tmp_path: Path) -> None:
    path = tmp_path / "t"
    code = CHILD.format(tests=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(TapeError, match="is being recorded by another process"):
        record(path, FixedRetriever())
    time.sleep(random.Random(0).uniform(0.05, 0.2))
    child.send_signal(signal.SIGKILL)
    finished = int(child.communicate()[0].split()[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last line may be cut off
        player, _ = replay(path)
        recorder, _ = record(path, FixedRetriever(Hit("a", "A", "text", 1.0)))
    assert all(player.search([f"query {i}" for i in range(finished)], 3))
    recorder.search([f"query {i}" for i in range(finished + 50)], 3)
    assert all(replay(path)[0].search([f"query {i}" for i in range(finished + 50)], 3))


def _search_elsewhere(pickled: bytes, queue: Any) -> None:
    try:
        retriever = pickle.loads(pickled)
        queue.put((len(retriever.search(["x"], 3)[0]), retriever.tape.position))
    except TapeError as error:
        queue.put(str(error))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_replay_but_do_not_record(tmp_path: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    recorder, _ = record(tmp_path / "t", FixedRetriever(Hit("a", "A", "text", 1.0)))
    recorder.search(["x"], 3)
    player, _ = replay(tmp_path / "t")
    player.search(["x", "x"], 3)
    before = (tmp_path / "t").read_bytes()
    said = []
    for retriever in (player, recorder):
        worker = context.Process(target=_search_elsewhere, args=(pickle.dumps(retriever), queue))
        worker.start()
        said.append(queue.get(timeout=60))
        worker.join(60)
    assert said[0] == (1, 3)  # it continues where the pickled one was
    assert "is being recorded by another process" in said[1]
    assert (tmp_path / "t").read_bytes() == before
    recorder.search(["y"], 3)  # the worker's end did not touch what this process holds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_worker_does_not_record(tmp_path: Path) -> None:
    recorder, _ = record(tmp_path / "t", FixedRetriever())
    before = (tmp_path / "t").read_bytes()
    worker = os.fork()
    if worker == 0:
        try:
            recorder.search(["x"], 3)
            os._exit(1)
        except TapeError as error:
            os._exit(0 if f"is recorded by process {os.getppid()}" in str(error) else 2)
    assert os.waitpid(worker, 0)[1] == 0
    assert (tmp_path / "t").read_bytes() == before


# -- positions -----------------------------------------------------------------------------------------


@settings(parent=QUICK, max_examples=120)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("ab"), st.integers(0, 2)),
            st.tuples(st.sampled_from("ab"), st.integers(0, 2)),
            st.tuples(st.just("resume"), st.integers(0, 40)),
            st.tuples(st.just("reopen"), st.integers(0, 40)),
        ),
        max_size=40,
    )
)
@example([("a", 1), *[("b", 0)] * 4, ("a", 2), ("resume", 1), ("b", 0), ("a", 0)])
def test_a_replay_repeats_the_last_course_of_a_run_that_went_back(actions: list[tuple[str, int]]) -> None:
    """Against a plain list: calls whose results change, resumed from any position, in this process or another."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        recorder = Recorder.open(path, CARD)
        course: list[tuple[str, int]] = []
        for name, value in actions:
            if name in ("resume", "reopen"):
                position = min(value, len(course))
                if name == "reopen":
                    recorder.close()
                    Recorder._opened.clear()
                    recorder = Recorder.open(path, CARD)
                del course[position:]
                recorder.rewind(position)
            else:
                result: SearchResult = [Hit("p", "", "", float(value))] if value else RetrievalError("down")
                recorder.record([Call(("search", name, 1), result)])
                course.append((name, value))
        assert recorder.position == len(course)
        player = Player(path)
        for start in (0, len(course) // 2):
            player.rewind(start)
            for name, value in course[start:]:
                found: Any = player.recall(("search", name, 1))
                assert (0 if isinstance(found, RetrievalError) else found[0].score) == value


def test_recording_again_replaces_what_differs(tmp_path: Path) -> None:
    bad, good = RetrievalError("down"), [Hit("a", "A", "t", 1.0)]
    for results in ([bad, good, good], [good, good, good]):
        recorder, _ = record(tmp_path / "t", Scripted(*results))
        recorder.search(["x", "y", "x"], 3)
        del recorder
    assert replay(tmp_path / "t", "scripted")[0].search(["x", "y", "x"], 3) == [good] * 3


def test_more_calls_than_were_recorded_get_the_last_result(tmp_path: Path) -> None:
    bad, good = RetrievalError("down"), [Hit("a", "A", "t", 1.0)]
    recorder, _ = record(tmp_path / "t", Scripted(bad, good))
    recorder.search(["x", "x"], 3)
    player, _ = replay(tmp_path / "t", "scripted")
    assert player.search(["x"] * 5, 3)[1:] == [good] * 4
