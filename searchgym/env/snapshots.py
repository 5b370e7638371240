"""A running episode as plain JSON, and back.

A snapshot holds what a `Game` needs to continue, no transcript; only where a judge in each step or a reward term looks
back, it holds the rounds too. Branching algorithms stand on this.
"""

from __future__ import annotations

from typing import Any

from ..dialects import Dialect
from ..errors import ResetNeededError, SnapshotError
from ..judges.protocol import TraceRound
from ..retriever import Hit
from .game import Game

__all__ = ["SNAPSHOT_SCHEMA", "restore", "snapshot"]

SNAPSHOT_SCHEMA = 2


def snapshot(game: Game) -> dict[str, Any]:
    """The running episode of a game; see `SearchEnv.snapshot`.

    Raises:
        ResetNeededError: no episode is running.
    """
    if not game.running:
        raise ResetNeededError("no episode is running: there is nothing to snapshot; call reset() first")
    return {
        "schema": SNAPSHOT_SCHEMA,
        "index_hash": game.config.retriever.index_hash,
        "task_id": game.question.id,
        "round": game.round,
        "searches": game.searches,
        "chars": game.chars,
        "feedback_left": game.feedback_left,
        "assisted": game.assisted,
        "invalid": game.invalid,
        "unjudged": game.unjudged,
        "found": sorted(game.found),
        "anchor": game.anchor,
        "trace": _pack(game.rounds),
    }


def restore(game: Game, state: dict[str, Any]) -> None:
    """Continue from a snapshot; see `SearchEnv.restore`.

    Raises:
        SnapshotError: damaged, of another schema, or of another index; the game is then as it was.
    """
    config = game.config
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
    rounds = []
    if config.keeps_trace:
        rounds = _unpack(packed, counts[0], config.dialect, config.max_observation_chars)
    # Everything has been checked: from here on nothing fails.
    game.resume(question, set(found), rounds)
    game.round, game.searches, game.chars, game.feedback_left, game.invalid = counts
    game.anchor, game.assisted, game.unjudged = anchor, assisted, unjudged


def _pack(rounds: list[TraceRound]) -> dict[str, Any]:
    """Rounds as JSON, each passage once; observations of searches are rendered again."""
    passages: dict[str, list[str]] = {}
    packed = []
    for played in rounds:
        hits = []
        for hit in played.hits:
            passages[hit["id"]] = [hit["title"], hit["text"]]
            hits.append([hit["id"], hit["score"], hit["rank"], hit["query_index"]])
        said = "" if played.hits else played.observation
        packed.append([played.text, dict(played.action), hits, said])
    return {"passages": passages, "rounds": packed}


def _unpack(packed: dict[str, Any], count: int, dialect: Dialect, max_chars: int) -> list[TraceRound]:
    try:
        passages = packed["passages"]
        rounds = [
            _unpack_round(text, action, hits, said, passages, dialect, max_chars)
            for text, action, hits, said in packed["rounds"]
        ]
    except (KeyError, TypeError, ValueError) as error:
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
    text: str,
    action: dict[str, Any],
    hits: list[Any],
    said: str,
    passages: dict[str, list[str]],
    dialect: Dialect,
    max_chars: int,
) -> TraceRound:
    records: list[dict[str, Any]] = [
        {
            "id": id_,
            "title": passages[id_][0],
            "text": passages[id_][1],
            "score": score,
            "rank": rank,
            "query_index": query_index,
        }
        for id_, score, rank, query_index in hits
    ]
    if records:
        shown = {r["id"]: Hit(r["id"], r["title"], r["text"], r["score"]) for r in reversed(records)}
        ordered = [shown[id_] for id_ in dict.fromkeys(r["id"] for r in records)]
        said = dialect.render_hits(ordered, max_chars)
    return TraceRound(text, dict(action), records, said)


def _field(state: dict[str, Any], name: str, kind: type) -> Any:
    value = state.get(name) if isinstance(state, dict) else None
    if type(value) is not kind:
        raise SnapshotError(f"not a snapshot: its {name!r} is {value!r:.80}. Pass what snapshot() returned")
    return value
