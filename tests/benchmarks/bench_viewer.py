"""The viewer on a run of 100,000 episodes: the index, the first rows, a filter, a search, the next episode, memory; and an export.

    python tests/benchmarks/bench_viewer.py                      # writes the run to a temporary directory
    python tests/benchmarks/bench_viewer.py --run /tmp/large     # keeps it there, for the next time

The times are seen in headless Chromium, driven by Playwright: from the act to the frame in which its result is drawn. Needs
`pip install playwright` and a Chromium of the system.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from searchgym.records.episode import Episode, Segment
from searchgym.rollouts.collection import rollout
from searchgym.trainers.runs.credit_record import CreditRecord, EpisodeCredit, save_credit
from searchgym.trainers.runs.directory import RunDirectory

PER_FILE = 1_000
GROUP = 8
EPISODE, GROUPED = "EPISODE-ID", "GROUP-ID"  # places for ids
WORDS = "the of in who was born founded where which town river prize author school play".split()


def write_run(path: Path, count: int) -> None:
    """A run directory with `count` training episodes: 2,000 different ones, with other ids, tokens and credit, repeated."""
    played = [
        episode
        for agent, share in (("oracle", 300), ("random", 100), ("copy", 50))
        for episode in rollout("SearchQA-v0", agent, episodes=share, seed=0, judge="oracle")
    ]
    disguised = [disguise(random.choice(played)) for _ in range(2_000)]
    bodies = [json.dumps(episode.to_json(), separators=(",", ":")) for episode in disguised]
    config = {"trainer": "cw-grpo", "agent": "tiny", "env": "SearchQA-v0", "iterations": count // PER_FILE}
    generator = np.random.default_rng(0)
    with RunDirectory.create(path, {"config": config, "settings": {}}) as run:
        (path / "episodes").mkdir()
        for iteration in range(1, count // PER_FILE + 1):
            drawn = [random.randrange(len(bodies)) for _ in range(PER_FILE)]
            lines, given = [], []
            for i, number in enumerate(drawn):
                name, group = f"{iteration:06}{i:06}", f"g{iteration:06}{i // GROUP:06}"
                body = bodies[number].replace(EPISODE, name).replace(GROUPED, group)
                mark = " last" if i == PER_FILE - 1 else ""
                check = f"{zlib.crc32((body + mark).encode()):08x}{mark}"
                lines.append(f'{body[:-1]},"check":"{check}"}}\n')
                given.append(credit_of(disguised[number], name, group, generator))
            (path / "episodes" / f"train-{iteration:06}.jsonl").write_text("".join(lines))
            record = CreditRecord(iteration, "cw-grpo", "CWGRPO", "token", given)
            save_credit(path / "credit" / f"train-{iteration:06}.safetensors", record)
            em = sum(disguised[number].outcome.em for number in drawn) / PER_FILE
            row = {
                "groups": PER_FILE // GROUP,
                "episodes": PER_FILE,
                "invalid_episodes": 0,
                "equal_groups": 3,
            }
            run.append("metrics.jsonl", {"iteration": iteration, **row, "em": em, "reward": em, "alarms": []})


def disguise(episode: Episode) -> Episode:
    """The same episode with places for other ids, a message of other words, and 300 tokens."""
    sampled, rounds = 300, len(episode.rounds)
    segment = Segment(
        [random.randrange(30_000) for _ in range(sampled)],
        [int(i % 3 == 0) for i in range(sampled)],
        [-round(random.random(), 3) if i % 3 == 0 else 0.0 for i in range(sampled)],
        [i * rounds // sampled for i in range(sampled)],
    )
    text = f"<think>{' '.join(random.choices(WORDS, k=12))}</think> {episode.rounds[0].text}"
    first = dataclasses.replace(episode.rounds[0], text=text)
    changed = {"episode_id": EPISODE, "group_id": GROUPED, "tree_id": EPISODE, "segments": [segment]}
    return dataclasses.replace(episode, rounds=[first, *episode.rounds[1:]], **changed)


def credit_of(episode: Episode, name: str, group: str, generator: np.random.Generator) -> EpisodeCredit:
    """Random credit of each sampled token."""
    (segment,) = episode.segments
    round_N = np.array(
        [r for r, own in zip(segment.rounds, segment.mask, strict=True) if own], dtype=np.int32
    )
    credit_N = generator.normal(size=len(round_N)).astype(np.float32)
    in_loss_N, rounds_R = np.ones(len(round_N), dtype=bool), np.zeros(len(episode.rounds))
    reward = episode.reward
    return EpisodeCredit(name, group, "learned", reward, reward, 0.0, credit_N, round_N, in_loss_N, rounds_R)


def memory_mb(process: int) -> float:
    """Resident memory of a process without the pages of files, which the system may drop."""
    status = Path(f"/proc/{process}/status").read_text()
    return sum(int(kb) for kb in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+)", status)) / 1024


def start(path: Path, home: Path) -> tuple[subprocess.Popen[str], str]:
    """A server, and its address."""
    command = [sys.executable, "-m", "searchgym", "view", str(path), "--port", "0"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "SEARCHGYM_HOME": str(home)}
    )
    assert server.stdout is not None
    return server, server.stdout.readline().split(": ", 1)[1].split(" ", 1)[0]


# Waits in the page until `condition` holds and the frame is drawn; returns milliseconds since `act` was called.
TIMED = """async ([act, condition]) => {
  const done = new Function(`return ${condition}`);
  const begun = performance.now();
  (new Function(act))();
  while (!done()) await new Promise((next) => requestAnimationFrame(next));
  await new Promise((next) => requestAnimationFrame(() => setTimeout(next)));
  return performance.now() - begun;
}"""
COUNT = "document.querySelector('.count')?.textContent"


def measure(path: Path, home: Path, count: int) -> dict[str, object]:
    """Everything that is seen in the browser."""
    from playwright.sync_api import sync_playwright

    chromium = next(
        found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))
    )
    figures: dict[str, object] = {}
    with sync_playwright() as playwright, ExitStack() as servers:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1360, "height": 850}, bypass_csp=True)  # for TIMED
        begun = time.perf_counter()
        server, address = start(path, home)
        servers.callback(server.kill)
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("a.row")
        figures["without an index: seconds from the command to the first rows"] = round(
            time.perf_counter() - begun, 2
        )
        page.wait_for_function(f"{COUNT} === '{count:,} of {count:,} episodes'", timeout=600_000)
        figures["without an index: seconds until all rows are there"] = round(time.perf_counter() - begun, 1)
        figures["memory of the server while indexing, MB"] = round(memory_mb(server.pid))
        page.close()
        server.terminate()
        server.wait()
        server, address = start(path, home)
        servers.callback(server.kill)
        firsts, alls = [], []
        for _ in range(5):
            page = context.new_page()
            begun = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_selector("a.row")
            firsts.append(time.perf_counter() - begun)
            page.wait_for_function(f"{COUNT} === '{count:,} of {count:,} episodes'", timeout=60_000)
            alls.append(time.perf_counter() - begun)
        figures["first rows, s"] = round(median(firsts), 2)
        figures["all rows, s"] = round(median(alls), 2)

        def timed(act: str, condition: str) -> float:
            return float(page.evaluate(TIMED, [act, condition]))

        box = "document.querySelectorAll('.filters input')[1]"
        on, off = f"!{COUNT}.startsWith('{count:,} ')", f"{COUNT}.startsWith('{count:,} ')"
        filters = [timed(f"{box}.click()", on if i % 2 == 0 else off) for i in range(10)]
        figures["filter, ms"] = round(median(filters))
        searches = []
        for word in ("founded", "prize", "river", "zzz"):
            page.evaluate("location.hash = '#/'")
            page.wait_for_function(off)
            searches.append(timed(f"location.hash = '#/?q={word}'", on))
        figures["search, ms"] = [round(value) for value in searches]
        page.evaluate("location.hash = '#/'")
        page.wait_for_function(off)
        page.evaluate(f"location.hash = '#/episode/{path.name}%2Ftrain-000050/0'")
        page.wait_for_selector("article.episode h1")
        page.wait_for_timeout(300)
        switches = []
        for i in range(20):
            shown = f"document.querySelector('.steps span')?.textContent.startsWith('{49 * PER_FILE + i + 2:,} of') && document.querySelector('.round') !== null"
            switches.append(timed("dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}))", shown))
        figures["next episode, ms: median and largest"] = [round(median(switches)), round(max(switches))]
        figures["memory of the server, MB"] = round(memory_mb(server.pid))
        browser.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--episodes", type=int, default=100_000)
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = options.run or Path(folder) / "large"
        if not (path / "config.json").exists():
            write_run(path, options.episodes)
        size = sum(file.stat().st_size for file in (path / "episodes").iterdir())
        print(f"{options.episodes:,} episodes, {size / 1e6:,.0f} MB", flush=True)
        for name, value in measure(path, Path(folder) / "home", options.episodes).items():
            print(f"{name}: {value}", flush=True)
        exported = Path(folder) / "export.html"
        begun = time.perf_counter()
        command = [sys.executable, "-m", "searchgym", "view", str(path), "--export", str(exported)]
        subprocess.run(command, check=True, env={**os.environ, "SEARCHGYM_HOME": str(Path(folder) / "home")})
        print(
            f"export of 500 episodes: {exported.stat().st_size / 1e6:.2f} MB, {time.perf_counter() - begun:.1f} s"
        )


if __name__ == "__main__":
    main()
