"""Text from models, passages, servers and files, before it is shown, logged or put into an error.

Such text may hold control sequences that move the cursor, rewrite earlier lines or set the clipboard of a terminal, and
bidirectional controls that change the order in which text is read. Records on disk keep it as it is.
"""

from __future__ import annotations

import logging
import re
import warnings

from .credentials import redact

__all__ = ["get_logger", "printable", "warn"]

# C0 without tab and newline, DEL and C1; lone surrogates; line and paragraph separators; the property Bidi_Control.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """The text with every character that acts on a terminal replaced by U+FFFD; tabs and newlines stay.

    Args:
        text: any text. Markup of rich is not touched: print text as text (`searchgym.cli.console`).
    """
    return _UNSAFE.sub("\ufffd", text)


def warn(text: str, category: type[Warning] = UserWarning, stacklevel: int = 1) -> None:
    """`warnings.warn`, whose text is made printable and free of credentials: it may quote servers, files and paths.

    Args:
        text: the warning.
        category: its class.
        stacklevel: as for `warnings.warn`: 1 is the caller.
    """
    warnings.warn(printable(redact(text)), category, stacklevel=stacklevel + 1)


class _Printable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(redact(record.getMessage())), ()
        return True


_FILTER = _Printable()


def get_logger(name: str) -> logging.Logger:
    """`logging.getLogger(name)`, whose messages are made printable and free of credentials: they may quote servers and models.

    Args:
        name: the module's name.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)
    return logger
