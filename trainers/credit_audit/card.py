"""What a credit study should state: the survey's card and checklist, and what each method's credit costs.

Source: the survey of credit assignment, arXiv 2604.09459: the six fields of its CA-ID card, and the MUST and SHOULD items of
its reporting checklist, in our words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .auditing import CreditAudit, RuleScore

__all__ = ["FAMILIES_OF_METHODS", "card_lines", "cost_json", "cost_lines"]

FAMILIES_OF_METHODS = {
    "grpo": "Monte Carlo: the outcome relative to the group",
    "reinforce": "Monte Carlo: the outcome relative to a mean",
    "ppo": "temporal difference: a learned critic",
    "mt-ppo": "temporal difference: a learned critic, and a reward for every round",
    "gigpo": "Monte Carlo: outcomes compared inside groups that share a state",
    "tree-grpo": "Monte Carlo: outcomes compared inside trees of branches",
    "cw-grpo": "model-based: a judge's verdicts weight the outcome",
    "capf": "model-based: the use of privileged feedback weights the outcome",
    "step-search": "temporal difference: a learned critic, and information gain over gold passages",
    "match-tir": "Monte Carlo: matched gold sub-queries and outcomes, by round",
    "capo": "model-based: a judge's verdicts penalize rounds",
    "scribe": "model-based: a rubric's scores beside the outcome",
    "tp-grpo": "model-based: a judge's verdicts on runs of rounds beside the outcome",
    "r3-rag": "temporal difference: a learned critic, and a judge's verdicts as rewards",
    "vimrag": "model-based: a graph of evidence masks rounds",
    "virl": "model-based: labels from gold passages beside the outcome",
    "hiper": "temporal difference: learned critics on two levels",
    "sft": "none: imitation of demonstrations",
    "skillrl": "Monte Carlo: the outcome relative to the group",
    "structrag": "Monte Carlo: preferences between the outcomes of a router's choices",
    "slea-rl": "Monte Carlo: outcomes compared inside groups that share a state",
    "igpo": "information-theoretic: what a round changes in the probability of the gold answer",
    "spae": "information-theoretic: what a round changes in the certainty of a forced answer",
    "dpo": "Monte Carlo: preferences between the outcomes of episodes",
    "step-dpo": "Monte Carlo: preferences between acts of one state, by continuations",
    "webstar": "model-based: a judge's grades select the rounds that are imitated",
    "int": "model-based: a judge names the first error, and a better act is imitated there",
    "prorag": "model-based: a process reward model beside the outcome",
    "istar": "model-based: an implicit process reward model, trained on preferences between episodes",
    "spa-rl": "temporal difference: a learned critic, and a learned division of the outcome",
    "grounded-prm": "model-based: verified facts of what follows a round, mixed with the outcome",
    "steporlm": "model-based: preferences between episodes, weighted by a critique of their rounds",
    "vineppo": "Monte Carlo: continuations from the state of each round",
    "rtmc": "Monte Carlo: outcomes of all episodes that pass through a state",
    "arpo": "Monte Carlo: outcomes compared inside groups that branch where the policy is unsure",
    "slate": "model-based: a judge's grades of alternative acts of one state",
    "mcts": "Monte Carlo: values of a search tree over acts",
}
"""Trainer -> its family in the survey's taxonomy."""


def card_lines(audit: CreditAudit, command: str) -> list[str]:
    """The CA-ID card and the checklist, as Markdown.

    Args:
        audit: the audit.
        command: the command that made it.
    """
    lines = ["## Card", "", "| field | here |", "|---|---|"]
    lines += [f"| {field} | {text} |" for field, text in _card(audit).items()]
    lines += ["", "## Checklist", "", "| | item | here |", "|---|---|---|"]
    lines += [
        f"| {level} | {item} | {text} |"
        for level, items in _checklist(audit, command).items()
        for item, text in items.items()
    ]
    if audit.trainers:
        lines += [
            "",
            "By method:",
            "",
            "| method | granularity | family | same episodes as the others |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {rule.label} | {rule.unit} | {_family(rule.label)} | {'yes' if rule.shared else 'no: ' + rule.note} |"
            for rule in audit.trainers
        ]
    return lines


def _family(label: str) -> str:
    return FAMILIES_OF_METHODS.get(label, "a plug-in: see its documentation")


