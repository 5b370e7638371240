"""Takes the picture of docs/course.md: grades four rules for assignment 4 and photographs the leaderboard in Chromium.

    python tests/browser/course_pictures.py

Needs `pip install playwright` and a Chromium of the system.
"""

from __future__ import annotations

import json
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from viewer_pictures import DOCS, find_chromium

from searchgym.trainers.course.assignments import write_solutions
from searchgym.trainers.course.grading import Grader, grades_json
from searchgym.trainers.course.leaderboard import leaderboard_html, read_grades

POOLED = """
def credit(group, probe):
    outcomes, place = {}, {}
    for i, episode in enumerate(group):
        for t, played in enumerate(episode["rounds"]):
            place.setdefault(played["state"], (i, t))
            outcomes.setdefault(played["state"], OWN)
    for number in range(32):
        state = list(place)[number % len(place)]
        outcomes[state].append(probe(*place[state]))
    for i, episode in enumerate(group):
        for t, played in enumerate(episode["rounds"]):
            if COUNT:
                outcomes[played["state"]].append(episode["reward"])
    result = []
    for episode in group:
        values = [sum(o) / len(o) if (o := outcomes[p["state"]]) else 0.5 for p in episode["rounds"]]
        values.append(episode["reward"])
        result.append([values[t + 1] - values[t] for t in range(len(values) - 1)])
    return result
"""
RULES = {
    "Ada": None,  # the solution
    "Grace": POOLED.replace("OWN", "[]").replace("COUNT", "True"),
    "Alan": POOLED.replace("OWN", "[0.5]").replace("COUNT", "False"),
    "Edsger": "def credit(group, probe):\n    return [[e['reward'] - 0.4] * len(e['rounds']) for e in group]\n",
}
"""Invented students and their rules."""


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_solutions(folder / "solutions")
        solution = (folder / "solutions" / "4_own_rule.py").read_text("utf-8")
        grader = Grader(0, [4])
        graded = []
        for student, code in RULES.items():
            (folder / student).mkdir()
            (folder / student / "4_own_rule.py").write_text(code or solution, encoding="utf-8")
            graded.append(grader.grade(folder / student))
        grades = folder / "grades.json"
        grades.write_text(json.dumps(grades_json(0, graded, grader.hidden.references())), encoding="utf-8")
        page_file = folder / "leaderboard.html"
        page_file.write_text(leaderboard_html(read_grades([grades])), encoding="utf-8")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 900, "height": 420})
            page.set_default_timeout(120_000)
            page.goto(page_file.as_uri())
            shot = Image.open(BytesIO(page.screenshot(full_page=True)))
            shot.convert("RGB").quantize(64, kmeans=4).save(DOCS / "course-leaderboard.png", optimize=True)


if __name__ == "__main__":
    main()
