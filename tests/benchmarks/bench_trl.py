"""End to end against TRL's GRPOTrainer: iterations per second of the same training, side by side.

    pip install trl==1.16.0
    python tests/benchmarks/bench_trl.py [--iterations 10] [--threads 2] [--cap 32] [--rounds 6] [--top-k 3]

All rows train the same checkpoint (a Qwen3 of width 64 and two layers, whose acts are calls of random words) with the
same tokenizer, in float32, on the same 16 questions x 8 episodes an iteration, in the same environment with our
retriever, with the same limit of tokens per act and of rounds, the same stop tokens, 2 epochs x 2 minibatches
(4 optimizer steps), gradients clipped at 1 and a learning rate of 1e-8, so that all continue to sample from the
same distribution. All 128 episodes are used for updates, except in the row that says otherwise. Rewards do not matter for the
time; half of the groups get unequal ones, drawn at random.

Each row runs in a process of its own; the processes take turns, one iteration each, in rotating order, two to warm up
and `--iterations` that count. Printed are medians, of wall time and of processor time (which other work on the machine
changes little), and next to them what each row did: rounds, sampled tokens, lengths, episodes updated on. Needs TRL;
without it only our own rows are run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from searchgym.env.config import EnvConfig
from searchgym.env.vector import SearchVectorEnv, make_vec

OURS = ("searchgym", "searchgym, equal groups skipped")
TRL = ("TRL, environment_factory", "TRL, rollout_func")
QUESTIONS, GROUP, WARM_UP = 16, 8, 2
WORDS = 600  # ids of the tokenizer, but for its marks
MARK = "@figures "
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}"
    "{{- '\\n\\n# Tools\\n\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    '{{- \'\\n</tools>\\n\\nWrite a call as JSON inside tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": '
    "<args-json-object>}\\n</tool_call><|im_end|>\\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant\\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}{%- if call.function %}{%- set call = call.function %}{%- endif %}"
    "{{- '<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Qwen's, without thoughts."""
UNLISTED = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}"
    + TEMPLATE[TEMPLATE.index("{%- for message in messages %}") :]
)
"""The same without a list of tools."""


def open_envs(options: argparse.Namespace) -> SearchVectorEnv:
    if options.short_prompt:
        EnvConfig.system_prompt = property(lambda self: "Search, then answer.")
    return make_vec(
        "SearchQA-Terse-v0",
        QUESTIONS * GROUP,
        dialect="tools",
        types=["chain"],
        hops=[2, 3],
        top_k=options.top_k,
        max_rounds=options.rounds,
    )


def make_checkpoint(folder: Path, envs: SearchVectorEnv, words: float, template: str) -> None:
    """A tokenizer trained on the environment's texts, and a model whose acts are calls of random words.

    Every token that can be sampled has an embedding of its own direction (rows of a Hadamard matrix), which the
    layers leave almost as it is, so that the head holds the probabilities of what comes next: a Markov chain over
    `<tool_call>`, the beginnings of a call of each tool, words, its end and `</tool_call>`. What it costs to compute
    does not depend on that.

    Args:
        folder: where both are written.
        envs: the environment.
        words: of an act, on average; their number is geometrically distributed.
        template: the chat template.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    env_config = envs.config
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    passages = random.Random(0).sample(list(env_config.corpus.passages), 400)
    tokenizer.train_from_iterator(
        [env_config.system_prompt] * 20 + [f"{p.title}\n{p.text}" for p in passages],
        trainers.BpeTrainer(
            vocab_size=WORDS,
            special_tokens=["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    begin, search, answer, finish, end = (
        "<tool_call>",
        '\n{"name": "search", "arguments": {"query": "',
        '\n{"name": "answer", "arguments": {"answer": "',
        '"}}\n',
        "</tool_call>",
    )
    marks = (begin, search, answer, finish, end)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )
    ids = fast.convert_tokens_to_ids
    opening = fast("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"][-1]
    vocabulary = [ids(mark) for mark in (begin, search, answer, finish, end)]
    chosen = [i for i in range(len(fast)) if re.fullmatch(r" [A-Za-z]{3,}", fast.decode([i]))][-40:]
    chain = {opening: {begin: 1.0}, ids(begin): {search: 0.73, answer: 0.27}, ids(finish): {end: 1.0}}
    next_of = {state: {ids(mark): p for mark, p in after.items()} for state, after in chain.items()}
    for state in (ids(search), ids(answer)):
        next_of[state] = dict.fromkeys(chosen, 1 / len(chosen))
    for state in chosen:
        next_of[state] = dict.fromkeys(chosen, (1 - 1 / words) / len(chosen)) | {ids(finish): 1 / words}
    signs = torch.ones(1, 1)
    while len(signs) < 64:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    logits = torch.full((len(fast), 64), -15.0)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.randn(len(fast), 64).sign())
        for row, state in enumerate([opening, *vocabulary, *chosen]):
            model.model.embed_tokens.weight[state] = signs[row]
            for token, p in next_of.get(state, {}).items():
                logits[token, row] = math.log(p)
        model.lm_head.weight.copy_(logits @ signs / 64)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.1)
            layer.mlp.down_proj.weight.mul_(0.1)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    model.save_pretrained(folder)


def go() -> None:
    """Wait for this process's turn."""
    print(MARK + "ready", flush=True)
    if not sys.stdin.readline():
        sys.exit(1)


