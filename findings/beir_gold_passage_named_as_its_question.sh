#!/usr/bin/env bash
# BEIR leaves a passage out of the results of the question that has the same id: where questions and passages are both numbered from
# 0, as in a generated set with one gold passage per question, a perfect retriever has NDCG 0.
#
# Versions: beir 2.2.0, sentence-transformers 6.2.0, torch 2.13.0, Python 3.11.
# Behaviour: in ArguAna and Quora a query is itself in the corpus, and BEIR takes it out of its own results. It does so by the id alone, in
#   every corpus, and in two places: EvaluateRetrieval.evaluate removes such hits, also from the caller's dictionary (its option
#   `ignore_identical_ids`, True by default, is announced at the log level INFO; https://github.com/beir-cellar/beir/pull/91), and
#   DenseRetrievalExactSearch and the lexical search never return them, whatever that option says
#   (https://github.com/beir-cellar/beir/issues/169, open). Where few ids coincide, the scores are only lower, and nobody notices.
#   In the evaluator of MTEB 2.26 the option is off by default. Put a letter before the ids of one side, or see that the two sets of
#   ids have nothing in common.
# Seen 2026-11-30 (three questions, the gold passage found first in each; NDCG@3):
#   passages p0, p1, p2:                                     1.0, with ignore_identical_ids=False 1.0
#   passages 0, 1, 2:                                        0.0, with ignore_identical_ids=False 0.0
#   evaluate alone, with the whole ranking of passages 0..2: 0.0, with ignore_identical_ids=False 1.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check beir==2.2.0 sentence-transformers==6.2.0
cat > "$work/probe.py" <<'PY'
import torch
from beir.retrieval.evaluation import EvaluateRetrieval
from beir.retrieval.search.dense import DenseRetrievalExactSearch

PASSAGES = ["Velm was founded by Ada.", "Tarn lies on the river Aster.", "Ostby has a harbour."]
QUESTIONS = ["Who founded Velm.", "On which river lies Tarn.", "Where is a harbour."]
words = sorted({word for text in PASSAGES + QUESTIONS for word in text.lower().split()})


class CountsWords:
    """Embeds a text as the set of its words."""

    def encode_queries(self, queries, **_):
        return torch.tensor([[float(word in text.lower().split()) for word in words] for text in queries])

    def encode_corpus(self, corpus, **_):
        return self.encode_queries([passage["text"] for passage in corpus])


def ndcg(letter, ignore, search=True):
    corpus = {f"{letter}{i}": {"title": "", "text": text} for i, text in enumerate(PASSAGES)}
    gold = {str(i): {f"{letter}{i}": 1} for i in range(3)}
    retrieval = EvaluateRetrieval(DenseRetrievalExactSearch(CountsWords(), show_progress_bar=False), k_values=[3])
    found = {str(i): {name: 1.0 if name == f"{letter}{i}" else 0.1 for name in corpus} for i in range(3)}
    if search:
        found = retrieval.retrieve(corpus, {str(i): text for i, text in enumerate(QUESTIONS)})
    return retrieval.evaluate(gold, found, [3], ignore_identical_ids=ignore)[0]["NDCG@3"]


seen = {
    "passages p0, p1, p2": (ndcg("p", True), ndcg("p", False)),
    "passages 0, 1, 2": (ndcg("", True), ndcg("", False)),
    "evaluate alone, passages 0, 1, 2": (ndcg("", True, search=False), ndcg("", False, search=False)),
}
for name, (default, off) in seen.items():
    print(f"{name}: {default}, with ignore_identical_ids=False {off}")
assert list(seen.values()) == [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)], seen
PY
"$work/venv/bin/python" "$work/probe.py" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
