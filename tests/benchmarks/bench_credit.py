"""Milliseconds that rewards, credit and packing take for 128 episodes of 4 rounds and about 160 tokens each.

python tests/benchmarks/bench_credit.py
"""

import time

import numpy as np

from searchgym.episode import Segment
from searchgym.trainers.batch import micro_batches, minibatches, pack
from searchgym.trainers.conformance import make_episode
from searchgym.trainers.groups import Groups, drop_invalid
from searchgym.trainers.grpo import GRPO


def episodes() -> list[list]:
    rng = np.random.default_rng(0)
    groups = []
    for g in range(16):
        group = []
        for i in range(8):
            segment = Segment()
            for r in range(4):
                prompt, act = int(rng.integers(20, 40)), int(rng.integers(6, 14))
                segment.tokens += rng.integers(400, size=prompt + act).tolist()
                segment.mask += [0] * prompt + [1] * act
                segment.logprobs += [0.0] * prompt + [-1.0] * act
                segment.rounds += [r] * (prompt + act)
            group.append(
                make_episode([segment], float(rng.integers(2)), episode_id=f"{g}-{i}", group_id=str(g))
            )
        groups.append(group)
    return groups


def main() -> None:
    algorithm, played, times = GRPO(), episodes(), []
    for _ in range(30):
        started = time.process_time()
        valid, _ = drop_invalid(played)
        groups = Groups(valid, [algorithm.rewards(group) for group in valid])
        batch = pack(groups, algorithm.credit(groups))
        for minibatch in minibatches(batch, 2, "seq-mean-token-mean", 1, np.random.default_rng(0)):
            list(micro_batches(minibatch, lambda s: len(s.segment.tokens), 16384))
        times.append(1000 * (time.process_time() - started))
    tokens = sum(len(e.segments[0].tokens) for g in played for e in g) / 128
    print(
        f"credit and packing, 128 episodes x {tokens:.0f} tokens: {np.median(times):.1f} ms of one core (median of 30)"
    )


if __name__ == "__main__":
    main()
