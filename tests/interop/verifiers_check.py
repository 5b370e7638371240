"""Reads the traces of `vf-eval`: six rollouts of three questions, each with reward 1.0 and the metrics of the environment; and
imports them as episodes, which are scored, judged and audited here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scripts import check_imported

files = sorted(Path(sys.argv[1]).rglob("traces.jsonl"))
lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
episodes = [json.loads(line) for line in lines]
traces = [trace for episode in episodes for trace in episode.get("traces", [episode])]
for trace in traces:
    print(trace["task"]["key"], trace["rewards"], trace["metrics"], trace["errors"])
assert len(traces) == 6, len(traces)
assert len({trace["task"]["key"] for trace in traces}) == 3
for trace in traces:
    assert trace["rewards"]["searchgym"]["score"] == 1.0, trace["rewards"]
    assert trace["metrics"]["em"] == trace["metrics"]["valid"] == 1.0
print("imported:", sum(check_imported(file) for file in files), "episodes, exact match and audit as played")
