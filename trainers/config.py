"""Configuration: dataclasses whose fields carry their explanation, checked in one place. No torch in here."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from searchgym.errors import ConfigError, did_you_mean

__all__ = ["Schedule", "TrainConfig", "describe_settings", "make_config", "option", "parse_settings"]

T = TypeVar("T")

Schedule = Literal["constant", "linear", "cosine"]


def option(default: Any, text: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its explanation and, for numbers, the range it must lie in (bounds included)."""
    metadata = {"help": text, "low": low, "high": high}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run is made from. The defaults are the README's demo."""

    trainer: str = option("grpo", "registered trainer")
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
    max_episodes: int = option(0, "end after the iteration that reaches so many episodes; 0: never", low=0)
    max_tokens: int = option(
        0, "end after the iteration that reaches so many sampled tokens; 0: never", low=0
    )
    max_seconds: float = option(
        0.0,
        "end after the iteration that reaches so many seconds, evaluations not counted; 0: never",
        low=0.0,
    )
    lr: float = option(5e-4, "learning rate", low=0.0)
    lr_schedule: Schedule = option(
        "constant", "how the learning rate goes over the iterations: constant, linear or cosine"
    )
    lr_warmup: int = option(0, "iterations over which it rises at the start", low=0)
    lr_floor: float = option(0.0, "where a schedule ends, as a share of lr", low=0.0, high=1.0)
    optimizer: str = option("adamw", "of torch (adamw, sgd, adafactor, …) or bitsandbytes (adamw8bit, …)")
    optimizer_options: dict[str, Any] = option({}, "arguments of the optimizer's constructor")
    weight_decay: float = option(0.0, "weight decay of the optimizer", low=0.0)
    epochs: int = option(1, "passes over an iteration's episodes", low=1)
    minibatches: int = option(2, "optimizer steps per pass", low=1)
    grad_clip: float = option(1.0, "largest gradient norm", low=1e-9)
    token_budget: int = option(16384, "tokens per forward and backward pass (memory)", low=1)
    temperature: float = option(1.0, "sampling temperature while collecting", low=1e-3)
    seed: int = option(0, "of everything random", low=0)
    streams: Literal["run", "episode"] = option(
        "run",
        "random streams of sampling: one of the run, or one per episode, so that who plays it changes nothing "
        "(always so with several processes, rollout workers or rollout_lag)",
    )
    rollout_workers: int = option(0, "processes that play, on Ray; 0: this one plays", low=0)
    worker_options: dict[str, Any] = option({}, "what Ray gives each worker, e.g. num_gpus")
    ray_address: str = option(
        "", "of a Ray cluster, or auto; default: a Ray of this run's own, on this machine"
    )
    rollout_lag: int = option(
        0,
        "1: collect each iteration while the one before is learned from, with weights one update old",
        low=0,
        high=1,
    )
    process_timeout: float = option(
        1800.0, "seconds after which another process or worker that does not answer is given up", low=1.0
    )
    threads: int = option(
        1, "CPU threads of torch (the tiny models gain little from more); 0: torch's own choice", low=0
    )
    split: str = option("train", "questions to train on")
    eval_split: str = option("dev", "questions to evaluate on")
    eval_episodes: int = option(200, "greedy evaluation before and after; 0: none", low=0)
    eval_every: int = option(0, "also evaluate every so many iterations; 0: never", low=0)
    checkpoint_every: int = option(5, "iterations between checkpoints (and saved episodes)", low=1)
    keep_checkpoints: int = option(2, "newest checkpoints kept, besides the initial one", low=1)
    keep_best: Literal["", "em", "f1", "sub_em", "recall"] = option(
        "", "also keep the checkpoint of the best evaluation by this metric: em, f1, sub_em or recall"
    )
    tracker: str = option("", "also log to: tensorboard, wandb, trackio; names with commas")
    tracker_options: dict[str, Any] = option({}, "arguments of a tracker, as NAME.KEY=VALUE")
    alarms: dict[str, Any] = option({}, "limits of the alarms; null switches one off")
    stop_on_alarm: str = option(
        "", "end the run when one of these alarms is raised: names with commas, or all"
    )
    record: str = option("", "write every retrieval and judge call to this tape")
    replay: str = option("", "take them from this tape; neither index nor judge is opened")


def make_config(values: Mapping[str, Any]) -> TrainConfig:
    """A checked `TrainConfig` from some of its fields.

    The default question filter belongs to the default questions: naming an environment, a corpus, types or hops
    drops it; other arguments of the environment leave it.

    Raises:
        ConfigError: see `parse_settings`.
    """
    if "env" in values:
        values = {"env_options": {}, **values}
    else:
        given, filtered = values.get("env_options"), TrainConfig().env_options
        if isinstance(given, dict) and not {"corpus", *filtered} & given.keys():
            values = {**values, "env_options": {**filtered, **given}}
    return parse_settings(TrainConfig, values, "training option")


def parse_settings(cls: type[T], values: Mapping[str, Any], what: str = "trainer setting") -> T:
    """Build a settings dataclass from plain values.

    Raises:
        ConfigError: a key nobody declared (with near names), a value of the wrong type or out of range.
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
            raise ConfigError(f"{what} is {value!r}.{near} Choose one of: {', '.join(map(str, choices))}.")
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
