"""The options of the agent `tiny`."""

from __future__ import annotations

from dataclasses import dataclass

from searchgym.options import boolean, integer, number

__all__ = ["TinyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyOptions:
    """Keyword arguments of `TinyAgent`.

    Attributes:
        seed: seed of the sampling.
        temperature: temperature of the sampling.
        top_p: probability mass of the nucleus that is sampled from; below 1 only for evaluation.
        greedy: take the most likely token.
        max_new_tokens: longest act in tokens; a longer one is sent as far as it got (the environment calls it invalid).
        max_context: longest episode in tokens; beyond it the episode ends with `StopReason.TOKEN_BUDGET`. None: all
            positions of the model.
        history: number of earlier rounds (act and observation) in the context of a round; None: all, in one growing
            context.

    Raises:
        ConfigError: a value of another type. What a value may be is checked by what it is for.
    """

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False
    max_new_tokens: int = 48
    max_context: int | None = None
    history: int | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "max_new_tokens"):
            integer(name, getattr(self, name))
        for name in ("max_context", "history"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name))
        for name in ("temperature", "top_p"):
            number(name, getattr(self, name))
        boolean("greedy", self.greedy)
