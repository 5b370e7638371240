#!/usr/bin/env bash
# A GEM environment that is reset with a seed seeds the random numbers of the whole process: an agent that samples with `random` or
# NumPy gives the members of a group, which get one seed so as to play one question, the same answer.
#
# Versions: gem-llm 0.1.0, requests 2.32.5, datasets 5.2.0, numpy 2.4.6, Python 3.11.
# Behaviour: gem.Env.reset(seed) calls random.seed(seed) and numpy.random.seed(seed). In Gymnasium, on which the interface is modelled, a
#   seed sets a generator of the environment's own (`np_random`) and nothing else. QaEnv draws its question from the module `random`, so the
#   seed is the way to give all members of a group one question. After it an exploring agent, a shuffle of minibatches or a random
#   baseline in the same process goes through the same numbers again: all rollouts of a group are copies, their advantages 0, and
#   a loop that resets with one seed per iteration shuffles alike each time. Nothing warns, and torch's numbers are not touched, so the
#   same loop is right with one sampler and wrong with another. Give what is random in the loop a generator of its own.
# Seen 2026-11-30 (four rollouts of one question, reset(seed=7) before each):
#   an agent with numpy.random:   ['Dee', 'Dee', 'Dee', 'Dee']
#   an agent with a generator:    ['Dee', 'Cy', 'Cy', 'Bo']
#   random.shuffle of five parts: the same order each time
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    gem-llm==0.1.0 requests==2.32.5 datasets==5.2.0 numpy==2.4.6
cat > "$work/probe.py" <<'PY'
import random

import numpy as np
from datasets import Dataset, disable_progress_bars
from gem.envs.qa_env import QaEnv

disable_progress_bars()
NAMES = ["Ada", "Bo", "Cy", "Dee"]
rows = Dataset.from_list([{"question": f"Who founded town {i}?", "answer": [NAMES[i % 4]]} for i in range(100)])


def group(guess):
    """Four rollouts of the question of seed 7: their questions and their answers."""
    env, questions, answers = QaEnv(dataset=rows), [], []
    for _ in range(4):
        questions.append(env.reset(seed=7)[0])
        answers.append(guess())
    assert len(set(questions)) == 1, questions
    return answers


def shuffled():
    order = list(range(5))
    random.shuffle(order)
    return tuple(order)


own = np.random.default_rng(0)
by_module = group(lambda: str(np.random.choice(NAMES)))
by_generator = group(lambda: str(own.choice(NAMES)))
orders = group(shuffled)
print("an agent with numpy.random:", by_module)
print("an agent with a generator:", by_generator)
print("random.shuffle:", orders)
assert len(set(by_module)) == 1, by_module
assert len(set(by_generator)) > 1, by_generator
assert len(set(orders)) == 1, orders
PY
"$work/venv/bin/python" "$work/probe.py" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
