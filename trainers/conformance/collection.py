"""The part of `check_trainer` that plays: `configure_env` and `collect`, in an environment of six passages."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import torch

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.policy import Policy
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError, TrainingError, UnknownIdError
from searchgym.records.episode import Episode, segments_before
from searchgym.records.question import Hop, Passage, Question
from searchgym.records.retriever import Hit, SearchResult

from ..core.algorithm import Algorithm, TrainContext
from ..core.groups import Groups
from ..core.tasks import TaskSampler

__all__ = ["check_collect", "fail"]

_ENVIRONMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"judge": "oracle", "judge_when": "unequal-success"},
    {"judge": "oracle", "reward": "mt_ppo"},
    {"judge": "oracle"},
)
_TOWNS = {"Ada": "Velm", "Bo": "Tarn", "Cy": "Ostby"}


class _Corpus:
    """Three people and their towns."""

    name, hash, splits = "conformance", "conformance", ("train",)

    def __init__(self) -> None:
        places = [Passage(f"p{i}", town, f"{town} is a town.") for i, town in enumerate(_TOWNS.values(), 3)]
        self.passages: Sequence[Passage] = [
            *(
                Passage(f"p{i}", name, f"{name} lives in {town}.")
                for i, (name, town) in enumerate(_TOWNS.items())
            ),
            *places,
        ]

    def questions(self, split: str) -> Sequence[Question]:
        if split != "train":
            raise UnknownIdError("split", split, self.splits)
        return [
            Question(
                f"q{i}", f"Where does {name} live?", (town,), split, "chain", 1, (f"p{i}",),
                (Hop(name, "home", (f"p{i}",), town),),
            )
            for i, (name, town) in enumerate(_TOWNS.items())
        ]  # fmt: skip

    def question(self, task_id: str) -> Question:
        for question in self.questions("train"):
            if question.id == task_id:
                return question
        raise UnknownIdError("task", task_id, ())


class _Retriever:
    """Ranks passages by the words they share with the query."""

    name, index_hash = "conformance", "conformance"

    def __init__(self, corpus: _Corpus) -> None:
        self._passages = corpus.passages

    def search(self, queries: Sequence[str], k: int) -> Sequence[SearchResult]:
        return [self._rank(set(query.lower().split()), k) for query in queries]

    def _rank(self, words: set[str], k: int) -> list[Hit]:
        scored = [
            (-float(len(words & set(f"{p.title} {p.text}".lower().split()))), p) for p in self._passages
        ]
        best = sorted((pair for pair in scored if pair[0]), key=lambda pair: (pair[0], pair[1].id))
        return [Hit(p.id, p.title, p.text, -score) for score, p in best[:k]]


def check_collect(algorithm: Algorithm, env_options: Mapping[str, Any] | None, seed: int) -> None:
    """Check `configure_env` and `collect`; see `conformance.check_trainer`.

    Args:
        algorithm: as constructed; it is copied.
        env_options: arguments of the environment the algorithm needs; None: several are tried.
        seed: random seed.

    Raises:
        TrainingError: names the check that failed.
    """
    algorithm = copy.deepcopy(algorithm)
    envs = _open_envs(algorithm, env_options)
    policy = CandidateAgent()
    policy.generator.manual_seed(seed)
    tasks = TaskSampler(envs.task_ids(), 2, seed)
    algorithm.setup(TrainContext(policy, np.random.default_rng(seed)))
    before, version = [p.detach().clone() for p in policy.module.parameters()], policy.version
    played = algorithm.collect(policy, envs, tasks)
    if not all(torch.equal(a, b) for a, b in zip(before, policy.module.parameters(), strict=True)):
        fail("collect() changed the policy's weights")
    if policy.version != version:
        fail("collect() changed policy.version, which counts optimizer updates")
    _check_groups(played)
    if algorithm.on_policy:
        _check_tokens(policy, [list(group) for group in played])


def _open_envs(algorithm: Algorithm, env_options: Mapping[str, Any] | None) -> SearchVectorEnv:
    """The environments the algorithm accepts, under its `configure_env`."""
    corpus = _Corpus()
    retriever = _Retriever(corpus)
    refusal: ConfigError | None = None
    own = [{**options, **algorithm.audit_env} for options in _ENVIRONMENTS] if algorithm.audit_env else []
    for options in (*_ENVIRONMENTS, *own) if env_options is None else (dict(env_options),):
        envs = SearchVectorEnv(8, **{"corpus": corpus, "retriever": retriever, "max_rounds": 3, **options})
        try:
            configured = algorithm.configure_env(envs.config)
        except ConfigError as error:
            refusal = error
            continue
        if not isinstance(configured, EnvConfig):
            fail(
                f"configure_env() returned {configured!r:.60}: return an EnvConfig, e.g. the one it was given"
            )
        return SearchVectorEnv.from_config(configured, envs.num_envs)
    raise TrainingError(
        f"trainer check failed: configure_env() refused the environment ({refusal}): give check_trainer the env_options "
        "it needs"
    )


def _check_groups(played: object) -> None:
    if not isinstance(played, Sequence) or not all(isinstance(group, Sequence) for group in played):
        fail(f"collect() returned {played!r:.60}: return a list of groups, each a list of episodes")
    if not any(len(group) for group in played):
        fail("collect() returned no episode at all")
    episodes = list(chain.from_iterable(played))
    for episode in episodes:
        if not isinstance(episode, Episode):
            fail(f"collect() returned {episode!r:.60} in a group: groups hold episodes")
    for group in played:
        if len({episode.task_id for episode in group}) > 1:
            fail(f"collect() put episodes of several questions into group {group[0].group_id!r}")
        if len({episode.group_id for episode in group}) > 1:
            fail(f"collect() returned a group with several group ids, among them {group[0].group_id!r}")
    names = [group[0].group_id for group in played if len(group)]
    if len(set(names)) < len(names):
        fail("collect() gave one group id to several groups: draw an id for each")
    ids = [episode.episode_id for episode in episodes]
    if len(set(ids)) < len(ids):
        fail("collect() returned an episode id twice")
    for group in played:
        _check_branches(group)


def _check_branches(group: Sequence[Episode]) -> None:
    """Episodes that say that they continue another one share its rounds; others share none."""
    members = {episode.episode_id: episode for episode in group}
    owners: dict[str, str] = {}
    for episode in group:
        kept = episode.fork_round or 0
        if episode.parent_id is not None:
            parent = members.get(episode.parent_id)
            if parent is None or parent.tree_id != episode.tree_id:
                fail(
                    f"collect() returned branch {episode.episode_id!r} without its parent in its group and tree"
                )
            shared = [[round_.uid for round_ in e.rounds[:kept]] for e in (episode, parent)]
            if shared[0] != shared[1] or len(shared[0]) != kept:
                fail(
                    f"branch {episode.episode_id!r} does not share the first {kept} rounds (uids) of its parent"
                )
            tokens = [segments_before(e.segments, kept) for e in (episode, parent)]
            if tokens[0] != tokens[1]:
                fail(f"branch {episode.episode_id!r} does not have its parent's tokens in the shared rounds")
        for round_ in episode.rounds[kept:]:
            if owners.setdefault(round_.uid, episode.episode_id) != episode.episode_id:
                fail(
                    f"episodes {owners[round_.uid]!r} and {episode.episode_id!r} share round {round_.uid!r}, but neither "
                    "continues the other: branch with context.play.branch"
                )


def _check_tokens(policy: Policy, played: Sequence[list[Episode]]) -> None:
    groups = Groups(played)
    if not groups.samples:
        fail("collect() returned no sampled token, although the trainer says that it is on-policy")
    with torch.no_grad():
        now_N = policy.evaluate_tokens(groups.samples).logprobs_N.numpy()
    gap = float(np.abs(now_N - groups.tokens.logprobs_N).max())
    if gap > 1e-3:
        fail(
            f"recorded log-probabilities differ from the policy's by {gap:.2g} nats: collect() must play with the policy "
            "it is given, or the trainer declare on_policy = False"
        )


def fail(message: str) -> NoReturn:
    """Raise the error of a failed check."""
    raise TrainingError(f"trainer check failed: {message}")
