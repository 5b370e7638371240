"""What `SearchEnv` and `SearchVectorEnv` share: rules from arguments, spaces, the choice of a question, the search call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from copy import copy
from importlib import import_module
from typing import Any

import gymnasium as gym

from ..errors import ConfigError, RetrievalError, UnknownIdError
from ..judges.protocol import Judge, open_judge
from ..question import Corpus, Question
from ..retriever import Retriever, SearchResult
from ..specs import Spec, open_corpus, open_retriever
from .config import EnvConfig
from .spaces import MessageSpace

__all__ = [
    "action_space",
    "cache_stats",
    "check_names",
    "check_options",
    "choose_question",
    "make_env_config",
    "observation_space",
    "registered_arguments",
    "search",
]


_SAMPLE_TITLES = 64


_log = logging.getLogger(__name__)


def make_env_config(
    corpus: Spec | Corpus = "country",
    retriever: Spec | Retriever = "bm25",
    split: str = "train",
    types: Sequence[str] | None = None,
    hops: Sequence[int] | None = None,
    dialect: str = "tags",
    top_k: int = 3,
    max_rounds: int = 8,
    max_searches: int | None = None,
    max_chars: int | None = 200_000,
    max_action_chars: int = 16_384,
    max_observation_chars: int = 16_384,
    max_queries: int = 1,
    reward: str | dict[str, float] = "em",
    judge: Spec | Judge | None = None,
    judge_when: str = "step",
    feedback: dict[str, Any] | None = None,
    reveal_gold: bool = False,
    record: str | None = None,
    replay: str | None = None,
) -> EnvConfig:
    """Turn the JSON arguments of `gym.make` into checked `EnvConfig`; see `SearchEnv` for their meaning."""
    opened = open_corpus(corpus)
    if not isinstance(reward, str | dict):
        raise ConfigError(f'reward is {reward!r}: give a term like "em", or {{"em": 1.0, "recall": 0.2}}')
    level, calls = None, 0
    if feedback is not None:
        if not isinstance(feedback, dict) or set(feedback) - {"level", "calls"} or "level" not in feedback:
            raise ConfigError(f'feedback is {feedback!r}: give {{"level": "kind", "calls": 1}} or None')
        level, calls = feedback["level"], feedback.get("calls", 1)
    searcher, rounds_judge = _open_parts(opened, retriever, judge, top_k, record, replay)
    return EnvConfig(
        corpus=opened,
        retriever=searcher,
        split=split,
        types=None if types is None else _names("types", types, str),
        hops=None if hops is None else _names("hops", hops, int),
        dialect_name=dialect,
        top_k=top_k,
        max_rounds=max_rounds,
        max_searches=max_searches,
        max_chars=max_chars,
        max_action_chars=max_action_chars,
        max_observation_chars=max_observation_chars,
        max_queries=max_queries,
        reward={reward: 1.0} if isinstance(reward, str) else copy(reward),
        judge=rounds_judge,
        judge_spec=judge if isinstance(judge, str | dict) else getattr(judge, "name", None),
        judge_when=judge_when,
        feedback_level=level,
        feedback_calls=calls,
        reveal_gold=reveal_gold,
    )


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


def _names(argument: str, values: Any, kind: type) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        example = "['chain']" if kind is str else "[2, 3]"
        raise ConfigError(f"{argument} is {values!r}: give a list, e.g. {argument}={example}")
    if not all(type(v) is kind for v in values):
        raise ConfigError(f"{argument} is {values!r}: every entry must be a {kind.__name__}")
    return tuple(values)


def observation_space(config: EnvConfig) -> MessageSpace:
    """Observations: at most `max_observation_chars` of content and the dialect's wrapping."""
    return MessageSpace(config.max_observation_chars + 256, words=_titles(config.corpus))


def action_space(config: EnvConfig) -> MessageSpace:
    """Actions: messages of at most `max_action_chars`; `sample()` draws searches for real titles."""
    return MessageSpace(config.max_action_chars, dialect=config.dialect_name, words=_titles(config.corpus))


def _titles(corpus: Corpus) -> list[str]:
    """What sampled messages are about: titles from all over the corpus, or first words where there are none."""
    passages = corpus.passages
    step = max(1, -(-len(passages) // _SAMPLE_TITLES))
    picked = [passages[i] for i in range(0, len(passages), step)]
    return [" ".join((p.title.split() or p.text.split())[:8])[:80] or "encyclopedia" for p in picked]


def cache_stats(config: EnvConfig) -> dict[str, float]:
    """Hits and misses of the query cache, if the retriever has one."""
    retriever = config.retriever
    return {
        "cache_hits": getattr(retriever, "hits", 0),
        "cache_misses": getattr(retriever, "misses", 0),
    }


def checked_env_config(arguments: dict[str, Any]) -> EnvConfig:
    """`make_env_config`, with a did-you-mean for an argument there is not."""
    check_names(arguments)
    return make_env_config(**arguments)


def check_names(arguments: dict[str, Any]) -> None:
    """Refuse arguments the environment does not have."""
    known = list(inspect.signature(make_env_config).parameters)
    for name in arguments:
        if name not in known:
            raise UnknownIdError("environment argument", name, known)


def registered_arguments(env_id: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a registered id ("SearchQA-v0", "module:SearchQA-v0"), overridden by `arguments`.

    Raises:
        UnknownIdError: not a registered search environment, or an argument there is not.
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
    known = [i for i, s in gym.registry.items() if s.entry_point == "searchgym.env.env:SearchEnv"]
    if name not in known:
        raise UnknownIdError("environment", env_id, known)
    check_names(arguments)
    return {**gym.spec(name).kwargs, **arguments}


def choose_question(
    config: EnvConfig, options: dict[str, Any] | None, draw: Callable[[int], int]
) -> Question:
    """The question a reset starts: by id, or drawn from a split with `draw(n)`."""
    check_options(options, ("task_id", "split"))
    options = options or {}
    task_id, split = options.get("task_id"), options.get("split")
    if task_id is not None:
        if not isinstance(task_id, str):
            raise ConfigError(f"task_id is {task_id!r}: give the id of a question, a string")
        return config.corpus.question(task_id)
    tasks = config.tasks(config.split if split is None else split)
    return tasks[draw(len(tasks))]


def check_options(options: Any, known: tuple[str, ...]) -> None:
    """Refuse reset options that do not exist: a misspelt one would otherwise be ignored."""
    if options is not None and not isinstance(options, dict):
        raise ConfigError(f"options is {options!r}: give a dict with {' or '.join(map(repr, known))}")
    for name in options or {}:
        if name not in known:
            raise UnknownIdError("reset option", name, known)


def search(config: EnvConfig, queries: Sequence[str]) -> list[SearchResult]:
    """One retriever call; a failure of the whole batch becomes a failure of each query."""
    try:
        results = list(config.retriever.search(queries, config.top_k))
        if len(results) != len(queries):
            raise RetrievalError(
                f"retriever {config.retriever.name!r} gave {len(results)} results for {len(queries)} queries"
            )
    except RetrievalError as error:
        results = [error] * len(queries)
    for failure in {str(r) for r in results if isinstance(r, RetrievalError)}:
        _log.warning("retrieval failed, the episode is dropped: %s", failure)  # info must not carry the text
    return results
