"""HiPER with hierarchical advantage estimation (HAE): sub-goals divide an episode, and two levels are credited separately.

Source: arXiv 2602.16165 and its code, JonP07/HiPER-agent at 9d3c118 (`hiper_hae/core_hae.py`). In every round the policy writes
SWITCH or KEEP, a sub-goal and an act. Segments run from a SWITCH to the next one; the first round begins one. With rewards r_t, a value
V^low before each act, V^high at the beginning of each segment, V^switch before each round, and 0 after the end:

    low     δ_t = r_t + γ V' − V^low_t,  Â_t = δ_t + γ λ Â_{t+1}               V' = V^low_{t+1} inside a segment,
                                                                               V^high of the next segment at its end
    high    δ_k = Σ_j γ^j r_{k+j} + γ^d V^high_{k+1} − V^high_k,  Â_k = δ_k + γ^d λ_seg Â_{k+1}      d: rounds of segment k
    switch  Â_t = R_t − V^switch_t                                             R_t = r_t + γ R_{t+1}, at the end of the segment
                                                                               γ V^high of the next one
    r_t     the environment's reward, −0.3 in a round that keeps its sub-goal, −0.3 more if it changes the words of a kept one

low goes to the tokens of the act, high to those of the sub-goal in the first round of a segment, switch to those of the decision,
each normalized over its rounds. Then PPO's clipped surrogate, and PPO's clipped value loss for each of the three values.

Two ways to divide an episode:
- dialect=hierarchy: by the fields that the policy writes (searchgym/dialects/hierarchy.py). For chat models, which follow a system
  prompt.
- [OURS] any other dialect: by rule. A round begins a segment if the round before it reached a sub-goal: returned a new gold
  passage (`boundary=gold`), or any passage not returned before (`boundary=results`); the answer is a segment of its own. There are no
  fields, so every token of a round gets low, in the first round of a segment plus high, and there are no penalties. It works for every
  policy, and for the planner agent: the answerer takes over at a boundary.

Departures, in addition to those of ppo.py:
1. The critic is one linear head with three outputs on the policy's hidden states; the paper's is a language model with three heads.
2. [OURS] Thoughts, and everything else outside the fields, get low; the released prompt forbids other text.
3. A missing or unreadable decision keeps the sub-goal, as in the released code, and is counted (`uncontrolled`).
4. An episode that ends on a budget is not continued by its own value (`bootstrap_truncated` of the released code).
5. The keep penalty is the fixed one (ALFWorld); the normalized one of the released WebShop script is left out.
6. γ = 1, λ = λ_seg = 0.95, the released defaults; penalties are those of the ALFWorld script.
7. A round without sampled tokens (the answerer's, of a planner agent) is no act; its reward is paid at the act before it.
8. This file is longer than 180 lines: it holds two levels, their values and the places of the fields in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searchgym.agents.policy import Policy, TokenOutputs
from searchgym.dialects.hierarchy import control_blocks, control_of
from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError

from ...components.evidence import new_gold, require_gold
from ...config import option
from ...core.algorithm import Loss, each_token
from ...core.batch import Batch
from ...core.credit import Credit
from ...core.groups import Groups
from ...core.objective import clipped_surrogate, discounted_sums
from ..ppo import PPO, PPOSettings

__all__ = ["HiPER", "HiPERSettings", "Segments", "hierarchical_advantages", "segments_of"]

_LEVELS = ("low", "high", "switch")


@dataclass(frozen=True)
class HiPERSettings(PPOSettings):
    """Settings of `HiPER`; those of PPO first."""

    gae_lambda: float = option(0.95, "lambda inside a segment, per round", low=0.0, high=1.0)
    lambda_segment: float = option(0.95, "lambda between segments", low=0.0, high=1.0)
    gamma: float = option(1.0, "discount per round", low=0.0, high=1.0)
    boundary: Literal["gold", "results"] = option(
        "gold", "without fields: a segment ends with a new gold passage, or with any new passage"
    )
    keep_penalty: float = option(0.3, "with fields: what keeping a sub-goal costs in each round", low=0.0)
    consistency_penalty: float = option(
        0.3, "with fields: what changing the words of a kept sub-goal costs", low=0.0
    )


@dataclass(frozen=True)
class Segments:
    """How the acts of an iteration are divided: its rounds with sampled tokens, in order.

    Attributes:
        segment_A: the segment of each act, numbers from 0.
        first_A: whether an act is the first of its segment.
        last_A: whether an act is the last of its episode.
    """

    segment_A: NDArray[np.int64]
    first_A: NDArray[np.bool_]
    last_A: NDArray[np.bool_]


class HiPER(PPO):
    """PPO on two levels; see the head of this file."""

    settings_class = HiPERSettings
    settings: HiPERSettings
    heads = len(_LEVELS)
    _fields = False

    @property
    def told(self) -> str:
        return "gold passages" if self.settings.boundary == "gold" and not self._fields else ""

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        self._fields = getattr(env_config.dialect, "has_control", False)
        if not self._fields and self.settings.boundary == "gold":
            require_gold(env_config, "hiper", "ends a sub-goal where a gold passage is returned")
        return env_config

    def check_policy(self, policy: Policy) -> None:
        writer = _writer(policy)
        if self._fields and not (writer.reads_system_prompt and hasattr(writer, "tokenizer")):
            raise ConfigError(
                f"agent {writer.name!r} does not follow a system prompt, so it writes none of the fields of dialect 'hierarchy': "
                "leave out --env-option dialect=hierarchy (sub-goals are then found by rule), or train a chat model (hf)"
            )

    def prepare(self, policy: Policy, groups: Groups) -> None:
        values_NL = each_token(policy, groups.samples, self.context.token_budget, self._values)
        for level, values_N in zip(_LEVELS, values_NL.unbind(dim=-1), strict=True):
            groups.columns[f"{level}_values"] = values_N.clone()

    def credit(self, groups: Groups) -> Credit:
        round_N = groups.round_of_token_N
        if not len(round_N):
            return Credit.flat("token", np.zeros(0), groups)
        first_R, penalty_R = self._divide(groups)
        roles_LN = self._roles(groups)
        round_A, begin_A, act_N = np.unique(round_N, return_index=True, return_inverse=True)
        parts = segments_of(first_R, groups.episode_R, round_A)
        places = {"low": _after_fields(begin_A, act_N, ~roles_LN[0]), "high": begin_A, "switch": begin_A}
        values = {
            level: groups.columns[f"{level}_values"].double().numpy()[place_A]
            for level, place_A in places.items()
        }
        rewards_A = np.bincount(act_N, groups.at_last_tokens(self.round_rewards(groups))) - penalty_R[round_A]
        given = hierarchical_advantages(rewards_A, values["low"], values["high"], parts, self.settings)
        given["switch"] = given["switch"] - values["switch"]
        every_A = np.ones(len(round_A), dtype=bool)
        used = {"low": every_A, "high": parts.first_A, "switch": every_A & self._fields}
        advantages_N = np.zeros(len(round_N))
        for i, level in enumerate(_LEVELS):
            a_A, used_A = given[level], used[level]
            self._keep_returns(groups, level, places[level][used_A], (a_A + values[level])[used_A])
            if used_A.any():
                if self.settings.whiten:
                    a_A = (a_A - a_A[used_A].mean()) / (a_A[used_A].std() + 1e-8)
                advantages_N += np.where(used_A[act_N] & roles_LN[i], a_A[act_N], 0.0)
        metrics = {
            "segments": float(parts.first_A.sum() / parts.last_A.sum()),
            "segment_rounds": float(np.bincount(parts.segment_A).mean()),
        }
        if self._fields:
            written = [control_of(r.text).written for episode in groups.episodes for r in episode.rounds]
            metrics["uncontrolled"] = 1.0 - float(np.mean(written))
        return Credit.flat("token", advantages_N, groups, metrics)

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        s = self.settings
        loss_N, clipped_N = clipped_surrogate(
            outputs.logprobs_N, batch.old_logprobs_N, batch.advantages_N, s.clip_low, s.clip_high
        )
        if s.entropy_coef > 0.0:
            loss_N = loss_N - s.entropy_coef * outputs.entropy_N
        metrics = {"clip_fraction": batch.mean(clipped_N)}
        for level, values_N in zip(_LEVELS, self._values(outputs).unbind(dim=-1), strict=True):
            error_N = self.value_errors(
                values_N, batch.columns[f"{level}_values"], batch.columns[f"{level}_returns"]
            )
            error_N = 0.5 * error_N * batch.columns[f"{level}_at"]
            loss_N = loss_N + error_N
            metrics[f"{level}_value_loss"] = batch.mean(error_N)
        return Loss(batch.total(loss_N), metrics)

    def _values(self, outputs: TokenOutputs) -> Tensor:
        """The three values before each token, [N, 3]; they send no gradient into the policy."""
        values_NL: Tensor = self.head(outputs.hidden_N.detach().to(self.head.weight.dtype))
        return values_NL

    def _keep_returns(
        self, groups: Groups, level: str, place_A: NDArray[np.int64], return_A: NDArray[np.float64]
    ) -> None:
        """The targets of a level's values, at the tokens before which they are read."""
        targets_N, at_N = np.zeros((2, len(groups.tokens.episode_N)))
        targets_N[place_A], at_N[place_A] = return_A, 1.0
        groups.columns[f"{level}_returns"] = torch.from_numpy(targets_N).float()
        groups.columns[f"{level}_at"] = torch.from_numpy(at_N).float()

    def _divide(self, groups: Groups) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether each round begins a segment, and what its fields cost; all rounds in order."""
        s = self.settings
        first: list[bool] = []
        penalty: list[float] = []
        for episode in groups.episodes:
            if self._fields:
                kept = ""
                for t, control in enumerate(control_of(round_.text) for round_ in episode.rounds):
                    first.append(t == 0 or control.switch)
                    changed = bool(kept and control.subgoal) and control.subgoal != kept
                    penalty.append(
                        0.0 if control.switch else s.keep_penalty + s.consistency_penalty * changed
                    )
                    if control.subgoal or control.switch:
                        kept = control.subgoal
                continue
            seen: set[str] = set()
            reached = True
            for round_, gold in zip(episode.rounds, new_gold(episode), strict=True):
                first.append(reached or round_.action.kind == "answer")
                ids = {hit.id for hit in round_.hits}
                reached = bool(gold if s.boundary == "gold" else ids - seen)
                seen |= ids
        return np.array(first, dtype=bool), np.array(penalty or np.zeros(len(first)))

    def _roles(self, groups: Groups) -> NDArray[np.bool_]:
        """For each level, the tokens that its advantage goes to, [3, N]."""
        count = len(groups.tokens.episode_N)
        if not self._fields:
            return np.array([np.ones(count), np.ones(count), np.zeros(count)], dtype=bool)
        tokenizer = _writer(self.context.policy).tokenizer  # type: ignore[attr-defined]  # checked in check_policy
        ids = [t for s in groups.samples for t, m in zip(s.segment.tokens, s.segment.mask, strict=True) if m]
        ends = np.flatnonzero(np.diff(groups.round_of_token_N, append=-1)) + 1
        roles, start = [], 0
        for end in ends.tolist():
            roles.append(
                _token_roles([tokenizer.decode([t], skip_special_tokens=False) for t in ids[start:end]])
            )
            start = end
        return np.concatenate(roles, axis=1)


def segments_of(
    first_R: NDArray[np.bool_], episode_R: NDArray[np.int64], round_A: NDArray[np.int64]
) -> Segments:
    """The segments of the acts, given those of all rounds.

    A round without sampled tokens is no act of the policy: it belongs to the act before it.

    Args:
        first_R: whether a round begins a segment; the first round of an episode does.
        episode_R: the episode of each round.
        round_A: the round of each act, increasing.
    """
    begun_A, episode_A = np.cumsum(first_R)[round_A], episode_R[round_A]
    first_A = np.append(True, begun_A[1:] != begun_A[:-1])
    return Segments(np.cumsum(first_A) - 1, first_A, np.append(episode_A[1:] != episode_A[:-1], True))


def hierarchical_advantages(
    rewards_A: NDArray[np.float64],
    low_A: NDArray[np.float64],
    high_A: NDArray[np.float64],
    parts: Segments,
    settings: HiPERSettings,
) -> dict[str, NDArray[np.float64]]:
    """The two advantages, and the return of the switch level, of each act.

    Args:
        rewards_A: the rewards.
        low_A: V^low.
        high_A: V^high; read before the first act of each segment.
        parts: the segments.
        settings: γ, λ and λ_seg.

    Returns:
        "low" and "switch" of every act, "high" of the first act of each segment, else 0; [A] each.
    """
    gamma, count = settings.gamma, len(rewards_A)
    after_low_A, after_high_A = np.append(low_A[1:], 0.0), np.append(high_A[1:], 0.0)
    ends_A = np.append(parts.first_A[1:], True) | parts.last_A
    boundary_A = np.where(parts.last_A, 0.0, after_high_A)
    next_A = np.where(ends_A, boundary_A, after_low_A)
    low = discounted_sums(rewards_A + gamma * next_A - low_A, parts.segment_A, gamma * settings.gae_lambda)
    paid_A = rewards_A + gamma * np.where(
        ends_A, boundary_A, 0.0
    )  # a segment's rewards, and what it leads to
    returns_A = discounted_sums(paid_A, parts.segment_A, gamma)
    high = np.zeros(count)
    starts, stops = np.flatnonzero(parts.first_A), np.flatnonzero(ends_A)
    carried = 0.0
    for start, stop in zip(starts[::-1].tolist(), stops[::-1].tolist(), strict=True):
        carried = (
            0.0 if parts.last_A[stop] else gamma ** (stop - start + 1) * settings.lambda_segment * carried
        )
        high[start] = carried = returns_A[start] - high_A[start] + carried
    return {"low": low, "high": high, "switch": returns_A}


def _token_roles(pieces: Sequence[str]) -> NDArray[np.bool_]:
    """For each level, the tokens of one round that it is responsible for, [3, tokens]."""
    text = "".join(pieces)
    stop_N = np.cumsum([len(piece) for piece in pieces])
    begin_N = stop_N - np.array([len(piece) for piece in pieces])
    roles = np.zeros((3, len(pieces)), dtype=bool)
    for name, block in control_blocks(text).items():
        opened = text.rfind(f"<{name}>", 0, block.end)
        roles[{"subgoal": 1, "switch": 2}[name]] |= (stop_N > opened) & (begin_N < block.end)
    roles[0] = ~(roles[1] | roles[2])
    return roles


def _after_fields(
    begin_A: NDArray[np.int64], act_N: NDArray[np.int64], field_N: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The first token of each act after its control fields; its first token where it has none, or nothing but them."""
    place_A = begin_A.copy()
    after = np.flatnonzero(field_N[:-1] & (act_N[1:] == act_N[:-1])) + 1
    place_A[act_N[after]] = after
    return place_A


def _writer(policy: Policy) -> Policy:
    """The agent that writes the tokens: of a planner agent the part that is trained."""
    inner = getattr(policy, "policy", policy)
    return inner if isinstance(inner, Policy) else policy
