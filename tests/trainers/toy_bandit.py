"""A task small enough to train on in a second: answer token t with t + 1, then t + 2 (modulo the vocabulary).

`python toy_bandit.py DIRECTORY ITERATIONS KILLS` trains in children of its own and kills them with SIGKILL at
random moments, until KILLS of them had made progress, before it lets one finish; it prints the iterations each had reached.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from searchgym.records.episode import Segment
from searchgym.rollouts.evaluation import summarize
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.config import TrainConfig, parse_settings
from searchgym.trainers.conformance import TabularPolicy, make_episode
from searchgym.trainers.core.tasks import TaskSampler
from searchgym.trainers.runs.directory import RunDirectory
from searchgym.trainers.training import recorder
from searchgym.trainers.training.parts import Parts
from searchgym.trainers.training.trainer import Trainer

VOCABULARY = 6
TASKS = [str(t) for t in range(VOCABULARY)]


def play(policy, task, episode_id, group_id):
    """Two sampled tokens after the prompt `task`; the reward is 1 when both are right."""
    first, first_logprob = policy.sample(int(task))
    second, second_logprob = policy.sample(first)
    right = first == (int(task) + 1) % VOCABULARY and second == (int(task) + 2) % VOCABULARY
    segment = Segment([int(task), first, second], [0, 1, 1], [0.0, first_logprob, second_logprob], [0, 0, 0])
    return make_episode([segment], float(right), episode_id=episode_id, group_id=group_id, task_id=task)


class ToyGRPO(GRPO):
    """GRPO on the toy task: only `collect` differs."""

    def collect(self, policy, envs, tasks):
        size = self.settings.group_size
        return [
            [play(policy, t, f"{g}-{i}", str(g)) for i in range(size)] for g, t in enumerate(tasks.draw())
        ]


def evaluator(policy):
    return summarize([play(policy, t, t, t) for t in TASKS])


def make_trainer(run, algorithm=None, policy=None, **changes):
    config = parse_settings(TrainConfig, {
        "trainer": "grpo", "agent": "toy", "iterations": 20, "questions": 6, "lr": 0.1, "checkpoint_every": 2,
        "settings": {"group_size": 8}, **changes,
    })  # fmt: skip
    algorithm = algorithm or ToyGRPO(config.settings)
    policy = policy or TabularPolicy(VOCABULARY, seed=config.seed)
    tasks = TaskSampler(TASKS, config.questions, config.seed)
    return Trainer(Parts(policy, algorithm, None, tasks), config, run, evaluator=evaluator)


def run_toy(path, **changes):
    """Train in `path`, or continue what is there."""
    opened = RunDirectory.open(path) if (path / "config.json").exists() else RunDirectory.create(path, {})
    with opened as run:
        return make_trainer(run, **changes).run_to_end()


__all__ = ["ToyGRPO", "evaluator", "make_trainer", "play", "run_toy"]

if __name__ == "__main__":
    torch.set_num_threads(1)
    recorder.draw_curve = lambda *_: None  # drawing takes longer than these runs
    path, iterations, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng, window, reached = random.Random(0), 0.15, 0
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports what every child would import again
    while True:
        child = os.fork()
        if child == 0:
            run_toy(
                path, iterations=iterations, settings={"group_size": 4, "kl_coef": 0.01}, lr_schedule="cosine", lr_warmup=5,
                eval_every=8, keep_best="em", keep_checkpoints=1,
            )  # fmt: skip
            os._exit(0)
        if kills > 0:
            time.sleep(rng.uniform(0.0, window))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        rows = path / "metrics.jsonl"
        before, reached = reached, len(rows.read_bytes().splitlines()) if rows.exists() else 0
        kills -= reached > before
        window *= 1.0 if reached > before else 1.5  # a busy machine needs longer to get anywhere
        print(reached, flush=True)
