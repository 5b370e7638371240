#!/usr/bin/env bash
# A GEM wrapper copies the public attributes of the environment once, when it wraps it, instead of delegating to it: what changes
# later keeps its old value on the wrapper, and what is set by reset() is not there at all.
#
# Versions: gem-llm 0.1.0, requests 2.32.5, datasets 5.2.0, Python 3.11.
# Behaviour: gem.core.EnvWrapper.__init__ runs setattr(self, name, getattr(env, name)) over dir(env). Wrappers of Gymnasium 0.x, on which
#   the interface is modelled, looked attributes up in the wrapped environment at each access. So for a wrapped QaEnv, `idx`
#   (position in the data) and `dataset` and `epoch` (shuffled anew each epoch) stay what they were at the start; a logger or
#   curriculum that reads them from the environment it was given sees a run that never advances. `answer`, which reset() sets, raises
#   AttributeError, and setting an attribute on the wrapper does not reach the environment. Methods of an environment are found, unless
#   the base class gem.Env declares them: `spawn` and `sample_random_action` of a wrapped environment that implements them raise
#   NotImplementedError. Use env.unwrapped.
# Seen 2026-11-29 (five resets over three questions):
#   wrapper: idx 0, epoch 0, no attribute `answer`
#   wrapped: idx 2, epoch 1, answer of the question that is asked
#   sample_random_action: works on the environment, NotImplementedError on the wrapper
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gem-llm==0.1.0 requests==2.32.5 datasets==5.2.0
cat > "$work/probe.py" <<'PY'
import gem
from datasets import Dataset
from gem.envs.qa_env import QaEnv
from gem.wrappers.wrapper_factory import get_wrapper_fns

rows = Dataset.from_list([{"question": f"question {i}", "answer": [f"answer {i}"]} for i in range(3)])


class Guessing(QaEnv):
    def sample_random_action(self):
        return "<answer>a guess</answer>"


env = Guessing(dataset=rows)
(wrap,) = get_wrapper_fns("episode_tracking")
wrapped = wrap(env)
for _ in range(5):
    wrapped.reset()
print("wrapper: idx", wrapped.idx, "epoch", wrapped.epoch, "answer", hasattr(wrapped, "answer"))
print("wrapped: idx", env.idx, "epoch", env.epoch, "answer", env.answer)
assert wrapped.unwrapped is env
assert (wrapped.idx, wrapped.epoch, hasattr(wrapped, "answer")) == (0, 0, False)
assert (env.idx, env.epoch, env.answer[0][:6]) == (2, 1, "answer")
wrapped.idx = 1
assert env.idx == 2
assert env.sample_random_action() == "<answer>a guess</answer>"
try:
    wrapped.sample_random_action()
except NotImplementedError:
    print("sample_random_action of the wrapper: NotImplementedError")
else:
    raise AssertionError("the wrapper delegates sample_random_action now")
assert isinstance(wrapped, gem.Env)
PY
"$work/venv/bin/python" "$work/probe.py"
