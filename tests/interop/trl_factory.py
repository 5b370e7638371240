"""TRL's own loop with `searchgym.interop.trl`: a taught tiny model reaches reward 1.0; failures drop their rollouts.

python tests/interop/trl_factory.py MODEL    (made by tiny_chat.py with `tools`)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts import Down, check_imported
from tiny_chat import ARGUMENTS
from trl import GRPOConfig, GRPOTrainer

from searchgym.interop.trl import Environments

MODEL = sys.argv[1]
SMALL: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 700,
    "max_steps": 2,
    "logging_steps": 1,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "disable_tqdm": True,
    "temperature": 0.2,
    "learning_rate": 1e-6,
}


def train(environments: Environments, dataset: Any, folder: str, **changes: Any) -> GRPOTrainer:
    trainer = GRPOTrainer(
        model=MODEL,
        args=GRPOConfig(output_dir=folder, **{**SMALL, **changes}),
        train_dataset=dataset,
        environment_factory=environments,
    )
    trainer.train()
    return trainer


def rewards(trainer: GRPOTrainer) -> list[float | None]:
    return [row["reward"] for row in trainer.state.log_history if "reward" in row]


def main(folder: str) -> None:
    ids = json.loads((Path(MODEL) / "task_ids.json").read_text("utf-8"))
    environments = Environments(**ARGUMENTS)
    rows = environments.dataset("train")
    taught = rows.select([i for i, task in enumerate(rows["task_id"]) if task in ids])
    trainer = train(environments, taught, folder, log_completions=True)
    print("with a data set: rewards", rewards(trainer))
    assert rewards(trainer) == [1.0, 1.0], trainer.state.log_history
    names = sorted(tool.__name__ for tool in trainer.tools)
    assert names == ["answer", "search"], names

    tables = sorted(Path(folder).rglob("completions_*.parquet"))
    print("imported:", sum(map(check_imported, tables)), "episodes of TRL's tables of completions")
    assert len(tables) == 2, tables

    pinned = Environments(**ARGUMENTS, num_generations=4)
    trainer = train(pinned, None, folder, per_device_train_batch_size=8)
    asked = [one._session.env.episode.question.id for one in trainer.environments]
    print("without a data set: questions of the last batch", asked)
    assert len(set(asked[:4])) == len(set(asked[4:])) == 1, asked
    assert asked[0] != asked[4], asked

    down = Environments(**ARGUMENTS, retriever=Down())
    trainer = train(down, taught, folder, log_completions=False)
    print("retriever down: rewards", rewards(trainer), "dropped", down.dropped())
    assert rewards(trainer) == [None, None]
    assert down.dropped() == {"retrieval_failed": 8}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
