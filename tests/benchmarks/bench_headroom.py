"""What the packaged warm start leaves to learn, and how much of it a constant preference for an act would give.

    python tests/benchmarks/bench_headroom.py [--questions N]

Prints greedy and sampled EM on the demo's dev questions, the share of questions that none, some or all of 8
samples answer (groups of equal rewards teach nothing), and a control: constants added to the logits of
`<search>`, `<answer>` and `<feedback>` wherever the model is about to write one of them. The best constants are
searched on train questions, then scored once on the dev questions. What they do not reach has to be learned per
context.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from searchgym.agents.tiny.agent import TinyAgent
from searchgym.rollouts.evaluation import EvalResult, evaluate

SAMPLES = 8
ACTS = ("<search>", "<answer>", "<feedback>")
QUESTIONS: dict[str, Any] = {"types": ["chain"], "hops": [2, 3]}


@contextmanager
def bias(agent: TinyAgent, **constants: float) -> Iterator[None]:
    """Add constants (by act) to the act tokens' logits where one of them is the most likely token.

    Elsewhere, inside a thought or a copied name, an act would be a mistake: leaving those places alone makes
    the control as strong as a constant can be. It hooks the model's output layer, so generation and
    `evaluate_tokens` would see the same logits; constants of 0 change no bit.
    """
    acts = torch.tensor([agent.tokenizer.token_id(tag) for tag in ACTS])
    added = torch.tensor([constants.get(tag.strip("<>"), 0.0) for tag in ACTS])

    def hook(_module: torch.nn.Module, _inputs: object, logits_BV: torch.Tensor) -> torch.Tensor:
        about_B = torch.isin(logits_BV.argmax(-1), acts)
        biased_BV = logits_BV.clone()
        biased_BV[:, acts] += about_B.unsqueeze(-1) * added
        return biased_BV

    handle = agent.model.lm_head.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def play(agent: TinyAgent, count: int, split: str, samples: int = 1) -> EvalResult:
    agent.greedy = samples == 1
    return evaluate("SearchQA-Terse-v0", agent, count, samples=samples, split=split, seed=0, **QUESTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step", type=int, default=1, help="of the grid over the search bias, -8 to 8")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    agent, count = TinyAgent(), options.questions

    greedy = play(agent, count, "dev")
    sampled = play(agent, count, "dev", SAMPLES)
    right: dict[str, list[float]] = defaultdict(list)
    for episode in sampled.episodes:
        right[episode.task_id].append(episode.outcome.em)
    none = sum(max(ems) == 0 for ems in right.values()) / len(right)
    full = sum(min(ems) == 1 for ems in right.values()) / len(right)

    train = play(agent, count, "train").metrics["em"].value
    with bias(agent):
        unchanged = play(agent, count, "dev")
    for one, other in zip(greedy.episodes, unchanged.episodes, strict=True):
        if one.segments != other.segments:  # tokens and log-probabilities, bit for bit
            raise AssertionError("constants of 0 changed an episode")
    found: dict[tuple[int, int], float] = {}
    for feedback in (0, -50):  # -50: never
        for search in range(-8, 9, options.step):
            with bias(agent, search=search, feedback=feedback):
                found[search, feedback] = play(agent, count, "train").metrics["em"].value
    search, feedback = max(found, key=lambda constants: (found[constants], constants[1], -abs(constants[0])))
    with bias(agent, search=search, feedback=feedback):
        best = play(agent, count, "dev")
    print(
        f"warm start on {greedy.questions} dev questions: greedy EM {greedy.metrics['em']}, sampled EM "
        f"{sampled.metrics['em']}, {none:.0%} of the questions right in 0 of {SAMPLES} samples, "
        f"{1 - none - full:.0%} in some, {full:.0%} in all; best of {len(found)} constant preferences (search "
        f"{search:+d}, feedback {feedback:+d}; EM on train {train:.3f} -> {found[search, feedback]:.3f}): "
        f"greedy EM on dev {best.metrics['em']}"
    )


if __name__ == "__main__":
    main()
