"""skyrl-gym's own `make` and `step` with `searchgym.interop.skyrl`: the oracle's messages earn 1.0, failures are typed."""

from __future__ import annotations

import json

import skyrl_gym
from omegaconf import OmegaConf
from scripts import ARGUMENTS, WORLD, Down, oracle_messages

from searchgym.errors import ConfigError, RetrievalError, UnknownIdError
from searchgym.interop.skyrl import rows


def main() -> None:
    messages = oracle_messages("dev", 20)
    table = {row["task_id"]: row for row in rows("dev", **ARGUMENTS)}
    assert len(table) == 50
    metrics, earned = [], []
    for task_id, texts in messages.items():
        row = table[task_id]
        env = skyrl_gym.make(
            "searchgym", env_config=OmegaConf.create({"max_rounds": 6}), extras={**row, "max_turns": 7}
        )
        prompt, _ = env.init(row["prompt"])
        assert prompt == row["prompt"] == env.init([])[0]
        total = 0.0
        for text in texts:
            out = env.step(text)
            total += out["reward"]
            assert out["done"] == (not out["observations"])
        assert out["done"]
        earned.append(total)
        assert env.step("<search>more</search>")["reward"] == 0.0
        metrics.append(env.get_metrics())
        assert env.max_turns == 7
    assert earned == [1.0] * 20
    print("20 questions, reward", sum(earned) / 20, env.aggregate_metrics(metrics))

    row = next(iter(table.values()))
    for change, error in (
        ({"task_id": "country-9-dev-000000"}, UnknownIdError),
        ({"searchgym": json.dumps({"corpus": WORLD, "topk": 3})}, UnknownIdError),
        ({"on_failure": "zero"}, ConfigError),
    ):
        try:
            skyrl_gym.make("searchgym", env_config={}, extras={**row, **change}).init([])
        except error as raised:
            print(type(raised).__name__, str(raised)[:90])
        else:
            raise AssertionError(change)
    for on_failure in ("raise", "mark"):
        extras = {"task_id": row["task_id"], "on_failure": on_failure}
        env = skyrl_gym.make("searchgym", env_config={"corpus": WORLD, "retriever": Down()}, extras=extras)
        env.init([])
        raised = ""
        try:
            out = env.step("<search>x</search>")
        except RetrievalError as error:
            raised = str(error)
        if on_failure == "mark":
            assert out["done"]
            assert not out["metadata"]["valid_for_training"]
        assert bool(raised) == (on_failure == "raise")
        assert "secret" not in raised
        assert env.get_metrics()["valid"] == 0.0
    print("a failed search is raised, or marked")


if __name__ == "__main__":
    main()
