# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Play and read an episode
#
# An episode is one question. In each round the agent writes one message with exactly one act: a search or an answer. This notebook
# plays by hand, reads what was recorded, and finds out why a simple agent fails. It needs no model.

# %%
import gymnasium as gym
import matplotlib.pyplot as plt

import searchgym

world = {"name": "country", "size": 1000, "train": 200, "dev": 50, "test": 50}
env = gym.make("searchgym:SearchQA-v0", corpus=world, top_k=1, reveal_gold=True)
question, info = env.reset(options={"task_id": "country-0-dev-000000"})
print(question)

# %% [markdown]
# ## By hand
#
# The world is generated, so every question comes with its derivation. We follow it; an agent would have to find it.

# %%
for hop in info["gold"]["chain"]:
    print(f"{hop['query']}  ->  {hop['relation']}  ->  {hop['bridge']}")

# %%
messages = [f"<search> {hop['query']} </search>" for hop in info["gold"]["chain"]]
messages.append(f"<answer> {info['gold']['answers'][0]} </answer>")
for message in messages:
    observation, reward, terminated, truncated, info = env.step(message)
    print(message, observation, sep="\n")
print(info["outcome"])

# %% [markdown]
# A message that is not a valid act costs a round and says what was wrong. Nothing is scored but the agent's own final answer.

# %%
env.reset(options={"task_id": "country-0-dev-000000"})
for message in ("I think it is 1910.", "<answer> 1911 </answer>"):
    observation, reward, terminated, truncated, info = env.step(message)
    print(repr(observation))
print(info["outcome"]["em"], info["outcome"]["stop_reason"])

# %% [markdown]
# ## Read what was recorded
#
# `copy` searches the question as it stands and copies an answer from the result ([its rules](../agents/scripted.md#copy)). `rollout` and
# `evaluate` record every round: the raw message, the act, the hits, the reward.

# %%
result = searchgym.evaluate("SearchQA-v0", "copy", episodes=50, corpus=world)
print(result)
episode = result.episodes[0]
for record in episode.rounds:
    print(record.round, record.action.kind, "|", record.text, "|", [hit.title for hit in record.hits])
print("gold passages:", episode.gold["supporting_ids"], " recall:", episode.outcome.recall)

# %% [markdown]
# ## Why does it fail?
#
# Each episode without an exact match has one cause ([definitions](../analysis.md)). Intervals are over questions.

# %%
table = searchgym.Episodes(result.episodes)
stats = table.failures()
causes = {cause: found for cause, found in stats.causes.items() if found.episodes}
for cause, found in causes.items():
    print(f"{cause:18} {found.share}  e.g. {found.examples[0]}")

# %%
figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
shares = [found.share for found in causes.values()]
errors = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
axis.barh(list(causes), [s.value for s in shares], xerr=errors, capsize=4, color="#9ecae1")
axis.set(xlabel="share of the scored episodes, 95 % interval", title="copy on SearchQA-v0", xlim=(0, 1))
axis.invert_yaxis()
plt.show()

# %% [markdown]
# Most failures are wrong hops: the first passage is found by the words of the question, the second one needs a name that only the
# first passage says. An agent has to search twice. Columns of the same table show it:

# %%
searches = table["searches"]
hops = table["hops"]
em = table["em"]
for h in sorted(set(hops)):
    chosen = [i for i, value in enumerate(hops) if value == h]
    mean_em = sum(em[i] for i in chosen) / len(chosen)
    mean_searches = sum(searches[i] for i in chosen) / len(chosen)
    print(f"{h} hops: {len(chosen)} questions, EM {mean_em:.2f}, searches {mean_searches:.1f}")

# %% [markdown]
# ## Try it
#
# - Write a function `(observation, info) -> message` that beats `copy`, and give it to `searchgym.evaluate`.
# - Play in a terminal with `searchgym play --save mine.jsonl`, then run `searchgym stats mine.jsonl` on yourself.
