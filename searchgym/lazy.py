"""Names that are imported on first use, so that importing a package stays cheap; and old paths of modules that moved."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "MovedModules", "lazy_exports"]

MOVED = {
    f"searchgym.{old}": f"searchgym.{new}"
    for old, new in {
        "acts": "records.acts",
        "budgets": "rollouts.budgets",
        "episode": "records.episode",
        "evaluation": "rollouts.evaluation",
        "judging": "env.judging",
        "lookup": "env.lookup",
        "opening": "specs",
        "question": "records.question",
        "rescoring": "rollouts.rescoring",
        "retriever": "records.retriever",
        "round_record": "records.round_record",
        "sources": "options.sources",
        "vector": "env.vector",
        "verdict": "records.verdict",
        "judges.audit": "audit.auditing",
        "judges.prompt": "judges.llm.prompt",
        "judges.reading": "judges.llm.replies",
        "corpora.hub": "corpora.datasets.hub",
        "corpora.indexes": "corpora.indexing.backend",
        "corpora.jsonl": "corpora.datasets.jsonl",
        "agents.candidates": "agents.candidate.features",
        "agents.chat": "agents.hf.chat",
        "agents.evidence": "agents.planner.evidence",
        "agents.model": "agents.tiny.model",
        "agents.network": "agents.lm.network",
        "agents.streams": "agents.rng_streams",
        "agents.tokenizer": "agents.tiny.tokenizer",
        "trainers.alarms": "trainers.runs.alarms",
        "trainers.algorithm": "trainers.core.algorithm",
        "trainers.answer_probes": "trainers.components.answer_probes",
        "trainers.batch": "trainers.core.batch",
        "trainers.capf": "trainers.algorithms.capf",
        "trainers.compared_acts": "trainers.components.compared_acts",
        "trainers.credit": "trainers.core.credit",
        "trainers.cw_grpo": "trainers.algorithms.cw_grpo",
        "trainers.dry_run": "trainers.planning.dry_run",
        "trainers.failures": "trainers.learner.failures",
        "trainers.gigpo": "trainers.algorithms.gigpo",
        "trainers.groups": "trainers.core.groups",
        "trainers.grpo": "trainers.algorithms.grpo",
        "trainers.mt_ppo": "trainers.algorithms.mt_ppo",
        "trainers.objective": "trainers.core.objective",
        "trainers.ppo": "trainers.algorithms.ppo",
        "trainers.preference": "trainers.components.preference",
        "trainers.registry": "trainers.core.registry",
        "trainers.reinforce": "trainers.algorithms.reinforce",
        "trainers.rollouts": "trainers.core.rollouts",
        "trainers.round_scores": "trainers.components.round_scores",
        "trainers.search_tree": "trainers.components.search_tree",
        "trainers.sft": "trainers.algorithms.sft",
        "trainers.tasks": "trainers.core.tasks",
        "trainers.trajectory_pairs": "trainers.components.trajectory_pairs",
    }.items()
}
"""Module paths that the documentation has named, and where their contents are now."""


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` (PEP 562) of a package that offers names of its submodules.

    Args:
        package: `__name__` of the package.
        modules: public name -> submodule that defines it, relative to the package.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{modules[name]}", package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names


class MovedModules:
    """Finds the modules of `MOVED`, for `sys.meta_path`: a finder and loader without their ABCs, which are slow to import.

    An old path imports with a `DeprecationWarning` and gives what the new module has.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a moved module; None for all others."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None  # type: ignore[arg-type]  # no ABC

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the creation to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module: every name is looked up in the new one."""
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        target = import_module(new)

        def get(name: str) -> Any:
            return getattr(target, name)

        module.__getattr__ = get  # type: ignore[method-assign]
