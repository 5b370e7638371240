"""Tapes: retrieval results and verdicts of a run, recorded in a file and replayed from it."""
