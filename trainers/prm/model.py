"""A step reward model: a causal language model with a scalar head, which is read after the question and after every round.

    s_t = w · h(end of round t) + b        round t with the results that its act brought; t = 0: the question

What s_t stands for follows from the loss:

    bce        σ(s_t) is the probability of success from there (values), or the judge's score of the round (verdicts)
    mse        s_t itself is
    pairwise   s_t ranks acts that were chosen in one state (Bradley-Terry); alone it means nothing
    wdpo       a generative model: it has no head, but writes a verdict after every round, and
               s_t = log π(right | …) − log π(wrong | …)      so σ(s_t) is the probability of the verdict "right" among the two

With `reference="gold"` every round is followed by a mark, which says whether it returned a gold passage that no earlier round had,
one that is known, or none. Such a model sees gold data, as the judges `rules` and `oracle` do.

A saved model is a directory with the backbone's own files, `head.safetensors` and `prm.json`, which is written last and holds
the checksums of all others, the digest of the tokenizer and a digest of itself.

Axis suffixes: _N read-outs, flattened; _Q positions of a row; _W width.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from searchgym.agents.lm.prefix_tree import PrefixTree, split_by_budget
from searchgym.agents.lm.weights import check_tensors
from searchgym.errors import CheckpointError, ConfigError
from searchgym.files import checksums, read_bytes, read_json, seal, unseal, write_bytes, write_text
from searchgym.judges import Trace

from .backbones import Backbone, Mark, open_backbone

__all__ = ["CONFIG_FILE", "Loss", "Reading", "Reference", "RewardModel", "load_reward_model"]

CONFIG_FILE, _HEAD_FILE = "prm.json", "head.safetensors"
_SCHEMA = 2

Loss = Literal["bce", "mse", "pairwise", "wdpo"]
Reference = Literal["none", "gold"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A text and the positions at which the head is read.

    Attributes:
        tokens: the text, up to the last of these positions.
        ends: ascending positions: the last token of the question, then of each round that fits into the context.
    """

    tokens: tuple[int, ...]
    ends: tuple[int, ...]

    def last(self, count: int) -> Reading:
        """The same text with the last `count` read-outs only."""
        return Reading(self.tokens, self.ends[-count:])


