"""Draws the diagrams of the documentation.

    python tests/docs/diagrams.py

Writes docs/images/data-flow.svg and docs/images/layers.svg. The text of a box is set in a font of the reader's system; boxes are
wide enough for the usual ones. Colours are readable on a light and on a dark page.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"

_STYLE = """
text{font-family:Helvetica,Arial,sans-serif;fill:#1b1f24}.t{font-size:15px;font-weight:600}.s{font-size:12.5px;fill:#444c56}
.h{font-size:14px;font-weight:600;fill:#57606a}.a{stroke:#57606a;stroke-width:1.6;fill:none;marker-end:url(#m)}.l{font-size:12px;fill:#57606a}
"""
_MARKER = (
    '<marker id="m" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path d="M0 0L10 5L0 10z" fill="#57606a"/></marker>'
)
BLUE, GREEN, ORANGE, GRAY = "#dbeafe", "#dcfce7", "#ffedd5", "#f1f3f5"


class Drawing:
    """An SVG in the making.

    Args:
        width: pixels.
        height: pixels.
        title: what screen readers say.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size, self._title = (width, height), title
        self._parts: list[str] = []

    def box(self, x: int, y: int, w: int, h: int, fill: str, title: str, *lines: str) -> None:
        """A box with a title and lines of small text."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="7" fill="{fill}" stroke="#8c959f"/>'
        )
        top = y + h / 2 - 8.5 * len(lines) + 5
        self.text(x + w / 2, top, title, "t", "middle")
        for number, line in enumerate(lines, 1):
            self.text(x + w / 2, top + 17 * number, line, "s", "middle")

    def frame(self, x: int, y: int, w: int, h: int, title: str, inset: int = 14) -> None:
        """A frame around boxes, its title `inset` pixels from the left."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="10" fill="#ffffff" stroke="#d0d7de"/>'
        )
        self.text(x + inset, y + 22, title, "h")

    def text(self, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
        """A line of text."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def arrow(self, path: str, label: str = "", at: tuple[int, int] = (0, 0), anchor: str = "middle") -> None:
        """An arrow along an SVG path, with a label."""
        self._parts.append(f'<path d="{path}" class="a"/>')
        if label:
            self.text(*at, label, "l", anchor)

    def write(self, name: str) -> None:
        """Write the file."""
        width, height = self._size
        body = "\n".join(self._parts)
        (IMAGES / name).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img"><title>{escape(self._title)}</title><style>{_STYLE}</style><defs>{_MARKER}</defs>\n'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n',
            encoding="utf-8",
        )


def data_flow() -> Drawing:
    """From a question to an update of the weights."""
    d = Drawing(
        980, 540, "Data flow: from a question through the rounds of an episode to an update of the weights"
    )
    d.frame(12, 10, 956, 262, "An episode: one round of search is one step")
    d.box(34, 60, 130, 64, GRAY, "Question", "reset()")
    d.box(230, 60, 160, 64, BLUE, "Observation", "only the new text")
    d.box(460, 60, 150, 64, ORANGE, "Agent", "writes one message")
    d.box(680, 60, 262, 64, GREEN, "step(message): parse the act", "search, answer, feedback or invalid")
    d.box(460, 182, 150, 64, GREEN, "Retriever", "hits of each query")
    d.box(736, 182, 206, 64, GREEN, "Outcome", "EM, F1, recall, stop reason")
    d.arrow("M164 92H226")
    d.arrow("M390 92H456")
    d.arrow("M610 92H676")
    d.arrow("M705 124V214H614", "search", (660, 206))
    d.arrow("M772 124V178", "answer, or a budget is spent", (780, 156), "start")
    d.arrow("M460 214H310V128", "hits", (385, 206))
    d.text(34, 206, "after feedback or an invalid message: what", "l")
    d.text(34, 222, "the verifier says, or what was wrong", "l")
    d.frame(12, 290, 956, 238, "Training: groups of episodes of one question", 160)
    d.box(34, 340, 190, 74, BLUE, "Episode", "rounds, tokens, log-probs,", "verdicts of a judge")
    d.box(290, 340, 170, 74, GRAY, "Group", "episodes of one", "question, compared")
    d.box(526, 340, 190, 74, GREEN, "credit(groups)", "per episode, round or", "token: the algorithm")
    d.box(772, 340, 170, 74, GREEN, "Batch", "advantage of each", "sampled token")
    d.box(772, 444, 170, 64, GREEN, "loss(batch)", "minibatches, clipping")
    d.box(526, 444, 190, 64, ORANGE, "Update", "new weights of the agent")
    d.arrow("M839 246V281H129V336", "recorded", (300, 277))
    d.arrow("M224 377H286")
    d.arrow("M460 377H522")
    d.arrow("M716 377H768")
    d.arrow("M857 414V440")
    d.arrow("M772 476H720")
    d.arrow("M526 476H470", "the agent of the next iteration", (462, 480), "end")
    return d


def layers() -> Drawing:
    """The four packages and the direction of imports."""
    d = Drawing(860, 420, "Layers: searchgym, corpora, agents, trainers; each imports only those below it")
    rows = [
        (ORANGE, "trainers/  (searchgym.trainers)", "algorithms, one per file; the loop; runs; benchmark; credit audit", "PyTorch"),
        (ORANGE, "agents/  (searchgym.agents)", "scripted, candidate policy, tiny model, chat models, APIs, planner", "PyTorch for those that learn"),
        (GREEN, "corpora/  (searchgym.corpora)", "generated world, JSONL, Hub; BM25, dense, Lucene, Milvus; the service", "NumPy"),
        (BLUE, "searchgym/", "environment, scoring, judges, rollouts, tables, command line", "Gymnasium, NumPy; no PyTorch"),
    ]  # fmt: skip
    for number, (fill, title, contents, needs) in enumerate(rows):
        y = 20 + 92 * number
        d.box(20, y, 640, 70, fill, title, contents, f"needs: {needs}")
        if number:
            d.arrow(f"M340 {y - 22}V{y - 3}")
    d.text(356, 106, "imports", "l")
    d.box(
        690,
        112,
        150,
        254,
        GRAY,
        "Your package",
        "corpora, retrievers,",
        "judges, agents,",
        "trainers, commands:",
        "found by name through",
        "entry points, as the",
        "built-in ones are",
    )
    d.text(20, 400, "Imports run downwards only; a test checks it.", "l")
    return d


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    data_flow().write("data-flow.svg")
    layers().write("layers.svg")
