"""What `--dry-run` looks at. Each check returns a text, or a text and what later checks need, or raises what is wrong."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import math
import os
import statistics
import time
from dataclasses import dataclass
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
from searchgym.records.retriever import Hit
from searchgym.rollouts.collection import agent_context_of
from searchgym.specs import bind_options

from ..config import TrainConfig
from ..core.algorithm import Algorithm, training_envs
from ..core.registry import load_trainer, trainer_label
from ..learner.optimizers import check_optimizer
from ..recipes import About
from ..runs.alarms import Alarms, parse_stops
from ..runs.directory import check_free
from ..runs.trackers import check_trackers
from .architecture import Architecture, NoEstimateError, read_architecture
from .estimate import ASSUMED, HARDWARE, Memory, Plan, disk

_RESULTS = 32  # search results whose tokens are counted

__all__ = [
    "Lengths",
    "check_agent",
    "check_device",
    "check_disk",
    "check_environment",
    "check_index",
    "check_judge",
    "check_model",
    "check_packages",
    "check_questions",
    "check_run_directory",
    "check_tokenizer",
    "check_trainer",
    "lora_options",
    "model_directory",
    "on_processor",
]


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the first question and search results take in tokens.

    Attributes:
        tokenizer: the model's; held so that this process is as large as that of the run.
        prompt: tokens before the first act.
        observation: tokens of a search result on average.
        longest_observation: tokens of the longest result that the environment shows.
        rounds: the environment's limit.
    """

    tokenizer: Any
    prompt: int
    observation: int
    longest_observation: int
    rounds: int


def on_processor(options: dict[str, Any], plan: Plan, about: About | None) -> bool:
    """Whether the run is for the processor of this machine."""
    meant = about is not None and about.hardware in HARDWARE
    wanted = str(options.get("device", "cpu"))
    return wanted == "cpu" or (
        wanted == "auto" and not torch.cuda.is_available() and not meant and plan.gpus == 1
    )


def lora_options(options: dict[str, Any]) -> LoraOptions | None:
    """The options of a new adapter, or of the one whose directory is the model."""
    if options.get("lora") is not None:
        return LoraOptions.read(options["lora"])
    model = str(options.get("model", ""))
    return saved_options(model) if adapter_base(model) is not None else None


def check_trainer(config: TrainConfig) -> tuple[str, Algorithm]:
    algorithm = load_trainer(config.trainer)(config.settings)
    Alarms(config.alarms)
    parse_stops(config.stop_on_alarm)
    check_optimizer(config.optimizer, config.optimizer_options)
    check_trackers(config.tracker, config.tracker_options)
    size = algorithm.settings.group_size
    text = f"{trainer_label(config.trainer)}: {config.iterations} iterations of {config.questions} questions x {size} episodes"
    return text, algorithm


def check_agent(config: TrainConfig, about: About | None) -> tuple[str, dict[str, Any]]:
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


def check_environment(config: TrainConfig, algorithm: Algorithm | None) -> tuple[str, SearchVectorEnv]:
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


def check_questions(config: TrainConfig, envs: SearchVectorEnv) -> str:
    splits = [config.split, *([config.eval_split] if config.eval_episodes else [])]
    counts = {split: len(envs.task_ids(split)) for split in splits}
    empty = [split for split, count in counts.items() if not count]
    if empty:
        advice = "set eval_episodes to 0" if empty == [config.eval_split] else "choose another split"
        raise ConfigError(f"no questions in split {empty[0]!r}: {advice}")
    return ", ".join(f"{split}: {count:,}" for split, count in counts.items())


def check_index(env_config: EnvConfig) -> str:
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


def check_judge(judge: Any) -> str:
    if not hasattr(judge, "check"):
        return f"{judge.name}: in this process"
    judge.check()
    return f"{judge.name}: answers"


def check_packages(config: TrainConfig, options: dict[str, Any], about: About | None) -> str:
    """What this configuration needs beyond the base installation."""
    needed = {"torch": "train", "transformers": "train", "safetensors": "train", "matplotlib": "train"}
    if lora_options(options) is not None:
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


