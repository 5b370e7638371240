"""The tiny language model as an agent: tokens in, tokens out, trainable on two CPU cores.

It learned the tags dialect from demonstrations (see docs/agents/warmup.md), so it does not read the system prompt. A
context is the start token and the question, followed by alternating sampled acts and the observations that answered
them. With `history`, the context is rebuilt for every round from the question and the last of these pairs, and each round
is a segment of its own (the setting of GiGPO's authors, arXiv 2505.10978).
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from searchgym.agent import AgentContext, Turn
from searchgym.dialects import TagsDialect
from searchgym.errors import CheckpointError, ConfigError
from searchgym.files import policy_directory
from searchgym.options import choice
from searchgym.records.episode import Episode, Segment, StopReason, segments_before

from ..lm.engine import Engine
from ..lm.evaluation import EvaluationStats
from ..lm.generation import Ending
from ..lm.network import DecoderNetwork
from ..lm.stopping import ActWatch
from ..lm.token_policy import TokenPolicy
from ..options import read_options, takes_options
from .model import TinyConfig, build_model, load_model, load_weights, read_config, save_model
from .options import TinyOptions
from .tokenizer import TAGS, Tokenizer

__all__ = ["TOKENIZER_FILE", "TinyAgent", "prompt_ids"]

TOKENIZER_FILE = "tokenizer.json"
_STARTS = ("country", "forks")

_DIALECT = TagsDialect()
_ACT_TAG = re.compile(r"<(?=/?(?:think|search|answer|feedback)>)")
_ANY_TAG = re.compile(r"<(?=/?(?:think|search|answer|feedback|information)>)")


def prompt_ids(tokenizer: Tokenizer, observation: str, *, first: bool) -> list[int]:
    """The tokens of an observation; demonstrations are built with the same function.

    A tag is one token and means an act, so a tag that the agent did not sample must not become one: it is defused as
    the dialect does with tags inside passages ("< search>"). Only the environment's own `<information>` tags around an
    observation stay.

    Args:
        tokenizer: the agent's tokenizer.
        observation: the question, or the answer to an act.
        first: whether it starts an episode (the question).
    """
    if first:
        return [tokenizer.bos_id, *tokenizer.encode(_ANY_TAG.sub("< ", observation))]
    return tokenizer.encode(_ACT_TAG.sub("< ", observation))


@takes_options(TinyOptions)
class TinyAgent(TokenPolicy):
    """A causal language model of the Qwen3 architecture with fewer than a million weights.

    Args:
        checkpoint: a directory written by `save` or `searchgym warmup`, a training run or one of its checkpoints; None
            loads a packaged warm start.
        start: which one: "country", for the generated country, or "forks", for `SearchQA-Forks-v0`.
        **options: the fields of `TinyOptions`.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ConfigError: an option that cannot be used, an unknown start, or a start besides a checkpoint.
    """

    name = "tiny"

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        start: str = _STARTS[0],
        **options: Any,
    ) -> None:
        given = read_options("agent 'tiny'", TinyOptions, options)
        choice("start", start, _STARTS)
        if checkpoint is not None and start != _STARTS[0]:
            raise ConfigError(
                f"start is {start!r} and checkpoint is {str(checkpoint)!r}: give one of them, because a checkpoint has weights "
                "of its own"
            )
        directory = _packaged_warm_start(start) if checkpoint is None else policy_directory(checkpoint)
        model, config = load_model(directory)
        tokenizer = Tokenizer.load(directory / TOKENIZER_FILE)
        if tokenizer.size != config.vocab_size:
            raise CheckpointError(
                f"{directory}: the tokenizer has {tokenizer.size} ids, the model {config.vocab_size}: "
                "they do not belong to the same checkpoint"
            )
        self._set_up(model, config, tokenizer, given)
        self.temperature, self.top_p, self.greedy = given.temperature, given.top_p, given.greedy
        self._sampling()

    @classmethod
    def random(
        cls,
        config: TinyConfig,
        tokenizer: Tokenizer,
        seed: int = 0,
        *,
        max_new_tokens: int = 48,
        max_context: int | None = None,
        history: int | None = None,
    ) -> TinyAgent:
        """An agent with random weights, for tests and for training from scratch.

        Args:
            config: shape of the model.
            tokenizer: its tokenizer.
            seed: seed of the weights and of the sampling.
            max_new_tokens: see `TinyOptions`.
            max_context: see `TinyOptions`.
            history: see `TinyOptions`.

        Raises:
            ConfigError: the tokenizer does not fit the model.
        """
        if tokenizer.size != config.vocab_size:
            raise ConfigError(f"vocab_size is {config.vocab_size}, the tokenizer has {tokenizer.size} ids")
        agent = cls.__new__(cls)
        model = build_model(config, seed)
        options = TinyOptions(
            seed=seed, max_new_tokens=max_new_tokens, max_context=max_context, history=history
        )
        agent._set_up(model, config, tokenizer, options)
        return agent

    def _set_up(
        self,
        model: Qwen3ForCausalLM,
        config: TinyConfig,
        tokenizer: Tokenizer,
        options: TinyOptions,
    ) -> None:
        history = options.history
        if history is not None and history < 1:
            raise ConfigError(f"history is {history!r}: give 1 or more, or leave it out for all rounds")
        self.history = history
        # With `history`: question, act, observation, act, … of each slot, as tokens.
        self._texts: dict[int, list[list[int]]] = {}
        self.module = self.model = model
        self.config = config
        self.tokenizer = tokenizer
        self.generator = torch.Generator().manual_seed(options.seed)
        self.network = DecoderNetwork(model, whole_logits=True)
        self.engine = Engine(
            self.network,
            (),
            max_new_tokens=options.max_new_tokens,
            max_context=config.max_positions if options.max_context is None else options.max_context,
        )
        others = {tokenizer.token_id(tag) for tag in TAGS if tag not in TagsDialect.stop_strings}
        slashes, ends = tokenizer.ids_with("/"), tokenizer.ids_with(">") - others
        self.engine.watch = lambda: ActWatch(_DIALECT.scanner(), tokenizer.decode, slashes, ends)
        self.evaluation = EvaluationStats()

    def bind(self, agent_context: AgentContext) -> None:
        """Accept the environment's context and forget all slots.

        Raises:
            ConfigError: the environment's dialect is not tags.
        """
        if agent_context.dialect.name != TagsDialect.name:
            raise ConfigError(
                f"the tiny agent speaks only the 'tags' dialect, and the environment speaks "
                f"{agent_context.dialect.name!r}: make the environment with dialect='tags'"
            )
        super().bind(agent_context)
        self.engine.clear()
        self._texts.clear()

    def begin(self, slots: Sequence[int]) -> None:
        self.engine.begin(slots)
        self._texts.update((slot, []) for slot in slots)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`. Keys and values are copied, not computed again."""
        self.engine.fork(source, targets)
        self._texts.update((target, list(self._texts[source])) for target in targets)
        self._fork_streams(source, targets)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`. The context consists of the recorded tokens; it is computed with the next act."""
        self.engine.resume(slot, self._recorded_context(prefix, fork_round))
        if self.history is None:
            return
        segments = segments_before(prefix.segments, fork_round)
        texts = [[t for t, r, sampled in _columns(segments) if r == 0 and not sampled]]
        for index in range(fork_round):
            if index:
                texts.append(prompt_ids(self.tokenizer, prefix.rounds[index - 1].observation, first=False))
            texts.append([t for t, r, sampled in _columns(segments) if r == index and sampled])
        self._texts[slot] = texts

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        encoded: dict[tuple[str, bool], list[int]] = {}
        prompts = []
        for slot, observation in zip(slots, observations, strict=True):
            first = not self.engine.started(slot)
            if (observation, first) not in encoded:
                encoded[observation, first] = prompt_ids(self.tokenizer, observation, first=first)
            prompts.append(encoded[observation, first])
        if self.history is not None:
            for i, slot in enumerate(slots):
                question, *rounds = texts = [*self._texts[slot], prompts[i]]
                prompts[i] = list(chain(question, *rounds[-2 * self.history :]))
                self._texts[slot] = texts
            self.engine.begin(slots)
        generations = self.engine.generate(slots, prompts, self._sampling())
        if self.history is not None:
            for slot, generation in zip(slots, generations, strict=True):
                self._texts[slot].append(generation.token_ids)
        return [
            Turn(
                text=self.tokenizer.decode(generation.token_ids),
                prompt_ids=generation.prompt_ids,
                token_ids=generation.token_ids,
                logprobs=generation.logprobs,
                new_segment=self.history is not None,
                stop=StopReason.TOKEN_BUDGET if generation.ending is Ending.CONTEXT_LIMIT else None,
                policy_version=self.version,
                temperature=self.temperature,
                top_p=self.top_p,
            )
            for generation in generations
        ]

    def _act_ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def _act_text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def encode(self, episode: Episode) -> list[Segment]:
        """See `Policy`. Rounds beyond `max_context` are left out."""
        # Question, act, observation, act, …
        texts = [prompt_ids(self.tokenizer, episode.question, first=True)]
        segments = [Segment()]
        for index, round_ in enumerate(episode.rounds):
            act = self.tokenizer.encode(round_.text)
            prompt = texts[-1]
            if self.history is not None:
                question, *rounds = texts
                prompt = list(chain(question, *rounds[-2 * self.history :]))
                if index:
                    segments.append(Segment())
            segment = segments[-1]
            if len(segment.tokens) + len(prompt) + len(act) > self.engine.max_context:
                break
            segment.tokens += [*prompt, *act]
            segment.mask += [0] * len(prompt) + [1] * len(act)
            segment.logprobs += [0.0] * (len(prompt) + len(act))
            segment.rounds += [index] * (len(prompt) + len(act))
            texts += [act, prompt_ids(self.tokenizer, round_.observation, first=False)]
        return [segment for segment in segments if segment.tokens]

    def save(self, directory: Path) -> None:
        save_model(self.model, self.config, directory)
        self.tokenizer.save(Path(directory) / TOKENIZER_FILE)

    def load_weights(self, directory: Path) -> None:
        config = read_config(directory)
        if config.to_json() != self.config.to_json():
            different = [k for k, v in self.config.to_json().items() if config.to_json()[k] != v]
            raise CheckpointError(
                f"{directory} holds another architecture: it differs in {', '.join(different)}"
            )
        if Tokenizer.load(Path(directory) / TOKENIZER_FILE) != self.tokenizer:
            raise CheckpointError(f"{directory} holds another tokenizer: its token ids mean other words")
        load_weights(self.model, self.config, directory)

    def describe(self) -> dict[str, Any]:
        vocabulary = json.dumps(self.tokenizer.to_json(), sort_keys=True).encode()
        return {
            "agent": self.name,
            "model": self.config.to_json(),
            "weights": sum(p.numel() for p in self.model.parameters()),
            "tokenizer": hashlib.sha256(vocabulary).hexdigest(),
            "max_new_tokens": self.engine.max_new_tokens,
            "max_context": self.engine.max_context,
            "history": self.history,
        }


def _columns(segments: Sequence[Segment]) -> Iterator[tuple[int, int, int]]:
    """Token, round and mask of each position."""
    for segment in segments:
        yield from zip(segment.tokens, segment.rounds, segment.mask, strict=True)


def _packaged_warm_start(start: str) -> Path:
    directory = Path(str(importlib.resources.files("searchgym.agents.tiny") / "data"))
    if start != _STARTS[0]:
        directory /= start
    if not directory.is_dir():
        raise CheckpointError(
            "this installation has no warm start for the tiny agent: make one with `searchgym warmup` and give "
            "its directory as `checkpoint`"
        )
    return directory
