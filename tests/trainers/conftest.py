"""Shared by the trainers' tests."""

import pytest


@pytest.fixture
def no_curve(monkeypatch):
    """Drawing takes longer than a toy run; the tests that look at the curve do without this."""
    monkeypatch.setattr("searchgym.trainers.training.recorder.draw_curve", lambda *_: None)
