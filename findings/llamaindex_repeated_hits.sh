#!/usr/bin/env bash
# LlamaIndex's retrieval metrics pay a passage each time it is found: NDCG and average precision exceed 1, and an agent that finds
# half of the gold passages three times beats one that finds all of them once.
#
# Versions: llama-index-core 0.14.25, haystack-ai 3.4.1, Python 3.11.
# Behaviour: `retrieved_ids` is a list, and the hits of an agent's rounds, of several queries, or of chunks mapped to their pages contain a
#   passage again. NDCG, AveragePrecision and HitRate(use_granular_hit_rate=True) count each occurrence and divide by the number
#   of different gold passages. Precision and Recall of the same module work on sets, so one report mixes both. Haystack's evaluators
#   of the same names credit a gold passage once. A reward or a comparison by NDCG pays to search the same thing again.
#   Nothing warns, and only a value above 1 shows it; known since August 2026 (https://github.com/run-llama/llama_index/pull/22683, open).
#   Drop repeated ids, keeping the first.
# Seen 2026-11-30 (gold: a, b):
#   [a, b, x]: ndcg 1.0, ap 1.0, granular hit rate 1.0, recall 1.0; haystack: ndcg 1.0, map 1.0
#   [a, a, a]: ndcg 1.307, ap 1.5, granular hit rate 1.5, recall 0.5; haystack: ndcg 0.613, map 0.5
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25 haystack-ai==3.4.1
cat > "$work/probe.py" <<'PY'
from haystack import Document
from haystack.components.evaluators import DocumentMAPEvaluator, DocumentNDCGEvaluator
from llama_index.core.evaluation.retrieval.metrics import NDCG, AveragePrecision, HitRate, Recall

GOLD = ["a", "b"]


def llamaindex(hits):
    metrics = {"ndcg": NDCG(), "ap": AveragePrecision(), "hit rate": HitRate(use_granular_hit_rate=True), "recall": Recall()}
    return {name: round(m.compute(expected_ids=GOLD, retrieved_ids=hits).score, 3) for name, m in metrics.items()}


def haystack(hits):
    truth, found = ([[Document(content=name) for name in names]] for names in (GOLD, hits))
    metrics = {"ndcg": DocumentNDCGEvaluator(), "map": DocumentMAPEvaluator()}
    return {
        name: round(m.run(ground_truth_documents=truth, retrieved_documents=found)["score"], 3)
        for name, m in metrics.items()
    }


seen = {}
for hits in (["a", "b", "x"], ["a", "a", "a"]):
    seen[tuple(hits)] = llamaindex(hits), haystack(hits)
    print(hits, "LlamaIndex", seen[tuple(hits)][0], "Haystack", seen[tuple(hits)][1])
assert seen["a", "b", "x"] == (
    {"ndcg": 1.0, "ap": 1.0, "hit rate": 1.0, "recall": 1.0},
    {"ndcg": 1.0, "map": 1.0},
), seen
assert seen["a", "a", "a"] == (
    {"ndcg": 1.307, "ap": 1.5, "hit rate": 1.5, "recall": 0.5},
    {"ndcg": 0.613, "map": 0.5},
), seen
PY
HAYSTACK_TELEMETRY_ENABLED=False "$work/venv/bin/python" "$work/probe.py"
