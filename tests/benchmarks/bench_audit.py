"""Prints what an audit of judges costs, and what it finds, on the generated world and on recorded rollouts.

    python tests/benchmarks/bench_audit.py [ROLLOUTS GOLD_CORPUS]

World: 1,000 episodes of SearchQA-v0's train split, played by the oracle, copy and random agents (one line each for
the judges oracle and rules). Rollouts: the file is imported, with questions looked up in the corpus, and both judges
are audited on it. Judgements/s are the judge's own time; the audit's seconds hold everything but playing and importing.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import searchgym  # noqa: E402
from searchgym.audit.auditing import CRITERIA, audit  # noqa: E402
from searchgym.importing import import_rollouts  # noqa: E402
from searchgym.records.episode import Episode  # noqa: E402
from searchgym.records.question import Corpus  # noqa: E402
from searchgym.specs import open_corpus  # noqa: E402


def line(what: str, episodes: Sequence[Episode], corpus: Corpus) -> None:
    for judge in ("oracle", "rules"):
        started = time.perf_counter()
        result = audit(judge, episodes, corpus=corpus)
        seconds = time.perf_counter() - started
        assert result.latency is not None
        figures = " ".join(f"kappa[{name}]={result.criteria[name].kappa}" for name in CRITERIA)
        print(
            f"audit {what} judge={judge} episodes={result.episodes} rounds={result.rounds} "
            f"compared={result.compared} judgements/s={result.latency.per_second:,.0f} "
            f"median={result.latency.median_s * 1e6:.1f}us p99={result.latency.p99_s * 1e6:.1f}us "
            f"audit={seconds:.2f}s {figures}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rollouts", nargs="?")
    parser.add_argument("gold_corpus", nargs="?")
    arguments = parser.parse_args()
    corpus = open_corpus("country")
    episodes = [
        episode
        for agent in ("oracle", "copy", "random")
        for episode in searchgym.rollout("SearchQA-v0", agent, 334, split="train", num_envs=64)
    ][:1_000]
    line("world", episodes, corpus)
    if arguments.rollouts and arguments.gold_corpus:
        corpus = open_corpus(arguments.gold_corpus)
        started = time.perf_counter()
        imported = import_rollouts(arguments.rollouts, corpus)
        seconds = time.perf_counter() - started
        print(
            f"import rows={len(imported.episodes) + len(imported.skipped)} episodes={len(imported.episodes)} "
            f"seconds={seconds:.2f}"
        )
        line("rollouts", imported.episodes, corpus)


if __name__ == "__main__":
    main()
