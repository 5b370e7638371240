"""The page: its files, and the one HTML file that holds them together with its data.

`static/app.js` is built from `web/` (see the README there). Everything that the page shows enters it as text (Preact), and its
content security policy allows no other script, style or address.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from typing import Any

__all__ = ["POLICY", "standalone", "static"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy of the served page."""
_TYPES = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}


def static(name: str) -> tuple[bytes, str] | None:
    """A file of the page and its media type; None if there is no such file.

    Args:
        name: its name.
    """
    if name not in _TYPES:
        return None
    return (files(__package__) / "static" / name).read_bytes(), _TYPES[name]


def standalone(data: dict[str, Any]) -> str:
    """The page as one HTML file that needs no server and no network.

    Args:
        data: what the page would ask a server for: "state", "blocks", "about", "episodes".
    """
    script, style = (_text(name) for name in ("app.js", "style.css"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    packed = base64.b64encode(
        gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 9, mtime=0)
    ).decode()
    page = _text("index.html")
    for old, new in (
        (
            '<meta charset="utf-8">',
            f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">',
        ),
        ('<link rel="icon" href="icon.svg">\n', ""),
        ('<link rel="stylesheet" href="style.css">', f"<style>{style}</style>"),
        (
            '<script src="app.js" defer></script>',
            f'<script type="application/octet-stream" id="data">{packed}</script>\n<script>{script}</script>',
        ),
    ):
        assert page.count(old) == 1
        page = page.replace(old, new)
    return page


def _text(name: str) -> str:
    content = static(name)
    assert content is not None
    return content[0].decode("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
