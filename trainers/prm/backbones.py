"""What a step reward model reads texts with: the tiny language model, or a causal model of Hugging Face.

A text is read in pieces (question, message, observation, message, …), so that the end of each is the end of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from searchgym.agents.hf.fingerprint import tokenizer_digest
from searchgym.agents.hf.loading import check_dtype, check_path, open_device, open_model, open_tokenizer
from searchgym.agents.lm.huge_pages import place_model
from searchgym.agents.lm.interface import Network
from searchgym.agents.lm.network import open_network
from searchgym.agents.tiny.agent import TinyAgent, prompt_ids
from searchgym.agents.tiny.demos import Renaming
from searchgym.options import choice
from searchgym.specs import call_factory

__all__ = ["BACKBONES", "Backbone", "Mark", "open_backbone"]

BACKBONES = ("tiny", "hf")
Mark = Literal["new", "known", "none"]
"""The gold passages that a round returned: one that no earlier round had, only such as had been returned before, or none."""


class Backbone(Protocol):
    """A causal language model without its head.

    Attributes:
        kind: "tiny" or "hf".
        network: the model.
        tokenizer_digest: names the tokenizer; a model is only opened with the one it was trained with.
        lr: learning rate that suits it.
        verdicts: the tokens that stand for "right" and "wrong" (loss=wdpo).
    """

    kind: str
    network: Network
    tokenizer_digest: str
    lr: float
    verdicts: tuple[int, int]

    def question(self, text: str) -> list[int]:
        """Token ids of a question, with which a text begins."""

    def message(self, text: str) -> list[int]:
        """Token ids of an agent's message."""

    def observation(self, text: str) -> list[int]:
        """Token ids of what came back."""

    def mark(self, found: Mark) -> list[int]:
        """Token ids of a mark, see `Mark`."""

    def renaming(self, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """The new id of each token id if names are exchanged at random, each for one of its kind; None: there are no names."""

    def save(self, directory: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer, which `open_backbone` can open."""


class _Tiny:
    """The tiny language model, which reads texts as the agent `tiny` does."""

    kind, lr = "tiny", 1e-3

    def __init__(self, checkpoint: str | None = None, start: str = "country") -> None:
        self._agent = TinyAgent(checkpoint, start=start)
        self.network: Network = self._agent.network
        self.tokenizer_digest: str = self._agent.describe()["tokenizer"]
        self._names = Renaming(self._agent.tokenizer)
        # Two tokens that its texts do not have, so that neither is likelier than the other to begin with.
        right, wrong = (self._agent.tokenizer.encode(sign)[0] for sign in "+x")
        self.verdicts = right, wrong

    def question(self, text: str) -> list[int]:
        return prompt_ids(self._agent.tokenizer, text, first=True)

    def message(self, text: str) -> list[int]:
        return self._agent.tokenizer.encode(text)

    def observation(self, text: str) -> list[int]:
        return prompt_ids(self._agent.tokenizer, text, first=False)

    def mark(self, found: Mark) -> list[int]:
        # Digits are single tokens, and not exchanged with others.
        return self._agent.tokenizer.encode({"new": " 1", "known": " 2", "none": " 3"}[found])

    def renaming(self, rng: np.random.Generator) -> NDArray[np.int64] | None:
        return self._names.permutation(rng)

    def save(self, directory: Path) -> None:
        self._agent.save(directory)


class _HF:
    """A causal model of Hugging Face. Texts are read as a plain transcript, without a chat template."""

    kind, lr = "hf", 1e-5

    def __init__(self, checkpoint: str, dtype: str = "float32", device: str = "auto") -> None:
        owner = "backbone 'hf'"
        check_path(owner, "checkpoint", checkpoint)
        check_dtype(owner, dtype)
        self._tokenizer = open_tokenizer(owner, checkpoint)
        model = place_model(open_model(owner, checkpoint, dtype), open_device(owner, device))
        self.network = open_network(model)
        self.tokenizer_digest = tokenizer_digest(self._tokenizer)
        self.verdicts = self._encode("Yes")[0], self._encode("No")[0]

    def question(self, text: str) -> list[int]:
        start = [] if self._tokenizer.bos_token_id is None else [self._tokenizer.bos_token_id]
        return [*start, *self._encode(f"Question: {text}\n")]

    def message(self, text: str) -> list[int]:
        return self._encode(f"{text}\n")

    def observation(self, text: str) -> list[int]:
        return self._encode(f"{text}\n") if text else []

    def mark(self, found: Mark) -> list[int]:
        return self._encode(f"Gold passages: {found}\n")

    def renaming(self, rng: np.random.Generator) -> NDArray[np.int64] | None:
        return None

    def save(self, directory: Path) -> None:
        self.network.model.save_pretrained(directory)
        self._tokenizer.save_pretrained(directory)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def open_backbone(kind: str, options: Mapping[str, Any]) -> Backbone:
    """A backbone with gradients, in evaluation mode (without dropout).

    Args:
        kind: one of `BACKBONES`.
        options: tiny: `checkpoint` (a directory) or `start` ("country", "forks"); hf: `checkpoint` (a directory or an id),
            `dtype`, `device`.

    Raises:
        ConfigError: an option that cannot be used.
        CheckpointError: the checkpoint is missing or damaged.
    """
    opened: Backbone
    factory = {"tiny": _Tiny, "hf": _HF}[choice("backbone", kind, BACKBONES)]
    opened = call_factory("backbone", kind, factory, (), dict(options))
    with torch.no_grad():
        opened.network.model.eval().requires_grad_(True)
    return opened
