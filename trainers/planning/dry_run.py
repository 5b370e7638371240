"""`searchgym train --dry-run`: looks at everything but the weights before any work, and estimates memory and time.

Nothing is written, downloaded or trained. Corpus and index are opened and searched once; a judge with a readiness check is
checked. Of the model only the configuration is read, and the tokenizer if it is on this machine.
"""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from searchgym.agents.hf.lora import LoraOptions, adapter_base, saved_options
from searchgym.agents.policy import Policy
from searchgym.corpora.datasets.hub import find_set
from searchgym.corpora.indexing.disk import free_disk, human
from searchgym.env.config import EnvConfig
from searchgym.env.setup import registered_arguments
from searchgym.env.vector import SearchVectorEnv, make_vec
from searchgym.errors import ConfigError, RetrievalError, SearchGymError
from searchgym.files import policy_directory
from searchgym.options import plugins
from searchgym.rollouts.collection import agent_context_of
from searchgym.specs import bind_options

from ..config import TrainConfig
from ..core.algorithm import Algorithm, training_envs
from ..core.registry import load_trainer, trainer_label
from ..learner.optimizers import check_optimizer
from ..recipes import About, Expected
from ..runs.alarms import Alarms, parse_stops
from ..runs.directory import check_free
from ..runs.trackers import check_trackers
from .architecture import Architecture, NoEstimateError, read_architecture
from .estimate import ASSUMED, HARDWARE, Memory, Plan, disk, memory, state_bytes

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
    algorithm = result.add("trainer", lambda: _trainer(config))
    options = result.add("agent", lambda: _agent(config, about))
    envs = result.add("environment", lambda: _environment(config, algorithm))
    if envs is not None:
        result.add("questions", lambda: _questions(config, envs))
        result.add("index", lambda: _index(envs.config))
        if envs.config.judge is not None:
            result.add("judge", lambda: _judge(envs.config.judge))
    architecture = None
    if options is not None:
        result.add("packages", lambda: _packages(config, options, about))
        if config.agent == "tiny" or options.get("model"):
            architecture = result.add("model", lambda: _model(config, options))
        if envs is not None and config.agent == "hf" and os.path.isdir(options["model"]):
            result.add("chat template", lambda: _tokenizer(config, options, envs))
    result.add("run directory", lambda: _run_directory(run_dir))
    if architecture is not None and algorithm is not None and options is not None:
        plan = result.plan = make_plan(config, algorithm, options, architecture, about, expected)
        need = result.memory = memory(plan)
        result.add("disk", lambda: _disk(config, run_dir, plan))
        result.add("device", lambda: _device(options, plan, need, about))
    return result


def make_plan(
    config: TrainConfig,
    algorithm: Algorithm,
    options: dict[str, Any],
    architecture: Architecture,
    about: About | None = None,
    expected: Expected | None = None,
) -> Plan:
    """What memory and time of a run depend on.

    Args:
        config: the run.
        algorithm: with its settings.
        options: of the agent, defaults included.
        architecture: of its model.
        about, expected: from a recipe.
    """
    about, expected = about or About(), expected or Expected()
    lora = _lora(options)
    gpus = int(os.environ.get("WORLD_SIZE", about.gpus))
    episodes = config.questions * algorithm.settings.group_size
    context = options.get("max_context") or architecture.positions
    act = options.get("max_new_tokens") or expected.act
    gpu = torch.cuda.is_available() or about.hardware in HARDWARE
    element = 2 if options.get("dtype") == "bfloat16" or (options.get("dtype") == "auto" and gpu) else 4
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
        gpus=gpus,
        sharded=about.fsdp,
    )


def _lora(options: dict[str, Any]) -> LoraOptions | None:
    """The options of a new adapter, or of the one whose directory is the model."""
    if options.get("lora") is not None:
        return LoraOptions.read(options["lora"])
    model = str(options.get("model", ""))
    return saved_options(model) if adapter_base(model) is not None else None


# -- the checks: each returns a text, or a text and what later checks need ------------------------------------


def _trainer(config: TrainConfig) -> tuple[str, Algorithm]:
    algorithm = load_trainer(config.trainer)(config.settings)
    Alarms(config.alarms)
    parse_stops(config.stop_on_alarm)
    check_optimizer(config.optimizer, config.optimizer_options)
    check_trackers(config.tracker, config.tracker_options)
    size = algorithm.settings.group_size
    text = f"{trainer_label(config.trainer)}: {config.iterations} iterations of {config.questions} questions x {size} episodes"
    return text, algorithm


