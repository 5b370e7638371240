"""Options and plug-ins: checked, matched with signatures, found by entry point."""

from . import plugins
from .checks import boolean, check_count, choice, integer, mapping, number, plain, text
from .signatures import check_known, declared_options, takes_options

__all__ = [
    "boolean",
    "check_count",
    "check_known",
    "choice",
    "declared_options",
    "integer",
    "mapping",
    "number",
    "plain",
    "plugins",
    "takes_options",
    "text",
]
