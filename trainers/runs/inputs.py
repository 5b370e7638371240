"""What a run reads from outside: corpus, index, questions, tokenizer, files. A resumed run must read the same.

The run directory keeps a digest of each under `inputs` in config.json; `check_inputs` compares them when the run is resumed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from searchgym.env.config import EnvConfig
from searchgym.errors import ConfigError, RunDirectoryError, did_you_mean, get_logger
from searchgym.files import crc32
from searchgym.records.question import Question, gold_record

from ..config import TrainConfig

__all__ = ["INPUTS", "changed_inputs", "check_allowed", "check_evaluated", "check_inputs", "describe_inputs"]

_log = get_logger(__name__)

INPUTS = {
    "corpus": "the passages of the corpus",
    "index": "the index that is searched",
    "questions": "the training questions",
    "eval_questions": "the evaluation questions",
    "tokenizer": "the agent's tokenizer",
    "agent_files": "the files that the agent's options name (a warm start)",
    "trainer_files": "the files that the trainer's settings name (demonstrations)",
}
"""What is compared when a run is resumed, by name."""

_ALLOWABLE = tuple(
    name for name in INPUTS if name != "tokenizer"
)  # of another one, token ids mean other words


def describe_inputs(config: TrainConfig, env: EnvConfig, policy: Mapping[str, Any]) -> dict[str, str]:
    """A digest of everything that a run reads from outside, by the names of `INPUTS`; without those that it does not have.

    Args:
        config: of the run.
        env: the environment's arguments, opened.
        policy: what `Policy.describe` returns.
    """
    inputs = {
        "corpus": env.corpus.hash,
        "index": env.retriever.index_hash,
        "questions": _digest(map(_question, env.tasks(config.split))),
        "tokenizer": str(_inner(policy).get("tokenizer") or ""),
        "agent_files": _files(config.agent_options),
        "trainer_files": _files(config.settings),
    }
    if config.eval_episodes:
        inputs["eval_questions"] = _digest(map(_question, env.tasks(config.eval_split)))
    return {name: inputs[name] for name in INPUTS if inputs.get(name)}


def check_allowed(names: Collection[str]) -> frozenset[str]:
    """The inputs that may have changed, from the names that a user gave; "all" stands for every one that can be allowed.

    Raises:
        ConfigError: an unknown name, or the tokenizer.
    """
    for name in names:
        if name == "tokenizer":
            raise ConfigError(
                "allow_changed names the tokenizer, but token ids would mean other words: start a new run instead"
            )
        if name not in ("all", *_ALLOWABLE):
            raise ConfigError(
                f"allow_changed names {name!r}, which is not an input of a run.{did_you_mean(str(name), _ALLOWABLE)} Known: "
                f"{', '.join(_ALLOWABLE)}, or all."
            )
    return frozenset(_ALLOWABLE if "all" in names else names)


def check_inputs(path: Path, stored: object, here: Mapping[str, str], allowed: Collection[str] = ()) -> None:
    """Refuse to continue a run that would read something else than before.

    Args:
        path: the run directory, for messages.
        stored: `inputs` of its config.json; None in runs of earlier versions, which is only warned of.
        here: what `describe_inputs` gives now.
        allowed: inputs that may have changed.

    Raises:
        RunDirectoryError: something has changed that is not allowed to.
    """
    if stored is None:
        _log.warning(
            "run %s was started by a version that kept no digests of its inputs: whether corpus, index, questions and tokenizer "
            "are still the same cannot be checked",
            path,
        )
        return
    if not isinstance(stored, Mapping):
        raise RunDirectoryError(f"{path / 'config.json'} is damaged: its inputs are {stored!r:.60}")
    changed = changed_inputs(stored, here)
    refused = [name for name in changed if name not in allowed]
    for name in changed:
        if name in allowed:
            _log.warning("%s of run %s changed since it was started, as you allowed", INPUTS[name], path)
    if not refused:
        return
    what = "; ".join(
        f"{name} ({INPUTS[name]}: {_short(stored.get(name))}, now {_short(here.get(name))})"
        for name in refused
    )
    if "tokenizer" in refused:
        next_move = "restore the tokenizer, because token ids would mean other words, or start a new run"
    else:
        names = ",".join(refused)
        next_move = (
            "restore what the run was started with, or start a new run; to continue all the same, give "
            f"--allow-changed {names} (in Python allow_changed={refused})"
        )
    raise RunDirectoryError(
        f"run {str(path)!r} was started with other inputs: {what}. {next_move[0].upper()}{next_move[1:]}"
    )


def changed_inputs(stored: Mapping[str, Any], here: Mapping[str, str]) -> list[str]:
    """The names of the inputs that differ."""
    return [name for name in INPUTS if stored.get(name) != here.get(name)]


def check_evaluated(path: Path, stored: object, here: Mapping[str, str]) -> None:
    """Refuse to evaluate a run on something else than it was evaluated on, as if it were the same.

    Args:
        path: the run directory, for messages.
        stored: `inputs` of its config.json; None in runs of earlier versions, which have no digests.
        here: what `describe_inputs` gives now.

    Raises:
        RunDirectoryError: corpus, index or evaluation questions have changed.
    """
    changed = changed_inputs(stored, here) if isinstance(stored, Mapping) else []
    changed = [name for name in changed if name in ("corpus", "index", "eval_questions")]
    if changed:
        raise RunDirectoryError(
            f"run {str(path)!r} was evaluated on other inputs: {', '.join(INPUTS[name] for name in changed)} changed since. "
            "Restore them, or name the environment's corpus or another option again to evaluate on what is there now "
            "(--env-option, in Python env_options)"
        )


def _short(digest: object) -> str:
    return str(digest)[:12] if digest else "none"


def _inner(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of the policy that is trained: that of a planner's is inside its own."""
    inner = policy.get("trained")
    return inner if isinstance(inner, Mapping) else policy


def _question(question: Question) -> list[Any]:
    return [question.id, question.text, question.type, question.hops, gold_record(question)]


_WRITTEN = ("sync_dir",)
"""Options that name a directory which a run writes to, so that what lies there is no input."""


def _files(options: Mapping[str, Any]) -> str:
    """Digest of the files and directories that the strings in some options name; "" without any."""
    facts: list[Any] = []
    for text in sorted(set(_strings(options))):
        path = Path(text)
        if os.path.exists(path):
            files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
            facts.append(
                [(str(f.relative_to(path)), f.stat().st_size, crc32(f)) for f in files if f.is_file()]
            )
    return _digest(facts) if facts else ""


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        if value and len(value) < 4096 and "\0" not in value:
            yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name not in _WRITTEN:
                yield from _strings(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _strings(part)


def _digest(values: Any) -> str:
    digest = blake2b(digest_size=16)
    for value in values:
        digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()
