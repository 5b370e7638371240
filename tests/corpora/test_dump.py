"""A Wikipedia dump to passages, on a dump written for the purpose: what is kept, killed and resumed, damaged."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import preloaded
import pytest

pytest.importorskip("mwparserfromhell", reason="the parser of wikitext comes with the extra 'dump'")

from searchgym.conformance import check_corpus
from searchgym.corpora.datasets import wikipedia as module
from searchgym.corpora.datasets.jsonl import open_jsonl
from searchgym.corpora.datasets.wikipedia import estimate_dump, import_dump
from searchgym.corpora.datasets.wikipedia_xml import DumpReader
from searchgym.errors import ConfigError, CorpusError, MissingExtraError

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>tstwiki</dbname>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Talk</namespace>
      <namespace key="6" case="first-letter">Fichier</namespace>
      <namespace key="14" case="first-letter">Catégorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"
LONG = " ".join(f"word{n}" for n in range(250))


def page(id: int, title: str, text: str | None, *, namespace: int = 0, redirect: str = "") -> str:
    target = f'    <redirect title="{redirect}" />\n' if redirect else ""
    body = "<text />" if text is None else f'<text xml:space="preserve">{escape(text)}</text>'
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{namespace}</ns>\n    <id>{id}</id>\n{target}"
        f"    <revision>\n      <id>{id + 900}</id>\n      <model>wikitext</model>\n      {body}\n"
        "    </revision>\n  </page>\n"
    )


PAGES = [
    page(
        12,
        "Aln & Bor",
        "{{Infobox river|length={{convert|5|km}}}}'''Aln''' is a [[river]].<ref>x</ref>\n== Course ==\n"
        + LONG,
    ),
    page(13, "Aln river", "#REDIRECT [[Aln]]", redirect="Aln"),
    page(20, "Talk:Aln", "Nice.", namespace=1),
    page(21, "Bor (disambiguation)", "'''Bor''' is a town or a hill."),
    page(22, "Voss", "'''Voss''' may be:\n* [[Mira Voss]]\n{{disambig}}"),
    page(25, "東京 “Tokyo”", "[[Fichier:x.jpg|thumb|Caption]]東京は首都。 [[Catégorie:Ville]]"),
    page(26, "Nothing", "{{Infobox only}}"),
    page(27, "Gone", None),
    page(39, "Open", "Text with {{unclosed and [[more.\n<nowiki>[[kept]]</nowiki>"),
    page(1_234_567, "Huge", f"Start. {LONG * 40}"),
]
EXPECTED = {
    "pages": 10,
    "articles": 4,
    "redirects": 1,
    "other_namespaces": 1,
    "disambiguation": 2,
    "empty": 2,
    "failures": 0,
}


def plain(pages: list[str]) -> bytes:
    return (HEAD + "".join(pages) + TAIL).encode()


def single(pages: list[str]) -> bytes:
    return bz2.compress(plain(pages))


def multistream(pages: list[str], each: int = 2) -> bytes:
    """As Wikimedia makes them: the head, groups of whole pages and the end are streams of their own."""
    groups = ["".join(pages[start : start + each]) for start in range(0, len(pages), each)]
    return b"".join(bz2.compress(part.encode()) for part in (HEAD, *groups, TAIL))


def split_anywhere(pages: list[str], each: int = 333) -> bytes:
    """As parallel compressors make them: streams begin in the middle of pages, tags and characters."""
    data = plain(pages)
    return b"".join(bz2.compress(data[start : start + each]) for start in range(0, len(data), each))


def write(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))
    return file


def rows(directory: Path) -> list[dict[str, Any]]:
    with gzip.open(directory / "passages.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_articles_become_passages(tmp_path: Path) -> None:
    pages = [*PAGES[:-1], page(1_234_567, "Huge", f"Start. {LONG * 800}")]
    out = import_dump(write(tmp_path / "tst.xml.bz2", single(pages)), tmp_path / "out")
    passages = rows(out)
    assert [row["id"] for row in passages[:5]] == [
        "0000000012-00000",
        "0000000012-00001",
        "0000000012-00002",
        "0000000025-00000",
        "0000000039-00000",
    ]
    assert passages[0]["title"] == "Aln & Bor"
    assert passages[0]["text"].startswith("Aln is a river. word0 word1 ")
    assert len(passages[0]["text"].split()) == 100
    assert passages[2]["text"].endswith(" word249")
    assert passages[3] == {"id": "0000000025-00000", "title": "東京 “Tokyo”", "text": "東京は首都。"}
    assert passages[4]["text"] == "Text with kept"
    assert [row["id"] for row in passages] == sorted(row["id"] for row in passages)
    card = json.loads((out / "card.json").read_text("utf-8"))
    assert {name: card[name] for name in EXPECTED} == EXPECTED
    assert (card["site"], card["passages"], card["failed"]) == ("tstwiki", len(passages), [])
    corpus = open_jsonl(out)
    check_corpus(corpus)
    assert len(corpus.passages) == len(passages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "tst.xml.bz2"]


@pytest.mark.parametrize("form", [plain, multistream, split_anywhere])
def test_however_it_is_compressed_the_passages_are_the_same(
    form: Callable[[list[str]], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchgym.corpora.datasets.wikipedia_xml._CHUNK", 10_000)  # many to a file
    first = import_dump(write(tmp_path / "a.xml.bz2", single(PAGES)), tmp_path / "first")
    second = import_dump(write(tmp_path / "b.xml.bz2", form(PAGES)), tmp_path / "second")
    assert rows(first) == rows(second)


def test_several_processes_make_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 100)
    file = write(tmp_path / "a.xml.bz2", single(PAGES))
    one = import_dump(file, tmp_path / "one")
    several = import_dump(file, tmp_path / "several", workers=2)
    for name in ("passages.jsonl.gz", "card.json"):
        assert (one / name).read_bytes() == (several / name).read_bytes()


def test_disambiguation_pages_can_be_kept_or_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.xml.bz2", single([*PAGES[:5], page(50, "Bor", "{{Homonymie}}Bor est.")]))
    kept = import_dump(file, tmp_path / "kept", keep_disambiguation=True, words=50)
    assert [row["title"] for row in rows(kept)][-3:] == ["Bor (disambiguation)", "Voss", "Bor"]
    assert len(rows(kept)[0]["text"].split()) == 50
    fewer = import_dump(file, tmp_path / "fewer", disambiguation_templates=("homonymie",))
    assert {row["title"] for row in rows(fewer)} == {"Aln & Bor"}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("form", [single, multistream, split_anywhere, plain])
@pytest.mark.parametrize("batches", [1, 2, 5])
def test_an_interrupted_import_goes_on_where_it_was(
    form: Callable[[list[str]], bytes], batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 40)
    monkeypatch.setattr("searchgym.corpora.datasets.wikipedia_xml._CHUNK", 200)
    file = write(tmp_path / "a.xml.bz2", form(PAGES))
    whole = import_dump(file, tmp_path / "whole")
    seen = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            raise Stopped

    with pytest.raises(Stopped):
        import_dump(file, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    (work,) = tmp_path.glob(".out.*.part")
    state = json.loads((work / "state.json").read_text())
    if form is multistream and batches == 5:
        assert state["stream"] > 0  # what is done is not even read again
    with (work / "passages.jsonl.gz").open("ab") as half:
        half.write(b"half a batch, written when the import was killed")
    cleaned: list[str] = []
    monkeypatch.setattr(module, "_clean", lambda a, *rest: cleaned.extend(x[1] for x in a) or CLEAN(a, *rest))
    out = import_dump(file, tmp_path / "out")
    assert "Aln & Bor" not in cleaned
    for name in ("passages.jsonl.gz", "card.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not list(tmp_path.glob(".out*"))


CLEAN = module._clean


def test_killed_with_its_workers_and_resumed(tmp_path: Path) -> None:
    pages = [page(n, f"Article {n}", f"About {n}. " + "[[a|b]] {{c|d}} word " * 60) for n in range(1, 501)]
    file = write(tmp_path / "a.xml.bz2", multistream(pages, 10))
    code = (
        "import sys\nfrom searchgym.corpora.datasets import wikipedia as dump\n"
        "if __name__ == '__main__':\n"
        "    dump._BATCH = 8_000\n"
        "    dump.import_dump(sys.argv[1], sys.argv[2], workers=2)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(file), str(tmp_path / "out")]
    process = preloaded.PreloadedPopen(command)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.part/state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    (work,) = tmp_path.glob(".out.*.part")
    done = json.loads((work / "state.json").read_text())["articles"]
    assert 0 < done < len(pages)
    preloaded.run(command, check=True, timeout=120)
    passages = rows(tmp_path / "out")
    assert len({row["title"] for row in passages}) == len(pages)
    assert [row["id"] for row in passages] == sorted({row["id"] for row in passages})
    assert not [pid for pid in children if _alive(pid)]


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (single(PAGES)[:-30], r"compressed data ends or is damaged.*Copy the file again"),
        (multistream(PAGES)[:-60], r"dump, or damaged after 'Huge' .*Copy the file again|ends or is damaged"),
        (multistream(PAGES)[:1000] + b"\0" * 40 + multistream(PAGES)[1040:], r"ends or is damaged"),
        (single(PAGES) + b"\0" * 20, r"ends or is damaged after 'Huge'"),
        (b"BZh9 not really", "ends or is damaged"),
        (b"id,title\n1,Aln\n", "not a MediaWiki XML dump, or damaged"),
        (b"", "not a MediaWiki XML dump"),
        (bz2.compress(b"<mediawiki></mediawiki>"), "contains no articles"),
        (single([page(1, "T", "x", namespace=1)]), "contains no articles"),
        (plain([PAGES[0].replace("<id>12</id>", "<id>x</id>")]), "page 'Aln & Bor' has the id 'x'"),
    ],
    ids=range(10),
)
def test_files_that_are_no_dump_or_a_damaged_one(data: bytes, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.xml.bz2", data)
    with pytest.raises(CorpusError, match=message) as caught:
        import_dump(file, tmp_path / "out")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["a.xml.bz2"]


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.xml.bz2", single(PAGES))
    with pytest.raises(CorpusError, match="is not a file"):
        import_dump(tmp_path / "none.bz2", tmp_path / "out")
    with pytest.raises(ConfigError, match="words is 4: give a whole number from 5"):
        import_dump(file, tmp_path / "out", words=4)
    with pytest.raises(ConfigError, match="workers is -1"):
        import_dump(file, tmp_path / "out", workers=-1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        import_dump(file, tmp_path / "full")
    monkeypatch.setattr("searchgym.corpora.indexing.disk.free_disk", lambda _: 1000)
    with pytest.raises(ConfigError, match=r"importing a.xml.bz2 needs"):
        import_dump(file, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    with pytest.raises(MissingExtraError, match=r'pip install "searchgym\[dump\]"'):
        import_dump(file, tmp_path / "out")


@pytest.mark.parametrize("words", [5, 100, 10_000])
@pytest.mark.parametrize("packed", [True, False])
def test_it_takes_no_more_disk_than_it_says(tmp_path: Path, words: int, packed: bool) -> None:
    rng = random.Random(0)
    vocabulary = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(3000)
    ]
    pages = [page(n + 1, f"Page {n}", " ".join(rng.choices(vocabulary, k=400))) for n in range(150)]
    file = write(tmp_path / ("a.xml.bz2" if packed else "a.xml"), (single if packed else plain)(pages))
    out = import_dump(file, tmp_path / "out", words=words, workers=0)
    assert sum(path.stat().st_size for path in out.iterdir()) <= estimate_dump(file, words)


def test_it_is_done_once_and_again_with_other_settings_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.xml.bz2", single(PAGES))
    out = import_dump(file, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_build", None)
        assert import_dump(file, out) == out
    with pytest.raises(ConfigError, match="is not empty"):
        import_dump(file, out, words=50)


def test_an_article_the_parser_cannot_read_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(text: str, left_out: set[str]) -> str:
        if "river" in text:
            raise RecursionError
        return "fine"

    monkeypatch.setattr(module, "plain_text", fail)
    out = import_dump(write(tmp_path / "a.xml.bz2", single(PAGES)), tmp_path / "out")
    card = json.loads((out / "card.json").read_text("utf-8"))
    assert (card["failures"], card["failed"]) == (1, ["Aln & Bor: RecursionError"])
    assert "Huge" in {row["title"] for row in rows(out)}


def test_the_reader_takes_the_last_of_several_revisions(tmp_path: Path) -> None:
    twice = PAGES[1].replace("</revision>\n", "</revision>\n<revision><text>newer</text></revision>\n")
    (read,) = DumpReader(write(tmp_path / "a.xml", plain([twice]))).pages()
    assert (read.id, read.text, read.redirect) == (13, "newer", True)
