"""Checks every trainer must pass; run them on your own: `check_trainer(MyAlgorithm())`.

Credit and loss are checked on synthetic episodes of a tabular policy, in which every token's probability is known
exactly; `configure_env` and `collect` in a small environment (collection.py).
"""

from __future__ import annotations

import copy
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from searchgym.agents.answer_probes import AnswerProbe, Evaluate, ProbedAnswers
from searchgym.agents.policy import Policy, Sample, TokenOutputs
from searchgym.dialects import Act
from searchgym.errors import CheckpointError
from searchgym.records.episode import Episode, Outcome, Retrieval, Round, Segment, StopReason
from searchgym.records.retriever import Hit
from searchgym.records.verdict import Verdict

from ..core.algorithm import Algorithm, Loss, TrainContext
from ..core.batch import Batch, micro_batches, pack
from ..core.credit import Credit
from ..core.groups import Group, Groups, drop_invalid
from .collection import check_collect, fail

__all__ = ["TabularPolicy", "check_trainer", "make_episode", "synthetic_groups"]


class TabularPolicy(Policy):
    """A softmax over the next token given the previous one: a table of logits, [vocabulary, vocabulary]."""

    name = "tabular"

    def __init__(self, vocabulary: int = 8, seed: int = 0) -> None:
        start = torch.Generator().manual_seed(seed)
        self.module = nn.Embedding(vocabulary, vocabulary)
        with torch.no_grad():
            self.module.weight.normal_(0.0, 0.1, generator=start)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def sample(self, previous: int) -> tuple[int, float]:
        """Draw the next token (or take the most likely one); returns it with its log-probability."""
        logprobs_V = self._table()[previous].log_softmax(-1)
        if self.greedy:
            token = int(logprobs_V.argmax())
        else:
            token = int(torch.multinomial(logprobs_V.exp(), 1, generator=self.generator))
        return token, float(logprobs_V[token])

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        previous = [
            t for s in samples for t, m in zip(s.segment.tokens, s.segment.mask[1:], strict=False) if m
        ]
        sampled = [t for s in samples for t, m in zip(s.segment.tokens, s.segment.mask, strict=True) if m]
        hidden_N = self._table()[torch.tensor(previous, dtype=torch.int64)]
        logprobs_NV = hidden_N.log_softmax(-1)
        chosen_N = logprobs_NV.gather(1, torch.tensor(sampled, dtype=torch.int64)[:, None])[:, 0]
        return TokenOutputs(chosen_N, -(logprobs_NV.exp() * logprobs_NV).sum(-1), hidden_N)

    def probe_answers(self, probes: Sequence[AnswerProbe], evaluate: Evaluate) -> ProbedAnswers:
        """See `AnswerProber`: an answer is one token, drawn from its text, after the last token before the round's own."""
        samples, vocabulary = [], self.describe()["vocabulary"]
        for probe in probes:
            token = zlib.crc32(probe.answers[0].encode()) % vocabulary
            for segment in probe.episode.segments:
                if probe.round_index in segment.rounds:
                    start = segment.rounds.index(probe.round_index)
                    break
            context = segment.tokens[: start + segment.mask[start:].index(1)]
            samples.append(Sample(probe.episode, Segment([*context, token], [0] * len(context) + [1])))
        values_N2 = evaluate(samples).double().numpy()
        length = sum(len(sample.segment.tokens) for sample in samples)
        return ProbedAnswers(values_N2[:, 0], values_N2[:, 1], np.arange(len(probes)), length)

    def _table(self) -> Tensor:
        return self.module.get_parameter("weight") / self.temperature

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.module.state_dict()), directory / "table.safetensors")
        (directory / "policy.json").write_text(json.dumps(self.describe()), "utf-8")

    def load_weights(self, directory: Path) -> None:
        try:
            self.module.load_state_dict(load_file(directory / "table.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{directory} does not hold this policy's table: {error}") from error

    def describe(self) -> dict[str, Any]:
        return {"kind": "tabular", "vocabulary": int(self.module.get_parameter("weight").shape[0])}


def make_episode(
    segments: Sequence[Segment],
    reward: float,
    *,
    episode_id: str,
    group_id: str,
    task_id: str = "task",
    valid: bool = True,
) -> Episode:
    """An episode around given tokens: searches in every round but the last, which answers and is rewarded.

    Args:
        segments: the tokens.
        reward: of the last round.
        episode_id: the episode's id.
        group_id: its group's id.
        task_id: its question.
        valid: False: a retrieval failure cut it short.
    """
    count = 1 + max(max(s.rounds) for s in segments)
    reason = StopReason.ANSWERED if valid else StopReason.RETRIEVAL_FAILED
    rounds = [_make_round(f"{episode_id}/{r}", r, final=r == count - 1, reward=reward) for r in range(count)]
    return Episode(
        episode_id=episode_id,
        group_id=group_id,
        tree_id=episode_id,
        parent_id=None,
        fork_round=None,
        agent="tabular",
        env={},
        task_id=task_id,
        split="train",
        question=f"question {task_id}",
        gold={"answers": ["yes"], "supporting_ids": [], "chain": []},
        rounds=rounds,
        outcome=Outcome(
            answer="yes" if reward > 0 else "no",
            em=float(reward > 0),
            f1=float(reward > 0),
            sub_em=float(reward > 0),
            recall=0.0,
            rounds=count,
            searches=count - 1,
            assisted=False,
            stop_reason=reason,
        ),
        terminated=valid,
        truncated=not valid,
        valid_for_training=valid,
        segments=list(segments),
    )


def synthetic_groups(
    policy: TabularPolicy, groups: int = 4, group_size: int = 4, seed: int = 0
) -> list[Group]:
    """Groups of episodes of one to four rounds with unequal rewards; every third has a segment per round.

    All rounds are judged; some searches are feedback acts instead, which are not. Observations are one of four
    texts, some of them alike, so that clusters of them depend on their order unless they are sorted.
    """
    rng, verdicts = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    made: list[Group] = []
    for g in range(groups):
        group: Group = []
        for i in range(group_size):
            segments = [Segment()]
            for r in range(int(rng.integers(1, 5))):
                if r > 0 and (g * group_size + i) % 3 == 0:
                    segments.append(Segment())
                _play_round(segments[-1], policy, r, rng)
            reward = float(i == 0) if i < 2 else float(rng.integers(2))
            name = f"e{seed}-{g}-{i}"
            group.append(make_episode(segments, reward, episode_id=name, group_id=f"g{g}", task_id=f"t{g}"))
            _judge(group[-1], verdicts)
            _observe(group[-1], verdicts)
        group[0].extra["intervention"] = 0  # as `int` marks the round that it imitates
        made.append(group)
    return made


def check_trainer(algorithm: Algorithm, seed: int = 0, env_options: Mapping[str, Any] | None = None) -> None:
    """Check that an algorithm keeps the contract of `Algorithm`.

    - `configure_env` returns a configuration; `collect` returns groups of one question and one group id each, with
      distinct episodes and the log-probabilities of the policy that played, and leaves the weights alone. Branches have
      their parent in their group and share its rounds and tokens; no other episodes share a round.
    - `credit` has the right shape and is finite, does not depend on the order inside a group, survives dropped
      episodes, and is zero in groups of equal rewards if the algorithm declares itself `group_relative`.
    - `prepare` leaves the weights alone and fills its columns.
    - The loss is a finite scalar with finite gradients that add up over micro-batches.

    Args:
        algorithm: as constructed.
        seed: random seed.
        env_options: arguments of the environment that `configure_env` needs, e.g. a reward term; by default an
            environment without judge, and some with the judge `oracle`, are tried, as they are and with the algorithm's
            `audit_env`.

    Raises:
        TrainingError: names the check that failed.
    """
    untouched = copy.deepcopy(algorithm)
    policy = TabularPolicy(seed=seed)
    algorithm.setup(TrainContext(policy, np.random.default_rng(seed)))
    extra = algorithm.extra_modules()
    if not all(isinstance(module, nn.Module) for module in extra.values()):
        fail("extra_modules() must return a dict of torch modules")
    played = synthetic_groups(policy, seed=seed)
    groups, credit = _credit(algorithm, policy, played)
    if not len(groups):
        fail("select() wants no group at all, although rewards differ in every one")
    _check_order(algorithm, policy, played, credit.to_tokens(groups), groups)
    _check_dropped(algorithm, policy, played)
    if algorithm.group_relative:
        _check_equal(algorithm, policy, played)
    _check_loss(algorithm, policy, pack(groups, credit, algorithm.settings.sequence), extra)
    check_collect(untouched, env_options, seed)


def _credit(algorithm: Algorithm, policy: TabularPolicy, played: Sequence[Group]) -> tuple[Groups, Credit]:
    valid, _ = drop_invalid(played)
    rewards = [algorithm.rewards(group) for group in valid]
    for group, r_G in zip(valid, rewards, strict=True):
        if np.shape(r_G) != (len(group),) or not np.isfinite(r_G).all():
            fail(f"rewards() gave {r_G!r} for a group of {len(group)}: one finite number per episode")
    everything = Groups(valid, rewards)
    wanted = algorithm.select(everything)
    if len(wanted) != len(everything):
        fail(f"select() gave {len(wanted)} verdicts for {len(everything)} groups")
    kept = [i for i, w in enumerate(wanted) if w]
    groups = Groups([valid[i] for i in kept], [rewards[i] for i in kept])
    before = [p.detach().clone() for p in policy.module.parameters()]
    algorithm.prepare(policy, groups)
    if not all(torch.equal(a, b) for a, b in zip(before, policy.module.parameters(), strict=True)):
        fail("prepare() changed the policy's weights")
    for name, column in groups.columns.items():
        if not torch.isfinite(column).all():
            fail(f"prepare() left a value that is not finite in column {name!r}")
    credit: object = algorithm.credit(groups)
    if not isinstance(credit, Credit):
        fail(f"credit() returned {credit!r:.60}: return a Credit, e.g. Credit.per_episode(values)")
    pack(groups, credit)  # checks shapes and finiteness
    return groups, credit


def _check_order(
    algorithm: Algorithm,
    policy: TabularPolicy,
    played: Sequence[Group],
    advantages_N: NDArray[np.float64],
    groups: Groups,
) -> None:
    turned, credit = _credit(algorithm, policy, [group[::-1] for group in played])
    here, there = _by_episode(groups, advantages_N), _by_episode(turned, credit.to_tokens(turned))
    for name, values in here.items():
        if not np.allclose(values, there[name], rtol=1e-6, atol=1e-9):
            fail(f"credit of episode {name!r} changed when its group was put in another order")


def _check_dropped(algorithm: Algorithm, policy: TabularPolicy, played: Sequence[Group]) -> None:
    lost = played[0][-1]
    invalid = make_episode(
        lost.segments, 0.0, episode_id=lost.episode_id, group_id=lost.group_id, valid=False
    )
    groups, _ = _credit(algorithm, policy, [[*played[0][:-1], invalid], *played[1:]])
    if any(not episode.valid_for_training for episode in groups.episodes):
        fail("an episode that is not valid for training was given credit")


def _check_equal(algorithm: Algorithm, policy: TabularPolicy, played: Sequence[Group]) -> None:
    equal = [
        [make_episode(e.segments, 1.0, episode_id=e.episode_id, group_id=e.group_id) for e in group]
        for group in played
    ]
    groups = Groups(equal, [np.ones(len(group)) for group in equal])
    algorithm.prepare(policy, groups)
    if algorithm.credit(groups).to_tokens(groups).any():
        fail("group_relative is True, but a group whose rewards are all equal was given credit")


def _check_loss(
    algorithm: Algorithm, policy: TabularPolicy, batch: Batch, extra: dict[str, nn.Module]
) -> None:
    batch = batch.weighted(algorithm.settings.aggregation, algorithm.settings.loss_length)
    weights = [*policy.module.parameters(), *(p for m in extra.values() for p in m.parameters())]
    results = []
    for budget in (10**9, 25):
        for p in weights:
            p.grad = None
        total = 0.0
        for micro in micro_batches(batch, policy, budget):
            loss: object = algorithm.loss(micro, policy.evaluate_tokens(micro.samples))
            if not isinstance(loss, Loss):
                fail(f"loss() returned {loss!r:.60}: return a Loss, e.g. Loss(batch.total(loss_N))")
            if loss.total.ndim != 0 or not torch.isfinite(loss.total):
                fail(f"loss() gave {loss.total!r}: it must be one finite number")
            loss.total.backward()  # type: ignore[no-untyped-call]
            total += float(loss.total.detach())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in weights]
        if not all(torch.isfinite(g).all() for g in gradients):
            fail("the gradient of loss() is not finite")
        results.append((total, gradients))
    (whole, whole_gradients), (parts, part_gradients) = results
    same = all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(whole_gradients, part_gradients, strict=True)
    )
    if not same or not np.isclose(whole, parts, rtol=1e-4, atol=1e-6):
        fail(
            f"loss() is {whole} in one piece but {parts} in micro-batches: use batch.total(...), whose parts add up"
        )
    if not any(bool(g.abs().sum() > 0) for g in whole_gradients):
        fail("loss() has no gradient at all, although rewards differ in every group")


