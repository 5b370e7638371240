"""Reads the pages of a Wikipedia XML dump as a stream, from the beginning or from the position of an earlier reader."""

from __future__ import annotations

import bz2
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import CorpusError

from .wikitext import FILE_AND_CATEGORY

__all__ = ["DumpReader", "Page"]

_CHUNK = 1 << 18  # compressed bytes read at a time
_MAX_DECOMPRESSED = 1 << 22  # bytes decompressed at a time


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a dump, with the wikitext of its last revision; `namespace` is "0" for articles."""

    id: int
    title: str
    namespace: str
    redirect: bool
    text: str


class DumpReader:
    """Reads the pages of a dump one at a time and keeps the position in the file.

    Args:
        file: `….xml.bz2`, multistream or not, or plain `.xml`.
        stream: the byte to start at: 0, or the `stream` of an earlier reader.
        skip: pages to skip from there: the `done` of an earlier reader.
        site: the `site` of an earlier reader, if this one does not start at 0.
        left_out: the `left_out` of an earlier reader, if this one does not start at 0.

    Attributes:
        stream: the byte at which the last compressed stream began whose first page is complete.
        done: pages returned since then.
        read: bytes of the file read so far.
        site: the name of the wiki.
        left_out: the wiki's names of the namespaces of files and categories, in lower case.
    """

    def __init__(
        self, file: Path, stream: int = 0, skip: int = 0, site: str = "", left_out: Collection[str] = ()
    ) -> None:
        self.stream = self.read = stream
        self.done = 0
        self.site = site
        self.left_out = set(left_out) | FILE_AND_CATEGORY
        self._file = file
        self._skip = skip
        self._title = ""

    def pages(self) -> Iterator[Page]:
        """The pages; raises `CorpusError` if the file is damaged or not a dump."""
        parser: Any = ElementTree.XMLPullParser(("start", "end"))
        depth = 0
        root: ElementTree.Element | None = None
        tail = b""
        try:
            if self.stream:  # in the middle of the document, after the start of its root
                parser.feed("<mediawiki>")
            for data, next_stream in self._decompressed():
                parser.feed(data)
                for event, element in parser.read_events():
                    depth += 1 if event == "start" else -1
                    if root is None:
                        root = element
                    if event == "end" and depth == 1:
                        name = element.tag.rpartition("}")[2]
                        if name == "siteinfo":
                            self._note_site(element)
                        elif name == "page":
                            self.done += 1
                            if self.done > self._skip:
                                yield self._page(element)
                        root.clear()
                tail = (tail + data)[-100:]
                if next_stream and depth == 1 and tail.rstrip().endswith((b"</page>", b"</siteinfo>")):
                    self.stream, self.done, self._skip = next_stream, 0, 0
            parser.close()
        except ElementTree.ParseError as error:
            after = f" after {self._title!r}" if self._title else ""
            raise CorpusError(
                f"{self._file}: not a MediaWiki XML dump, or damaged{after} ({error}). Copy the file again"
            ) from None

    def _decompressed(self) -> Iterator[tuple[bytes, int]]:
        """Parts of the XML, each with 0, or with the start of the next compressed stream after the last part of one."""
        with self._file.open("rb") as stream:
            packed = stream.read(3) == b"BZh"
            stream.seek(self.stream)
            expander, begun = bz2.BZ2Decompressor(), False
            while chunk := stream.read(_CHUNK):
                self.read = stream.tell()
                if not packed:
                    yield chunk, 0
                    continue
                while chunk or not expander.needs_input:
                    try:
                        data = expander.decompress(chunk, _MAX_DECOMPRESSED)
                    except OSError as error:
                        raise self._damaged(str(error)) from None
                    chunk, begun = b"", True
                    if expander.eof:
                        chunk = expander.unused_data
                        expander, begun = bz2.BZ2Decompressor(), False
                        yield data, stream.tell() - len(chunk)
                    else:
                        yield data, 0
            if begun:
                raise self._damaged("it ends in the middle")

    def _damaged(self, why: str) -> CorpusError:
        after = f" after {self._title!r}" if self._title else ""
        return CorpusError(
            f"{self._file}: the compressed data ends or is damaged{after} ({why}). Copy the file again"
        )

    def _page(self, element: ElementTree.Element) -> Page:
        texts = list(element.iterfind("{*}revision/{*}text"))  # of several revisions, the last
        self._title = element.findtext("{*}title") or ""
        id = element.findtext("{*}id") or ""
        if not id.isascii() or not id.isdigit():
            raise CorpusError(f"{self._file}: page {self._title!r} has the id {id!r}, not a number")
        return Page(
            int(id),
            self._title,
            element.findtext("{*}ns") or "0",
            element.find("{*}redirect") is not None,
            (texts[-1].text or "") if texts else "",
        )

    def _note_site(self, element: ElementTree.Element) -> None:
        self.site = element.findtext("{*}dbname") or element.findtext("{*}sitename") or ""
        for space in element.iterfind("{*}namespaces/{*}namespace"):
            if space.get("key") in ("-2", "6", "14") and space.text:
                self.left_out.add(space.text.lower())
