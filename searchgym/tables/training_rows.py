"""Episodes as conversations, and in the row formats of TRL, verifiers and verl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..dialects import get_dialect, prompt_of
from ..errors import EpisodeFileError
from ..records.episode import Episode
from .columns import clean
from .failures import named

__all__ = ["TRL_TYPES", "conversation", "trl_rows", "verifiers_row", "verl_row"]

TRL_TYPES = ("language-modeling", "prompt-completion", "unpaired-preference", "prompt-only")
"""TRL's own names of data set types.

language-modeling: one row per episode, `messages`. prompt-completion: one row per valid act; the completion is that act alone,
because TRL learns from every token of a completion, also from passages in it. unpaired-preference: the same for all acts, with
`label`, true for the valid acts of episodes with an exact match. prompt-only: one row per question.
"""


def conversation(episode: Episode, corpus_description: str) -> list[dict[str, str]]:
    """The episode as chat messages: system prompt, question, and by turns the acts and the observations.

    An imported rollout has no system prompt: the prompt of its project is not in the record.

    Args:
        episode: the record.
        corpus_description: how the system prompt names the corpus; a file of episodes does not hold it.

    Returns:
        [{"role", "content"}, …] with the roles "system", "user" and "assistant".

    Raises:
        EpisodeFileError: the record does not say which dialect it was played in.
    """
    return [message for message, _ in _messages(episode, corpus_description)]


def _messages(episode: Episode, corpus_description: str) -> list[tuple[dict[str, str], int]]:
    """Each message with the index of the round that reads it (an observation) or writes it (an act)."""
    env = episode.env
    if "dialect" not in env:
        raise EpisodeFileError(
            f"episode {episode.episode_id!r} has no dialect in its env: its messages are unknown"
        )
    messages = [(_message("user", episode.question), 0)]
    if not episode.imported:
        prompt = prompt_of(
            get_dialect(env["dialect"], corpus_description),
            env.get("task", "answer"),
            feedback=env.get("feedback", "off") != "off",
            max_queries=env.get("max_queries", 1),
        )
        messages.insert(0, (_message("system", prompt), 0))
    for index, record in enumerate(episode.rounds):
        if record.text:
            messages.append((_message("assistant", record.text), index))
        if record.observation:
            messages.append((_message("user", record.observation), index + 1))
    return messages


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": clean(content)}


def trl_rows(episodes: Iterable[Episode], kind: str, corpus_description: str) -> Iterator[dict[str, Any]]:
    """Rows of a data set type of TRL.

    Args:
        episodes: the records; those lost to infrastructure must be left out before.
        kind: one of `TRL_TYPES`.
        corpus_description: see `conversation`.
    """
    asked: set[str] = set()
    for episode in episodes:
        with named(episode):
            messages = _messages(episode, corpus_description)
        plain = [message for message, _ in messages]
        if kind == "language-modeling":
            yield {"messages": plain}
        elif kind == "prompt-only":
            if episode.task_id not in asked:
                asked.add(episode.task_id)
                answers = [clean(answer) for answer in episode.gold.get("answers", ())]
                opening = plain[: 1 if episode.imported else 2]
                yield {"prompt": opening, "task_id": episode.task_id, "answers": answers}
        else:
            for at, (message, index) in enumerate(messages):
                if message["role"] != "assistant":
                    continue
                valid = episode.rounds[index].action.kind not in ("invalid", "none")
                row: dict[str, Any] = {"prompt": plain[:at], "completion": [message]}
                if kind == "unpaired-preference":
                    yield row | {"label": valid and episode.outcome.em >= 1.0}
                elif valid:
                    yield row


def verifiers_row(episode: Episode, corpus_description: str) -> dict[str, Any]:
    """A line of the file `traces.jsonl` that verifiers 0.4 writes for an evaluation: an episode with one trace.

    The tokens go with the messages if the episode was played as one sequence. An episode that was lost to infrastructure has
    an error and no reward.

    Args:
        episode: the record.
        corpus_description: see `conversation`.
    """
    outcome, valid = episode.outcome, not episode.lost
    messages = _messages(episode, corpus_description)
    task = {
        "type": "SearchQuestion",
        "key": episode.task_id,
        "data": {
            "id": episode.task_id,
            "prompt": clean(episode.question),
            "system_prompt": None if episode.imported else messages[0][0]["content"],
            "answers": [clean(answer) for answer in episode.gold.get("answers", ())],
            "split": episode.split,
        },
    }
    names = ("em", "f1", "sub_em", "recall", "rounds", "searches")
    reason = outcome.stop_reason.value
    failure = {"type": reason, "message": "the infrastructure, or a judge that the reward needs, failed"}
    nodes = _nodes(episode, messages)
    trace = {
        "version": 1,
        "id": episode.episode_id,
        "task": task,
        "agent": {"config": {"model": clean(episode.agent)}},
        "nodes": nodes,
        "calls": _calls(nodes),
        "rewards": {"reward": {"score": episode.reward, "weight": 1.0} if valid else None},
        "metrics": {name: float(getattr(outcome, name)) if valid else None for name in names},
        "info": {"answer": clean(outcome.answer), "env": episode.env},
        "is_completed": True,
        "ok": valid,
        "stop_condition": reason,
        "errors": [] if valid else [failure],
    }
    return {
        "id": episode.episode_id,
        "env": {"id": "searchgym", "name": str(episode.env.get("corpus", ""))},
        "task": task,
        "group": {"id": episode.group_id},
        "ok": valid,
        "traces": [trace],
    }


def verl_row(episode: Episode, corpus_description: str) -> dict[str, Any]:
    """A line of the files that verl writes with `trainer.rollout_data_dir`, with the text of a chat template without its marks.

    Args:
        episode: the record; one that was lost to infrastructure must be left out before.
        corpus_description: see `conversation`.
    """
    messages = [message for message, _ in _messages(episode, corpus_description)]
    acts = next((n for n, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    output = ""
    for message in messages[acts:]:
        if message["role"] == "assistant":
            output += message["content"]
        else:
            output += f"\nuser\n{message['content']}\nassistant\n"
    return {
        "input": "".join(f"{m['role']}\n{m['content']}\n" for m in messages[:acts]) + "assistant\n",
        "output": output,
        "gts": {"target": [clean(answer) for answer in episode.gold.get("answers", ())]},
        "score": episode.reward,
        "step": 0,
        "request_id": episode.episode_id,
        "em": episode.outcome.em,
    }


def _nodes(episode: Episode, messages: list[tuple[dict[str, str], int]]) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = [
        {
            "parent": number - 1 if number else None,
            "message": message,
            "sampled": message["role"] == "assistant",
        }
        for number, (message, _) in enumerate(messages)
    ]
    at = {(message["role"], index): number for number, (message, index) in enumerate(messages)}
    if len(episode.segments) != 1:
        return nodes
    (segment,) = episode.segments
    columns = zip(segment.tokens, segment.mask, segment.logprobs, segment.rounds, strict=True)
    for token, mask, logprob, index in columns:
        # Tokens between an act and the next observation's end belong to the round that reads the observation.
        acting = ("assistant", index)
        started = acting in at and nodes[at[acting]].get("token_ids")
        number = at.get(acting if mask or started else ("user", index))
        if number is None:
            return [{k: v for k, v in node.items() if k not in _TOKENS} for node in nodes]
        node = nodes[number]
        for name in _TOKENS:
            node.setdefault(name, [])
        node["token_ids"].append(token)
        node["mask"].append(bool(mask))
        if mask:
            node["logprobs"].append(logprob)
    return nodes


def _calls(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A call of the model for each act with tokens, so that verifiers counts them."""
    calls = []
    before = 0
    for number, node in enumerate(nodes):
        size, sampled = len(node.get("token_ids", ())), sum(node.get("mask", ()))
        if sampled:
            usage = {"prompt_tokens": before + size - sampled, "completion_tokens": sampled}
            calls.append({"node": number, "usage": usage})
        before += size
    return calls


_TOKENS = ("token_ids", "mask", "logprobs")
