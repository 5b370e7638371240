"""The agent `structured`: a router chooses in which form a question's search results are shown to another agent.

Source: StructRAG, arXiv 2410.08815, and its code at c5ee2d1, as summarised by a third party: a router picks table, graph,
algorithm, catalogue or chunk for a question, documents are restructured so, and an answer is drawn from that. The router is trained by
DPO on preferences between the forms; the trainer `structrag` does.

    π(f | q) = softmax_f( w_f · φ(q) / temperature )          φ: the words of the question, hashed; w = 0 at first

The router is the policy: its choice is the one sampled token of an episode, in the first round. The agent that plays is frozen and
belongs to the environment.

Departures:
1. [OURS] The router is linear in the words of a question; the paper's is a language model of 7B.
2. [OURS] The forms are written by rules from the passages (`renderings`); the paper's are written by a language model.
3. A form is chosen once per question and applies to all of its results.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from searchgym.agent import Agent, AgentContext, Turn
from searchgym.errors import CheckpointError, UnknownIdError
from searchgym.files import check_files, forget_checksums, read_bytes, read_json
from searchgym.records.retriever import Hit
from searchgym.rollouts.collection import AgentLike, open_agent

from ..passages import read_passages
from ..policy import Policy, Sample, TokenOutputs
from .renderings import RENDERINGS

__all__ = ["StructuredAgent", "open_structured"]

_NAMES = tuple(RENDERINGS)
_WIDTH = 256  # hashed words; a collision makes two words one
_WORD = re.compile(r"\w+")
_CONFIG, _WEIGHTS = "structured.json", "structured.safetensors"


class StructuredAgent(Policy):
    """Shows an agent its search results in the form that a router chooses; the router learns.

    Args:
        agent: plays; it is not trained.
        rendering: always this form, without a choice; None: the router chooses.
        seed: of the sampling.

    Attributes:
        agent: as given.
        rendering: as given.

    Raises:
        UnknownIdError: an unknown rendering.
    """

    def __init__(self, agent: Agent, rendering: str | None = None, seed: int = 0) -> None:
        if rendering is not None and rendering not in RENDERINGS:
            raise UnknownIdError("rendering", rendering, RENDERINGS)
        self.agent, self.rendering = agent, rendering
        self.name = f"structured({agent.name})"
        self.needs_gold = agent.needs_gold
        self.module = nn.Linear(_WIDTH, len(_NAMES), bias=True)
        with torch.no_grad():
            self.module.weight.zero_()
            self.module.bias.zero_()
        self.generator = torch.Generator().manual_seed(seed)
        self._chosen: dict[int, int] = {}

    def bind(self, agent_context: AgentContext) -> None:
        super().bind(agent_context)
        self.agent.bind(agent_context)
        self._chosen.clear()

    def begin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._chosen.pop(slot, None)
        self.agent.begin(slots)

    def seed(self, slots: Sequence[int], seeds: Sequence[int]) -> None:
        super().seed(slots, seeds)
        self.agent.seed(slots, seeds)

    @torch.no_grad()
    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[str | Turn]:
        new = [i for i, slot in enumerate(slots) if slot not in self._chosen]
        choices = self._choose([slots[i] for i in new], [observations[i] for i in new])
        tokens = dict(zip(new, choices, strict=True))
        for i, (index, _) in tokens.items():
            self._chosen[slots[i]] = index
        shown = [self._shown(self._chosen[s], o) for s, o in zip(slots, observations, strict=True)]
        acts = self.agent.act(slots, shown, infos)
        turns: list[str | Turn] = []
        for i, act in enumerate(acts):
            turn = Turn(act.text if isinstance(act, Turn) else act)
            turn.stop = act.stop if isinstance(act, Turn) else None
            turn.policy_version, turn.temperature, turn.top_p = self.version, self.temperature, 1.0
            if i in tokens and self.rendering is None:
                turn.token_ids, turn.logprobs = [tokens[i][0]], [tokens[i][1]]
            turns.append(turn)
        return turns

    def _choose(self, slots: Sequence[int], questions: Sequence[str]) -> list[tuple[int, float]]:
        """Form and log-probability for each question."""
        if not questions:
            return []
        if self.rendering is not None:
            return [(_NAMES.index(self.rendering), 0.0)] * len(questions)
        logprobs_BF = self._logprobs(questions)
        if self.greedy:
            chosen_B = logprobs_BF.argmax(dim=1)
        elif self.rng_streams is None:
            chosen_B = torch.multinomial(logprobs_BF.exp(), 1, generator=self.generator)[:, 0]
        else:
            uniform_B1 = torch.from_numpy(self.rng_streams.uniform(slots, 1)).double()
            cumulative_BF = logprobs_BF.exp().double().cumsum(dim=1)
            chosen_B = torch.searchsorted(cumulative_BF, uniform_B1 * cumulative_BF[:, -1:], right=True)[:, 0]
        taken_B = logprobs_BF.gather(1, chosen_B[:, None])[:, 0]
        return list(zip(chosen_B.tolist(), taken_B.tolist(), strict=True))

    def _shown(self, choice: int, observation: str) -> str:
        """A search result in the chosen form; any other observation, and the form chunk, as it is."""
        if _NAMES[choice] == "chunk":
            return observation
        passages = read_passages(observation)
        if not passages:
            return observation
        entries = RENDERINGS[_NAMES[choice]](passages)
        hits = [Hit(str(i), title, text, 0.0) for i, (title, text) in enumerate(entries)]
        return self.agent_context.dialect.render_hits(hits, max(1, len(observation) * 4))

    def _logprobs(self, questions: Sequence[str]) -> Tensor:
        scores_BF: Tensor = self.module(torch.stack([_features(question) for question in questions]))
        return torch.log_softmax(scores_BF / self.temperature, dim=1)

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        """See `Policy`: the choice of each episode."""
        chosen = [
            (s.episode.question, t)
            for s in samples
            for t, m in zip(s.segment.tokens, s.segment.mask, strict=True)
            if m
        ]
        if not chosen:
            return TokenOutputs(torch.zeros(0), torch.zeros(0), torch.zeros(0, _WIDTH))
        logprobs_NF = self._logprobs([question for question, _ in chosen])
        taken_N = logprobs_NF.gather(1, torch.tensor([[token] for _, token in chosen]))[:, 0]
        features = torch.stack([_features(question) for question, _ in chosen])
        return TokenOutputs(taken_N, -(logprobs_NF.exp() * logprobs_NF).sum(dim=1), features)

    def costs(self) -> dict[str, float]:
        return self.agent.costs()

    def save(self, directory: Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        forget_checksums(directory)
        (directory / _CONFIG).write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
        (directory / _WEIGHTS).write_bytes(save_tensors(self.module.state_dict()))

    def load_weights(self, directory: Path) -> None:
        directory = Path(directory)
        if directory.is_dir():
            check_files(directory)
        try:
            described = read_json(directory / _CONFIG)
            weights = load_tensors(read_bytes(directory / _WEIGHTS))
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{directory} does not hold weights of a router: {error}") from error
        shapes = {name: value.shape for name, value in self.module.state_dict().items()}
        if described["renderings"] != list(_NAMES) or {n: v.shape for n, v in weights.items()} != shapes:
            raise CheckpointError(
                f"{directory} holds weights of a router for other renderings: train it again"
            )
        self.module.load_state_dict(weights)

    def describe(self) -> dict[str, Any]:
        return {"architecture": "rendering-router", "renderings": list(_NAMES), "agent": self.agent.name}


def _features(question: str) -> Tensor:
    """The words of a question, hashed, as a vector of length 1, [F]."""
    vector = torch.zeros(_WIDTH)
    for word in _WORD.findall(question.lower()):
        vector[zlib.crc32(word.encode()) % _WIDTH] += 1.0
    scaled: Tensor = vector / vector.norm().clamp(min=1.0)
    return scaled


def open_structured(agent: AgentLike, rendering: str | None = None, seed: int = 0) -> StructuredAgent:
    """The entry point `structured` of `searchgym.agents`.

    Args:
        agent: who plays: an agent, a registered name, or {"name": …, **options}. It is not trained.
        rendering: "chunk", "table", "graph", "algorithm" or "catalogue", always; None: the router chooses.
        seed: of the router's sampling.

    Raises:
        ConfigError: the agent or the rendering is unknown.
    """
    return StructuredAgent(open_agent(agent), rendering, seed)
