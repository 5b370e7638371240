# %% [markdown]
# # 3. Anchor-state credit
#
# CW-GRPO needs a judge. GiGPO (group-in-group policy optimization) needs none: episodes of one group often pass through the same state.
# There it compares what came out after different acts.
#
# Round t of episode i was played in a state s. Its *return* is the reward of the episode, discounted by γ (`gamma`) for every round that
# came after it. With T rounds, counted from 0, and the reward r paid at the end:
#
#     return of round t = γ^(T − 1 − t) · r            (the last round has return r)
#
# All rounds of all episodes of the group that were played in the same state form an *anchor group*; an episode that comes back to a
# state has several rounds in it. Inside an anchor group, returns are compared like rewards in assignment 1:
#
#     step advantage = (return − mean of the anchor group) / (sample standard deviation of the anchor group + 0.000001)
#
# It is 0 if the anchor group has only one round, and exactly 0 if all its returns are equal. The credit of a round is
#
#     credit = advantage of the episode (assignment 1) + ω · step advantage                    (ω is `omega`)
#
# ## Example
#
# Two episodes, rewards 1 and 0, γ = 1, ω = 1. Both start in state "question"; then the first comes to "page A", the second to "page B".
# The episode advantages are 0.707 and −0.707. In "question" the returns 1 and 0 are compared: step advantages 0.707 and −0.707. "page A"
# and "page B" hold one round each: 0. So the credit is [1.414, 0.707] and [−1.414, −0.707]: the first round, where the episodes part,
# gets twice as much.
#
# ## Your task
#
# Write `anchor_credit`. You can copy your `group_advantage` from assignment 1 into the cell: each assignment is graded alone.


# %% task
def anchor_credit(rewards, states, gamma, omega):
    """The credit of every round of a group.

    Args:
        rewards: list of numbers, one per episode; at least two.
        states: for each episode, the list of the names of the states in which its rounds were played, in order. Names are strings.
        gamma: the discount, between 0 and 1.
        omega: the weight of the step advantages, at least 0.

    Returns:
        For each episode, the list of the credit of its rounds.
    """

    ### BEGIN SOLUTION
    def compare(values):
        if min(values) == max(values):
            return [0.0] * len(values)
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        return [(value - mean) / (deviation + 1e-6) for value in values]

    members = {}
    for i, names in enumerate(states):
        for t, name in enumerate(names):
            members.setdefault(name, []).append((i, t))
    step = [[0.0] * len(names) for names in states]
    for rounds in members.values():
        returns = [gamma ** (len(states[i]) - 1 - t) * rewards[i] for i, t in rounds]
        for (i, t), value in zip(rounds, compare(returns), strict=True):
            step[i][t] = value
    return [
        [advantage + omega * value for value in values]
        for advantage, values in zip(compare(rewards), step, strict=True)
    ]
    ### END SOLUTION


# %% [markdown]
# ## Check yourself
#
# The cell below holds the example of this page, and the same with discounted returns. Run it: it prints nothing if they are right.

# %% check
found = anchor_credit([1, 0], [["question", "page A"], ["question", "page B"]], 1.0, 1.0)
assert [[round(float(value), 3) for value in episode] for episode in found] == [
    [1.414, 0.707],
    [-1.414, -0.707],
], found
found = anchor_credit([1, 1], [["question"], ["question", "page A"]], 0.9, 1.0)
assert [[round(float(value), 3) for value in episode] for episode in found] == [
    [0.707],
    [-0.707, 0.0],
], found
# %% [markdown]
# Then grade the assignment in a terminal, in the folder of this file:
#
#     searchgym course grade . --assignment 3
#
# The hidden cases: ω = 0, shared states, discounting, and groups without any comparison.
#
# ## To think about
#
# In the second example both episodes succeed. Why does the longer one get a negative credit? Is that what you want?