def _by_episode(groups: Groups, advantages_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    owner_N = groups.tokens.episode_N
    return {episode.episode_id: advantages_N[owner_N == e] for e, episode in enumerate(groups.episodes)}


def _play_round(segment: Segment, policy: TabularPolicy, index: int, rng: np.random.Generator) -> None:
    vocabulary = policy.describe()["vocabulary"]
    prompt = rng.integers(vocabulary, size=int(rng.integers(1, 4))).tolist()
    segment.tokens += prompt
    segment.mask += [0] * len(prompt)
    segment.logprobs += [0.0] * len(prompt)
    for _ in range(int(rng.integers(1, 5))):
        token, logprob = policy.sample(segment.tokens[-1])
        segment.tokens.append(token)
        segment.mask.append(1)
        segment.logprobs.append(logprob)
    segment.rounds += [index] * (len(segment.tokens) - len(segment.rounds))


def _make_round(uid: str, index: int, final: bool, reward: float) -> Round:
    hit = Hit(f"p{index}", f"title {index}", "text", 1.0)
    made = Round(
        text="yes" if final else f"query {index}",
        action=Act("answer", answer="yes") if final else Act("search", (f"query {index}",)),
        results=[] if final else [[hit]],
        observation="" if final else "text",
        round=index + 1,
        retrieval=Retrieval("none" if final else "ok", "synthetic"),
        reward=reward if final else 0.0,
        reward_terms={"em": reward} if final else {},
        uid=uid,
        policy_version=0,
        temperature=1.0,
        top_p=1.0,
    )
    made.anchor = f"anchor {index}"
    return made


def _judge(episode: Episode, rng: np.random.Generator) -> None:
    for round_ in episode.rounds:
        if round_.action.kind == "search" and rng.random() < 0.2:
            round_.action = Act("feedback", draft="no")
            round_.results, round_.retrieval = [], round_.retrieval._replace(status="none")
            episode.outcome.assisted = True
            episode.outcome.searches -= 1
        else:
            utility, reasoning = rng.integers(2, size=2).tolist()
            round_.judge = Verdict.ok(utility, reasoning, "synthetic")


def _observe(episode: Episode, rng: np.random.Generator) -> None:
    for round_, after in itertools.pairwise(episode.rounds):
        first, last = rng.choice(["aaaa", "ffff"]), rng.choice(["dddd", "eeee"])
        round_.observation = after.anchor = f"{first} bbbb cccc {last}"
