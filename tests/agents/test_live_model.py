"""`HFAgent` plays with a model that is in memory already, and TRL's `rollout_func` over it."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hf_models import WORLD, make_env, save_taught
from peft import LoraConfig, get_peft_model
from toys import Probe
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchgym.agents.hf import HFAgent
from searchgym.env.env import SearchEnv
from searchgym.errors import ConfigError
from searchgym.interop import peers
from searchgym.records.episode import Episode, StopReason
from searchgym.rollouts.collection import rollout

OPTIONS: dict[str, Any] = {"seed": 2, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def env() -> SearchEnv:
    return make_env()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_taught(tmp_path_factory.mktemp("model"))


@pytest.fixture
def live(taught: str) -> tuple[Any, Any]:
    """The taught model and its tokenizer, as a trainer holds them."""
    model = AutoModelForCausalLM.from_pretrained(taught, dtype=torch.float32)
    return model.train(), AutoTokenizer.from_pretrained(taught)


def tokens(episodes: list[Episode]) -> list[list[int]]:
    return [segment.tokens for episode in episodes for segment in episode.segments]


def test_a_live_model_plays_like_the_same_weights_from_disk(
    env: SearchEnv, taught: str, live: tuple[Any, Any]
) -> None:
    wanted = tokens(rollout(env, HFAgent(taught, device="cpu", dtype="float32", **OPTIONS), 6, num_envs=6))
    model, tokenizer = live
    agent = HFAgent(model.eval(), tokenizer, **OPTIONS)
    assert agent.model is model
    assert tokens(rollout(env, agent, 6, num_envs=6)) == wanted


def test_the_adapter_of_a_live_peft_model_takes_part(
    env: SearchEnv, taught: str, live: tuple[Any, Any]
) -> None:
    model, tokenizer = live
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    ).eval()
    plain = tokens(rollout(env, HFAgent(adapted, tokenizer, **OPTIONS), 4, num_envs=4))
    assert plain == tokens(
        rollout(env, HFAgent(taught, device="cpu", dtype="float32", **OPTIONS), 4, num_envs=4)
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    assert tokens(rollout(env, HFAgent(adapted, tokenizer, **OPTIONS), 4, num_envs=4)) != plain


def test_options_that_load_a_model_are_refused_for_a_live_one(live: tuple[Any, Any]) -> None:
    model, tokenizer = live
    for name, value in (("lora", {"rank": 4}), ("dtype", "bfloat16"), ("device", "cpu"), ("engine", "vllm")):
        with pytest.raises(ConfigError, match=f"leave {name} out"):
            HFAgent(model, tokenizer, **{name: value})
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        HFAgent(model)
    with pytest.raises(ConfigError, match="leave tokenizer out"):
        HFAgent("some/model", tokenizer)


def trainer_of(model: Any, tokenizer: Any) -> Any:
    """As much of a `GRPOTrainer` as a rollout function uses."""
    return SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped),
        model=model,
        processing_class=tokenizer,
        state=SimpleNamespace(global_step=3),
        temperature=0.7,
    )


def adapter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of rollouts, which needs nothing of TRL but its version."""
    monkeypatch.setattr(peers.metadata, "version", lambda _: "1.16.0")
    return import_module("searchgym.interop.trl_rollouts").Rollouts


def test_rollouts_hand_over_the_tokens_that_were_sampled(
    env: SearchEnv, live: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts_of = adapter(monkeypatch)
    model, tokenizer = live
    rollouts = rollouts_of(num_envs=2, agent=OPTIONS, corpus=WORLD, max_rounds=2)
    questions = [env.corpus.question(task_id).text for task_id in env.task_ids()[:2]]
    out = rollouts([*questions, [{"role": "user", "content": questions[0]}]], trainer_of(model, tokenizer))
    assert model.training
    assert [one.question for one in out["episode"]] == [*questions, questions[0]]
    assert {r.policy_version for one in out["episode"] for r in one.rounds} == {3}
    assert {r.temperature for one in out["episode"] for r in one.rounds} == {0.7}
    for episode, prompt, completion, logprobs, mask in zip(
        *(out[name] for name in ("episode", "prompt_ids", "completion_ids", "logprobs", "env_mask")),
        strict=True,
    ):
        (segment,) = episode.segments
        assert prompt + completion == [*segment.tokens, tokenizer.eos_token_id]
        assert [0] * len(prompt) + mask == [*segment.mask, 0]
        assert len(logprobs) == len(completion)
        assert (mask[0], sum(mask)) == (1, sum(segment.mask))
    assert rollouts.reward(out["episode"]) == [one.reward for one in out["episode"]]


def test_a_rollout_that_is_cut_off_has_no_end_and_a_failed_one_no_reward(
    env: SearchEnv, live: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts_of = adapter(monkeypatch)
    model, tokenizer = live
    question = env.corpus.question(env.task_ids()[0]).text
    short = rollouts_of(num_envs=1, agent={**OPTIONS, "max_context": 330}, corpus=WORLD, max_rounds=8)
    out = short([question], trainer_of(model, tokenizer))
    assert out["episode"][0].outcome.stop_reason is StopReason.TOKEN_BUDGET
    assert out["completion_ids"][0][-1] != tokenizer.eos_token_id or out["env_mask"][0][-1] == 1
    down = Probe(env.retriever, down=True)
    failing = rollouts_of(num_envs=4, agent=OPTIONS, corpus=env.corpus, retriever=down, max_rounds=8)
    episodes = failing([question] * 4, trainer_of(model, tokenizer))["episode"]
    rewards = failing.reward(episodes)
    assert None in rewards
    assert [reward is None for reward in rewards] == [not one.valid_for_training for one in episodes]
