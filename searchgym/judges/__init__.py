"""Judges: a verdict on each round of an episode, from rules, from gold data or from a language model.

A judge sees the question and the trace up to and including one round and gives two numbers, after CW-GRPO
(arXiv 2604.14267): the retrieval utility u and the reasoning correctness v of that round, each in [0, 1].
"""

from ..records.episode import RoundRecord
from ..records.verdict import no_verdict
from .protocol import Grade, Grader, Judge, Trace, Verdict, open_judge, trace_of, traces_of

__all__ = [
    "Grade",
    "Grader",
    "Judge",
    "RoundRecord",
    "Trace",
    "Verdict",
    "no_verdict",
    "open_judge",
    "trace_of",
    "traces_of",
]