def check_model(config: TrainConfig, options: dict[str, Any]) -> tuple[str, Architecture | None]:
    """Its size, where that can be known without its weights."""
    name, model = model_directory(config, options)
    try:
        architecture = read_architecture(model, options.get("gguf_file"))
    except NoEstimateError as error:
        return f"{error}; it may train all the same", None
    except ConfigError as error:
        if os.path.exists(model):
            raise
        return f"{error}. Without that, no estimates", None
    lora = lora_options(options)
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


def model_directory(config: TrainConfig, options: dict[str, Any]) -> tuple[str, str]:
    """How the model is called, and where its configuration is."""
    if config.agent == "tiny":
        packaged = importlib.resources.files("searchgym.agents.tiny") / "data"
        return options["checkpoint"] or "the packaged warm start", str(options["checkpoint"] or packaged)
    name = str(options["model"])
    return name, adapter_base(name) or name


def check_tokenizer(
    config: TrainConfig, options: dict[str, Any], envs: SearchVectorEnv
) -> tuple[str, Lengths | None]:
    """Whether the model's chat template can be used, and a first prompt fits the context; and what lengths are."""
    loading = importlib.import_module("searchgym.agents.hf.loading")
    chat = importlib.import_module("searchgym.agents.hf.chat")
    prompts = importlib.import_module("searchgym.agents.hf.prompts")
    read = importlib.import_module("searchgym.agents.hf.options").HFOptions(
        **{key: value for key, value in options.items() if key not in ("model", "tokenizer")}
    )
    path = str(options["model"])
    source = adapter_base(path) or path
    if not os.path.isdir(source):
        return f"not checked: {source} is not a directory of this machine", None
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
    observation, longest = _observations(envs.config, form)
    text = f"the first prompt has {prompt} tokens, a search result {observation}, at most {longest}"
    return text, Lengths(tokenizer, prompt, observation, longest, envs.config.max_rounds)


def _observations(env_config: EnvConfig, form: Any) -> tuple[int, int]:
    """Tokens of a search result: the mean of results made of passages of the corpus, and of the longest that is shown."""
    passages, shown = env_config.corpus.passages, env_config.max_observation_chars
    each = min(env_config.top_k, len(passages))
    starts = range(0, len(passages) - each + 1, max(1, len(passages) // _RESULTS))[:_RESULTS]
    results = [
        env_config.dialect.render_hits(
            [Hit(p.id, p.title, p.text, 0.0) for p in passages[start : start + each]],
            shown,
        )
        for start in starts
    ]
    tokens = [len(form.reply(result, False)) for result in results]
    around = len(form.reply("", False))
    density = sum(count - around for count in tokens) / sum(map(len, results))
    return round(statistics.mean(tokens)), around + math.ceil(density * shown)


def check_run_directory(run_dir: Path) -> str:
    check_free(run_dir)
    parent = run_dir.absolute()
    while not parent.is_dir():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"{parent} cannot be written: choose another --run-dir")
    return f"{run_dir} is free"


def check_disk(config: TrainConfig, run_dir: Path, plan: Plan) -> str:
    # The initial one, those kept, and the one being written.
    needed = disk(plan, config.keep_checkpoints + 2)
    free = free_disk(run_dir)
    text = f"checkpoints take {human(needed.value)} ({needed.source}), {human(free)} are free"
    if needed.value > free:
        raise ConfigError(f"{text}: lower keep_checkpoints, or choose a --run-dir on another disk")
    return text


def check_device(options: dict[str, Any], plan: Plan, need: Memory, about: About | None) -> str:
    """Whether the devices are there, and large enough."""
    if on_processor(options, plan, about):
        size = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        if need.peak > size:
            raise ConfigError(f"the run needs {human(need.peak)}, this machine has {human(size)} of memory")
        return f"CPU: {human(need.peak)} of {human(size)} of memory"
    count = torch.cuda.device_count()
    meant = about.hardware if about is not None and about.hardware in HARDWARE else ""
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
