"""GEM's own vector environments and wrappers with `searchgym.interop.gem`: the oracle's messages earn 1.0."""

from __future__ import annotations

from typing import Any

import gem
from gem.wrappers.wrapper_factory import get_wrapper_fns
from scripts import ARGUMENTS, WORLD, Down, oracle_messages

import searchgym.interop.gem
from searchgym.errors import RetrievalError, SnapshotError

ID = searchgym.interop.gem.ID


def main() -> None:
    messages = oracle_messages("train", 200)
    for async_mode in (False, True):
        envs = gem.make_vec(
            [ID] * 8, wrappers=get_wrapper_fns("episode_tracking"), async_mode=async_mode, seed=3, **ARGUMENTS
        )
        _, infos = envs.reset()
        scripts = [iter(messages[info["task_id"]]) for info in infos]
        totals, asked = [0.0] * 8, {info["task_id"] for info in infos}
        left = set(range(8))
        for _ in range(8):
            actions = {i: next(scripts[i]) for i in sorted(left)}
            _, rewards, terminated, truncated, _ = envs.step(actions)
            for position, i in enumerate(sorted(left)):
                totals[i] += float(rewards[position])
                if terminated[position] or truncated[position]:
                    left.discard(i)
            if not left:
                break
        print("async" if async_mode else "sync", "rewards", totals, "questions", len(asked))
        assert totals == [1.0] * 8
        assert len(asked) > 4

    env = gem.make(ID, seed=5, **ARGUMENTS)
    first, info = env.reset()
    assert first.startswith(env.session.env.system_prompt)
    assert info["question"] in first
    assert gem.make(ID, seed=5, **ARGUMENTS).reset()[0] == first
    script = messages[info["task_id"]]
    env.step(script[0])
    state = env.get_state()
    twin, fresh = env.spawn(same_state=True), env.spawn(task_id="country-0-train-000003", prompt=False)
    assert fresh.reset()[1]["task_id"] == "country-0-train-000003"
    ends: list[Any] = []
    for one in (env, twin):
        for text in script[1:]:
            end = one.step(text)
        ends.append(end)
    assert ends[0] == ends[1]
    assert ends[0][1] == 1.0
    assert ends[0][2]
    env.set_state(state)
    assert env.step(script[1]) is not None
    other = gem.make(ID, corpus={**WORLD, "seed": 1})
    try:
        other.set_state(state)
    except SnapshotError as raised:
        print("SnapshotError", str(raised)[:80])
    assert searchgym.SearchEnv(**ARGUMENTS).action_space.contains(env.sample_random_action())

    down = gem.make(ID, corpus=WORLD, retriever=Down())
    down.reset()
    try:
        down.step("<search>x</search>")
    except RetrievalError as raised:
        print("RetrievalError", raised)
    marked = down.spawn(on_failure="mark")
    marked.reset()
    assert marked.step("<search>x</search>")[4]["valid_for_training"] is False


if __name__ == "__main__":
    main()
