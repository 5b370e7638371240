"""Prepares verl's own trainer (`python -m verl.trainer.main_ppo`) on processors, and judges what it wrote; see run.sh.

    python tests/interop/verl_ppo.py prepare MODEL FOLDER LOOP [down]    # data, loops and tools in FOLDER; prints the arguments
    python tests/interop/verl_ppo.py check LOG LOOP [down]

LOOP is searchgym or searchgym_tools. The model knows a few questions (tiny_chat.py). With `down`, the search server that one of
them asks is not there: its rollouts have no reward, verl leaves them out and trains on the others.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from datasets import Dataset
from tiny_chat import ARGUMENTS

from searchgym.interop.verl_rows import rows, tool_config

LOOPS = {
    "searchgym": "searchgym.interop.verl.SearchAgentLoop",
    "searchgym_tools": "searchgym.interop.verl_tools.SearchToolAgentLoop",
}
STEPS, MEMBERS = 2, 2


def prepare(model: Path, folder: Path, loop: str, *, down: bool = False) -> list[str]:
    """Write what verl reads; returns its arguments."""
    known = json.loads((model / "task_ids.json").read_text("utf-8"))
    data = [
        row for row in rows("train", agent_name=loop, **ARGUMENTS) if row["extra_info"]["task_id"] in known
    ]
    if down:
        lost = json.dumps(
            {**ARGUMENTS, "retriever": {"name": "remote", "url": "http://127.0.0.1:9", "retries": 0}}
        )
        extra = data[-1]["extra_info"]
        extra["arguments"] = extra["tools_kwargs"]["arguments"] = lost
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(data).to_parquet(folder / "train.parquet")
    (folder / "loops.yaml").write_text(
        "".join(f"- name: {n}\n  _target_: {t}\n" for n, t in LOOPS.items()), "utf-8"
    )
    (folder / "tools.json").write_text(json.dumps(tool_config(**ARGUMENTS)), "utf-8")
    rollout, actor, policy = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.model"
    count = len(data)
    return [
        *(
            "algorithm.adv_estimator=grpo",
            f"trainer.total_training_steps={STEPS}",
            f"trainer.total_epochs={STEPS}",
        ),
        *("trainer.logger=[console]", "trainer.save_freq=-1", "trainer.test_freq=-1"),
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        *(f"data.{which}_files={folder / 'train.parquet'}" for which in ("train", "val")),
        *(f"data.train_batch_size={count}", "data.dataloader_num_workers=0"),
        *("data.max_prompt_length=1024", "data.max_response_length=1024"),
        *(f"{rollout}.n={MEMBERS}", f"{rollout}.calculate_log_probs=True", f"{rollout}.agent.num_workers=1"),
        f"{rollout}.agent.agent_loop_config_path={folder / 'loops.yaml'}",
        *(f"{rollout}.multi_turn.enable=True", f"{rollout}.multi_turn.max_tool_response_length=4096"),
        *(
            f"{rollout}.multi_turn.format=hermes",
            f"{rollout}.multi_turn.tool_config_path={folder / 'tools.json'}",
        ),
        *(f"{policy}.path={model}", f"{actor}.optim.lr=1e-4", f"{actor}.ppo_mini_batch_size={count}"),
        *(f"{actor}.ppo_micro_batch_size_per_gpu=2", f"{rollout}.log_prob_micro_batch_size_per_gpu=2"),
        # What differs from a machine with GPUs.
        *("trainer.device=cpu", "trainer.n_gpus_per_node=1", f"{rollout}.name=processors"),
        *(f"{rollout}.tensor_model_parallel_size=1", f"{policy}.external_lib=verl_cpu_engine"),
        *(
            f"{actor}.strategy=fsdp2",
            f"{actor}.fsdp_config.model_dtype=fp32",
            f"{actor}.use_torch_compile=False",
        ),
        *(f"{actor}.fsdp_config.use_torch_compile=False", f"{policy}.use_remove_padding=False"),
        f"+{policy}.override_config.attn_implementation=sdpa",
        *(
            "+ray_kwargs.ray_init.num_gpus=1",
            "+ray_kwargs.ray_init.address=local",
            "ray_kwargs.ray_init.num_cpus=10",
        ),
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "reward.num_workers=1",
    ]


def check(log: Path, *, down: bool = False) -> None:
    """Hold what verl printed: the rewards, an update in each step, and the weights that the server got."""
    text = re.sub(r"\x1b\[\d+m(?:\(.*?\))?", "", log.read_text("utf-8", errors="replace"))
    sent = [float(change) for change in re.findall(r"largest change (\S+)", text)]
    (validation,) = re.findall(r"step:0 - .*?val-core/searchgym/reward/mean@1:np\.float64\(([\d.]+)\)", text)
    steps = re.findall(r"step:[1-9] - .*", text)
    rewards = [float(re.findall(r"critic/rewards/mean:([\d.]+)", line)[0]) for line in steps]
    apart = [float(re.findall(r"rollout_probs_diff_max:([\d.e-]+)", line)[0]) for line in steps]
    lost = text.count("ConfigError: no retrieval server answers")
    print(f"reward in validation {float(validation)}; means of the {len(steps)} steps {rewards}")
    print(f"weights sent {len(sent)} times, largest changes {sent}; lost rollouts {lost}")
    print(f"largest difference of a probability between sampler and trainer {apart}")
    assert (float(validation), len(steps), len(sent)) == (1.0, STEPS, STEPS + 1), text[-3000:]
    assert min(rewards) > 0.2, rewards  # sampled
    assert max(apart) < 0.05, apart  # the trainer computes in bfloat16
    assert lost == (
        1 + STEPS * MEMBERS if down else 0
    )  # of one question: in the validation, and in each step


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        print(
            "\n".join(prepare(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], down="down" in sys.argv[5:]))
        )
    else:
        check(Path(sys.argv[2]), down="down" in sys.argv[4:])