def _agent(config: TrainConfig, about: About | None) -> tuple[str, dict[str, Any]]:
    kind = plugins.load("agents", config.agent)
    if not (isinstance(kind, type) and issubclass(kind, Policy)):
        raise ConfigError(f"agent {config.agent!r} cannot be trained: it has no weights (try 'tiny' or 'hf')")
    options = bind_options("agent", config.agent, kind, (), dict(config.agent_options))
    for weights in ("model", "checkpoint"):
        if isinstance(options.get(weights), str) and os.path.isdir(options[weights]):
            options[weights] = str(policy_directory(options[weights]))
    if about is not None and about.fsdp and options.get("attention") is None:
        raise ConfigError(
            f"agent {config.agent!r} cannot be sharded (fsdp) with these options: set attention=sdpa"
        )
    return f"{config.agent}: takes these options", options


def _environment(config: TrainConfig, algorithm: Algorithm | None) -> tuple[str, SearchVectorEnv]:
    arguments = {**config.env_options, "split": config.split}
    arguments |= {name: tape for name in ("record", "replay") if (tape := getattr(config, name))}
    _downloaded(registered_arguments(config.env, arguments).get("corpus"))
    if config.record:  # opening it would begin the tape
        arguments.pop("record")
    envs = make_vec(config.env, 1, **arguments)
    if algorithm is not None:
        envs = training_envs(algorithm, envs)
    env_config = envs.config
    passages = len(env_config.corpus.passages)
    return (
        f"{config.env}: {passages:,} passages, {env_config.max_rounds} rounds, top {env_config.top_k}",
        envs,
    )


def _downloaded(corpus: Any) -> None:
    """Refuse data that would have to be downloaded."""
    if not isinstance(corpus, dict) or corpus.get("name") != "hub":
        return
    questions = corpus.get("questions") or []
    for name in [corpus.get("corpus"), *([questions] if isinstance(questions, str) else questions)]:
        if not isinstance(name, str) or os.path.exists(name):
            continue
        fetch = f"searchgym corpus fetch {name}"
        try:
            missing = find_set(name).missing
        except SearchGymError as error:
            raise ConfigError(f"{error}. On a machine with a network: {fetch}") from error
        if missing:
            raise ConfigError(f"{name} is not on this machine ({missing / 1e9:.1f} GB are missing): {fetch}")


def _questions(config: TrainConfig, envs: SearchVectorEnv) -> str:
    splits = [config.split, *([config.eval_split] if config.eval_episodes else [])]
    counts = {split: len(envs.task_ids(split)) for split in splits}
    empty = [split for split, count in counts.items() if not count]
    if empty:
        advice = "set eval_episodes to 0" if empty == [config.eval_split] else "choose another split"
        raise ConfigError(f"no questions in split {empty[0]!r}: {advice}")
    return ", ".join(f"{split}: {count:,}" for split, count in counts.items())


def _index(env_config: EnvConfig) -> str:
    started = time.perf_counter()
    (hits,) = env_config.retriever.search([env_config.tasks(env_config.split)[0].text], env_config.top_k)
    if isinstance(hits, RetrievalError):
        raise hits
    if not hits:
        raise ConfigError(
            f"retriever {env_config.retriever.name!r} found nothing for the first question: is it the index of this corpus?"
        )
    milliseconds = (time.perf_counter() - started) * 1e3
    return f"{env_config.retriever.name}: {len(hits)} hits for the first question in {milliseconds:.0f} ms"


def _judge(judge: Any) -> str:
    if not hasattr(judge, "check"):
        return f"{judge.name}: in this process"
    judge.check()
    return f"{judge.name}: answers"


def _packages(config: TrainConfig, options: dict[str, Any], about: About | None) -> str:
    """What this configuration needs beyond the base installation."""
    needed = {"torch": "train", "transformers": "train", "safetensors": "train", "matplotlib": "train"}
    if _lora(options) is not None:
        needed["peft"] = "train"
    if about is not None and about.gpus > 1:
        needed["accelerate"] = "train"
    if config.rollout_workers:
        needed["ray"] = "ray"
    if options.get("engine") == "vllm":
        needed["vllm"] = "vllm"
    if options.get("engine") == "vllm-server":
        needed["openai"] = "judge"
    for module, extra in needed.items():
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"{module} is not installed: pip install 'searchgym[{extra}]'")
    return ", ".join(needed)


