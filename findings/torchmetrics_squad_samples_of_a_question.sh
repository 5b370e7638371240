#!/usr/bin/env bash
# torchmetrics' SQuAD metric scores several answers to one question as if all of them were the last one, if they are in one batch:
# the same answers give another exact match with another batch size.
#
# Versions: torchmetrics 1.9.0, torch 2.13.0, Python 3.11.
# Behaviour: `preds` and `target` are lists of the same length, so one expects pairs. update() makes a dictionary from the predictions,
#   by id, and looks each target up in it: of the answers with one id only the last stays, and each of the targets with that id is
#   compared with it. Sampling is the usual case in which a question has several answers: a group of a trainer, pass@k, a best
#   of n. Four answers of which three are right score 0 where the wrong one comes last, and 100 where it does not. One by one, or
#   with an id for each sample, they score 75. There is no error and no warning; the total counts four. Across ranks or loader workers
#   the value then changes with the number of samples per batch. Append the number of the sample to the id.
# Seen 2026-11-30 (exact match, F1):
#   a batch of 4, the wrong one last:  0.0, 0.0
#   a batch of 4, the wrong one first: 100.0, 100.0
#   batches of 2, the wrong one last:  50.0, 50.0
#   one by one, in both orders:        75.0, 75.0
#   a batch of 4, an id per sample:    75.0, 75.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
cat > "$work/probe.py" <<'PY'
import warnings

from torchmetrics.text import SQuAD

warnings.simplefilter("error", UserWarning)
GOLD = {"text": ["Ada Velm"], "answer_start": [0]}


def score(answers, size, ids=("q17",) * 4):
    metric = SQuAD()
    for start in range(0, len(answers), size):
        batch = range(start, start + size)
        metric.update(
            [{"prediction_text": answers[i], "id": ids[i]} for i in batch],
            [{"answers": GOLD, "id": ids[i]} for i in batch],
        )
    return tuple(value.item() for value in metric.compute().values())


last = ["Ada Velm", "the Ada Velm", "ada velm", "Bo Tarn"]
first = last[::-1]
seen = {
    "a batch of 4, the wrong one last": score(last, 4),
    "a batch of 4, the wrong one first": score(first, 4),
    "batches of 2, the wrong one last": score(last, 2),
    "one by one, the wrong one last": score(last, 1),
    "one by one, the wrong one first": score(first, 1),
    "a batch of 4, an id per sample": score(last, 4, ["q17-0", "q17-1", "q17-2", "q17-3"]),
}
for name, values in seen.items():
    print(f"{name}: {values}")
assert [values[0] for values in seen.values()] == [0.0, 100.0, 50.0, 75.0, 75.0, 75.0], seen
assert all(exact == f1 for exact, f1 in seen.values()), seen
PY
"$work/venv/bin/python" "$work/probe.py"
