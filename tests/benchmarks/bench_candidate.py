"""One training run of the candidate policy: the EM that it reaches and the time of the whole command.

python tests/benchmarks/bench_candidate.py [SEEDS]

Each seed runs the command of docs/agents/candidate.md as a user would, imports and both evaluations included.
ATEN_CPU_CAPABILITY (default, avx2) and MKL_ENABLE_INSTRUCTIONS (SSE4_2, AVX2) stand for processors with fewer instructions: they
round differently, so the same seed ends elsewhere.
The time of one round is the time to read its candidates from the texts, with empty caches at the start.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from searchgym.agents.candidate import features as candidates
from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.candidate.features import list_candidates
from searchgym.records.episode import Episode
from searchgym.rollouts.collection import rollout

COMMAND = (
    "train --agent candidate --iterations 50 --questions 32 --group-size 16 --lr 0.15 --threads 1 --set entropy_coef=0.01 "
    '--set skip_equal=false --env-option types=["chain"] --env-option hops=[1,2,3]'
).split()


def em(episodes: list[Episode]) -> float:
    return sum(e.outcome.em for e in episodes) / len(episodes)


def counts(episodes: list[Episode]) -> list[int]:
    """Number of candidates in every round."""
    found = []
    for episode in episodes:
        queries, observations = (), ()
        for done in episode.rounds:
            found.append(len(list_candidates(episode.question, queries, observations)))
            queries = (*queries, *done.action.queries)
            observations = (*observations, done.observation)
    return found


def microseconds(episodes: list[Episode]) -> float:
    """Time to list the candidates of a round, on average, all caches empty at the start."""
    for cached in (list_candidates, candidates._on_page, candidates._mentions, candidates._read_question):
        cached.cache_clear()
    started = time.process_time()
    rounds = len(counts(episodes))
    return (time.process_time() - started) * 1e6 / rounds


def main(seeds: int) -> None:
    chains = {"split": "dev", "types": ["chain"], "hops": [2, 3]}
    agent = CandidateAgent()
    uniform = rollout("SearchQA-Terse-v0", agent, 1000, **chains)
    starts, ends, walls, cpus, hard = [], [], [], [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            started, before = time.perf_counter(), os.times()
            command = [sys.executable, "-c", "from searchgym.cli import main; main()", *COMMAND]
            command += ["--seed", str(seed), "--run-dir", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            walls.append(time.perf_counter() - started)
            after = os.times()
            cpus.append(sum(after[2:4]) - sum(before[2:4]))
            summary = json.loads((run / "summary.json").read_text())
            starts.append(summary["before"]["metrics"]["em"]["mean"])
            ends.append(summary["after"]["metrics"]["em"]["mean"])
            agent.load_weights(max((run / "checkpoints").iterdir()) / "policy")
        agent.greedy = True
        hard.append(em(rollout("SearchQA-Terse-v0", agent, None, **chains)))
    choices = counts(uniform)
    print(
        f"candidate policy, {torch.backends.cpu.get_cpu_capability()}, {seeds} seeds: greedy EM {max(starts):.3f} -> "
        f"{', '.join(f'{em:.3f}' for em in ends)}, mean {sum(ends) / seeds:.3f} (on 2-3 hops alone: lowest "
        f"{min(hard):.3f}); {max(walls):.1f} s at most, "
        f"{max(cpus):.1f} s of one core; random policy EM {em(uniform):.3f}; candidates per round: at least "
        f"{min(choices)}, mean {sum(choices) / len(choices):.0f}, read in {microseconds(uniform):.0f} microseconds"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
