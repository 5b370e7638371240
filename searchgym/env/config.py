"""The arguments of an environment, declared once: type, default, help text and what each one is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from ..dialects import Dialect, QueryDialect, get_dialect, prompt_of
from ..errors import ConfigError, UnknownIdError, strip
from ..judges.gain import InformationGain
from ..judges.protocol import Grader, Judge
from ..options import check_count, choice
from ..records.episode import Feedback, Retrieval
from ..records.question import Corpus, Question, describe_corpus
from ..records.retriever import Retriever
from ..records.round_record import copy_json
from ..scoring import DEFAULT_SEGMENTATION, SEGMENTATIONS
from .feedback import check_level
from .reward_weights import RewardWeights, open_reward

__all__ = ["ARGUMENTS", "JUDGE_WHEN", "EnvConfig", "argument_table", "check_names", "env_fingerprint"]

JUDGE_WHEN = ("step", "end", "success", "unequal", "unequal-success")
"""When rounds are judged: in their own step; or after the episodes: all rounds, those of episodes answered correctly,
those of groups with unequal rewards, and those of episodes answered correctly in such groups."""

TASKS = ("answer", "query")
"""What an episode asks of the agent."""

Comparable = bool | Callable[["EnvConfig"], dict[str, Any]]


def argument(default: Any, text: str, *, comparable: Comparable = False, training_only: bool = False) -> Any:
    """A field of `EnvConfig` that is an argument of the environment.

    Args:
        default: its default, a JSON value.
        text: its meaning, for the reference (Markdown).
        comparable: True if the value must match for two episodes to be comparable; or a function that gives the entries
            of `Episode.env`.
        training_only: evaluations use the default instead.
    """
    metadata = {"text": text, "comparable": comparable, "training_only": training_only}
    return field(default=default, metadata=metadata)


def derived() -> Any:
    """A field of `EnvConfig` that follows from the arguments."""
    return field(init=False, repr=False, compare=False)


@dataclass(frozen=True)
class EnvConfig:
    """The arguments of an environment, checked, with corpus, retriever and judge opened.

    `make_env_config` makes one from JSON values. docs/environment.md lists the arguments; each is declared here and nowhere
    else. `dataclasses.replace` gives a changed copy that shares what is open.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    corpus: Corpus = argument(
        "country",
        "registered name (a generated world, or `hub` with options), directory with `passages.jsonl`, "
        'or `{"name": …, **options}`',
        comparable=lambda c: {"corpus": c.corpus.name, "corpus_hash": c.corpus.hash, **_segmentation(c)},
    )
    corpus_description: str = argument(
        None,
        'how the system prompt names the corpus, e.g. `"English Wikipedia"`; `None`: the corpus\'s own description',
        comparable=True,
    )
    retriever: Retriever = argument(
        "bm25",
        'registered name, or `{"name": …, **options}`; see [retrievers.md](retrievers.md)',
        comparable=lambda c: {"retriever": c.retriever.name, "index_hash": c.retriever.index_hash},
    )
    split: str = argument("train", "which questions `reset` draws from: `train`, `dev` or `test`")
    types: tuple[str, ...] | None = argument(
        None, 'only questions of these types, e.g. `["chain", "comparison"]`'
    )
    hops: tuple[int, ...] | None = argument(None, "only questions with these numbers of hops, e.g. `[2, 3]`")
    task: str = argument(
        "answer",
        "`answer`: the episode ends with an answer; `query`: it ends with the first search, whose results are scored "
        "([RewriteQuery-v0](rewrite-query.md))",
        comparable=lambda c: {"task": c.task} if c.task != TASKS[0] else {},
    )
    dialect: Dialect = argument(
        "tags",
        "`tags`, `tools` or the name of a [dialect of your own](#a-dialect-of-your-own)",
        comparable=lambda c: {"dialect": c.dialect.name},
    )
    top_k: int = argument(3, "passages per query", comparable=True)
    max_rounds: int = argument(8, "rounds of an episode; the last one can still answer", comparable=True)
    max_searches: int | None = argument(
        None, "queries of an episode; `None`: no limit; `0`: closed book", comparable=True
    )
    max_chars: int | None = argument(
        200_000, "characters of all actions and observations together; `None`: no limit", comparable=True
    )
    max_action_chars: int = argument(16_384, "a longer message is an invalid round", comparable=True)
    max_observation_chars: int = argument(16_384, "a longer search result is cut", comparable=True)
    max_queries: int = argument(1, "queries allowed in one search act", comparable=True)
    reward: RewardWeights = argument(
        "em",
        'a [reward term](rewards.md), or weights such as `{"em": 1.0, "recall": 0.2, "mine.py:brevity": 0.1}`',
        comparable=lambda c: c.reward.to_env(),
        training_only=True,
    )
    judge: Judge | None = argument(
        None,
        'a [judge](judges.md) of rounds: a name, or `{"name": …, **options}`',
        comparable=lambda c: {"judge": "off" if c.judge is None else strip(c.judge_spec, "judge")},
        training_only=True,
    )
    judge_when: str = argument(
        "step",
        "`step`, or after the episodes: `end`, `success`, `unequal`, `unequal-success`",
        comparable=True,
        training_only=True,
    )
    feedback: dict[str, Any] | None = argument(
        None,
        '`{"level": …, "calls": n}` enables [the feedback act](#the-feedback-act)',
        comparable=lambda c: {"feedback": c.feedback_level or "off", "feedback_calls": c.feedback_calls},
        training_only=True,
    )
    reveal_gold: bool = argument(
        False, 'adds `info["gold"]`: for controls and analysis, never for agents under test'
    )
    record: str | None = argument(
        None, "path of a [tape](tapes.md) to which every retrieval and judge call is written"
    )
    replay: str | None = argument(
        None, "path of a tape that answers these calls; neither index nor judge is opened"
    )
    judge_spec: Any = None
    """The judge as a JSON value, as far as there is one."""

    # Derived from the arguments once, because every step reads them.
    segmentation: str = derived()
    """What F1 and substring match count as a word, as the corpus says."""
    has_feedback: bool = derived()
    """Whether the feedback act is enabled."""
    feedback_level: str | None = derived()
    """The level of the feedback; None without the act."""
    feedback_calls: int = derived()
    """Feedback acts per episode."""
    judges_steps: bool = derived()
    """Whether each round is judged in its own step."""
    grades: bool = derived()
    """Whether answers are graded by the judge."""
    keeps_trace: bool = derived()
    """Whether an episode remembers its rounds: for the judge, or for a reward term."""
    verdict_pays: bool = derived()
    """Whether the judge's verdict is part of the reward."""
    metric_terms: tuple[str, ...] = derived()
    """The reward terms that are a metric of the outcome."""
    other_terms: tuple[str, ...] = derived()
    """The reward terms that are computed from the rounds."""
    round_terms: tuple[str, ...] = derived()
    """Those of `other_terms` that are paid in every step."""
    unused_feedback: Feedback = derived()
    """The feedback record of the rounds before the first feedback act."""
    zero_terms: dict[str, float] = derived()
    """The reward terms of a step that pays nothing; copy it."""
    no_retrieval: Retrieval = derived()
    """The retrieval record of a round that did not search."""
    ok_retrieval: Retrieval = derived()
    """The retrieval record of a search that was answered."""
    failed_retrieval: Retrieval = derived()
    """The retrieval record of a search that failed."""

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        description: Any = self.corpus_description
        if description is None:
            description = describe_corpus(self.corpus)
        if not isinstance(description, str) or not description.strip():
            raise ConfigError(
                f'corpus_description is {description!r}: give a noun phrase such as "English Wikipedia"'
            )
        set_field(self, "corpus_description", description)
        dialect: Any = self.dialect
        name = dialect.name if isinstance(dialect, Dialect) else dialect
        set_field(self, "dialect", get_dialect(name, description))
        self._check_task()
        if self.types is not None:
            set_field(self, "types", _list_of("types", self.types, str))
        if self.hops is not None:
            set_field(self, "hops", _list_of("hops", self.hops, int))
        for name in ("top_k", "max_rounds", "max_action_chars", "max_observation_chars", "max_queries"):
            check_count(name, getattr(self, name), 1)
        for name, least in (("max_searches", 0), ("max_chars", 1)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least)
        set_field(self, "reward", open_reward(self.reward))
        if not isinstance(self.reveal_gold, bool):
            raise ConfigError(f"reveal_gold is {self.reveal_gold!r}: give True or False")
        if self.judge_when not in JUDGE_WHEN:
            raise UnknownIdError("judge_when", self.judge_when, JUDGE_WHEN)
        for term in self.reward:
            self._check_needs(term)
        if self.feedback is not None:
            set_field(self, "feedback", _feedback(self.feedback))
        if not getattr(self.retriever, "ids_match", True):
            self._refuse_gold()
        self._derive()
        self.tasks(self.split)

    def _derive(self) -> None:
        feedback = self.feedback or {"level": None, "calls": 0}
        terms = self.reward.terms
        judges_steps = self.judge is not None and self.judge_when == "step"
        other_terms = tuple(name for name, term in terms.items() if term.value is not None)
        retrieval = Retrieval("none", self.retriever.name, self.retriever.index_hash)
        segmentation = getattr(self.corpus, "segmentation", DEFAULT_SEGMENTATION)
        values = {
            "segmentation": choice(
                f"segmentation of corpus {self.corpus.name!r}", segmentation, SEGMENTATIONS
            ),
            "has_feedback": self.feedback is not None,
            "feedback_level": feedback["level"],
            "feedback_calls": feedback["calls"],
            "judges_steps": judges_steps,
            "grades": any(term.needs_grade for term in terms.values()),
            "keeps_trace": judges_steps or any(term.needs_trace for term in terms.values()),
            "verdict_pays": any(term.needs_verdict for term in terms.values()),
            "metric_terms": tuple(name for name, term in terms.items() if term.value is None),
            "other_terms": other_terms,
            "round_terms": tuple(name for name in other_terms if not terms[name].last),
            "unused_feedback": Feedback(feedback["level"] or "off", "", feedback["calls"]),
            "zero_terms": dict.fromkeys(terms, 0.0),
            "no_retrieval": retrieval,
            "ok_retrieval": retrieval._replace(status="ok"),
            "failed_retrieval": retrieval._replace(status="error"),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_task(self) -> None:
        """Refuse the task `query` where a message could not be one query."""
        if self.task not in TASKS:
            raise UnknownIdError("task", self.task, TASKS)
        if self.task == "answer":
            return
        if not isinstance(self.dialect, QueryDialect):
            raise ConfigError(
                f"the task 'query' needs a dialect with query_prompt and render_invalid_query, and {self.dialect.name!r} lacks "
                "them: use dialect='tags'"
            )
        if self.feedback is not None:
            raise ConfigError("the task 'query' ends with the first search: leave out feedback")

    def _check_needs(self, term: str) -> None:
        """Refuse a reward term whose judge is missing, runs too late or does not grade."""
        needs = self.reward.terms[term]
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

    def _refuse_gold(self) -> None:
        """Refuse what compares hits with gold passages, because the retriever's hits are not passages of the corpus."""
        needs = [f"reward term {term!r}" for term in self.reward if self.reward.terms[term].needs_gold]
        if getattr(self.judge, "needs_gold", False):
            needs.append(f"judge {self.judge.name!r}")  # type: ignore[union-attr]  # None needs nothing
        if self.feedback is not None and self.feedback["level"] != "kind":
            needs.append(f"feedback of level {self.feedback['level']!r}")
        if needs:
            raise ConfigError(
                f"{needs[0]} needs the gold passages of corpus {self.corpus.name!r}, but retriever "
                f"{self.retriever.name!r} returns other passages than the corpus has (no id, title or text agrees): "
                "let it search this corpus, or do without"
            )

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """See `env_fingerprint`."""
        fingerprint: dict[str, Any] = {}
        for name, declared in ARGUMENTS.items():
            comparable = declared.metadata["comparable"]
            if callable(comparable):
                fingerprint |= comparable(self)
            elif comparable:
                fingerprint[name] = getattr(self, name)
        return fingerprint

    @cached_property
    def gain(self) -> InformationGain:
        """Information gain over the corpus."""
        return InformationGain(self.corpus)

    def for_evaluation(self) -> EnvConfig:
        """The same questions without what exists for training only: no judge, no feedback, plain EM."""
        defaults: dict[str, Any] = {
            name: f.default for name, f in ARGUMENTS.items() if f.metadata["training_only"]
        }
        return replace(self, judge_spec=None, **defaults)

    def _check_exists(self, name: str, attribute: str, wanted: set[Any]) -> None:
        """Refuse a filter value that no question of any split has: it is a typing error, not a filter."""
        there = {getattr(q, attribute) for split in self.corpus.splits for q in self.corpus.questions(split)}
        if wanted - there:
            raise ConfigError(
                f"{name} asks for {sorted(wanted - there)}, but no question of corpus {self.corpus.name!r} has that: it has "
                f"{name} {sorted(there)}"
            )

    @property
    def system_prompt(self) -> str:
        """The instructions for a language model."""
        return prompt_of(self.dialect, self.task, feedback=self.has_feedback, max_queries=self.max_queries)

    def offers(self, question: Question) -> bool:
        """Whether a question passes the `types` and `hops` filters."""
        return (self.types is None or question.type in self.types) and (
            self.hops is None or question.hops in self.hops
        )

    def tasks(self, split: str) -> Sequence[Question]:
        """The questions of a split that pass the `types` and `hops` filters, in corpus order.

        Args:
            split: name of the split.

        Raises:
            UnknownIdError: no such split.
            ConfigError: no question passes, or the corpus has no question at all with one of the types or hops.
        """
        if not isinstance(split, str):
            raise ConfigError(f"split is {split!r}: give one of {', '.join(self.corpus.splits)}")
        if self.types is None and self.hops is None:
            questions = self.corpus.questions(split)
            if questions:
                return questions
        cache: dict[str, list[Question]] = self.__dict__.setdefault("_filtered", {})
        if split not in cache:
            questions = self.corpus.questions(split)
            kept = [question for question in questions if self.offers(question)]
            if not kept:
                raise ConfigError(
                    f"no question of split {split!r} of corpus {self.corpus.name!r} has types={self.types} and "
                    f"hops={self.hops}: it has types {sorted({q.type for q in questions})} and "
                    f"hops {sorted({q.hops for q in questions})}"
                )
            for name, wanted, attribute in (("types", self.types, "type"), ("hops", self.hops, "hops")):
                missing = set(wanted or ()) - {getattr(q, attribute) for q in kept}
                if missing:
                    self._check_exists(name, attribute, missing)
            cache[split] = kept
        return cache[split]


ARGUMENTS: dict[str, Field[Any]] = {f.name: f for f in fields(EnvConfig) if f.metadata}
"""The arguments of the environment by name."""


def check_names(arguments: dict[str, Any]) -> None:
    """Refuse unknown arguments, with the nearest known name."""
    for name in arguments:
        if name not in ARGUMENTS:
            raise UnknownIdError("environment argument", name, ARGUMENTS)


def env_fingerprint(config: EnvConfig) -> dict[str, Any]:
    """What must match for two episodes to be comparable; the value of `Episode.env`. The caller may change it."""
    fingerprint: dict[str, Any] = copy_json(config._fingerprint)
    return fingerprint


def argument_table() -> str:
    """The arguments as the Markdown table of docs/environment.md."""
    rows = ["| argument | default | meaning |", "|---|---|---|"]
    for name, declared in ARGUMENTS.items():
        default = f'"{declared.default}"' if isinstance(declared.default, str) else str(declared.default)
        rows.append(f"| `{name}` | `{default}` | {declared.metadata['text']} |")
    return "\n".join(rows)


def _segmentation(config: EnvConfig) -> dict[str, str]:
    """The entry of `Episode.env` for a segmentation that is not the default."""
    default = config.segmentation == DEFAULT_SEGMENTATION
    return {} if default else {"segmentation": config.segmentation}


def _list_of(argument: str, values: Any, kind: type) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        example = "['chain']" if kind is str else "[2, 3]"
        raise ConfigError(f"{argument} is {values!r}: give a list, e.g. {argument}={example}")
    if not all(type(v) is kind for v in values):
        raise ConfigError(f"{argument} is {values!r}: every entry must be a {kind.__name__}")
    return tuple(values)


def _feedback(feedback: Any) -> dict[str, Any]:
    """Level and calls of the feedback act."""
    if not isinstance(feedback, dict) or set(feedback) - {"level", "calls"} or "level" not in feedback:
        raise ConfigError(f'feedback is {feedback!r}: give {{"level": "kind", "calls": 1}} or None')
    level, calls = feedback["level"], feedback.get("calls", 1)
    check_level(level)
    check_count("feedback calls", calls, 1)
    return {"level": level, "calls": calls}
