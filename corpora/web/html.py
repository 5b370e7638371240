"""The readable text of a page."""

from __future__ import annotations

import codecs
import re
from collections import Counter

from searchgym.errors import MissingExtraError

try:
    from selectolax.lexbor import LexborHTMLParser
except ModuleNotFoundError as missing:
    raise MissingExtraError("retriever 'web'", missing.name or "selectolax", "web") from missing

__all__ = ["decode", "read_html"]

_LEFT_OUT = "script,style,noscript,template,svg,nav,footer,aside,form,iframe,button,select,textarea"
_BLOCKS = (
    "p,div,li,tr,td,th,dt,dd,h1,h2,h3,h4,h5,h6,br,hr,section,article,blockquote,pre,table,ul,ol,figcaption"
)
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_CLOSED_BY_OTHERS = frozenset(  # elements that need no end tag
    "area base br col embed hr img input link meta source track wbr p li dt dd tr td th thead tbody tfoot option optgroup".split()
)
_MOST_NESTED = 2_000  # the parser takes seconds for 20,000 elements in each other, and minutes for 200,000
_NOT_OF_THE_WEB = (
    frozenset(  # text encodings of Python that browsers do not know: slow, or with lone surrogates
        "utf_7 punycode idna unicode_escape raw_unicode_escape undefined".split()
    )
)
_BREAK = "\x1e"  # between blocks; white space in the source says nothing about them
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)


def decode(body: bytes, charset: str) -> str:
    """The text of a reply.

    Args:
        body: the reply.
        charset: what its headers say; "" if they do not. Then the page's own <meta> counts, else UTF-8.
    """
    declared = _CHARSET.search(body[:4096])
    for name in (charset, declared[1].decode("ascii") if declared else "", "utf-8"):
        try:
            codec = codecs.lookup(name) if name else None
            if codec and codec._is_text_encoding and codec.name.replace("-", "_") not in _NOT_OF_THE_WEB:
                return body.decode(name, errors="replace")
        except (LookupError, ValueError):  # an encoding that does not exist
            continue
    return body.decode("utf-8", errors="replace")


def read_html(source: str) -> tuple[str, str]:
    """(title, text) of a page: one line per block, without scripts, navigation and forms; of <main> only, if there is one.

    Args:
        source: the HTML.

    Raises:
        ValueError: its elements are nested too deeply.
    """
    if _is_too_deep(source):
        raise ValueError("its elements are nested too deeply")
    tree = LexborHTMLParser(source.replace(_BREAK, " "))
    found = tree.css_first("title")
    title = " ".join(found.text().split()) if found is not None else ""
    root = tree.css_first("main") or tree.body
    if root is None:
        return title, ""
    for node in root.css(_LEFT_OUT):
        node.decompose()
    for node in root.css(_BLOCKS):
        node.insert_before(_BREAK)
        node.insert_after(_BREAK)
    lines = (" ".join(line.split()) for line in root.text(separator="").split(_BREAK))
    return title, "\n".join(line for line in lines if line)


def _is_too_deep(source: str) -> bool:
    """Whether more elements are open at the same time than the parser can take."""
    opened: Counter[str] = Counter()
    depth = 0
    for end, name in _TAG.findall(source):
        name = name.lower()
        if name in _CLOSED_BY_OTHERS:
            continue
        if not end:
            opened[name] += 1
            depth += 1
            if depth > _MOST_NESTED:
                return True
        elif opened[name]:
            opened[name] -= 1
            depth -= 1
    return False
