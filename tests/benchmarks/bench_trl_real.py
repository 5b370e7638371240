"""An iteration of GRPO with published weights and real passages against TRL's GRPOTrainer, side by side.

    pip install trl==1.16.0
    python tests/benchmarks/bench_trl_real.py --base DIR --adapter DIR --passages FILE --questions FILE

The fair comparison of `bench_trl.py` for a model of a size that people train: the same warm-started LoRA adapter on the same
base model, the same prompts, questions, environment and retriever, at most 4 rounds of at most 40 tokens that end with their
act, groups of 8, all episodes updated on, 2 epochs x 2 minibatches (4 optimizer steps), gradients clipped at 1, learning rate
1e-8. TRL plays in our environments through `rollout_func` with its own generation, which stops at the end of an act as ours
does; a base model without a template for tools has no `environment_factory`. It computes 2 episodes a pass, and accumulates
gradients: the logits of all tokens after the prompt for more of them do not fit the memory. Rows in both data types.

Each row runs in a process of its own, in turns, one iteration each, after one to warm up (`--warm-up`).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from bench_trl import GROUP, Row, go, report, run_ours, take_turns, tell

from searchgym.env.vector import SearchVectorEnv, make_vec

ROWS = ("searchgym, bfloat16", "searchgym, float32", "TRL, bfloat16", "TRL, float32")
PLAIN = {"chat_template": "plain", "prompt": "completion"}


def run_theirs(options: argparse.Namespace, envs: SearchVectorEnv, tasks: list[str], dtype: str) -> None:
    """TRL's trainer with an adapter of peft."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, StoppingCriteria
    from trl import GRPOConfig
    from trl_rows import Pace, Rollouts, TimedTrainer

    from searchgym.agents.hf.chat import ChatFormat
    from searchgym.agents.hf.loading import open_chat_tokenizer
    from searchgym.agents.hf.prompts import prompted
    from searchgym.agents.lm.huge_pages import place_model
    from searchgym.rollouts.collection import agent_context_of

    tokenizer = open_chat_tokenizer("the benchmark", options.base, options.base, None, PLAIN["chat_template"])
    chat = ChatFormat(tokenizer, prompted(agent_context_of(envs.config), PLAIN["prompt"], []))
    tokenizer.pad_token = tokenizer.eos_token  # what follows an act is then cut off
    base: Any = AutoModelForCausalLM.from_pretrained(options.base, dtype=dtype)
    place_model(base, torch.device("cpu"))  # as ours: the comparison is not about pages of memory
    model: Any = PeftModel.from_pretrained(base, options.adapter, is_trainable=True)
    generate = model.generate

    class ActEnds(StoppingCriteria):  # type: ignore[misc]
        def __init__(self, rows: int) -> None:
            self.watches, self.done = [chat.watch() for _ in range(rows)], [False] * rows

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            for row, token in enumerate(input_ids[:, -1].tolist()):
                self.done[row] = self.done[row] or self.watches[row](token)
            return torch.tensor(self.done)

    model.generate = lambda **given: generate(**given, stopping_criteria=[ActEnds(len(given["input_ids"]))])
    text_of = {task: envs.config.corpus.question(task).text for task in tasks}
    rows = [
        {"prompt": [{"role": "user", "content": text_of[task]}], "unequal": number % 2 == 0}
        for number, task in enumerate(tasks)
    ]
    rng = random.Random(0)

    def reward(unequal: list[bool], **_: Any) -> list[float]:
        return [float(rng.random() < 0.5) if one else 0.0 for one in unequal]

    trainer = TimedTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(Path(options.output)),
            max_steps=4 * (options.iterations + options.warm_up),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=options.episodes // 4,
            steps_per_generation=options.episodes // 2,
            num_iterations=2,
            num_generations=GROUP,
            learning_rate=1e-8,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            loss_type="grpo",
            beta=0.0,
            temperature=1.0,
            top_k=0,
            max_completion_length=1500,
            generation_kwargs={"max_new_tokens": options.cap},
            shuffle_dataset=False,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        rollout_func=Rollouts(
            envs,
            {text: task for task, text in text_of.items()},
            lambda prompt: chat.opening(prompt[-1]["content"]),
            chat.text,
            lambda observations: [chat.reply(observation, False) for observation in observations],
            tokenizer.pad_token_id,
        ),
    )
    trainer.clock = lambda: (time.perf_counter(), time.process_time())
    trainer.add_callback(Pace(trainer, go, report))
    trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, help="directory of the base model")
    parser.add_argument("--adapter", required=True, help="directory of the warm-started adapter")
    parser.add_argument("--passages", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--episodes", type=int, default=64, help="of an iteration")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cap", type=int, default=40, help="sampled tokens per round at most")
    parser.add_argument("--token-budget", type=int, default=1024, help="tokens of one of our passes")
    parser.add_argument(
        "--output", default="trl-output", help="directory that TRL wants; nothing is written to it"
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--verbose", action="store_true", help="show what the rows write to stderr")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.row:
        rows = [Row(name, __file__, options) for name in options.rows]
        take_turns(rows, options.iterations, options.warm_up)
        tell(rows, options)
        return
    torch.set_num_threads(options.threads)
    envs = make_vec(
        "SearchQA-v0",
        options.episodes,
        corpus={"name": "jsonl", "path": options.passages, "questions": options.questions},
        top_k=1,
        max_rounds=4,
        max_observation_chars=1000,
    )
    iterations = options.iterations + options.warm_up
    tasks = [question.id for question in envs.config.tasks("train")][: iterations * options.episodes // GROUP]
    dtype = options.row.rpartition(", ")[2]
    if options.row.startswith("TRL"):
        run_theirs(options, envs, tasks, dtype)
        return
    from searchgym.agents.hf.agent import HFAgent

    agent = HFAgent(
        options.adapter, **PLAIN, max_new_tokens=options.cap, max_context=1536, dtype=dtype, device="cpu"
    )
    settings = {
        "iterations": iterations,
        "threads": options.threads,
        "token_budget": options.token_budget,
        "num_envs": options.episodes,
    }
    run_ours(envs, tasks, agent, settings, skip_equal=False)


if __name__ == "__main__":
    main()
