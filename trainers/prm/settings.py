"""How a step reward model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from searchgym.options import boolean, choice, integer, number

from .model import Loss, Reference

__all__ = ["PRMSettings"]

_LOSSES = ("bce", "mse", "pairwise", "wdpo")
_REFERENCES = ("none", "gold")


@dataclass(frozen=True, slots=True)
class PRMSettings:
    """How a step reward model is trained.

    Attributes:
        loss: "bce", "mse", "pairwise" or "wdpo".
        epochs: passes over the labels.
        lr: peak of the learning rate (AdamW, linear rise in the first 5 % of the steps, then a cosine to 5 %); None: what
            suits the backbone.
        batch_tokens: tokens per optimizer step.
        weight_decay: of AdamW.
        validation: share of the questions that are not trained on.
        margin: labels that differ by less are not compared (pairwise).
        centring: weight of the centring term (pairwise).
        beta: of DPO (wdpo).
        rename: exchange the names of each question in every epoch, where the backbone knows which tokens are names.
        reference: "gold": the model sees which gold passages each round returned, see trainers/prm/model.py; "none": no gold data.
        seed: of the division and of the batches.

    Raises:
        ConfigError: a value that cannot be used.
    """

    loss: Loss = "bce"
    epochs: int = 8
    lr: float | None = None
    batch_tokens: int = 4096
    weight_decay: float = 0.01
    validation: float = 0.1
    margin: float = 0.1
    centring: float = 0.01
    beta: float = 0.5
    rename: bool = True
    reference: Reference = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        choice("loss", self.loss, _LOSSES)
        integer("epochs", self.epochs, 1)
        integer("batch_tokens", self.batch_tokens, 1)
        for name in ("weight_decay", "margin", "centring", "beta"):
            number(name, getattr(self, name), 0.0)
        number("validation", self.validation, 0.0, 0.9)
        boolean("rename", self.rename)
        choice("reference", self.reference, _REFERENCES)
        if self.lr is not None:
            number("lr", self.lr, 0.0)
