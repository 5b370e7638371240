#!/usr/bin/env bash
# datasets: one irregular column of a JSON Lines file rounds the floats of every other column to 10 decimals.
#
# Versions: datasets 5.2.0, pyarrow 26.0.1, Python 3.11.
# Behaviour: `load_dataset("json", …)` keeps floats exactly while all columns have one Arrow type. If any column needs the
#   feature type `Json` (objects with different keys in different rows, an object that is always empty, or a key whose values
#   are numbers in one row and strings in another), the batch is read and written again on the way, and then every float of
#   the file has 10 decimals, also in columns of plain numbers: 6.675588222351246 becomes 6.6755882224, and 1e-12 becomes 0.0.
#   The column's type is still float64 and nothing is said. So the same scores, rewards or log-probabilities read back
#   differently when a metadata column of one row gains a key. Integers beside floats and missing objects are harmless.
#   Store open-ended values as a string that holds JSON, or write Parquet with a schema.
# Seen 2026-11-29:
#   same_keys      [6.675588222351246, 1e-12]
#   int_and_float  [6.675588222351246, 1e-12]
#   missing        [6.675588222351246, 1e-12]
#   other_keys     [6.6755882224, 0.0]
#   mixed_types    [6.6755882224, 0.0]
#   always_empty   [6.6755882224, 0.0]
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cat > "$work/probe.py" <<'PY'
import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets

datasets.disable_progress_bars()
SCORES = [6.675588222351246, 1e-12]


def read(*metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = [{"score": score, "metadata": value} for score, value in zip(SCORES, metadata)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=folder)
        assert data.features["score"].dtype == "float64"
        return data[:]["score"]


seen = {
    "same_keys": read({"a": 1}, {"a": 2}),
    "int_and_float": read({"a": 1}, {"a": 1.5}),
    "missing": read(None, {"a": 1}),
    "other_keys": read({"a": 1}, {"b": 2}),
    "mixed_types": read({"a": 1}, {"a": "text"}),
    "always_empty": read({}, {}),
}
for name, value in seen.items():
    print(name, value)
exact, rounded = SCORES, [6.6755882224, 0.0]
assert [seen[name] for name in ("same_keys", "int_and_float", "missing")] == [exact] * 3
assert [seen[name] for name in ("other_keys", "mixed_types", "always_empty")] == [rounded] * 3
PY
"$work/venv/bin/python" "$work/probe.py"
