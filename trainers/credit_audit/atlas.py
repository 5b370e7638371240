"""The atlas: every trainer's credit on every family of the corpus `forks`, for policies of several strengths and judges."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from searchgym.agents.candidate import CandidateAgent
from searchgym.agents.policy import Policy
from searchgym.corpora.forks import FAMILIES
from searchgym.env.config import EnvConfig
from searchgym.env.vector import make_vec
from searchgym.errors import ConfigError, RunDirectoryError, UnknownIdError
from searchgym.files import read_json, write_text

from ..core.registry import trainer_label
from ..training.api import train
from .atlas_report import FIDELITY, GRADIENT, START, STRENGTHS, atlas_markdown, draw_atlas
from .auditing import AuditSettings, audit_credit
from .monte_carlo import Precision, needed_continuations
from .opening import open_run, open_trainers
from .report import audit_json
from .sampling import Method, open_graphs

__all__ = ["AtlasSettings", "make_atlas"]

_POLICY = {"start": "lookup", "memory": False}
_TRAINING = {"trainer": "grpo", "agent": "candidate", "agent_options": _POLICY, "lr": 0.1, "questions": 16}
"""What the later policies are trained with."""
_NOISE = (0.1, 0.3)
"""Shares of flipped verdicts."""


@dataclass(frozen=True)
class AtlasSettings:
    """What the atlas covers.

    Attributes:
        trainers: registered names or file.py:Class; empty: all.
        families: families; empty: all.
        questions: of each family.
        group_size: episodes per question.
        seed: of questions and episodes.
        method: "exact" or "monte-carlo"; without enumeration there is no true gradient.
        error: standard error where values are estimated.
        iterations: of `grpo` until the late policy, half of them until the middle one; 0: the start alone.
        judges: judges beside the oracle, for the trainers that read verdicts.
    """

    trainers: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    questions: int = 25
    group_size: int = 8
    seed: int = 0
    method: Method = "exact"
    error: float = 0.1
    iterations: int = 8
    judges: tuple[str, ...] = ("rules",)


def make_atlas(
    settings: AtlasSettings, out: Path, command: str, on_progress: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Audit, and write atlas.md, atlas.json and the plots.

    Families that atlas.json holds already, made with the same settings, are not audited again.

    Args:
        settings: what to cover.
        out: is created.
        command: the command that makes it.
        on_progress: called with what is being done.

    Returns:
        The files.

    Raises:
        UnknownIdError: an unknown family or trainer.
        ConfigError: a judge that cannot be used there, or an odd number of iterations.
        RunDirectoryError: `out` holds an atlas with other settings.
    """
    for family in settings.families:
        if family not in FAMILIES:
            raise UnknownIdError("family", family, FAMILIES)
    Precision(settings.error, 2**31).check()
    if settings.iterations % 2:
        raise ConfigError(
            f"iterations is {settings.iterations} and the middle policy is the one after half of them: give an even number"
        )
    for judge in settings.judges:
        _open_world("decoys", judge)
    out.mkdir(parents=True, exist_ok=True)
    data = out / "atlas.json"
    made = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items() if k != "families"}
    atlas: dict[str, Any] = (
        read_json(data) if data.exists() else {"schema": 2, "settings": made, "families": {}}
    )
    if atlas.get("settings") != made:
        raise RunDirectoryError(f"{data} was made with other settings: give another --out, or remove it")
    for family in settings.families or FAMILIES:
        if family in atlas["families"]:
            continue
        started = time.process_time()
        audits = _audit_family(family, settings, on_progress)
        atlas["families"][family] = {"audits": audits, "seconds": time.process_time() - started}
        write_text(data, json.dumps(atlas, indent=1) + "\n")
    report = out / "atlas.md"
    write_text(report, atlas_markdown(atlas, command))
    starts = {family: found["audits"][START] for family, found in atlas["families"].items()}
    gradients = any(rule["gradient"] for audit in starts.values() for rule in audit["rules"])
    plots = [out / name for name in (FIDELITY, GRADIENT) if gradients or name != GRADIENT]
    for plot in plots:
        draw_atlas(starts, plot)
    return [report, data, *plots]


def _open_world(family: str, judge: str) -> EnvConfig:
    corpus = {"name": "forks", "family": family}
    return make_vec("SearchQA-Forks-v0", 1, corpus=corpus, split="train", judge=judge).config


def _audit_family(family: str, settings: AtlasSettings, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """The audits of a family: `START`, the later policies, and "judge NAME" of the initial policy."""
    config = _open_world(family, "oracle")
    made_with = AuditSettings(
        questions=settings.questions,
        group_size=settings.group_size,
        method=settings.method,
        error=settings.error,
        continuations=max(16, needed_continuations(settings.error)),
        seed=settings.seed,
    )
    graphs = open_graphs(config, made_with) if settings.method == "exact" else None

    def audit(
        label: str,
        policy: Policy,
        config: EnvConfig,
        trainers: tuple[str, ...],
        noise: tuple[float, ...] = (),
    ) -> dict[str, Any]:
        opened, refused = open_trainers(trainers, {}, settings.group_size, config)
        found = audit_credit(
            policy,
            config,
            opened,
            replace(made_with, judge_noise=noise),
            lambda doing: on_progress(f"{family}, {label}: {doing}"),
            graphs=graphs,
        )
        saved = audit_json(found)
        saved["left_out"] |= refused
        saved["em"] = float(np.mean([episode.outcome.em for episode in found.sampled.episodes]))
        return saved

    start = CandidateAgent(memory=False, start="lookup")
    audits = {START: audit(START, start, config, settings.trainers, _NOISE)}
    for label, policy in _train_later(family, settings, on_progress):
        audits[label] = audit(label, policy, config, settings.trainers)
    judged = {
        rule["label"] for rule in audits[START]["rules"] if rule["cost_per_100_episodes"]["judge_calls"]
    }
    names = settings.trainers or tuple(sorted(judged))
    named = tuple(name for name in names if trainer_label(name) in judged)
    for judge in settings.judges if named else ():
        audits[f"judge {judge}"] = audit(f"judge {judge}", start, _open_world(family, judge), named)
    return audits


def _train_later(
    family: str, settings: AtlasSettings, on_progress: Callable[[str], None]
) -> list[tuple[str, Policy]]:
    """The middle and the late policy of a training run."""
    if not settings.iterations:
        return []
    on_progress(f"{family}: training the later policies")
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            {
                **_TRAINING,
                "env": "SearchQA-Forks-v0",
                "env_options": {"corpus": {"name": "forks", "family": family}},
                "seed": settings.seed,
                "iterations": settings.iterations,
                "checkpoint_every": settings.iterations // 2,
                "keep_checkpoints": 3,
                "eval_episodes": 0,
                "threads": 1,
            },
            Path(folder) / "run",
            browsable=False,
        )
        policies = [loaded.policy for _, loaded in open_run(run.run_dir, 3, {}, {})]
    return list(zip(STRENGTHS[1:], policies[1:], strict=True))
