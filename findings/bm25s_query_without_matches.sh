#!/usr/bin/env bash
# bm25s always returns k passages: a query that matches nothing gets k unrelated ones with score 0, other ones per backend, and a
# query of stop words alone is an error under one backend and k passages under the other.
#
# Versions: bm25s 0.3.16, numba 0.66.0, numpy 2.4.6, Python 3.11.
# Behaviour: 15 short passages, k=5, the scoring method "lucene". "xylophone", which no passage contains, returns passages 14..10 with
#   the backend numpy and 4..0 with the backend numba, all with score 0.0; passages with equal scores also come in another order
#   per backend. "of the" has no token after the default stop words: numpy returns five passages, numba raises ValueError when
#   it is searched alone, and in a batch with other queries it returns five passages with score 0. Lucene, for comparison, returns
#   no hit in both cases. So an environment or a server that shows what bm25s returned shows pages that have nothing to do with
#   the query, a recall@k counts them, and a model learns from them: drop hits with score 0, and catch the empty query.
# Seen 2026-11-29:
#   numpy ['xylophone'] passages 14, 13, 12, 11, 10 with score 0.0; numba ['xylophone'] passages 4, 3, 2, 1, 0 with score 0.0
#   numpy ['of the'] passages 14..10 with score 0.0;  numba ['of the'] ValueError: The query_tokens must be a list of list of tokens …
#   ['Aare', 'of the']: both give five passages with score 0.0 for the second query
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check bm25s==0.3.16 numba==0.66.0 numpy==2.4.6
cat > "$work/probe.py" <<'PY'
import bm25s

SENTENCES = [
    "the Aare is a river", "Bern is a city on the Aare", "Thun is a town", "Basel is a city on the Rhine", "Zug",
]
PASSAGES = [f"{sentence} {i}" for i, sentence in enumerate(SENTENCES * 3)]


def search(backend, queries):
    index = bm25s.BM25(method="lucene", backend=backend)
    index.index(bm25s.tokenize(PASSAGES, show_progress=False), show_progress=False)
    try:
        ids, scores = index.retrieve(bm25s.tokenize(queries, show_progress=False), k=5, show_progress=False)
    except ValueError as error:
        return f"ValueError: {str(error)[:50]}"
    return [list(zip(row.tolist(), values.round(3).tolist())) for row, values in zip(ids, scores)]


seen = {}
for backend in ("numpy", "numba"):
    for queries in (["xylophone"], ["of the"], ["Aare", "of the"]):
        seen[backend, *queries] = search(backend, queries)
        print(backend, queries, seen[backend, *queries])

for backend in ("numpy", "numba"):
    (hits,) = seen[backend, "xylophone"]
    assert len(hits) == 5 and all(score == 0.0 for _, score in hits), hits
    assert [score for _, score in seen[backend, "Aare", "of the"][1]] == [0.0] * 5, seen
assert seen["numpy", "xylophone"] != seen["numba", "xylophone"], seen
assert len(seen["numpy", "of the"][0]) == 5, seen
assert seen["numba", "of the"].startswith("ValueError"), seen
PY
"$work/venv/bin/python" "$work/probe.py"
