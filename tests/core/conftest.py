"""Shared by the tests of the core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.stub_llm import StubLLM


@pytest.fixture
def llm_stub() -> Iterator[StubLLM]:
    """A running server that stands in for a language model."""
    with StubLLM() as server:
        yield server


@pytest.fixture
def llm_options(llm_stub: StubLLM, tmp_path: Path) -> dict[str, Any]:
    """Options of a judge `llm` that asks the stub and keeps its judgements in a directory of this test."""
    return {
        "base_url": llm_stub.url,
        "model": llm_stub.model,
        "api_key_env": None,
        "cache": str(tmp_path / "kept"),
    }
