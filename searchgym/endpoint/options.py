"""The options of everything that sends requests to an OpenAI-compatible endpoint: one declaration, checked at once.

A mistake is one `ConfigError` before anything is sent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError, redact
from ..home import home
from ..options import check_known, declared_options, integer, number
from .metering import Meter, Prices

__all__ = ["EndpointOptions"]

_MAX_CONNECTIONS = 1000  # the size of the client's connection pool
_RESERVED = ("model", "messages", "stream", "n")  # fields of a request that `extra_body` must not set
_OPENAI = "https://api.openai.com/v1"


def _option(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """Where to send requests, how many, at what price, and where replies are kept.

    `EndpointOptions.help()` gives the description of each option.

    Args:
        owner: the part that sends the requests, as errors name it: "judge 'llm'", "agent 'api'".

    Raises:
        ConfigError: an option has a value that cannot be used.
    """

    owner: str
    model: str | None = _option(None, "The model's name at the endpoint. Required.")
    base_url: str | None = _option(
        None, "The address, usually ending in /v1; by default `OPENAI_BASE_URL`, else OpenAI's own."
    )
    api_key_env: str | None = _option(
        "OPENAI_API_KEY",
        "The name of the environment variable that holds the key; None for a server without keys.",
    )
    concurrency: int = _option(64, "Requests in flight at most, from 1 to 1000.")
    requests_per_minute: float | None = _option(
        None, "Requests per minute at most; None for no limit. The client's retries are not counted."
    )
    tokens_per_minute: float | None = _option(
        None, "Tokens per minute at most, estimated from earlier requests; None for no limit."
    )
    timeout: float = _option(120.0, "Seconds for one attempt.")
    retries: int = _option(
        4, "Further attempts after a failed connection, a timeout, or status 408, 409, 429 or 5xx."
    )
    temperature: float | None = _option(
        0.0, "The sampling temperature, from 0 to 2; None for models that do not take one."
    )
    max_tokens: int | None = _option(
        1024, "Tokens of a reply at most; None for models that take `max_completion_tokens` in `extra_body`."
    )
    extra_body: dict[str, Any] | None = _option(None, "Further fields of the request.")
    sample: int = _option(
        0, "A number that is part of every cache key: another one asks for new replies instead of reading."
    )
    usd_per_million_input: float | None = _option(None, "Price in US dollars per million input tokens.")
    usd_per_million_output: float | None = _option(None, "Price in US dollars per million output tokens.")
    max_usd: float | None = _option(
        None, "Budget in US dollars. A request that could exceed it is not sent. Needs both prices."
    )
    max_total_tokens: int | None = _option(
        None, "Budget in tokens, input and output together. A request that could exceed it is not sent."
    )
    cache: bool | str = _option(
        True, "True keeps replies under `SEARCHGYM_HOME`, a path keeps them there, False keeps none."
    )

    @classmethod
    def from_mapping(cls, owner: str, options: Mapping[str, Any]) -> EndpointOptions:
        """The options by name.

        Args:
            owner: the part that sends the requests, as errors name it.
            options: values by name; what is left out has its default.

        Raises:
            UnknownIdError: an unknown option; suggests the nearest one.
            ConfigError: an option has a value that cannot be used.
        """
        check_known(owner, cls, dict(options))
        return cls(owner=owner, **options)

    @staticmethod
    def help() -> dict[str, str]:
        """The description of each option, by name."""
        return {declared.name: declared.metadata["help"] for declared in declared_options(EndpointOptions)}

    def __post_init__(self) -> None:
        owner = self.owner
        if not isinstance(self.model, str) or not self.model.strip():
            raise self._mistake("model", "give the name under which the endpoint knows it")
        self._check_base_url()
        name = self.api_key_env
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
            # The value is not shown: it may be the key itself.
            raise ConfigError(
                f"{owner}: api_key_env is not the name of an environment variable: put the key into a variable "
                "and give that variable's name, never the key"
            )
        integer(f"{owner}: concurrency", self.concurrency, 1, _MAX_CONNECTIONS)
        number(f"{owner}: timeout", self.timeout, above=0)
        integer(f"{owner}: retries", self.retries, 0, 100)
        integer(f"{owner}: sample", self.sample, 0)
        for option in ("requests_per_minute", "tokens_per_minute", "max_usd"):
            if getattr(self, option) is not None:
                number(f"{owner}: {option}", getattr(self, option), above=0)
        for option in ("usd_per_million_input", "usd_per_million_output"):
            if getattr(self, option) is not None:
                number(f"{owner}: {option}", getattr(self, option), 0)
        for option in ("max_tokens", "max_total_tokens"):
            if getattr(self, option) is not None:
                integer(f"{owner}: {option}", getattr(self, option), 1)
        if self.temperature is not None:
            number(f"{owner}: temperature", self.temperature, 0, 2)
        self._check_extra_body()
        if not isinstance(self.cache, bool) and not (isinstance(self.cache, str) and self.cache.strip()):
            raise self._mistake("cache", "give true, false or a directory")
        self._check_budget()

    @property
    def request(self) -> dict[str, Any]:
        """The sampling fields of a request."""
        fields: dict[str, Any] = {}
        if self.temperature is not None:
            fields["temperature"] = float(self.temperature)
        if self.max_tokens is not None:
            fields["max_tokens"] = self.max_tokens
        if self.extra_body is not None:
            fields["extra_body"] = json.loads(json.dumps(self.extra_body))
        return fields

    @property
    def longest_reply(self) -> int:
        """Tokens of a reply at most, as far as the options limit it; 0 where they do not."""
        body = self.extra_body or {}
        limits = [self.max_tokens, body.get("max_tokens"), body.get("max_completion_tokens")]
        return max([value for value in limits if type(value) is int], default=0)

    @property
    def address(self) -> str:
        """The base URL: the option, else the variable that the client reads, else OpenAI's own."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).rstrip("/")

    @property
    def key(self) -> str:
        """The key, read from the environment.

        Raises:
            ConfigError: the variable is not set.
        """
        if self.api_key_env is None:
            return "none"
        key = os.environ.get(self.api_key_env, "")
        if not key.strip():
            raise ConfigError(
                f"{self.owner}: the environment variable {self.api_key_env}, which should hold the key for "
                f"{self.address}, is not set: export it, name another with api_key_env, or give "
                "api_key_env=null for a server without keys"
            )
        return key.strip()

    def meter(self) -> Meter:
        """New counters with these prices and budgets."""
        prices = Prices(float(self.usd_per_million_input or 0), float(self.usd_per_million_output or 0))
        return Meter(prices, self.max_usd, self.max_total_tokens)

    def directory(self, namespace: str) -> Path | None:
        """Where replies are kept; None for nowhere.

        Args:
            namespace: the directory's name under `SEARCHGYM_HOME`, where `cache` is True.
        """
        if isinstance(self.cache, str):
            return Path(self.cache).expanduser()
        return home() / namespace if self.cache else None

    def __str__(self) -> str:
        return f"model {self.model!r} at {redact(self.address)}"

    def _mistake(self, name: str, next_move: str) -> ConfigError:
        return ConfigError(f"{self.owner}: {name} is {getattr(self, name)!r:.120}: {next_move}")

    def _check_base_url(self) -> None:
        url = self.base_url
        if url is None:
            return
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            parts, usable = urlsplit(""), False
        if "@" in parts.netloc:  # not shown: it may hold a password
            raise ConfigError(
                f"{self.owner}: base_url holds a user name or password: use api_key_env for secrets"
            )
        if not usable or parts.query or parts.fragment:
            raise self._mistake("base_url", "give an address like http://localhost:8000/v1")

    def _check_extra_body(self) -> None:
        body = self.extra_body
        if body is None:
            return
        next_move = 'give a JSON object of request fields, e.g. {"max_completion_tokens": 2048}'
        if not isinstance(body, Mapping) or not all(isinstance(name, str) for name in body):
            raise self._mistake("extra_body", next_move)
        reserved = [name for name in _RESERVED if name in body]
        if reserved:
            raise self._mistake("extra_body", f"{reserved[0]!r} cannot be set there")
        try:
            json.dumps(dict(body), allow_nan=False)
        except (TypeError, ValueError):
            raise self._mistake("extra_body", next_move) from None

    def _check_budget(self) -> None:
        if self.max_usd is None and self.max_total_tokens is None:
            return
        if self.max_usd is not None and None in (self.usd_per_million_input, self.usd_per_million_output):
            raise ConfigError(
                f"{self.owner}: max_usd={self.max_usd:g} needs prices: give usd_per_million_input and "
                "usd_per_million_output"
            )
        if self.longest_reply == 0:
            raise ConfigError(
                f"{self.owner}: a budget needs a limit on the reply: give max_tokens, or max_completion_tokens "
                "in extra_body"
            )
