#!/usr/bin/env bash
# Gymnasium's check_env refuses every environment whose first step truncates, also a valid one of one step, and notices it only
# where the one action that it samples does so.
#
# Versions: gymnasium 1.4.0, numpy 2.4.6, Python 3.11.
# Behaviour: an environment of one step (a contextual bandit, a query that is scored, a one-turn question) has two ways to end:
#   `terminated`, or `truncated` by a time limit of 1. The API documentation allows both. check_env raises AssertionError
#   "Environment truncates after 1 step, something has gone very wrong." for the second, and for gym.make(id,
#   max_episode_steps=1), whose TimeLimit truncates. If only some actions truncate (a malformed message, say), the verdict depends on
#   the action that check_env samples, after it has seeded the space with 123: the same environment passes when the numbers of two
#   actions are exchanged. So a green check_env does not say that the environment never truncates in its first step. End a
#   one-step task with `terminated`, which is right for learners too: they bootstrap from a truncated state.
# Seen 2026-11-29:
#   terminates: accepted;  truncates: AssertionError: Environment truncates after 1 step, something has gone very wrong.
#   make(…, max_episode_steps=1): the same AssertionError
#   truncates on action 0 only: refused, on action 1 only: accepted
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > "$work/probe.py" <<'PY'
import warnings

import gymnasium as gym
from gymnasium.utils.env_checker import check_env

warnings.simplefilter("ignore")


class OneStep(gym.Env):
    """A bandit with two arms. `truncating` are the arms that truncate, `ending` those that terminate."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def __init__(self, truncating=(), ending=()):
        self.truncating, self.ending = truncating, ending

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 1, float(action), int(action) in self.ending, int(action) in self.truncating, {}


def verdict(env):
    try:
        check_env(env, skip_render_check=True)
    except AssertionError as error:
        return f"AssertionError: {error}"
    return "accepted"


class Endless(OneStep):
    """Never ends by itself."""


gym.register("OneStep-v0", entry_point=Endless, max_episode_steps=1)
seen = {
    "terminates": verdict(OneStep(ending=(0, 1))),
    "truncates": verdict(OneStep(truncating=(0, 1))),
    "time limit": verdict(gym.make("OneStep-v0", disable_env_checker=True)),
    "truncates on action 0": verdict(OneStep(truncating=(0,), ending=(1,))),
    "truncates on action 1": verdict(OneStep(truncating=(1,), ending=(0,))),
}
for name, found in seen.items():
    print(f"{name}: {found}")
refused = "AssertionError: Environment truncates after 1 step, something has gone very wrong."
assert seen["terminates"] == "accepted", seen
assert seen["truncates"] == seen["time limit"] == refused, seen
assert {seen["truncates on action 0"], seen["truncates on action 1"]} == {"accepted", refused}, seen
PY
"$work/venv/bin/python" "$work/probe.py"
