"""SFT: supervised fine-tuning: rejection fine-tuning on the policy's own episodes, or warm-up on recorded ones.

    L = − 1/|K| Σ_{k in K} log π_θ(token k | everything before it)

K is the set of tokens that the agent wrote (never a prompt or a retrieved passage) in rounds that pass these filters:

    valid          the episode is valid for training, and the round is a valid act
    successful     the episode's reward is at least `min_reward`
    deduplicated   of a question's episodes with the same messages, one is used
    contributing   (optional) the round answers, or the judge gave its search u · v > 0

Without `episodes` it is rejection fine-tuning: each iteration plays `questions` × `group_size` episodes and learns from
the good ones. With `episodes`, a JSONL file of records (`searchgym eval --save`), nothing is played: each iteration takes
that many records, each one once before any of them a second time. The policy encodes their texts itself.

Sources: rejection-sampled fine-tuning with deduplication, arXiv 2308.01825; the same with the current policy in a
loop, arXiv 2304.06767 (RAFT). Learning only from steps a judge likes: WebSTAR, arXiv 2512.10962, grades steps 1-10.

Departures:
1. The first source samples once and trains the base model on what it kept; here each iteration continues from the last.
2. RAFT keeps the best episode of each question; here every episode with enough reward, so easy questions weigh more.
3. WebSTAR's threshold is not known to us; ours is u · v > 0. A round without a verdict is left out and counted.
4. Log-probabilities are of the tempered distribution (`temperature`), as everywhere in this package.

`searchgym warmup` is different: it trains the packaged weights of the tiny model from scratch, with drills that are not
episodes, renamed worlds and a learning rate schedule (agents/tiny/warmup.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, Round, load_episodes
from searchgym.rollouts.collection import agent_context_of

from ..config import option
from ..core.algorithm import Algorithm, AlgorithmConfig, Loss
from ..core.batch import Batch
from ..core.credit import Credit
from ..core.groups import Group, Groups
from ..core.objective import Aggregation
from ..core.tasks import TaskSampler

__all__ = ["SFT", "Imitation", "SFTSettings"]


@dataclass(frozen=True)
class SFTSettings(AlgorithmConfig):
    """Settings of `SFT`; the inherited ones first."""

    aggregation: Aggregation = option("token-mean", "how token losses become one loss")
    episodes: str = option(
        "", "JSONL file of episodes to learn from; default: play them (rejection fine-tuning)"
    )
    min_reward: float = option(1.0, "learn from episodes with at least this reward")
    deduplicate: bool = option(True, "learn from one of a question's episodes with the same messages")
    rounds: Literal["all", "contributing"] = option(
        "all", "learn from all valid acts, or only from answers and searches the judge found contributing"
    )


class Imitation(Algorithm):
    """Base of methods that imitate chosen tokens: L = −mean of log π over the tokens that `credit` leaves in the loss."""

    uses_ratio = False
    supports_tis = False

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        return Loss(batch.total(-outputs.logprobs_N))


class SFT(Imitation):
    """Supervised fine-tuning on episodes; see the head of this file.

    Raises:
        ConfigError: the file of episodes cannot be used, or a setting of the clip, which SFT does not have.
    """

    settings_class = SFTSettings
    settings: SFTSettings

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        self._recorded = self._read(Path(self.settings.episodes)) if self.settings.episodes else []
        self._encoded: set[str] = set()

    @property
    def on_policy(self) -> bool:
        return not self._recorded

    @property
    def needs_verdicts(self) -> bool:
        """Whether rounds without a verdict are left out."""
        return self.settings.rounds == "contributing"

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        splits = {episode.split for episode in self._recorded} - {env_config.split}
        if splits:
            raise ConfigError(
                f"{self.settings.episodes} has episodes of split {sorted(splits)[0]!r}, and the run trains on "
                f"{env_config.split!r}: learn from questions that are not evaluated on, or set split"
            )
        if self.settings.rounds == "contributing" and not self._recorded and env_config.judge is None:
            raise ConfigError(
                "rounds=contributing needs a judge's verdicts, and this environment has no judge: add --env-option "
                "judge=oracle --env-option judge_when=success, or another judge"
            )
        return env_config

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        if not self._recorded:
            return super().collect(policy, envs, tasks)
        policy.bind(agent_context_of(envs.config))
        order = TaskSampler(
            [str(i) for i in range(len(self._recorded))], tasks.count * self.settings.group_size, tasks.seed
        )
        order.drawn = tasks.drawn  # saved in checkpoints
        drawn = dict.fromkeys(int(i) for i in order.draw(min(order.count, len(self._recorded))))
        tasks.drawn = order.drawn
        episodes = [self._recorded[i] for i in drawn]
        for episode in episodes:
            if episode.episode_id not in self._encoded:
                episode.segments = policy.encode(episode)
                self._encoded.add(episode.episode_id)
        return [[episode] for episode in episodes]

    def select(self, groups: Groups) -> list[bool]:
        keep_E = np.bincount(groups.tokens.episode_N, self._kept(groups), len(groups.episodes)) > 0
        ends = np.cumsum([len(group) for group in groups])
        return [bool(part.any()) for part in np.split(keep_E, ends[:-1])] if len(groups) else []

    def credit(self, groups: Groups) -> Credit:
        keep_N = self._kept(groups)
        kept_E = np.unique(groups.tokens.episode_N[keep_N])
        metrics = {"kept_episodes": float(len(kept_E)), "kept_tokens": float(keep_N.mean())}
        if self.needs_verdicts:
            kept = [groups.episodes[e] for e in kept_E]
            metrics["unjudged"] = float(sum(_unjudged(r) for episode in kept for r in episode.rounds))
        return Credit.flat("token", keep_N.astype(np.float64), groups, metrics, loss_mask_N=keep_N)

    def _kept(self, groups: Groups) -> NDArray[np.bool_]:
        """Which sampled tokens to learn from, [N]."""
        chosen: list[bool] = []
        for group, r_G in zip(groups, groups.rewards, strict=True):
            good = [e for e, r in zip(group, r_G, strict=True) if r >= self.settings.min_reward]
            ids = {id(e) for e in (_distinct(good) if self.settings.deduplicate else good)}
            chosen += [id(e) in ids for e in group]
        round_R = np.array(
            [
                keep and self._worth_learning(e, r)
                for keep, e in zip(chosen, groups.episodes, strict=True)
                for r in e.rounds
            ],
            dtype=bool,
        )
        kept_N: NDArray[np.bool_] = round_R[groups.round_of_token_N]
        return kept_N

    def _worth_learning(self, episode: Episode, round_: Round) -> bool:
        kind, contribution = round_.action.kind, round_.judge.contribution
        if kind in ("invalid", "none"):
            return False
        if self.settings.rounds == "all" or kind == "answer":
            return True
        return contribution is not None and contribution > 0.0

    def _read(self, path: Path) -> list[Episode]:
        """The recorded episodes that pass the filters, in order.

        Raises:
            ConfigError: the file does not exist, or no episode passes.
            EpisodeFileError: the file is damaged.
        """
        if not path.is_file():
            raise ConfigError(
                f"episodes is {str(path)!r}: no such file; `searchgym eval --save FILE` writes one"
            )
        read = list(load_episodes(path))
        good = [e for e in read if e.valid_for_training and e.reward >= self.settings.min_reward]
        if self.settings.deduplicate:
            good = _distinct(good)
        if not good:
            raise ConfigError(
                f"none of {len(read)} episodes in {path} is valid with a reward of at least {self.settings.min_reward}: "
                "lower min_reward, or record better episodes"
            )
        if self.needs_verdicts and not any(r.judge.status == "ok" for e in good for r in e.rounds):
            raise ConfigError(
                f"{type(self).__name__} with rounds={self.settings.rounds} learns from rounds that a judge likes, and no round "
                f"in {path} has a verdict: record it with --judge"
            )
        for number, episode in enumerate(good):
            episode.episode_id = (
                f"{number}-{episode.episode_id}"  # records of several runs may have the same ids
            )
            for index, round_ in enumerate(episode.rounds):
                round_.uid = f"{episode.episode_id}/{index}"
                round_.temperature = (
                    None  # these tokens were not sampled; the policy uses its own temperature
                )
        return good


def _distinct(episodes: Sequence[Episode]) -> list[Episode]:
    """One of the episodes with the same question and messages: the first by id, independent of their order."""
    first: dict[tuple[str, ...], Episode] = {}
    for episode in sorted(episodes, key=lambda e: e.episode_id):
        first.setdefault((episode.task_id, *(r.text for r in episode.rounds)), episode)
    chosen = {id(episode) for episode in first.values()}
    return [episode for episode in episodes if id(episode) in chosen]


def _unjudged(round_: Round) -> bool:
    return bool(round_.action.kind == "search" and round_.judge.status != "ok")
