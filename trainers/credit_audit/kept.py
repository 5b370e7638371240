"""The episodes of an audit in files, so that they can be looked at: what was played, what was true, what each trainer gave.

    episodes.jsonl     the episodes that all rules are scored on
    advantages.json    {"schema": 1, "episodes": [{"episode_id", "values", "advantages", "errors", "credit": {rule: […]}}]}

All lists have one number per round; `TrueCredit` says what they are. Trainers that were scored on episodes of their own are not in
these files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from searchgym.files import write_text
from searchgym.records.episode import save_episodes

from .auditing import REFERENCES, CreditAudit

__all__ = ["write_episodes"]


def write_episodes(audit: CreditAudit, directory: Path) -> list[Path]:
    """Write the two files.

    Args:
        audit: the audit.
        directory: exists.

    Returns:
        The files.
    """
    episodes, advantages = directory / "episodes.jsonl", directory / "advantages.json"
    save_episodes(episodes, audit.sampled.episodes)
    rules = [rule for rule in audit.rules if rule.shared and rule.label not in REFERENCES]
    ends = np.cumsum([len(truth.advantages_R) for truth in audit.sampled.truth])
    rows = [
        {
            "episode_id": truth.episode_id,
            "values": truth.values_R.tolist(),
            "advantages": truth.advantages_R.tolist(),
            "errors": truth.errors_R.tolist(),
            "credit": {
                rule.label: rule.credit_R[end - len(truth.advantages_R) : end].tolist() for rule in rules
            },
        }
        for truth, end in zip(audit.sampled.truth, ends, strict=True)
    ]
    write_text(advantages, json.dumps({"schema": 1, "episodes": rows}, allow_nan=False) + "\n")
    return [episodes, advantages]
