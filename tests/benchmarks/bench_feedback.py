"""CAPF on the candidate policy: how often training asks for feedback, and what is left without it, on dev questions.

python tests/benchmarks/bench_feedback.py [SEEDS] [RETENTION ...]

Every run is one of the row `capf` of the benchmark `seconds`, its budget and world, at the middle learning rate, with
the selection's seeds (1000, 1001, …) and one level after the other; and the row `grpo` for comparison. The share is that of all
training episodes.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

from searchgym.env.feedback import FEEDBACK_LEVELS
from searchgym.trainers.bench.spec import Entry, load_spec
from searchgym.trainers.training.api import train

SPEC = load_spec("seconds")
PLACE = next(iter(SPEC.environments))
RATE = SPEC.rates[len(SPEC.rates) // 2]


def play(entry: Entry, seed: int) -> tuple[float, float, float]:
    """Share of training episodes with feedback; EM on dev questions without it, before and after training."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(SPEC.config(entry, PLACE, RATE, seed), Path(folder) / "run")
    rows = result.metrics[1:]
    share = sum(row["assisted"] * row["episodes"] for row in rows) / sum(row["episodes"] for row in rows)
    assert result.before is not None
    assert result.after is not None
    return share, result.before["em"].value, result.after["em"].value


def main(seeds: int, retentions: list[float]) -> None:
    capf = SPEC.entry("capf")
    entries = {"grpo": SPEC.entry("grpo")} | {
        f"{level}, retention {retention:g}": replace(
            capf, settings={**capf.settings, "level": level, "retention": retention}
        )
        for level in FEEDBACK_LEVELS
        for retention in retentions
    }
    for name, entry in entries.items():
        shares, before, after = zip(*(play(entry, 1000 + i) for i in range(seeds)), strict=True)
        print(
            f"{name}: feedback in {mean(shares):.0%} of the training episodes (least {min(shares):.0%}); dev EM "
            f"{mean(before):.2f} -> {mean(after):.2f} ({', '.join(f'{em:.2f}' for em in after)})",
            flush=True,
        )


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 3,
        [float(arg) for arg in sys.argv[2:]] or [0.5],
    )
