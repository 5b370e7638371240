# %% [markdown]
# # 2. Contribution weights
#
# In assignment 1 all rounds of an episode got the same advantage. But a success may contain a search that found what was needed, and one
# that found nothing. CW-GRPO (contribution-weighted GRPO) asks a judge which search rounds contributed, and divides the credit accordingly.
#
# An episode has n search rounds and then a round that answers. The judge gave each search round a *contribution* p between 0 and 1. The
# weights of the search rounds depend on a number α (`alpha`), at least 0:
#
#     α finite:     weight of round t = n · exp(α · p_t) / Σ_s exp(α · p_s)
#     α infinite:   weight of round t = n · p_t / Σ_s p_s          (if all p are 0: every weight is 0)
#
# The sums run over the n search rounds. With α = 0 all weights are 1. For finite α, and for infinite α if some p is above 0, the weights
# add up to n: credit is moved between rounds, none is added.
#
# **Numbers.** exp(1000) is too large for a computer. Subtract the largest p first: exp(α · (p_t − max p)) / Σ_s exp(α · (p_s − max p)) is
# the same number, and no exponent is above 0.
#
# **Credit.** Let A be the advantage of the episode (assignment 1).
#
# - If A > 0: search round t gets A · weight of round t.
# - Otherwise the judge is not asked: every search round gets A.
# - The round that answers always gets A.
#
# ## Example
#
# Two search rounds with p = 1 and p = 0, and α = 1: exp(1) = 2.718, exp(0) = 1, so the weights are 2 · 2.718 / 3.718 = 1.462 and
# 2 · 1 / 3.718 = 0.538. With A = 0.5 the credit of the three rounds is 0.731, 0.269 and 0.5.
#
# ## Your task
#
# Write both functions. `alpha` is a float; infinite is `math.inf` (test with `math.isinf(alpha)`). An episode has at least one search round.

# %% task
import math


def contribution_weights(contributions, alpha):
    """The weight of each search round.

    Args:
        contributions: list of numbers between 0 and 1, one per search round; at least one.
        alpha: a float of at least 0; may be infinite.

    Returns:
        List of numbers, one per search round.
    """
    ### BEGIN SOLUTION
    count = len(contributions)
    if math.isinf(alpha):
        total = sum(contributions)
        return [count * p / total if total > 0 else 0.0 for p in contributions]
    largest = max(contributions)
    raised = [math.exp(alpha * (p - largest)) for p in contributions]
    return [count * value / sum(raised) for value in raised]
    ### END SOLUTION


def round_credit(advantage, contributions, alpha):
    """The credit of every round of an episode.

    Args:
        advantage: of the episode.
        contributions: list of numbers between 0 and 1, one per search round; at least one.
        alpha: a float of at least 0; may be infinite.

    Returns:
        List of numbers: one per search round, then one for the round that answers.
    """
    ### BEGIN SOLUTION
    if advantage <= 0:
        return [advantage] * (len(contributions) + 1)
    weights = contribution_weights(contributions, alpha)
    return [advantage * weight for weight in weights] + [advantage]
    ### END SOLUTION


# %% [markdown]
# ## Check yourself
#
# The cell below holds the examples of this page. Run it: it prints nothing if they are right.

# %% check
found = contribution_weights([1, 0], 1.0)
assert [round(float(value), 3) for value in found] == [1.462, 0.538], found
found = contribution_weights([0.5, 0, 1], math.inf)
assert [round(float(value), 3) for value in found] == [1, 0, 2], found
found = round_credit(0.5, [1, 0], 1.0)
assert [round(float(value), 3) for value in found] == [0.731, 0.269, 0.5], found
found = round_credit(-0.5, [1, 0], 1.0)
assert [round(float(value), 3) for value in found] == [-0.5, -0.5, -0.5], found
# %% [markdown]
# Then grade the assignment in a terminal, in the folder of this file:
#
#     searchgym course grade . --assignment 2
#
# The hidden cases: finite α, very large α, infinite α, infinite α without any contribution, and the credit of whole episodes.
#
# ## To think about
#
# What happens to a success in which the judge saw no contribution, with finite and with infinite α? Which would you choose, and why?
