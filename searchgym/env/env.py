"""`SearchQA-v0` as a Gymnasium environment: one round of search is one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from ..dialects import Dialect
from ..errors import ConfigError, SnapshotError, printable
from ..judges.protocol import check_judge
from ..options import integer
from ..records.acts import Act, allowed_act
from ..records.episode import RoundRecord, StopReason
from ..records.question import Corpus
from ..records.retriever import Retriever, SearchResult
from .episode_state import EpisodeState
from .judging import Costs, finish_steps
from .setup import (
    action_space,
    cache_stats,
    check_seed,
    choose_question,
    make_env_config,
    observation_space,
    options_of_row,
    search,
)
from .snapshots import restore, snapshot
from .tools import tool_schemas

__all__ = ["SearchEnv", "Step"]

Step = tuple[str, float, bool, bool, dict[str, Any]]
"""(observation, reward, terminated, truncated, info), as `gymnasium.Env.step` returns it."""


class SearchEnv(gym.Env[str, str]):
    """Answer a question by searching, round by round.

    ## Description
    Each episode is one question over a corpus. In every step the agent sends one message: its thinking and
    exactly one act (search or answer; also feedback if it is enabled). A search returns passages as the
    next observation; an answer ends the episode.

    ## Action Space
    `MessageSpace`: the full text of the agent's round. A message that is not exactly one act is an `invalid` round:
    it costs a round and is answered with a hint. `sample()` draws real searches and answers.

    ## Observation Space
    `MessageSpace`: only the NEW text: the question at reset, then what the last act returned, "" at the end.

    ## Rewards
    The weighted sum of the `reward` terms, each of them also in `info["reward_terms"]`. By default EM: 0 until the final
    step. Other terms, some of them paid in every round: docs/rewards.md.

    ## Starting State
    A question of `split`, drawn with the environment's generator, or `reset(options={"task_id": …})`;
    `options={"split": …}` draws from another split.

    ## Episode End
    `terminated`: the agent answered. `truncated`: a budget is spent or the infrastructure failed. Never both;
    `info["outcome"]["stop_reason"]` says which (`StopReason`).

    ## Arguments
    The fields of `searchgym.env.config.EnvConfig`, listed with their defaults in docs/environment.md. All are JSON values, so
    that `env.spec` survives JSON and pickling; live corpora, retrievers and judges may be passed to this constructor
    directly.

    ## Info
    See docs/environment.md.

    Args:
        render_mode: "ansi" keeps a transcript for `render`.
        seed: of the first `reset` that is given none, for frameworks that seed environments when they make them (GEM).
        **arguments: see above.

    Attributes:
        on_episode: called with the records of all rounds when an episode that was started by `reset` ends. A copy of the
            environment has none.

    Raises:
        ConfigError: an argument that cannot be used; nothing was opened or written.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  (declared so by gymnasium.Env)

    def __init__(self, *, render_mode: str | None = None, seed: int | None = None, **arguments: Any) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode is {render_mode!r}: give 'ansi' or None")
        self.render_mode = render_mode
        self._seed = None if seed is None else integer("seed", seed, 0)
        self._arguments = arguments
        self.config = make_env_config(**arguments)
        self.observation_space = observation_space(self.config)
        self.action_space = action_space(self.config)
        self.episode = EpisodeState(self.config)
        self._transcript: list[str] = []
        self.last_record: RoundRecord | None = None
        """The record of the newest round, for loops that record episodes themselves (`EpisodeRecorder`)."""
        self._stats = {"episodes": 0, "steps": 0, "queries": 0, "retrieval_seconds": 0.0}
        self.judge_costs = Costs()
        self.on_episode: Callable[[list[RoundRecord]], None] | None = None
        self._played: (
            list[RoundRecord] | None
        ) = []  # None: of a restored episode, the first rounds are missing
        check_judge(self.config.judge)

    # -- Gymnasium -------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, **columns: Any
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the environment's generator.
            options: {"task_id": id} or {"split": name}.
            **columns: a row of a dataset, as TRL passes it: `task_id` or `prompt` (a text or chat messages) says which
                question is asked, and other columns are not looked at.

        Raises:
            UnknownIdError: an unknown option, task or split.
            ConfigError: a seed or another value that cannot be used, or a row that does not say which question is asked.
        """
        if columns:
            options = options_of_row(self.config, columns, options)
        super().reset(seed=self._seed if seed is None else check_seed(seed))
        self._seed = None
        question = choose_question(self.config, options, lambda n: int(self.np_random.integers(n)))
        self._stats["episodes"] += 1
        start = self.episode.start(question)
        self._played = []
        self._transcript = [f"question> {start.observation}"]
        self.last_record = None
        return start.observation, start.to_info()

    def step(self, action: str) -> Step:
        """Play one round; see the class docstring."""
        return self._play(action, self.episode.begin_step(action))

    def play(self, act: Act, text: str | None = None) -> Step:
        """Play one round with an act that was read elsewhere, e.g. by a server or a framework that parses tool calls.

        Everything else is as in `step`. An act that is empty, has too many queries or is not offered is an invalid round,
        and so is an act of the kind "invalid".

        Args:
            act: e.g. `Act("search", queries=("a query",))` or `Act("answer", answer="Paris")`.
            text: the message it was read from, for the record and the limits of characters. None: the act as the dialect
                writes it, or "" for an invalid one.

        Raises:
            ResetNeededError: no episode is running.
            ConfigError: not an act, or a field of another type.
        """
        config = self.config
        act = allowed_act(act, feedback=config.has_feedback, max_queries=config.max_queries)
        if text is None:
            text = "" if act.kind == "invalid" else config.dialect.write(act)
        return self._play(text, self.episode.begin_step(text, act))

    def _play(self, action: str, queries: Sequence[str]) -> Step:
        """The round that `begin_step` began."""
        episode = self.episode
        self._stats["steps"] += 1
        results: list[SearchResult] = []
        if queries:
            started = time.perf_counter()
            results = search(self.config, queries)
            self._stats["retrieval_seconds"] += time.perf_counter() - started
            self._stats["queries"] += len(queries)
        episode.apply_results(results)
        if self.config.judge is None:
            record = episode.finish_step()
        else:
            (record,) = finish_steps(self.config, [episode], self.judge_costs)
        return self._return(record, f"agent> {action}")

    def render(self) -> str | None:
        """The transcript so far (render_mode "ansi"), without control sequences of passages and messages."""
        return printable("\n\n".join(self._transcript)) + "\n" if self.render_mode == "ansi" else None

    # -- pickling and copying: everything but the config, which the arguments give again -----------------

    def __getstate__(self) -> dict[str, Any]:
        given = ("config", "_dialect")
        episode = {
            name: getattr(self.episode, name)
            for name in EpisodeState.__slots__
            if name not in given and hasattr(self.episode, name)
        }
        kept = {k: v for k, v in self.__dict__.items() if k != "config"}
        return kept | {"episode": episode, "on_episode": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.config = make_env_config(**self._arguments)  # in the same process this shares the opened index
        self.episode = EpisodeState(self.config)
        for name, value in state["episode"].items():
            setattr(self.episode, name, value)

    # -- beyond Gymnasium --------------------------------------------------------------------------------

    def truncate(self, stop: StopReason) -> Step:
        """End the running episode from outside and return a step's five values.

        Args:
            stop: e.g. `StopReason.TOKEN_BUDGET`.

        Raises:
            ResetNeededError: no episode is running.
            ConfigError: not a reason to truncate.
        """
        return self._return(self.episode.truncate(stop))

    def snapshot(self) -> dict[str, Any]:
        """The running episode and the generator as plain JSON.

        It is smaller than 64 kB. If a judge that runs in every step, or a reward term, looks back at the rounds, their messages
        (each at most `max_action_chars`) and the passages that the corpus does not have come on top.

        Raises:
            ResetNeededError: no episode is running.
        """
        generator = self.np_random.bit_generator.state
        return snapshot(
            self.episode,
            generator={
                "name": generator["bit_generator"],
                "state": str(generator["state"]["state"]),  # 128 bits: a string survives every JSON reader
                "inc": str(generator["state"]["inc"]),
                "has_uint32": generator["has_uint32"],
                "uinteger": generator["uinteger"],
            },
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Continue a snapshot, also one of another process. The transcript restarts here.

        Args:
            state: what `snapshot` returned. A snapshot of a `SearchVectorEnv` slot has no generator; this environment
                then keeps its own.

        Raises:
            SnapshotError: damaged, of another schema, or of another index. The running episode then continues.
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
                np.random.PCG64().state = bits  # refuses a damaged state before anything changes
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise SnapshotError(f"the snapshot's generator is damaged: {error!r}") from error
        restore(self.episode, state)
        if bits is not None:
            self.np_random.bit_generator.state = bits
        self._transcript = [
            f"question> {self.episode.question.text}",
            f"(restored at round {self.episode.round})",
        ]
        self._played = None

    @property
    def system_prompt(self) -> str:
        """The dialect's instructions for a language model; not part of any observation."""
        return self.config.system_prompt

    @property
    def tool_schemas(self) -> list[dict[str, Any]]:
        """The acts as tools in JSON-schema form; see `searchgym.env.tools`, which also has them as Python functions."""
        return tool_schemas(self.config)

    @property
    def dialect(self) -> Dialect:
        """The dialect object: parser, writer, renderer."""
        return self.config.dialect

    @property
    def corpus(self) -> Corpus:
        """The corpus of the questions and passages."""
        return self.config.corpus

    @property
    def retriever(self) -> Retriever:
        """The retriever, behind its query cache."""
        return self.config.retriever

    def task_ids(self, split: str | None = None) -> list[str]:
        """Ids of the questions that a split offers after filtering.

        Args:
            split: default: the environment's.
        """
        return [q.id for q in self.config.tasks(split or self.config.split)]

    @property
    def stats(self) -> dict[str, float]:
        """What is not deterministic and therefore not in `info`: counts, seconds, cache hits, the judge's costs."""
        return {**self._stats, **cache_stats(self.config), **self.judge_costs.to_stats()}

    def _return(self, record: RoundRecord, line: str = "") -> Step:
        """A step's five values; adds the round to the transcript."""
        self.last_record = record
        terminated, truncated = record.terminated, record.truncated
        if self._played is not None:
            self._played.append(record)
            if record.outcome is not None and self.on_episode is not None:
                self.on_episode(self._played)
        if self.render_mode is not None:
            self._transcript += [line] if line else []
            end = f"end> {record.outcome.stop_reason}, reward {record.reward:g}" if record.outcome else ""
            self._transcript.append(end or record.observation)
        return record.observation, record.reward, terminated, truncated, record.to_info()
