"""Hooks of mkdocs: the navigation is read from docs/index.md, links to files outside docs/ become plain text, and the colours of code
are written into the site.

A heading of docs/index.md is a section, a heading below it a section inside; the links under a heading are its pages, in order. So
a page is listed once, for readers of the repository and of the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_HEADING = re.compile(r"^(#{2,3}) (.+)$")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+\.md)(?:#[^)]*)?\)")
_OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+(?:README\.md|findings|tests|trainers|agents|corpora|searchgym)[^)]*\)"
)


def navigation(index: str) -> list[Any]:
    """The `nav` of mkdocs.

    Args:
        index: text of docs/index.md.
    """
    nav: list[Any] = [{"Home": "index.md"}]
    section: list[Any] = nav
    seen: set[str] = {"index.md"}
    for line in index.splitlines():
        if heading := _HEADING.match(line):
            level, title = len(heading[1]), heading[2]
            parent = nav if level == 2 else next(iter(nav[-1].values()))
            section = []
            parent.append({title: section})
        for title, page in _LINK.findall(line):
            if page not in seen:
                seen.add(page)
                section.append({title.replace("`", ""): page})
    return nav


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config.nav = navigation((Path(config.docs_dir) / "index.md").read_text("utf-8"))
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave out links that only the repository has."""
    return _OUTSIDE.sub(r"\1", markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Give the theme's switch of light and dark the two style sheets of highlight.js that it looks for, empty ones."""
    return output.replace(
        "</head>", '<style id="hljs-light"></style><style id="hljs-dark"></style></head>', 1
    )


def on_post_build(config: Any) -> None:
    """Write the style sheet of code, for light and dark pages."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".codehilite")
    dark = HtmlFormatter(style="github-dark").get_style_defs('[data-bs-theme="dark"] .codehilite')
    (Path(config.site_dir) / "pygments.css").write_text(f"{light}\n{dark}\n", encoding="utf-8")
