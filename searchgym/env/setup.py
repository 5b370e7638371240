"""What `SearchEnv` and `SearchVectorEnv` share: opening, spaces, the choice of a question and the search call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from ..errors import ConfigError, RetrievalError, UnknownIdError, get_logger
from ..judges.protocol import Judge, open_judge
from ..options import integer, plain
from ..records.question import Corpus, Question
from ..records.retriever import CachedRetriever, Retriever, SearchResult, check_result
from ..specs import Spec, open_corpus, open_retriever
from .config import ARGUMENTS, EnvConfig, check_names
from .lookup import not_one_question, prompt_text, questions_of_prompt
from .reward_weights import EXACT_WRAPPERS, RewardWeights, open_reward
from .spaces import MessageSpace, SampleTitles

__all__ = [
    "action_space",
    "cache_stats",
    "check_options",
    "check_seed",
    "choose_question",
    "make_env_config",
    "observation_space",
    "options_of_row",
    "registered_arguments",
    "search",
]

_log = get_logger(__name__)
_EXACT_ENTRY_POINTS = [f"{wrapper.__module__}:{wrapper.__name__}" for wrapper in EXACT_WRAPPERS]


def make_env_config(**arguments: Any) -> EnvConfig:
    """Check the arguments of an environment and open its corpus, retriever and judge.

    Args:
        **arguments: see `EnvConfig`; JSON values, or live objects for `corpus`, `retriever`, `judge` and `reward`.

    Raises:
        UnknownIdError: an unknown argument, or an unknown name in one.
        ConfigError: a value that cannot be used.
    """
    arguments = {
        name: value if isinstance(value, RewardWeights) else plain(name, value)
        for name, value in arguments.items()
    }
    check_names(arguments)
    given = {name: arguments.get(name, declared.default) for name, declared in ARGUMENTS.items()}
    corpus = given["corpus"] = open_corpus(given["corpus"])
    judge = given["judge"]
    given["retriever"], given["judge"] = _open_parts(
        corpus, given["retriever"], judge, given["top_k"], given["record"], given["replay"]
    )
    judge_spec = judge if isinstance(judge, str | dict) else getattr(judge, "name", None)
    return EnvConfig(**given, judge_spec=judge_spec)


def _open_parts(
    corpus: Corpus,
    retriever: Spec | Retriever,
    judge: Spec | Judge | None,
    top_k: int,
    record: str | None,
    replay: str | None,
) -> tuple[Retriever, Judge | None]:
    """Retriever and judge: opened, opened and recorded, or replayed from a tape without being opened."""
    if record is None and replay is None:
        return open_retriever(retriever, corpus), None if judge is None else open_judge(judge, corpus)
    from ..tape.recording import recording, replaying

    for name, path in (("record", record), ("replay", replay)):
        if path is not None and (not isinstance(path, str) or not path):
            raise ConfigError(f"{name} is {path!r}: give the path of a tape")
    if record is not None and replay is not None:
        raise ConfigError(f"record={record!r} and replay={replay!r}: give one of them")
    if replay is not None:
        return replaying(replay, corpus, top_k=top_k, retriever_spec=retriever, judge_spec=judge)
    assert record is not None
    return recording(
        record,
        corpus,
        open_retriever(retriever, corpus),
        None if judge is None else open_judge(judge, corpus),
        top_k=top_k,
        retriever_spec=retriever if isinstance(retriever, str | dict) else None,
        judge_spec=judge if isinstance(judge, str | dict) else None,
    )


def observation_space(config: EnvConfig) -> MessageSpace:
    """Observations: at most `max_observation_chars` of content and the dialect's wrapping."""
    return MessageSpace(config.max_observation_chars + 256, words=SampleTitles(config.corpus))


def action_space(config: EnvConfig) -> MessageSpace:
    """Actions: messages of at most `max_action_chars`; `sample()` draws searches for real titles."""
    return MessageSpace(
        config.max_action_chars, dialect=config.dialect.name, words=SampleTitles(config.corpus)
    )


def cache_stats(config: EnvConfig) -> dict[str, float]:
    """Hits and misses of the query cache, if the retriever has one."""
    retriever = config.retriever
    return {
        "cache_hits": getattr(retriever, "hits", 0),
        "cache_misses": getattr(retriever, "misses", 0),
    }


