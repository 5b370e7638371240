"""`searchgym warmup`: recreate a warm start of the tiny language model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from searchgym.cli.command import Command, option
from searchgym.cli.console import say
from searchgym.cli.options import config_option
from searchgym.cli.progress import progress_bar
from searchgym.errors import MissingExtraError

if TYPE_CHECKING:
    from .warmup import Progress as Report

__all__ = ["warmup"]


@click.command(cls=Command)
@option("--out", type=click.Path(path_type=Path), required=True, help="Directory to write the warm start to.")
@option(
    "--task",
    type=click.Choice(["country", "forks"]),
    default="country",
    show_default=True,
    help="What to train for: the generated country, from nothing, or the corpus forks, from the packaged warm start.",
)
@option("--seed", default=0, show_default=True, help="Random seed of the weights and the demonstrations.")
@option("--steps", type=int, help="Shorten the schedule to about this many optimizer steps, for a trial run.")
@option(
    "--threads",
    default=1,
    show_default=True,
    help="CPU threads of torch; more than one rarely helps.",
)
@option("--device", default="cpu", show_default=True, help="Device of torch: cpu or cuda.")
@config_option
def warmup(out: Path, task: str, seed: int, steps: int | None, threads: int, device: str) -> None:
    """Recreate a warm start of the tiny language model.

    Trains the model on demonstrations from generated worlds other than the default one. The warm starts of the package
    were made by `searchgym warmup --seed 1` and `searchgym warmup --task forks`. Nothing is written until training is finished, so an interrupted run leaves
    --out unchanged. On a CPU with one thread, the result depends only on the options and the versions of torch and
    searchgym.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym warmup", "torch", "train") from error
    from .fork_warmup import ForkWarmupConfig, warm_up_forks
    from .warmup import WarmupConfig, warm_up

    torch.set_num_threads(threads)
    with progress_bar(transient=False) as progress:
        bar = progress.add_task("steps", total=None)

        def report(now: Report) -> None:
            progress.update(
                bar, completed=now.step, total=now.total, description=f"{now.phase}: loss {now.loss:.3f}"
            )
            progress.console.print(
                f"step {now.step} {now.phase}: loss {now.loss:.4f}, token accuracy {now.token_accuracy:.4f}, "
                f"sequence accuracy {now.exact:.4f}, {now.seconds:.0f} s"
            )

        if task == "forks":
            forks = ForkWarmupConfig(seed=seed)
            warm_up_forks(
                out, forks if steps is None else forks.shortened(steps), device=device, report=report
            )
        else:
            config = dataclasses.replace(WarmupConfig(), seed=seed)
            worlds = progress.add_task("worlds", total=config.worlds)
            warm_up(
                out,
                config if steps is None else config.shortened(steps),
                device=device,
                report=report,
                opened=lambda n: progress.update(worlds, completed=n),
            )
    say(f"wrote {out}")
