"""Prints what the judge `llm` does against a stub server of 50 ms: judgements per second, requests in flight, and the
speed of a second pass, which comes from its cache.

    python tests/benchmarks/bench_judge.py

The stub is a process of its own; the judge has one core, and so has the peer it takes turns with: a loop that does
no more than send the same prompts through the `openai` client and parse the JSON that comes back. Medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import openai
from fixtures import stub_llm

import searchgym
from searchgym.judges import Trace, traces_of
from searchgym.judges.llm.judge import LLMJudge
from searchgym.judges.llm.prompt import round_prompt


def played(count: int) -> list[Trace]:
    """`count` different rounds of the oracle agent on the default world."""
    traces: dict[bytes, Trace] = {}
    seed = 0
    while len(traces) < count:
        episodes = searchgym.rollout("SearchQA-v0", "random", 500, seed=seed)
        for trace in [trace for episode in episodes for trace in traces_of(episode)]:
            prompt = round_prompt(trace)
            if prompt is not None:
                traces[prompt.digest] = trace
        seed += 1
    return list(traces.values())[:count]


def bare_loop(url: str, traces: list[Trace], concurrency: int) -> float:
    """Judgements per second of the peer."""
    prompts = [p for p in map(round_prompt, traces) if p is not None]

    async def main() -> None:
        left = iter(prompts)

        async def work() -> None:
            for prompt in left:
                completion = await client.chat.completions.create(
                    model="stub",
                    messages=prompt.messages(),  # type: ignore[arg-type]
                    temperature=0,
                    max_tokens=2048,
                    response_format={"type": "json_object"},
                )
                json.loads(completion.choices[0].message.content or "")["utility"]

        async with openai.AsyncOpenAI(api_key="none", base_url=url) as client:
            await asyncio.gather(*[work() for _ in range(concurrency)])

    started = time.perf_counter()
    asyncio.run(main())
    return len(prompts) / (time.perf_counter() - started)


def judged(url: str, traces: list[Trace], concurrency: int, cache: str) -> tuple[float, float, list[int]]:
    """Judgements per second of the first and of the second pass; requests in flight, sampled every 2 ms while
    more than `concurrency` were still to be sent."""
    judge = LLMJudge(model="stub", base_url=url, api_key_env=None, concurrency=concurrency, cache=cache)
    judge.check()
    samples: list[int] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.002):
            started = judge.stats["calls"] + judge.in_flight
            if concurrency < started < len(traces) - concurrency:
                samples.append(judge.in_flight)

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.perf_counter()
    first = judge.judge(traces)
    seconds = time.perf_counter() - started
    stop.set()
    sampler.join()
    assert {verdict.status for verdict in first} == {"ok"}
    judge = LLMJudge(model="stub", base_url=url, api_key_env=None, cache=cache)
    started = time.perf_counter()
    again = judge.judge(traces)
    kept = time.perf_counter() - started
    assert judge.stats["cached"] == len(traces)
    assert [v.utility for v in again] == [v.utility for v in first]
    return len(traces) / seconds, len(traces) / kept, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgements", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    traces = played(options.judgements)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    command = [sys.executable, stub_llm.__file__, "--port", "0", "--latency", str(options.latency)]
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[1]})  # the stub inherits it
    stub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})
    try:
        assert stub.stdout is not None
        url = stub.stdout.readline().strip()
        rates, kept, ratios, in_flight = [], [], [], []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as cache:
                bare = bare_loop(url, traces, options.concurrency)
                rate, again, samples = judged(url, traces, options.concurrency, cache)
            rates.append(rate)
            kept.append(again)
            ratios.append(rate / bare)
            in_flight += samples
    finally:
        stub.terminate()
        stub.wait()
    busy = sum(n >= options.concurrency - 4 for n in in_flight) / len(in_flight)
    characters = statistics.mean(len(str(p.messages())) for p in map(round_prompt, traces) if p is not None)
    print(f"judgements, {options.latency * 1e3:g} ms latency, one core  {statistics.median(rates):8.0f} /s")
    print(f"the same, over a bare loop of the openai client   {statistics.median(ratios):8.2f}")
    print(f"requests in flight, median of {len(in_flight)} samples       {statistics.median(in_flight):8.0f}")
    print(f"share of samples with {options.concurrency - 4} or more              {busy:8.3f}")
    print(f"second pass, from the cache                       {statistics.median(kept):8.0f} /s")
    print(f"characters of a prompt, mean                      {characters:8.0f}")


if __name__ == "__main__":
    main()
