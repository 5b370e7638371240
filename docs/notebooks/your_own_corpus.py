# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own corpus
#
# Texts of your own, questions about them, an environment, a first agent, and how to find out what limits it. The texts here are the documentation of
# Python's standard library, which is on every machine that runs this notebook; replace them with yours.

# %%
import importlib
import inspect
import json
import random
import re
from pathlib import Path

import matplotlib.pyplot as plt

import searchgym
from searchgym.corpora import open_bm25, open_jsonl

# %% [markdown]
# ## Two files
#
# A passage has an `id`, a `title` and a `text`. A question has an `id`, the `question`, accepted `answers`, and the ids of the passages that it needs
# (`supporting_ids`), from which recall is computed. [All fields](../corpora.md#the-files).
#
# A passage here is the docstring of a function. The question quotes the first sentence and asks for the name.

# %%
MODULES = """argparse ast asyncio base64 bisect calendar collections configparser contextlib copy csv dataclasses datetime decimal difflib dis
enum fileinput fnmatch fractions functools gettext glob gzip hashlib heapq html http.client imaplib inspect io ipaddress itertools json
linecache locale logging mailbox math mimetypes operator os os.path pathlib pickle platform pprint random re sched secrets shelve shlex shutil
socket sqlite3 statistics string struct subprocess tarfile tempfile textwrap threading time timeit tokenize traceback typing unicodedata
unittest urllib.parse urllib.request uuid warnings weakref zipfile""".split()

passages, questions = [], []
for module_name in MODULES:
    module = importlib.import_module(module_name)
    for name, function in sorted(vars(module).items()):
        if name.startswith("_") or not inspect.isroutine(function):
            continue
        text = inspect.getdoc(function) or ""
        if len(text) < 40 or getattr(function, "__module__", None) not in (module_name, None):
            continue
        id_ = f"{module_name}.{name}"
        passages.append({"id": id_, "title": id_, "text": " ".join(text.split())[:1000]})
        sentence = re.split(r"(?<=\.)\s", " ".join(text.split()))[0]
        if name.lower() not in sentence.lower() and 30 < len(sentence) < 200:
            questions.append(
                {
                    "id": f"q-{id_}",
                    "question": f"Which function of the standard library is described so: {sentence}",
                    "answers": [id_, name],
                    "supporting_ids": [id_],
                    "hops": 1,
                    "type": module_name.partition(".")[0],
                }
            )
random.Random(0).shuffle(questions)
for number, question in enumerate(questions):
    question["split"] = ("train", "train", "train", "dev", "test")[number % 5]

folder = Path("stdlib")
folder.mkdir(exist_ok=True)
for name, rows in (("passages", passages), ("questions", questions)):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(len(passages), "passages,", len(questions), "questions")
print(json.dumps(questions[0], indent=1))

# %% [markdown]
# A bad line stops everything with a sentence that names the file, the line and the reason. `searchgym corpus check stdlib` says the same on the command line.
#
# ## Can the index find it?
#
# Before any agent: how often is the needed passage among the first k hits? An agent that cannot find what it needs cannot learn. It depends on the query: here is the whole
# question, and the first five words of the description, as an agent in a hurry would write it.

# %%
QUERIES = {
    "the question": lambda question: question,
    "five words": lambda question: " ".join(question.partition(": ")[2].split()[:5]),
}
corpus = open_jsonl(str(folder))
index = open_bm25(corpus)
dev = corpus.questions("dev")
ranks = {}
for label, query in QUERIES.items():
    hits = index.search([query(question.text) for question in dev], 20)
    ranks[label] = [
        next((rank for rank, hit in enumerate(found, 1) if hit.id in question.supporting_ids), 99)
        for question, found in zip(dev, hits, strict=True)
    ]

figure, axis = plt.subplots(figsize=(5.5, 3), layout="constrained")
depths = (1, 2, 3, 5, 10, 20)
for label, places in ranks.items():
    axis.plot(depths, [sum(rank <= k for rank in places) / len(dev) for k in depths], "o-", label=label)
axis.set(xlabel="k", ylabel=f"share of {len(dev)} dev questions", ylim=(0, 1.02), xscale="log")
axis.set_xticks(depths, depths)
axis.set_title("The needed passage is among the first k hits (BM25)")
axis.grid(alpha=0.3)
axis.legend()
plt.show()

# %% [markdown]
# Those that are not found first are worth reading. Some are the index's fault. Others have twins, functions with the same description, and cannot be
# answered for sure: repair or remove such questions before you measure agents with them.

# %%
for question, rank in zip(dev, ranks["the question"], strict=True):
    if rank > 1:
        print(f"rank {rank}: {question.answers[0]} | {question.text}")

# %% [markdown]
# ## An environment and an agent
#
# Wherever a corpus is named, the path of a folder works. An agent can be a function of observation and info. This one searches once, and answers with the
# title of the first hit.


# %%
def first_title(query):
    def agent(observation, info):
        if info.get("hits"):
            return f"<answer> {info['hits'][0]['title']} </answer>"
        return f"<search> {query(observation)} </search>"

    return agent


results = {
    label: searchgym.evaluate("SearchQA-v0", first_title(query), corpus=str(folder), split="dev", top_k=5)
    for label, query in QUERIES.items()
}
for label, result in results.items():
    print(f"{label:13} EM {result.metrics['em']}  recall {result.metrics['recall']}")

# %%
wrong = next(e for e in results["five words"].episodes if e.outcome.em == 0)
print(wrong.render(width=100))

# %% [markdown]
# ## What limits it?
#
# Each failure has one cause ([definitions](../analysis.md)): the index did not return the passage, or the agent had it and did not use it. The first
# calls for another index or other queries, the second for a better reader.

# %%
failures = {label: searchgym.Episodes(result.episodes).failures().causes for label, result in results.items()}
causes = [
    cause for cause in failures["five words"] if any(found[cause].episodes for found in failures.values())
]
figure, axis = plt.subplots(figsize=(6.5, 1.4 + 0.6 * len(causes)), layout="constrained")
for number, (label, found) in enumerate(failures.items()):
    shares = [found[cause].share for cause in causes]
    errors = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
    places = [row + 0.35 * (number - 0.5) for row in range(len(causes))]
    axis.barh(places, [s.value for s in shares], 0.35, xerr=errors, capsize=3, label=label)
axis.set_yticks(range(len(causes)), causes)
axis.set(
    xlabel="share of the dev episodes, 95 % interval", title="Why the first title is not enough", xlim=(0, 1)
)
axis.legend()
plt.show()

# %% [markdown]
# ## Try it
#
# - Give `top_k=1`. Which cause grows, and which shrinks?
# - Compare the hits of a dense index: `retriever={"name": "dense"}` (extra `dense`, [dense and hybrid](../dense.md)).
# - Write your own two files, then train: `searchgym train --env-option corpus=stdlib --agent hf --agent-option model=…` ([chat models](../agents/hf.md)). The next
#   notebook does this with a model.
