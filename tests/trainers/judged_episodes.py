"""Episodes with given acts, verdicts and rewards, for tests of credit rules; one sampled token per round."""

from searchgym.judges.protocol import Verdict, no_verdict
from searchgym.records.episode import Segment, StopReason
from searchgym.trainers.conformance import make_episode
from searchgym.trainers.core.groups import Groups

__all__ = ["episode", "group_of", "verdict"]


def verdict(p):
    """A verdict whose product is p; None: there is none, "error": it failed."""
    if p is None:
        return no_verdict("off", "not judged")
    return Verdict.error("timed out") if p == "error" else Verdict.ok(p, 1.0)


def episode(p, reward, kinds=None, name="e", tokens=1, em=None):
    """One round per entry of p. By default all search but the last, which answers.

    Args:
        p: contribution of each round, None or "error".
        reward: paid in the last round.
        kinds: kind of each act.
        name: episode id.
        tokens: sampled tokens per round.
        em: default: 1 for a positive reward.
    """
    kinds = kinds or ["search"] * (len(p) - 1) + ["answer"]
    rounds = [t for t in range(len(p)) for _ in range(1 + tokens)]
    mask = ([0] + [1] * tokens) * len(p)
    segment = Segment([1] * len(mask), mask, [-0.5 * m for m in mask], rounds)
    made = make_episode([segment], float(reward), episode_id=name, group_id="g")
    for round_, kind, value in zip(made.rounds, kinds, p, strict=True):
        round_.action = round_.action._replace(kind=kind)
        round_.judge = verdict(value)
    made.terminated = kinds[-1] == "answer"
    made.truncated = not made.terminated
    made.outcome.assisted = "feedback" in kinds
    made.outcome.em = float(reward > 0) if em is None else float(em)
    if not made.terminated:
        made.outcome.stop_reason = StopReason.ROUND_BUDGET
    return made


def group_of(*episodes):
    """Groups with one group; episodes get names of their own."""
    for i, one in enumerate(episodes):
        one.episode_id = f"e{i}"
        for t, round_ in enumerate(one.rounds):
            round_.uid = f"e{i}/{t}"
    return Groups([list(episodes)])