def _model(config: TrainConfig, options: dict[str, Any]) -> tuple[str, Architecture | None]:
    """Its size, where that can be known without its weights."""
    if config.agent == "tiny":
        name = options["checkpoint"] or "the packaged warm start"
        model = str(options["checkpoint"] or importlib.resources.files("searchgym.agents.tiny") / "data")
    else:
        name = str(options["model"])
        model = adapter_base(name) or name
    try:
        architecture = read_architecture(model)
    except NoEstimateError as error:
        return f"{error}; it may train all the same", None
    except ConfigError as error:
        if os.path.exists(model):
            raise
        return f"{error}. Without that, no estimates", None
    lora = _lora(options)
    if lora is not None:
        architecture.targets(lora.targets)  # refuses names that no layer has
    context = options.get("max_context")
    if context is not None and context > architecture.positions:
        raise ConfigError(f"max_context is {context}: {name} takes at most {architecture.positions} tokens")
    estimated = " (the rest of its shape is estimated)" if architecture.counted else ""
    return (
        f"{name}: {architecture.weights:,} weights in {architecture.layers} layers{estimated}",
        architecture,
    )


def _tokenizer(config: TrainConfig, options: dict[str, Any], envs: SearchVectorEnv) -> str:
    """Whether the model's chat template can be used, and a first prompt fits the context."""
    loading = importlib.import_module("searchgym.agents.hf.loading")
    chat = importlib.import_module("searchgym.agents.hf.chat")
    prompts = importlib.import_module("searchgym.agents.hf.prompts")
    read = importlib.import_module("searchgym.agents.hf.options").HFOptions(
        **{key: value for key, value in options.items() if key not in ("model", "tokenizer")}
    )
    path = str(options["model"])
    source = adapter_base(path) or path
    if not os.path.isdir(source):
        return f"not checked: {source} is not a directory of this machine"
    tokenizer = loading.open_chat_tokenizer("agent 'hf'", path, source, read.gguf_file, read.chat_template)
    agent_context = prompts.prompted(
        agent_context_of(envs.config), read.prompt, prompts.read_demonstrations(read.shown())
    )
    form = chat.ChatFormat(tokenizer, agent_context, thinking=read.thinking)
    prompt = len(form.opening(envs.config.tasks(config.split)[0].text))
    context = options.get("max_context") or tokenizer.model_max_length
    if prompt + options["max_new_tokens"] > context:
        raise ConfigError(
            f"the first prompt has {prompt} tokens and an act up to {options['max_new_tokens']}: max_context={context} "
            "has no room for both"
        )
    return f"the first prompt has {prompt} tokens"


def _run_directory(run_dir: Path) -> str:
    check_free(run_dir)
    parent = run_dir.absolute()
    while not parent.is_dir():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"{parent} cannot be written: choose another --run-dir")
    return f"{run_dir} is free"


def _disk(config: TrainConfig, run_dir: Path, plan: Plan) -> str:
    # The initial one, those kept, and the one being written.
    needed = disk(plan, config.keep_checkpoints + 2)
    free = free_disk(run_dir)
    text = f"checkpoints take {human(needed.value)} ({needed.source}), {human(free)} are free"
    if needed.value > free:
        raise ConfigError(f"{text}: lower keep_checkpoints, or choose a --run-dir on another disk")
    return text


def _device(options: dict[str, Any], plan: Plan, need: Memory, about: About | None) -> str:
    """Whether the devices are there, and large enough."""
    count, wanted = torch.cuda.device_count(), str(options.get("device", "cpu"))
    meant = about.hardware if about is not None and about.hardware in HARDWARE else ""
    if wanted == "cpu" or (wanted == "auto" and not count and not meant and plan.gpus == 1):
        size = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        if need.peak > size:
            raise ConfigError(f"the run needs {human(need.peak)}, this machine has {human(size)} of memory")
        return f"CPU: {human(need.peak)} of {human(size)} of memory"
    if count < plan.gpus:
        raise ConfigError(
            f"the run is for {plan.gpus} x {meant or 'GPU'}, and there are {count} GPUs here (--agent-option device=cpu "
            "trains on the CPU, slowly)"
        )
    name = torch.cuda.get_device_name(0)
    size = torch.cuda.get_device_properties(0).total_memory * (1 - ASSUMED["reserve"])
    if need.peak > size:
        raise ConfigError(
            f"the run needs {human(need.peak)} per GPU, {name} has {human(size)} to give: lower num_envs, token_budget or "
            "max_context, or turn gradient_checkpointing on"
        )
    return f"{plan.gpus} x {name}: {human(need.peak)} of {human(size)}"
