"""Search at inference: several acts or episodes are sampled, and a selector that does not see the gold answer chooses.

    best-of-n      n whole episodes of a question; the selector chooses one
    value-guided   n next acts in every state, of which the selector chooses one, to the answer

| selector | best-of-n | value-guided |
|---|---|---|
| majority | the answer that most episodes give | – |
| judge | the mean of the verdicts on the episode's rounds | the verdict on the act |
| agreement | – | how many continuations give the answer that most continuations of all n acts give |
| oracle | an episode that is right, if there is one | the share of continuations that are right |

A verdict counts u · v for a search, and v for an answer, which retrieves nothing, as in training. `oracle` sees the gold answer: its
figures are an upper bound and say so. Ties go to what was sampled first. A judge is given questions without their gold
fields and rounds without outcomes and rewards, and one that cannot work without gold passages is refused.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..agent import Agent
from ..env.judging import Costs, ask_judge
from ..env.vector import SearchVectorEnv
from ..errors import ConfigError
from ..judges.protocol import Judge, Trace, check_judge
from ..options import check_count, choice
from ..records.episode import Episode, RoundRecord
from ..records.question import Question
from ..scoring import normalize_answer
from .collection import AgentLike, EnvLike, choose_tasks, collect, open_agent, open_envs
from .evaluation import EvalResult, summarize
from .starts import Start, stopped_after_act

__all__ = ["METHODS", "SELECTORS", "SearchOptions", "evaluate_search"]

METHODS = ("best-of-n", "value-guided")
SELECTORS = ("majority", "judge", "agreement", "oracle")


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        method: one of `METHODS`.
        n: episodes of a question, or acts in a state.
        selector: one of `SELECTORS`.
        continuations: of each act, played to the end (value-guided with agreement or oracle).

    Raises:
        ConfigError: an unknown name, a number out of range, or a selector that the method cannot use.
    """

    method: Literal["best-of-n", "value-guided"] = "best-of-n"
    n: int = 4
    selector: Literal["majority", "judge", "agreement", "oracle"] = "majority"
    continuations: int = 4

    def __post_init__(self) -> None:
        choice("search", self.method, METHODS)
        choice("search selector", self.selector, SELECTORS)
        check_count("n", self.n, 2)
        check_count("continuations", self.continuations, 1)
        unfit = {"best-of-n": "agreement", "value-guided": "majority"}
        if self.selector == unfit[self.method]:
            raise ConfigError(
                f"selector {self.selector} does not go with search {self.method}: give "
                f"{unfit['value-guided' if self.method == 'best-of-n' else 'best-of-n']}, judge or oracle"
            )

    @property
    def continues(self) -> bool:
        """Whether acts are valued by continuations."""
        return self.method == "value-guided" and self.selector in ("agreement", "oracle")


def evaluate_search(
    env: EnvLike,
    agent: AgentLike,
    options: SearchOptions,
    episodes: int | None = 200,
    *,
    split: str | None = "dev",
    seed: int | None = None,
    num_envs: int = 64,
    on_episode: Callable[[Episode], None] | None = None,
    **arguments: Any,
) -> EvalResult:
    """Search for each question, and score the episodes that were chosen.

    Args:
        env: registered id, search environment, or vector environment; the selector `judge` uses its judge.
        agent: must sample; value-guided search needs one that can resume and fork.
        options: how to search.
        episodes: number of questions, at most those of the split; None: the whole split.
        split: "dev" by default; None: the environment's.
        seed: draws the questions; None takes the first ones in corpus order.
        num_envs: episodes played at once.
        on_episode: called with the chosen episode of each question.
        **arguments: environment arguments (only with an id).

    Returns:
        The scores of the chosen episodes, with `EvalResult.search`: the options, "upper_bound", and per question the
        "episodes", "searches", sampled "tokens" and "judgements" that the search took, and "alike", the share of choices
        among samples that were all the same (1.0 for an agent that does not sample).

    Raises:
        ConfigError: a selector without what it needs, an agent that cannot fork or does not sample; nothing was played.
    """
    if episodes is not None:
        check_count("episodes", episodes, 1)
    opened = open_agent(agent)
    envs = open_envs(env, opened, num_envs, split, **arguments)
    judge = envs.config.judge
    _check(options, opened, judge)
    if judge is not None:  # the selector asks it, and not the environment
        plain = replace(envs.config, judge=None, judge_spec=None)
        envs = SearchVectorEnv.from_config(plain, envs.num_envs)
    tasks = choose_tasks(envs.config, split, None, seed)[:episodes]
    before = opened.costs()
    searcher = _Searcher(envs, opened, options, judge)
    chosen = searcher.best_of_n(tasks) if options.method == "best-of-n" else searcher.value_guided(tasks)
    for episode in chosen:
        if on_episode is not None:
            on_episode(episode)
    result = summarize(chosen)
    if not getattr(envs.config.retriever, "ids_match", True):
        result.metrics.pop("recall", None)  # its hits are not the corpus's passages
    result.costs = {name: value - before.get(name, 0.0) for name, value in opened.costs().items()}
    spent = {name: count / len(tasks) for name, count in searcher.spent.items()}
    upper_bound = options.selector == "oracle"
    result.search = {**asdict(options), "upper_bound": upper_bound, **spent, "alike": searcher.alike}
    return result


