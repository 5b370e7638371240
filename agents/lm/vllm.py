"""Acts sampled by vLLM: what both ways of running it share, and vLLM in this process.

    engine="vllm"          vLLM in the trainer's process, on the same GPU (this file)
    engine="vllm-server"   a running `vllm serve`, over HTTP (`vllm_server`)

Both keep the token ids of each slot and send the whole context every round. vLLM's prefix cache holds the computed part
of it and the parts that several slots share, forks included. Ids come back exactly as they were sampled, and an act is cut
after the id that completes it. vLLM also stops at a closing tag that a thought quotes; the act is then continued with
another request, whose context is in the prefix cache. A request names every field of the sampling distribution: vLLM would otherwise take
top_k, top_p and a repetition penalty from the model's generation_config.json, and sample from another distribution than
the one that is trained.

Log-probabilities: with `logprobs_mode="processed_logprobs"` vLLM returns those of the tempered distribution; its default
returns those before the temperature. With top_p < 1 the processed ones belong to the truncated distribution, and greedy
ones are taken at temperature 1. Both occur only in evaluation, which does not use log-probabilities.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from searchgym.errors import ConfigError, MissingExtraError

from .generation import Ending, EngineStats, Generation
from .sampling import Sampling

__all__ = ["Request", "Sampled", "VLLMEngine", "VLLMSlots", "write_weights"]


@dataclass(frozen=True, slots=True)
class Request:
    """One act to be sampled.

    Attributes:
        context: all tokens before it.
        fields: vLLM's sampling fields.
    """

    context: list[int]
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What vLLM sampled.

    Attributes:
        token_ids: the tokens.
        logprobs: their log-probabilities.
        stopped: whether it stopped for a reason other than the token limit.
        at_string: whether it stopped at a stop string.
    """

    token_ids: list[int]
    logprobs: list[float]
    stopped: bool
    at_string: bool = False


@dataclass(slots=True)
class _Pending:
    """An act that is being sampled.

    Attributes:
        slot: its slot.
        generation: what was sampled so far.
        completes: see `GenerationEngine.watch`; None if only `stop_ids` end acts.
        request: the request that samples what follows.
    """

    slot: int
    generation: Generation
    completes: Callable[[int], bool] | None
    request: Request