def registered_arguments(env_id: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a registered id, overridden by `arguments`.

    Args:
        env_id: "SearchQA-v0", or "module:SearchQA-v0".
        arguments: environment arguments.

    Raises:
        UnknownIdError: not a registered search environment, or an unknown argument.
        ConfigError: the id's module cannot be imported.
    """
    module, _, name = str(env_id).rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"environment {env_id!r}: module {module!r} cannot be imported: {error}"
            ) from error
    known = [i for i, s in gym.registry.items() if s.entry_point == "searchgym.env:SearchEnv"]
    if name not in known:
        raise UnknownIdError("environment", env_id, known)
    check_names(arguments)
    spec = gym.spec(name)
    given = {**spec.kwargs, **arguments}
    for wrapper in spec.additional_wrappers:
        if wrapper.entry_point not in _EXACT_ENTRY_POINTS:
            raise ConfigError(
                f"environment {env_id!r} is registered with the wrapper {wrapper.name}, which batched episodes would skip: "
                "step gym.make yourself, or write it as a reward term (docs/rewards.md)"
            )
        make_wrapper: Any = load_env_creator(wrapper.entry_point)
        env = make_wrapper(gym.Env(), **(wrapper.kwargs or {}))
        given["reward"] = open_reward(given.get("reward", ARGUMENTS["reward"].default)).wrapped(env)
    return given


def choose_question(
    config: EnvConfig, options: dict[str, Any] | None, draw: Callable[[int], int]
) -> Question:
    """The question that a reset starts.

    Args:
        config: the environment's arguments.
        options: {"task_id": id} or {"split": name}.
        draw: `draw(n)` returns a random position below n.
    """
    check_options(options, ("task_id", "split"))
    options = options or {}
    task_id, split = options.get("task_id"), options.get("split")
    if task_id is not None:
        if not isinstance(task_id, str):
            raise ConfigError(f"task_id is {task_id!r}: give the id of a question, a string")
        return config.corpus.question(task_id)
    tasks = config.tasks(config.split if split is None else split)
    return tasks[draw(len(tasks))]


def check_seed(seed: Any) -> int:
    """A seed as a Python integer.

    Raises:
        ConfigError: it is not a whole number of at least 0; True and False are not numbers.
    """
    return integer("seed", int(seed) if isinstance(seed, np.integer) else seed, 0)


def check_options(options: Any, known: tuple[str, ...]) -> None:
    """Refuse unknown reset options: a misspelt one would otherwise be ignored."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"options is {options!r}: give a dict with {' or '.join(map(repr, known))}")
    for name in options or {}:
        if name not in known:
            raise UnknownIdError("reset option", name, known)


def options_of_row(
    config: EnvConfig, columns: Mapping[str, Any], options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The reset options for a row of a dataset.

    Args:
        config: the environment's arguments.
        columns: the row: `task_id`, or `prompt`, whose last message ends with the text of a question.
        options: other reset options.

    Raises:
        UnknownIdError: the row has neither of these columns.
        ConfigError: the prompt is not that of a question of the split, or of several.
    """
    check_options(options, ("task_id", "split"))
    given = dict(options or {})
    if "task_id" in columns:
        return {**given, "task_id": columns["task_id"]}
    if "prompt" not in columns:
        raise UnknownIdError(
            "argument of reset", next(iter(columns)), ["seed", "options", "task_id", "prompt"]
        )
    text = prompt_text(columns["prompt"])
    split = given.get("split") or config.split
    found = [
        question for question in questions_of_prompt(config.corpus, text, split) if config.offers(question)
    ]
    if len(found) != 1:
        raise not_one_question(len(found), text, f"split {split!r}")
    return {**given, "task_id": found[0].id}


def search(config: EnvConfig, queries: Sequence[str]) -> list[SearchResult]:
    """One retriever call; a failure of the whole batch becomes a failure of each query."""
    try:
        results = list(config.retriever.search(queries, config.top_k))
        if len(results) != len(queries):
            raise RetrievalError(
                f"retriever {config.retriever.name!r} gave {len(results)} results for {len(queries)} queries"
            )
        if not isinstance(config.retriever, CachedRetriever):  # which has checked them
            results = [check_result(result, config.retriever.name) for result in results]
    except RetrievalError as error:
        results = [error] * len(queries)
    failures = [result for result in results if isinstance(result, RetrievalError)]
    for message in dict.fromkeys(map(str, failures)):  # info must not carry the text
        _log.warning("retrieval failed, the episode is dropped: %s", message)
    return results
