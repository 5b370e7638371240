"""Alarms: symptoms of a failing run in its metrics, their likely cause, and what to try next.

    alarms = raised(rows)              of a finished run: the rows of its metrics.jsonl, or `Result.metrics`
    watch = Alarms(); watch.add(row)   during a run: the alarms that this iteration raises

An alarm is raised in the iteration in which its condition starts to hold, and again only after it has stopped holding. The
conditions and the limits are ours: the limits lie between the values of healthy runs of the two small policies and those of
collapsed ones (docs/trainers/alarms.md lists both). This file does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchgym.errors import ConfigError, did_you_mean

from ..config import option, parse_settings

__all__ = ["ALARMS", "Alarm", "AlarmLimits", "Alarms", "raised"]

Rows = Sequence[Mapping[str, Any]]
_WINDOW = 3  # iterations a condition must hold for, and over which EM is averaged
_NO_SIGNAL = 5  # iterations without unequal rewards; healthy runs may start like that
_SOLVED = 0.8  # EM from which low entropy and equal groups are expected
_WORTH_LOSING = 0.1  # EM whose loss is not explained by sampling
_STILL = 1e-5  # step KL below which a policy counts as unchanged


@dataclass(frozen=True)
class AlarmLimits:
    """The limit of each alarm; null switches an alarm off."""

    success: float | None = option(0.5, "EM below this share of its earlier level", low=0.0, high=1.0)
    entropy: float | None = option(
        0.05, "surprisal below this share of the run's largest, while EM is below 0.8", low=0.0, high=1.0
    )
    step_kl: float | None = option(0.1, "KL within one iteration, nats per token", low=0.0)
    kl: float | None = option(2.0, "KL to the initial policy, nats per token (where it is measured)", low=0.0)
    clip_fraction: float | None = option(0.3, "share of tokens whose gradient is clipped away", low=0.0)
    grad_norm: float | None = option(10.0, "gradient norm before clipping", low=0.0)
    invalid_rounds: float | None = option(0.5, "share of rounds without a valid act", low=0.0)
    truncated: float | None = option(0.8, "share of episodes that ran out of a budget", low=0.0)
    context_full: float | None = option(
        0.5, "share of episodes that ended because their tokens do not fit into the context", low=0.0
    )
    sampling_kl: float | None = option(
        0.05, "KL between sampling engine and trainer, nats per token (if they differ)", low=0.0
    )
    repetition: float | None = option(
        0.4, "share of repeated searches, or of repeated four-word sequences", low=0.0
    )
    equal_groups: float | None = option(
        0.95, "share of groups without unequal rewards, while EM is below 0.8", low=0.0
    )


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that was raised.

    Attributes:
        name: a field of `AlarmLimits`.
        iteration: in which it was raised.
        seen: what the metrics show.
        cause: the likely cause.
        advice: what to try next.
    """

    name: str
    iteration: int
    seen: str
    cause: str
    advice: str

    def __str__(self) -> str:
        return (
            f"alarm {self.name}, iteration {self.iteration}: {self.seen}. Likely cause: {self.cause}. "
            f"Next: {self.advice}."
        )


