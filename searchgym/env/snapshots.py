"""A running episode as plain JSON, and back.

A snapshot holds what an `EpisodeState` needs to continue and no transcript. It holds the rounds only if a judge that
runs in every step, or a reward term, looks back at them. Branching algorithms build on snapshots.
"""

from __future__ import annotations

from typing import Any

from ..dialects import Act
from ..episode import Episode, RoundRecord, anchor_of
from ..errors import ResetNeededError, SnapshotError
from ..retriever import Hit, content_id, distinct_hits
from .config import EnvConfig, env_fingerprint
from .episode_state import EpisodeState

__all__ = ["SNAPSHOT_SCHEMA", "check_fork", "observation_after", "restore", "snapshot", "snapshot_after"]

SNAPSHOT_SCHEMA = 2


def snapshot(episode: EpisodeState) -> dict[str, Any]:
    """The running episode as plain JSON; see `SearchEnv.snapshot`.

    Raises:
        ResetNeededError: no episode is running.
    """
    if not episode.running:
        raise ResetNeededError("no episode is running: there is nothing to snapshot; call reset() first")
    return {
        "schema": SNAPSHOT_SCHEMA,
        "index_hash": episode.config.retriever.index_hash,
        "task_id": episode.question.id,
        "round": episode.round,
        "searches": episode.searches,
        "chars": episode.chars,
        "feedback_left": episode.feedback_left,
        "assisted": episode.assisted,
        "invalid": episode.invalid,
        "unjudged": episode.unjudged,
        "found": sorted(episode.found),
        "anchor": episode.anchor,
        "trace": _pack(episode.rounds),
    }


def restore(episode: EpisodeState, state: dict[str, Any]) -> None:
    """Continue from a snapshot; see `SearchEnv.restore`.

    Args:
        episode: is replaced by the snapshot's episode.
        state: what `snapshot` returned.

    Raises:
        SnapshotError: damaged, of another schema, or of another index; `episode` is then as it was.
    """
    config = episode.config
    schema, index_hash = _field(state, "schema", int), _field(state, "index_hash", str)
    if schema != SNAPSHOT_SCHEMA:
        raise SnapshotError(f"the snapshot's schema is {schema!r}, this version reads {SNAPSHOT_SCHEMA}")
    if index_hash != config.retriever.index_hash:
        raise SnapshotError(
            f"the snapshot was taken on index {index_hash!r}, this environment searches "
            f"{config.retriever.index_hash!r}: restore it on the same corpus and retriever"
        )
    names = ("round", "searches", "chars", "feedback_left", "invalid")
    counts = [_field(state, name, int) for name in names]
    anchor = _field(state, "anchor", str)
    assisted, unjudged = _field(state, "assisted", bool), _field(state, "unjudged", bool)
    question = config.corpus.question(_field(state, "task_id", str))
    found = _field(state, "found", list)
    packed = _field(state, "trace", dict)
    sound = all(i in question.supporting_ids for i in found) and set(packed) == {"passages", "rounds"}
    if min(counts) < 0 or not sound:
        raise SnapshotError(f"the snapshot of {question.id!r} is damaged: take it again with snapshot()")
    rounds = _unpack(packed, counts[0], config) if config.keeps_trace else []
    # Everything has been checked: nothing below can fail.
    round_, searches, chars, feedback_left, invalid = counts
    episode.resume(question, set(found), rounds, anchor, feedback_left)
    episode.round, episode.searches, episode.chars, episode.invalid = round_, searches, chars, invalid
    episode.assisted, episode.unjudged = assisted, unjudged


def snapshot_after(config: EnvConfig, episode: Episode, fork_round: int) -> dict[str, Any]:
    """The snapshot that an environment would have given after the first rounds of a recorded episode.

    It is computed from the records alone: nothing is searched or judged.

    Args:
        config: the arguments of the environment that is to continue the episode.
        episode: played under the same arguments; may have been loaded from a file.
        fork_round: number of rounds to keep, less than the episode has.

    Returns:
        A snapshot for `restore`.

    Raises:
        SnapshotError: see `check_fork`.
    """
    check_fork(config, episode, fork_round)
    rounds = episode.rounds[:fork_round]
    gold = set(config.corpus.question(episode.task_id).supporting_ids)
    kinds = [record.action.kind for record in rounds]
    return {
        "schema": SNAPSHOT_SCHEMA,
        "index_hash": config.retriever.index_hash,
        "task_id": episode.task_id,
        "round": fork_round,
        "searches": sum(len(r.action.queries) for r in rounds if r.action.kind == "search"),
        "chars": sum(len(record.text) + len(record.observation) for record in rounds),
        "feedback_left": config.feedback_calls - kinds.count("feedback"),
        "assisted": "feedback" in kinds,
        "invalid": kinds.count("invalid"),
        "unjudged": config.verdict_pays and any(record.judge.status == "error" for record in rounds),
        "found": sorted(gold & {hit.id for record in rounds for hit in record.hits}),
        "anchor": anchor_of(observation_after(config, episode, fork_round)),
        "trace": _pack(rounds if config.keeps_trace else []),
    }


