"""`SearchQA-v0` as a Gymnasium environment: one round of search is one step."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from copy import copy
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np

from .dialects import Dialect
from .episode import StopReason
from .errors import ConfigError, RetrievalError, SnapshotError, UnknownIdError
from .game import Game, Step
from .judges.protocol import Judge, open_judge
from .judging import Costs, check_judge, judge_games
from .opening import Spec, open_corpus, open_retriever
from .question import Corpus, Question
from .retriever import Retriever, SearchResult
from .rules import Rules
from .snapshots import restore, snapshot
from .spaces import MessageSpace

__all__ = ["SearchEnv", "make_rules"]

_SAMPLE_TITLES = 64
_log = logging.getLogger(__name__)


def make_rules(
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
) -> Rules:
    """Turn the JSON arguments of `gym.make` into checked `Rules`; see `SearchEnv` for their meaning."""
    opened = open_corpus(corpus)
    if not isinstance(reward, str | dict):
        raise ConfigError(f'reward is {reward!r}: give a term like "em", or {{"em": 1.0, "recall": 0.2}}')
    level, calls = None, 0
    if feedback is not None:
        if not isinstance(feedback, dict) or set(feedback) - {"level", "calls"} or "level" not in feedback:
            raise ConfigError(f'feedback is {feedback!r}: give {{"level": "kind", "calls": 1}} or None')
        level, calls = feedback["level"], feedback.get("calls", 1)
    searcher, rounds_judge = _open_parts(opened, retriever, judge, top_k, record, replay)
    return Rules(
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
    from .tape import recording, replaying

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


def observation_space(rules: Rules) -> MessageSpace:
    """Observations: at most `max_observation_chars` of content and the dialect's wrapping."""
    return MessageSpace(rules.max_observation_chars + 256, words=_titles(rules.corpus))


def action_space(rules: Rules) -> MessageSpace:
    """Actions: messages of at most `max_action_chars`; `sample()` draws searches for real titles."""
    return MessageSpace(rules.max_action_chars, dialect=rules.dialect_name, words=_titles(rules.corpus))