class RewardModel:
    """A backbone with a scalar head, which starts at zero.

    Args:
        backbone: reads texts.
        loss: what it is trained with, see the module docstring.
        kind: of the labels it learns from.
        reference: "gold": rounds are marked by the gold passages that they returned.

    Attributes:
        head: the scalar head, in float32.
        notes: what is stored with a saved model, as JSON.

    Raises:
        ConfigError: both verdicts begin with the same token (wdpo).
    """

    def __init__(self, backbone: Backbone, loss: Loss, kind: str, reference: Reference = "none") -> None:
        right, wrong = backbone.verdicts
        if loss == "wdpo" and right == wrong:
            raise ConfigError(
                f"the tokenizer begins both verdicts with token {right}, which loss=wdpo cannot tell apart: use loss=bce"
            )
        self.backbone, self.loss, self.kind, self.reference = backbone, loss, kind, reference
        self.head = nn.Linear(backbone.network.width, 1, device=backbone.network.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.notes: dict[str, Any] = {}

    @property
    def module(self) -> nn.ModuleDict:
        """All weights."""
        return nn.ModuleDict({"backbone": self.backbone.network.model, "head": self.head})

    @property
    def changes(self) -> bool:
        """Whether a round's score is by how much it raised the level (values), rather than the level itself."""
        return self.kind == "values" and self.loss != "pairwise"

    def read(self, trace: Trace) -> Reading:
        """The text of an episode. Rounds that do not fit into the context have no read-out.

        Args:
            trace: the question and the rounds.
        """
        tokens = self.backbone.question(trace.question.text)
        ends = [len(tokens) - 1]
        marks: Sequence[Mark | None] = (
            _marks(trace) if self.reference == "gold" else [None] * len(trace.rounds)
        )
        for record, mark in zip(trace.rounds, marks, strict=True):
            tokens += self.backbone.message(record.text)
            tokens += self.backbone.observation(record.observation)
            if mark is not None:
                tokens += self.backbone.mark(mark)
            if len(tokens) > self.backbone.network.positions:
                break
            ends.append(len(tokens) - 1)
        return Reading(tuple(tokens[: ends[-1] + 1]), tuple(ends))

    def outputs(self, readings: Sequence[Reading], batch_tokens: int) -> list[Tensor]:
        """s at all read-outs, one tensor per reading; carries gradients. Common beginnings are computed once.

        Args:
            readings: the texts.
            batch_tokens: tokens of one pass.
        """
        network = self.backbone.network
        outputs: list[Tensor] = [torch.zeros(0)] * len(readings)
        for part in split_by_budget([reading.tokens for reading in readings], batch_tokens):
            tree = PrefixTree.grow([readings[i].tokens for i in part])
            at = [columns[list(readings[i].ends)] for columns, i in zip(tree.columns, part, strict=True)]
            at_N = np.concatenate(at)
            last_P = np.array(
                [columns[-1] for columns in tree.columns]
            )  # a pass computes the end of every path
            keep_Q = np.unique(np.concatenate([at_N, last_P]))
            hidden_QW = network.paths(tree, keep_Q)
            picked_N = torch.from_numpy(np.searchsorted(keep_Q, at_N)).to(hidden_QW.device)
            s_N = self._scores(hidden_QW[picked_N])
            for i, s in zip(part, torch.split(s_N, [len(x) for x in at]), strict=True):
                outputs[i] = s
        return outputs

    def _scores(self, hidden_NW: Tensor) -> Tensor:
        """s of hidden states, [N]."""
        if self.loss != "wdpo":
            scores_N: Tensor = self.head(hidden_NW.to(self.head.weight.dtype))[:, 0]
            return scores_N
        right, wrong = self.backbone.verdicts
        logits_NV = self.backbone.network.logits(hidden_NW)
        return logits_NV[:, right] - logits_NV[:, wrong]

    @torch.no_grad()
    def levels(self, readings: Sequence[Reading], batch_tokens: int = 16_384) -> list[Tensor]:
        """What s stands for at all read-outs, on the CPU: a probability (bce, wdpo), or s itself.

        Args:
            readings: the texts.
            batch_tokens: tokens of one pass.
        """
        outputs = self.outputs(readings, batch_tokens)
        return [self.level(s).double().cpu() for s in outputs]

    def level(self, s_N: Tensor) -> Tensor:
        """What outputs stand for."""
        return s_N.sigmoid() if self.loss in ("bce", "wdpo") else s_N

    def save(self, directory: Path, without: Collection[str] = ()) -> None:
        """Write the model; a directory with prm.json is complete.

        Args:
            directory: of the model; created.
            without: names of other files in it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.backbone.save(directory)
        head = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        write_bytes(directory / _HEAD_FILE, save_tensors(head))
        data = {
            "schema": _SCHEMA,
            "backbone": self.backbone.kind,
            "tokenizer": self.backbone.tokenizer_digest,
            "loss": self.loss,
            "labels": self.kind,
            "reference": self.reference,
            "files": {name: entry for name, entry in checksums(directory).items() if name not in without},
            "notes": self.notes,
        }
        write_text(directory / CONFIG_FILE, json.dumps(seal(data), indent=2, allow_nan=False) + "\n")


def load_reward_model(directory: Path, options: Mapping[str, Any] | None = None) -> RewardModel:
    """A saved model.

    Args:
        directory: what `RewardModel.save` wrote.
        options: of the backbone, e.g. `device` and `dtype` of a Hugging Face model.

    Raises:
        CheckpointError: it is missing, damaged, or its tokenizer is not the one it was trained with.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{directory} holds no {CONFIG_FILE}: give a directory that `searchgym prm train` wrote"
        )
    try:
        data = read_json(path)
        if data["schema"] != _SCHEMA:
            raise CheckpointError(
                f"{path} has schema {data['schema']!r}, this version reads {_SCHEMA}: use the version of searchgym that wrote "
                "it, or train the model again"
            )
        data = unseal(data)
        kind, loss, labels, files = (data[key] for key in ("backbone", "loss", "labels", "files"))
        found = checksums(directory)
        if changed := [name for name in files if found.get(name) != files[name]]:
            raise ValueError(f"{changed[0]} is not the file that was written with it")
        head = load_tensors(read_bytes(directory / _HEAD_FILE))
        reference, tokenizer, notes = (data[key] for key in ("reference", "tokenizer", "notes"))
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    backbone = open_backbone(kind, {"checkpoint": str(directory), **(options or {})})
    if backbone.tokenizer_digest != tokenizer:
        raise CheckpointError(
            f"{directory} was trained with another tokenizer than the one that lies there now: its token ids mean other words; "
            "copy the original tokenizer back, or train again"
        )
    model = RewardModel(backbone, loss, labels, reference)
    check_tensors(directory / _HEAD_FILE, model.head.state_dict(), head)
    model.head.load_state_dict(head)
    model.module.requires_grad_(False)
    model.notes = notes
    return model


def _marks(trace: Trace) -> list[Mark]:
    """Which gold passages each round returned."""
    gold = set(trace.question.supporting_ids)
    known: set[str] = set()
    marks: list[Mark] = []
    for record in trace.rounds:
        found = gold.intersection(hit.id for hit in record.hits)
        marks.append("new" if found - known else "known" if found else "none")
        known |= found
    return marks
