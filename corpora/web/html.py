"""The readable text of a page."""

from __future__ import annotations

import codecs
import re

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
            if name and codecs.lookup(name)._is_text_encoding:
                return body.decode(name, errors="replace")
        except (LookupError, ValueError):  # an encoding that does not exist
            continue
    return body.decode("utf-8", errors="replace")


def read_html(source: str) -> tuple[str, str]:
    """(title, text) of a page: one line per block, without scripts, navigation and forms; of <main> only, if there is one.

    Args:
        source: the HTML.
    """
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
