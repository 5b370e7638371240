"""Batched generation that keeps the keys and values of every episode from round to round.

Each slot (one running episode) owns a row of the cache. A round feeds only the new observation, then samples
one act for all slots together; rows whose act is complete leave the batch. A caller that allows pauses gets the complete acts
once they are a quarter of the batch, and the others continue in the next batch beside new ones (continuous batching): a
step that decodes a few long acts takes almost as long as one that decodes many. Every position of a context is computed
once in the life of an episode:

- a sampled token is computed when the next one is sampled, the last token of an act with the next observation;
- contexts that are equal in several slots (the first prompt of a group's rollouts, and later rounds of rollouts
  that acted alike) are computed in one slot and copied;
- a forked slot gets a copy of its source's row;
- contexts that begin like one that was given to `remember` get a copy of what was computed for it.

The rows in use are always the first ones, in the order of the call. So decoding reads the cache through a view, and the
arithmetic of a call depends only on the contexts and their order.

Axis suffixes as in `interface`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from searchgym.errors import ConfigError

from .free_memory import give_back_freed
from .generation import Ending, EngineStats, Generation
from .interface import Network
from .kv_cache import KVCache
from .prefix_store import PrefixStore
from .prefix_tree import common_beginning
from .sampling import Sampling, sample

__all__ = ["Engine"]

_REMEMBERED_BYTES = 2 * 2**30


@dataclass(slots=True, eq=False)
class _Slot:
    """A running episode.

    Attributes:
        row: its row of the cache.
        context: all its tokens.
        cached: number of its first positions that the row holds.
        uniform_T: the numbers that the current act's tokens are drawn with, where the slot has its own random stream.
        completes: whether a token completes the current act; see `GenerationEngine.watch`.
        paused: the current act, if it is to be continued.
    """

    row: int
    context: list[int] = field(default_factory=list)
    cached: int = 0
    uniform_T: Sequence[float] = ()
    completes: Callable[[int], bool] | None = None
    paused: Generation | None = None


class Engine:
    """Generates acts for many slots at once, in this process and with the trainer's own weights.

    Args:
        network: the model; its weights are read at every call.
        stop_ids: tokens that end a message.
        max_new_tokens: limit of one act, in tokens.
        max_context: limit of an episode, in tokens, prompts included.
        batch_tokens: prefill runs in batches of about this many tokens.
        share_from: new contexts that begin with at least this many common tokens (a system prompt) have these
            computed once; None: only equal contexts are shared.

    Raises:
        ConfigError: a limit that is out of range.
    """

    def __init__(
        self,
        network: Network,
        stop_ids: Collection[int],
        *,
        max_new_tokens: int,
        max_context: int,
        batch_tokens: int = 2048,
        share_from: int | None = None,
    ) -> None:
        positions = network.positions
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens!r}: give a positive number")
        if not 1 < max_context <= positions:
            raise ConfigError(f"max_context is {max_context!r}: this model takes 2 to {positions} tokens")
        self.network = network
        self.stop_ids: Collection[int] = frozenset(stop_ids)
        self.watch: Callable[[], Callable[[int], bool]] | None = None
        self.stop_strings: tuple[str, ...] = ()
        self.max_new_tokens = max_new_tokens
        self.max_context = max_context
        self.batch_tokens = batch_tokens
        self.share_from = share_from
        self.stats = EngineStats()
        self._prefixes = PrefixStore()
        self._cache = KVCache(network)
        self.clear()

    @torch.inference_mode()
    def remember(self, contexts: Iterable[Sequence[int]]) -> None:
        """See `GenerationEngine`. Contexts for which `_REMEMBERED_BYTES` do not suffice are computed where they occur, and so
        are all contexts of a network with recurrent states, which cannot be cut to a common beginning.
        """
        if not self.network.pads:
            return
        pending = sorted({tuple(context) for context in contexts if len(context) <= self.max_context})
        pending = [a for a, b in zip_longest(pending, pending[1:]) if b is None or b[: len(a)] != a]
        while pending and self._prefixes.bytes < _REMEMBERED_BYTES:
            # Contexts that have more in common with each other than with what is known wait for the first of them.
            batch: list[tuple[int, ...]] = []
            waiting: list[tuple[int, ...]] = []
            tokens = 0
            for context in pending:
                known = self._prefixes.find(context)[0]
                lacking = max(tokens, len(context) - known)
                full = bool(batch) and lacking * (len(batch) + 1) > self.batch_tokens
                if full or (batch and common_beginning(batch[-1], context) > known):
                    waiting.append(context)
                else:
                    batch.append(context)
                    tokens = lacking
            self._remember_batch(batch)
            pending = waiting
        self.clear()

    def _remember_batch(self, contexts: list[tuple[int, ...]]) -> None:
        self.clear()
        for number, context in enumerate(contexts):
            self.resume(number, context)
        slots = list(self._slots.values())
        self._reserve(max(map(len, contexts)))
        self._recall(slots)
        new = [slot for slot in slots if slot.cached < len(slot.context)]
        if new:
            self._prefill_batch(new)
        for slot, context in zip(slots, contexts, strict=True):
            self._prefixes.add(context, self._cache.read(slot.row, len(context)))

    def forget(self) -> None:
        """See `GenerationEngine`."""
        self._prefixes = PrefixStore()

    def sync(self, model: Any, version: int) -> None:
        """See `GenerationEngine`: there is nothing to do, the weights are the trainer's."""

    def release(self) -> None:
        """Free the cache. Contexts stay, and those of episodes that continue are computed again."""
        if self._cache.rows:
            self._cache.clear()
            self._first = 0
            for slot in self._slots.values():
                slot.cached = 0
            give_back_freed()

    def clear(self) -> None:
        """Forget all slots and free the cache."""
        self._slots: dict[int, _Slot] = {}
        self._at: list[_Slot] = []  # which slot each row belongs to
        self._cache.clear()
        self._first = 0  # column that the windows of the acting slots reach

    def begin(self, slots: Iterable[int]) -> None:
        """Start empty contexts in these slots."""
        for number in slots:
            slot = self._slots.get(number)
            if slot is None:
                slot = self._slots[number] = _Slot(len(self._at))
                self._at.append(slot)
            slot.context, slot.cached, slot.paused = [], 0, None

    def started(self, slot: int) -> bool:
        """Whether the slot was fed any tokens since `begin`."""
        return bool(self._slot(slot).context)

    def paused(self, slot: int) -> bool:
        """See `GenerationEngine`."""
        return self._slot(slot).paused is not None

    def context(self, slot: int) -> list[int]:
        """All tokens of a slot so far, fed and sampled."""
        return list(self._slot(slot).context)

    @torch.inference_mode()
    def fork(self, source: int, targets: Sequence[int]) -> None:
        """Copy the context of slot `source`, with its keys and values, to each target slot.

        Args:
            source: a slot that was begun.
            targets: slots; one that is running is replaced, one that was not begun is begun. The source itself may
                be among them and stays as it is.

        Raises:
            ConfigError: the source was not begun, or its act is paused.
        """
        origin = self._slot(source)
        if origin.paused is not None:
            raise ConfigError(f"slot {source!r} has a paused act: complete it before the slot is copied")
        others = [target for target in targets if target != source]
        self.begin(others)
        copies = [self._slots[target] for target in others]
        for copy in copies:
            copy.context, copy.cached = list(origin.context), origin.cached
        self._reserve(origin.cached)
        self._cache.move([origin.row] * len(copies), [copy.row for copy in copies], origin.cached)

    def resume(self, slot: int, context: Sequence[int]) -> None:
        """Begin the slot with these tokens as its context.

        They are computed with the next prompt; slots with equal contexts, such as forks made before that, are then
        computed once.
        """
        self.begin([slot])
        self._slots[slot].context = list(context)

    @torch.inference_mode()
    def generate(
        self,
        slots: Sequence[int],
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        pause: bool = False,
    ) -> list[Generation]:
        """See `GenerationEngine`.

        Returns:
            One act per slot, in order.

        Raises:
            ConfigError: a slot that was not begun or appears twice, an empty first prompt, or a prompt in the middle of an act.
            TrainingError: the weights produce logits that are not finite.
        """
        if len(set(slots)) < len(slots):
            raise ConfigError(f"slots {list(slots)} name one twice: give each slot once per call")
        results: list[Generation] = []
        feeding: list[_Slot] = []
        active: list[Generation] = []
        for number, prompt in zip(slots, prompts, strict=True):
            slot = self._slot(number)
            if slot.paused is not None:
                if prompt:
                    raise ConfigError(f"slot {number} has a paused act: give an empty prompt to continue it")
                results.append(slot.paused)
                feeding.append(slot)
                active.append(slot.paused)
                continue
            if not slot.context and not prompt:
                raise ConfigError(f"slot {number} has no context and an empty prompt: feed it a token first")
            if len(slot.context) + len(prompt) >= self.max_context:
                results.append(Generation([], ending=Ending.CONTEXT_LIMIT))
                continue
            results.append(Generation(list(prompt)))
            feeding.append(slot)
            active.append(results[-1])
            slot.completes = None if self.watch is None else self.watch()
            if sampling.rng_streams is not None and not sampling.greedy:
                slot.uniform_T = sampling.rng_streams.uniform([number], self.max_new_tokens)[0].tolist()
        if feeding:
            start = time.perf_counter()
            for slot, generation in zip(feeding, active, strict=True):
                if slot.paused is None:
                    slot.context.extend(generation.prompt_ids)
                    self.stats.prompt_tokens += len(generation.prompt_ids)
            # Leave room for the act, and for prefill rows padded to the longest of their batch.
            padded = max(s.cached for s in feeding) + max(len(s.context) - s.cached for s in feeding)
            self._slide(feeding, max(padded, max(len(s.context) for s in feeding) + self.max_new_tokens))
            self._arrange(feeding)
            hidden_BW, logits_BV = self._prefill(feeding)
            middle = time.perf_counter()
            self._decode(feeding, active, hidden_BW, logits_BV, sampling, pause)
            self.stats.prefill_seconds += middle - start
            self.stats.decode_seconds += time.perf_counter() - middle
        return results

    @property
    def state_bytes(self) -> int:
        """Size of the recurrent and convolution states of one episode, once any were computed."""
        return self._cache.state_bytes

    def _slot(self, number: int) -> _Slot:
        try:
            return self._slots[number]
        except KeyError:
            raise ConfigError(f"slot {number!r} has no episode: call begin([{number!r}]) first") from None

    def _reserve(self, columns: int) -> None:
        self._cache.reserve(len(self._at), columns, self.max_context + self.max_new_tokens, self._first)

    def _slide(self, slots: list[_Slot], columns: int) -> None:
        """Make room for these slots. If that drops columns that the windows of others still reach, those are computed again
        when they act: as a rule their episodes have ended.
        """
        window = self.network.window
        if self.network.windowed:
            self._first = max(0, min(slot.cached for slot in slots) - window + 1)
        self._reserve(columns)
        if self._cache.offset:
            acting = set(slots)
            for slot in self._at:
                if slot not in acting and slot.cached - window + 1 < self._cache.offset:
                    slot.cached = 0

    def _arrange(self, slots: list[_Slot]) -> None:
        """Move these slots into the first rows, in order; the slots that were there take the rows that become free."""
        at = list(self._at)
        place = {slot: i for i, slot in enumerate(at)}
        for i, slot in enumerate(slots):
            other, j = at[i], place[slot]
            at[i], at[j] = slot, other
            place[slot], place[other] = i, j
        self._permute(at)

    def _permute(self, at: list[_Slot]) -> None:
        """Move cache rows so that row i belongs to `at[i]`."""
        moved = [(slot.row, i) for i, slot in enumerate(at) if slot.row != i]
        columns = max((at[i].cached for _, i in moved), default=0)
        self._cache.move([source for source, _ in moved], [target for _, target in moved], columns)
        for _, i in moved:
            at[i].row = i
        self._at = at

    def _prefill(self, slots: list[_Slot]) -> tuple[Tensor, Tensor]:
        """Compute the part of each context that is not cached; returns the hidden states and the logits after it, [slots, …]."""
        first: dict[tuple[int, ...], int] = {}  # context -> the slot that computes it
        leader = [first.setdefault(tuple(slot.context), i) for i, slot in enumerate(slots)]
        self._recall([slots[i] for i in first.values()])
        self._share([slots[i] for i in first.values() if not slots[i].cached])
        lacking = {i: len(slots[i].context) - slots[i].cached for i in first.values()}
        hidden: list[Tensor] = []
        order: list[int] = []
        batch: list[int] = []
        started = {
            i: slots[i].paused is not None or (not self.network.pads and slots[i].cached > 0) for i in lacking
        }
        for i in sorted(lacking, key=lambda i: (started[i], lacking[i], len(slots[i].context))):
            if batch and (
                lacking[i] * (len(batch) + 1) > self.batch_tokens
                or not self._alike(slots[batch[-1]], slots[i])
            ):
                hidden.append(self._prefill_batch([slots[j] for j in batch]))
                order, batch = order + batch, []
            batch.append(i)
        hidden.append(self._prefill_batch([slots[j] for j in batch]))
        place = {i: n for n, i in enumerate(order + batch)}
        followers = [(i, j) for i, j in enumerate(leader) if i != j]
        self.stats.copied_tokens += sum(len(slots[i].context) - slots[i].cached for i, _ in followers)
        self._cache.move(
            [slots[j].row for _, j in followers],
            [slots[i].row for i, _ in followers],
            max((len(slots[i].context) for i, _ in followers), default=0),
        )
        for slot in slots:
            slot.cached = len(slot.context)
        hidden_NW = torch.cat(hidden)
        rows_B = [place[j] for j in leader]
        return hidden_NW[rows_B], self.network.logits_to_sample(hidden_NW)[rows_B]

    def _alike(self, one: _Slot, other: _Slot) -> bool:
        """Whether two contexts can share a prefill pass. A recurrent state must not run over padding; and a paused act lacks one
        token, which is not worth padding it to the length of a prompt."""
        if (one.paused is None) != (other.paused is None):
            return False
        if self.network.pads:
            return True
        lacking = {len(slot.context) - slot.cached for slot in (one, other)}
        return len(lacking) == 1 and bool(one.cached) == bool(other.cached)

    def _recall(self, slots: list[_Slot]) -> None:
        """Copy what is remembered of the contexts into their rows, all but the last token, whose logits are needed."""
        if not self._prefixes.bytes:
            return
        for slot in slots:
            common, layers = self._prefixes.find(slot.context)
            common = min(common, len(slot.context) - 1)
            if common > slot.cached:
                self._cache.write(slot.row, layers, slot.cached, common)
                self.stats.copied_tokens += common - slot.cached
                slot.cached = common

    def _share(self, slots: list[_Slot]) -> None:
        """Compute the common beginning of new contexts in the first of them and copy it to the others."""
        if self.share_from is None or len(slots) < 2:
            return
        shortest, longest = (choose(slot.context for slot in slots) for choose in (min, max))
        common = common_beginning(shortest, longest)  # the first and the last in order: common to all
        common = min(common, *(len(slot.context) - 1 for slot in slots))  # the last token's logits are needed
        if common < self.share_from:
            return
        first, *others = slots
        self._prefill_batch([first], common)
        self._cache.move([first.row] * len(others), [slot.row for slot in others], common)
        for slot in slots:
            slot.cached = common
        self.stats.copied_tokens += common * len(others)

    def _prefill_batch(self, slots: list[_Slot], end: int | None = None) -> Tensor:
        """Cache the missing part of these contexts (up to position `end`); returns the last hidden states, [B, W]."""
        new = [slot.context[slot.cached : end] for slot in slots]
        longest = max(map(len, new))
        device = self.network.device
        ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in new], device=device)
        cached_B1 = torch.tensor([[slot.cached] for slot in slots], device=device)
        positions_BT = cached_B1 + torch.arange(longest, device=device)
        keep_BQ = torch.tensor([[len(ids) - 1] for ids in new], device=device)
        columns = max(slot.cached for slot in slots) + longest
        self._reserve(columns)
        rows_B = torch.tensor([slot.row for slot in slots], device=device)
        cache = self._cache.at(rows_B, positions_BT, columns, fresh=not any(slot.cached for slot in slots))
        hidden_B1W = self.network.step(ids_BT, positions_BT, cache, keep_BQ)
        real = sum(map(len, new))
        self.stats.prefilled_tokens += real
        self.stats.padded_tokens += ids_BT.numel() - real
        return hidden_B1W[:, 0]

    def _decode(
        self,
        slots: list[_Slot],
        active: list[Generation],
        hidden_BW: Tensor,
        logits_BV: Tensor,
        sampling: Sampling,
        pause: bool,
    ) -> None:
        """Sample until every act has ended, or a quarter of them, with `pause`; `slots` are in the first rows, in order."""
        slots, active = list(slots), list(active)
        few = 3 * len(slots) // 4 if pause else 0
        device = self.network.device
        for slot, generation in zip(slots, active, strict=True):
            slot.paused, generation.ending = None, Ending.ROUND_LIMIT
        while True:
            uniform_B1 = None
            if sampling.rng_streams is not None and not sampling.greedy:
                uniform_B1 = torch.tensor(
                    [[slot.uniform_T[len(act.token_ids)]] for slot, act in zip(slots, active, strict=True)]
                )
            tokens_B, logprobs_B = sample(logits_BV, sampling, uniform_B1)
            exact_B = self.network.drawn_logits(hidden_BW, tokens_B)
            if exact_B is not None:
                rounded_B = logits_BV.gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)
                logprobs_B = logprobs_B + (exact_B - rounded_B) / sampling.temperature
            running: list[int] = []
            for i, (token, logprob) in enumerate(zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)):
                slot = slots[i]
                slot.context.append(token)
                active[i].token_ids.append(token)
                active[i].logprobs.append(logprob)
                if token in self.stop_ids or (slot.completes is not None and slot.completes(token)):
                    active[i].ending = Ending.CLOSED
                elif len(slot.context) >= self.max_context:
                    active[i].ending = Ending.CONTEXT_LIMIT
                elif len(active[i].token_ids) < self.max_new_tokens:
                    running.append(i)
            self.stats.sampled_tokens += len(active)
            if len(running) <= few:
                for i in running:
                    slots[i].paused, active[i].ending = active[i], Ending.PAUSED
                return
            if len(running) < len(active):
                slots, active = self._close_ranks(slots, active, running)
            positions_B1 = torch.tensor([[slot.cached] for slot in slots], device=device)
            cache = self._cache.at(None, positions_B1, max(slot.cached for slot in slots) + 1)
            ids_B1 = torch.tensor([[slot.context[-1]] for slot in slots], device=device)
            hidden_BW = self.network.step(ids_B1, positions_B1, cache)[:, 0]
            logits_BV = self.network.logits_to_sample(hidden_BW)
            for slot in slots:
                slot.cached += 1
            self.stats.decoded_tokens += len(slots)
            self.stats.decode_steps += 1

    def _close_ranks(
        self, slots: list[_Slot], active: list[Generation], running: list[int]
    ) -> tuple[list[_Slot], list[Generation]]:
        """Fill the rows of finished slots with the last running ones, so that the running are the first rows."""
        count = len(running)
        still = set(running)
        at = list(self._at)
        holes = [i for i in range(count) if i not in still]
        for hole, filler in zip(holes, [i for i in running if i >= count], strict=True):
            slots[hole], slots[filler] = slots[filler], slots[hole]
            active[hole], active[filler] = active[filler], active[hole]
            at[hole], at[filler] = at[filler], at[hole]
        self._permute(at)
        return slots[:count], active[:count]
