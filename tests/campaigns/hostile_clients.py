"""Hostile clients against the retrieval service: its memory, and what the others notice.

    python tests/campaigns/hostile_clients.py                 4 rounds of 10 s per kind of client
    python tests/campaigns/hostile_clients.py --seconds 60 --kinds amplify stall

The service runs as `searchgym index serve` in processes of its own. Eight well-behaved clients ask for three hits of
eight queries, twenty times a second in all; in turns alone and beside one kind of hostile client. The hostile clients have a
low priority, because real ones compute on other machines:

- amplify: small requests for as many hits as are allowed, four at a time
- stall:   the same, and the answer is never read; forty connections
- refused: 1,024 queries with 1,000 hits each
- bodies:  bodies of 4 MB that are no requests: lists of lists, escapes, one word
- heads:   heads that never end, byte by byte and in megabytes; 200 connections
- silent:  2,000 connections that send nothing
- flood:   single queries that never repeat, sixteen clients without a pause
- leave:   heavy requests whose clients leave at once

Printed for each kind: the most memory of the service (RSS of its processes without mapped files), the median over all rounds of
the median and 99th percentile of the others' times, and of the latter without hostile clients, and how many of their requests
failed. Exit status 1 if an answer of the others was wrong or missing, or the memory exceeded the configured
1,024 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

MEMORY_MB = 1024
Hostile = Callable[[str, int, float, int], Awaitable[None]]


def request(body: bytes, close: bool = False) -> bytes:
    ending = b"connection: close\r\n" if close else b""
    return (
        b"POST /retrieve HTTP/1.1\r\nhost: x\r\n" + ending + b"content-length: %d\r\n\r\n" % len(body) + body
    )


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> tuple[int, bytes]:
    writer.write(request(body))
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
    return int(head.split()[1]), await reader.readexactly(length)


async def polite(
    host: str, port: int, until: float, number: int, times: list[float], problems: list[str]
) -> None:
    """Sends a request whenever its turn comes, and checks every answer."""
    expected: dict[bytes, bytes] = {}
    turn, connection = 0, None
    while time.monotonic() < until:
        await asyncio.sleep(0.4)
        turn += 1
        # Queries come again after a while, so that answers can be compared; more than half are new.
        names = [f"town {(number * 1009 + turn * 31 + n) % 5000} river {turn % 3 * n}" for n in range(8)]
        body = json.dumps({"queries": names, "topk": 3, "return_scores": True}).encode()
        started = time.monotonic()
        try:
            if connection is None:
                connection = await asyncio.open_connection(host, port)
            status, answer = await asyncio.wait_for(exchange(*connection, body), 30)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            problems.append(type(error).__name__)
            connection = None
            continue
        times.append(time.monotonic() - started)
        if (
            status != 200
            or expected.setdefault(body, answer) != answer
            or len(json.loads(answer)["result"]) != 8
        ):
            problems.append(f"status {status}: {answer[:80]!r}")
    if connection is not None:
        connection[1].close()


def heavy(turn: int) -> bytes:
    queries = [f"town {turn * 131 + n} river of the north" for n in range(32)]
    return json.dumps({"queries": queries, "topk": 1000}).encode()


async def repeat(until: float, act: Callable[[int], Awaitable[None]]) -> None:
    turn = 0
    while time.monotonic() < until:
        turn += 1
        with contextlib.suppress(OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            await act(turn)
        await asyncio.sleep(0.001)


async def amplify(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request(heavy(number * 7919 + turn), close=True))
        while await reader.read(2**20):
            pass
        writer.close()

    await repeat(until, act)


async def stall(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=2**10)
        writer.write(request(heavy(number * 7919 + turn)))
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(min(20, until - time.monotonic()))
        writer.transport.abort()

    await repeat(until, act)


async def refused(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            request(
                json.dumps({"queries": [f"q{n}" for n in range(1024)], "topk": 1000}).encode(), close=True
            )
        )
        await reader.read()
        writer.close()

    await repeat(until, act)


BODIES = (
    b'{"queries": [' + b"[]," * 1_350_000 + b"[]]}",
    b'{"queries": ["' + b"\\u0041" * 650_000 + b'"]}',
    b'{"queries": ["' + b"a " * 2_000_000 + b'"]}',
    b'{"x": "' + b"b" * 4_000_000 + b'"}',
    b"[" * 4_000_000,
)


async def bodies(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request(BODIES[(number + turn) % len(BODIES)], close=True))
        await writer.drain()
        await reader.read()
        writer.close()

    await repeat(until, act)


async def heads(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"POST /retrieve HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() < until and not reader.at_eof():
                writer.write(b"x-" + b"a" * (100_000 if number % 2 else 1) + b": 1\r\n")
                await writer.drain()
                await asyncio.sleep(0.5)
                if writer.is_closing():
                    break
        writer.close()

    await repeat(until, act)


async def silent(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        connections = []
        for _ in range(100):
            connections.append(await asyncio.open_connection(host, port))
            await asyncio.sleep(0.01)
        await asyncio.sleep(max(0, until - time.monotonic()))
        for _, writer in connections:
            writer.close()

    await repeat(until, act)


async def flood(host: str, port: int, until: float, number: int) -> None:
    connection = await asyncio.open_connection(host, port)

    async def act(turn: int) -> None:
        body = json.dumps({"queries": [f"river {number} {turn} town"], "topk": 3}).encode()
        await exchange(*connection, body)

    await repeat(until, act)


async def leave(host: str, port: int, until: float, number: int) -> None:
    async def act(turn: int) -> None:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(request(heavy(number * 7919 + turn)))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    await repeat(until, act)


KINDS: dict[str, tuple[Hostile, int]] = {
    "amplify": (amplify, 4),
    "stall": (stall, 40),
    "refused": (refused, 4),
    "bodies": (bodies, 4),
    "heads": (heads, 200),
    "silent": (silent, 20),
    "flood": (flood, 16),
    "leave": (leave, 8),
}


def anonymous_mb(process: int) -> float:
    """The memory of a process and its children without the files that they map, in MB."""
    total = 0.0
    with contextlib.suppress(OSError):  # a child may end meanwhile
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        total = int(found[1]) / 1000 if found else 0.0
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            total += sum(anonymous_mb(int(child)) for child in children.read_text().split())
    return total


async def attack(address: tuple[str, int], seconds: float, kind: str) -> None:
    """All hostile clients of a kind; runs in a process of its own."""
    os.nice(10)
    act, count = KINDS[kind]
    until = time.monotonic() + seconds
    tasks = [asyncio.create_task(act(*address, until, n)) for n in range(count)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Seen:
    """What the well-behaved clients saw, and the most memory of the server."""

    times: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    most: float = 0.0

    def quantile_ms(self, share: float) -> float:
        times = sorted(self.times)
        return times[min(len(times) - 1, int(share * len(times)))] * 1000 if times else float("nan")


async def play(address: tuple[str, int], server: int, seconds: float, kind: str | None, seen: Seen) -> None:
    """One round beside one kind of hostile client, or nobody."""
    until = time.monotonic() + seconds
    hostile: subprocess.Popen[bytes] | None = None
    if kind is not None:
        host, port = address
        hostile = subprocess.Popen(
            [sys.executable, __file__, "--attack", host, str(port), str(seconds), kind]
        )
    others = [asyncio.create_task(polite(*address, until, n, seen.times, seen.problems)) for n in range(8)]
    while time.monotonic() < until:
        seen.most = max(seen.most, anonymous_mb(server))
        await asyncio.sleep(0.05)
    await asyncio.gather(*others)
    if hostile is not None:
        hostile.wait()


def write_corpus(folder: Path, count: int) -> None:
    with (folder / "passages.jsonl").open("w", encoding="utf-8") as file:
        for n in range(count):
            text = f"Town {n} lies on the river {n % 997} of the north. " + " ".join(
                f"word{(n * 7 + i * i) % 9973}" for i in range(90)
            )
            file.write(json.dumps({"id": f"{n:06}", "title": f"Town {n}", "text": text}) + "\n")


def main() -> int:
    if sys.argv[1:2] == ["--attack"]:
        host, port, seconds, kind = sys.argv[2:]
        asyncio.run(attack((host, int(port)), float(seconds), kind))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=4, help="per kind of client, and as many alone")
    parser.add_argument("--passages", type=int, default=60_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_corpus(Path(place), options.passages)
        process = subprocess.Popen(
            [sys.executable, "-m", "searchgym", "index", "serve", "bm25", "--corpus", place, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SEARCHGYM_HOME": f"{place}/home"},
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://([\d.]+):(\d+)", process.stdout.readline())
            assert found is not None
            address = (found[1], int(found[2]))
            asyncio.run(play(address, process.pid, 5, None, Seen()))  # warm
            print("kind        MB  median ms  p99 ms  alone ms  ratio of p99  answers  problems")
            failed = False
            for kind in options.kinds:
                alone, seen = [], []
                for _ in range(options.rounds):
                    for rounds, hostile in ((alone, None), (seen, kind)):
                        rounds.append(Seen())
                        asyncio.run(play(address, process.pid, options.seconds, hostile, rounds[-1]))
                usual, p99 = (median(one.quantile_ms(0.99) for one in rounds) for rounds in (alone, seen))
                most = max(one.most for one in seen)
                problems = [problem for one in alone + seen for problem in one.problems]
                print(
                    f"{kind:8} {most:5.0f} {median(one.quantile_ms(0.5) for one in seen):10.1f} {p99:7.1f} {usual:9.1f} "
                    f"{p99 / usual:13.2f} {sum(len(one.times) for one in seen):8} {len(problems):9}",
                    *sorted(set(problems))[:2],
                    flush=True,
                )
                failed |= bool(problems) or most > MEMORY_MB
            return int(failed or process.poll() is not None)
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
