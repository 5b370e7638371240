"""Rollouts and updates of Qwen3's shapes on one GPU: tokens per second, model-FLOPs utilisation, peak memory.

    python tests/benchmarks/bench_gpu.py [--shapes qwen3-0.6b qwen3-1.7b] [--peak-tflops 989]
    python tests/benchmarks/bench_gpu.py --cpu          # a minimal shape on the CPU, to check that the code runs

Random weights in bfloat16, with a LoRA adapter (rank 16 on all linear layers) and with all weights trained. 16 groups of
8 episodes: a prompt of 512 tokens each group, then `--rounds` times an act and an observation, played with
`searchgym.agents.lm.engine` as `HFAgent` plays; then one pass over all episodes as the training loop makes it (micro-batches by token
budget, one AdamW step). Prints one line each.

Model FLOPs count computed tokens (shared tokens are computed and counted once), without the recomputation of gradient
checkpointing and of the head's blocks: 2 per weight forward and 2 backward, 2 more where the
weight has a gradient, the head at the sampled tokens only, attention over the tokens before. Utilisation is that over
the device's dense bfloat16 peak. Without a GPU it says so and exits.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from searchgym.agents.hf.lora import Adapter, LoraOptions
from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.network import open_network
from searchgym.agents.lm.prefix_tree import split_by_budget
from searchgym.agents.lm.sampling import Sampling

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072},
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144},
    "minute": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 1000,
    },
}
COMMON = {
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}  # TFLOP/s, dense bfloat16


def build(shape: str, device: torch.device, adapter: bool) -> tuple[Any, list[torch.nn.Parameter]]:
    torch.manual_seed(0)
    config = Qwen3Config(**{**COMMON, **SHAPES[shape]})
    with torch.device(device):
        model: Any = Qwen3ForCausalLM(config).to(torch.bfloat16)
    module = Adapter.add(model, LoraOptions(rank=16), shape, 0).model if adapter else model
    return model.eval(), [p for p in module.parameters() if p.requires_grad]


def play(network: Any, options: argparse.Namespace) -> tuple[float, Engine, list[TokenSequence]]:
    """All episodes; seconds, the engine with its statistics, and what is trained on."""
    rng = random.Random(0)
    words = network.model.config.vocab_size
    episodes = range(options.questions * options.group)

    def text(length: int) -> list[int]:
        return [rng.randrange(words) for _ in range(length)]

    room = options.prompt + options.rounds * (options.act + options.observation)
    budget = 16_384 if network.device.type == "cuda" else 2048
    engine = Engine(
        network, (), max_new_tokens=options.act, max_context=room, batch_tokens=budget, share_from=32
    )
    sampling = Sampling(torch.Generator().manual_seed(0))
    system = text(options.prompt // 2)
    prompts = [system + text(options.prompt - len(system)) for _ in range(options.questions)]
    engine.begin(episodes)
    contexts: list[list[int]] = [[] for _ in episodes]
    targets: list[list[int]] = [[] for _ in episodes]
    feed = [prompts[i // options.group] for i in episodes]
    synchronize(network.device)
    start = time.perf_counter()
    for _ in range(options.rounds):
        for i, generation in enumerate(engine.generate(list(episodes), feed, sampling)):
            contexts[i] += generation.prompt_ids
            targets[i] += range(len(contexts[i]), len(contexts[i]) + len(generation.token_ids))
            contexts[i] += generation.token_ids
        feed = [text(options.observation) for _ in episodes]
    synchronize(network.device)
    seconds = time.perf_counter() - start
    sequences = [
        TokenSequence(tuple(c), tuple(t), (1.0,) * len(t)) for c, t in zip(contexts, targets, strict=True)
    ]
    engine.clear()
    return seconds, engine, sequences


def update(
    network: Any, weights: list[torch.nn.Parameter], sequences: list[TokenSequence], budget: int
) -> tuple[float, EvaluationStats]:
    """One optimizer step over all episodes."""
    stats = EvaluationStats()
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    total = sum(len(s.targets) for s in sequences)
    synchronize(network.device)
    start = time.perf_counter()
    for part in split_by_budget([s.tokens[: s.targets[-1]] for s in sequences], budget):
        logprobs, _, _ = evaluate(network, [sequences[i] for i in part], stats)
        (-logprobs.sum() / total).backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    synchronize(network.device)
    seconds = time.perf_counter() - start
    optimizer.zero_grad(set_to_none=True)
    return seconds, stats


def model_flops(model: Any, sequences: list[TokenSequence], stats: EvaluationStats, *, frozen: bool) -> float:
    """See the module docstring."""
    config = model.config
    inner = sum(
        p.numel() for name, p in model.named_parameters() if "layers." in name and "lora_" not in name
    )
    adapter = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    head = config.vocab_size * config.hidden_size
    per_weight = 4 if frozen else 6
    linear = stats.computed_tokens * (per_weight * inner + 6 * adapter)
    # A token attends to half of its sequence on average; the shared part is the beginning, so this is a little low.
    seen = sum(s.targets[-1] for s in sequences) / len(sequences) / 2
    width = config.num_attention_heads * config.head_dim
    attention = 12 * config.num_hidden_layers * width * seen * stats.computed_tokens
    return float(linear + attention + per_weight * head * stats.target_tokens)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB of GPU memory at most"
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        f"{kilobytes * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB of memory at most, all in all"
    )


def peak_of(device: torch.device, given: float) -> float:
    """Dense bfloat16 peak in TFLOP/s; 0 if unknown."""
    if given or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((float(peak) for part, peak in PEAKS.items() if part in name), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["qwen3-0.6b", "qwen3-1.7b"], choices=list(SHAPES))
    parser.add_argument(
        "--cpu", action="store_true", help="run a minimal shape here, to check that the code runs"
    )
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--act", type=int, default=128)
    parser.add_argument("--observation", type=int, default=256)
    parser.add_argument("--budget", type=int, default=16_384, help="tokens per forward and backward pass")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device; known for a few GPUs")
    options = parser.parse_args()
    if not (options.cpu or torch.cuda.is_available()):
        print("no GPU here: nothing measured (--cpu runs a minute shape to see that the code runs)")
        return
    device = torch.device("cpu" if options.cpu else "cuda")
    if options.cpu:
        options.shapes, options.questions, options.group = ["minute"], 2, 2
        options.prompt, options.act, options.observation = 24, 6, 8
    peak = peak_of(device, options.peak_tflops)
    name = "CPU" if options.cpu else torch.cuda.get_device_name(device)
    for shape in options.shapes:
        for adapter in (True, False):
            model, weights = build(shape, device, adapter)
            network = open_network(model, checkpointing=True)
            short = argparse.Namespace(**{**vars(options), "act": min(8, options.act)})
            _, _, few = play(network, short)  # warms up kernels and allocator
            update(network, weights, few[: options.group], options.budget)
            if not options.cpu:
                torch.cuda.reset_peak_memory_stats(device)
            seconds, engine, sequences = play(network, options)
            sampled = engine.stats.sampled_tokens
            rollouts = (
                f"rollouts {sampled / seconds:,.0f} sampled tokens/s ({seconds:.2f} s, "
                f"{engine.stats.prefilled_tokens:,} prefilled, {engine.stats.copied_tokens:,} copied)"
            )
            seconds, stats = update(network, weights, sequences, options.budget)
            flops = model_flops(model, sequences, stats, frozen=adapter)
            used = (
                f"{100 * flops / seconds / (peak * 1e12):.1f} % of {peak:.0f} TFLOP/s"
                if peak
                else "peak unknown"
            )
            print(
                f"{name}, {shape}, {'LoRA' if adapter else 'all weights'}: {rollouts}; update "
                f"{stats.computed_tokens / seconds:,.0f} computed tokens/s ({seconds:.2f} s, {100 * stats.shared:.0f} % "
                f"more shared), {flops / seconds / 1e12:.3g} TFLOP/s, {used}; {peak_memory(device)}",
                flush=True,
            )
            del model, weights, network, engine
            if not options.cpu:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
