"""Trains the packaged warm start of the tiny language model.

One run of AdamW has four consecutive phases: repeated names, lookup drills, perfect demonstrations, and demonstrations
with bad habits (see `demos`). The loss is the cross-entropy of the tokens that an agent would write, and of no others.
The learning rate rises linearly, then falls linearly.

The first three phases teach copying, which reinforcement learning cannot teach; the last one makes the choices bad, which
reinforcement learning can correct.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from searchgym.errors import ConfigError, TrainingError
from searchgym.files import forget_checksums

from .agent import TOKENIZER_FILE
from .demos import (
    Demo,
    Habits,
    Library,
    Renaming,
    build_tokenizer,
    demonstrate,
    encode_parts,
    lookup_drill,
    name_list,
)
from .model import TinyConfig, build_model, save_model
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "PHASES",
    "Progress",
    "Rate",
    "WarmupConfig",
    "batches",
    "check_warm_start",
    "optimize",
    "warm_up",
    "write_warm_start",
]

PHASES = ("names", "lookups", "episodes", "habits")
_POOL = 8  # batches are cut from a pool of this many times their size, sorted by length


@dataclass(frozen=True, slots=True)
class WarmupConfig:
    """Everything that determines the result, except the versions of torch and of the worlds.

    Attributes:
        seed: seed of weights and demonstrations.
        steps: optimizer steps of each phase, in the order of `PHASES`.
        worlds: number of worlds; their seeds are 1000 … 1000 + worlds - 1.
        questions: questions per world.
        batch_tokens: tokens per optimizer step, padding included.
        learning_rate: peak of the learning rate.
        warmup_steps: optimizer steps until the peak.
        final_rate: learning rate at the end, relative to the peak.
        width: see `TinyConfig`.
        layers: see `TinyConfig`.
        heads: query heads and key-value heads; see `TinyConfig`.
        head_dim: see `TinyConfig`.
        mlp_ratio: see `TinyConfig`.
        max_positions: see `TinyConfig`.
        rope_theta: see `TinyConfig`.
        init_std: see `TinyConfig`.
        attention_gain: initial weight of the query and key norms; a larger one makes attention sharper from the start.
        habits: flaws of the last phase.

    Raises:
        ConfigError: a value that cannot be used.
    """

    seed: int = 0
    steps: tuple[int, ...] = (300, 3_500, 3_000, 1_500)
    worlds: int = 8
    questions: int = 2_000
    batch_tokens: int = 3_072
    learning_rate: float = 2.5e-3
    warmup_steps: int = 100
    final_rate: float = 0.05
    width: int = 64
    layers: int = 3
    heads: int = 4
    head_dim: int = 16
    mlp_ratio: float = 2.0
    max_positions: int = 1024
    rope_theta: float = 100_000.0
    init_std: float = 0.08
    attention_gain: float = 1.8
    habits: Habits = Habits(rate=0.8, homonym=0.65, feedback=0.12, mishap=0.03)  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if len(self.steps) != len(PHASES) or min(self.steps) < 0 or not sum(self.steps):
            raise ConfigError(
                f"steps is {self.steps!r}: give {len(PHASES)} numbers, one per phase ({PHASES})"
            )
        if self.worlds < 1:
            raise ConfigError(f"worlds is {self.worlds!r}: demonstrations need at least one")

    def shortened(self, steps: int) -> WarmupConfig:
        """The same schedule in about this many steps (a trial run, which gives no usable model)."""
        total = sum(self.steps)
        short = tuple(max(1, round(s * steps / total)) for s in self.steps)
        return replace(self, steps=short, warmup_steps=max(1, self.warmup_steps * steps // total))


@dataclass(frozen=True, slots=True)
class Progress:
    """A report of `warm_up`; loss and accuracies are means since the last report.

    Attributes:
        step: optimizer steps done.
        total: optimizer steps in all.
        phase: the current phase.
        loss: cross-entropy per learned token, in nats.
        token_accuracy: fraction of the learned tokens whose most likely prediction is right.
        exact: fraction of the sequences in which all of them are right.
        seconds: wall time so far.
    """

    step: int
    total: int
    phase: str
    loss: float
    token_accuracy: float
    exact: float
    seconds: float


def warm_up(
    out: Path,
    config: WarmupConfig = WarmupConfig(),
    *,
    device: str = "cpu",
    report: Callable[[Progress], None] | None = None,
    report_every: int = 100,
    opened: Callable[[int], None] | None = None,
) -> list[Progress]:
    """Train a warm start and write it.

    Args:
        out: directory for model.safetensors, config.json, tokenizer.json and warmup.json. Its contents do not change
            before training is finished.
        config: see `WarmupConfig`.
        device: "cpu" or "cuda".
        report: called with each report.
        report_every: optimizer steps between reports.
        opened: called with the number of worlds opened so far.

    Returns:
        All reports.

    Raises:
        ConfigError: an unusable device or output directory; nothing was trained.
        TrainingError: the loss is not finite; nothing was written.
    """
    check_warm_start(out, device)
    tokenizer = build_tokenizer()
    shape = TinyConfig(
        vocab_size=tokenizer.size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.head_dim,
        mlp_ratio=config.mlp_ratio,
        max_positions=config.max_positions,
        rope_theta=config.rope_theta,
        init_std=config.init_std,
    )
    model: Any = build_model(shape, config.seed)  # typed loosely, as transformers types its own
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.fill_(config.attention_gain)
    model.to(device).train()
    renaming = Renaming(tokenizer)
    libraries = []
    for i in range(config.worlds):
        libraries.append(Library(1000 + i, questions=config.questions))
        if opened is not None:
            opened(i + 1)
    phases = []
    for phase, steps in zip(PHASES, config.steps, strict=True):
        draw = random.Random(f"{config.seed}/{phase}")
        make = partial(make_demo, phase, config, libraries, draw, tokenizer, renaming)
        phases.append((phase, steps, batches(make, config.batch_tokens, config.max_positions, draw)))
    rate = Rate(config.learning_rate, config.warmup_steps, config.final_rate)
    reports = optimize(model, tokenizer.pad_id, phases, rate, report, report_every)
    model.cpu().eval()
    write_warm_start(out, model, shape, tokenizer, config)
    return reports


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate that rises linearly, then falls linearly.

    Attributes:
        peak: its largest value.
        warmup_steps: optimizer steps until the peak.
        final: learning rate at the end, relative to the peak.
    """

    peak: float
    warmup_steps: int
    final: float

    def at(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0."""
        return (
            self.peak * min(1.0, (step + 1) / max(1, self.warmup_steps)) * max(self.final, 1 - step / total)
        )


def optimize(
    model: Any,
    pad: int,
    phases: Sequence[tuple[str, int, Iterator[list[Demo]]]],
    rate: Rate,
    report: Callable[[Progress], None] | None = None,
    report_every: int = 100,
) -> list[Progress]:
    """Train on demonstrations, one run of AdamW through all phases.

    Args:
        model: a model of transformers; on the device that trains it.
        pad: the padding token.
        phases: name, optimizer steps and batches of each.
        rate: the learning rate.
        report: called with each report.
        report_every: optimizer steps between reports.

    Returns:
        All reports.

    Raises:
        TrainingError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate.peak, betas=(0.9, 0.98), weight_decay=0.0)
    device = str(model.device)
    total = sum(steps for _, steps, _ in phases)
    reports: list[Progress] = []
    sums, since, started = torch.zeros(3, device=device), 0, time.perf_counter()
    step = 0
    for phase, steps, feed in phases:
        for _ in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate.at(step, total)
            sums += _train_step(model, optimizer, next(feed), pad, device)
            step, since = step + 1, since + 1
            if since == report_every or step == total:
                loss, accuracy, exact = (sums / since).tolist()
                if not loss < float("inf"):
                    raise TrainingError(
                        f"the loss is {loss} at step {step}: try a lower learning rate; nothing was written"
                    )
                reports.append(
                    Progress(step, total, phase, loss, accuracy, exact, time.perf_counter() - started)
                )
                sums, since = torch.zeros(3, device=device), 0
                if report is not None:
                    report(reports[-1])
    return reports


