"""Initial weights of the candidate policy other than zero, one table per named start.

Each entry is the weight of a feature of `features.FEATURES` for a kind of act; all others are 0. The differences between
the weights that meet in one choice are what counts: a weight of 1.5 makes a phrase exp(1.5) = 4.5 times as likely.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["STARTS"]

STARTS: dict[str, Mapping[str, Mapping[str, float]]] = {
    "uniform": {"search": {}, "answer": {}},
    # Looks up the first name of the question, then names that follow a relation of the question, in whatever order; answers
    # a number that follows one. It sometimes answers at once with a number of the question, and wanders where nothing follows
    # a relation.
    "lookup": {
        "search": {
            "generic phrase": -6.0,
            "whole question": -6.0,
            "word of the question": -6.0,
            "name in the question": -2.0,
            "first name in the question": 2.0,
            "from the newest result": 1.0,
            "page title": -4.0,
            "number": -6.0,
            "after a relation of the question": 1.5,
        },
        "answer": {
            "any": -6.0,
            "generic phrase": -2.0,
            "whole question": -2.0,
            "word of the question": -2.0,
            "from the newest result": 1.0,
            "page title": -2.0,
            "number": 6.0,
            "after a relation of the question": 3.0,
            "no search yet": 1.5,
        },
    },
}
"""Named starts: start -> kind of act -> feature -> weight."""
