"""The OpenAPI description of the retrieval service, as `/openapi.json` returns it."""

from __future__ import annotations

from typing import Any

from searchgym._version import __version__

from .limits import Limits

__all__ = ["describe"]


def describe(limits: Limits) -> dict[str, Any]:
    """The description as a JSON value.

    Args:
        limits: the limits of the service.
    """
    max_topk, topk, max_queries, max_characters = (
        limits.max_topk,
        limits.topk,
        limits.queries,
        limits.query_chars,
    )
    queries = {
        "type": "array",
        "items": {"type": "string", "maxLength": max_characters},
        "maxItems": max_queries,
    }
    request = _object(
        {
            "queries": queries,
            "query": {
                "anyOf": [queries["items"], queries],
                "description": "Instead of queries: one query, or a list.",
            },
            "topk": {
                "type": "integer",
                "minimum": 0,
                "maximum": max_topk,
                "default": topk,
                "description": f"Hits per query; 0 for the default. Queries times topk is at most {limits.hits:,}. "
                "Also read: top_k, top_n, k.",
            },
            "return_scores": {
                "type": "boolean",
                "default": False,
                "description": "Return each hit as an object of document and score instead of the bare document.",
            },
            "partial": {
                "type": "boolean",
                "default": False,
                "description": "Return null and an entry in errors for a query that failed, instead of status 503.",
            },
        },
        [],
    )
    request["anyOf"] = [{"required": ["queries"]}, {"required": ["query"]}]
    listed = _object(
        {
            "query": request["properties"]["query"],
            "top_n": request["properties"]["topk"],
            "return_score": {
                "type": "boolean",
                "default": False,
                "description": "Return [documents, scores] instead of the documents.",
            },
        },
        ["query"],
    )
    document = _object(
        {
            "id": {"type": "string"},
            "contents": {"type": "string", "description": "The title in quotes, a line break, and the text."},
            "title": {"type": "string", "description": "Only if the title contains a line break."},
            "text": {"type": "string", "description": "Only if the title contains a line break."},
        },
        ["id", "contents"],
    )
    scored = _object({"document": _reference("Document"), "score": {"type": "number"}}, ["document", "score"])
    hits = {"type": "array", "items": {"anyOf": [_reference("ScoredDocument"), _reference("Document")]}}
    reply = _object(
        {
            "result": {"type": "array", "items": {"anyOf": [hits, {"type": "null"}]}},
            "errors": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "The reason of each failed query, by its position. Only with partial.",
            },
        },
        ["result"],
    )
    nullable_string = {"type": ["string", "null"]}
    health = _object(
        {
            "status": {"type": "string"},
            "index_hash": {"type": "string"},
            "backend": {"type": "string"},
            "passages": {"type": ["integer", "null"]},
            "corpus": nullable_string,
            "corpus_hash": nullable_string,
            "version": {"type": "string"},
        },
        ["status", "index_hash", "backend", "passages", "corpus", "corpus_hash", "version"],
    )
    documents = {"type": "array", "items": {"type": "array", "items": _reference("Document")}}
    scores = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    lists = {
        "anyOf": [documents, {"type": "array", "prefixItems": [documents, scores]}],
        "description": "The documents of each query, and with return_score their scores; without the outer lists for a "
        "query that was not in a list.",
    }
    refusals = {
        "413": "The body or the answer is too large.",
        "415": "The body is msgpack, which this server cannot read.",
        "422": "The request cannot be read, or exceeds a limit.",
        "429": "Too many queries are waiting, or the memory for requests is full; Retry-After says when to try again.",
        "500": "The search raised an unexpected error.",
        "503": "A query failed, or the service was stopped.",
    }
    refused = {
        status: {"description": reason, "content": _json(_reference("Refusal"))}
        for status, reason in refusals.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "SearchGym retrieval", "version": __version__},
        "paths": {
            "/retrieve": {
                "post": {
                    "summary": "Search a batch of queries.",
                    "requestBody": {"required": True, "content": _json_or_msgpack("Request")},
                    "responses": {
                        "200": {
                            "description": "The hits of each query.",
                            "content": _json_or_msgpack("Reply"),
                        },
                        **refused,
                    },
                }
            },
            **{
                path: {
                    "post": {
                        "summary": "Search a batch of queries, in the protocol of ReSearch.",
                        "requestBody": {"required": True, "content": _json(_reference("ListRequest"))},
                        "responses": {
                            "200": {
                                "description": "The hits of each query.",
                                "content": _json(_reference("ListReply")),
                            },
                            **refused,
                        },
                    }
                }
                for path in ("/batch_search", "/search")
            },
            "/healthz": {
                "get": {
                    "summary": "The index that is served.",
                    "responses": {
                        "200": {"description": "The index.", "content": _json(_reference("Health"))}
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Counters for Prometheus.",
                    "responses": {"200": {"description": "The counters.", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": {
            "schemas": {
                "Request": request,
                "Reply": reply,
                "ListRequest": listed,
                "ListReply": lists,
                "Document": document,
                "ScoredDocument": scored,
                "Health": health,
                "Refusal": _object({"detail": {"type": "string"}}, ["detail"]),
            }
        },
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _json_or_msgpack(name: str) -> dict[str, Any]:
    return {media: {"schema": _reference(name)} for media in ("application/json", "application/msgpack")}