def report(figures: dict[str, float]) -> None:
    print(MARK + json.dumps(figures), flush=True)


def run_ours(
    envs: SearchVectorEnv, tasks: list[str], agent: Any, settings: dict[str, Any], *, skip_equal: bool
) -> None:
    """`train()` with an `hf` agent; its loop waits for its turn before every iteration."""
    import numpy as np

    from searchgym.trainers.algorithms.grpo import GRPO
    from searchgym.trainers.config import make_config
    from searchgym.trainers.core.groups import sampled_tokens
    from searchgym.trainers.core.tasks import TaskSampler
    from searchgym.trainers.runs.directory import RunDirectory
    from searchgym.trainers.training.loop import Iteration, Loop
    from searchgym.trainers.training.parts import Parts
    from searchgym.trainers.training.trainer import Trainer

    rng = np.random.default_rng(0)
    number = {task: n for n, task in enumerate(tasks)}

    class HalfUnequal(GRPO):
        """Half of the groups get unequal rewards, as for TRL's rows."""

        def rewards(self, group: Any) -> Any:
            drawn = (rng.random(len(group)) < 0.5).astype(float)
            return drawn if number[group[0].task_id] % 2 == 0 else np.zeros(len(group))

        def collect(self, *args: Any) -> Any:
            start = clock()
            groups = super().collect(*args)
            end = clock()
            self.spent = end[0] - start[0], end[1] - start[1]
            return groups

    class InTurns(Loop):
        def iterate(self, watch: Any = None) -> Iteration:
            self.tell()
            go()
            self.started = clock()
            self.done = super().iterate(watch)
            return self.done

        def tell(self) -> None:
            """Report the iteration before, all that the loop does between two iterations included."""
            if not hasattr(self, "started"):
                return
            end = clock()
            groups, row = self.done.groups, self.done.metrics
            episodes = [episode for group in groups for episode in group]
            spent = self.algorithm.spent
            lengths = [len(e.segments[0].tokens) for e in episodes]
            report(
                {
                    "wall": end[0] - self.started[0],
                    "cpu": end[1] - self.started[1],
                    "rollout_wall": spent[0],
                    "rollout_cpu": spent[1],
                    "sampled": sum(map(sampled_tokens, episodes)),
                    "rounds": statistics.mean(len(e.rounds) for e in episodes),
                    "prompt": statistics.mean(e.segments[0].mask.index(1) for e in episodes),
                    "length": statistics.mean(lengths),
                    "kept": len(episodes) - GROUP * row["skipped_groups"],
                }
            )

    class InOrder(TaskSampler):
        def _task(self, position: int) -> str:
            return self.task_ids[position]

    config = make_config(
        {
            "trainer": "grpo",
            "agent": "hf",
            "env": "SearchQA-Terse-v0",
            "lr": 1e-8,
            "epochs": 2,
            "minibatches": 2,
            "grad_clip": 1.0,
            "eval_episodes": 0,
            "checkpoint_every": 10**6,
            **settings,
        }
    )
    algorithm = HalfUnequal({"skip_equal": skip_equal, "group_size": GROUP})
    with tempfile.TemporaryDirectory() as folder, RunDirectory.create(Path(folder) / "run", {}) as run:
        parts = Parts(agent, algorithm, envs, InOrder(tasks, envs.num_envs // GROUP, 0))
        with patch("searchgym.trainers.training.trainer.Loop", InTurns):
            trainer = Trainer(parts, config, run)
        trainer.run_to_end()
        trainer.loop.tell()


def clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class Row:
    """A process that runs one row, one iteration per request."""

    def __init__(self, name: str, script: str, options: argparse.Namespace) -> None:
        self.name, self.figures = name, []
        command = [sys.executable, script, "--row", name]
        for option, value in vars(options).items():
            if isinstance(value, str | int | float) and option not in ("row", "verbose"):
                switch = f"--{option.replace('_', '-')}"
                command += ([switch] if value else []) if isinstance(value, bool) else [switch, str(value)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "TRL_EXPERIMENTAL_SILENCE": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._read()

    def _read(self) -> str:
        for line in self.process.stdout:
            if line.startswith(MARK):
                return line[len(MARK) :]
        raise SystemExit(f"row {self.name!r} ended early: run with --verbose")

    def iterate(self, *, counts: bool) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        figures = json.loads(self._read())
        print(
            f"  {'' if counts else 'warm-up, '}{self.name}: {figures['wall']:.2f} s, processor {figures['cpu']:.2f} s",
            file=sys.stderr,
            flush=True,
        )
        if counts:
            self.figures.append(figures)

    def median(self, name: str) -> float:
        return statistics.median(figures[name] for figures in self.figures)


def take_turns(rows: list[Row], iterations: int, warm_up: int = WARM_UP) -> None:
    """Let each row run its iterations, one at a time in rotating order; the rows were started for all of them."""
    for turn in range(warm_up + iterations):
        for row in rows[turn % len(rows) :] + rows[: turn % len(rows)]:
            row.iterate(counts=turn >= warm_up)
            if turn < warm_up + iterations - 1:
                row._read()


def tell(rows: list[Row], options: argparse.Namespace) -> None:
    """Print what the rows measured."""
    print(f"{options.threads} thread(s), medians of {len(rows[0].figures)} iterations")
    for row in rows:
        m = row.median
        print(
            f"{row.name}: {m('wall'):.2f} s/iteration (processor {m('cpu'):.2f}): rollouts {m('rollout_wall'):.2f} "
            f"({m('rollout_cpu'):.2f}), {m('sampled') / m('rollout_cpu'):,.0f} sampled tokens per processor second; update "
            f"{m('wall') - m('rollout_wall'):.2f} ({m('cpu') - m('rollout_cpu'):.2f}), "
            f"{2 * m('kept') * m('length') / (m('cpu') - m('rollout_cpu')):,.0f} tokens per processor second; "
            f"{m('rounds'):.2f} rounds, {m('sampled'):,.0f} tokens sampled, prompt {m('prompt'):.0f}, "
            f"length {m('length'):.0f}, {m('kept'):.0f} episodes updated on"
        )
    for ours in (row for row in rows if not row.name.startswith("TRL")):
        for theirs in (row for row in rows if row.name.startswith("TRL")):
            wall, cpu = (theirs.median(name) / ours.median(name) for name in ("wall", "cpu"))
            print(f"{ours.name} against {theirs.name}: {wall:.2f}x (processor time {cpu:.2f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cap", type=int, default=32, help="sampled tokens per round at most")
    parser.add_argument(
        "--short-prompt", action="store_true", help="no list of tools, a system prompt of three words"
    )
    parser.add_argument("--words", type=float, default=2.5, help="of an act, on average")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--top-k", type=int, default=3, help="passages per search")
    parser.add_argument(
        "--checkpoint", default="", help="directory to read it from or write it to; default: a new one"
    )
    parser.add_argument("--rows", nargs="+", default=[*TRL, *OURS], choices=[*TRL, *OURS])
    parser.add_argument("--verbose", action="store_true", help="show what the rows write to stderr")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.row:
        options.iterations += WARM_UP
        envs = open_envs(options)
        ids = [question.id for question in envs.config.tasks("train")]
        tasks = (ids * (1 + options.iterations * QUESTIONS // len(ids)))[: options.iterations * QUESTIONS]
        if options.row in OURS:
            from searchgym.agents.hf.agent import HFAgent

            agent = HFAgent(
                options.checkpoint,
                max_new_tokens=options.cap,
                max_context=2048,
                dtype="float32",
                device="cpu",
            )
            settings = {"iterations": options.iterations, "threads": options.threads}
            run_ours(envs, tasks, agent, settings, skip_equal=options.row != OURS[0])
        else:
            from trl_rows import run_trl

            run_trl(options, envs, tasks, go, report)
        return
    if importlib.util.find_spec("trl") is None:
        print("TRL is not installed (pip install trl==1.16.0): our own rows alone")
        options.rows = [row for row in options.rows if row in OURS]
    with tempfile.TemporaryDirectory() as folder:
        options.checkpoint = options.checkpoint or folder
        if not (Path(options.checkpoint) / "model.safetensors").exists():
            template = UNLISTED if options.short_prompt else TEMPLATE
            make_checkpoint(Path(options.checkpoint), open_envs(options), options.words, template)
        rows = [Row(name, __file__, options) for name in options.rows]
        take_turns(rows, options.iterations)
    tell(rows, options)


if __name__ == "__main__":
    main()