def observation_after(config: EnvConfig, episode: Episode, fork_round: int) -> str:
    """The observation that the act of round `fork_round` answers: the question, or what the round before it returned."""
    if fork_round:
        return episode.rounds[fork_round - 1].observation
    return config.corpus.question(episode.task_id).text[: config.max_observation_chars]


def check_fork(config: EnvConfig, episode: Episode, fork_round: int) -> None:
    """Refuse to continue a recorded episode where that is not possible.

    Args:
        config: the arguments of the environment that is to continue the episode.
        episode: the record.
        fork_round: number of rounds to keep.

    Raises:
        SnapshotError: the episode was played on another index or under other arguments, or it does not continue after
            this number of rounds.
    """
    index_hash = config.retriever.index_hash
    if episode.env.get("index_hash") != index_hash:
        raise SnapshotError(
            f"episode {episode.episode_id!r} was played on index {episode.env.get('index_hash')!r}, this environment "
            f"searches {index_hash!r}: continue it on the same corpus and retriever"
        )
    here = env_fingerprint(config)
    # Only what the record names: a file of an earlier version lacks the arguments that came later.
    different = sorted(name for name, value in episode.env.items() if here.get(name) != value)
    if different:
        raise SnapshotError(
            f"episode {episode.episode_id!r} was played under other arguments ({', '.join(different)}): make the "
            "environment with the arguments in the episode's `env`"
        )
    count = len(episode.rounds)
    if type(fork_round) is not int or not 0 <= fork_round < count:
        raise SnapshotError(
            f"fork_round is {fork_round!r}, and episode {episode.episode_id!r} has {count} rounds: give 0 to {count - 1}"
        )


def _pack(rounds: list[RoundRecord]) -> dict[str, Any]:
    """What judges and reward terms read of rounds, as JSON. Each passage is stored once, and observations of searches are
    rendered again."""
    passages: dict[str, list[str]] = {}
    packed = []
    for record in rounds:
        hits = []
        for query_index, result in enumerate(record.results):
            for rank, hit in enumerate(result, 1):
                content = [hit.title, hit.text]
                packed_hit = [hit.id, float(hit.score), rank, query_index]
                if passages.setdefault(hit.id, content) != content:  # another passage with the same id
                    packed_hit.append(key := content_id(*content))
                    passages[key] = content
                hits.append(packed_hit)
        packed.append([record.text, record.action.to_json(), hits, "" if hits else record.observation])
    return {"passages": passages, "rounds": packed}


def _unpack(packed: dict[str, Any], count: int, config: EnvConfig) -> list[RoundRecord]:
    try:
        passages = packed["passages"]
        rounds = [
            _unpack_round(number, round_, passages, config)
            for number, round_ in enumerate(packed["rounds"], 1)
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SnapshotError(
            f"the snapshot's trace is damaged ({error!r}): take it again with snapshot()"
        ) from error
    if len(rounds) != count:
        raise SnapshotError(
            f"the snapshot remembers {len(rounds)} of {count} rounds, but this environment's judge or reward "
            "needs all of them: take the snapshot in an environment with the same judge and reward"
        )
    return rounds


def _unpack_round(
    number: int, packed: list[Any], passages: dict[str, list[str]], config: EnvConfig
) -> RoundRecord:
    text, action, hits, observation = packed
    act = Act(**{**action, "queries": tuple(action["queries"])})
    results: list[list[Hit]] = [[] for _ in act.queries]
    for id_, score, _, query_index, *key in hits:
        title, passage = passages[key[0] if key else id_]
        results[query_index].append(Hit(id_, title, passage, score))
    if hits:
        ordered = distinct_hits(hit for result in results for hit in result)
        observation = config.dialect.render_hits(ordered, config.max_observation_chars)
    retrieval = config.ok_retrieval if act.kind == "search" else config.no_retrieval
    return RoundRecord(text, act, results, observation, number, retrieval)


def _field(state: dict[str, Any], name: str, kind: type) -> Any:
    value = state.get(name) if isinstance(state, dict) else None
    if type(value) is not kind:
        raise SnapshotError(f"not a snapshot: its {name!r} is {value!r:.80}. Pass what snapshot() returned")
    return value
