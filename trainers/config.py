"""Configuration: dataclasses whose fields carry their explanation, checked in one place. This file does not import torch."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from searchgym.errors import ConfigError, did_you_mean
from searchgym.options import mapping

__all__ = ["Schedule", "TrainConfig", "describe_settings", "make_config", "option", "parse_settings"]

T = TypeVar("T")

Schedule = Literal["constant", "linear", "cosine"]


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its explanation.

    Args:
        default: its default value.
        text: the explanation, without a capital letter and a full stop.
        low: smallest number allowed.
        high: largest number allowed.
    """
    metadata = {"help": text, "low": low, "high": high}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a training run. The defaults are the README's demo."""

    trainer: str = option("grpo", "registered trainer, or FILE.py:CLASS")
    settings: dict[str, Any] = option({}, "the trainer's own settings (--set KEY=VALUE, --list-settings)")
    agent: str = option("tiny", "registered trainable agent")
    agent_options: dict[str, Any] = option({}, "arguments of the agent's constructor")
    env: str = option("SearchQA-Terse-v0", "registered environment id")
    env_options: dict[str, Any] = option(
        {"types": ["chain"], "hops": [2, 3]}, "arguments of gym.make; none by default once `env` is given"
    )
    num_envs: int = option(0, "environments stepped together; 0: one per episode of an iteration", low=0)
    iterations: int = option(50, "collect-and-update rounds", low=0)
    questions: int = option(16, "questions per iteration", low=1)
    max_episodes: int = option(0, "stop after this many episodes (0: no limit)", low=0)
    max_tokens: int = option(0, "stop after this many sampled tokens (0: no limit)", low=0)
    max_seconds: float = option(
        0.0,
        "stop after this many seconds of collecting and learning (0: no limit)",
        low=0.0,
    )
    lr: float = option(5e-4, "learning rate", low=0.0)
    lr_schedule: Schedule = option("constant", "learning rate schedule: constant, linear or cosine")
    lr_warmup: int = option(0, "iterations over which the learning rate rises at the start", low=0)
    lr_floor: float = option(0.0, "final learning rate of a schedule, as a fraction of lr", low=0.0, high=1.0)
    optimizer: str = option(
        "adamw", "optimizer of torch (adamw, sgd, adafactor, …) or bitsandbytes (adamw8bit, …)"
    )
    optimizer_options: dict[str, Any] = option({}, "arguments of the optimizer's constructor")
    weight_decay: float = option(0.0, "weight decay of the optimizer", low=0.0)
    epochs: int = option(1, "passes over an iteration's episodes", low=1)
    minibatches: int = option(2, "optimizer steps per pass", low=1)
    grad_clip: float = option(1.0, "largest gradient norm", low=1e-9)
    token_budget: int = option(16384, "tokens per forward and backward pass (memory)", low=1)
    temperature: float = option(1.0, "sampling temperature while collecting", low=1e-3)
    seed: int = option(0, "random seed", low=0, high=2**63 - 1)
    streams: Literal["run", "episode"] = option(
        "run",
        "random streams of sampling: one per run, or one per episode, so that the result does not depend on where an "
        "episode is played (implied by several processes, rollout workers and rollout_lag)",
    )
    rollout_workers: int = option(0, "number of Ray rollout workers (0: roll out in this process)", low=0)
    worker_options: dict[str, Any] = option({}, "Ray resources of each rollout worker, e.g. num_gpus")
    ray_address: str = option("", "address of a Ray cluster, or auto; default: start Ray on this machine")
    rollout_lag: int = option(
        0,
        "1: collect each iteration during the previous update, with weights one update old",
        low=0,
        high=1,
    )
    process_timeout: float = option(1800.0, "timeout in seconds for other processes and workers", low=1.0)
    threads: int = option(
        1,
        "CPU threads of torch (more gain little with the tiny models); 0: torch's default",
        low=0,
        high=4096,
    )
    split: str = option("train", "questions to train on")
    eval_split: str = option("dev", "questions to evaluate on")
    eval_episodes: int = option(
        200, "questions of the greedy evaluations before and after training; 0: no evaluation", low=0
    )
    eval_every: int = option(20, "iterations between evaluations during training; 0: none", low=0)
    checkpoint_every: int = option(5, "iterations between checkpoints (and saved episodes and credit)", low=1)
    keep_checkpoints: int = option(
        2, "number of newest checkpoints to keep, in addition to the initial one", low=1
    )
    keep_best: Literal["", "em", "f1", "sub_em", "recall"] = option(
        "", "also keep the checkpoint of the best evaluation by this metric: em, f1, sub_em or recall"
    )
    tracker: str = option("", "also log to tensorboard, wandb or trackio; comma-separated names")
    tracker_options: dict[str, Any] = option({}, "arguments of a tracker, as NAME.KEY=VALUE")
    alarms: dict[str, Any] = option({}, "limits of the alarms; null switches one off")
    stop_on_alarm: str = option(
        "", "stop the run when one of these alarms is raised: comma-separated names, or all"
    )
    record: str = option("", "record every retrieval and judge call on this tape")
    replay: str = option("", "replay retrieval and judge calls from this tape, without index and judge")


