#!/usr/bin/env bash
# ir-measures ranks the same run in two orders within one call: RR@10 of a ranking with equal scores can be three times RR, and
# P@1 can be 0 where RR@10 is 1.
#
# Versions: ir-measures 0.4.3, pytrec-eval-terrier 0.5.11, Python 3.11.
# Behaviour: each measure is computed by the first provider that supports it. RR, P, AP and nDCG go to pytrec_eval, RR with a cutoff goes to
#   the MS MARCO script. A run has no order but its scores, and both break ties by the passage's id: pytrec_eval takes the largest id
#   first, the MS MARCO script the smallest. pytrec_eval also keeps scores in 32 bits, so scores that differ become ties there:
#   the negative time of each opening, in seconds since 1970, is one value for two minutes. So the passages that an agent opened,
#   written down in the order of opening with one score for all, or with the time as the score, are evaluated in the order
#   of their names, and which agent is better depends on the measure's cutoff. Nothing warns. Give scores that fall with the
#   rank and stay apart in 32 bits: 1/rank does.
# Seen 2026-11-30 (p1, the gold passage, was opened first, then p5 and p9):
#   one score for all: RR@10 1.0, RR 0.333, P@1 0.0, nDCG@10 0.5
#   negative time:     RR@10 1.0, RR 0.333, P@1 0.0, nDCG@10 0.5
#   1/rank:            RR@10 1.0, RR 1.0, P@1 1.0, nDCG@10 1.0
#   one score for all, p9 is the gold passage: RR@10 0.333, RR 1.0, P@1 1.0, nDCG@10 1.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check ir-measures==0.4.3 pytrec-eval-terrier==0.5.11
cat > "$work/probe.py" <<'PY'
import ir_measures
from ir_measures import RR, P, nDCG

OPENED = ["p1", "p5", "p9"]
STARTED = 1_764_500_000.0  # a Unix time


def evaluate(scores, gold):
    run = {"question": dict(zip(OPENED, scores, strict=True))}
    found = ir_measures.calc_aggregate([RR @ 10, RR, P @ 1, nDCG @ 10], {"question": {gold: 1}}, run)
    return {str(measure): round(found[measure], 3) for measure in (RR @ 10, RR, P @ 1, nDCG @ 10)}


seen = {
    "one score": evaluate([1.0, 1.0, 1.0], "p1"),
    "time": evaluate([-(STARTED + 5 * number) for number in range(3)], "p1"),
    "1/rank": evaluate([1.0, 1 / 2, 1 / 3], "p1"),
    "one score, p9": evaluate([1.0, 1.0, 1.0], "p9"),
}
for name, values in seen.items():
    print(f"{name}: {values}")
last_first = {"RR@10": 1.0, "RR": 0.333, "P@1": 0.0, "nDCG@10": 0.5}
assert seen["one score"] == seen["time"] == last_first, seen
assert seen["1/rank"] == {"RR@10": 1.0, "RR": 1.0, "P@1": 1.0, "nDCG@10": 1.0}, seen
assert seen["one score, p9"] == {"RR@10": 0.333, "RR": 1.0, "P@1": 1.0, "nDCG@10": 1.0}, seen
PY
"$work/venv/bin/python" "$work/probe.py"
