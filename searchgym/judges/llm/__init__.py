"""The judge `llm`, which asks a model behind an OpenAI-compatible endpoint: prompt, replies, dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .judge import LLMJudge as LLMJudge

_MODULES = {
    "LLMJudge": "judge",
}
__all__ = ["LLMJudge"]

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
