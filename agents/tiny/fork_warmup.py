"""Trains the warm start of the tiny language model on the questions of the corpus `forks`.

The packaged warm start continues with demonstrations of `fork_demos`, on a corpus of another seed than the default one, with
names exchanged anew for each, in two phases: indifferent choices, from which it learns which acts there are and to copy
exactly, and then some episodes that are right among the others, from which it learns that right answers are likely enough
for reinforcement learning to begin. Each phase has an optimizer and a schedule of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from searchgym.corpora.bm25.index import BM25
from searchgym.corpora.forks import Forks
from searchgym.errors import RetrievalError
from searchgym.records.retriever import CachedRetriever, Hit

from .agent import TinyAgent
from .demos import Demo, Renaming, encode_parts
from .fork_demos import Choices, demonstrate_fork
from .warmup import Progress, Rate, batches, check_warm_start, optimize, write_warm_start

__all__ = ["ForkWarmupConfig", "warm_up_forks"]

_PHASES = ("forks", "mixed")


@dataclass(frozen=True, slots=True)
class ForkWarmupConfig:
    """Everything that determines the result, except the versions of torch and of the corpus.

    Attributes:
        seed: seed of the demonstrations.
        steps: optimizer steps of the two phases.
        learning_rate: peak of the learning rate of each phase.
        choices: how likely each act of a demonstration is, in each phase.
        corpus_seed: seed of the corpus; 0, the default one, must stay unseen.
        questions: number of questions, all families in turn.
        batch_tokens: tokens per optimizer step, padding included.
        warmup_steps: optimizer steps until the peak.
        final_rate: learning rate at the end of a phase, relative to its peak.
    """

    seed: int = 0
    steps: tuple[int, int] = (1_500, 300)
    learning_rate: tuple[float, float] = (2e-3, 1e-3)
    choices: tuple[Choices, Choices] = (Choices(), Choices(right=0.2))
    corpus_seed: int = 1000
    questions: int = 1_600
    batch_tokens: int = 3_072
    warmup_steps: int = 50
    final_rate: float = 0.05

    def shortened(self, steps: int) -> ForkWarmupConfig:
        """The same schedule in about this many steps (a trial run, which gives no usable model)."""
        first, second = (max(1, round(steps * s / sum(self.steps))) for s in self.steps)
        return replace(self, steps=(first, second), warmup_steps=max(1, self.warmup_steps * steps // 1_800))


def warm_up_forks(
    out: Path,
    config: ForkWarmupConfig = ForkWarmupConfig(),
    *,
    device: str = "cpu",
    report: Callable[[Progress], None] | None = None,
    report_every: int = 100,
) -> list[Progress]:
    """Train a warm start and write it.

    Args:
        out: directory for model.safetensors, config.json, tokenizer.json and warmup.json. Its contents do not change
            before training is finished.
        config: see `ForkWarmupConfig`.
        device: "cpu" or "cuda".
        report: called with each report.
        report_every: optimizer steps between reports.

    Returns:
        All reports.

    Raises:
        ConfigError: an unusable device or output directory; nothing was trained.
        TrainingError: the loss is not finite; nothing was written.
    """
    check_warm_start(out, device)
    corpus = Forks(seed=config.corpus_seed, train=config.questions, dev=0, test=0)
    retriever = CachedRetriever(BM25.build(corpus, b=0.0), size=2**30)
    questions = corpus.questions("train")
    agent = TinyAgent()
    renaming = Renaming(agent.tokenizer)

    def search(query: str) -> Sequence[Hit]:
        (result,) = retriever.search([query], 1)
        if isinstance(result, RetrievalError):
            raise result
        return result

    def make(choices: Choices, draw: random.Random) -> Demo:
        parts = demonstrate_fork(draw.choice(questions), search, draw, choices)
        return renaming.apply(encode_parts(agent.tokenizer, parts), draw)

    model = agent.model
    model.to(device).train()  # type: ignore[arg-type]  # transformers types it narrowly
    reports = []
    for phase, steps, peak, choices in zip(
        _PHASES, config.steps, config.learning_rate, config.choices, strict=True
    ):
        draw = random.Random(f"{config.seed}/{phase}")
        feed = batches(partial(make, choices, draw), config.batch_tokens, agent.config.max_positions, draw)
        rate = Rate(peak, config.warmup_steps, config.final_rate)
        reports += optimize(model, agent.tokenizer.pad_id, [(phase, steps, feed)], rate, report, report_every)
    model.cpu().eval()  # type: ignore[no-untyped-call]
    write_warm_start(out, model, agent.config, agent.tokenizer, config)
    return reports
