"""The share of credit and packing in a training iteration, for every trainer, with both small policies.

python tests/benchmarks/bench_credit.py [ITERATIONS [TRAINER …]]

Credit and packing: dropping and selecting groups, credit, packing, dividing into minibatches and micro-batches. The
iteration: these, and rollouts, forward passes before credit, and the update. Seconds are CPU time of the process with
torch on one thread, so that other work on the machine has little influence.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.tiny.agent import TinyAgent
from searchgym.env.vector import make_vec
from searchgym.options import plugins
from searchgym.trainers.config import make_config
from searchgym.trainers.core.algorithm import training_envs
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.learner import learner
from searchgym.trainers.training import loop
from searchgym.trainers.training.parts import Parts

JUDGED = {"judge": "oracle", "judge_when": "unequal-success"}
RUNS = [  # trainer, its settings, arguments of the environment
    *((name, {}, {}) for name in ("reinforce", "grpo", "gigpo", "capf", "ppo")),
    ("grpo", {"variant": "dapo", "resample": 1}, {}),
    ("grpo", {"variant": "reinforce++"}, {}),
    ("grpo", {"variant": "gspo"}, {}),
    ("gigpo", {"similarity": 0.9}, {}),
    ("cw-grpo", {}, JUDGED),
    ("mt-ppo", {}, {"judge": "oracle", "reward": "mt_ppo"}),
    *((name, {}, {}) for name in ("match-tir", "scribe", "vimrag", "virl", "hiper")),
    ("match-tir", {"assignment": "soft"}, {}),
    *((name, {}, {"judge": "oracle"}) for name in ("capo", "tp-grpo", "r3-rag")),
    ("step-search", {}, {"reward": {"stepsearch": 1.0, "f1": 1.0, "search_key": 0.618}}),
    *((name, {}, {}) for name in ("vineppo", "rtmc", "arpo", "mcts")),
    ("slate", {}, {"judge": "oracle", "judge_when": "end"}),
]


@dataclass
class CPUWatch(loop.Stopwatch):
    """Seconds of this process per part of an iteration."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


def measure(agent: str, trainer: str, settings: dict, env_options: dict, iterations: int) -> dict[str, float]:
    """Seconds per part, summed over the iterations after a first one that warms up."""
    policy = {"tiny": TinyAgent, "candidate": CandidateAgent}[agent]()
    algorithm = plugins.load("trainers", trainer)(settings)
    questions = (128 if agent == "tiny" else 512) // algorithm.settings.group_size
    hops = [2, 3] if agent == "tiny" else [1]
    envs = make_vec("SearchQA-Terse-v0", 128, types=["chain"], hops=hops, **env_options)
    config = make_config({"questions": questions, "lr": 5e-4 if agent == "tiny" else 0.15})
    tasks = TaskSampler(envs.task_ids(), questions, 0)
    watch, cutting = CPUWatch(), CPUWatch()

    def timed(function):
        def cut(*arguments):
            with cutting("cutting"):
                parts = list(function(*arguments))
            return iter(parts)

        return cut

    with (
        patch.object(learner, "minibatches", timed(learner.minibatches)),
        patch.object(learner, "micro_batches", timed(learner.micro_batches)),
    ):
        parts = Parts(policy, algorithm, training_envs(algorithm, envs), tasks)
        training = loop.Loop(parts, config)
        for iteration in range(iterations + 1):
            if iteration == 1:
                watch.seconds.clear()
                cutting.seconds.clear()
            training.iterate(watch)
    return {"iteration": sum(watch.seconds.values()), "credit": watch.seconds["credit"], **cutting.seconds}


def main(iterations: int = 3, *trainers: str) -> None:
    print("trainer                           policy      iteration   credit+packing   share")
    for agent in ("candidate", "tiny"):
        for trainer, settings, env_options in RUNS:
            if trainers and trainer not in trainers:
                continue
            seconds = measure(agent, trainer, settings, env_options, iterations)
            own = seconds["credit"] + seconds.get("cutting", 0.0)
            name = " ".join([trainer, *(f"{key}={value}" for key, value in settings.items())])
            print(
                f"{name:33} {agent:10} {1000 * seconds['iteration'] / iterations:8.0f} ms "
                f"{1000 * own / iterations:13.2f} ms {100 * own / seconds['iteration']:7.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
