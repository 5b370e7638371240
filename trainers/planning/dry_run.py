"""`searchgym train --dry-run`: looks at everything but the weights before any work, and estimates memory and time.

Nothing is written, downloaded or trained. Corpus and index are opened and searched once; a judge with a readiness check is
checked. Of the model only the configuration is read, and the tokenizer if it is on this machine.
"""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from searchgym.agents.lm.half_precision import suits_bfloat16
from searchgym.errors import SearchGymError

from ..config import TrainConfig
from ..core.algorithm import Algorithm
from ..recipes import About, Expected, describe_recipe, find_recipe
from .architecture import Architecture, read_config
from .checks import (
    Lengths,
    check_agent,
    check_device,
    check_disk,
    check_environment,
    check_index,
    check_judge,
    check_model,
    check_packages,
    check_questions,
    check_run_directory,
    check_tokenizer,
    check_trainer,
    lora_options,
    model_directory,
    on_processor,
)
from .estimate import HARDWARE, Memory, Plan, memory, state_bytes

__all__ = ["Check", "DryRun", "dry_run"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one thing.

    Attributes:
        name: the thing.
        passed: whether it is as it must be.
        text: the detail, or the reason and the next move.
    """

    name: str
    passed: bool
    text: str


@dataclass
class DryRun:
    """What a dry run found.

    Attributes:
        checks: in the order they were made.
        plan: what estimates are made from; None where the model's architecture is not known.
        memory: per device.
    """

    checks: list[Check] = field(default_factory=list)
    plan: Plan | None = None
    memory: Memory | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed for check in self.checks)

    def add(self, name: str, look: Callable[[], Any]) -> Any:
        """Make a check: `look` returns what it found, a text or (text, …), or raises what is wrong."""
        try:
            found = look()
        except SearchGymError as error:
            self.checks.append(Check(name, False, str(error)))
            return None
        text, *rest = found if isinstance(found, tuple) else (found,)
        self.checks.append(Check(name, True, text))
        return rest[0] if rest else None


def dry_run(
    config: TrainConfig,
    run_dir: Path,
    about: About | None = None,
    expected: Expected | None = None,
) -> DryRun:
    """Look at everything a run needs.

    Args:
        config: the run.
        run_dir: where it would be recorded.
        about: the recipe's description of itself.
        expected: what its episodes are expected to be made of.
    """
    result = DryRun()
    algorithm = result.add("trainer", lambda: check_trainer(config))
    options = result.add("agent", lambda: check_agent(config, about))
    envs = result.add("environment", lambda: check_environment(config, algorithm))
    if envs is not None:
        result.add("questions", lambda: check_questions(config, envs))
        result.add("index", lambda: check_index(envs.config))
        if envs.config.judge is not None:
            result.add("judge", lambda: check_judge(envs.config.judge))
    architecture = lengths = None
    if options is not None:
        result.add("packages", lambda: check_packages(config, options, about))
        if config.agent == "tiny" or options.get("model"):
            architecture = result.add("model", lambda: check_model(config, options))
        if envs is not None and config.agent == "hf" and os.path.isdir(options["model"]):
            lengths = result.add("chat template", lambda: check_tokenizer(config, options, envs))
    result.add("run directory", lambda: check_run_directory(run_dir))
    if architecture is not None and algorithm is not None and options is not None:
        plan = make_plan(config, algorithm, options, architecture, about, expected, lengths)
        if on_processor(options, plan, about):
            plan = _try(config, options, plan)
        result.plan = plan
        need = result.memory = memory(plan)
        result.add("disk", lambda: check_disk(config, run_dir, plan))
        result.add("device", lambda: check_device(options, plan, need, about))
    return result


def make_plan(
    config: TrainConfig,
    algorithm: Algorithm,
    options: dict[str, Any],
    architecture: Architecture,
    about: About | None = None,
    expected: Expected | None = None,
    lengths: Lengths | None = None,
) -> Plan:
    """What memory and time of a run depend on.

    Args:
        config: the run.
        algorithm: with its settings.
        options: of the agent, defaults included.
        architecture: of its model.
        about, expected: from a recipe.
        lengths: of prompts and observations, as far as they are known; a recipe's expectations take precedence.
    """
    if expected is None and lengths is not None:
        expected = Expected(prompt=lengths.prompt, observation=lengths.observation)
    if expected is None and config.agent == "tiny":
        expected = describe_recipe(find_recipe("tiny-cpu"))[1]
    about, expected = about or About(), expected or Expected()
    lora = lora_options(options)
    gpus = int(os.environ.get("WORLD_SIZE", about.gpus))
    episodes = config.questions * algorithm.settings.group_size
    context = options.get("max_context") or architecture.positions
    act = options.get("max_new_tokens") or expected.act
    if lengths is not None:
        shown = lengths.rounds * act + (lengths.rounds - 1) * lengths.longest_observation
        context = min(context, lengths.prompt + shown)
    gpu = torch.cuda.is_available() or about.hardware in HARDWARE
    narrow = gpu or (options.get("device", "cpu") != "cuda" and suits_bfloat16(architecture.weights))
    element = 2 if options.get("dtype") == "bfloat16" or (options.get("dtype") == "auto" and narrow) else 4
    return Plan(
        architecture=architecture,
        element=element,
        rank=lora.rank if lora else 0,
        targets=architecture.targets(lora.targets) if lora else (),
        states=state_bytes(config.optimizer),
        checkpointing=bool(options.get("gradient_checkpointing")),
        reference=getattr(algorithm.settings, "kl_coef", 0.0) > 0.0,
        engine=str(options.get("engine", "transformers")),
        token_budget=config.token_budget,
        max_context=context,
        max_act=act,
        rows=min(config.num_envs or episodes, -(-episodes // gpus)),
        episodes=episodes,
        groups=config.questions,
        epochs=config.epochs,
        iterations=config.iterations,
        rounds=expected.rounds,
        prompt=expected.prompt,
        act=min(expected.act, act),
        observation=expected.observation,
        shared=expected.shared,
        gpus=gpus,
        sharded=about.fsdp,
    )


def _try(config: TrainConfig, options: dict[str, Any], plan: Plan) -> Plan:
    """The plan with what this processor takes for a few layers."""
    # Not imported above: both bring in transformers.
    measure = importlib.import_module(".processor", __package__).measure_processor
    model = model_directory(config, options)[1]
    processor = measure(
        plan,
        read_config(model, options.get("gguf_file")),
        lora_options(options),
        own_forward=options.get("attention") is not None,
        threads=config.threads,
    )
    return replace(plan, processor=processor)