class VLLMSlots:
    """The part of `GenerationEngine` that does not depend on where vLLM runs.

    vLLM stops at `stop_strings`; `stop_ids` and `watch` tell whether the act is complete there.

    Args:
        max_new_tokens: limit of one act, in tokens.
        max_context: limit of an episode, in tokens, prompts included.

    Attributes:
        tempered: whether vLLM returns the log-probabilities of the tempered distribution.
    """

    def __init__(self, max_new_tokens: int, max_context: int) -> None:
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens!r}: give a positive number")
        if max_context < 2:
            raise ConfigError(f"max_context is {max_context!r}: give 2 or more")
        self.max_new_tokens = max_new_tokens
        self.max_context = max_context
        self.stop_ids: Collection[int] = frozenset()
        self.watch: Callable[[], Callable[[int], bool]] | None = None
        self.stop_strings: tuple[str, ...] = ()
        self.stats = EngineStats()
        self.tempered = True
        self._contexts: dict[int, list[int]] = {}

    def clear(self) -> None:
        """Forget all slots."""
        self._contexts.clear()

    def remember(self, contexts: Iterable[Sequence[int]]) -> None:
        """Does nothing: vLLM finds known prefixes in its own cache."""

    def forget(self) -> None:
        """Does nothing."""

    def begin(self, slots: Iterable[int]) -> None:
        """Start empty contexts in these slots."""
        self._contexts.update((slot, []) for slot in slots)

    def started(self, slot: int) -> bool:
        """Whether the slot was fed any tokens since `begin`."""
        return bool(self._context(slot))

    def paused(self, slot: int) -> bool:
        """See `GenerationEngine`: never, vLLM replaces complete rows by itself."""
        return False

    def context(self, slot: int) -> list[int]:
        """All tokens of a slot so far, fed and sampled."""
        return list(self._context(slot))

    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Copy the context of slot `source` to each target slot.

        The next act sends the whole context, whose keys and values vLLM finds in its prefix cache.

        Raises:
            ConfigError: the source was not begun.
        """
        context = self._context(source)
        self._contexts.update((target, list(context)) for target in targets)

    def resume(self, slot: int, context: Sequence[int]) -> None:
        """Begin the slot with these tokens as its context."""
        self._contexts[slot] = list(context)

    def release(self) -> None:
        """Rollouts are over for now: the engine may free memory until the next `generate`."""

    def generate(
        self,
        slots: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        pause: bool = False,
    ) -> list[Generation]:
        """Feed one prompt to each slot and sample one act after it; `pause` changes nothing.

        An act that vLLM did not return ends with `Ending.FAILED`; the slot is then as before.

        Raises:
            ConfigError: a slot that was not begun or appears twice, an empty first prompt, or a temperature for which
                this vLLM cannot return log-probabilities.
        """
        if len(set(slots)) < len(slots):
            raise ConfigError(f"slots {list(slots)} name one twice: give each slot once per call")
        if sampling.temperature != 1 and not sampling.greedy and not self.tempered:
            raise ConfigError(
                f"temperature is {sampling.temperature:g}, and this vLLM returns log-probabilities from before the "
                "temperature: start it with --logprobs-mode processed_logprobs (vLLM >= 0.10.2), or sample at "
                "temperature 1"
            )
        generations: list[Generation] = []
        requested: list[_Pending] = []
        for slot, prompt in zip(slots, prompts, strict=True):
            context = [*self._context(slot), *prompt]
            if not context:
                raise ConfigError(f"slot {slot} has no context and an empty prompt: feed it a token first")
            if len(context) >= self.max_context:
                generations.append(Generation([], ending=Ending.CONTEXT_LIMIT))
                continue
            generations.append(Generation(list(prompt)))
            fields = self._fields(context, sampling, _seed(slot, sampling))
            watch = None if self.watch is None else self.watch()
            requested.append(_Pending(slot, generations[-1], watch, Request(context, fields)))
        start = time.perf_counter()
        while requested:
            # Contexts with a common beginning are neighbours, so vLLM computes the common part once.
            requested.sort(key=lambda one: one.request.context)
            drawn = self._draw([one.request for one in requested])
            pairs = zip(requested, drawn, strict=True)
            requested = [one for one, sampled in pairs if self._continues(one, sampled)]
        self.stats.decode_seconds += time.perf_counter() - start
        return generations

    def _draw(self, requests: list[Request]) -> list[Sampled | None]:
        """Let vLLM sample these acts; None stands for one that failed."""
        raise NotImplementedError

    def _context(self, slot: int) -> list[int]:
        try:
            return self._contexts[slot]
        except KeyError:
            raise ConfigError(f"slot {slot!r} has no episode: call begin([{slot!r}]) first") from None

    def _fields(self, context: list[int], sampling: Sampling, seed: int) -> dict[str, Any]:
        """The fields of `vllm.SamplingParams`; the completions endpoint takes them under the same names."""
        return {
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
            "max_tokens": min(self.max_new_tokens, self.max_context - len(context)),
            "stop_token_ids": sorted(self.stop_ids),
            "stop": list(self.stop_strings),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "logprobs": 0,  # only that of the sampled token
        }

    def _continues(self, pending: _Pending, sampled: Sampled | None) -> bool:
        """Take what was sampled, up to the id that completes the act; returns whether more is to be sampled."""
        generation, request = pending.generation, pending.request
        if sampled is None:
            generation.prompt_ids, generation.ending = [], Ending.FAILED
            generation.token_ids, generation.logprobs = [], []
            return False
        closed = False
        before = len(generation.token_ids)
        for token, logprob in zip(sampled.token_ids, sampled.logprobs, strict=True):
            generation.token_ids.append(token)
            generation.logprobs.append(logprob)
            if token in self.stop_ids or (pending.completes is not None and pending.completes(token)):
                closed = True
                break
        whole = [*request.context, *generation.token_ids[before:]]
        left = min(self.max_new_tokens - len(generation.token_ids), self.max_context - len(whole))
        self.stats.sampled_tokens += len(generation.token_ids) - before
        if not closed and sampled.at_string and pending.completes is not None and left > 0:
            # Another seed: the same one would draw the numbers of the first tokens again.
            more = {"max_tokens": left, "seed": (request.fields["seed"] + 1) % 2**63}
            pending.request = Request(whole, request.fields | more)
            return True
        self._contexts[pending.slot] = whole
        if closed or (sampled.stopped and not (sampled.at_string and pending.completes)):
            generation.ending = Ending.CLOSED
        elif len(whole) >= self.max_context:
            generation.ending = Ending.CONTEXT_LIMIT
        self.stats.prompt_tokens += len(generation.prompt_ids)
        return False


class VLLMEngine(VLLMSlots):
    """vLLM in this process, on the trainer's GPU.

    The engine core runs in this process too (`VLLM_ENABLE_V1_MULTIPROCESSING=0`), so weights are handed over
    without a copy through another process. It uses one GPU; on several GPUs every data-parallel process has its own.

    Args:
        model: a directory or the id of a model on the Hugging Face Hub.
        max_new_tokens: limit of one act, in tokens.
        max_context: limit of an episode, in tokens, prompts included.
        dtype: "float32" or "bfloat16".
        seed: seed of vLLM's own generators; acts are seeded by the agent.
        lora_rank: rank of the adapter; None where all weights are trained.
        **options: `gpu_memory_utilization`, the fraction of the GPU's memory that vLLM may use (0.4); `sleep`, whether
            to free that memory between rollouts by moving the weights to the host and dropping the cache (False); and
            any other argument of `vllm.LLM`.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: an option that searchgym sets itself.
    """

    def __init__(
        self,
        model: str,
        *,
        max_new_tokens: int,
        max_context: int,
        dtype: str = "bfloat16",
        seed: int = 0,
        lora_rank: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(max_new_tokens, max_context)
        sleep = options.pop("sleep", False)
        ours = {
            "model": model,
            "dtype": dtype,
            "seed": seed,
            "gpu_memory_utilization": options.pop("gpu_memory_utilization", 0.4),
            "enable_sleep_mode": sleep,
            "max_model_len": max_context,
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "generation_config": "vllm",
        }
        if lora_rank is not None:
            ours |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(lora_rank)}
        taken = sorted({*ours, "tensor_parallel_size"} & set(options))
        if taken:
            raise ConfigError(f"engine 'vllm': {taken[0]} is not an option: searchgym sets it")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            self._vllm = importlib.import_module("vllm")
            self._lora = importlib.import_module("vllm.lora.request")
        except ModuleNotFoundError as missing:
            raise MissingExtraError("engine 'vllm'", missing.name or "vllm", "vllm") from missing
        self._llm = self._vllm.LLM(**ours, **options)
        self._sleeps, self._asleep = sleep, False
        self._adapter: Any = None
        self._adapters = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def sync(self, model: Any, version: int) -> None:
        """See `GenerationEngine`.

        An adapter is written to a temporary directory that vLLM reads; full weights are handed over in memory.
        """
        self._wake()
        if not hasattr(model, "peft_config"):
            weights = {"weights_iterator": iter(model.state_dict().items())}
            self._llm.collective_rpc("reload_weights", kwargs=weights)
            self._llm.reset_prefix_cache()
            return
        folder = tempfile.TemporaryDirectory(prefix="searchgym-adapter-")
        write_weights(model, Path(folder.name))
        before, self._adapters = self._adapter, self._adapters + 1
        # A new name and number, because the keys and values cached for the previous adapter do not fit this one.
        self._adapter = self._lora.LoRARequest(f"searchgym-{version}", self._adapters, folder.name)
        if before is not None:
            self._llm.llm_engine.remove_lora(before.lora_int_id)
        self._folder = folder  # removes the previous directory; vLLM may read this one again

    def release(self) -> None:
        """See `GenerationEngine`; with `sleep`, the GPU's memory is freed."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _draw(self, requests: list[Request]) -> list[Sampled | None]:
        self._wake()
        outputs = self._llm.generate(
            [{"prompt_token_ids": request.context} for request in requests],
            [self._vllm.SamplingParams(**request.fields) for request in requests],
            lora_request=self._adapter,
            use_tqdm=False,
        )
        return [self._sampled(output) for output in outputs]

    def _sampled(self, output: Any) -> Sampled | None:
        act = output.outputs[0]
        if act.finish_reason not in ("stop", "length"):
            return None
        cached = output.num_cached_tokens or 0
        self.stats.copied_tokens += cached
        self.stats.prefilled_tokens += len(output.prompt_token_ids) - cached
        ids = [int(token) for token in act.token_ids]
        logprobs = [float(position[token].logprob) for token, position in zip(ids, act.logprobs, strict=True)]
        at_string = isinstance(getattr(act, "stop_reason", None), str)
        return Sampled(ids, logprobs, act.finish_reason == "stop", at_string)


def write_weights(model: Any, directory: Path) -> None:
    """Write an adapter, or all weights, in the form that vLLM reads (safetensors; nothing is pickled)."""
    model.save_pretrained(str(directory), safe_serialization=True)


def _seed(slot: int, sampling: Sampling) -> int:
    """The seed of one act: from the slot's own random stream if it has one, else from the agent's generator."""
    if sampling.rng_streams is not None:
        return sampling.rng_streams.seeds([slot])[0]
    generator = sampling.generator
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def _lora_rank(rank: int) -> int:
    """The smallest rank that vLLM supports and the adapter fits."""
    allowed = (8, 16, 32, 64, 128, 256, 320, 512)
    for size in allowed:
        if rank <= size:
            return size
    raise ConfigError(f"lora rank is {rank}: vLLM takes at most {allowed[-1]}")
