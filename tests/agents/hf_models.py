"""Small chat models on disk, as `HFAgent` opens them: random weights of any family, or taught to write acts."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from chat_models import make_tokenizer
from families import build_family
from filelock import FileLock
from helpers import small_world

from searchgym.agent import AgentContext
from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.corpora import open_bm25
from searchgym.corpora.world import World
from searchgym.env.env import SearchEnv
from searchgym.rollouts.collection import agent_context_of

WORDS = ("employer", "founder", "mayor", "river", "mentor", "moor", "Mira", "Voss")
WORLD = small_world("country-terse", train=40, dev=10, test=10)


def make_env(dialect: str = "tags", max_rounds: int = 3) -> SearchEnv:
    options = {key: value for key, value in WORLD.items() if key != "name"}
    world = World(style="terse", **options)  # type: ignore[arg-type]
    return SearchEnv(
        corpus=world, retriever=open_bm25(world), split="train", max_rounds=max_rounds, dialect=dialect
    )


def save_family(folder: Path, family: str = "qwen3", tokenizer: Any = None, **changes: Any) -> str:
    """A model of that architecture with random weights, and a small tokenizer with a chat template."""
    tokenizer = tokenizer or make_tokenizer()
    shape = {"max_position_embeddings": 4096, "initializer_range": 0.1, **changes}
    model = build_family(family, len(tokenizer), **shape)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def teach(agent: HFAgent, agent_context: AgentContext, steps: int = 70) -> None:
    """Let the model write short acts, mostly well-formed, of random words: random weights never do."""
    agent.bind(agent_context)
    rng = random.Random(0)
    weights = [p for p in agent.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(steps):
        sequences = []
        for _ in range(6):
            tag = rng.choice(["search", "answer"])
            act = agent.chat.plain(f"<{tag}> {' '.join(rng.choices(WORDS, k=rng.randint(1, 2)))} </{tag}>")
            prompt = agent.chat.opening(f"What is the {' of the '.join(rng.choices(WORDS, k=2))}?")
            if rng.random() < 0.5:
                prompt += act + agent.chat.reply("<information>\nNothing was found.\n</information>", False)
            targets = tuple(range(len(prompt), len(prompt) + len(act)))
            sequences.append(TokenSequence((*prompt, *act), targets, (1.0,) * len(act)))
        loss = -evaluate(agent.network, sequences, EvaluationStats())[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3, losses


def save_taught(folder: Path) -> str:
    """A Qwen3-shaped model that writes acts: a copy of one that the processes of a test session teach once."""
    home = Path(os.environ["SEARCHGYM_HOME"])  # of the session, see conftest.py
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "taught.lock"):
        if not (home / "taught").exists():
            agent = HFAgent(save_family(home / "untaught", hidden_size=64), max_new_tokens=24)
            teach(agent, agent_context_of(make_env().config))
            agent.save(home / "taught.part")
            (home / "taught.part").rename(home / "taught")
    return str(shutil.copytree(home / "taught", folder / "taught"))