class Alarms:
    """Watches the iterations of one run.

    Args:
        limits: an `AlarmLimits`, or some of its fields.
        rows: earlier iterations (of a resumed run); their alarms are not raised again.

    Attributes:
        active: names of the alarms whose conditions hold now.

    Raises:
        ConfigError: an unknown alarm, or a limit out of range.
    """

    def __init__(self, limits: AlarmLimits | Mapping[str, Any] | None = None, rows: Rows = ()) -> None:
        if not isinstance(limits, AlarmLimits):
            limits = parse_settings(AlarmLimits, limits or {}, "alarm")
        self.limits = limits
        self.active: list[str] = []
        self._history = _History()
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that an iteration raises; row 0, before training, raises none.

        Args:
            row: its line of metrics.jsonl.
        """
        if row["iteration"] == 0:
            return []
        self._history.add(row)
        found: dict[str, tuple[str, str, str]] = {}
        for name, condition in ALARMS.items():
            limit = getattr(self.limits, name)
            text = None if limit is None else condition(self._history, limit)
            if text is not None:
                found[name] = text
        new = [Alarm(name, row["iteration"], *found[name]) for name in found if name not in self.active]
        self.active = list(found)
        return new


class _History(list[Mapping[str, Any]]):
    """What the conditions read: the rows of the last iterations, and of all before them what an alarm depends on.

    So the memory and the time that an iteration takes do not grow with the run.

    Attributes:
        recent_em: the mean EM of the last `_WINDOW` iterations that have one.
        best_em: by the number of iterations, 1 to `_WINDOW`: the largest mean EM of so many.
        groups: of the last iteration that has an EM.
        surprisal: the last one.
        largest_surprisal: of all iterations.
        steps: the two largest `step_kl`.
        invalid_rounds: of the first iteration.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recent_em: float | None = None
        self.best_em: dict[int, float] = {}
        self.groups = 0
        self.surprisal: float | None = None
        self.largest_surprisal = -math.inf
        self.steps = [0.0, 0.0]
        self.invalid_rounds: float | None = None
        self._em: list[float] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Take the next iteration."""
        if not self:
            self.invalid_rounds = row.get("invalid_rounds")
        self.append(row)
        del self[:-_NO_SIGNAL]
        if row.get("em") is not None:
            self._em = [*self._em, row["em"]][-_WINDOW:]
            length = len(self._em)
            self.recent_em = sum(self._em) / length
            self.best_em[length] = max(self.best_em.get(length, 0.0), self.recent_em)
            self.groups = row["groups"]
        if row.get("surprisal") is not None:
            self.surprisal = row["surprisal"]
            self.largest_surprisal = max(self.largest_surprisal, row["surprisal"])
        self.steps = sorted([*self.steps, row.get("step_kl") or 0.0])[1:]


def raised(rows: Rows, limits: AlarmLimits | Mapping[str, Any] | None = None) -> list[Alarm]:
    """All alarms of a run, in order.

    Args:
        rows: of metrics.jsonl.
        limits: see `Alarms`.
    """
    alarms = Alarms(limits)
    return [alarm for row in rows for alarm in alarms.add(row)]


def parse_stops(text: str) -> frozenset[str]:
    """The alarms that stop a run, from the option `stop_on_alarm`.

    Args:
        text: comma-separated names, or "all".

    Raises:
        ConfigError: an unknown alarm.
    """
    names = [name for part in text.split(",") if (name := part.strip())]
    for name in names:
        if name not in ("all", *ALARMS):
            raise ConfigError(
                f"stop_on_alarm names {name!r}, which is not an alarm.{did_you_mean(name, ALARMS)} Known: "
                f"{', '.join(ALARMS)}, or all."
            )
    return frozenset(ALARMS) if "all" in names else frozenset(names)


# -- conditions: (what is seen, likely cause, next move), or None -----------------------------------------------

_Text = tuple[str, str, str]
_TOO_FAST = "the learning rate is too high, or too many optimizer steps are made of one collection"
_SLOWER = "a new run with a third of lr; else fewer epochs and minibatches, or kl_coef"


def _success(rows: _History, limit: float) -> _Text | None:
    now = rows.recent_em
    if now is None:
        return None
    # The largest mean of so many iterations is lost if any is: `_lost` rises with it from where it first holds.
    best = rows.best_em.items()
    lost = [mean for length, mean in best if _lost(mean, now, limit, length, rows.groups)]
    if not lost:
        return None
    cause, advice = _TOO_FAST, _SLOWER
    if not _moved_far(rows):
        cause = "the reward can be earned without right answers"
        advice = "read the last training episodes, and check what `reward` pays; train on em, or add kl_coef"
    return (
        f"EM fell from {max(lost):.2f} to {now:.2f} (means of up to {_WINDOW} iterations)",
        cause,
        advice,
    )


def _lost(mean: float, now: float, limit: float, iterations: int, questions: int) -> bool:
    """Whether EM fell from a relevant level by more than different questions explain (3 standard errors)."""
    error = math.sqrt(mean * (1.0 - mean) / (iterations * max(questions, 1)))
    return mean >= _WORTH_LOSING and now < limit * mean and mean - now >= 3.0 * error


def _entropy(rows: _History, limit: float) -> _Text | None:
    last, largest = rows.surprisal, rows.largest_surprisal
    if last is None or last >= limit * largest or _recent_em(rows) >= _SOLVED:
        return None
    cause, advice = (
        "early successes were all alike, and nothing rewards exploration",
        "set entropy_coef (0.001 to 0.01), a larger group_size or clip_high=0.28",
    )
    if _moved_far(rows):
        cause, advice = _TOO_FAST, _SLOWER
    seen = (
        f"the surprisal of a sampled token is {last:.2g} nats, down from {largest:.2g}: the policy hardly explores, "
        f"at EM {_recent_em(rows):.2f}"
    )
    return seen, cause, advice


def _step_kl(rows: _History, limit: float) -> _Text | None:
    value = rows[-1].get("step_kl")
    if value is None or value <= limit:
        return None
    return f"the policy moved by {value:.2g} nats per token within one iteration", _TOO_FAST, _SLOWER


def _kl(rows: _History, limit: float) -> _Text | None:
    value = rows[-1].get("kl")
    if value is None or value <= limit:
        return None
    return (
        f"the policy is {value:.2g} nats per token away from the initial one",
        "kl_coef is too small for this learning rate, or the run is long",
        "compare EM on held-out questions before and after; raise kl_coef, or lower lr",
    )


def _clip_fraction(rows: _History, limit: float) -> _Text | None:
    value = _lowest(rows, "clip_fraction")
    if value is None or value <= limit:
        return None
    return (
        f"at least {value:.0%} of the tokens were clipped in each of {_WINDOW} iterations",
        _TOO_FAST,
        "lower lr, or make fewer epochs and minibatches: clipped tokens contribute nothing to the gradient",
    )


def _grad_norm(rows: _History, limit: float) -> _Text | None:
    value = rows[-1].get("grad_norm")
    if value is None or value <= limit:
        return None
    return (
        f"the gradient's norm is {value:.3g}",
        "a term of the loss is far larger than the others: unscaled rewards, kl_coef, entropy_coef, loss_length",
        "advantage=grpo scales rewards; lower the coefficient; grad_clip only keeps the direction",
    )


def _invalid_rounds(rows: _History, limit: float) -> _Text | None:
    value = _lowest(rows, "invalid_rounds")
    if value is None or value <= limit:
        return None
    if (rows.invalid_rounds or 0.0) > limit:
        cause = "the policy never knew the format of an act"
        advice = "warm it up (trainer sft), or allow longer messages; docs/environment.md shows the format"
    else:
        cause = "the format was unlearned: " + (_TOO_FAST if _moved_far(rows) else "no reward depends on it")
        advice = "lower lr, add reward invalid with a negative weight, or kl_coef"
    return (
        f"at least {value:.0%} of the rounds had no valid act in each of {_WINDOW} iterations",
        cause,
        advice,
    )


def _truncated(rows: _History, limit: float) -> _Text | None:
    value = _lowest(rows, "truncated")
    if value is None or value <= limit:
        return None
    return (
        f"at least {value:.0%} of the episodes ran out of a budget in each of {_WINDOW} iterations",
        "the policy keeps searching instead of answering, or the budgets are too small",
        "reward unanswered or search with a negative weight, raise max_rounds or the token limit, or lower lr",
    )


def _context_full(rows: _History, limit: float) -> _Text | None:
    value = rows[-1].get("context_full")
    if value is None or value <= limit:
        return None
    return (
        f"{value:.0%} of the episodes ended because their tokens did not fit into the context",
        "questions and passages are longer than the agent's context",
        "a larger max_context of the agent, fewer or shorter passages (k, max_chars), or fewer rounds",
    )


def _sampling_kl(rows: _History, limit: float) -> _Text | None:
    value = rows[-1].get("sampling_kl")
    if value is None or value <= limit:
        return None
    return (
        f"sampling engine and trainer differ by {value:.2g} nats per token before the update (effective sample size "
        f"{rows[-1]['sampling_ess']:.0%})",
        "the engine has other weights, a lower precision or other kernels, or the rollouts are stale",
        "make sure that the engine gets the weights; use the same dtype in both; --set tis_cap=2 corrects the rest",
    )


def _repetition(rows: _History, limit: float) -> _Text | None:
    for key, what in (("repeated_searches", "searches"), ("repetition", "four-word sequences")):
        value = _lowest(rows, key)
        if value is not None and value > limit:
            return (
                f"at least {value:.0%} of the {what} were repetitions in each of {_WINDOW} iterations",
                _TOO_FAST if _moved_far(rows) else "the policy is stuck in a loop that has no cost",
                "reward search with a negative weight or stepsearch; lower lr or temperature; set max_searches",
            )
    return None


def _equal_groups(rows: _History, limit: float) -> _Text | None:
    last = rows[-_NO_SIGNAL:]
    shares = [row["equal_groups"] / row["groups"] for row in last if row.get("groups")]
    if len(shares) < _NO_SIGNAL or min(shares) <= limit or _recent_em(rows) >= _SOLVED:
        return None
    if all((row.get("reward") or 0.0) == 0.0 for row in last):
        cause = "no episode earns a reward: the questions are too hard for this policy"
        advice = (
            "easier questions (hops, types), a larger group_size, resample, or a warm start (trainer sft)"
        )
    else:
        cause = "the policy always acts the same" + (f"; {_TOO_FAST}" if _moved_far(rows) else "")
        advice = "entropy_coef with skip_equal=false, a higher temperature, or a new run with a lower lr"
    moved = [value for row in last if (value := row.get("step_kl")) is not None]
    if moved and max(moved) < _STILL:
        cause += f"; and it does not move (step KL {max(moved):.0e}): lr may be too small"
    seen = f"at least {min(shares):.0%} of the groups had equal rewards in each of {_NO_SIGNAL} iterations"
    return seen, cause, advice


ALARMS: dict[str, Callable[[_History, float], _Text | None]] = {
    "success": _success,
    "entropy": _entropy,
    "step_kl": _step_kl,
    "kl": _kl,
    "clip_fraction": _clip_fraction,
    "grad_norm": _grad_norm,
    "invalid_rounds": _invalid_rounds,
    "truncated": _truncated,
    "context_full": _context_full,
    "sampling_kl": _sampling_kl,
    "repetition": _repetition,
    "equal_groups": _equal_groups,
}
"""The condition of every alarm by name; the names are the fields of `AlarmLimits`."""


def _lowest(rows: _History, key: str) -> float | None:
    """The smallest value of the last iterations; None if one is missing."""
    values = [row.get(key) for row in rows[-_WINDOW:]]
    known = [value for value in values if value is not None]
    return min(known) if len(known) == _WINDOW else None


def _recent_em(rows: _History) -> float:
    values = [value for row in rows[-_WINDOW:] if (value := row.get("em")) is not None]
    return sum(values) / len(values) if values else 0.0


def _moved_far(rows: _History) -> bool:
    """Whether the policy moved further than in healthy runs: very far in one iteration, or far in several."""
    second, largest = rows.steps
    return largest > 0.2 or second > 0.03
