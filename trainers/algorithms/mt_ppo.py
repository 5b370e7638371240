"""MT-PPO: PPO with a reward in every round; the process-supervised baseline of CW-GRPO.

Source: the baseline of that name in the code of CW-GRPO (arXiv 2604.14267, zsxmwjz/CW-GRPO at 11508ad). With u_t the
judge's retrieval utility of round t, the rounds counted from 1:

    r_t = 0.3 u_t + (0.1 if the round is one valid act, else −0.2) − 0.1 t            for every round but the last
    r_T = 1 if the answer is right (EM), 0.2 if it is wrong, −1 if there is none

The environment pays it (`reward=mt_ppo`, see docs/rewards.md); credit and loss are `ppo.py`'s with γ = λ = 1 and one
episode per question.

Departures, in addition to those of ppo.py:
1. Scaled down: the released runs have 128 questions per iteration in 4 minibatches, learning rates of 1e-6 for the
   policy and 1e-5 for the critic, and a critic warm-up over 1.5 % of the run. Here questions, minibatches and lr are
   options of the run, `value_lr` is 1, and there is no warm-up.
2. An episode that answers without any search is paid like any other; the released code pays it 0.
3. A verdict that failed makes the episode invalid for training; the released judge gives 0 after three tries.
"""

from __future__ import annotations

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError

from .ppo import PPO

__all__ = ["MTPPO"]


class MTPPO(PPO):
    """PPO on the reward term `mt_ppo`; see the head of this file."""

    audit_env = {"reward": {"mt_ppo": 1.0}, "judge_when": "step"}  # noqa: RUF012  (read only)

    def configure_env(self, env_config: EnvConfig) -> EnvConfig:
        if "mt_ppo" not in env_config.reward:  # the term itself requires a judge that runs in every step
            raise ConfigError(
                f"mt-ppo learns from the reward term 'mt_ppo', and this environment pays {', '.join(env_config.reward)}: "
                "add --env-option reward=mt_ppo --env-option judge=oracle, or another judge"
            )
        return env_config