def make_config(values: Mapping[str, Any]) -> TrainConfig:
    """A checked `TrainConfig` from some of its fields.

    The default question filter belongs to the default environment: giving an environment, a corpus, types or hops
    drops it; other environment arguments keep it.

    Args:
        values: fields of `TrainConfig` by name.

    Raises:
        ConfigError: see `parse_settings`.
    """
    values = mapping("the training options", values)
    if "env" in values:
        values = {"env_options": {}, **values}
    else:
        given, filtered = values.get("env_options"), TrainConfig().env_options
        if isinstance(given, dict) and not {"corpus", *filtered} & given.keys():
            values = {**values, "env_options": {**filtered, **given}}
    return parse_settings(TrainConfig, values, "training option")


def parse_settings(cls: type[T], values: Mapping[str, Any], what: str = "trainer setting") -> T:
    """Build a settings dataclass from plain values.

    Args:
        cls: the dataclass; its fields are made with `option`.
        values: fields by name.
        what: what a field is called in messages.

    Raises:
        ConfigError: an unknown key (with near names), or a value of the wrong type or out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"unknown {what} {key!r}.{did_you_mean(str(key), fields)} Known: {', '.join(sorted(fields))}."
            )
    checked = {k: _check(f"{what} {k!r}", v, hints[k], fields[k].metadata) for k, v in values.items()}
    return cls(**checked)


def describe_settings(cls: type[Any]) -> list[tuple[str, str, Any, str]]:
    """(name, type, default, explanation) of every field, in order."""
    hints = typing.get_type_hints(cls)
    return [
        (f.name, _type_name(hints[f.name]), None if f.default is dataclasses.MISSING else f.default,
         f.metadata.get("help", ""))
        for f in dataclasses.fields(cls)
    ]  # fmt: skip


def _check(what: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            near = did_you_mean(str(value), [str(c) for c in choices])
            raise ConfigError(
                f"{what} is {value!r}.{near} Choose one of: {', '.join(str(c) for c in choices if c != '')}."
            )
        return value
    if origin in (typing.Union, types.UnionType):
        arms = typing.get_args(hint)
        if value is None and type(None) in arms:
            return None
        words = [w for a in arms if typing.get_origin(a) is typing.Literal for w in typing.get_args(a)]
        if isinstance(value, float) and math.isinf(value):
            value = str(value)  # infinity is not JSON: where it is allowed, it is a word
        if value in words:
            return value
        rest = [a for a in arms if a is not type(None) and typing.get_origin(a) is not typing.Literal]
        return _check(what, value, rest[0], {**metadata, "type": _type_name(hint)})
    kind = origin or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        wanted = metadata.get("type") or _type_name(hint)
        raise ConfigError(f"{what} is {value!r} ({type(value).__name__}): it takes a {wanted}")
    if kind is dict:  # infinity is not JSON, and these values go into config.json
        return {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in value.items()}
    if kind in (int, float):
        low, high = metadata.get("low"), metadata.get("high")
        if (
            not math.isfinite(value)
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{what} is {value!r}: it must be {bounds if low is not None else 'finite'}")
    return value


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(_type_name(arm) for arm in typing.get_args(hint))
    return (
        getattr(hint, "__name__", str(hint))
        if not typing.get_args(hint)
        else str(hint).replace("typing.", "")
    )