def _titles(corpus: Corpus) -> list[str]:
    """What sampled messages are about: titles from all over the corpus, or first words where there are none."""
    passages = corpus.passages
    step = max(1, -(-len(passages) // _SAMPLE_TITLES))
    picked = [passages[i] for i in range(0, len(passages), step)]
    return [" ".join((p.title.split() or p.text.split())[:8])[:80] or "encyclopedia" for p in picked]


class SearchEnv(gym.Env[str, str]):
    """Answer a question by searching, round by round.

    ## Description
    Each episode is one question over a corpus. In every step the agent sends one message: its thinking and
    exactly one act (search or answer; feedback too where it is switched on). A search returns passages as the
    next observation; an answer ends the episode.

    ## Action Space
    `MessageSpace`: the full text of the agent's round. What is not exactly one act is an `invalid` round:
    it costs a round and is answered with a hint. `sample()` draws real searches and answers.

    ## Observation Space
    `MessageSpace`: only the NEW text: the question at reset, then what the last act returned, "" at the end.

    ## Rewards
    The weighted sum of the `reward` terms, each also in `info["reward_terms"]`. By default EM: 0 until the final
    step. Other terms, some of them paid in every round: docs/rewards.md.

    ## Starting State
    A question of `split`, drawn with the environment's generator, or `reset(options={"task_id": …})`;
    `options={"split": …}` draws from another split.

    ## Episode End
    `terminated`: the agent answered. `truncated`: a budget is spent or the infrastructure failed. Never both;
    `info["outcome"]["stop_reason"]` says which (`StopReason`).

    ## Arguments
    All are JSON values, so that `env.spec` survives JSON and pickling; live corpora, retrievers and judges may be
    passed to this constructor directly.

    - `corpus`: name, directory, or {"name": …, **options}.
    - `retriever`: name, or {"name": …, **options}.
    - `split`, `types`, `hops`: which questions to play.
    - `dialect`: "tags" or "tools".
    - `top_k`: passages per query. `max_queries`: queries allowed in one search act.
    - `max_rounds`, `max_searches`, `max_chars`: budgets of an episode (None: no limit).
    - `max_action_chars`: longer messages are invalid. `max_observation_chars`: longer results are cut.
    - `reward`: a term, e.g. "em", or {term: weight}; see docs/rewards.md.
    - `judge`: name, or {"name": …, **options}, of a judge of rounds; `judge_when`: "step", or after the episodes
      played by `collect`: "end", "success", "unequal", "unequal-success"; see docs/judges.md.
    - `feedback`: {"level": "kind" | "hop" | "revealing" | "gold", "calls": n} switches the training-only act on.
    - `record`: a tape to write every retrieval and judge call to; `replay`: a tape that answers them; docs/tapes.md.
    - `reveal_gold`: adds `info["gold"]`; for controls and analysis, never for agents under test.

    ## Info
    See docs/environment.md.

    Raises:
        ConfigError: an argument that cannot be used; nothing was opened or written.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  (declared so by gymnasium.Env)

    def __init__(self, *, render_mode: str | None = None, **arguments: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode is {render_mode!r}: only 'ansi' and None exist")
        self.render_mode = render_mode
        self._arguments = arguments
        self.rules = _checked_rules(arguments)
        self.observation_space = observation_space(self.rules)
        self.action_space = action_space(self.rules)
        self.game = Game(self.rules)
        self._transcript: list[str] = []
        self._stats = {"episodes": 0, "steps": 0, "queries": 0, "retrieval_seconds": 0.0}
        self.judge_costs = Costs()
        check_judge(self.rules.judge)

    # -- Gymnasium -------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode. `options`: {"task_id": id} or {"split": name}."""
        super().reset(seed=seed)
        question = choose_question(self.rules, options, lambda n: int(self.np_random.integers(n)))
        self._stats["episodes"] += 1
        observation, info = self.game.start(question)
        self._transcript = [f"question> {observation}"]
        return observation, info

    def step(self, action: str) -> Step:
        """Play one round; see the class docstring."""
        queries = self.game.begin_step(action)
        self._stats["steps"] += 1
        results: list[SearchResult] = []
        if queries:
            started = time.perf_counter()
            results = search(self.rules, queries)
            self._stats["retrieval_seconds"] += time.perf_counter() - started
            self._stats["queries"] += len(queries)
        self.game.take_results(results)
        if self.rules.judge is None:
            result = self.game.end_step()
        else:
            (result,) = judge_games(self.rules, [self.game], self.judge_costs)
        self._note(f"agent> {action}", result)
        return result

    def render(self) -> str | None:
        """The transcript so far (render_mode "ansi")."""
        return "\n\n".join(self._transcript) + "\n" if self.render_mode == "ansi" else None

    # -- pickling and copying: everything but the rules, which the arguments give again ------------------

    def __getstate__(self) -> dict[str, Any]:
        given = ("rules", "_dialect")
        game = {n: getattr(self.game, n) for n in Game.__slots__ if n not in given and hasattr(self.game, n)}
        return {k: v for k, v in self.__dict__.items() if k != "rules"} | {"game": game}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.rules = make_rules(**self._arguments)  # in the same process this shares the opened index
        self.game = Game(self.rules)
        for name, value in state["game"].items():
            setattr(self.game, name, value)

    # -- beyond Gymnasium --------------------------------------------------------------------------------

    def truncate(self, stop: StopReason) -> Step:
        """End the running episode from outside, e.g. `StopReason.TOKEN_BUDGET`; returns a step's five values."""
        result = self.game.truncate(stop)
        self._note("", result)
        return result

    def snapshot(self) -> dict[str, Any]:
        """The running episode and the generator as plain JSON (under 64 kB).

        Raises:
            ResetNeededError: no episode is running.
        """
        state = snapshot(self.game)
        generator = self.np_random.bit_generator.state
        return state | {
            "generator": {
                "name": generator["bit_generator"],
                "state": str(generator["state"]["state"]),  # 128 bits: a string survives every JSON reader
                "inc": str(generator["state"]["inc"]),
                "has_uint32": generator["has_uint32"],
                "uinteger": generator["uinteger"],
            }
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue a snapshot, also one of another process. The transcript restarts here.

        A snapshot of a `SearchVectorEnv` slot has no generator; this environment then keeps its own.

        Raises:
            SnapshotError: damaged, of another schema, or of another index. The running episode then goes on.
        """
        bits: Any = None
        if isinstance(state, dict) and "generator" in state:
            try:
                generator = state["generator"]
                bits = {
                    "bit_generator": generator["name"],
                    "state": {"state": int(generator["state"]), "inc": int(generator["inc"])},
                    "has_uint32": int(generator["has_uint32"]),
                    "uinteger": int(generator["uinteger"]),
                }
                np.random.PCG64().state = bits  # refuses what is damaged, before anything changes
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise SnapshotError(f"the snapshot's generator is damaged: {error!r}") from error
        restore(self.game, state)
        if bits is not None:
            self.np_random.bit_generator.state = bits
        self._transcript = [f"question> {self.game.question.text}", f"(restored at round {self.game.round})"]

    @property
    def system_prompt(self) -> str:
        """The dialect's instructions for a language model; not part of any observation."""
        return self.rules.system_prompt

    @property
    def dialect(self) -> Dialect:
        """The dialect object: parser, writer, renderer."""
        return self.rules.dialect

    @property
    def corpus(self) -> Corpus:
        """The corpus played on."""
        return self.rules.corpus

    @property
    def retriever(self) -> Retriever:
        """The retriever, behind its query cache."""
        return self.rules.retriever

    def task_ids(self, split: str | None = None) -> list[str]:
        """Ids of the questions that `split` (default: the environment's) offers after filtering."""
        return [q.id for q in self.rules.tasks(split or self.rules.split)]

    @property
    def stats(self) -> dict[str, float]:
        """What is not deterministic and so not in `info`: counts, seconds, cache hits, the judge's costs."""
        return {**self._stats, **cache_stats(self.rules), **self.judge_costs.to_stats()}

    def _note(self, line: str, result: Step) -> None:
        if self.render_mode is None:
            return
        if line:
            self._transcript.append(line)
        observation, reward, terminated, truncated, info = result
        if terminated or truncated:
            self._transcript.append(f"end> {info['outcome']['stop_reason']}, reward {reward:g}")
        else:
            self._transcript.append(observation)


def cache_stats(rules: Rules) -> dict[str, float]:
    """Hits and misses of the query cache, if the retriever has one."""
    retriever = rules.retriever
    return {
        "cache_hits": getattr(retriever, "hits", 0),
        "cache_misses": getattr(retriever, "misses", 0),
    }


def _checked_rules(arguments: dict[str, Any]) -> Rules:
    """`make_rules`, with a did-you-mean for an argument there is not."""
    check_names(arguments)
    return make_rules(**arguments)


def check_names(arguments: dict[str, Any]) -> None:
    """Refuse arguments the environment does not have."""
    known = list(inspect.signature(make_rules).parameters)
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
    known = [i for i, s in gym.registry.items() if s.entry_point == "searchgym.env:SearchEnv"]
    if name not in known:
        raise UnknownIdError("environment", env_id, known)
    check_names(arguments)
    return {**gym.spec(name).kwargs, **arguments}


def choose_question(rules: Rules, options: dict[str, Any] | None, draw: Callable[[int], int]) -> Question:
    """The question a reset starts: by id, or drawn from a split with `draw(n)`."""
    check_options(options, ("task_id", "split"))
    options = options or {}
    task_id, split = options.get("task_id"), options.get("split")
    if task_id is not None:
        if not isinstance(task_id, str):
            raise ConfigError(f"task_id is {task_id!r}: give the id of a question, a string")
        return rules.corpus.question(task_id)
    tasks = rules.tasks(rules.split if split is None else split)
    return tasks[draw(len(tasks))]


def check_options(options: Any, known: tuple[str, ...]) -> None:
    """Refuse reset options that do not exist: a misspelt one would otherwise be ignored."""
    if options is not None and not isinstance(options, dict):
        raise ConfigError(f"options is {options!r}: give a dict with {' or '.join(map(repr, known))}")
    for name in options or {}:
        if name not in known:
            raise UnknownIdError("reset option", name, known)


def search(rules: Rules, queries: Sequence[str]) -> list[SearchResult]:
    """One retriever call; a failure of the whole batch becomes a failure of each query."""
    try:
        results = list(rules.retriever.search(queries, rules.top_k))
        if len(results) != len(queries):
            raise RetrievalError(
                f"retriever {rules.retriever.name!r} gave {len(results)} results for {len(queries)} queries"
            )
    except RetrievalError as error:
        results = [error] * len(queries)
    for failure in {str(r) for r in results if isinstance(r, RetrievalError)}:
        _log.warning("retrieval failed, the episode is dropped: %s", failure)  # info must not carry the text
    return results
