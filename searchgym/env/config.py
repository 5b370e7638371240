"""Everything about an environment that does not change between episodes, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any

from ..checks import check_count
from ..dialects import Dialect, get_dialect
from ..errors import ConfigError, UnknownIdError
from ..judges.gain import InformationGain
from ..judges.protocol import Grader, Judge
from ..question import Corpus, Question
from ..retriever import Retriever
from .feedback import check_level
from .rewards import REWARD_TERMS

__all__ = [
    "JUDGE_WHEN",
    "EnvConfig",
]

JUDGE_WHEN = ("step", "end", "success", "unequal", "unequal-success")
"""When rounds are judged: each in its step; or after the episodes: all, those answered right, those in groups of
unequal rewards, those answered right in such groups."""


@dataclass(frozen=True)
class EnvConfig:
    """The arguments of an environment, opened; see `SearchEnv` for the meaning of each.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    corpus: Corpus
    retriever: Retriever
    split: str = "train"
    types: tuple[str, ...] | None = None
    hops: tuple[int, ...] | None = None
    dialect_name: str = "tags"
    top_k: int = 3
    max_rounds: int = 8
    max_searches: int | None = None
    max_chars: int | None = 200_000
    max_action_chars: int = 16_384
    max_observation_chars: int = 16_384
    max_queries: int = 1
    reward: dict[str, float] = field(default_factory=lambda: {"em": 1.0})
    judge: Judge | None = None
    judge_spec: Any = None
    judge_when: str = "step"
    feedback_level: str | None = None
    feedback_calls: int = 0
    reveal_gold: bool = False

    def __post_init__(self) -> None:
        get_dialect(self.dialect_name)
        for name in ("top_k", "max_rounds", "max_action_chars", "max_observation_chars", "max_queries"):
            check_count(name, getattr(self, name), 1)
        for name, least in (("max_searches", 0), ("max_chars", 1)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        if not isinstance(self.reward, dict) or not self.reward:
            raise ConfigError(f"reward is {self.reward!r}: give a term, or weights like {{'em': 1.0}}")
        if not isinstance(self.reveal_gold, bool):
            raise ConfigError(f"reveal_gold is {self.reveal_gold!r}: give True or False")
        for term, weight in self.reward.items():
            if term not in REWARD_TERMS:
                raise UnknownIdError("reward term", term, REWARD_TERMS)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
                raise ConfigError(f"the weight of reward term {term!r} is {weight!r}: give a finite number")
        if self.judge_when not in JUDGE_WHEN:
            raise UnknownIdError("judge_when", self.judge_when, JUDGE_WHEN)
        for term in self.reward:
            self._check_needs(term)
        if self.feedback_level is not None:
            check_level(self.feedback_level)
            check_count("feedback calls", self.feedback_calls, 1)
        self.tasks(self.split)

    def _check_needs(self, term: str) -> None:
        """Refuse a reward term whose judge is missing, late or no grader."""
        needs = REWARD_TERMS[term]
        if needs.needs_verdict and self.judge is None:
            raise ConfigError(f'reward term {term!r} needs a judge: give judge="oracle", or another one')
        if needs.needs_verdict and self.judge_when != "step":
            raise ConfigError(
                f"reward term {term!r} needs the verdict in the step itself, but judge_when is "
                f'{self.judge_when!r}: use judge_when="step"'
            )
        if needs.needs_grade and not isinstance(self.judge, Grader):
            have = "there is no judge" if self.judge is None else f"judge {self.judge.name!r} does not"
            raise ConfigError(f'reward term {term!r} needs a judge that grades answers, e.g. "llm"; {have}')

    @property
    def dialect(self) -> Dialect:
        """The dialect object (kept out of the fields, so that rules pickle)."""
        return get_dialect(self.dialect_name)

    @property
    def feedback(self) -> bool:
        """Whether the feedback act exists."""
        return self.feedback_level is not None

    @cached_property
    def judges_steps(self) -> bool:
        """Whether each round is judged in its step."""
        return self.judge is not None and self.judge_when == "step"

    @cached_property
    def grades(self) -> bool:
        """Whether answers are graded by the judge."""
        return any(REWARD_TERMS[term].needs_grade for term in self.reward)

    @cached_property
    def keeps_trace(self) -> bool:
        """Whether a game remembers its rounds: for the judge, or for a reward term."""
        return self.judges_steps or any(REWARD_TERMS[term].needs_trace for term in self.reward)

    @cached_property
    def metric_terms(self) -> tuple[str, ...]:
        """The reward terms that are a metric of the outcome."""
        return tuple(term for term in self.reward if REWARD_TERMS[term].value is None)

    @cached_property
    def other_terms(self) -> tuple[str, ...]:
        """The reward terms that are computed from what was played."""
        return tuple(term for term in self.reward if REWARD_TERMS[term].value is not None)

    @cached_property
    def round_terms(self) -> tuple[str, ...]:
        """Those of them that are paid in every step."""
        return tuple(term for term in self.other_terms if not REWARD_TERMS[term].last)

    @cached_property
    def verdict_pays(self) -> bool:
        """Whether the judge's verdict is part of the reward."""
        return any(REWARD_TERMS[term].needs_verdict for term in self.reward)

    @cached_property
    def gain(self) -> InformationGain:
        """Information gain over the corpus."""
        return InformationGain(self.corpus)

    def for_evaluation(self) -> EnvConfig:
        """The same questions without what exists for training only: no judge, no feedback, plain EM."""
        return replace(
            self,
            judge=None,
            judge_spec=None,
            judge_when="step",
            feedback_level=None,
            feedback_calls=0,
            reward={"em": 1.0},
        )

    @property
    def system_prompt(self) -> str:
        """The instructions for a language model."""
        return self.dialect.system_prompt(feedback=self.feedback, max_queries=self.max_queries)

    def tasks(self, split: str) -> list[Question]:
        """The questions of a split that pass the `types` and `hops` filters, in corpus order.

        Raises:
            UnknownIdError: no such split.
            ConfigError: no question passes.
        """
        if not isinstance(split, str):
            raise ConfigError(f"split is {split!r}: give one of {', '.join(self.corpus.splits)}")
        cache: dict[str, list[Question]] = self.__dict__.setdefault("_tasks", {})
        if split not in cache:
            questions = self.corpus.questions(split)
            kept = [
                q
                for q in questions
                if (self.types is None or q.type in self.types) and (self.hops is None or q.hops in self.hops)
            ]
            if not kept:
                raise ConfigError(
                    f"no question of split {split!r} of corpus {self.corpus.name!r} has types={self.types} and "
                    f"hops={self.hops}: it has types {sorted({q.type for q in questions})} and "
                    f"hops {sorted({q.hops for q in questions})}"
                )
            cache[split] = kept
        return cache[split]
