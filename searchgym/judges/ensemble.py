"""The ensemble: several judges judge each round and vote separately on each criterion (u and v).

    mean      the mean of the members' numbers
    majority  1 if more than half of the members say yes, else 0
    all       0 if every member says no, else 1

A member says yes to a criterion with a number of at least 0.5. `all` is CAPO's rule (arXiv 2508.02298: a step is
wrong only if all critiques say so), whose "wrong" is a no. A no to v is a wrong step; u is put to the same vote.

A member whose judgement failed has no vote. If at least `quorum` members answered, their votes count; otherwise
the verdict is an error that names every failure. CAPO has no such rule: to require all critiques, set `quorum` to the
number of members. Costs are summed, including those of failed members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..errors import ConfigError, PluginError, did_you_mean
from ..records.question import Corpus, Question
from .protocol import Grade, Grader, Judge, Trace, Verdict, open_judge

__all__ = ["Ensemble", "GradingEnsemble", "open_ensemble"]

_YES = 0.5


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _majority(numbers: Sequence[float]) -> float:
    return float(2 * sum(number >= _YES for number in numbers) > len(numbers))


def _all(numbers: Sequence[float]) -> float:
    return float(any(number >= _YES for number in numbers))


_VOTES: dict[str, Callable[[Sequence[float]], float]] = {"mean": _mean, "majority": _majority, "all": _all}
_Result = TypeVar("_Result", Verdict, Grade)


class Ensemble:
    """See the module docstring; `open_ensemble` makes one from names.

    Members judge at the same time, one thread each; verdicts and their reasons do not depend on the timing.
    """

    name = "ensemble"

    def __init__(self, members: Sequence[Judge], vote: str = "majority", quorum: int | None = None) -> None:
        """Create an ensemble of opened judges.

        Args:
            members: the judges, in the order in which reasons name them.
            vote: "mean", "majority" or "all".
            quorum: the number of members that must answer; default: more than half.

        Raises:
            ConfigError: no member, one member twice, an unknown vote or an impossible quorum.
        """
        if not members:
            raise ConfigError("judge 'ensemble' has no members: name at least one in `judges`")
        twice = [member.name for i, member in enumerate(members) if any(member is m for m in members[:i])]
        if twice:
            raise ConfigError(
                f"judge {twice[0]!r} is in the ensemble twice with the same options, so its votes would be the "
                "same: give each another option, such as the number of a model's sample"
            )
        if not isinstance(vote, str) or vote not in _VOTES:
            known = ", ".join(_VOTES)
            raise ConfigError(f"ensemble vote is {vote!r}.{did_you_mean(str(vote), _VOTES)} Known: {known}.")
        if quorum is None:
            quorum = len(members) // 2 + 1
        if type(quorum) is not int or not 1 <= quorum <= len(members):
            raise ConfigError(
                f"ensemble quorum is {quorum!r}: give a number from 1 to {len(members)}, the number of members"
            )
        self.members = tuple(members)
        self.needs_gold = any(getattr(member, "needs_gold", False) for member in members)
        self._labels = [f"{number} {member.name}" for number, member in enumerate(members, 1)]
        self._vote = _VOTES[vote]
        self._quorum = quorum

    def check(self) -> None:
        """Run the members' own checks; raises the first `ConfigError`, with the member named."""
        for label, member in zip(self._labels, self.members, strict=True):
            check = getattr(member, "check", None)
            if check is not None:
                try:
                    check()
                except ConfigError as error:
                    raise ConfigError(f"ensemble member {label}: {error}") from error

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        columns = self._ask(lambda member: member.judge(traces), len(traces), "verdicts")
        return [self._verdict(row) for row in zip(*columns, strict=True)]

    def _ask(
        self, ask: Callable[[Any], Sequence[_Result]], expected: int, what: str
    ) -> list[Sequence[_Result]]:
        """One column of results per member; an empty batch calls no member."""
        if not expected:
            return []
        with ThreadPoolExecutor(len(self.members)) as pool:
            columns = list(pool.map(ask, self.members))
        for label, column in zip(self._labels, columns, strict=True):
            if len(column) != expected:
                raise PluginError(f"ensemble member {label} gave {len(column)} {what} for {expected}")
        return columns

    def _verdict(self, row: Sequence[Verdict]) -> Verdict:
        votes, reason, cost = self._poll(row)
        return Verdict.ok(votes[0], votes[1], reason, cost) if votes else Verdict.error(reason, cost)

    def _poll(self, row: Sequence[Verdict | Grade]) -> tuple[list[float], str, dict[str, float]]:
        """One number per criterion (none if the quorum was missed), the members' reasons, and the summed cost."""
        cost: Counter[str] = Counter()
        for result in row:
            cost.update(result.cost)
        named = list(zip(self._labels, row, strict=True))
        answered = [_numbers(result) for result in row if result.status == "ok"]
        if len(answered) < self._quorum:
            failures = [f"{label}: {result.reason}" for label, result in named if result.status != "ok"]
            count = f"{len(answered)} of {len(row)} answered, {self._quorum} needed"
            return [], "; ".join([count, *failures]), dict(cost)
        said = [f"{label}: {_shown(result)} ({result.reason})" for label, result in named]
        return [self._vote(column) for column in zip(*answered, strict=True)], "; ".join(said), dict(cost)


class GradingEnsemble(Ensemble):
    """An ensemble of graders; it grades by the same vote."""

    def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        columns = self._ask(lambda member: member.grade(questions, answers), len(answers), "grades")
        return [self._grade(row) for row in zip(*columns, strict=True)]

    def _grade(self, row: Sequence[Grade]) -> Grade:
        votes, reason, cost = self._poll(row)
        return Grade.ok(votes[0], reason, cost) if votes else Grade.error(reason, cost)


def open_ensemble(
    corpus: Corpus | None,
    judges: Sequence[str | dict[str, Any] | Judge],
    vote: str = "majority",
    quorum: int | None = None,
) -> Ensemble:
    """Several judges that vote on each round. If all of them are graders, so is the ensemble.

    Args:
        corpus: passed to every member.
        judges: names or {"name": …, **options}; to sample one model several times, list it several times with
            different values of the option that numbers its samples.
        vote: "mean", "majority" or "all".
        quorum: the number of members that must answer; default: more than half.

    Raises:
        ConfigError: `judges` is not a list of judges, or a member or an option cannot be used.
    """
    if isinstance(judges, str) or not isinstance(judges, Sequence):
        raise ConfigError(f"ensemble judges is {judges!r}: give a list of names or dicts")
    members = [open_judge(spec, corpus) for spec in judges]
    kind = GradingEnsemble if members and all(isinstance(m, Grader) for m in members) else Ensemble
    return kind(members, vote, quorum)


def _numbers(result: Verdict | Grade) -> list[float]:
    numbers = (result.score,) if isinstance(result, Grade) else (result.utility, result.reasoning)
    return [number for number in numbers if number is not None]


def _shown(result: Verdict | Grade) -> str:
    return " ".join(f"{number:.3g}" for number in _numbers(result)) or "failed"
