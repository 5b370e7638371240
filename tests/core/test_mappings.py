"""Specs of Hydra and of any other mapping are accepted wherever a dict is; seeds and rows as GEM and TRL pass them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import pytest

import searchgym
from searchgym.corpora import build_index, open_index
from searchgym.corpora.bm25 import BM25_BACKEND
from searchgym.errors import ConfigError, UnknownIdError
from searchgym.judges.protocol import open_judge
from searchgym.rollouts.collection import open_agent
from searchgym.specs import open_corpus, open_retriever
from searchgym.trainers.config import make_config

WORLD = {"name": "country", "size": 1000, "train": 20, "dev": 10, "test": 10}


class Mapped(Mapping[str, Any]):
    """A mapping that is not a dict."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Listed(Sequence[Any]):
    """A sequence that is not a list."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __getitem__(self, place: Any) -> Any:
        return self._values[place]

    def __len__(self) -> int:
        return len(self._values)


def own(value: Any) -> Any:
    if isinstance(value, dict):
        return Mapped({key: own(one) for key, one in value.items()})
    return Listed([own(one) for one in value]) if isinstance(value, list) else value


def hydra(value: Any) -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create(value)


def proxy(value: Any) -> Any:
    return MappingProxyType(value) if isinstance(value, dict) else value


KINDS = pytest.mark.parametrize("given", [own, hydra, proxy], ids=lambda make: make.__name__)


@KINDS
def test_every_argument_of_an_environment(given: Any) -> None:
    arguments: dict[str, Any] = {
        "corpus": WORLD,
        "retriever": {"name": "bm25", "k1": 1.2},
        "judge": {"name": "corrupted", "rate": 0.5, "seed": 3},
        "reward": {"em": 1.0, "recall": 0.5},
        "feedback": {"level": "kind", "calls": 2},
        "types": ["chain"],
        "hops": [2, 3],
    }
    made = {name: given(value) for name, value in arguments.items()}
    for open_env in (lambda a: searchgym.SearchEnv(**a), lambda a: gym.make("SearchQA-v0", **a).unwrapped):
        env, plain = open_env(made), open_env(arguments)
        assert env.config.retriever is plain.config.retriever  # the same call gives the same object
        assert env.config.corpus is plain.config.corpus
        assert env.reset(seed=3) == plain.reset(seed=3)
        json.dumps(env.snapshot())
    vector, plain = (searchgym.make_vec("SearchQA-v0", 2, **a) for a in (made, arguments))
    assert vector.reset(seed=3)[0] == plain.reset(seed=3)[0]
    again = pickle.loads(
        pickle.dumps(searchgym.SearchEnv(**{k: v for k, v in made.items() if given is not proxy}))
    )
    again.reset(seed=1)


@KINDS
def test_every_function_that_takes_a_spec(given: Any, tmp_path: Path) -> None:
    corpus = open_corpus(given(WORLD))
    assert corpus is open_corpus(WORLD)
    assert open_retriever(given({"name": "bm25", "b": 0.3}), corpus) is open_retriever(
        {"name": "bm25", "b": 0.3}, corpus
    )
    assert open_judge(given({"name": "rules"}), corpus).name == "rules"
    assert open_agent(given({"name": "random", "seed": 4})).name == "random"
    place = build_index(BM25_BACKEND, corpus, tmp_path / "index", given({"k1": 1.5}), given(WORLD))
    assert json.loads((place / "index.json").read_text())["corpus"] == WORLD
    assert open_index(place).index_hash == open_retriever({"name": "bm25", "k1": 1.5}, corpus).index_hash
    config = make_config(
        given(
            {"trainer": "grpo", "settings": {"group_size": 4}, "env_options": {"corpus": WORLD, "hops": [2]}}
        )
    )
    assert (type(config.env_options), config.env_options["corpus"]) == (dict, WORLD)
    assert json.dumps(config.settings) == '{"group_size": 4}'
    first = searchgym.evaluate("SearchQA-v0", given({"name": "oracle"}), 3, corpus=given(WORLD))
    assert first.metrics["em"].value == 1.0


@KINDS
def test_a_tape_compares_mappings_by_content(given: Any, tmp_path: Path) -> None:
    tape = str(tmp_path / "t")
    options = {"corpus": WORLD, "retriever": {"name": "bm25", "k1": 1.2}}
    searchgym.evaluate("SearchQA-v0", "copy", 2, record=tape, **options)
    searchgym.evaluate("SearchQA-v0", "copy", 2, replay=tape, **{k: given(v) for k, v in options.items()})


def test_a_path_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "passages.jsonl").write_text('{"id": "a", "title": "", "text": "alps"}\n')
    assert open_corpus(str(tmp_path)) is open_corpus({"name": "jsonl", "path": tmp_path})


def test_a_missing_value_of_hydra_is_named() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    for broken in ({"name": "country", "size": "???"}, {"name": "country", "size": "${nowhere}"}):
        with pytest.raises(ConfigError, match=r"corpus cannot be read: .*(Missing|nowhere)"):
            searchgym.SearchEnv(corpus=omegaconf.OmegaConf.create(broken))
    with pytest.raises(ConfigError, match=r"corpus is \{'size': 3\}: give a name"):
        searchgym.SearchEnv(corpus=omegaconf.OmegaConf.create({"size": 3}))


def test_gem_gives_the_seed_when_it_makes_an_environment() -> None:
    expected = [searchgym.SearchEnv(corpus=WORLD).reset(seed=seed)[1]["task_id"] for seed in (5, 6)]
    envs = [gym.make("SearchQA-v0", seed=seed, corpus=WORLD) for seed in (5, 6)]
    assert [env.reset()[1]["task_id"] for env in envs] == expected
    first, again = searchgym.SearchEnv(seed=5, corpus=WORLD), searchgym.SearchEnv(corpus=WORLD)
    assert first.reset(seed=6)[1] == again.reset(seed=6)[1]  # the seed of reset comes first
    assert [first.reset()[1]["task_id"] for _ in range(3)] == [again.reset()[1]["task_id"] for _ in range(3)]
    for seed in (-1, 0.5, True, "x"):
        with pytest.raises(ConfigError, match="seed is"):
            searchgym.SearchEnv(seed=seed, corpus=WORLD)  # type: ignore[arg-type]


def test_trl_passes_a_row_of_its_dataset_to_reset() -> None:
    env = searchgym.SearchEnv(corpus=WORLD)
    for question in env.corpus.questions("train")[:3]:
        chat = [
            {"role": "system", "content": env.system_prompt},
            {"role": "user", "content": f"Question: {question.text}\n"},
        ]
        for row in (
            {"prompt": question.text},
            {"prompt": chat, "answer": "not looked at"},
            {"prompt": "other", "task_id": question.id},
        ):
            assert env.reset(**row)[1]["task_id"] == question.id
    with pytest.raises(ConfigError, match="no question of split 'train' at the end of the prompt 'Who\\?'"):
        env.reset(prompt="Who?")
    with pytest.raises(ConfigError, match="prompt is"):
        env.reset(prompt=[])
    with pytest.raises(UnknownIdError, match=r"unknown argument of reset 'option'\. Did you mean 'options'"):
        env.reset(option={"split": "dev"})
    with pytest.raises(UnknownIdError):
        env.reset(options={"split": "dev"}, answer="x")
