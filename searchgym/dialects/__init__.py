"""Dialects: how an act is written, parsed and answered, and what is open in a message. Scoring is the same in all of them.

A dialect is one object: system prompt, parser, writer, renderer of observations and stop strings. It never sees
gold data and decides nothing about the episode.
"""

from ..records.acts import Act
from .calls import call_arguments, json_text
from .dialect import Dialect, QueryDialect, ScannedDialect, prompt_of, render_refusal
from .registry import DIALECTS, get_dialect, register_dialect
from .scanner import THOUGHT_NAMES, Scanner, after_thoughts, begins_inside
from .tags import TagsDialect
from .tools import ToolsDialect

__all__ = [
    "DIALECTS",
    "THOUGHT_NAMES",
    "Act",
    "Dialect",
    "QueryDialect",
    "ScannedDialect",
    "Scanner",
    "TagsDialect",
    "ToolsDialect",
    "after_thoughts",
    "begins_inside",
    "call_arguments",
    "get_dialect",
    "json_text",
    "prompt_of",
    "register_dialect",
    "render_refusal",
]
