"""A Hugging Face chat model as an agent: exact tokens, cached keys and values, LoRA or all weights trained.

The first context of an episode is the chat template's rendering of system prompt and question. Then sampled acts and
the observations that answered them alternate, in the template's form (`chat`). Earlier tokens never change, so every
token is computed once. An act ends with the token that completes it or ends the model's message; nothing is
decoded and tokenised again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from searchgym.agent import AgentContext, Turn
from searchgym.errors import CheckpointError, ConfigError
from searchgym.files import check_files, forget_checksums
from searchgym.records.episode import Episode, Segment, StopReason

from ..lm.cached_forward import decoder_of
from ..lm.evaluation import EvaluationStats
from ..lm.free_memory import give_back_freed
from ..lm.generation import Ending
from ..lm.network import ModelNetwork, open_network
from ..lm.token_policy import TokenPolicy
from ..lm.weights import check_tensors
from ..options import read_options, takes_options
from ..policy import Sample, TokenOutputs
from .chat import ChatFormat
from .engines import open_engine
from .fingerprint import base_weights, shape_digest, tokenizer_digest, weight_digest
from .loading import live_chat_model, open_chat_model, open_model, open_tokenizer, quietly
from .options import OWNER, HFOptions
from .prompts import demonstrations_digest, prompted, read_demonstrations

__all__ = ["HFAgent"]

_STOPS = {Ending.CONTEXT_LIMIT: StopReason.TOKEN_BUDGET, Ending.FAILED: StopReason.AGENT_FAILED}


@takes_options(HFOptions)
class HFAgent(TokenPolicy):
    """A causal language model with a chat template, its own or a given one.

    Args:
        model: a directory, the id of a model on the Hugging Face Hub, the directory of a LoRA adapter, whose
            configuration names its model, or a training run or one of its checkpoints. Or a live model of transformers or
            peft, with which the agent plays as it is.
        tokenizer: the tokenizer of a live model.
        **options: the fields of `HFOptions`.

    Attributes:
        model: transformers' model, without peft's wrapper.
        tokenizer: its tokenizer.
        adapter: the LoRA adapter; None where all weights are trained.
        thinking: see `HFOptions`.

    Raises:
        ConfigError: an unknown option or a value that cannot be used, or a model that cannot be loaded or has no chat
            template.
    """

    name = "hf"
    reads_system_prompt = True

    def __init__(self, model: str | nn.Module, tokenizer: Any = None, **options: Any) -> None:
        given = read_options(OWNER, HFOptions, options)
        self.generator = torch.Generator().manual_seed(given.seed)
        self.temperature, self.top_p, self.greedy = given.temperature, given.top_p, given.greedy
        self._sampling()  # checks them before anything is loaded
        self.thinking = given.thinking
        self._prompt, self._demonstrations = given.prompt, read_demonstrations(given.shown())
        if isinstance(model, nn.Module):
            opened = live_chat_model(OWNER, model, tokenizer, given)
        elif tokenizer is not None:
            raise ConfigError(
                f"{OWNER}: tokenizer belongs to a live model, and model is {model!r}: leave tokenizer out"
            )
        else:
            opened = open_chat_model(OWNER, model, given)
        self.model, self.tokenizer, self.adapter = opened.model, opened.tokenizer, opened.adapter
        self.module: nn.Module = self.model if self.adapter is None else self.adapter.model.eval()
        self.network = open_network(
            self.model,
            own_forward=given.attention is not None,
            checkpointing=given.gradient_checkpointing,
        )
        self.evaluation = EvaluationStats()
        self.engine = open_engine(given, self.network, opened)
        self._loads = 0
        self._synced: tuple[int, int] | None = None
        self._ended: dict[int, bool] = {}  # whether a slot's last act ended the message itself
        self._base_digest: str | None = None

    # -- acting ------------------------------------------------------------------------------------------------

    def bind(self, agent_context: AgentContext) -> None:
        """Accept the environment's context and forget all slots.

        Raises:
            ConfigError: the chat template cannot be used (says why), or the prompt is longer than the context.
        """
        super().bind(agent_context)
        self.chat = ChatFormat(
            self.tokenizer,
            prompted(agent_context, self._prompt, self._demonstrations),
            thinking=self.thinking,
            generation_config=getattr(self.model, "generation_config", None),
        )
        if len(self.chat.opening("")) >= self.engine.max_context:
            raise ConfigError(
                f"{OWNER}: max_context is {self.engine.max_context}, and the prompt before the question takes "
                f"{len(self.chat.opening(''))} tokens: raise max_context, or show fewer demonstrations"
            )
        self.engine.stop_ids = self.chat.end_ids
        self.engine.watch = self.chat.watch
        self.engine.stop_strings = tuple(agent_context.dialect.stop_strings)
        self.engine.clear()
        self._ended.clear()
        give_back_freed()

    def begin(self, slots: Sequence[int]) -> None:
        self.engine.begin(slots)
        self._ended.update((slot, False) for slot in slots)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`. The `transformers` engine copies keys and values; vLLM finds them in its prefix cache."""
        self.engine.fork(source, targets)
        self._ended.update((target, self._ended[source]) for target in targets)
        self._fork_streams(source, targets)

    def resume(self, slot: int, prefix: Episode, fork_round: int) -> None:
        """See `Agent`. The context consists of the recorded tokens; it is computed with the next act."""
        context = self._recorded_context(prefix, fork_round)
        self.engine.resume(slot, context)
        self._ended[slot] = context[-1] in self.chat.end_ids

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        turns = self._generate(slots, observations, pause=False)
        return [turn for turn in turns if turn is not None]

    def act_some(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> Sequence[Turn | None]:
        """See `Agent`: the engine returns once a quarter of the acts is complete."""
        if type(self).act is not HFAgent.act:
            return super().act_some(slots, observations, infos)  # a subclass acts in a way of its own
        return self._generate(slots, observations, pause=True)

    def _generate(self, slots: Sequence[int], observations: Sequence[str], pause: bool) -> list[Turn | None]:
        """Sample the acts of the slots; None for one that is paused."""
        if self._synced != (self.version, self._loads):
            self.engine.sync(self.module, self.version)
            self._synced = self.version, self._loads
        encoded: dict[tuple[str, bool | None], list[int]] = {}
        prompts: list[list[int]] = []
        for slot, observation in zip(slots, observations, strict=True):
            if self.engine.paused(slot):
                prompts.append([])
                continue
            ended = self._ended[slot] if self.engine.started(slot) else None
            if (observation, ended) not in encoded:
                encoded[observation, ended] = (
                    self.chat.opening(observation) if ended is None else self.chat.reply(observation, ended)
                )
            prompts.append(encoded[observation, ended])
        generations = self.engine.generate(slots, prompts, self._sampling(), pause=pause)
        for slot, generation in zip(slots, generations, strict=True):
            if generation.token_ids:
                self._ended[slot] = generation.token_ids[-1] in self.chat.end_ids
        return [
            None
            if generation.ending is Ending.PAUSED
            else Turn(
                text=self.chat.text(generation.token_ids),
                prompt_ids=generation.prompt_ids,
                token_ids=generation.token_ids,
                logprobs=generation.logprobs,
                stop=_STOPS.get(generation.ending),
                policy_version=self.version,
                temperature=self.temperature,
                top_p=self.top_p,
            )
            for generation in generations
        ]

    # -- learning ----------------------------------------------------------------------------------------------

    def evaluate_tokens(self, samples: Sequence[Sample]) -> TokenOutputs:
        """See `Policy`."""
        self.engine.release()
        return super().evaluate_tokens(samples)

    def freeze_reference(self) -> Callable[[], AbstractContextManager[None]]:
        """See `Policy`. With an adapter that is still zero, the reference is the model without it and needs no memory."""
        if self.adapter is not None and self.adapter.idle:
            return self.adapter.disabled
        return super().freeze_reference()

    def fsdp_module(self) -> nn.Module | None:
        """See `Policy`: the decoder, where passes go through the model's own forward (`attention`)."""
        decoder: nn.Module | None = decoder_of(self.model) if isinstance(self.network, ModelNetwork) else None
        return decoder

    def _act_ids(self, text: str) -> list[int]:
        return self.chat.act(text)

    def _act_text(self, ids: Sequence[int]) -> str:
        return self.chat.text(ids)

    def encode(self, episode: Episode) -> list[Segment]:
        """See `Policy`. An act ends with its closing, or else with the end of the message. Rounds beyond `max_context` are
        left out."""
        segment = Segment()
        prompt = self.chat.opening(episode.question)
        for index, round_ in enumerate(episode.rounds):
            act = self.chat.act(round_.text)
            if len(segment.tokens) + len(prompt) + len(act) > self.engine.max_context:
                break
            length = len(prompt) + len(act)
            segment.tokens += [*prompt, *act]
            segment.mask += [0] * len(prompt) + [1] * len(act)
            segment.logprobs += [0.0] * length
            segment.rounds += [index] * length
            prompt = self.chat.reply(round_.observation, act[-1] in self.chat.end_ids)
        return [segment] if segment.tokens else []

    # -- files -------------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write the adapter or the weights, the configuration, the tokenizer and the chat template.

        `transformers` and `peft` can open the directory. Files appear in it only when all of them are complete.
        """
        directory = Path(directory)
        building = directory.with_name(f".{directory.name}.{os.getpid()}")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            if self.adapter is None:
                with quietly():
                    self.model.save_pretrained(str(building), safe_serialization=True)
            else:
                self.adapter.save(building)
            self.tokenizer.save_pretrained(str(building))
            directory.mkdir(exist_ok=True)
            forget_checksums(directory)
            for path in building.iterdir():
                os.replace(path, directory / path.name)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def load_weights(self, directory: Path) -> None:
        directory = Path(directory)
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory: give one written by `save`")
        check_files(directory)
        try:
            saved = tokenizer_digest(open_tokenizer(OWNER, str(directory)))
        except ConfigError as error:
            raise CheckpointError(f"{directory} is damaged: {error}") from error
        if saved != tokenizer_digest(self.tokenizer):
            raise CheckpointError(f"{directory} holds another tokenizer: its token ids mean other words")
        if self.adapter is not None:
            self.adapter.load(directory)
        else:
            try:
                other = open_model(OWNER, str(directory), str(self.network.dtype).removeprefix("torch."))
            except ConfigError as error:
                raise CheckpointError(f"{directory} is damaged: {error}") from error
            ours, theirs = self.model.state_dict(), other.state_dict()
            check_tensors(directory, ours, theirs)
            with torch.no_grad():
                for name, tensor in theirs.items():
                    ours[name].copy_(tensor)
        self._loads += 1

    def describe(self) -> dict[str, Any]:
        """See `Policy`."""
        return {
            "agent": self.name,
            "model": type(self.model).__name__,
            "shapes": shape_digest(self.model),
            "weights": sum(t.numel() for _, t in base_weights(self.model)),
            "trained": sum(p.numel() for p in self.module.parameters() if p.requires_grad),
            "lora": None if self.adapter is None else {**self.adapter.describe(), "base": self._base()},
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "thinking": self.thinking,
            **({} if self._prompt == "instructions" else {"prompt": self._prompt}),
            **(
                {"demonstrations": demonstrations_digest(self._demonstrations)}
                if self._demonstrations
                else {}
            ),
            "max_new_tokens": self.engine.max_new_tokens,
            "max_context": self.engine.max_context,
        }

    def _base(self) -> str:
        """Digest of the frozen weights, computed once."""
        if self._base_digest is None:
            self._base_digest = weight_digest(self.model)
        return self._base_digest
