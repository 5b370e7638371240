"""Reads a verdict from a causal language model: from the probabilities of the next token, or from a reply."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from searchgym.errors import ConfigError
from searchgym.judges.llm.prompt import Message, Prompt
from searchgym.judges.llm.replies import UnreadableReplyError, read_grade, read_verdict

from ..lm.cached_forward import CachedForward
from .chat_encoder import ChatEncoder

__all__ = ["JsonReader", "LanguageModel", "ProbabilityReader", "Reading"]

_NUMBERS = {"search": ("reasoning", "utility"), "answer": ("reasoning",), "grade": ("correct",)}
"""The numbers of each task. The utility of an answer is always 0, because it retrieves nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one prompt.

    Attributes:
        numbers: by name, each in [0, 1]; None if no verdict could be read.
        reason: the model's analysis, or what failed.
        cost: calls, input and output tokens.
    """

    numbers: Mapping[str, float] | None
    reason: str
    cost: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A loaded model.

    Attributes:
        model: a causal language model in evaluation mode, with greedy generation by default.
        tokenizer: its tokenizer.
        encoder: encodes messages.
        context: longest prompt and reply together, in tokens.
        batch_tokens: tokens of one batch of prompts.
    """

    model: Any
    tokenizer: Any
    encoder: ChatEncoder
    context: int
    batch_tokens: int

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yields the positions of prompts of one batch: of similar length, within `batch_tokens`."""
        batch: list[int] = []
        for position in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and lengths[position] * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(position)
        if batch:
            yield batch

    def pad(self, rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Ids and mask, [B, T], of rows padded on the left or on the right."""
        longest = max(map(len, rows))
        fill: int = self.model.generation_config.pad_token_id
        gaps = [longest - len(row) for row in rows]
        ids = [
            [fill] * gap + [*row] if left else [*row] + [fill] * gap
            for row, gap in zip(rows, gaps, strict=True)
        ]
        mask = [
            [0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap
            for row, gap in zip(rows, gaps, strict=True)
        ]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def too_long(self, prompt: int, reply: int) -> str:
        """Why a prompt does not fit the context, or ""."""
        if prompt + reply <= self.context:
            return ""
        return f"the prompt has {prompt} tokens and the reply needs {reply}: the model's context is {self.context}"


class ProbabilityReader:
    """Reads each number as P(1) / (P(0) + P(1)) of the token in its place.

    Args:
        model: the model.
        min_mass: the least P(0) + P(1) that counts as an answer.

    Raises:
        ConfigError: replies begin inside a thought, 0 and 1 are not one token each, or the model does not use a
            key-value cache.
    """

    def __init__(self, model: LanguageModel, min_mass: float) -> None:
        if model.encoder.opens_thought:
            raise ConfigError(
                "judge 'local': this model thinks before every reply, so its next token is not a verdict: "
                "give verdict='json' with room in max_new_tokens, or another model"
            )
        self._lm = model
        self._min_mass = min_mass
        question = self._question("0123456789abcdef", "reasoning")
        try:
            self._forward = CachedForward(model.model)
            # A trial: a model that ignores its cache is refused here and not at the first verdict.
            self._next_tokens([question.tail], [[question, question]])
        except ConfigError as error:
            raise ConfigError(f"judge 'local': {error}; verdict='json' does without") from error

    def read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """One reading per prompt, in order."""
        rows = [self._lm.encoder.encode(prompt.messages()) for prompt in prompts]
        questions = [
            [self._question(prompt.code, name) for name in _NUMBERS[prompt.task]] for prompt in prompts
        ]
        readings: dict[int, Reading] = {}
        fitting = []
        for position, (row, own) in enumerate(zip(rows, questions, strict=True)):
            problem = self._lm.too_long(len(row), max(len(q.tail) for q in own))
            if problem:
                readings[position] = Reading(None, problem, {})
            else:
                fitting.append(position)
        for batch in self._lm.batches([len(rows[i]) for i in fitting]):
            chosen = [fitting[i] for i in batch]
            try:
                answers = self._next_tokens([rows[i] for i in chosen], [questions[i] for i in chosen])
            except torch.OutOfMemoryError as error:
                problem = _out_of_memory([rows[i] for i in chosen], error)
                readings.update((i, Reading(None, problem, {})) for i in chosen)
                continue
            for i, answer in zip(chosen, answers, strict=True):
                tokens = len(rows[i]) + sum(len(question.tail) for question in questions[i])
                cost = {"calls": 1, "input_tokens": tokens, "output_tokens": 0}
                readings[i] = self._reading(_NUMBERS[prompts[i].task], answer, cost)
        return [readings[i] for i in range(len(prompts))]

    def _reading(
        self, names: Sequence[str], answers: Sequence[tuple[float, float]], cost: Mapping[str, float]
    ) -> Reading:
        for name, (number, mass) in zip(names, answers, strict=True):
            if not math.isfinite(number):
                return Reading(None, f"the model computed {number} for {name!r}", cost)
            if mass < self._min_mass:
                return Reading(
                    None,
                    f"the model would not write 0 or 1 for {name!r}: their probability is {mass:.3g}",
                    cost,
                )
        reason = ", ".join(f"{name} {number:.3f}" for name, (number, _) in zip(names, answers, strict=True))
        return Reading({n: number for n, (number, _) in zip(names, answers, strict=True)}, reason, cost)

    @torch.inference_mode()
    def _next_tokens(
        self, rows: Sequence[Sequence[int]], questions: Sequence[Sequence[_Question]]
    ) -> list[list[tuple[float, float]]]:
        """(number, P(0) + P(1)) for each question of each row; the prompt of a row is read once."""
        ids_BT, mask_BT = self._lm.pad(rows, left=True)
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        # The prompt's logits are not read: computing only the last saves memory.
        few = {"logits_to_keep": 1} if self._forward.takes("logits_to_keep") else {}
        _, cache = self._forward(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, **few)
        found: list[list[tuple[float, float]]] = [[] for _ in rows]
        most = max(map(len, questions))
        for turn in range(most):
            # A row with fewer questions repeats its last one; the result is dropped.
            current = [row[min(turn, len(row) - 1)] for row in questions]
            tails_BL, tail_mask_BL = self._lm.pad([q.tail for q in current], left=False)
            positions_BL = mask_BT.sum(-1, keepdim=True) + torch.arange(
                tails_BL.shape[1], device=ids_BT.device
            )
            outputs, _ = self._forward(
                cache if turn == most - 1 else copy.deepcopy(cache),
                input_ids=tails_BL,
                attention_mask=torch.cat([mask_BT, tail_mask_BL], dim=1),
                position_ids=positions_BL,
            )
            logits_BLV = outputs.logits
            last_B = tail_mask_BL.sum(-1) - 1
            every_B = torch.arange(len(rows), device=ids_BT.device)
            logprobs_BV = logits_BLV[every_B, last_B].float().log_softmax(-1)
            digits_B2 = torch.tensor([[q.zero, q.one] for q in current], device=ids_BT.device)
            pairs_B2 = logprobs_BV.gather(-1, digits_B2)
            numbers = (pairs_B2[:, 1] - pairs_B2[:, 0]).sigmoid().tolist()
            masses = pairs_B2.exp().sum(-1).tolist()
            for row, questions_of_row, number, mass in zip(found, questions, numbers, masses, strict=True):
                if turn < len(questions_of_row):
                    row.append((number, min(mass, 1.0)))
        return found

    def _question(self, code: str, name: str) -> _Question:
        """The beginning of a reply up to its number, whichever tokens the digits merge with (" 1", "1")."""
        stem = f'{{"code": "{code}", "{name}": '
        zero, one = (self._lm.encoder.plain(stem + digit) for digit in "01")
        shared = next((i for i, (a, b) in enumerate(zip(zero, one, strict=False)) if a != b), -1)
        if shared < 1 or len(zero) != shared + 1 or len(one) != shared + 1:
            raise ConfigError(
                "judge 'local': this tokenizer does not write 0 and 1 as one token each: give verdict='json'"
            )
        return _Question(zero[:shared], zero[shared], one[shared])


@dataclass(frozen=True, slots=True)
class _Question:
    tail: list[int]
    zero: int
    one: int


class JsonReader:
    """Lets the model reply and reads the reply; an unreadable reply is requested once more.

    Args:
        model: the model.
        max_new_tokens: longest reply in tokens.
    """

    def __init__(self, model: LanguageModel, max_new_tokens: int) -> None:
        self._lm = model
        self._max_new_tokens = max_new_tokens
        self._ends = frozenset(model.model.generation_config.eos_token_id)

    def read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """One reading per prompt, in order."""
        replies = self._reply([prompt.messages() for prompt in prompts])
        readings = [_read_reply(prompt, reply, {}) for prompt, reply in zip(prompts, replies, strict=True)]
        failed = [
            i for i, reading in enumerate(readings) if reading.numbers is None and not replies[i].problem
        ]
        repairs = [prompts[i].repair(replies[i].text, readings[i].reason) for i in failed]
        for i, reply in zip(failed, self._reply(repairs), strict=True):
            reading = _read_reply(prompts[i], reply, readings[i].cost)
            if reading.numbers is None and not reply.problem:
                reading = replace(reading, reason=f"neither of two replies can be used: {reading.reason}")
            readings[i] = reading
        return readings

    def _reply(self, conversations: Sequence[Sequence[Message]]) -> list[_Reply]:
        rows = [self._lm.encoder.encode(messages) for messages in conversations]
        replies = [_Reply("", self._lm.too_long(len(row), self._max_new_tokens), {}) for row in rows]
        fitting = [i for i, reply in enumerate(replies) if not reply.problem]
        for batch in self._lm.batches([len(rows[i]) for i in fitting]):
            chosen = [fitting[i] for i in batch]
            for i, reply in zip(chosen, self._generate([rows[i] for i in chosen]), strict=True):
                replies[i] = reply
        return replies

    @torch.inference_mode()
    def _generate(self, rows: Sequence[Sequence[int]]) -> list[_Reply]:
        ids_BT, mask_BT = self._lm.pad(rows, left=True)
        try:
            written_BT = self._lm.model.generate(
                input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=self._max_new_tokens
            )
        except torch.OutOfMemoryError as error:
            return [_Reply("", _out_of_memory(rows, error), {}) for _ in rows]
        replies = []
        for row, ids in zip(rows, written_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
            end = next((i + 1 for i, id in enumerate(ids) if id in self._ends), len(ids))
            cost = {"calls": 1, "input_tokens": len(row), "output_tokens": end}
            replies.append(_Reply(self._lm.tokenizer.decode(ids[:end], skip_special_tokens=True), "", cost))
        return replies


@dataclass(frozen=True, slots=True)
class _Reply:
    text: str
    problem: str
    cost: Mapping[str, float]


def _read_reply(prompt: Prompt, reply: _Reply, spent: Mapping[str, float]) -> Reading:
    cost = {name: spent.get(name, 0) + reply.cost.get(name, 0) for name in {**spent, **reply.cost}}
    if reply.problem:
        return Reading(None, reply.problem, cost)
    try:
        if prompt.task == "grade":
            correct, analysis = read_grade(reply.text, prompt)
            return Reading({"correct": correct}, analysis, cost)
        utility, reasoning, analysis = read_verdict(reply.text, prompt)
        return Reading({"utility": utility, "reasoning": reasoning}, analysis, cost)
    except UnreadableReplyError as error:
        return Reading(None, str(error), cost)


def _out_of_memory(rows: Sequence[Sequence[int]], error: Exception) -> str:
    return f"out of memory with {len(rows)} prompts of {max(map(len, rows))} tokens (lower batch_tokens): {error}"
