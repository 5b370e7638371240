"""The options of whatever asks a model behind an endpoint, checked: every mistake is one `ConfigError` before anything
is sent. `owner` is who asks, as the message names it: "judge 'llm'", "agent 'api'"."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..home import home
from .client import EndpointSettings
from .metering import Meter, Prices

__all__ = [
    "cache_directory",
    "check_url",
    "endpoint_settings",
    "make_meter",
    "positive_number",
    "whole_number",
]

_MOST_CONNECTIONS = 1000  # the client's pool holds no more
_TAKEN = ("model", "messages", "stream", "n")


def endpoint_settings(
    owner: str,
    *,
    model: Any,
    base_url: Any,
    api_key_env: Any,
    concurrency: Any,
    requests_per_minute: Any,
    tokens_per_minute: Any,
    timeout: Any,
    retries: Any,
    temperature: Any,
    max_tokens: Any,
    response_format: Any,
    extra_body: Any,
) -> EndpointSettings:
    """Where to ask and how; see `LLMJudge` for the arguments."""
    if not isinstance(model, str) or not model.strip():
        raise _mistake(owner, "model", model, "give the name under which the endpoint knows it")
    check_url(owner, base_url)
    if api_key_env is not None and not (
        isinstance(api_key_env, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env)
    ):
        # The value is not shown: it may be the key itself.
        raise ConfigError(
            f"{owner}: api_key_env is not the name of an environment variable: put the key into a variable "
            "and give that variable's name, never the key"
        )
    request: dict[str, Any] = {}
    if temperature is not None:
        request["temperature"] = _number(owner, "temperature", temperature, 0, 2)
    if max_tokens is not None:
        request["max_tokens"] = whole_number(owner, "max_tokens", max_tokens, 1)
    if not isinstance(response_format, bool):
        raise _mistake(owner, "response_format", response_format, "give true or false")
    if response_format:
        request["response_format"] = {"type": "json_object"}
    if extra_body is not None:
        request["extra_body"] = _checked_body(owner, extra_body)
    return EndpointSettings(
        owner=owner,
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        concurrency=whole_number(owner, "concurrency", concurrency, 1, _MOST_CONNECTIONS),
        requests_per_minute=_rate(owner, "requests_per_minute", requests_per_minute),
        tokens_per_minute=_rate(owner, "tokens_per_minute", tokens_per_minute),
        timeout=positive_number(owner, "timeout", timeout),
        retries=whole_number(owner, "retries", retries, 0, 100),
        request=request,
        longest_reply=_longest_reply(request),
    )


def make_meter(
    settings: EndpointSettings,
    usd_per_million_input: Any,
    usd_per_million_output: Any,
    max_usd: Any,
    max_total_tokens: Any,
) -> Meter:
    """The counters, with the ceilings that were asked for."""
    owner, prices = settings.owner, []
    for name, value in (
        ("usd_per_million_input", usd_per_million_input),
        ("usd_per_million_output", usd_per_million_output),
    ):
        prices.append(0.0 if value is None else _number(owner, name, value, 0))
    if max_usd is not None:
        max_usd = positive_number(owner, "max_usd", max_usd)
        if usd_per_million_input is None or usd_per_million_output is None:
            raise ConfigError(
                f"{owner}: max_usd={max_usd:g} needs prices: give usd_per_million_input and "
                "usd_per_million_output"
            )
    if max_total_tokens is not None:
        max_total_tokens = whole_number(owner, "max_total_tokens", max_total_tokens, 1)
    if settings.longest_reply == 0 and (max_usd is not None or max_total_tokens is not None):
        raise ConfigError(
            f"{owner}: a budget needs a longest reply: give max_tokens, or max_completion_tokens in extra_body"
        )
    return Meter(Prices(*prices), max_usd, max_total_tokens)


def cache_directory(owner: str, cache: Any, usual: str) -> Path | None:
    """Where replies are kept: in `usual` under the home, or in the directory given; None for nowhere."""
    if cache is True:
        return home() / usual
    if cache is False:
        return None
    if isinstance(cache, str) and cache.strip():
        return Path(cache).expanduser()
    raise _mistake(owner, "cache", cache, "give true, false or a directory")


def check_url(owner: str, url: Any) -> None:
    """Refuse a base URL that cannot be one; None stands for the usual."""
    if url is None:
        return
    move = "give an address like http://localhost:8000/v1"
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if "@" in parts.netloc:  # not shown: it may hold a password
        raise ConfigError(
            f"{owner}: base_url holds a user name or password: use api_key_env for what is secret"
        )
    if not usable or parts.query or parts.fragment:
        raise _mistake(owner, "base_url", url, move)


def _checked_body(owner: str, body: Any) -> dict[str, Any]:
    move = 'give a JSON object of request fields, e.g. {"max_completion_tokens": 2048}'
    if not isinstance(body, Mapping) or not all(isinstance(name, str) for name in body):
        raise _mistake(owner, "extra_body", body, move)
    taken = [name for name in _TAKEN if name in body]
    if taken:
        raise _mistake(owner, "extra_body", body, f"{taken[0]!r} is not yours to set")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(body), allow_nan=False))
    except (TypeError, ValueError):
        raise _mistake(owner, "extra_body", body, move) from None
    return copied


def _longest_reply(request: Mapping[str, Any]) -> int:
    """Tokens a reply may take at most; 0 where nothing says."""
    body = request.get("extra_body", {})
    found = [request.get("max_tokens"), body.get("max_tokens"), body.get("max_completion_tokens")]
    return max([value for value in found if type(value) is int], default=0)


def _mistake(owner: str, name: str, value: object, move: str) -> ConfigError:
    return ConfigError(f"{owner}: {name} is {value!r:.120}: {move}")


def _number(owner: str, name: str, value: Any, least: float, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        bound = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise _mistake(owner, name, value, f"give a number {bound}")
    if math.isinf(value):
        raise _mistake(owner, name, value, "give a finite number")
    return float(value)


def positive_number(owner: str, name: str, value: Any) -> float:
    """The value, if it is such a number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _mistake(owner, name, value, "give a number above 0")
    return float(value)


def _rate(owner: str, name: str, value: Any) -> float | None:
    return None if value is None else positive_number(owner, name, value)


def whole_number(owner: str, name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value, if it is such a number."""
    if type(value) is not int or value < least or (most is not None and value > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise _mistake(owner, name, value, f"give a whole number {bound}")
    return value
