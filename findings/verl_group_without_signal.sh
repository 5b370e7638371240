#!/usr/bin/env bash
# verl's GRPO trains on groups that say nothing: equal rewards have advantages up to 0.5, all with one sign, unless the rewards
# are 0, 1 or another fraction that is exact in binary; and a rollout that is alone in its group has its reward as advantage.
#
# Versions: verl 0.9.1, torch 2.13.0, Python 3.11.
# Behaviour: compute_grpo_outcome_advantage subtracts the mean of the group in float32 and divides by the standard deviation plus 1e-6. The mean
#   of equal numbers is often one rounding step beside them, and that step is not small beside 1e-6: 0.06 at 0.7, 0.47 at 8.1. All members have
#   the same sign, so the policy is pushed towards, or away from, everything that it sampled, where the method says that there
#   is nothing to learn; late in training most groups are like that. Partial rewards (F1, a bonus of 0.1 for the format, 0.2 per gold
#   passage) are hit, 0 and 1 are not, so a test with 0 and 1 shows nothing. A group of one gets mean 0: in 0.9 a rollout that raises is
#   lost and the others are trained on, so the last one left has its whole reward as advantage. Known for equal rewards:
#   https://github.com/verl-project/verl/pull/4597 (closed). algorithm.norm_adv_by_std_in_grpo=False removes the first.
# Seen 2026-11-30 (rewards 0.1, 0.2, … 10.0; which of them, and the signs, depend on how the processor sums):
#   groups of 8 equal rewards: 64 of 100 have advantages other than 0, the largest 0.472
#   the same without the division: the largest 9.5e-07
#   8 rewards 0.7: 0.056;  8 rewards 1.0: 0.0
#   alone with the reward 0.7: 0.7;  0.7 beside 0.7: 0.0
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 "verl[verl-core]==0.9.1"
cat > "$work/probe.py" <<'PY'
import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage


def advantages(rewards, **settings):
    """The advantage of each rollout of one group; each has three tokens, and the reward stands on the last."""
    on_tokens = torch.zeros(len(rewards), 3)
    on_tokens[:, -1] = torch.tensor(rewards)
    index = np.array(["question"] * len(rewards), dtype=object)
    found, _ = compute_grpo_outcome_advantage(on_tokens, torch.ones_like(on_tokens), index, **settings)
    return found[:, 0].tolist()


VALUES = [number / 10 for number in range(1, 101)]
affected = 0
for size in (6, 7, 8, 12):
    seen = [advantages([value] * size) for value in VALUES]
    assert all(len(set(group)) == 1 for group in seen), "members of a group with equal rewards differ"
    largest, count = max(abs(group[0]) for group in seen), sum(abs(group[0]) > 1e-3 for group in seen)
    plain = max(abs(advantages([value] * size, norm_adv_by_std_in_grpo=False)[0]) for value in VALUES)
    print(f"groups of {size} equal rewards: {count} of 100 not 0, the largest {largest:.3f}, without the division {plain:.1e}")
    assert plain < 1e-5, plain
    affected += largest > 0.05
print("8 rewards 0.7:", round(advantages([0.7] * 8)[0], 3), "8 rewards 1.0:", advantages([1.0] * 8)[0])
print("alone with 0.7:", round(advantages([0.7])[0], 3), "0.7 beside 0.7:", advantages([0.7, 0.7])[0])
assert affected, "equal rewards have advantage 0 now"
assert set(advantages([1.0] * 8) + advantages([0.0] * 8) + advantages([0.7] * 2)) == {0.0}
assert abs(advantages([0.7])[0] - 0.7) < 1e-5
PY
"$work/venv/bin/python" "$work/probe.py" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
