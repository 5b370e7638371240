"""From wikitext to plain text and passages; the extra `dump` (mwparserfromhell parses the markup).

Omitted are templates (except those in `_KEPT`), tables, references, comments, images and categories with their captions,
galleries, formulas, headings, and the sections of links and notes at the end of an article. Templates are not expanded,
so information that only a template contains (an infobox, a chart, a population figure) is not in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node, Tag, Template, Wikilink
    from mwparserfromhell.wikicode import Wikicode

__all__ = ["FILE_AND_CATEGORY", "chunk_words", "is_disambiguation", "plain_text"]

FILE_AND_CATEGORY = frozenset({"file", "image", "media", "category"})
"""The English names of namespaces whose links are not text; every wiki accepts them in addition to its own names."""

_DROPPED_TAGS = frozenset(
    "ref references table gallery math chem ce score timeline syntaxhighlight source imagemap templatestyles "
    "indicator graph mapframe maplink hiero includeonly style script inputbox section categorytree".split()
)
_DROPPED_SECTIONS = frozenset(
    "references|notes|footnotes|citations|sources|bibliography|further reading|external links|see also|notes and "
    "references|references and notes|works cited|gallery".split("|")
)
_BREAKS = frozenset("br hr li dd dt p div".split())

_DISAMBIGUATION = frozenset(
    "dab disamb hndis geodis numberdis mathdab mathdis roaddis dmbox callsigndis".split()
)
_TEMPLATE_NAME = re.compile(r"\{\{\s*([^{}|\n#:<>]+?)\s*(?:\||\}\})")
_MAX_UNCLOSED = 500
_UNCLOSED = (("{{", "}}"), ("{|", "|}"), ("[http", "]"), ("<nowiki>", "</nowiki>"))
_TAG = re.compile(r"<(/?)(?!br\b|hr\b|li\b|d[dt]\b)[A-Za-z][^<>]*(?<!/)>")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_MARKERS = re.compile(r"^([*#:;]{20})[*#:;]+", re.MULTILINE)
_NUMBER = re.compile(r"formatnum:\s*[\d.,-]+")
_INTERWIKI = re.compile(r"[a-z]{2,3}(-[a-z]+)*|simple|species|commons")

# Markup that is not closed stays in the text; these patterns remove the rest of it.
_REST = (
    (re.compile(r"^\s*(\{\||\|\}|\|-|\||!|\}\}).*$", re.MULTILINE), ""),
    (re.compile(r"\{\{[^{}\n]*$", re.MULTILINE), ""),
    (re.compile(r"</?[A-Za-z][^<>\n]*>"), ""),
    (re.compile(r"\[\[(?:[^\[\]|\n]*\|)?|\]\]|\{\{|\}\}|'{2,5}"), ""),
    (re.compile(r"__[A-Z]+__"), ""),
    (re.compile(r"^[ \t]*[*#:;]+[ \t]*", re.MULTILINE), ""),
)
# Repairs punctuation around omitted markup, in lines whose words are separated by single spaces.
_PUNCTUATION = (
    (re.compile(r"\([,;: ]*\)"), ""),
    (re.compile(r"\( ?[,;]? "), "("),
    (re.compile(r" ([,.;:)])"), r"\1"),
)


def plain_text(wikitext: str, left_out: Collection[str] = FILE_AND_CATEGORY) -> str:
    """The running text of an article, its paragraphs in lines.

    Args:
        wikitext: the article's source.
        left_out: namespaces (lower case) whose links are omitted with their captions.

    Raises:
        ValueError: hundreds of templates, tables, links or tags are not closed. The parser's time grows with the
            square of their number, up to days for a page.
    """
    import mwparserfromhell

    wikitext = _MARKERS.sub(r"\1", _COMMENT.sub("", wikitext))
    open_tags = sum(-1 if match[1] else 1 for match in _TAG.finditer(wikitext))
    unclosed = max(open_tags, *(wikitext.count(begin) - wikitext.count(end) for begin, end in _UNCLOSED))
    if unclosed > _MAX_UNCLOSED:
        raise ValueError(f"{unclosed} pieces of markup are not closed")
    out: list[str] = []
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    _render(code, out, left_out)
    text = "".join(out)
    for pattern, replacement in _REST:
        text = pattern.sub(replacement, text)
    lines = []
    for line in text.split("\n"):
        line = " ".join(line.split())
        for pattern, replacement in _PUNCTUATION:
            line = pattern.sub(replacement, line)
        if line := " ".join(line.split()):
            lines.append(line)
    return "\n".join(lines)


def chunk_words(text: str, words: int = 100) -> list[str]:
    """Passages of `words` words; a rest of less than a fifth is added to the previous passage."""
    all_words = text.split()
    starts = list(range(0, len(all_words), words))
    if len(starts) > 1 and len(all_words) - starts[-1] < words / 5:
        starts.pop()
    ends = [*starts[1:], len(all_words)][: len(starts)]
    return [" ".join(all_words[start:end]) for start, end in zip(starts, ends, strict=True)]


def is_disambiguation(title: str, wikitext: str, templates: Collection[str] = ()) -> bool:
    """Whether a page is a disambiguation page, by its title, magic word or templates.

    Args:
        title: the page's title.
        wikitext: its source.
        templates: names (lower case) of further templates of such pages; those of the English Wikipedia are known.
    """
    if title.endswith("(disambiguation)") or "__DISAMBIG__" in wikitext:
        return True
    for match in _TEMPLATE_NAME.finditer(wikitext):
        name = " ".join(match[1].replace("_", " ").lower().split())
        if name in _DISAMBIGUATION or name in templates or name.endswith(" disambiguation"):
            return True
        if name.startswith("disambig") and name != "disambiguation needed":
            return True
    return False


def _render(code: Wikicode, out: list[str], left_out: Collection[str]) -> None:
    from mwparserfromhell import nodes

    dropped_level = 0  # the level of the heading of an omitted section
    for node in code.nodes:
        if isinstance(node, nodes.Heading):
            if not dropped_level or node.level <= dropped_level:
                name = str(node.title).strip().strip("'").lower()
                dropped_level = node.level if name in _DROPPED_SECTIONS else 0
            out.append("\n")
        elif dropped_level:
            continue
        elif isinstance(node, nodes.Text):
            out.append(node.value)
        elif isinstance(node, nodes.Wikilink):
            _render_link(node, out, left_out)
        elif isinstance(node, nodes.Template):
            _render_template(node, out, left_out)
        elif isinstance(node, nodes.Tag):
            _render_tag(node, out, left_out)
        elif isinstance(node, nodes.HTMLEntity):
            out.append(_entity(node))
        elif isinstance(node, nodes.ExternalLink):
            if node.title is not None:
                _render(node.title, out, left_out)
            elif not node.brackets:
                out.append(str(node.url))


def _render_link(node: Wikilink, out: list[str], left_out: Collection[str]) -> None:
    title = str(node.title).strip()
    if not title.startswith(":"):
        space, colon, _ = title.partition(":")
        space = space.strip().lower()
        if colon and (space in left_out or (node.text is None and _INTERWIKI.fullmatch(space))):
            return
    if node.text is None:
        out.append(title.lstrip(":"))
    else:
        _render(node.text, out, left_out)


def _render_tag(node: Tag, out: list[str], left_out: Collection[str]) -> None:
    name = str(node.tag).strip().lower()
    if name in _DROPPED_TAGS:
        return
    if name in _BREAKS:
        out.append("\n")
    if node.contents is not None:
        _render(node.contents, out, left_out)


def _entity(node: Node) -> str:
    try:
        character: str = node.normalize()  # type: ignore[attr-defined, unused-ignore]
    except (ValueError, OverflowError):  # no such character
        return ""
    return " " if character == "\xa0" else "" if "\ud800" <= character <= "\udfff" else character


# -- templates that represent words of a sentence --------------------------------------------------------------


def _argument(node: Template, name: str) -> Wikicode | None:
    return node.get(name).value if node.has(name) else None


def _nth(number: int) -> Callable[[Template], list[Wikicode | str]]:
    def words(node: Template) -> list[Wikicode | str]:
        value = _argument(node, str(number))
        return [] if value is None else [value]

    return words


def _quotation(node: Template) -> list[Wikicode | str]:
    value = _argument(node, "text") or _argument(node, "quote") or _argument(node, "1")
    return [] if value is None else [value]


def _measure(node: Template) -> list[Wikicode | str]:
    """`{{convert|5|km|mi}}`: 5 km; `{{convert|5|to|10|km|mi}}`: 5 to 10 km."""
    values = [param.value for param in node.params if not param.showkey]
    count = 4 if len(values) > 3 and str(values[1]).strip() in ("to", "-", "–", "and", "by", "x", "or") else 2
    return [part for value in values[:count] for part in (value, " ")][:-1]


_KEPT: dict[str, Callable[[Template], list[Wikicode | str]]] = {
    **dict.fromkeys(("lang", "langx", "transl", "transliteration"), _nth(2)),
    **dict.fromkeys("nowrap nobr small abbr tooltip ill val sic em strong nihongo".split(), _nth(1)),
    **dict.fromkeys(("convert", "cvt"), _measure),
    **dict.fromkeys(("quote", "blockquote", "cquote", "quotation", "bquote"), _quotation),
    **dict.fromkeys(("circa", "c."), lambda node: ["c. ", *_nth(1)(node)]),
    **dict.fromkeys(("as of", "asof"), lambda node: ["As of ", *_nth(1)(node)]),
    **dict.fromkeys(("ndash", "snd", "spnd", "en dash", "spaced ndash"), lambda _: [" – "]),
    **dict.fromkeys(("mdash", "em dash", "spaced mdash"), lambda _: [" — "]),
    **dict.fromkeys(("nbsp", "space", "spaces"), lambda _: [" "]),
}


def _render_template(node: Template, out: list[str], left_out: Collection[str]) -> None:
    name = " ".join(str(node.name).replace("_", " ").lower().split())
    if _NUMBER.fullmatch(name):
        out.append(name.partition(":")[2].strip())
        return
    kept = _KEPT.get(name) or (_nth(1) if name.startswith("lang-") else None)
    for part in kept(node) if kept is not None else ():
        if isinstance(part, str):
            out.append(part)
        else:
            _render(part, out, left_out)