def _check(options: SearchOptions, agent: Agent, judge: Judge | None) -> None:
    if getattr(agent, "greedy", False):
        raise ConfigError(
            f"agent {agent.name!r} is greedy, so its {options.n} samples would all be the same: set greedy = False"
        )
    if options.method == "value-guided":
        for method in ("resume", "fork"):
            if getattr(type(agent), method) is getattr(Agent, method):
                raise ConfigError(
                    f"agent {agent.name!r} has no {method}(), which value-guided search needs to try several acts in one "
                    "state: use best-of-n"
                )
    if options.selector != "judge":
        return
    if judge is None:
        raise ConfigError(
            "the selector judge needs a judge: add one (--judge rules), or give another selector (best-of-n: majority; "
            "value-guided: agreement)"
        )
    if getattr(judge, "needs_gold", False):
        raise ConfigError(
            f"judge {judge.name!r} compares with the gold passages, which a selector must not see: give another judge, or "
            "selector oracle, whose figures are an upper bound"
        )
    check_judge(judge)


class _Searcher:
    """Plays, asks the selector, and counts what both cost."""

    def __init__(
        self, envs: SearchVectorEnv, agent: Agent, options: SearchOptions, judge: Judge | None
    ) -> None:
        self._envs, self._agent, self._options, self._judge = envs, agent, options, judge
        self._ids = random.Random(secrets.randbits(64))
        self._costs = Costs()
        self._played = {"episodes": 0, "searches": 0, "tokens": 0}
        self._choices = self._alike = 0

    @property
    def alike(self) -> float:
        """Share of choices among samples whose messages were all the same."""
        return self._alike / self._choices

    @property
    def spent(self) -> dict[str, float]:
        """Sums over all questions."""
        return {**self._played, "judgements": self._costs.judgements}

    def best_of_n(self, tasks: Sequence[str]) -> list[Episode]:
        played = self._play([Start(task) for task in tasks], self._options.n)
        return [self._choose(samples, self._score_episodes(samples)) for samples in played]

    def value_guided(self, tasks: Sequence[str]) -> list[Episode]:
        heads: list[Episode | None] = [None] * len(tasks)
        playing = list(range(len(tasks)))
        while playing:
            starts = [_after(tasks[i], heads[i]) for i in playing]
            slates = self._play([replace(start, rounds=1) for start in starts], self._options.n)
            for i, slate, scores in zip(playing, slates, self._score_acts(slates), strict=True):
                heads[i] = self._choose(slate, scores)
            playing = [i for i in playing if (head := heads[i]) is not None and stopped_after_act(head)]
        return [head for head in heads if head is not None]

    def _play(self, starts: Sequence[Start], count: int) -> list[list[Episode]]:
        """`count` episodes from each start."""
        everything = [start for start in starts for _ in range(count)]
        ids = [f"{self._ids.getrandbits(64):016x}" for _ in starts]
        groups = [group for group in ids for _ in range(count)]
        played = collect(self._envs, self._agent, starts=everything, group_ids=groups, ids=self._ids)
        self._played["episodes"] += len(played)
        for episode, start in zip(played, everything, strict=True):
            new = episode.rounds[start.fork_round :]
            self._played["searches"] += sum(len(r.action.queries) for r in new if r.action.kind == "search")
            self._played["tokens"] += sum(
                sampled
                for segment in episode.segments
                for sampled, index in zip(segment.mask, segment.rounds, strict=True)
                if index >= start.fork_round
            )
        return [played[i : i + count] for i in range(0, len(played), count)]

    def _choose(self, samples: Sequence[Episode], scores: Sequence[float | None]) -> Episode:
        """The first of the best that infrastructure did not fail; without a score, the first one."""
        self._choices += 1
        self._alike += len({tuple(record.text for record in episode.rounds) for episode in samples}) == 1
        valid = [i for i, episode in enumerate(samples) if episode.valid_for_training]
        scored = [(score, -i) for i in valid if (score := scores[i]) is not None]
        if scored:
            return samples[-max(scored)[1]]
        return samples[valid[0]] if valid else samples[0]

    # -- selectors ---------------------------------------------------------------------------------------------

    def _score_episodes(self, samples: Sequence[Episode]) -> list[float | None]:
        selector = self._options.selector
        if selector == "oracle":
            return [episode.outcome.em for episode in samples]
        if selector == "majority":
            return _votes_for(samples, [[episode] for episode in samples])
        traces = [_without_gold(episode, t) for episode in samples for t in range(len(episode.rounds))]
        values = iter(self._ask(traces))
        means: list[float | None] = []
        for episode in samples:
            known = [v for v in [next(values) for _ in episode.rounds] if v is not None]
            means.append(sum(known) / len(known) if known else None)
        return means

    def _score_acts(self, slates: Sequence[Sequence[Episode]]) -> list[list[float | None]]:
        flat = [episode for slate in slates for episode in slate]
        if not self._options.continues:
            values = iter(self._ask([_without_gold(e, e.fork_round or 0) for e in flat]))
            return [[next(values) for _ in slate] for slate in slates]
        open_ = [episode for episode in flat if stopped_after_act(episode)]
        starts = [_after(episode.task_id, episode) for episode in open_]
        ends = dict(zip(map(id, open_), self._play(starts, self._options.continuations), strict=True))
        scores: list[list[float | None]] = []
        for slate in slates:
            reached = [ends.get(id(episode), [episode]) for episode in slate]
            if self._options.selector == "oracle":
                scores.append(
                    [_mean([e.outcome.em for e in some if e.valid_for_training]) for some in reached]
                )
            else:
                scores.append(_votes_for([e for some in reached for e in some], reached))
        return scores

    def _ask(self, traces: Sequence[Trace]) -> list[float | None]:
        """The value of the last round of each trace; None where there is no verdict."""
        assert self._judge is not None
        judged = [trace.rounds[-1].action.kind not in ("none", "feedback") for trace in traces]
        asked = [trace for trace, wanted in zip(traces, judged, strict=True) if wanted]
        verdicts = iter(ask_judge(self._judge, asked, self._costs))
        values: list[float | None] = []
        for trace, wanted in zip(traces, judged, strict=True):
            verdict = next(verdicts) if wanted else None
            answers = trace.rounds[-1].action.kind == "answer"
            values.append(None if verdict is None else verdict.reasoning if answers else verdict.contribution)
        return values


