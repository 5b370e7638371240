"""REINFORCE: the policy gradient with nothing added. Read this file first.

Source: Williams, Machine Learning 8 (1992); the reward still to come in place of the whole: Sutton et al., NIPS 1999.
Round t of an episode is paid r_t. Every token sampled in round t gets

    R_t = Σ_{k≥t} γ^{k−t} r_k                        the reward still to come
    A_t = R_t − b                                    b: the mean of R_t over all tokens of the iteration
    L   = − mean over all tokens of A_t · log π_θ(token | everything before it)

and the weights take a step down the gradient of L: tokens followed by more reward than usual become more likely.
`naked_loop` is the whole algorithm in one function; run it with

    python -m searchgym.trainers.algorithms.reinforce

`Reinforce` is the same as an algorithm of the shared loop, which adds minibatches, checkpoints and evaluations. A
test holds the two to the same weights.

Departures:
1. The baseline includes the episode itself and averages over tokens, not episodes: a bias that decreases with the number
   of episodes. `baseline=none` avoids it, at the price of more variance.
2. The mean over tokens equals the theorem's sum over tokens and mean over episodes up to a factor that is the same for
   all tokens of an iteration.
3. There is no importance ratio. With more than one minibatch or epoch the later steps of an iteration learn
   from tokens that slightly older weights sampled; use grpo or ppo then. There is nothing to clip, either.
4. The control `permute_rewards` pays the permuted reward in the last round; rewards of rounds would still tell
   episodes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from searchgym.agents.candidate.agent import CandidateAgent
from searchgym.agents.policy import Policy, Sample, TokenOutputs
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.rollouts.collection import collect

from ..config import option
from ..core.algorithm import Algorithm, AlgorithmConfig, Loss
from ..core.batch import Batch
from ..core.credit import Credit
from ..core.groups import Groups
from ..core.objective import Aggregation, discounted_sums
from ..core.tasks import TaskSampler

__all__ = ["Reinforce", "ReinforceSettings", "naked_loop"]


def naked_loop(
    policy: Policy,
    envs: SearchVectorEnv,
    iterations: int,
    questions: int = 128,
    lr: float = 0.15,
    gamma: float = 1.0,
    seed: int = 0,
) -> list[float]:
    """Train a policy with nothing but this function.

    Args:
        policy: is trained.
        envs: where it plays.
        iterations: number of times to play and learn.
        questions: questions per iteration, played once each.
        lr: learning rate.
        gamma: γ, per round.
        seed: random seed of the order of questions and of sampling.

    Returns:
        The mean reward of each iteration's valid episodes; iterations without any are left out.
    """
    policy.generator.manual_seed(seed)
    tasks = TaskSampler(envs.task_ids(), questions, seed)
    optimizer = torch.optim.AdamW(policy.module.parameters(), lr=lr, weight_decay=0.0)
    mean_rewards = []
    for _ in range(iterations):
        # Play. An episode that the infrastructure cut short says nothing about the policy.
        episodes = [e for e in collect(envs, policy, tasks.draw()) if e.valid_for_training]
        if not episodes:
            continue
        mean_rewards.append(sum(e.reward for e in episodes) / len(episodes))

        # The reward still to come, for every token the policy sampled; mask 0 marks what it was shown.
        samples, returns = [], []
        for episode in episodes:
            to_come, returns_R = 0.0, [0.0] * len(episode.rounds)
            for t in reversed(range(len(episode.rounds))):
                to_come = episode.rounds[t].reward + gamma * to_come
                returns_R[t] = to_come
            for segment in episode.segments:
                samples.append(Sample(episode, segment))
                returns += [returns_R[t] for t, m in zip(segment.rounds, segment.mask, strict=True) if m]
        returns_N = torch.tensor(returns)

        # Make tokens followed by more reward than usual more likely.
        logprobs_N = policy.evaluate_tokens(samples).logprobs_N
        loss = -((returns_N - returns_N.mean()) * logprobs_N).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        policy.version += 1
    return mean_rewards


@dataclass(frozen=True)
class ReinforceSettings(AlgorithmConfig):
    """Settings of `Reinforce`; the inherited ones first."""

    group_size: int = option(1, "episodes per question", low=1)
    aggregation: Aggregation = option("token-mean", "how token losses become one loss")
    gamma: float = option(1.0, "discount of returns, per round", low=0.0, high=1.0)
    baseline: Literal["mean", "none"] = option("mean", "baseline: the mean return of all tokens, or 0")
    entropy_coef: float = option(0.0, "weight of the entropy bonus", low=0.0)


class Reinforce(Algorithm):
    """REINFORCE in the shared loop; see the head of this file.

    Raises:
        ConfigError: a setting of the clip, which REINFORCE does not have.
    """

    settings_class: ClassVar[type[AlgorithmConfig]] = ReinforceSettings
    settings: ReinforceSettings
    uses_ratio = False

    def credit(self, groups: Groups) -> Credit:
        paid_R = groups.round_rewards(at_end=self.settings.permute_rewards)
        returns_R = discounted_sums(paid_R, groups.episode_R, self.settings.gamma)
        credit = Credit.flat("round", returns_R, groups)
        if self.settings.baseline == "none" or not len(groups):
            return credit
        mean = float(credit.to_tokens(groups).mean())
        return Credit.flat("round", returns_R - mean, groups, {"baseline": mean})

    def loss(self, batch: Batch, outputs: TokenOutputs) -> Loss:
        loss_N = -batch.advantages_N * outputs.logprobs_N - self.settings.entropy_coef * outputs.entropy_N
        return Loss(batch.total(loss_N))


def main() -> None:
    """Train the candidate policy to look up one fact."""
    torch.set_num_threads(1)
    envs = make_vec("SearchQA-Terse-v0", 128, types=["chain"], hops=[1])
    for i, reward in enumerate(naked_loop(CandidateAgent(), envs, iterations=30), 1):
        print(f"iteration {i:2}: mean reward {reward:.2f}")


if __name__ == "__main__":
    main()
