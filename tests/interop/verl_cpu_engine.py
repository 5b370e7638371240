"""Registers what `verl_cpu` offers where verl has no other way in than its tables; verl imports it as its model's `external_lib`.

Not a part of `verl_cpu`, which is imported at the beginning of `import verl`, before the tables exist.
"""

import verl.workers.rollout.base as rollouts
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl_cpu import NAME

rollouts._ROLLOUT_REGISTRY[NAME, "async"] = "verl_cpu.ServerAdapter"
if "cpu" not in EngineRegistry._engines["language_model"]["fsdp2"]:
    EngineRegistry.register("language_model", ["fsdp", "fsdp2"], "cpu")(FSDPEngineWithLMHead)