def make_demo(
    phase: str,
    config: WarmupConfig,
    libraries: Sequence[Library],
    draw: random.Random,
    tokenizer: Tokenizer,
    renaming: Renaming,
) -> Demo:
    """One training sequence of a phase, renamed."""
    library = draw.choice(libraries)
    if phase == "names":
        return renaming.apply(name_list(library, draw, tokenizer), draw)
    if phase == "lookups":
        return renaming.apply(lookup_drill(library, draw, tokenizer), draw)
    habits = config.habits if phase == "habits" else Habits(feedback=0.02, mishap=0.03)
    question = draw.choice(library.questions)
    parts = demonstrate(question, library.search, draw, habits)
    return renaming.apply(encode_parts(tokenizer, parts), draw)


def batches(
    make: Callable[[], Demo], batch_tokens: int, longest: int, draw: random.Random
) -> Iterator[list[Demo]]:
    """Yields batches of sequences of similar length, in random order, without end.

    Args:
        make: makes a sequence.
        batch_tokens: tokens of a batch, padding included.
        longest: longer sequences are left out.
        draw: source of the order.
    """
    while True:
        pool: list[Demo] = []
        tokens = 0
        while tokens < _POOL * batch_tokens:
            demo = make()
            if len(demo.tokens) <= longest:
                pool.append(demo)
                tokens += len(demo.tokens)
        pool.sort(key=lambda demo: len(demo.tokens))
        cut: list[list[Demo]] = [[]]
        for demo in pool:
            if (len(cut[-1]) + 1) * len(demo.tokens) > batch_tokens and cut[-1]:
                cut.append([])
            cut[-1].append(demo)
        draw.shuffle(cut)
        yield from cut


