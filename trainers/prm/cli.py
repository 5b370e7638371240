"""`searchgym prm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from searchgym.cli.command import Group, option
from searchgym.cli.console import Console, say, text
from searchgym.cli.options import (
    AGENT,
    ENVIRONMENT,
    JUDGE,
    OUTPUT,
    agent_option,
    config_option,
    env_arguments,
    env_options,
    judge_options,
    judge_spec,
    parse_pairs,
    read_spec,
    sampling_options,
)
from searchgym.errors import ConfigError, MissingExtraError

__all__ = ["prm"]

_LABELS, _TRAINING = "Labels", "Training"
_PLACE = click.Path(path_type=Path)


@click.group(cls=Group)
def prm() -> None:
    """Label rounds, train a step reward model on them, and audit it."""


@prm.command("label")
@option(
    "--method",
    type=click.Choice(["exact", "monte-carlo", "mcts", "judge", "preferences"]),
    group=_LABELS,
    show_default="exact for agents that list their acts, else monte-carlo",
    help="True values by enumeration or by continuations, values of search trees, a judge's scores, or a file of preferences.",
)
@option(
    "--episodes",
    type=_PLACE,
    group=_LABELS,
    show_default="they are played now",
    help="Label these recorded episodes (JSONL); --agent plays their continuations.",
)
@option(
    "--preferences",
    type=_PLACE,
    group=_LABELS,
    help='JSON lines {"better": [episode id, round], "worse": [episode id, round]} about --episodes.',
)
@option(
    "--error",
    type=float,
    default=0.25,
    show_default=True,
    group=_LABELS,
    help="Standard error of an advantage (monte-carlo).",
)
@option(
    "--continuations",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    group=_LABELS,
    help="Continuations of each state at most (monte-carlo).",
)
@option(
    "--tree",
    "tree_pairs",
    metavar="KEY=VALUE",
    multiple=True,
    group=_LABELS,
    help="The search tree of each question (mcts): simulations, width, rule, exploration or discount. Repeatable.",
)
@option("--agent", default="candidate", show_default=True, group=AGENT, help="Agent that plays.")
@agent_option
@env_options(default_split="train")
@judge_options
@sampling_options(group_size=4, least=1)
@option(
    "--out",
    type=_PLACE,
    required=True,
    group=OUTPUT,
    help="Directory of the labels. Continuations are kept there: repeat an interrupted command, and it continues.",
)
@config_option
def label(
    method: str | None,
    episodes: Path | None,
    preferences: Path | None,
    tree_pairs: tuple[str, ...],
    agent: str,
    agent_options: tuple[str, ...],
    env_id: str,
    env_pairs: tuple[str, ...],
    corpus: str | None,
    retriever: str | None,
    split: str,
    judge: str | None,
    judge_pairs: tuple[str, ...],
    out: Path,
    **settings: Any,
) -> None:
    """Label the rounds of episodes with what they are worth."""
    _need_torch("searchgym prm label")
    from searchgym.agents.options import read_options

    from ..components.search_tree import TreeOptions
    from .labelling import LabelRequest, make_labels
    from .labels import LABELS_FILE

    if (out / LABELS_FILE).exists():
        raise ConfigError(f"{out} holds labels already: give another --out")
    request = LabelRequest(
        method=method,
        agent=agent,
        agent_options=parse_pairs("--agent-option", agent_options),
        env=env_id,
        env_options={**env_arguments(env_pairs, corpus=corpus, retriever=retriever), "split": split},
        judge=judge_spec(judge, judge_pairs),
        episodes=episodes,
        preferences=preferences,
        tree=read_options("--tree", TreeOptions, parse_pairs("--tree", tree_pairs)) if tree_pairs else None,
        **settings,
    )
    with Console(stderr=True).status("labels") as status:
        made = make_labels(request, out, lambda doing: status.update(text(f"labels: {doing}")))
    made.save(out)
    say(f"{made.count} labels ({made.kind}) of {len(made.episodes)} episodes: {out}")


@prm.command("train")
@option(
    "--labels", "labels_directory", type=_PLACE, required=True, group=_LABELS, help="Directory of labels."
)
@option(
    "--backbone",
    default="tiny",
    show_default=True,
    group=_TRAINING,
    help="Model that is trained: tiny or hf.",
)
@option(
    "--backbone-option",
    "backbone_pairs",
    metavar="KEY=VALUE",
    multiple=True,
    group=_TRAINING,
    help="tiny: start=forks or checkpoint=DIR; hf: checkpoint=DIR|ID, dtype, device. Repeatable.",
)
@option(
    "--set",
    "settings_pairs",
    metavar="KEY=VALUE",
    multiple=True,
    group=_TRAINING,
    help="loss (bce, mse, pairwise, wdpo), epochs, lr, batch_tokens, weight_decay, validation, margin, centring, beta, rename, reference or seed. Repeatable.",
)
@option("--threads", type=click.IntRange(1), group=_TRAINING, help="Threads of torch.")
@option(
    "--out",
    type=_PLACE,
    required=True,
    group=OUTPUT,
    help="Directory of the model. Repeat an interrupted command, and it continues.",
)
@config_option
def train(
    labels_directory: Path,
    backbone: str,
    backbone_pairs: tuple[str, ...],
    settings_pairs: tuple[str, ...],
    threads: int | None,
    out: Path,
) -> None:
    """Train a step reward model on labels."""
    _need_torch("searchgym prm train")
    import torch

    from searchgym.agents.options import read_options

    from .backbones import open_backbone
    from .labels import StepLabels
    from .settings import PRMSettings
    from .training import train_reward_model

    if threads:
        torch.set_num_threads(threads)
    settings = read_options("searchgym prm train", PRMSettings, parse_pairs("--set", settings_pairs))
    labels = StepLabels.load(labels_directory)
    opened = open_backbone(backbone, parse_pairs("--backbone-option", backbone_pairs))
    train_reward_model(labels, opened, out, settings, _say_epoch)
    say(f"written: {out}")


@prm.command("audit")
@option(
    "--labels",
    "labels_directory",
    type=_PLACE,
    required=True,
    group=_LABELS,
    help="Directory of labels from true values, best of questions that no audited model has seen.",
)
@option(
    "--judge",
    "judges",
    metavar="SPEC",
    multiple=True,
    required=True,
    group=JUDGE,
    help='Judge to audit: a registered name or JSON, e.g. \'{"name": "prm", "model": "DIR"}\'. Repeatable.',
)
@option(
    "--corpus",
    metavar="SPEC",
    group=ENVIRONMENT,
    help="Corpus of the episodes, for judges that need it.",
)
@option("--json", "as_json", is_flag=True, group=OUTPUT, help="Print JSON.")
@config_option
def audit(labels_directory: Path, judges: tuple[str, ...], corpus: str | None, as_json: bool) -> None:
    """AUC of judges against the sign of the true advantage, with 95 % intervals over questions."""
    _need_torch("searchgym prm audit")
    from searchgym.audit.auditing import ready_judge
    from searchgym.specs import open_corpus

    from .auditing import audit_judges
    from .labels import StepLabels

    labels = StepLabels.load(labels_directory)
    opened = open_corpus(read_spec(corpus)) if corpus is not None else None
    if opened is not None and {e.env.get("corpus_hash") for e in labels.episodes} != {opened.hash}:
        raise ConfigError(
            f"--corpus {corpus} is not the corpus of the episodes in {labels_directory}: name theirs"
        )
    ready = {label: ready_judge(spec, opened) for label, spec in _read_judges(judges).items()}
    with Console(stderr=True).status("audit") as status:
        rows = audit_judges(labels, ready, lambda name: status.update(text(f"judge {name}")))
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows]))
        return
    table = Table(title=f"Judges against the sign of the true advantage: {rows[0].rounds} decided rounds")
    for column in ("judge", "AUC", "rank correlation", "rounds", "positive", "errors"):
        table.add_column(column, justify="left" if column == "judge" else "right")
    for row in rows:
        cells = (str(row.auc), f"{row.spearman:.3f}", str(row.rounds), f"{row.positive:.1%}", str(row.errors))
        table.add_row(row.judge, *cells)
    Console().print(table)


def _read_judges(given: tuple[str, ...]) -> dict[str, str | dict[str, Any]]:
    """The judges by name; by their whole spec where a name occurs twice."""
    specs = [spec if isinstance(spec := read_spec(text, "judge"), str) else dict(spec) for text in given]
    names = [spec if isinstance(spec, str) else str(spec.get("name", "")) for spec in specs]
    labels = [name if names.count(name) == 1 else whole for name, whole in zip(names, given, strict=True)]
    return dict(zip(labels, specs, strict=True))


def _say_epoch(row: dict[str, float]) -> None:
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in row.items() if name != "epoch"
    )
    say(f"epoch {row['epoch']:.0f}: {figures}")


def _need_torch(command: str) -> None:
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(command, "torch", "train") from error
