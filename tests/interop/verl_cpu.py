"""verl on processors: what its GPU platform, its engine's registry and vLLM are on other machines, for the end-to-end test.

Loaded by verl itself (VERL_USE_EXTERNAL_MODULES=verl_cpu, VERL_PLATFORM=cpu) in each of its processes. The server samples with
transformers, token by token, from the weights that verl's trainer sends after each update.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import ray
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

NAME = "processors"
"""Of the rollout: actor_rollout_ref.rollout.name."""


class Device:
    """In place of torch.cuda: nothing to empty, to measure or to wait for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: 0

    def is_available(self) -> bool:
        return False

    def get_device_name(self, *_: Any) -> str:
        return "cpu"

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        return 0, 0


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """Ray counts one logical GPU (ray_init.num_gpus=1), which is this machine's processors."""

    device_name, vendor_name, device_module = "cpu", "cpu", Device()

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...
    def synchronize(self, device_index: int | None = None) -> None: ...
    def set_allocator_settings(self, settings: str) -> None: ...
    def empty_cache(self) -> None: ...
    def profiler_start(self) -> None: ...
    def profiler_stop(self) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


@ray.remote(num_cpus=0)
class Server:
    """Samples with transformers; one request at a time."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.steps: int | None = None

    def load(self, weights: dict[str, torch.Tensor], steps: int | None) -> float:
        """Take the trainer's weights; returns the largest change."""
        mine, self.steps = dict(self.model.named_parameters()), steps
        with torch.no_grad():
            changes = [
                float((mine[name] - value).abs().max()) for name, value in weights.items() if name in mine
            ]
            for name, value in weights.items():
                if name in mine:
                    mine[name].copy_(value)
        assert changes, list(weights)[:3]
        return max(changes)

    @torch.no_grad()
    def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        temperature, ids, logprobs = sampling_params["temperature"], list[int](), []
        stops, given, past = sampling_params.get("stop") or [], torch.tensor([prompt_ids]), None
        for _token in range(sampling_params.get("max_tokens") or 64):
            out = self.model(given, past_key_values=past, use_cache=True)
            scores, past = (out.logits[0, -1] / (temperature or 1.0)).log_softmax(-1), out.past_key_values
            token = int(scores.argmax() if not temperature else torch.multinomial(scores.exp(), 1))
            ids.append(token)
            logprobs.append(float(scores[token]))
            text = self.tokenizer.decode(ids)
            if token == self.tokenizer.eos_token_id or any(stop in text for stop in stops):
                break
            given = torch.tensor([[token]])
        return TokenOutput(token_ids=ids, log_probs=logprobs, extra_fields={"global_steps": self.steps})

    def nothing(self, *_: Any, **__: Any) -> None: ...

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = resume_generation = nothing
    abort_all_requests = start_profile = stop_profile = nothing


class Replica(RolloutReplica):
    """One server, found by the training process by its name."""

    async def launch_servers(self) -> None:
        path = self.model_config["path"]
        self._server_handle = Server.options(name=f"{NAME}-{self.replica_rank}").remote(path)
        self._server_address = f"{NAME}-{self.replica_rank}"
        self.servers = [self._server_handle]


class ServerAdapter:
    """What runs in the training process: sends its weights to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any) -> None: ...
    async def resume(self, tags: list[str]) -> None: ...
    async def release(self) -> None: ...

    async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
        whole = {name: value.detach().cpu().float() for name, value in weights}
        change = await ray.get_actor(f"{NAME}-0").load.remote(whole, global_steps)
        print(f"weights of step {global_steps} sent; largest change {change:.1e}", flush=True)


def _init_process_group(backend: str | None = None, **named: Any) -> None:
    """verl asks for "cpu:gloo,DEVICE:BACKEND", in which a device may stand once."""
    _torch_init_process_group("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, **named)


_torch_init_process_group = torch.distributed.init_process_group
torch.distributed.init_process_group = _init_process_group
RolloutReplicaRegistry.register(NAME, lambda: Replica)
