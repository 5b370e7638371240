# %% [markdown]
# # 1. Group advantage
#
# A search agent answers questions by searching a collection of texts. One question, from the first search to the answer, is an *episode*.
# An episode ends with a *reward*: 1 if the answer was right, 0 if it was wrong.
#
# To learn, the agent plays the same question several times. These episodes are a *group*. Some succeed, some fail. GRPO (group-relative
# policy optimization) makes the acts of an episode more probable if the episode did better than its group, and less probable if it did
# worse. By how much is its *advantage*:
#
#     advantage of an episode = (its reward − mean of the group's rewards) / (standard deviation of the group's rewards + 0.000001)
#
# Three details matter:
#
# 1. The standard deviation is the *sample* standard deviation. With n episodes it is √( Σ (reward − mean)² / (n − 1) ): divide by n − 1,
#    not by n. NumPy calls this `std(ddof=1)`; Python's `statistics.stdev` computes it as well.
# 2. If all rewards of the group are equal, there is nothing to compare. Then every advantage is exactly 0, without any rounding error.
#    The mean of equal numbers can differ from them in the last digit, so test for equality before you compute.
# 3. Rewards need not be 0 or 1. Partial credit (0.25) and penalties (−0.1) occur too.
#
# ## Example
#
# Four episodes with the rewards 1, 0, 0, 1. The mean is 0.5. The squared differences add up to 4 × 0.25 = 1, and 1 / (4 − 1) = 0.3333, so
# the standard deviation is 0.5774. The advantages are 0.5 / 0.5774 = 0.8660 for the successes and −0.8660 for the failures.
#
# ## Your task
#
# Replace the line `raise NotImplementedError(...)` below. `rewards` is a list of at least two numbers. Return a list with one number per
# episode, in the same order. You may use NumPy (`import numpy as np`) or plain Python, but not the package searchgym.


# %% task
def group_advantage(rewards):
    """The advantage of each episode of a group.

    Args:
        rewards: list of numbers, one per episode; at least two.

    Returns:
        List of numbers, one per episode.
    """
    ### BEGIN SOLUTION
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    variance = sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
    return [(reward - mean) / (variance**0.5 + 1e-6) for reward in rewards]
    ### END SOLUTION


# %% [markdown]
# ## Check yourself
#
# The cell below holds the examples of this page. Run it: it prints nothing if they are right.

# %% check
found = group_advantage([1, 0, 0, 1])
assert [round(float(value), 3) for value in found] == [0.866, -0.866, -0.866, 0.866], found
found = group_advantage([0, 0, 1])
assert [round(float(value), 3) for value in found] == [-0.577, -0.577, 1.155], found
found = group_advantage([0.1, 0.1, 0.1])
assert list(found) == [0, 0, 0], found
# %% [markdown]
# Then grade the assignment in a terminal, in the folder of this file, as often as you like:
#
#     searchgym course grade . --assignment 1
#
# It tries your function on hidden cases of three kinds: rewards of 0 and 1, other rewards, and equal rewards.
