"""`SearchQA-v0` as a Gymnasium environment: one round of search is one step."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np

from ..dialects import Dialect
from ..episode import StopReason
from ..errors import ConfigError, SnapshotError
from ..judges.protocol import check_judge
from ..question import Corpus
from ..retriever import Retriever, SearchResult
from .game import Game, Step
from .judging import Costs, judge_games
from .setup import (
    action_space,
    cache_stats,
    checked_env_config,
    choose_question,
    make_env_config,
    observation_space,
    search,
)
from .snapshots import restore, snapshot

__all__ = [
    "SearchEnv",
]


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
        self.config = checked_env_config(arguments)
        self.observation_space = observation_space(self.config)
        self.action_space = action_space(self.config)
        self.game = Game(self.config)
        self._transcript: list[str] = []
        self._stats = {"episodes": 0, "steps": 0, "queries": 0, "retrieval_seconds": 0.0}
        self.judge_costs = Costs()
        check_judge(self.config.judge)

    # -- Gymnasium -------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode. `options`: {"task_id": id} or {"split": name}."""
        super().reset(seed=seed)
        question = choose_question(self.config, options, lambda n: int(self.np_random.integers(n)))
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
            results = search(self.config, queries)
            self._stats["retrieval_seconds"] += time.perf_counter() - started
            self._stats["queries"] += len(queries)
        self.game.take_results(results)
        if self.config.judge is None:
            result = self.game.end_step()
        else:
            (result,) = judge_games(self.config, [self.game], self.judge_costs)
        self._note(f"agent> {action}", result)
        return result

    def render(self) -> str | None:
        """The transcript so far (render_mode "ansi")."""
        return "\n\n".join(self._transcript) + "\n" if self.render_mode == "ansi" else None

    # -- pickling and copying: everything but the rules, which the arguments give again ------------------

    def __getstate__(self) -> dict[str, Any]:
        given = ("config", "_dialect")
        game = {n: getattr(self.game, n) for n in Game.__slots__ if n not in given and hasattr(self.game, n)}
        return {k: v for k, v in self.__dict__.items() if k != "config"} | {"game": game}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.config = make_env_config(**self._arguments)  # in the same process this shares the opened index
        self.game = Game(self.config)
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
        return self.config.system_prompt

    @property
    def dialect(self) -> Dialect:
        """The dialect object: parser, writer, renderer."""
        return self.config.dialect

    @property
    def corpus(self) -> Corpus:
        """The corpus played on."""
        return self.config.corpus

    @property
    def retriever(self) -> Retriever:
        """The retriever, behind its query cache."""
        return self.config.retriever

    def task_ids(self, split: str | None = None) -> list[str]:
        """Ids of the questions that `split` (default: the environment's) offers after filtering."""
        return [q.id for q in self.config.tasks(split or self.config.split)]

    @property
    def stats(self) -> dict[str, float]:
        """What is not deterministic and so not in `info`: counts, seconds, cache hits, the judge's costs."""
        return {**self._stats, **cache_stats(self.config), **self.judge_costs.to_stats()}

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