def _after(task: str, head: Episode | None) -> Start:
    """Where a question's next acts begin: after the act at which `head` was stopped."""
    return Start(task) if head is None else Start(task, prefix=head, fork_round=len(head.rounds) - 1)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _votes_for(voters: Sequence[Episode], parts: Sequence[Sequence[Episode]]) -> list[float | None]:
    """The share of each part's episodes that give the answer which most voters give; episodes without an answer do not vote."""

    def answer(episode: Episode) -> str:
        return normalize_answer(episode.outcome.answer or "") if episode.valid_for_training else ""

    votes = Counter(text for text in map(answer, voters) if text)
    if not votes:
        return [None] * len(parts)
    elected = max(votes, key=lambda text: votes[text])  # the first of several
    return [_mean([float(answer(episode) == elected) for episode in part]) for part in parts]


def _without_gold(episode: Episode, last: int) -> Trace:
    """An episode up to a round, without anything that tells whether it is right."""
    question = Question(
        id=episode.task_id,
        text=episode.question,
        answers=(),
        split=episode.split,
        type=str(episode.extra.get("type", "unknown")),
        hops=int(episode.extra.get("hops", 0)),
        supporting_ids=(),
        chain=(),
    )
    return Trace(question, tuple(_bare(record) for record in episode.rounds[: last + 1]))


def _bare(record: RoundRecord) -> RoundRecord:
    return replace(record, reward=0.0, reward_terms={}, outcome=None, gold=None)
