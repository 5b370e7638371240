"""What `bench_trl.py` runs in TRL's name: GRPOTrainer, tuned, with either of its two ways to play episodes.

Tuned is: float32 without gradient checkpointing (the defaults are five to seven times slower on a CPU), the act's
limit as `max_new_tokens` (else every round gets the whole `max_completion_length`), stop tokens that end an act as
soon as it is complete, `response_template` for tool calls, no logging and no saving.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from searchgym.dialects import ToolsDialect
from searchgym.env.vector import SearchVectorEnv

__all__ = ["Pace", "Rollouts", "TimedTrainer", "run_trl"]

Clock = Callable[[], tuple[float, float]]
RESPONSES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {  # of searches only: after an answer there is nothing to be said
            "open_pattern": r"<tool_call>(?=\s*\{\"name\": \"search\")",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


class Encyclopedia:
    """One rollout's environment for `environment_factory`: our retriever and our rendering behind a tool each."""

    envs: SearchVectorEnv

    def reset(self, **task: Any) -> None:
        """The question is in the prompt already."""

    def search(self, query: str) -> str:
        """Search the encyclopedia for passages.

        Args:
            query: what to look for
        """
        env_config = self.envs.config
        hits = env_config.retriever.search([query], env_config.top_k)[0]
        before, after = ToolsDialect.response
        shown = env_config.dialect.render_hits(hits, env_config.max_observation_chars)
        return shown.removeprefix(before).removesuffix(after)

    def answer(self, answer: str) -> str:
        """Give the final answer and end.

        Args:
            answer: only the answer, a few words
        """
        return ""


class Rollouts:
    """For `rollout_func`: the environment itself, all episodes side by side; TRL's own generation, round by round.

    Args:
        envs: the environments.
        tasks: id of the task by question.
        opening: ids of a prompt.
        message: the message that sampled ids stand for.
        replies: ids between two acts, for the observations of several episodes.
        padding: id that may follow an act.
    """

    def __init__(
        self,
        envs: SearchVectorEnv,
        tasks: dict[str, str],
        opening: Callable[[Any], list[int]],
        message: Callable[[list[int]], str],
        replies: Callable[[list[str]], list[list[int]]],
        padding: int | None = None,
    ) -> None:
        self.envs, self.tasks, self.padding = envs, tasks, padding
        self.opening, self.message, self.replies = opening, message, replies

    def __call__(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        questions = [prompt[-1]["content"] for prompt in prompts]
        ids_of = {q: self.opening(prompt) for q, prompt in dict(zip(questions, prompts, strict=True)).items()}
        prompt_ids = [ids_of[question] for question in questions]
        completions: list[list[int]] = [[] for _ in prompts]
        masks: list[list[int]] = [[] for _ in prompts]
        self.envs.reset(options={"task_ids": [self.tasks[question] for question in questions]})
        running = list(range(len(prompts)))
        while running:
            contexts = [prompt_ids[i] + completions[i] for i in running]
            acts, _ = trainer._generate_single_turn(contexts, None, {}, num_generations=1)
            messages = [""] * len(prompts)
            for i, ids in zip(running, acts, strict=True):
                act = ids[:-1] if ids[-1:] == [self.padding] else ids
                completions[i] += act
                masks[i] += [1] * len(act)
                messages[i] = self.message(act)
            observations, _, ended, cut, _ = self.envs.step(messages)
            running = [i for i in running if not (ended[i] or cut[i])]
            replies = self.replies([observations[i] for i in running]) if running else []
            for i, ids in zip(running, replies, strict=True):
                completions[i] += ids
                masks[i] += [0] * len(ids)
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completions,
            "logprobs": None,
            "env_mask": masks,
        }


