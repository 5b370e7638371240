"""The judge `llm`: its cache, its budget, its limits, and the places it may be called from."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import preloaded
import pytest
from fixtures.llm_cases import QUESTION, search, traces
from fixtures.stub_llm import StubLLM

from searchgym.endpoint.store import open_store
from searchgym.errors import ConfigError
from searchgym.judges import Trace
from searchgym.judges.llm.judge import LLMJudge


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens elsewhere."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- the cache -----------------------------------------------------------------------------------------------


def test_a_judgement_is_asked_for_once_and_kept(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    first = LLMJudge(**llm_options).judge(traces(5))
    judge = LLMJudge(**llm_options)
    again = judge.judge(traces(7))
    assert [(v.utility, v.reason) for v in again[:5]] == [(v.utility, v.reason) for v in first]
    assert [v.cost["calls"] for v in again] == [0] * 5 + [1] * 2
    assert len(llm_stub.bodies) == 7
    assert judge.stats["cached"] == 5


def test_equal_rounds_of_a_batch_are_asked_once_and_cost_once(
    llm_stub: StubLLM, llm_options: dict[str, Any]
) -> None:
    verdicts = LLMJudge(**llm_options | {"cache": False}).judge(traces(2) * 3)
    assert [v.cost["calls"] for v in verdicts] == [1, 1, 0, 0, 0, 0]
    assert {v.utility for v in verdicts} == {1.0}
    assert len(llm_stub.bodies) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"base_url": "/"},
        {"temperature": 0.5},
        {"max_tokens": 100},
        {"response_format": False},
        {"extra_body": {"seed": 1}},
        {"sample": 1},
    ],
)
def test_what_changes_a_judgement_is_part_of_its_key(
    llm_stub: StubLLM, llm_options: dict[str, Any], change: dict[str, Any]
) -> None:
    LLMJudge(**llm_options).judge(traces(1))
    llm_stub.model = change.get("model", llm_stub.model)
    if "base_url" in change:
        change = {"base_url": llm_stub.url.replace("127.0.0.1", "localhost")}
    for _ in range(2):
        LLMJudge(**llm_options | change).judge(traces(1))
    assert len(llm_stub.bodies) == 2


def test_what_does_not_is_not(
    llm_stub: StubLLM, llm_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    LLMJudge(**llm_options).judge(traces(1))
    monkeypatch.setenv("K", "k")
    llm_options |= {"concurrency": 2, "timeout": 9, "retries": 0, "api_key_env": "K", "max_total_tokens": 1}
    llm_options |= {"requests_per_minute": 5, "base_url": llm_stub.url + "/"}
    (verdict,) = LLMJudge(**llm_options).judge(traces(1))
    assert (verdict.status, verdict.cost["calls"]) == ("ok", 0)


def test_without_a_cache_every_call_asks(
    llm_stub: StubLLM, llm_options: dict[str, Any], tmp_path: Path
) -> None:
    judge = LLMJudge(**llm_options | {"cache": False})
    for _ in range(2):
        judge.judge(traces(1))
    assert len(llm_stub.bodies) == 2
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"[]", b"[2, 0, 1]", b'{"u": 1}', b'["a", "b", "c"]', b"NaN"]
)
def test_a_kept_value_that_is_none_is_asked_for_again(
    llm_stub: StubLLM, llm_options: dict[str, Any], value: bytes
) -> None:
    LLMJudge(**llm_options).judge(traces(1))
    store = open_store(Path(llm_options["cache"]))
    assert store._lmdb is not None
    with store._lmdb.begin(write=True) as transaction:
        (key,) = list(transaction.cursor().iternext(values=False))
        transaction.put(key, value)
    (verdict,) = LLMJudge(**llm_options).judge(traces(1))
    assert (verdict.status, verdict.utility, verdict.cost["calls"]) == ("ok", 1.0, 1)
    (verdict,) = LLMJudge(**llm_options).judge(traces(1))
    assert verdict.cost["calls"] == 0


def test_nothing_secret_and_nothing_pickled_is_kept(
    llm_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K", "a-secret-key")
    judge = LLMJudge(**llm_options | {"api_key_env": "K"})
    judge.judge(traces(1))
    kept = (Path(llm_options["cache"]) / "data.mdb").read_bytes()
    assert b'[1.0, 1.0, "looked at"]' in kept
    assert b"a-secret-key" not in kept
    assert "a-secret-key" not in repr(vars(judge))


def test_a_cache_that_cannot_be_written(
    llm_stub: StubLLM,
    llm_options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one asked for is the user's mistake; the usual one is only told about: the judgements are worth more."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache '.*file/deep' cannot be used"):
        LLMJudge(**llm_options | {"cache": str(tmp_path / "file" / "deep")}).check()
    monkeypatch.setenv("SEARCHGYM_HOME", str(tmp_path / "file"))
    judge = LLMJudge(**llm_options | {"cache": True})
    judge.check()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert judge.judge(traces(2))[1].status == "ok"
    assert ["are not kept" in record.message for record in caplog.records] == [True]


def test_a_full_or_damaged_cache_does_not_stop_judging(
    llm_stub: StubLLM, llm_options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "data.mdb").write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        assert LLMJudge(**llm_options).judge(traces(1))[0].status == "ok"
    assert "cannot be used" in caplog.text
    full = tmp_path / "full"
    store = open_store(full)
    assert store._lmdb is not None
    store._lmdb.set_mapsize(64 * 1024)
    store.put({bytes([i] * 32): b"x" * 1000 for i in range(100)})
    assert store.problem is not None
    assert "full" in store.problem
    assert {v.status for v in LLMJudge(**llm_options | {"cache": str(full)}).judge(traces(3))} == {"ok"}


CHILD = """
import sys, json
sys.path.insert(0, sys.argv[1])
from fixtures.llm_cases import traces
from searchgym.judges.llm.judge import LLMJudge
LLMJudge(**json.loads(sys.argv[2])).judge(traces(int(sys.argv[3])))
"""


def test_kill_9_loses_no_finished_judgement(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    llm_stub.latency = 0.1
    llm_options["concurrency"] = 8
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), json.dumps(llm_options), "240"]
    with preloaded.PreloadedPopen(command) as process:
        while llm_stub.answered < 40:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.05)  # between two waves of answers: the last one has been read
        process.send_signal(signal.SIGKILL)
    answered = llm_stub.answered
    assert 40 <= answered < 200
    llm_stub.latency = 0.0
    judge = LLMJudge(**llm_options)
    assert {v.status for v in judge.judge(traces(240))} == {"ok"}
    # At most what was in flight, or on its way to the disk, when the process died is asked again.
    assert judge.stats["cached"] >= answered - 2 * llm_options["concurrency"]
    assert judge.stats["cached"] + judge.stats["calls"] == 240


def test_processes_share_a_cache(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parents[1]), json.dumps(llm_options), "90"]
    processes = [preloaded.PreloadedPopen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    judge = LLMJudge(**llm_options)
    judge.judge(traces(90))
    assert judge.stats["cached"] == 90


# -- budget and limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", [{"max_total_tokens": 20_000}, {"max_usd": 0.02}])
def test_the_ceiling_is_never_passed(
    llm_stub: StubLLM, llm_options: dict[str, Any], ceiling: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 1.0}
    judge = LLMJudge(**llm_options, **prices, **ceiling, max_tokens=100)
    judge.check()
    with caplog.at_level(logging.WARNING):
        verdicts = judge.judge(traces(100)) + judge.judge(traces(10, start=100))
    judged = [v for v in verdicts if v.status == "ok"]
    refused = [v for v in verdicts if v.status == "error"]
    used = judge.stats["input_tokens"] + judge.stats["output_tokens"]
    one = used / judge.stats["calls"]
    assert 20_000 - 5 * one < used <= 20_000  # a request's dearest outcome is some four times the usual one
    assert len(judged) == judge.stats["calls"] - 1
    assert {v.utility for v in refused} == {None}
    assert all(v.reason.startswith(f"budget spent: {next(iter(ceiling))}=") for v in refused)
    assert ["budget spent" in record.message for record in caplog.records] == [True]
    with pytest.raises(ConfigError, match=r"budget spent.*raise the ceiling"):
        judge.check()
    # What is in the cache is free.
    assert [v.status for v in judge.judge(traces(3))] == ["ok"] * 3


def test_a_budget_too_small_for_one_request_is_said_at_once(
    llm_stub: StubLLM, llm_options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="max_total_tokens=100, 0 used, and the next request may take 2"):
        LLMJudge(**llm_options, max_total_tokens=100).check()
    assert llm_stub.bodies == []


def test_all_slots_are_used_and_no_more(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    llm_stub.hold = True
    judge = LLMJudge(**llm_options)
    with ThreadPoolExecutor(1) as pool:
        judging = pool.submit(judge.judge, traces(128))
        try:
            until(lambda: llm_stub.in_flight >= 64)
            time.sleep(0.1)  # time enough for a sixty-fifth
            assert llm_stub.in_flight == judge.in_flight == 64
        finally:
            llm_stub.hold = False
        assert len(judging.result()) == 128
    assert llm_stub.most_in_flight == 64
    assert judge.in_flight == 0


def test_slots_are_shared_between_threads(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    llm_stub.latency = 0.02
    judge = LLMJudge(**llm_options, concurrency=5)
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda start: judge.judge(traces(20, start)), range(0, 80, 20)))
    assert [v.status for batch in batches for v in batch] == ["ok"] * 80
    assert llm_stub.most_in_flight == 5
    assert len(llm_stub.bodies) == 80


def test_requests_keep_to_their_rate(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    started = time.monotonic()
    LLMJudge(**llm_options, requests_per_minute=600).judge(traces(20))  # ten at once, then ten a second
    assert 0.9 < time.monotonic() - started < 10


def test_tokens_keep_to_their_rate(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    judge = LLMJudge(**llm_options, tokens_per_minute=1_200_000)  # 20,000 at once, then as many a second
    started = time.monotonic()
    judge.judge(traces(50))
    seconds = time.monotonic() - started
    used = judge.stats["input_tokens"] + judge.stats["output_tokens"]
    assert used > 30_000
    assert used / 20_000 - 1.1 < seconds < used / 20_000 + 10


# -- where it is called from ---------------------------------------------------------------------------------


def test_inside_a_running_event_loop(llm_options: dict[str, Any]) -> None:
    judge = LLMJudge(**llm_options)

    async def notebook_cell() -> list[str]:
        return [v.status for v in judge.judge(traces(3))]

    assert asyncio.run(notebook_cell()) == ["ok"] * 3
    assert asyncio.run(notebook_cell()) == ["ok"] * 3


def _judge_in_child(judge: LLMJudge, count: int, sender: Any) -> None:
    sender.send([(v.status, v.cost["calls"]) for v in judge.judge(traces(count))])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_parent_and_child_go_on(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    judge = LLMJudge(**llm_options)
    judge.judge(traces(3))  # the parent has a loop, connections and an open cache
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    child = context.Process(target=_judge_in_child, args=(judge, 5, sender))
    child.start()
    mine = judge.judge(traces(2, start=50))
    assert receiver.poll(20), "the child hangs"
    assert receiver.recv() == [("ok", 0)] * 3 + [("ok", 1)] * 2
    child.join(10)
    assert child.exitcode == 0
    assert [v.status for v in mine] == ["ok"] * 2
    assert [v.cost["calls"] for v in judge.judge(traces(5))] == [0] * 5  # what the child asked for is kept


@pytest.mark.skipif(os.name != "posix", reason="needs a timer signal")
def test_an_interrupt_stops_asking_and_keeps_what_is_there(
    llm_stub: StubLLM, llm_options: dict[str, Any]
) -> None:
    llm_stub.latency = 0.1
    judge = LLMJudge(**llm_options, concurrency=4)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.55)
    try:
        with pytest.raises(KeyboardInterrupt):
            judge.judge(traces(400))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.3)
    asked = len(llm_stub.bodies)
    assert 4 <= asked < 100
    time.sleep(0.3)
    assert len(llm_stub.bodies) == asked  # nothing runs in the background
    assert sum(v.cost["calls"] for v in judge.judge(traces(asked))) <= 4  # those that were in flight


def test_connections_are_kept_for_the_next_call_and_closed_with_the_judge(
    llm_stub: StubLLM, llm_options: dict[str, Any]
) -> None:
    judge = LLMJudge(**llm_options, concurrency=3)
    for start in range(0, 40, 10):
        judge.judge(traces(10, start))
    assert llm_stub.connected == 3
    assert llm_stub.connections == 3
    del judge
    gc.collect(1)
    until(lambda: llm_stub.connected == 0)


def test_a_long_trace_is_sent_as_it_is(llm_stub: StubLLM, llm_options: dict[str, Any]) -> None:
    trace = Trace(QUESTION, tuple(search(n) for n in range(200)))
    (verdict,) = LLMJudge(**llm_options).judge([trace])
    assert verdict.status == "ok"
    assert "number 199." in llm_stub.bodies[0]["messages"][1]["content"]


def test_the_store_reads_what_it_was_given(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a")
    assert open_store(tmp_path / "." / "a") is store
    store.put({b"k" * 32: b"v", b"l" * 32: b""})
    assert store.get([b"l" * 32, b"m" * 32, b"k" * 32]) == [b"", None, b"v"]


# -- damage in the store -------------------------------------------------------------------------------------


def test_a_changed_reply_is_no_reply_and_old_ones_are_read(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kept")
    old, new, moved, zeros = (bytes([n] * 32) for n in range(4))
    store.put({new: b'{"content": "yes"}', moved: b'["no"]'})
    assert store._lmdb is not None
    with store._lmdb.begin(write=True) as transaction:
        transaction.put(old, b'{"written": "by 0.1"}')
        transaction.put(zeros, bytes(20))
        stored = transaction.get(new)
        transaction.put(moved, stored)  # intact, but under another key
        for place in range(len(stored)):
            for bit in range(8):
                changed = bytearray(stored)
                changed[place] ^= 1 << bit
                transaction.put(b"%032d" % (8 * place + bit), bytes(changed))
    keys = [b"%032d" % number for number in range(8 * len(stored))]
    assert store.get(keys) == [None] * len(keys)
    assert store.get([old, new, moved, zeros]) == [
        b'{"written": "by 0.1"}',
        b'{"content": "yes"}',
        None,
        None,
    ]
    store.put({moved: b'["again"]'})
    assert store.get([moved]) == [b'["again"]']


CUT = """
import sys, os
from pathlib import Path
from searchgym.endpoint.store import Store

place = Path(sys.argv[1])
keys = [bytes([n] * 32) for n in range(60)]
whole = Store(place)
for key in keys:
    whole.put({key: b'"' + b"x" * 900 + b'"'})
whole.close()
size = os.path.getsize(place / "data.mdb")
for length in range(0, size, size // 12):
    os.truncate(place / "data.mdb", length)
    store = Store(place)
    assert all(value in (None, b'"' + b"x" * 900 + b'"') for value in store.get(keys))
    store.put({keys[0]: b"1"})
    assert store.problem or store.get(keys[:1]) == [b"1"]
    store.close()
    (place / "data.mdb").unlink()
    whole = Store(place)
    for key in keys:
        whole.put({key: b'"' + b"x" * 900 + b'"'})
    whole.close()
"""


def test_a_store_that_was_cut_short_does_not_kill_the_process(tmp_path: Path) -> None:
    done = preloaded.run([sys.executable, "-c", CUT, str(tmp_path / "s")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
