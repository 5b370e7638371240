# %% [markdown]
# # 4. Your own rule
#
# What is a round *really* worth? In a state s, the *value* V(s) is the mean reward of all episodes that the agent would play on from there.
# The *true advantage* of a round is the value after its act minus the value before it:
#
#     true advantage of round t = V(state of round t + 1) − V(state of round t)
#     true advantage of the last round = reward − V(state of the last round)
#
# The grader knows the true advantages: it enumerates everything that this agent can do in a small world. You do not. You get a group of
# eight episodes of one question, and `probe(i, t)`: the agent plays on *once* from the state of round t of episode i (before the act of
# that round), and you get the reward of that continuation, 1 or 0. Its mean is V, but a single one is a coin toss.
#
# **The budget: at most 32 probes per group.** A further call raises an error. A group has about 31 rounds, so one coin toss per round is
# all you can buy, if you buy it round by round.
#
# ## Input
#
# `group` is a list of episodes, each a dictionary:
#
#     {"reward": 1.0,
#      "rounds": [{"state": "5d0c…", "kind": "search", "text": "Daria Rinemar"},     what the agent searched for
#                 {"state": "e91b…", "kind": "search", "text": "Leopold Krageth"},
#                 {"state": "07aa…", "kind": "answer", "text": "1944"}]}              what it answered
#
# Rounds with the same `state`, in whichever episode, were played in the same situation, so they have (almost) the same value. All
# episodes of a group begin in the same state.
#
# ## What is measured
#
# Your credit is compared with the truth over all rounds of 24 hidden questions.
#
# - *agreement*: the correlation of your credit with the true advantage. GRPO, which uses no probe, reaches about 0.45, and one probe for each
#   round no more. 0.5 gives no point and 0.8 all 20; in between they grow evenly. The scale of your credit does not matter.
# - *order*: the mean rank correlation inside an episode. 0 gives no point, 0.35 all 5 points.
# - *budget*: 5 points if every group gets a credit for every round without a call beyond the budget.
#
# ## Ideas
#
# 1. An estimate of V for every round, from one probe each, is a beginning. Measure how good it is.
# 2. Where are two rounds the same state? Then they can share their probes.
# 3. The episodes themselves are samples, too: what do their rewards say about the states they passed through?
# 4. Where does a further probe help most?


# %% task
def credit(group, probe):
    """The credit of every round of a group.

    Args:
        group: list of episodes, see above.
        probe: `probe(i, t)` is the reward of one continuation from the state of round t of episode i; both count from 0. At most 32 calls.

    Returns:
        For each episode, the list of the credit of its rounds.
    """
    ### BEGIN SOLUTION
    places, outcomes = {}, {}
    for i, episode in enumerate(group):
        for t, played in enumerate(episode["rounds"]):
            places.setdefault(played["state"], (i, t))
            outcomes.setdefault(played["state"], []).append(episode["reward"])
    for _ in range(
        32
    ):  # the next probe goes to the state with the largest variance of its estimate per visit
        visits = {state: sum(r["state"] == state for e in group for r in e["rounds"]) for state in places}

        def gain(state, visits=visits):
            seen = outcomes[state]
            mean = (sum(seen) + 1) / (len(seen) + 2)
            return visits[state] * mean * (1 - mean) / (len(seen) * (len(seen) + 1))

        state = max(places, key=gain)
        outcomes[state].append(probe(*places[state]))
    value = {state: sum(seen) / len(seen) for state, seen in outcomes.items()}
    result = []
    for episode in group:
        values = [value[played["state"]] for played in episode["rounds"]] + [episode["reward"]]
        result.append([values[t + 1] - values[t] for t in range(len(episode["rounds"]))])
    return result
    ### END SOLUTION


# %% [markdown]
# ## Check yourself
#
# A group of two episodes and a probe that always succeeds. The cell checks the shape of what you return, not whether it is good.

# %% check
example = [
    {
        "reward": 1.0,
        "rounds": [
            {"state": "start", "kind": "search", "text": "Ada"},
            {"state": "a", "kind": "answer", "text": "1944"},
        ],
    },
    {"reward": 0.0, "rounds": [{"state": "start", "kind": "answer", "text": "1950"}]},
]
found = credit(example, lambda i, t: 1.0)
assert [len(episode) for episode in found] == [2, 1], found
# %% [markdown]
# Then grade the assignment in a terminal, in the folder of this file. It says how good your rule is:
#
#     searchgym course grade . --assignment 4
#
# Your teacher grades with other questions, so a rule that is tuned to these will not help you.