def _train_step(
    model: Any, optimizer: torch.optim.Optimizer, batch: list[Demo], pad: int, device: str
) -> Tensor:
    """One update; returns loss, token accuracy and fraction of exact sequences as a tensor."""
    longest = max(len(demo.tokens) for demo in batch)
    ids_BT = torch.tensor([demo.tokens + [pad] * (longest - len(demo.tokens)) for demo in batch]).to(device)
    mask_BT = torch.tensor([demo.mask + [0] * (longest - len(demo.mask)) for demo in batch]).to(device)
    learned_BT = mask_BT[:, 1:].bool()
    # Padding is on the right, so the causal mask keeps it out of the context of every learned token.
    hidden_NW = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1][learned_BT]
    logits_NV = model.lm_head(hidden_NW)
    target_N = ids_BT[:, 1:][learned_BT]
    loss = nn.functional.cross_entropy(logits_NV, target_N)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        right_N = (logits_NV.argmax(-1) == target_N).float()
        row_N = learned_BT.nonzero()[:, 0]
        exact_B = torch.ones(len(batch), device=right_N.device).scatter_reduce(0, row_N, right_N, "amin")
        return torch.stack([loss.detach(), right_N.mean(), exact_B.mean()])


def check_warm_start(out: Path, device: str) -> None:
    """Refuse what a warm start cannot be trained on or written to.

    Args:
        out: directory of the result.
        device: device of torch.

    Raises:
        ConfigError: a file, or a device that is not available.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"cannot write a warm start to {out}: it is a file, give a directory")
    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise ConfigError(f"device {device!r} is not available here: use 'cpu'")


def write_warm_start(
    out: Path, model: Any, shape: TinyConfig, tokenizer: Tokenizer, config: DataclassInstance
) -> None:
    """Write a warm start in one step.

    Args:
        out: the directory.
        model: the model.
        shape: its shape.
        tokenizer: its tokenizer.
        config: how it was trained.
    """

    def fill(folder: Path) -> None:
        save_model(model, shape, folder)
        tokenizer.save(folder / TOKENIZER_FILE)
        made = {"config": asdict(config), "torch": torch.__version__}
        (folder / "warmup.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")

    _write(out, fill)


def _write(out: Path, fill: Callable[[Path], None]) -> None:
    """Fill a directory next to `out`, then move its files: an interrupted run leaves `out` unchanged."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        fill(work)
        out.mkdir(exist_ok=True)
        forget_checksums(out)
        for file in sorted(work.iterdir()):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
