"""The viewer in a real browser: headless Chromium, driven by Playwright. Skipped where one of them is missing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import CommandLine, wait_until
from viewer_run import hostile, metrics, played, write_run

from searchgym.records.episode import load_episodes, save_episodes
from searchgym.trainers.viewer.library import Library

sync_api = pytest.importorskip("playwright.sync_api")
uvicorn = pytest.importorskip("uvicorn")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page; a test fails if a script of it fails, or its policy is violated."""
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on(
        "console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None
    )
    yield opened
    context.close()
    assert errors == []


class Viewer:
    """A running server.

    Attributes:
        address: of its page.
    """

    def __init__(self, *paths: Path) -> None:
        from searchgym.trainers.viewer.app import create_app

        self.library = Library(list(paths))
        self._server = uvicorn.Server(uvicorn.Config(create_app(self.library), port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, "start of the server")
        self.library.follow()
        self.address = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self.library.close()


@pytest.fixture
def run(toy: str, tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine", toy)


@pytest.fixture
def viewer(run: Path) -> Iterator[Viewer]:
    started = Viewer(run)
    yield started
    started.stop()


def count(page: Any, text: str) -> None:
    """Wait for the number of episodes above the table."""
    page.locator(".count", has_text=text).wait_for()


def test_filters_search_and_links(page: Any, viewer: Viewer) -> None:
    page.goto(viewer.address)
    count(page, "12 of 12 episodes")
    page.get_by_label("right").check()
    page.wait_for_url("**outcome=right")
    right = page.locator(".count").inner_text()
    assert not right.startswith("12 ")
    page.reload()  # the address holds the filter
    count(page, right)
    page.get_by_text("Clear filters").click()
    page.keyboard.press("/")
    page.keyboard.type("zzzz")
    count(page, "0 of 12")
    assert "No episode matches" in page.locator("main").inner_text()
    page.get_by_role("searchbox").fill("reed")
    page.wait_for_url("**q=reed")
    count(page, "12 episodes")
    assert not page.locator(".count").inner_text().startswith("0 ")


def test_a_filter_shows_what_it_would_leave(page: Any, viewer: Viewer, run: Path) -> None:
    def right(name: str) -> int:
        return sum(episode.outcome.em == 1 for episode in load_episodes(run / "episodes" / f"{name}.jsonl"))

    def shown(label: str) -> str:
        return str(page.locator("label", has_text=label).locator("b").inner_text())

    page.goto(viewer.address)
    count(page, "12 of 12")
    assert shown("right") == str(right("train-000001") + right("train-000002") + right("eval-000002"))
    page.get_by_label("right").check()
    page.wait_for_url("**outcome=right")
    assert shown("train") == str(right("train-000001") + right("train-000002"))
    assert shown("eval") == str(right("eval-000002"))
    page.get_by_label("train").check()
    count(page, f"{right('train-000001') + right('train-000002')} of 12")
    assert shown("eval") == str(right("eval-000002"))  # checking it too would add these
    page.get_by_label("eval").check()
    count(page, f"{right('train-000001') + right('train-000002') + right('eval-000002')} of 12")


def test_the_keyboard_leads_through_episodes(page: Any, viewer: Viewer) -> None:
    page.goto(viewer.address)
    count(page, "12 of 12")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.locator(".steps", has_text="2 of 12").wait_for()
    page.keyboard.press("j")
    page.locator(".steps", has_text="3 of 12").wait_for()
    page.keyboard.press("k")
    page.locator(".steps", has_text="2 of 12").wait_for()
    page.keyboard.press("t")
    page.locator(".tokens").wait_for()
    page.keyboard.press("g")
    page.locator("table.tree").wait_for()
    page.keyboard.press("Escape")
    count(page, "12 of 12")


def test_an_episode_shows_gold_credit_and_why_it_ended(page: Any, viewer: Viewer) -> None:
    page.goto(f"{viewer.address}#/episode/mine%2Ftrain-000002/0")
    page.locator("article.episode").wait_for()
    text = page.locator("article").inner_text()
    assert "credit +0.50" in text
    assert "the agent answered" in text
    assert "judge: utility" in text
    assert page.locator(".hits li.gold .star").count() >= 1
    colours = page.locator(".round .credit").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert colours[0] != colours[1]


def test_a_group_shows_where_its_episodes_part(page: Any, viewer: Viewer) -> None:
    page.goto(f"{viewer.address}#/group/mine%2Ftrain-000002/g0")
    page.locator("table.tree").wait_for()
    assert page.locator("td.node").first.get_attribute("colspan") == "2"  # the oracle does the same in both


def test_curves_alarms_and_configuration_of_a_run(page: Any, viewer: Viewer, run: Path) -> None:
    page.goto(f"{viewer.address}#/runs")
    page.locator(".alarms li").wait_for()
    assert "step kl, iteration 1" in page.locator(".alarms").inner_text()
    assert page.locator(".chart svg").count() >= 3
    assert (
        page.locator(".chart").first.locator("circle").count() == 2
    )  # evaluations: points, and no line between them
    assert page.locator(".chart").first.locator("path.line").count() == 0
    with (run / "metrics.jsonl").open("a") as file:  # the run goes on
        file.write(json.dumps(metrics(3, 0.5)) + "\n")
    page.get_by_text("3 of 2").wait_for()


def test_hostile_text_is_shown_as_text(page: Any, toy: str, tmp_path: Path) -> None:
    save_episodes(tmp_path / "odd.jsonl", [hostile(episode) for episode in played(toy, "oracle")])
    viewer = Viewer(tmp_path / "odd.jsonl")
    try:
        page.goto(viewer.address)
        count(page, "4 of 4")
        places = ("#/", "#/episode/odd/0", "#/group/odd/g0", "#/question/x")
        for place in places:
            page.goto(viewer.address + place)
            if place.startswith("#/e"):
                page.keyboard.press("t")
                page.locator(".raw").first.wait_for()
            page.wait_for_timeout(200)
            shown = page.locator("main").inner_text()
            if place != "#/question/x":
                assert "<script>window.hacked = 1</script><img" in shown
            assert not set(shown) & set("\x1b\u202e\u2069")
            assert page.locator("main img, main script").count() == 0
        page.goto(f"{viewer.address}#/episode/odd/0")
        assert "[U+202E]" in page.locator("h1").inner_text()
        page.get_by_text("all episodes of this question").click()
        page.locator("table.tree").wait_for()
        assert page.evaluate("window.hacked") is None
    finally:
        viewer.stop()


def test_counts_of_filters_with_long_names_are_seen(page: Any, toy: str, tmp_path: Path) -> None:
    long = [replace(episode, agent="a model with a long name " * 9) for episode in played(toy, "oracle")]
    save_episodes(tmp_path / "long.jsonl", [*long, *played(toy, "copy", 10)])
    viewer = Viewer(tmp_path / "long.jsonl")
    try:
        page.goto(viewer.address)
        count(page, "8 of 8")
        label = page.locator(".filters label", has_text="a long name")
        panel, number = page.locator(".filters").bounding_box(), label.locator("b").bounding_box()
        assert number["x"] + number["width"] <= panel["x"] + panel["width"]
    finally:
        viewer.stop()


def test_a_run_that_is_written_is_followed(page: Any, viewer: Viewer, run: Path, toy: str) -> None:
    page.goto(viewer.address)
    count(page, "12 of 12")
    save_episodes(run / "episodes" / "train-000003.jsonl", played(toy, "oracle", 90))
    count(page, "16 of 16")
    (run / "episodes" / "train-000001.jsonl").unlink()
    count(page, "12 of 12")


def test_nothing_and_damage_are_said(page: Any, tmp_path: Path, toy: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text('{"schema": 1, "config": {"trainer": "grpo"}}')
    damaged = tmp_path / "damaged.jsonl"
    save_episodes(damaged, played(toy, "oracle"))
    damaged.write_bytes(damaged.read_bytes()[:-200])
    viewer = Viewer(empty)
    try:
        page.goto(viewer.address)
        page.get_by_text("There are no episodes here yet").wait_for()
        for place, text in (
            ("#/episode/empty/3", "no episode"),
            ("#/group/a/b", "no such episodes"),
            ("#/nowhere", "no page"),
        ):
            page.goto(viewer.address + place)
            page.get_by_text(text).wait_for()
    finally:
        viewer.stop()
    viewer = Viewer(damaged)
    try:
        page.goto(viewer.address)
        count(page, "3 of 3")
        page.get_by_text("cut off").wait_for()
    finally:
        viewer.stop()


def test_a_stopped_server_leaves_the_page(page: Any, run: Path) -> None:
    viewer = Viewer(run)
    page.goto(viewer.address)
    count(page, "12 of 12")
    viewer.stop()
    page.get_by_text("The viewer has stopped").wait_for()
    count(page, "12 of 12")


def test_nothing_is_wider_than_a_phone(browser: Any, viewer: Viewer) -> None:
    context = browser.new_context(viewport={"width": 380, "height": 700}, color_scheme="dark")
    page = context.new_page()
    for place in ("#/", "#/episode/mine%2Ftrain-000002/0", "#/group/mine%2Ftrain-000002/g0", "#/runs"):
        page.goto(viewer.address + place)
        page.locator("a.row, article").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 380, place
    page.goto(viewer.address)
    page.get_by_text("Filters").click()
    page.get_by_label("right").check()
    page.get_by_text("Filters (1)").click()
    page.locator("a.row").first.wait_for()
    context.close()


def test_an_exported_file_opens_from_disk(page: Any, cli: CommandLine, run: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert cli("view", str(run), "--export", str(target)).status == 0
    page.context.set_offline(True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(target.as_uri())
    count(page, "12 of 12")
    page.get_by_role("searchbox").fill("reed")
    page.wait_for_url("**q=reed")
    assert not page.locator(".count").inner_text().startswith("0 ")
    page.goto(f"{target.as_uri()}#/episode/mine%2Ftrain-000002/1")
    page.locator("article.episode").wait_for()
    assert "credit +0.50" in page.locator("article").inner_text()
    page.goto(f"{target.as_uri()}#/runs")
    page.locator(".chart svg").first.wait_for()
    assert {url.partition("#")[0] for url in asked} == {target.as_uri()}
