"""Estimates of `searchgym train --dry-run` for a processor, held to runs: peak of resident memory and time of an iteration.

    python tests/benchmarks/bench_estimates.py [NAME …] [--config FILE.toml] [--iterations 3]

Each run is a process of its own that trains a few iterations on one thread. Its episodes say how many rounds and tokens to
expect, then a second process makes the estimate. `--config` takes a run of your own instead, e.g. published weights. All groups are
learned from, those of equal reward too. Processor time, so that other work on the machine changes little; the first iteration is
left out where there are more. Prints one line per run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORLD = {"name": "country-terse", "size": 1000, "train": 50, "dev": 20, "test": 20}
SHAPE = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {**SHAPE, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12}),
    "llama": ("llama", {**SHAPE, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4}),
    "gemma3": (
        "gemma3_text",
        {
            **SHAPE,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 2,
            "sliding_window": 128,
        },
    ),
    "lfm2": (
        "lfm2",
        {
            **SHAPE,
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "layer_types": ["conv", "conv", "full_attention"] * 4,
        },
    ),
    "qwen3.5": (
        "qwen3_5_text",
        {
            **SHAPE,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 8,
            "layer_types": [*["linear_attention"] * 3, "full_attention"] * 2,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
        },
    ),
}
CHAT: dict[str, Any] = {
    "trainer": "grpo",
    "agent": "hf",
    "env": "SearchQA-Terse-v0",
    "questions": 4,
    "eval_episodes": 0,
    "token_budget": 2048,
    "env_options": {"corpus": WORLD, "max_rounds": 4},
    "settings": {"group_size": 4, "skip_equal": False, "entropy_coef": 0.01},
}
TINY: dict[str, Any] = {
    "questions": 16,
    "minibatches": 2,
    "eval_episodes": 0,
    "env_options": {"types": ["chain"], "hops": [2, 3]},
}


def cases(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """The configurations by name; models are written to the folder."""
    sys.path[:0] = [str(ROOT / "fixtures"), str(ROOT / "agents"), str(ROOT)]
    found: dict[str, dict[str, Any]] = {}
    if not names or "tiny" in names:
        found["tiny"] = TINY
    for name, (family, shape) in MODELS.items():
        if names and name not in names:
            continue
        from hf_models import save_family

        model = save_family(folder / name, family, **shape, initializer_range=0.02)
        options: dict[str, Any] = {"model": model, "max_new_tokens": 24, "max_context": 2048}
        found[f"{name}, LoRA"] = {**CHAT, "agent_options": {**options, "lora": {"rank": 16}}}
        if name == "qwen3":
            found[f"{name}, all weights"] = {**CHAT, "agent_options": options}
    return found


def train(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a run took, and what its episodes were made of."""
    from searchgym.records.episode import load_episodes
    from searchgym.trainers.config import make_config
    from searchgym.trainers.training.api import train as run

    run(make_config({**values, "checkpoint_every": 1, "threads": 1}), folder)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    rows = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    seconds = [
        sum(row[k] for k in ("collect", "update"))
        for row in rows
        if row["iteration"] >= min(2, values["iterations"])
    ]
    segments, rounds, positions = [], [], set()
    for path in sorted((folder / "episodes").glob("train*.jsonl"))[-len(seconds) :]:
        for episode in load_episodes(path):
            segments.append(episode.segments[-1])
            rounds.append(len(episode.rounds))
            tokens = tuple(segments[-1].tokens)
            positions |= {(episode.group_id, hash(tokens[:n])) for n in range(len(tokens))}
    prompt = statistics.mean(s.mask.index(1) for s in segments)
    sampled = statistics.mean(sum(s.mask) for s in segments)
    length, mean_rounds = statistics.mean(len(s.tokens) for s in segments), statistics.mean(rounds)
    groups = len({group for group, _ in positions})
    own = len(segments) * (length - prompt)  # tokens after the prompts
    expected = {
        "shared": max(0.0, round(1 - (len(positions) - groups * prompt) / own, 2)),
        "rounds": mean_rounds,
        "prompt": round(prompt),
        "act": max(1, round(sampled / mean_rounds)),
        "observation": round((length - prompt - sampled) / max(1.0, mean_rounds - 1)),
    }
    return {"peak": peak, "seconds": statistics.median(seconds), "expected": expected}


def estimate(values: dict[str, Any], expected: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a dry run says."""
    from searchgym.trainers.config import make_config
    from searchgym.trainers.planning.dry_run import dry_run
    from searchgym.trainers.planning.estimate import total
    from searchgym.trainers.planning.times import processor_seconds
    from searchgym.trainers.recipes import Expected

    started = time.perf_counter()
    found = dry_run(make_config({**values, "threads": 1}), folder, None, Expected(**expected))
    assert found.passed, found.checks
    assert found.plan is not None
    assert found.memory is not None
    assert found.plan.trial is not None
    return {
        "peak": found.memory.peak,
        "seconds": total(processor_seconds(found.plan, found.plan.trial)),
        "took": time.perf_counter() - started,
        "memory": {
            f.name: f.value for f in (*found.memory.held, *found.memory.update, *found.memory.rollouts)
        },
    }


def child(task: str, given: dict[str, Any]) -> dict[str, Any]:
    """The result of `train` or `estimate` in a process of its own."""
    command = [sys.executable, __file__, "--task", task]
    done = subprocess.run(command, input=json.dumps(given), text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(task: str) -> None:
    """What `child` runs."""
    time.perf_counter = time.process_time
    given = json.loads(sys.stdin.read())
    folder = Path(given["folder"])
    if task == "train":
        found = train(given["values"], folder)
    else:
        found = estimate(given["values"], given["expected"], folder)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        work(options.task)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.config is None:
            runs = cases(folder, options.names)
        else:
            from searchgym.cli.options import read_file

            values = {
                key.replace("-", "_"): v for key, v in read_file(options.config).items() if key != "recipe"
            }
            runs = {options.config.stem: values}
        for number, (title, values) in enumerate(runs.items()):
            values = {**values, "iterations": options.iterations}
            real = child("train", {"values": values, "folder": str(folder / f"run-{number}")})
            given = {"values": values, "expected": real["expected"], "folder": str(folder / f"none-{number}")}
            said = child("estimate", given)
            print(
                f"{title}: memory {real['peak'] / 1e9:.2f} GB, estimated {said['peak'] / 1e9:.2f} "
                f"({said['peak'] / real['peak'] - 1:+.0%}); iteration {real['seconds']:.2f} s, estimated "
                f"{said['seconds']:.2f} ({said['seconds'] / real['seconds'] - 1:+.0%}); dry run {said['took']:.0f} s; "
                f"{real['expected']}; { ({k: round(v / 1e6) for k, v in said['memory'].items()}) } MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
