#!/usr/bin/env bash
# Gymnasium's vector environments stack infos in arrays whose dtype the lowest-numbered sub-environment decides alone.
#
# Versions: gymnasium 1.4.0, numpy 2.4.6, Python 3.11.
# Behaviour: `VectorEnv._add_info` allocates the column for a key with the Python type of the value that the first
#   sub-environment with this key returned, and writes the others into it. Infos of equal meaning then lose their value
#   without an error or a warning, with the mask `_key` True:
#     int first, float later   -> the float is cut to an integer (0.9 becomes 0)
#     bool first, float later  -> it becomes True
#     float first, None later  -> NaN; None first, float later -> an object array that keeps both
#     int first, None later    -> TypeError
#   So a sum of rewards that is `0` in one slot and `0.9` in another reads 0 and 0, and the same pair of infos gives
#   another column in another slot order. An environment that reports scores through `info` must return one type per key
#   in every step (`float(x)`), and leave out a key that has no number rather than return None.
# Seen 2026-11-29:
#   int_then_float   int64   [0, 0]
#   bool_then_float  bool    [False, True]
#   float_then_none  float64 [0.5, nan]
#   none_then_float  object  [None, 0.5]
#   int_then_none    TypeError
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > "$work/probe.py" <<'PY'
import gymnasium as gym
from gymnasium.vector import SyncVectorEnv


class Reports(gym.Env):
    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, value):
        self.value = value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {"score": self.value}


def column(first, second):
    envs = SyncVectorEnv([lambda: Reports(first), lambda: Reports(second)])
    envs.reset(seed=0)
    try:
        infos = envs.step([0, 0])[-1]
    except TypeError:
        return "TypeError"
    assert infos["_score"].all()
    return f"{infos['score'].dtype} {infos['score'].tolist()}"


seen = {
    "int_then_float": column(0, 0.9),
    "bool_then_float": column(False, 0.9),
    "float_then_none": column(0.5, None),
    "none_then_float": column(None, 0.5),
    "int_then_none": column(1, None),
}
for name, value in seen.items():
    print(name, value)
assert seen == {
    "int_then_float": "int64 [0, 0]",
    "bool_then_float": "bool [False, True]",
    "float_then_none": "float64 [0.5, nan]",
    "none_then_float": "object [None, 0.5]",
    "int_then_none": "TypeError",
}, seen
PY
"$work/venv/bin/python" "$work/probe.py"
