"""SkillRL: GRPO with a skill bank in the prompt, which grows where the policy fails.

Source: SkillRL, arXiv 2602.08234, and its code, aiming-lab/SkillRL at 48c8446, as summarised by a third party:

    prompt  = question + the six most fitting skills of the bank (general, task, common mistakes)
    success = share of successes of a kind of question
    success < 0.4  →  the bank gets at most three new skills, distilled from episodes of that kind
    advantages and loss are GRPO's

The agent must be `memory` with the memory `skills` (searchgym/agents/memory): it shows the skills, and saves the bank with the weights.

Departures:
1. [OURS] Success is measured on the episodes of the iteration, by question type. The paper uses a validation set, which an
   algorithm does not see here.
2. [OURS] Skills are written by rules; see searchgym/agents/memory/skills.py, with the other departures of the bank.
3. The cold start by supervised fine-tuning is the trainer `sft`.
4. Under the control `permute_rewards` the bank still grows from what really succeeded.
5. The bank of an iteration is the one that its episodes were played with: it is updated after they are collected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from searchgym.agents.memory.skills import SkillBank
from searchgym.agents.policy import Policy
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode

from ...config import option
from ...core.algorithm import TrainContext
from ...core.credit import Credit
from ...core.groups import Group, Groups
from ...core.tasks import TaskSampler
from ..grpo import GRPO, GRPOSettings
from .remembered import find_memory

__all__ = ["SkillRL", "SkillRLSettings"]


@dataclass(frozen=True)
class SkillRLSettings(GRPOSettings):
    """Settings of `SkillRL`; those of GRPO first."""

    threshold: float = option(
        0.4, "a kind of question gets new skills while its success is below this", low=0.0, high=1.0
    )


class SkillRL(GRPO):
    """GRPO with a growing skill bank; see the head of this file."""

    settings_class = SkillRLSettings
    settings: SkillRLSettings

    def check_policy(self, policy: Policy) -> None:
        if find_memory(policy, SkillBank) is None:
            raise ConfigError(
                f"skillrl needs an agent with the memory 'skills', and {policy.name!r} has none: use --agent memory "
                "--agent-option agent=NAME --agent-option memory=skills"
            )

    def changes_memory(self, policy: Policy) -> bool:
        return True

    def setup(self, context: TrainContext) -> None:
        super().setup(context)
        self._bank = find_memory(context.policy, SkillBank)
        self._metrics: dict[str, float] = {}

    def collect(self, policy: Policy, envs: SearchVectorEnv, tasks: TaskSampler) -> Sequence[Group]:
        groups = super().collect(policy, envs, tasks)
        self._update([episode for group in groups for episode in group if episode.valid_for_training])
        return groups

    def credit(self, groups: Groups) -> Credit:
        credit = super().credit(groups)
        credit.metrics.update(self._metrics)
        return credit

    def _update(self, episodes: list[Episode]) -> None:
        if self._bank is None:
            return
        kinds: defaultdict[str, list[Episode]] = defaultdict(list)
        for episode in episodes:
            kinds[str(episode.extra.get("type", ""))].append(episode)
        new = 0
        for kind in sorted(kinds):
            success = sum(episode.outcome.em for episode in kinds[kind]) / len(kinds[kind])
            if success < self.settings.threshold:
                new += self._bank.update(kinds[kind])
        self._metrics = {"skills": float(len(self._bank.skills)), "new_skills": float(new)}
