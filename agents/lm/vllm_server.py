"""The engine `vllm-server`: samples on a running `vllm serve`, over HTTP.

    vllm serve MODEL --logprobs-mode processed_logprobs            (not needed at temperature 1)
    LoRA:        VLLM_ALLOW_RUNTIME_LORA_UPDATING=True … --enable-lora --max-lora-rank 16
    all weights: VLLM_SERVER_DEV_MODE=1 …

| what | request | since vLLM |
|---|---|---|
| sampling | POST /v1/completions, prompt as ids, `return_token_ids` | 0.10.2 |
| LoRA adapter | POST /v1/load_lora_adapter, /v1/unload_lora_adapter | 0.6.1 |
| all weights | POST /collective_rpc, method `reload_weights` with `weights_path` | 0.16.0 |

Weights are passed through a directory that both processes can read. Every version has its own name, which is the
adapter's name and the salt of the prefix cache: nothing that was cached under older weights is used again.

If the server does not answer, a request is repeated, with growing pauses, for `patience` seconds. Then the actions that
wait for it have failed (their episodes end with `AGENT_FAILED`, which says nothing about the policy), and until the
server answers again each request is tried once. A server that was restarted may have lost the weights it was sent:
after a broken connection they are sent again before the next action is sampled.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchgym.errors import ConfigError, EngineError, MissingExtraError, get_logger
from searchgym.options import check_known, number, takes_options
from searchgym.retries import Backoff, is_transient

from .vllm import Request, Sampled, VLLMSlots, write_weights

try:
    import openai

    from searchgym.endpoint import event_loop
    from searchgym.endpoint.client import open_client
    from searchgym.endpoint.options import EndpointOptions
except ModuleNotFoundError as missing:
    raise MissingExtraError("engine 'vllm-server'", missing.name or "openai", "api") from missing

__all__ = ["ServerOptions", "VLLMServerEngine"]

_log = get_logger(__name__)
_OWNER = "engine 'vllm-server'"
_BACKOFF = Backoff(first=0.25, longest=10.0)
_CONNECTING = 5.0  # seconds within which the server has to answer when the engine is created


class _Failed(Exception):
    """One request failed.

    Attributes:
        retryable: another attempt may succeed.
        lost: the server may have been restarted, and have lost the weights it was sent.
    """

    def __init__(self, reason: str, *, retryable: bool = False, lost: bool = False) -> None:
        super().__init__(reason)
        self.retryable, self.lost = retryable, lost


@dataclass(frozen=True, slots=True)
class _Installed:
    """The weights the server samples from: a directory, and a name that is new for every version."""

    name: str
    folder: tempfile.TemporaryDirectory[str]
    adapter: bool


@dataclass(frozen=True, slots=True)
class _Client:
    """The connections of one process, on its own event loop."""

    openai: openai.AsyncOpenAI
    slots: asyncio.Semaphore
    installing: asyncio.Lock


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server is, and how long to wait for it.

    Attributes:
        base_url: the server's address, ending in /v1.
        served_model: the model's name there; None for the one that it serves.
        api_key_env: the name of the environment variable with the server's key; None for a server without keys.
        timeout: seconds for one action, or for loading weights once.
        patience: seconds for which a request is repeated if the server does not answer.
        concurrency: requests in flight at most, from 1 to 1000.
        sync_dir: a directory that server and trainer can both read; None for this machine's temporary directory.
    """

    base_url: str = "http://localhost:8000/v1"
    served_model: str | None = None
    api_key_env: str | None = None
    timeout: float = 600.0
    patience: float = 60.0
    concurrency: int = 256
    sync_dir: str | None = None

    def endpoint(self) -> EndpointOptions:
        """The address, the key and the limits, checked; raises `ConfigError`."""
        number(f"{_OWNER}: patience", self.patience, above=0)
        return EndpointOptions(
            owner=_OWNER,
            model="any" if self.served_model is None else self.served_model,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            concurrency=self.concurrency,
            timeout=self.timeout,
        )


