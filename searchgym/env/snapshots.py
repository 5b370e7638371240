"""A running episode as plain JSON, and back.

A snapshot holds what an `EpisodeState` needs to continue and no transcript. It holds the rounds only if a judge that
runs in every step, or a reward term, looks back at them: their messages, and the ids of what they found. Passages that the
corpus has are not part of it. Inside its `trace`, `check` is a checksum of all the rest. Branching algorithms build on
snapshots.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from ..dialects import Act
from ..errors import ResetNeededError, SnapshotError, UnknownIdError
from ..lru import LRUCache
from ..records.episode import Episode, RoundRecord, anchor_of
from ..records.question import Passage, find_passage
from ..records.retriever import Hit, content_id, distinct_hits
from .config import EnvConfig, env_fingerprint
from .episode_state import EpisodeState, remembered

__all__ = [
    "SNAPSHOT_SCHEMA",
    "check_fork",
    "observation_after",
    "restore",
    "snapshot",
    "snapshot_after",
]

SNAPSHOT_SCHEMA = 2
_KNOWN_PASSAGES = 4096  # looked up in the corpus and kept
_LARGEST = 2**53  # counters; a JSON number of any reader


def snapshot(episode: EpisodeState, **more: Any) -> dict[str, Any]:
    """The running episode as plain JSON; see `SearchEnv.snapshot`.

    Args:
        episode: the episode.
        **more: further entries, covered by the checksum.

    Raises:
        ResetNeededError: no episode is running.
    """
    if not episode.running:
        raise ResetNeededError("no episode is running: there is nothing to snapshot; call reset() first")
    state = {
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
        "trace": _pack(episode.rounds, episode.config),
        **more,
    }
    return _sealed(state)


def _sealed(state: dict[str, Any]) -> dict[str, Any]:
    """A snapshot with the checksum of what is in it."""
    state["trace"]["check"] = _crc(state)
    return state


def _crc(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


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
    _check_seal(state)
    names = ("round", "searches", "chars", "feedback_left", "invalid")
    counts = [_field(state, name, int) for name in names]
    anchor = _field(state, "anchor", str)
    assisted, unjudged = _field(state, "assisted", bool), _field(state, "unjudged", bool)
    try:
        question = config.corpus.question(_field(state, "task_id", str))
    except UnknownIdError as error:
        raise SnapshotError(
            f"the snapshot is of question {state['task_id']!r:.80}, which this environment's corpus does not have: restore it on "
            "the same corpus"
        ) from error
    found = _field(state, "found", list)
    packed = _field(state, "trace", dict)
    sound = all(i in question.supporting_ids for i in found) and set(packed) - {"check"} == {
        "passages",
        "rounds",
    }
    if min(counts) < 0 or max(counts) > _LARGEST or not sound:
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
    state = {
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
        "trace": _pack(rounds if config.keeps_trace else [], config),
    }
    return _sealed(state)


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


def _check_seal(state: dict[str, Any]) -> None:
    """Refuse a snapshot that is not what was taken; one without a checksum (an earlier version's) is taken as it is."""
    trace = _field(state, "trace", dict)
    if "check" not in trace:
        return
    content = state | {"trace": {name: value for name, value in trace.items() if name != "check"}}
    try:
        intact = trace["check"] == _crc(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise SnapshotError(
            f"the snapshot is not plain JSON ({error}): pass what snapshot() returned"
        ) from error
    if not intact:
        raise SnapshotError("the snapshot is damaged (its checksum differs): take it again with snapshot()")


def _pack(rounds: list[RoundRecord], config: EnvConfig) -> dict[str, Any]:
    """What judges and reward terms read of rounds, as JSON. Passages are left to the corpus if it has them; others are stored
    once. Observations of searches are rendered again."""
    passages: dict[str, list[str]] = {}
    packed = []
    for record in rounds:
        hits = []
        for query_index, result in enumerate(record.results):
            for rank, hit in enumerate(result, 1):
                packed_hit = [hit.id, float(hit.score), rank, query_index]
                known = _passage(config, hit.id)
                if known != (hit.id, hit.title, hit.text):
                    content = [hit.title, hit.text]
                    if known is not None or passages.setdefault(hit.id, content) != content:
                        packed_hit.append(key := content_id(*content))  # another passage with the same id
                        passages[key] = content
                hits.append(packed_hit)
        text = remembered(record).text
        packed.append([text, record.action.to_json(), hits, "" if hits else record.observation])
    return {"passages": passages, "rounds": packed}


def _passage(config: EnvConfig, id_: str) -> tuple[str, str, str] | None:
    """Id, title and text of a passage of the corpus; None if it has none of this id."""
    known: LRUCache[str, Passage | None] = config.__dict__.setdefault("_passages", LRUCache(_KNOWN_PASSAGES))
    try:
        passage = known[id_]
    except KeyError:
        try:
            passage = find_passage(config.corpus, id_)
        except UnknownIdError:
            passage = None
        known.put(id_, passage)
    return None if passage is None else (passage.id, passage.title, passage.text)


def _unpack(packed: dict[str, Any], count: int, config: EnvConfig) -> list[RoundRecord]:
    try:
        passages = packed["passages"]
        rounds = [
            _unpack_round(number, round_, passages, config)
            for number, round_ in enumerate(packed["rounds"], 1)
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
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
        name = key[0] if key else id_
        title, passage = passages[name] if key or name in passages else _corpus_passage(config, id_)
        results[query_index].append(Hit(id_, title, passage, score))
    if hits:
        ordered = distinct_hits(hit for result in results for hit in result)
        observation = config.dialect.render_hits(ordered, config.max_observation_chars)
    retrieval = config.ok_retrieval if act.kind == "search" else config.no_retrieval
    return RoundRecord(text, act, results, observation, number, retrieval)


def _corpus_passage(config: EnvConfig, id_: str) -> tuple[str, str]:
    found = _passage(config, id_)
    if found is None:
        raise ValueError(f"passage {id_!r:.80} is neither in it nor in the corpus")
    return found[1:]


def _field(state: dict[str, Any], name: str, kind: type) -> Any:
    value = state.get(name) if isinstance(state, dict) else None
    if type(value) is not kind:
        raise SnapshotError(f"not a snapshot: its {name!r} is {value!r:.80}. Pass what snapshot() returned")
    return value