class TimedTrainer(GRPOTrainer):
    """Notes what the rollouts cost and how long they became."""

    clock: Clock
    spent: tuple[float, float]
    batch: dict[str, Any]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        start = self.clock()
        self.batch = super()._generate_and_score_completions(inputs)
        end = self.clock()
        self.spent = end[0] - start[0], end[1] - start[1]
        return self.batch

    def figures(self) -> dict[str, float]:
        completed = self.batch["completion_mask"].bool()
        sampled = completed & self.batch["tool_mask"].bool()
        begins = sampled & ~torch.nn.functional.pad(sampled, (1, 0))[:, :-1]
        prompts = self.batch["prompt_mask"].sum(1).float()
        return {
            "rollout_wall": self.spent[0],
            "rollout_cpu": self.spent[1],
            "sampled": int(sampled.sum()),
            "rounds": float(begins.sum(1).float().mean()),
            "prompt": float(prompts.mean()),
            "length": float((prompts + completed.sum(1)).mean()),
            "kept": len(completed),
        }


class Pace(TrainerCallback):
    """Waits for a word before each iteration and reports after it."""

    def __init__(self, trainer: TimedTrainer, go: Callable[[], None], report: Callable[..., None]) -> None:
        self.trainer, self.go, self.report = trainer, go, report

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % 4 == 0:
            end = self.trainer.clock()
            spent = {"wall": end[0] - self.started[0], "cpu": end[1] - self.started[1]}
            self.report({**spent, **self.trainer.figures()})
            if state.global_step < state.max_steps:
                self._start()

    def _start(self) -> None:
        self.go()
        self.started = self.trainer.clock()


def run_trl(
    options: Any,
    envs: SearchVectorEnv,
    tasks: Sequence[str],
    go: Callable[[], None],
    report: Callable[[dict[str, float]], None],
) -> None:
    """Train on `tasks`, 16 of them an iteration, in this order; `options` are the benchmark's."""
    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    tokenizer.response_template = RESPONSES
    model: Any = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32)
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("</tool_call>"),
    ]
    env_config = envs.config
    dialect = env_config.dialect
    system = env_config.system_prompt.replace(dialect.tool_section(feedback=False, max_queries=1), "")
    questions = [env_config.corpus.question(task).text for task in tasks]
    rows = [
        {
            "prompt": [{"role": "system", "content": system}, {"role": "user", "content": question}],
            "unequal": number % 2 == 0,
        }
        for number, question in enumerate(questions)
    ]
    rng = random.Random(0)

    def reward(unequal: list[bool], **_: Any) -> list[float]:
        """Half of the groups get unequal rewards, as for our own rows."""
        return [float(rng.random() < 0.5) if one else 0.0 for one in unequal]

    def opening(prompt: Any) -> list[int]:
        tools = dialect.tools(feedback=False, max_queries=1)
        return tokenizer.apply_chat_template(
            prompt, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
        )

    def replies(observations: list[str]) -> list[list[int]]:
        around = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
        return tokenizer([around.format(observation) for observation in observations])["input_ids"]

    by_factory = options.row == "TRL, environment_factory"
    Encyclopedia.envs = envs
    trainer = TimedTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(Path(options.checkpoint) / "trl-output"),
            max_steps=4 * options.iterations,
            per_device_train_batch_size=64,
            gradient_accumulation_steps=1,
            steps_per_generation=2,
            num_iterations=2,
            num_generations=8,
            learning_rate=1e-8,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            loss_type="grpo",
            beta=0.0,
            temperature=1.0,
            top_k=0,
            max_completion_length=1500,
            generation_kwargs={"max_new_tokens": options.cap},
            max_tool_calling_iterations=env_config.max_rounds - 1,
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
        environment_factory=Encyclopedia if by_factory else None,
        rollout_func=None
        if by_factory
        else Rollouts(envs, dict(zip(questions, tasks, strict=True)), opening, tokenizer.decode, replies),
    )
    trainer.clock = lambda: (time.perf_counter(), time.process_time())
    trainer.add_callback(Pace(trainer, go, report))
    trainer.train()
