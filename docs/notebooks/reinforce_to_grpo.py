# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # REINFORCE to GRPO in forty lines
#
# A policy-gradient method is a rule that gives each episode a number, its *advantage*: by how much to make its acts more probable. Here
# are three rules, from REINFORCE to GRPO. Each is a `credit` method of a few lines; the loop, the loss and the policy are the same.
#
# The policy chooses among candidate acts and learns in seconds ([the candidate policy](../agents/candidate.md)), so that we can look at
# several seeds.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import searchgym
from searchgym.trainers.algorithms.grpo import GRPO
from searchgym.trainers.core.credit import Credit

# %% [markdown]
# **REINFORCE**: the advantage of an episode is its reward. With rewards in {0, 1}, failures teach nothing.
#
# **With a baseline**: subtract the mean reward of the episodes of the same question. The expected gradient is the same, its variance
# smaller, and failures now teach, too.
#
# **GRPO**: divide by the standard deviation, so that hard and easy questions count alike.


# %%
class Reinforce(GRPO):
    def credit(self, groups):
        return Credit.per_episode(list(groups.rewards))


class WithBaseline(GRPO):
    def credit(self, groups):
        return Credit.per_episode([rewards_G - rewards_G.mean() for rewards_G in groups.rewards])


class Normalised(GRPO):
    def credit(self, groups):
        return Credit.per_episode(
            [(rewards_G - rewards_G.mean()) / (rewards_G.std() + 1e-6) for rewards_G in groups.rewards]
        )


RULES = {"REINFORCE": Reinforce, "with a baseline": WithBaseline, "GRPO": Normalised}

# %% [markdown]
# By hand, for two groups of four episodes: an easy question (three successes) and a hard one (one success).

# %%
easy, hard = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0])
for name, rule in {
    "REINFORCE": lambda r: r,
    "with a baseline": lambda r: r - r.mean(),
    "GRPO": lambda r: (r - r.mean()) / (r.std() + 1e-6),
}.items():
    print(f"{name:16} easy {np.round(rule(easy), 2)}  hard {np.round(rule(hard), 2)}")

# %% [markdown]
# ## Train
#
# Questions of one hop, 16 questions with 16 episodes each per iteration, two seeds per rule.

# %%
runs = Path(tempfile.mkdtemp())
curves = {}
for name, rule in RULES.items():
    for seed in range(2):
        result = searchgym.train(
            trainer=rule,
            agent="candidate",
            iterations=20,
            questions=16,
            lr=0.15,
            seed=seed,
            eval_episodes=0,
            env_options={
                "corpus": {"name": "country-terse", "size": 1000, "train": 200, "dev": 50, "test": 50},
                "types": ["chain"],
                "hops": [1],
            },
            settings={"group_size": 16, "entropy_coef": 0.01, "skip_equal": False},
            run_dir=str(runs / f"{rule.__name__}-{seed}"),
        )
        curves.setdefault(name, []).append([row["em"] for row in result.metrics if row.get("em") is not None])

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
for number, (name, seeds) in enumerate(curves.items()):
    for i, curve in enumerate(seeds):
        axis.plot(range(1, len(curve) + 1), curve, color=f"C{number}", lw=1.3, label=name if i == 0 else None)
axis.set(
    xlabel="iteration", ylabel="EM of the sampled episodes", ylim=(-0.02, 1.02), title="One line per seed"
)
axis.set_xticks(range(0, 21, 5))
axis.grid(alpha=0.3)
axis.legend()
plt.show()
for name, seeds in curves.items():
    print(
        f"{name:16} mean EM of the last five iterations:", [round(float(np.mean(c[-5:])), 3) for c in seeds]
    )

# %% [markdown]
# Two seeds show the picture, not a ranking: [the published comparison](../results/index.md) has twelve and more, with intervals.
#
# ## Try it
#
# - Clip the negative advantages of GRPO to zero. Which curve does it look like?
# - Give the last round all of the credit with `Credit.per_round`, and compare. The next notebook asks where credit should go.
