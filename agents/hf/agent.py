"""Any Hugging Face chat model as an agent: exact tokens, kept keys and values, LoRA or all weights trained.

The first context of an episode is what the model's chat template makes of system prompt and question; then come in turn
a sampled act and the observation that answered it, in the template's form (`chat`). Earlier tokens never change, so
every token is computed once. Acts end with the token that completes the closing of an act or ends the model's
message; nothing is decoded and tokenised again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from searchgym.agent import AgentContext, Turn
from searchgym.episode import Episode, Segment, StopReason
from searchgym.errors import CheckpointError, ConfigError, did_you_mean

from ..lm.engine import Ending, Engine, GenerationEngine
from ..lm.evaluation import EvaluationStats
from ..lm.network import ModelNetwork, open_network
from ..lm.token_policy import TokenPolicy
from ..lm.weights import check_tensors
from ..policy import Sample, TokenOutputs
from .chat import ChatFormat
from .loading import check_dtype, check_path, open_device, open_model, open_tokenizer, quietly
from .lora import Adapter, LoraOptions, adapter_base

__all__ = ["HFAgent"]

_OWNER = "agent 'hf'"
_ENGINES = ("transformers", "vllm", "vllm-server")
_ATTENTIONS = ("sdpa", "eager")
_SHARE_FROM = 32  # tokens; beginnings of fewer are not worth a pass of their own
_SAMPLED_WEIGHTS = 256  # of each frozen tensor, in the fingerprint


class HFAgent(TokenPolicy):
    """A causal language model with a chat template.

    Args:
        model: a directory, or the id of a model on the hub; also the directory of a LoRA adapter, whose model is then
            found through its configuration.
        seed: of the sampling, and of a new adapter's initial weights.
        temperature, top_p, greedy: see `Policy`.
        max_new_tokens: longest act; a longer one is sent as far as it got (the environment calls it invalid).
        max_context: longest episode in tokens; beyond it the episode ends with `StopReason.TOKEN_BUDGET`.
            None: as many as the model has positions.
        thinking: for templates that offer the choice: whether the model thinks before it acts.
        dtype: "float32" or "bfloat16", of weights, keys and values; logits and log-probabilities are float32 always.
            "auto": bfloat16 on a GPU, float32 elsewhere.
        device: a torch device, or "auto": a GPU where there is one.
        lora: options of a new adapter (`LoraOptions`), the only weights that are trained then; None: all weights are,
            or the adapter's where `model` is one.
        gradient_checkpointing: keep only each layer's input for the backward pass.
        engine: what draws the acts: "transformers" (here, with these very weights), "vllm" or "vllm-server".
        engine_options: for the engine.
        attention: "sdpa" or "eager": go through the model's own forward with transformers' implementation of that name.
            None: our own pass where the architecture allows it, which computes less.

    Raises:
        ConfigError: an option that cannot be used, no model there, or one that is no chat model.
    """

    name = "hf"
    reads_system_prompt = True

    def __init__(
        self,
        model: str,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        greedy: bool = False,
        max_new_tokens: int = 512,
        max_context: int | None = None,
        thinking: bool = False,
        dtype: str = "auto",
        device: str = "auto",
        lora: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        engine: str = "transformers",
        engine_options: Mapping[str, Any] | None = None,
        attention: str | None = None,
    ) -> None:
        check_dtype(_OWNER, dtype, ("auto", "float32", "bfloat16"))
        _one_of("engine", engine, _ENGINES)
        if attention is not None:
            _one_of("attention", attention, _ATTENTIONS)
        options = None if lora is None else LoraOptions.read(lora)
        place = open_device(_OWNER, device)
        if dtype == "auto":
            dtype = "bfloat16" if place.type == "cuda" else "float32"
        path = check_path(_OWNER, "model", model)
        base = adapter_base(path)
        if base is not None:
            if options is not None:
                raise ConfigError(
                    f"{_OWNER}: {path!r} is an adapter already: leave lora out, or give its model"
                )
            base = check_path(_OWNER, "base model of the adapter", base)
        self.tokenizer = open_tokenizer(_OWNER, path if base is None else base)
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{_OWNER}: {path!r} has no chat template, so it is no chat model: use an instruction-tuned one "
                "(its tokenizer files hold a chat template)"
            )
        self.model = open_model(_OWNER, base or path, dtype, attention=attention).to(place)
        self._check_vocabulary(path)
        self.adapter: Adapter | None = None
        if base is not None:
            self.adapter = Adapter.open(self.model, path)
        elif options is not None:
            self.adapter = Adapter.add(self.model, options, path, seed)
        self.module: nn.Module = self.model if self.adapter is None else self.adapter.model.eval()
        self.network = open_network(
            self.model, own_forward=attention is not None, checkpointing=gradient_checkpointing
        )
        self.thinking = thinking
        self.evaluation = EvaluationStats()
        self.generator = torch.Generator().manual_seed(seed)
        self.temperature, self.top_p, self.greedy = temperature, top_p, greedy
        self._sampling()
        self._loads = 0
        self._synced: tuple[int, int] | None = None
        self._ended: dict[int, bool] = {}  # whether a slot's last act ended the message itself
        self._fingerprint: str | None = None
        limit = self.network.positions if max_context is None else max_context
        self.engine = self._open_engine(
            engine, dict(engine_options or {}), base or path, dtype, seed, max_new_tokens, limit
        )

    def _check_vocabulary(self, path: str) -> None:
        rows = self.model.get_input_embeddings().weight.shape[0]
        largest = max(self.tokenizer.get_vocab().values())
        if largest >= rows:
            raise ConfigError(
                f"{_OWNER}: the tokenizer of {path!r} has ids up to {largest}, the model {rows} embeddings: they do "
                "not belong together"
            )

    def _open_engine(
        self, kind: str, options: dict[str, Any], path: str, dtype: str, seed: int, new: int, context: int
    ) -> GenerationEngine:
        if kind == "transformers":
            batch = options.pop("batch_tokens", 16_384 if self.network.device.type == "cuda" else 2048)
            if options:
                raise ConfigError(
                    f"{_OWNER}: engine 'transformers' has no option {next(iter(options))!r}. Known: batch_tokens."
                )
            if type(batch) is not int or batch < 1:
                raise ConfigError(f"{_OWNER}: batch_tokens is {batch!r}: give a whole number >= 1")
            return Engine(
                self.network,
                (),
                max_new_tokens=new,
                max_context=context,
                batch_tokens=batch,
                share_from=_SHARE_FROM,
            )
        if context > self.network.positions:
            raise ConfigError(
                f"max_context is {context!r}: this model takes 2 to {self.network.positions} tokens"
            )
        from .engines import open_vllm

        rank = None if self.adapter is None else self.adapter.describe()["rank"]
        return open_vllm(
            kind,
            path,
            max_new_tokens=new,
            max_context=context,
            dtype=dtype,
            seed=seed,
            lora_rank=rank,
            options=options,
        )

    # -- acting ------------------------------------------------------------------------------------------------

    def bind(self, agent_context: AgentContext) -> None:
        """Accept the environment's setting and forget all slots.

        Raises:
            ConfigError: the chat template cannot be handled; says why.
        """
        super().bind(agent_context)
        self.chat = ChatFormat(
            self.tokenizer,
            agent_context,
            thinking=self.thinking,
            generation_config=getattr(self.model, "generation_config", None),
        )
        self.engine.stop_ids = self.chat.end_ids
        self.engine.closes = self.chat.closes
        self.engine.stop_strings = tuple(agent_context.dialect.stop_strings)
        self.engine.clear()
        self._ended.clear()

    def begin(self, slots: Sequence[int]) -> None:
        self.engine.begin(slots)
        self._ended.update((slot, False) for slot in slots)

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """See `Agent`. The `transformers` engine copies keys and values; vLLM finds them in its prefix cache."""
        self.engine.fork(source, targets)
        self._ended.update((target, self._ended[source]) for target in targets)
        self._fork_streams(source, targets)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[dict[str, Any]]
    ) -> list[str | Turn]:
        if self._synced != (self.version, self._loads):
            self.engine.sync(self.module, self.version)
            self._synced = self.version, self._loads
        encoded: dict[tuple[str, bool | None], list[int]] = {}
        prompts = []
        for slot, observation in zip(slots, observations, strict=True):
            ended = self._ended[slot] if self.engine.started(slot) else None
            if (observation, ended) not in encoded:
                encoded[observation, ended] = (
                    self.chat.opening(observation) if ended is None else self.chat.reply(observation, ended)
                )
            prompts.append(encoded[observation, ended])
        generations = self.engine.generate(slots, prompts, self._sampling())
        for slot, generation in zip(slots, generations, strict=True):
            if generation.token_ids:
                self._ended[slot] = generation.token_ids[-1] in self.chat.end_ids
        stops = {
            Ending.CONTEXT_LIMIT: StopReason.TOKEN_BUDGET,
            Ending.FAILED: StopReason.AGENT_FAILED,
        }
        return [
            Turn(
                text=self.chat.text(generation.token_ids),
                prompt_ids=generation.prompt_ids,
                token_ids=generation.token_ids,
                logprobs=generation.logprobs,
                stop=stops.get(generation.ending),
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
        """See `Policy`. With an adapter that does nothing yet that is the model without it, and needs no memory."""
        if self.adapter is not None and self.adapter.idle:
            return self.adapter.disabled
        return super().freeze_reference()

    def shardable(self) -> nn.Module | None:
        """See `Policy`. Only where passes go through the model's own forward (`attention`)."""
        decoder: nn.Module | None = (
            self.model.get_decoder() if isinstance(self.network, ModelNetwork) else None
        )
        return decoder

    def encode(self, episode: Episode) -> list[Segment]:
        """See `Policy`. An act ends with what closes it, or with the end of the message where nothing does. What goes
        beyond `max_context` is left out."""
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
        """Write adapter or weights, configuration, tokenizer and chat template, as `transformers` and `peft` open them.

        Files appear in `directory` when all of them are complete.
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
            for path in building.iterdir():
                os.replace(path, directory / path.name)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def load_weights(self, directory: Path) -> None:
        directory = Path(directory)
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory: give one written by `save`")
        try:
            saved = _tokenizer_digest(open_tokenizer(_OWNER, str(directory)))
        except ConfigError as error:
            raise CheckpointError(f"{directory} is damaged: {error}") from error
        if saved != _tokenizer_digest(self.tokenizer):
            raise CheckpointError(f"{directory} holds another tokenizer: its token ids mean other words")
        if self.adapter is not None:
            self.adapter.load(directory)
        else:
            try:
                other = open_model(_OWNER, str(directory), str(self.network.dtype).removeprefix("torch."))
            except ConfigError as error:
                raise CheckpointError(f"{directory} is damaged: {error}") from error
            ours, theirs = self.model.state_dict(), other.state_dict()
            check_tensors(directory, ours, theirs)
            with torch.no_grad():
                for name, tensor in theirs.items():
                    ours[name].copy_(tensor)
        self._loads += 1

    def describe(self) -> dict[str, Any]:
        trained = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        return {
            "agent": self.name,
            "model": type(self.model).__name__,
            "shapes": _digest(f"{n} {list(t.shape)}" for n, t in self._base_weights()),
            "weights": sum(t.numel() for _, t in self._base_weights()),
            "trained": trained,
            "lora": None if self.adapter is None else {**self.adapter.describe(), "base": self._base()},
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "tokenizer": _tokenizer_digest(self.tokenizer),
            "thinking": self.thinking,
            "max_new_tokens": self.engine.max_new_tokens,
            "max_context": self.engine.max_context,
        }

    def _base_weights(self) -> list[tuple[str, Tensor]]:
        """The model's own weights, without an adapter's."""
        found = self.model.named_parameters()
        return [(n.replace("base_layer.", ""), p) for n, p in found if "lora_" not in n]

    def _base(self) -> str:
        """A fingerprint of the frozen weights: an adapter fits no others."""
        if self._fingerprint is None:
            parts = []
            for name, tensor in self._base_weights():
                flat = tensor.detach().reshape(-1)
                some = flat[:: max(1, len(flat) // _SAMPLED_WEIGHTS)].float().cpu()
                parts.append(f"{name} {some.numpy().tobytes().hex()}")
            self._fingerprint = _digest(parts)
        return self._fingerprint


def _one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"{_OWNER}: {option} is {value!r}.{did_you_mean(str(value), known)} Known: {', '.join(known)}."
        )


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return _digest([repr(words), repr(tokenizer.chat_template)])
