# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Judges and their noise
#
# A judge says of each round whether its search found something needed (*u*) and whether what the agent concluded is supported (*v*). Trainers such
# as CW-GRPO divide credit by u · v. In practice the judge is a language model and errs. This notebook measures a judge, then
# breaks one on purpose and watches what happens to the credit. It needs no model: the worlds of this package come with derivations, so
# there is a judge that is always right, the [oracle](../judges.md).

# %%
import matplotlib.pyplot as plt
import numpy as np

import searchgym
from searchgym.agents.candidate import CandidateAgent
from searchgym.audit import audit
from searchgym.env.vector import make_vec
from searchgym.trainers.algorithms.cw_grpo import CWGRPO
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.credit_audit.auditing import AuditSettings, audit_credit

# %% [markdown]
# ## What a verdict looks like
#
# The judge `rules` reads names and words, without the derivation. Here it and the oracle judge the same rounds: `oracle` plays well, `copy`
# copies an answer from its first search.

# %%
world = {"name": "country", "size": 1000, "train": 100, "dev": 20, "test": 20}
episodes = searchgym.rollout("SearchQA-v0", "oracle", 40, corpus=world, split="train", judge="rules")
episodes += searchgym.rollout("SearchQA-v0", "copy", 40, corpus=world, split="train", judge="rules")
for record in episodes[0].rounds:
    verdict = record.judge
    print(
        f"{record.action.kind:7} u={verdict.utility:.2f} v={verdict.reasoning:.2f}  {record.text}\n        {verdict.reason}"
    )

# %% [markdown]
# ## How far can it be trusted?
#
# [`audit`](../judge-audit.md) compares a judge with a reference, round by round. Accuracy alone misleads: a judge that always says yes is right
# wherever yes is common. Cohen's kappa is 0 for such a judge and 1 for a perfect one.

# %%
measured = {"rules": audit(None, episodes)}  # the verdicts that the episodes hold
for rate in (0.1, 0.2, 0.3, 0.5):
    measured[f"oracle, {rate:.0%} flipped"] = audit(
        {"name": "corrupted", "judge": "oracle", "rate": rate}, episodes
    )
criteria = ("utility", "reasoning", "contribution")
for label, result in measured.items():
    print(f"{label:20}", "  ".join(f"{name} {result.criteria[name].accuracy.value:.2f}" for name in criteria))

# %%
figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
for number, name in enumerate(criteria):
    kappas = [result.criteria[name].kappa for result in measured.values()]
    places = np.arange(len(kappas)) + 0.2 * (number - 1)
    values = [k.value for k in kappas]
    errors = [
        [v - k.low for v, k in zip(values, kappas, strict=True)],
        [k.high - v for v, k in zip(values, kappas, strict=True)],
    ]
    axis.errorbar(places, values, yerr=errors, fmt="o", capsize=3, label=name)
axis.set_xticks(range(len(measured)), measured, fontsize="small")
axis.axhline(0, color="0.7", lw=0.8)
axis.set(ylabel="Cohen's kappa, 95 % interval", title="Agreement with the oracle", ylim=(-0.3, 1.05))
axis.legend()
plt.show()

# %% [markdown]
# In accuracy, the contribution u · v suffers most, because it is wrong if either of two answers is. In kappa, the reasoning does: nearly every conclusion here is supported, so
# a few flips outnumber the true noes, and `rules`, which always says yes to it, has an accuracy near 1 and a kappa of 0. With half of all answers flipped, a judge knows nothing.
#
# ## What noise does to credit
#
# Now the question that matters: how wrong does the *credit* become? In the family `idle` of [the worlds in which credit decides](../credit/families.md),
# most searches of a success change nothing, so a judge is worth having. The [credit audit](../credit/index.md) computes the true advantage of every round, and scores CW-GRPO with
# verdicts of which more and more are flipped.

# %%
RATES = (0.05, 0.1, 0.2, 0.3, 0.5)
config = make_vec(
    "SearchQA-Forks-v0",
    1,
    corpus={"name": "forks", "family": "idle", "idle": 3},
    judge="oracle",
    judge_when="end",
).config
policy = CandidateAgent(memory=False, start="lookup")
rules = {"grpo": GRPO(), "cw-grpo": CWGRPO()}
result = audit_credit(
    policy, config, rules, AuditSettings(questions=8, group_size=16, judge_noise=RATES, num_envs=64)
)
grpo, cw = result.trainers
for rule in (grpo, cw):
    print(
        f"{rule.label:8}",
        {name: round(rule.scores[name].value, 2) for name in ("sign", "within", "pearson", "idle share")},
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharex=True)
for axis, name in zip(axes, ("within", "pearson"), strict=True):
    rates = [0.0, *(noise.rate for noise in cw.noise)]
    values = [cw.scores[name].value, *(noise.scores[name] for noise in cw.noise)]
    axis.plot(rates, values, "o-", label="CW-GRPO")
    axis.axhline(grpo.scores[name].value, color="C1", ls="--", label="GRPO (no judge)")
    axis.set(xlabel="share of flipped verdicts", title=name)
    axis.grid(alpha=0.3)
axes[0].set_ylabel("agreement with the true advantage")
axes[1].legend()
plt.show()

# %% [markdown]
# *within*: whether the rounds of an episode are ranked rightly. *pearson*: correlation over all rounds. Where the curve crosses the dashed line, the
# judge costs more than it brings: leave it out, or give its verdicts less weight (`alpha`).
#
# One noise level of one family is a sketch. [The published comparison](../results/noise.md) trains with noisy judges over many seeds.
#
# ## Try it
#
# - Set `alpha` to 2 in `CWGRPO({"alpha": 2.0})`: does a softer weighting stand more noise?
# - In the family `decoys` almost every search of a success contributes. What is a judge worth there?
# - Audit a language model: `searchgym judge audit --judge llm` ([the judge llm](../judges-llm.md)).
