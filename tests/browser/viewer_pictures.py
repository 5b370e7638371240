"""Takes the pictures of docs/viewer.md: trains a small agent, opens the viewer on the run, photographs its pages in Chromium.

    python tests/browser/viewer_pictures.py                  # two minutes of training on two cores, then the pictures
    python tests/browser/viewer_pictures.py runs/a runs/b    # of runs that exist; of the first one except for the curves

Needs `pip install playwright` and a Chromium of the system.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from searchgym.records.episode import Episode, load_episodes
from searchgym.trainers import load_credit

DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"
SIZE = {"width": 1240, "height": 780}


def train(folder: Path) -> list[Path]:
    """Runs of two trainers on the same questions."""
    runs = []
    for trainer in ("cw-grpo", "grpo"):
        runs.append(folder / trainer)
        options = [
            "--env-option",
            "judge=oracle",
            "--iterations",
            "12",
            "--eval-every",
            "4",
            "--eval-episodes",
            "60",
        ]
        command = [
            sys.executable,
            "-m",
            "searchgym",
            "train",
            "--trainer",
            trainer,
            "--run-dir",
            str(runs[-1]),
            *options,
        ]
        subprocess.run(command, check=True)
    return runs


def most_different(episodes: list[Episode]) -> list[Episode]:
    """The group with the most different acts among those with right and wrong answers."""
    groups: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        groups[episode.group_id].append(episode)
    mixed = [group for group in groups.values() if len({e.outcome.em for e in group}) > 1]
    return max(mixed, key=lambda group: len({tuple(r.action for r in e.rounds) for e in group}))


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(name) for name in sys.argv[1:]] or train(Path(folder))
        command = [sys.executable, "-m", "searchgym", "view", *map(str, runs), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split(": ", 1)[1].split(" ", 1)[0]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
                take(browser, address, runs[0])
        finally:
            server.kill()


def find_chromium() -> str:
    """The browser of the system."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(path for name in names if (path := shutil.which(name)))


def take(browser: Any, address: str, run: Path) -> None:
    """All pictures."""
    newest = max((run / "episodes").glob("train-*.jsonl"))
    episodes = list(load_episodes(newest))
    group = most_different(episodes)
    wrong = next(e for e in group if e.outcome.em < 1)
    given = load_credit(run, int(newest.stem.split("-")[1])).episodes
    valid = [i for i, e in enumerate(episodes) if all(r.action.kind != "invalid" for r in e.rounds)]
    varied = max(valid, key=lambda i: np.ptp(given[i].rounds_R) if given[i].status == "learned" else -1)
    file = f"{run.name}%2F{newest.stem}"
    pages = {
        "viewer": f"#/episode/{file}/{varied}",
        "viewer-episodes": "#/?outcome=wrong",
        "viewer-group": f"#/group/{file}/{group[0].group_id}",
        "viewer-run": "#/runs",
        "viewer-dark": f"#/episode/{file}/{varied}",
        "viewer-phone": f"#/episode/{file}/{episodes.index(wrong)}",
    }
    DOCS.mkdir(exist_ok=True)
    for name, place in pages.items():
        size = {"width": 390, "height": 780} if name.endswith("phone") else SIZE
        context = browser.new_context(
            viewport=size, color_scheme="dark" if name.endswith("dark") else "light"
        )
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator("a.row").first.wait_for()
        page.goto(address + place)
        page.locator("a.row, .round, .tree, .chart svg").first.wait_for()
        page.wait_for_timeout(500)
        shot = Image.open(BytesIO(page.screenshot(timeout=120_000)))
        shot.convert("RGB").quantize(256, kmeans=4).save(DOCS / f"{name}.png", optimize=True)
        context.close()


if __name__ == "__main__":
    main()
