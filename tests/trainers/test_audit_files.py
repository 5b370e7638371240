"""The files of an audit for the viewer: each episode with its own values, and only rules that were scored on these episodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from searchgym.records.episode import load_episodes
from searchgym.rollouts.collection import rollout
from searchgym.trainers.credit_audit.auditing import AuditSettings, CreditAudit, RuleScore, Sampled
from searchgym.trainers.credit_audit.kept import write_episodes
from searchgym.trainers.credit_audit.scores import gather_rounds
from searchgym.trainers.credit_audit.truth import TrueCredit


def test_every_episode_has_its_own_values_in_order(toy: str, tmp_path: Path) -> None:
    episodes = rollout("SearchQA-v0", "copy", corpus=toy, split="train", episodes=3)
    lengths = [len(episode.rounds) for episode in episodes]
    truth = [
        TrueCredit.exact(
            episode.episode_id, np.full(len(episode.rounds), 0.5), np.arange(len(episode.rounds)) + 10.0 * i
        )
        for i, episode in enumerate(episodes)
    ]
    groups = [[episode] for episode in episodes]
    sampled = Sampled(groups, truth, gather_rounds(episodes, truth), "exact")
    credit_R = np.arange(sum(lengths), dtype=float)
    rules = [
        RuleScore(label, {}, {}, shared, sampled, credit_R) for label, shared in (("true advantage", True), ("grpo", True), ("capf", False))
    ]  # fmt: skip
    audit = CreditAudit(AuditSettings(), {}, {}, rules, {}, sampled, {})
    files = write_episodes(audit, tmp_path)
    assert [path.name for path in files] == ["episodes.jsonl", "advantages.json"]
    assert list(load_episodes(files[0])) == episodes
    rows = json.loads(files[1].read_text())["episodes"]
    start = 0
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        assert row["episode_id"] == episodes[i].episode_id
        assert row["advantages"] == [10.0 * i + r for r in range(length)]
        assert row["credit"] == {"grpo": list(range(start, start + length))}
        start += length
