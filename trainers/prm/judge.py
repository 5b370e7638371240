"""The judge `prm`: a step reward model's score of a round.

    values        score = (1 + level t − level t − 1) / 2: above a half, the round raised the expected return
    verdicts      score = the predicted score of the judge that the model learned from
    pairwise      score = σ(s_t)

and with read=level the level itself after the round (values), e.g. to choose among episodes or to cut off hopeless ones.
A verdict has two numbers: an answer, which retrieves nothing, has u = 0 and v = score, any other act u = score and v = 1. So
`round_score`, and every trainer that reads u · v (of answers v), reads the score.

Scores are rounded to five digits, because batches of other sizes add in another order. A round that does not fit into the
model's context is an error of its verdict, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from searchgym.errors import ConfigError
from searchgym.judges import Trace, Verdict
from searchgym.options import choice, integer, mapping
from searchgym.records.question import Corpus

from .model import Reading, load_reward_model

__all__ = ["PRMJudge"]

_READS = ("score", "level")


class PRMJudge:
    """Judges rounds with a step reward model. It reads the question, the messages and the results; gold data only if the model
    was trained with `reference=gold`, and then a question without gold passages is an error of its verdict.

    Args:
        corpus: not used.
        model: directory that `searchgym prm train` wrote.
        read: "score", or "level" (models of values).
        batch_tokens: tokens of one pass.
        backbone: options of the backbone, e.g. {"device": "cuda"} of a Hugging Face model.

    Raises:
        ConfigError: an option that cannot be used.
        CheckpointError: the model is missing or damaged.
    """

    name = "prm"

    def __init__(
        self,
        corpus: Corpus | None,
        model: str,
        read: str = "score",
        batch_tokens: int = 16_384,
        backbone: Mapping[str, Any] | None = None,
    ) -> None:
        del corpus
        choice("read", read, _READS)
        self._batch_tokens = integer("batch_tokens", batch_tokens, 1)
        self._model = load_reward_model(Path(model), mapping("backbone", backbone or {}))
        self.needs_gold = self._model.reference == "gold"
        self._changes = read == "score" and self._model.changes
        if read == "level" and not self._model.changes:
            raise ConfigError(
                f"judge 'prm': the model in {model} has no levels of its own, because it learned from "
                f"{self._model.kind} with loss={self._model.loss}: leave read out"
            )

    def judge(self, traces: Sequence[Trace]) -> list[Verdict]:
        """One verdict per round; see `searchgym.judges.Judge`."""
        readings = [self._model.read(trace) for trace in traces]
        errors = [self._error(trace, reading) for trace, reading in zip(traces, readings, strict=True)]
        # Traces of one episode ask for the same text: each distinct one is computed once.
        wanted = dict.fromkeys(r.last(2) for r, error in zip(readings, errors, strict=True) if not error)
        levels = dict(zip(wanted, self._levels(list(wanted)), strict=True))
        return [
            Verdict.error(error) if error else self._verdict(trace, levels[reading.last(2)])
            for trace, reading, error in zip(traces, readings, errors, strict=True)
        ]

    def _error(self, trace: Trace, reading: Reading) -> str:
        """Why a round cannot be judged; "" if it can."""
        if self.needs_gold and not trace.question.supporting_ids:
            return "the question has no gold passages, which the model was trained to see"
        if len(reading.ends) <= len(trace.rounds):
            positions = self._model.backbone.network.positions
            return f"the episode is longer than the model's context of {positions} tokens"
        return ""

    def _levels(self, readings: Sequence[Reading]) -> list[tuple[float, float]]:
        """Before and after the last round of each text."""
        return [tuple(x.tolist()) for x in self._model.levels(readings, self._batch_tokens)]

    def _verdict(self, trace: Trace, levels: tuple[float, float]) -> Verdict:
        before, after = levels
        if self._changes:
            score, reason = 0.5 * (1.0 + after - before), f"level {before:.3f} -> {after:.3f}"
        elif self._model.loss == "pairwise":
            score, reason = torch.tensor(after).sigmoid().item(), f"rank {after:.3f}"
        else:
            score, reason = after, f"level {after:.3f}"
        score = round(min(1.0, max(0.0, score)), 5)
        if trace.rounds[-1].action.kind == "answer":
            return Verdict.ok(0.0, score, reason)
        return Verdict.ok(score, 1.0, reason)
