"""Prints how quickly a Wikipedia dump becomes passages.

    python tests/benchmarks/bench_dump.py [FILE.xml.bz2] [--workers 1] [--articles 2000]

Without a file it makes a dump of articles with the usual markup: an infobox, links, references with citation
templates, a table, a gallery, categories. Articles differ in length, so the megabytes of wikitext per second carry over
to other dumps, the articles do not.
"""

from __future__ import annotations

import argparse
import bz2
import json
import random
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape

from searchgym.corpora.datasets.wikipedia import import_dump
from searchgym.corpora.datasets.wikipedia_xml import DumpReader


def make_dump(file: Path, articles: int) -> Path:
    """A multistream dump: a hundred pages to a stream, a third of the pages redirects, as in English Wikipedia."""
    draw = random.Random(0)
    words = [f"{draw.choice('bdfglmnprst')}{draw.randrange(26**4):x}" for _ in range(20_000)]

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    def sentence() -> str:
        cite = f'<ref name="{draw.choice(words)}">{{{{cite web |url=http://a.b/{draw.choice(words)} |title={text(6)} }}}}</ref>'
        link = f"[[{text(2)}|{text(2)}]]" if draw.random() < 0.5 else f"[[{text(2)}]]"
        return f"{text(9)} {link} {text(5)} ''{text(2)}''. " + (cite if draw.random() < 0.4 else "")

    def article() -> str:
        box = "\n".join(f"| {word} = [[{text(2)}]]" for word in draw.choices(words, k=15))
        parts = [f"{{{{Infobox thing\n{box}\n}}}}\n'''{text(2)}''' is a {sentence()}"]
        for _ in range(int(draw.lognormvariate(1.2, 0.8)) + 1):
            parts.append(f"== {text(2)} ==\n" + "".join(sentence() for _ in range(draw.randrange(4, 30))))
        cells = "\n".join(f"|-\n| {text(2)} || {text(1)}" for _ in range(10))
        parts += [
            f'{{| class="wikitable"\n{cells}\n|}}',
            "== References ==\n{{reflist}}",
            "[[Category:Things]]",
        ]
        return "\n\n".join(parts)

    pages = []
    for number in range(articles + articles // 2):
        body = article() if number % 3 else f"#REDIRECT [[{text(2)}]]"
        redirect = "" if number % 3 else '<redirect title="x" />'
        pages.append(
            f"<page><title>{text(2)} {number}</title><ns>0</ns><id>{number + 1}</id>{redirect}"
            f"<revision><text>{escape(body)}</text></revision></page>\n"
        )
    streams = ["".join(pages[start : start + 100]) for start in range(0, len(pages), 100)]
    with file.open("wb") as out:
        for part in ("<mediawiki>\n", *streams, "</mediawiki>\n"):
            out.write(bz2.compress(part.encode()))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--articles", type=int, default=2_000, help="of the dump that is made")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: this one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        file = arguments.file or make_dump(Path(work) / "made.xml.bz2", arguments.articles)
        started = time.process_time()
        articles = [p for p in DumpReader(file).pages() if p.namespace == "0" and not p.redirect]
        read = time.process_time() - started
        wikitext = sum(len(page.text.encode()) for page in articles) / 1e6
        started, worked = time.perf_counter(), time.process_time()
        out = import_dump(file, Path(work) / "out", workers=arguments.workers)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        card = json.loads((out / "card.json").read_text("utf-8"))
        size = (out / "passages.jsonl.gz").stat().st_size
        print(
            f"dump: {card['pages']:,} pages, {card['articles']:,} articles, {wikitext:.1f} MB of wikitext in "
            f"{seconds:.1f} s with {arguments.workers} worker processes: {card['pages'] / seconds:,.0f} pages/s, "
            f"{wikitext / seconds:.2f} MB/s ({worked:.1f} s of this process's processor time: "
            f"{card['pages'] / worked:,.0f} pages and {wikitext / worked:.2f} MB per second of it; reading alone takes "
            f"{read:.1f}), {card['passages']:,} passages, {size / file.stat().st_size:.2f} of the dump's size"
        )


if __name__ == "__main__":
    main()
