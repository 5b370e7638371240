# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Where credit goes
#
# An episode of several rounds gets one reward. Which round earned it? GRPO gives every round the same credit. CW-GRPO weighs the rounds of
# a success by a judge's verdicts, GiGPO compares rounds that were played in the same state, CAPF uses privileged feedback. This notebook compares
# such rules with the truth.
#
# The environment can restore any state, so the true advantage of a round can be computed: the value after the act minus the value
# before it, under the policy that played ([the credit audit](../credit/index.md)).

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import searchgym
from searchgym.env.vector import make_vec
from searchgym.trainers.algorithms.cw_grpo import CWGRPO
from searchgym.trainers.algorithms.gigpo import GiGPO
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.core.credit import Credit
from searchgym.trainers.credit_audit.auditing import AuditSettings, audit_credit

world = {"name": "country-terse", "size": 1000, "train": 40, "dev": 20, "test": 20}
task = {"types": ["chain"], "hops": [1], "max_rounds": 2, "corpus": world}

# %% [markdown]
# The truth depends on the policy. An untrained one never answers rightly here, so there is nothing to divide; we train a few iterations
# first and audit the policy while it is still learning. Without a memory of its own (`memory=False`), its states can be enumerated, and
# the true values are exact.

# %%
run = Path(tempfile.mkdtemp()) / "run"
result = searchgym.train(
    agent="candidate",
    agent_options={"memory": False},
    iterations=8,
    questions=16,
    lr=0.15,
    eval_episodes=0,
    env_options=task,
    settings={"group_size": 16, "entropy_coef": 0.01, "skip_equal": False},
    run_dir=str(run),
)
print([round(row["em"], 2) for row in result.metrics if row.get("em") is not None])
policy = searchgym.load_run(run).policy
policy.greedy = False
config = make_vec("SearchQA-Terse-v0", 1, judge="oracle", judge_when="end", **task).config

# %% [markdown]
# A rule of our own: all credit to the last round.


# %%
class LastRound(GRPO):
    def credit(self, groups):
        values = []
        for advantages_G, group in zip(self.advantages(groups), groups, strict=True):
            values.append(
                [
                    [0.0] * (len(episode.rounds) - 1) + [a]
                    for a, episode in zip(advantages_G, group, strict=True)
                ]
            )
        return Credit.per_round(values)


# %%
rules = {"GRPO": GRPO(), "CW-GRPO": CWGRPO(), "GiGPO": GiGPO(), "last round": LastRound()}
audit = audit_credit(policy, config, rules, AuditSettings(questions=6, group_size=16))
print(f"{'rule':16} sign   within  pearson")
for rule in audit.rules:
    values = [rule.scores[name].value for name in ("sign", "within", "pearson")]
    print(f"{rule.label:16} " + "  ".join(f"{value:6.2f}" for value in values))

# %% [markdown]
# *sign*: how often the credit has the sign of the true advantage, from -1 to 1. *within*: whether the rounds of one episode are ranked
# rightly; a rule that gives all rounds the same credit scores 0. The first rows are references: the truth itself, its opposite, the
# return minus the true value of the state, and random numbers.
#
# GRPO ranks nothing inside an episode. CW-GRPO equals it here: a success has one search and one answer, and the judge finds that both
# contributed. GiGPO compares the answers that were given after the same search, which is what the truth does. All credit to the last round
# is wrong inside an episode: the search decides most of what follows.
#
# Each point below is a round. A good rule lies on a rising line.

# %%
shown = [rule for rule in audit.rules if rule.label in rules]
rounds = audit.sampled.rounds
figure, axes = plt.subplots(1, len(shown), figsize=(2.7 * len(shown), 2.9), sharex=True, layout="constrained")
for axis, rule in zip(axes, shown, strict=True):
    scale = float(np.sqrt(np.mean(rule.credit_R**2))) or 1.0
    for answers, marker, label in ((False, "o", "search"), (True, "^", "answer")):
        chosen = rounds.answers_R == answers
        axis.plot(
            rounds.true_R[chosen],
            rule.credit_R[chosen] / scale,
            marker,
            ms=4,
            alpha=0.4,
            mew=0,
            label=label,
        )
    axis.axhline(0, color="0.7", lw=0.8)
    axis.axvline(0, color="0.7", lw=0.8)
    axis.set(title=rule.label, xlabel="true advantage")
axes[0].set_ylabel("credit / rms")
axes[0].legend(fontsize="small")
plt.show()

# %% [markdown]
# Two rounds are the simplest case. `searchgym credit audit --run RUN` audits a checkpoint of any run, and `--env SearchQA-Forks-v0` worlds in
# which credit decides ([families](../credit/families.md)).
#
# ## Try it
#
# - Reward recall as well (`reward={"em": 1.0, "recall": 0.2}` in `make_vec`): which rules gain?
# - Write a rule that scores higher on *within* than GRPO without a judge.
