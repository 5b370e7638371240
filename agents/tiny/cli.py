"""`searchgym warmup`: train the tiny language model's warm start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from searchgym.cli.options import config_option
from searchgym.errors import MissingExtraError

if TYPE_CHECKING:
    from .warmup import Progress as Report

__all__ = ["warmup"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Directory to write the warm start to."
)
@click.option("--seed", default=0, show_default=True, help="Random seed of weights and demonstrations.")
@click.option(
    "--steps", type=int, default=None, help="Approximate number of optimizer steps, for a trial run."
)
@click.option(
    "--threads", default=1, show_default=True, help="CPU threads for torch; more than one rarely helps."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@config_option
def warmup(out: Path, seed: int, steps: int | None, threads: int, device: str) -> None:
    """Train the tiny language model's warm start from demonstrations.

    The packaged one was made with `searchgym warmup --seed 0`. Its demonstrations do not show the default world. The
    output is written when training is finished, so an interrupted run leaves --out unchanged. On a CPU with one thread
    the result depends only on the options and the versions of torch and searchgym.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("searchgym warmup", "torch", "train") from error
    from .warmup import WarmupConfig, warm_up

    torch.set_num_threads(threads)
    config = dataclasses.replace(WarmupConfig(), seed=seed)
    if steps is not None:
        config = config.shortened(steps)
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        worlds = progress.add_task("worlds", total=config.worlds)
        bar = progress.add_task("steps", total=sum(config.steps))

        def report(now: Report) -> None:
            progress.update(bar, completed=now.step, description=f"{now.phase}: loss {now.loss:.3f}")
            progress.console.print(
                f"step {now.step} {now.phase}: loss {now.loss:.4f}, tokens right {now.token_accuracy:.4f}, "
                f"sequences right {now.exact:.4f}, {now.seconds:.0f} s"
            )

        warm_up(
            out,
            config,
            device=device,
            report=report,
            opened=lambda n: progress.update(worlds, completed=n),
        )
    click.echo(f"wrote {out}")
