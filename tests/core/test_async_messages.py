"""Messages travel through the shared memory of the stock asynchronous vector environment."""

import copy
import multiprocessing

import gymnasium as gym
import pytest
from gymnasium.vector.utils import shared_memory
from helpers import small_world

import searchgym
from searchgym.env.spaces import MessageSpace
from searchgym.errors import ConfigError

SMALL = small_world()


def test_memory_is_read_when_asked_not_when_opened() -> None:
    space = MessageSpace(16)
    memory = shared_memory.create_shared_memory(space, n=3, ctx=multiprocessing)
    messages = shared_memory.read_from_shared_memory(space, memory, n=3)
    written = ["Paris, France.", "", "🜁 \ud800 ü"]
    for index, message in enumerate(written):
        shared_memory.write_to_shared_memory(space, index, message, memory)
    kept = copy.deepcopy(messages)
    assert kept == tuple(written)
    assert messages[-1] == written[-1]
    assert messages[:2] == tuple(written[:2])
    shared_memory.write_to_shared_memory(space, 0, "later", memory)
    assert (messages[0], kept[0]) == ("later", "Paris, France.")
    with pytest.raises(IndexError):
        messages[3]


def test_the_stock_vector_environments_play_the_same_episodes() -> None:
    assert searchgym.__version__
    seen = {}
    for mode in ("sync", "async", "vector_entry_point"):
        envs = gym.make_vec("SearchQA-v0", num_envs=2, vectorization_mode=mode, corpus=SMALL)
        first, _ = envs.reset(seed=5)
        after, *_ = envs.step(["<search> town </search>", "<search> river </search>"])
        seen[mode] = (tuple(first), tuple(after))
        envs.close()
    assert seen["sync"] == seen["async"] == seen["vector_entry_point"]
    assert all(text for texts in seen["async"] for text in texts)


def test_a_reward_of_another_type_is_a_users_mistake() -> None:
    with pytest.raises(ConfigError, match="reward is 3"):
        gym.make("SearchQA-v0", corpus=SMALL, reward=3)
