"""Cost of one training iteration of the tiny language model: generate 128 episodes, then one training pass.

Prints one line with the figures; on a busy machine, use the processor time. The ids are random, in the shapes of the
terse world: 16 questions x 8 rollouts, 3 rounds, prompts of 12-24 tokens, observations of 60-90, acts of about 10 sampled tokens (a tenth of the
vocabulary closes an act). `--compare` adds transformers' `generate`, which computes the whole context in each
round and keeps finished rows in the batch.

    python tests/benchmarks/bench_engine.py --threads 1
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import torch
from transformers import Qwen3ForCausalLM

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.generation import EngineStats, Generation
from searchgym.agents.lm.network import DecoderNetwork
from searchgym.agents.lm.sampling import Sampling
from searchgym.agents.tiny.model import TinyConfig, build_model

VOCAB, QUESTIONS, GROUP, ROUNDS, MAX_NEW = 1500, 16, 8, 3, 48
STOPS = range(100, 250)


class Timer:
    """Wall and processor time of the blocks it is entered for; shows the medians."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall.append(time.perf_counter() - self._start[0])
        self.processor.append(time.process_time() - self._start[1])

    def __str__(self) -> str:
        return f"{statistics.median(self.wall):.2f} s (processor {statistics.median(self.processor):.2f} s)"


def draw(rng: random.Random, low: int, high: int) -> list[int]:
    return [rng.randrange(300, VOCAB) for _ in range(rng.randint(low, high))]


def generate(engine: Engine, rng: random.Random, generator: torch.Generator) -> list[list[Generation]]:
    slots = range(QUESTIONS * GROUP)
    engine.clear()
    engine.begin(slots)
    prompts = [q for q in (draw(rng, 12, 24) for _ in range(QUESTIONS)) for _ in range(GROUP)]
    history = []
    for _ in range(ROUNDS):
        history.append(engine.generate(slots, prompts, Sampling(generator)))
        prompts = [draw(rng, 60, 90) for _ in slots]
    return history


def sequences(history: list[list[Generation]]) -> list[TokenSequence]:
    found = []
    for rounds in zip(*history, strict=True):
        tokens: list[int] = []
        targets: list[int] = []
        for generation in rounds:
            tokens += generation.prompt_ids
            targets += range(len(tokens), len(tokens) + len(generation.token_ids))
            tokens += generation.token_ids
        found.append(TokenSequence(tuple(tokens), tuple(targets), (1.0,) * len(targets)))
    return found


@torch.inference_mode()
def hugging_face(model: Qwen3ForCausalLM, history: list[list[Generation]]) -> None:
    """Acts after the same contexts by transformers' `generate` (left-padded, a new KV cache in each round)."""
    contexts: list[list[int]] = [[] for _ in history[0]]
    for generations in history:
        contexts = [c + g.prompt_ids for c, g in zip(contexts, generations, strict=True)]
        longest = max(map(len, contexts))
        ids = torch.tensor([[0] * (longest - len(c)) + c for c in contexts])
        mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts])
        model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=MAX_NEW,
            eos_token_id=list(STOPS),
            pad_token_id=0,
        )
        contexts = [c + g.token_ids for c, g in zip(contexts, generations, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compare", action="store_true", help="also time transformers' generate")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = TinyConfig(
        VOCAB, options.width, options.layers, kv_heads=options.kv_heads, head_dim=options.width // 4
    )
    model = build_model(config, seed=0)
    network = DecoderNetwork(model, whole_logits=True)
    engine = Engine(network, STOPS, max_new_tokens=MAX_NEW, max_context=config.max_positions)
    evaluation = EvaluationStats()
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    generating, training, theirs = Timer(), Timer(), Timer()
    for repeat in range(options.repeats + 1):
        if repeat == 1:  # the first round only warms up
            generating, training, theirs = Timer(), Timer(), Timer()
        engine.stats = EngineStats()
        with generating:
            history = generate(engine, rng, generator)
        with training:
            logprobs, _, _ = evaluate(network, sequences(history), evaluation)
            logprobs.mean().backward()
        if options.compare:
            with theirs:
                hugging_face(model, history)
    stats = engine.stats
    line = (
        f"{options.threads} thread(s), {options.layers} layers, width {options.width}, "
        f"{sum(p.numel() for p in model.parameters()):,} weights: "
        f"generate {QUESTIONS * GROUP} episodes {generating} ({stats.sampled_tokens} tokens sampled in "
        f"{stats.decode_steps} steps, {stats.prefilled_tokens} prefilled, {stats.padded_tokens} padded, "
        f"{stats.copied_tokens} copied); training pass {training} ({100 * evaluation.shared:.1f} % of its tokens shared)"
    )
    print(f"{line}; transformers' generate {theirs}" if options.compare else line)


if __name__ == "__main__":
    main()