def _card(audit: CreditAudit) -> dict[str, str]:
    settings, env = audit.settings, audit.env
    exact = settings.method == "exact"
    return {
        "unit and estimand": "a round's act; A(s, a) = Q(s, a) − V(s), the return expected after the act minus the return "
        "expected before it, under the policy that plays on",
        "effective state": f"the environment's snapshot and the policy's own state (question, acts and observations); corpus "
        f"{env.get('corpus')} with hash {str(env.get('corpus_hash'))[:12]}, index {str(env.get('index_hash'))[:12]}",
        "intervention source": "the policy itself: acts drawn from its sampling distribution in the restored state",
        "downstream protocol": "the same policy plays on to the end of the episode, without discount",
        "support and uncertainty": "every act of every reachable state; no sampling error in A. Intervals are bootstrap "
        "intervals over questions"
        if exact
        else f"continuations until the standard error of A is {settings.error:g}, at most {settings.continuations} per state; "
        "two replicas give the noise floor. Intervals are bootstrap intervals over questions",
        "optimisation interface": "credit as the trainer returns it, the mean over a round's tokens; nothing is trained, so "
        "the table is a credit-only comparison at equal episodes",
    }


def _checklist(audit: CreditAudit, command: str) -> dict[str, dict[str, str]]:
    sampled, policy, env = audit.sampled, audit.policy, audit.env
    lengths = np.array([len(episode.rounds) for episode in sampled.episodes])
    baseline = [rule.label for rule in audit.trainers if rule.unit == "episode"]
    quartiles = ", ".join(f"{value:g}" for value in np.percentile(lengths, [0, 25, 50, 75, 100]))
    return {
        "MUST": {
            "base model and version": f"{sampled.episodes[0].agent}, {policy.get('weights', '?')} weights, {_version(audit)}",
            "training data and filter": f"none: nothing is trained; {len(audit.kinds)} questions of {env.get('corpus')}, none filtered out",
            "credit granularity": "by method, below",
            "method family": "by method, below",
            "episode-level baseline": ", ".join(baseline) or "none: add --trainer grpo",
            "same compute": "the same episodes for all methods that can share them; otherwise stated by method",
            "benchmark and split": f"`{command}`",
            "metric": "agreement of the credit with A (see the columns); EM of the episodes "
            f"{np.mean([e.outcome.em for e in sampled.episodes]):.3f}",
            "GPU-hours": "0; processor time under Cost",
            "mean trajectory length": f"{lengths.mean():.1f} rounds, {sampled.played['tokens'] / len(lengths):.0f} sampled tokens",
        },
        "SHOULD": {
            "at least 3 seeds, with variance": f"one seed of episodes, {len(sampled.groups)} questions; 95 % bootstrap intervals in audit.json",
            "ablation of the credit alone": "yes: only the credit differs between rows with shared episodes",
            "overhead of credit": "under Cost",
            "distribution of trajectory lengths": f"minimum, quartiles, maximum: {quartiles} rounds",
        },
    }


def _version(audit: CreditAudit) -> str:
    versions = {record.policy_version for episode in audit.sampled.episodes for record in episode.rounds}
    return f"version {', '.join(str(version) for version in sorted(v or 0 for v in versions))}"


def cost_lines(audit: CreditAudit) -> list[str]:
    """What the true values and each method's credit cost, as Markdown."""
    sampled = audit.sampled
    counted = ", ".join(f"{value:,.0f} {name}" for name, value in sampled.counts.items() if name != "seconds")
    lines = [
        "## Cost",
        "",
        f"True values: {counted}, {sampled.counts['seconds']:.1f} s of processor time.",
        "",
        "Per 100 episodes of each method. Fidelity is the correlation of its credit with A; the last column is the credit's "
        "processor time divided by it.",
        "",
        "| method | sampled tokens | restores | tokens of extra passes | judge calls | feedback acts | credit, ms | ms per unit of fidelity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rule in audit.trainers:
        cost = cost_json(rule)
        cells = [
            f"{cost[name]:,.0f}"
            for name in ("tokens", "restores", "pass_tokens", "judge_calls", "feedback_calls")
        ]
        per_unit = cost["ms_per_fidelity"]
        cells += [f"{cost['ms']:.1f}", "–" if per_unit is None else f"{per_unit:.1f}"]
        lines.append(f"| {rule.label} | " + " | ".join(cells) + " |")
    return lines


def cost_json(rule: RuleScore) -> Mapping[str, Any]:
    """A method's costs per 100 episodes; "ms_per_fidelity" is null where its credit does not correlate with A.

    Args:
        rule: the method.
    """
    cost, fidelity = rule.cost.to_json(), rule.scores["pearson"].value
    share = 100 / max(1.0, cost.pop("episodes"))
    ms = 1e3 * cost.pop("seconds") * share
    right = not math.isnan(fidelity) and fidelity > 0.0
    return {name: value * share for name, value in cost.items()} | {
        "ms": ms,
        "ms_per_fidelity": ms / fidelity if right else None,
    }