@takes_options(ServerOptions)
class VLLMServerEngine(VLLMSlots):
    """Samples actions on a vLLM server; see the module docstring.

    Args:
        max_new_tokens: tokens of one action at most.
        max_context: tokens of one episode at most.
        **server: the options of `ServerOptions`.

    Raises:
        UnknownIdError: an unknown option.
        ConfigError: no server answers, it serves another model, or it does not return token ids and log-probabilities.
    """

    def __init__(self, *, max_new_tokens: int, max_context: int, **server: Any) -> None:
        super().__init__(max_new_tokens, max_context)
        check_known(_OWNER, ServerOptions, server)
        options = ServerOptions(**server)
        self._options = options.endpoint()
        self._url, self._key = self._options.address, self._options.key
        self._patience, self._sync_dir = options.patience, options.sync_dir
        self._clients: dict[int, _Client] = {}  # by process
        self._run = secrets.token_hex(4)
        self._installed: _Installed | None = None
        self._syncs = 0
        self._unsure = False  # whether the server may have lost the installed weights
        self._down = False  # whether it used up all patience and has not answered since then
        self._model = ""
        event_loop.run(self._connect(options.served_model))

    def sync(self, model: Any, version: int) -> None:
        """Sample from these weights from now on.

        Args:
            model: the policy's model; of one with a LoRA adapter, only the adapter is sent.
            version: part of the directory's name.

        Raises:
            EngineError: the server did not load them.
        """
        folder = tempfile.TemporaryDirectory(prefix=f"searchgym-{version}-", dir=self._sync_dir)
        Path(folder.name).chmod(0o755)  # the server may be another user
        write_weights(model, Path(folder.name))
        self._syncs += 1
        name = f"searchgym-{self._run}-{self._syncs}"
        before, self._installed = self._installed, _Installed(name, folder, hasattr(model, "peft_config"))
        event_loop.run(self._replace(before))

    def _draw(self, requests: list[Request]) -> list[Sampled | None]:
        return event_loop.run(self._complete_all(requests))

    async def _complete_all(self, requests: list[Request]) -> list[Sampled | None]:
        return await asyncio.gather(*[self._complete(request) for request in requests])

    async def _complete(self, request: Request) -> Sampled | None:
        try:
            async with self._client().slots:
                reply = await self._persist("/completions", self._body(request.context, request.fields))
            return self._read(reply)
        except EngineError as error:
            _log.warning("an action was not sampled, its episode is lost: %s", error)
            return None

    def _body(self, context: list[int], fields: dict[str, Any]) -> dict[str, Any]:
        installed = self._installed
        body = {"model": self._model, "prompt": context, "return_token_ids": True, **fields}
        if installed is not None:
            body["cache_salt"] = installed.name
            if installed.adapter:
                body["model"] = installed.name
        return body

    def _read(self, reply: Any) -> Sampled:
        """The action in a reply of the completions endpoint."""
        try:
            choice = reply["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            usable = (
                len(ids) == len(logprobs) > 0
                and all(type(token) is int for token in ids)
                and all(isinstance(value, int | float) and math.isfinite(value) for value in logprobs)
            )
            if choice["finish_reason"] not in ("stop", "length"):
                raise EngineError(f"{self._url} ended an action with {choice['finish_reason']!r}")
        except (KeyError, IndexError, TypeError):
            usable = False
        if not usable:
            raise EngineError(
                f"{self._url} answered a completion without token_ids and their logprobs "
                f"({json.dumps(reply, default=str)[:200]}): use a vLLM server, version 0.10.2 or later"
            )
        usage = reply.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:  # the server reports it with --enable-prompt-tokens-details
            self.stats.copied_tokens += cached
            self.stats.prefilled_tokens += usage["prompt_tokens"] - cached
        at_string = isinstance(choice.get("stop_reason"), str)
        return Sampled(
            ids, [float(value) for value in logprobs], choice["finish_reason"] == "stop", at_string
        )

    async def _connect(self, served_model: str | None) -> None:
        """Make sure that the server is there and can do what is needed, before any episode begins."""
        try:
            listed = await self._persist("/models", None, patience=_CONNECTING)
            cards = {str(card["id"]): card for card in listed["data"]}
        except (EngineError, KeyError, TypeError) as error:
            raise ConfigError(
                f"no vLLM server answers at {self._url}: {error}. Start one (vllm serve MODEL) and wait until it "
                "listens, or correct base_url"
            ) from None
        own = [name for name, card in cards.items() if not card.get("parent")]
        self._model = served_model if served_model is not None else (own or [""])[0]
        if self._model not in cards:
            raise ConfigError(
                f"{_OWNER}: {self._url} serves {', '.join(cards) or 'no model'}, not "
                f"{self._model!r}: correct served_model"
            )
        longest = cards[self._model].get("max_model_len")
        if isinstance(longest, int) and longest < self.max_context:
            raise ConfigError(
                f"max_context is {self.max_context}, but {self._url} takes {longest} tokens: start it with "
                f"--max-model-len {self.max_context}, or lower max_context"
            )
        try:
            cold, hot = [await self._scores(temperature) for temperature in (1.0, 2.0)]
        except EngineError as error:
            raise ConfigError(f"{_OWNER}: {error}") from None
        # If log-probabilities are taken after the temperature, they are half as far apart at temperature 2.
        shared = sorted(cold.keys() & hot.keys(), key=cold.__getitem__)
        near, far = (scores[shared[-1]] - scores[shared[0]] for scores in (hot, cold))
        self.tempered = abs(near - far / 2) < abs(near - far)

    async def _scores(self, temperature: float) -> dict[str, float]:
        """The log-probabilities that the server returns after one id: of the likeliest ids, and of the sampled one."""
        fields = {"max_tokens": 1, "temperature": temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        fields |= {"repetition_penalty": 1.0, "logprobs": 5, "seed": 0, "return_tokens_as_token_ids": True}
        reply = await self._persist("/completions", self._body([1], fields), patience=_CONNECTING)
        self._read(reply)
        return dict(reply["choices"][0]["logprobs"]["top_logprobs"][0])

    async def _replace(self, before: _Installed | None) -> None:
        """Make the server load the weights to be installed, and unload the previous ones."""
        installed = self._installed
        assert installed is not None
        if installed.adapter:
            load = ("/load_lora_adapter", {"lora_name": installed.name, "lora_path": installed.folder.name})
            await self._persist(*load, install=False)
            if before is not None:
                try:
                    await self._persist("/unload_lora_adapter", {"lora_name": before.name}, install=False)
                except EngineError as error:  # the old adapter only takes memory there
                    _log.warning("%s", error)
        else:
            body = {"method": "reload_weights", "kwargs": {"weights_path": installed.folder.name}}
            await self._persist("/collective_rpc", body, install=False)
        self._unsure = False

    async def _persist(
        self, path: str, body: dict[str, Any] | None, *, patience: float | None = None, install: bool = True
    ) -> Any:
        """Repeat a request until the server answers, or patience is used up.

        Args:
            path: below the base URL.
            body: JSON, for POST; None for GET.
            patience: seconds; None for the option.
            install: send the weights again first, if the server may have lost them.

        Raises:
            EngineError: no answer, or a refusal.
        """
        clock = asyncio.get_running_loop().time
        start, attempts = clock(), 0
        patience = self._patience if patience is None else patience
        while True:
            attempts += 1
            try:
                if install and self._unsure and self._installed is not None:
                    await self._reinstall()
                reply = await self._send(path, body)
                self._down = False
                return reply
            except _Failed as error:
                failed = error
            self._unsure |= failed.lost
            out_of_patience = clock() - start + _BACKOFF.bound(attempts) > patience
            if not failed.retryable or self._down or out_of_patience:
                self._down |= failed.retryable
                count = f", {attempts} tries" if attempts > 1 else ""
                raise EngineError(f"{self._url}{path} {failed}{count}")
            await asyncio.sleep(_BACKOFF.pause(attempts))

    async def _reinstall(self) -> None:
        async with self._client().installing:
            if self._unsure:
                try:
                    await self._replace(None)
                except EngineError as error:
                    raise _Failed(str(error), retryable=True) from None

    async def _send(self, path: str, body: dict[str, Any] | None) -> Any:
        """One request; returns the JSON of the reply, or None if the reply is plain text."""
        url = (self._url.removesuffix("/v1") if path == "/collective_rpc" else self._url) + path
        client = self._client().openai
        try:
            # As text: neither the client nor this engine parses fields that are not needed.
            answer = (
                client.get(url, cast_to=str) if body is None else client.post(url, cast_to=str, body=body)
            )
            text = await answer
        except openai.APIStatusError as error:
            if path == "/load_lora_adapter" and "has already been" in error.response.text:
                return None  # by an attempt whose reply was lost
            raise self._refused(path, body, error) from None
        except openai.APIConnectionError as error:
            if isinstance(error, openai.APITimeoutError):
                raise _Failed(
                    f"gave no answer within timeout={self._options.timeout:g} s", retryable=True
                ) from None
            cause = error.__cause__
            detail = str(cause or "") or type(cause).__name__
            raise _Failed(f"cannot be reached ({detail})", retryable=True, lost=True) from None
        try:
            return json.loads(text)
        except ValueError:
            return None

    def _refused(self, path: str, body: dict[str, Any] | None, error: openai.APIStatusError) -> _Failed:
        status = error.status_code
        detail = " ".join(error.response.text.split())[:300].replace(self._key, "…")
        reason = f"answered {status} ({detail})"
        installed = self._installed
        if status == 404 and body is not None and installed is not None:
            if installed.adapter and body.get("model") == installed.name:  # the server was restarted
                return _Failed(reason, retryable=True, lost=True)
            if path == "/load_lora_adapter":
                reason += ": start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora"
            elif path == "/collective_rpc":
                reason += ": start it with VLLM_SERVER_DEV_MODE=1, so that it can load new weights"
        if status in (401, 403):
            reason += ": name the variable that holds its key in api_key_env"
        return _Failed(reason, retryable=is_transient(status))

    def _client(self) -> _Client:
        """The connections of this process; a forked child opens its own."""
        client = self._clients.get(os.getpid())
        if client is None:
            client = self._clients[os.getpid()] = _Client(
                open_client(self._url, self._key, self._options.timeout, retries=0),
                asyncio.Semaphore(self._options.concurrency),
                asyncio.Lock(),
            )
        return client
