"""The Hugging Face agent in the environment: exact tokens, equal log-probabilities, files that others open."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import make_tokenizer
from families import build_family
from helpers import play_groups
from hf_models import make_env, save_family, save_taught
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchgym.agent import Turn
from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.lm.generation import EngineStats
from searchgym.agents.policy import Sample
from searchgym.env.env import SearchEnv
from searchgym.env.vector import SearchVectorEnv
from searchgym.errors import CheckpointError, ConfigError
from searchgym.records.episode import Episode, StopReason
from searchgym.rollouts.collection import agent_context_of, collect, rollout

LORA = {"rank": 4}


@pytest.fixture(scope="module")
def env() -> SearchEnv:
    return make_env()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_taught(tmp_path_factory.mktemp("model"))


def samples(episodes: list[Episode]) -> list[Sample]:
    return [Sample(e, s) for e in episodes for s in e.segments]


def recorded(episodes: list[Episode]) -> torch.Tensor:
    return torch.tensor(
        [p for e in episodes for s in e.segments for p, m in zip(s.logprobs, s.mask, strict=True) if m]
    )


def stir(agent: HFAgent) -> None:
    """Make a new adapter do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in agent.module.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def plain_logprobs(model: Any, episodes: list[Episode], temperature: float) -> torch.Tensor:
    """By transformers' own forward, one sequence at a time."""
    found = []
    for sample in samples(episodes):
        tokens = torch.tensor(sample.segment.tokens)
        logits = model(tokens.unsqueeze(0)).logits[0, :-1].float() / temperature
        all_T = torch.log_softmax(logits, -1).gather(1, tokens[1:, None]).squeeze(1)
        found.append(all_T[torch.tensor(sample.segment.mask[1:]).bool()])
    return torch.cat(found)


# -- tokens and log-probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "lora"), [("llama", None), ("mistral windowed", LORA), ("gemma2", None), ("gemma3_text", LORA)]
)
def test_recorded_logprobs_are_those_of_evaluate_tokens(
    env: SearchEnv, tmp_path: Path, family: str, lora: dict[str, int] | None
) -> None:
    agent = HFAgent(save_family(tmp_path, family), seed=1, temperature=0.9, max_new_tokens=7, lora=lora)
    stir(agent)
    episodes = play_groups(env, agent, tasks=2, group=2)
    assert all(len(e.rounds) > 1 for e in episodes)
    outputs = agent.evaluate_tokens(samples(episodes))
    torch.testing.assert_close(outputs.logprobs_N.detach(), recorded(episodes), atol=3e-4, rtol=0)
    outputs.logprobs_N.sum().backward()
    trained = {n for n, p in agent.module.named_parameters() if p.grad is not None}
    wanted = {n for n, p in agent.module.named_parameters() if p.requires_grad}
    assert trained == wanted
    assert all("lora_" in name for name in trained) is (lora is not None)


def test_a_chat_only_grows_and_acts_end_where_they_close(env: SearchEnv, taught: str) -> None:
    agent = HFAgent(taught, seed=2, max_new_tokens=24)
    episodes = play_groups(env, agent, tasks=4, group=4)
    kinds = {r.action.kind for e in episodes for r in e.rounds}
    assert {"search", "answer"} <= kinds
    stops = ("</search>", "</answer>", "</feedback>")
    for episode in episodes:
        (segment,) = episode.segments
        assert segment.tokens[: segment.mask.index(1)] == agent.chat.opening(episode.question)
        for index, round_ in enumerate(episode.rounds):
            act = [
                t
                for t, m, r in zip(segment.tokens, segment.mask, segment.rounds, strict=True)
                if m and r == index
            ]
            assert round_.text == agent.chat.text(act)
            closed = act[-1] in agent.chat.end_ids or round_.text.rstrip("\n").endswith(stops)
            assert closed or len(act) == 24
            assert not any(stop in agent.chat.text(act[:-1]) for stop in stops)
    with torch.no_grad():
        ours = agent.evaluate_tokens(samples(episodes)).logprobs_N
    model = AutoModelForCausalLM.from_pretrained(taught)
    torch.testing.assert_close(ours, plain_logprobs(model, episodes, 1.0), atol=3e-4, rtol=0)


@pytest.mark.parametrize("rounds", [2, 32])
def test_no_prompt_token_is_computed_twice(env: SearchEnv, taught: str, rounds: int) -> None:
    agent = HFAgent(taught, seed=3, max_new_tokens=6)
    agent.bind(agent_context_of(env.config))
    slots = list(range(4))
    agent.begin(slots)
    observations = ["What is the river of Mira?"] * 2 + ["Who is the mentor of Voss?"] * 2
    for _ in range(rounds):
        agent.act(slots, observations, [{}] * 4)
        observations = [f"<information>\nNothing was found by slot {s}.\n</information>" for s in slots]
    stats: EngineStats = agent.engine.stats
    total = sum(len(agent.engine.context(s)) for s in slots)
    assert total == stats.prompt_tokens + stats.sampled_tokens
    # Every position once, except the last token of each slot, which waits for the next observation.
    assert stats.prefilled_tokens + stats.copied_tokens + stats.decoded_tokens == total - len(slots)
    # The system prompt once for all, the question once for each group.
    opening = len(agent.chat.opening("What is the river of Mira?"))
    assert stats.copied_tokens > 2.5 * opening
    assert stats.prefilled_tokens < stats.prompt_tokens - 2.5 * opening + rounds * len(slots)


def test_a_fork_goes_on_like_its_source(env: SearchEnv, taught: str) -> None:
    agent = HFAgent(taught, greedy=True, max_new_tokens=10)
    agent.bind(agent_context_of(env.config))
    agent.begin([0])
    agent.act([0], ["What is the river of Mira?"], [{}])
    agent.fork(0, [5])
    here, there = agent.act([0, 5], ["Nothing was found."] * 2, [{}, {}])
    assert (here.prompt_ids, here.token_ids) == (there.prompt_ids, there.token_ids)  # type: ignore[union-attr]
    assert agent.engine.context(0) == agent.engine.context(5)


def test_an_episode_ends_when_the_context_is_full(env: SearchEnv, taught: str) -> None:
    whole = play_groups(env, HFAgent(taught, seed=4, max_new_tokens=24), tasks=1, group=2)
    first = len(whole[0].segments[0].tokens[: whole[0].segments[0].mask.index(1)])
    for limit, sampled in ((first + 5, True), (first - 5, False)):
        for episode in play_groups(env, HFAgent(taught, seed=4, max_context=limit), tasks=1, group=2):
            assert episode.outcome is not None
            assert episode.outcome.stop_reason is StopReason.TOKEN_BUDGET
            assert sum(sum(s.mask) for s in episode.segments) == (5 if sampled else 0)


def test_a_recorded_episode_becomes_the_tokens_of_its_acts(env: SearchEnv, taught: str) -> None:
    agent = HFAgent(taught)
    agent.bind(agent_context_of(env.config))
    (episode,) = rollout(env, "gold", 1)
    (segment,) = agent.encode(episode)
    assert segment.tokens[: segment.mask.index(1)] == agent.chat.opening(episode.question)
    for index, round_ in enumerate(episode.rounds):
        act = [
            t
            for t, m, r in zip(segment.tokens, segment.mask, segment.rounds, strict=True)
            if m and r == index
        ]
        assert agent.chat.text(act) == round_.text
    (own,) = play_groups(env, agent, tasks=1, group=1)
    (again,) = agent.encode(own)
    assert agent.tokenizer.decode(again.tokens) == agent.tokenizer.decode(own.segments[0].tokens)


# -- files ------------------------------------------------------------------------------------------------------


def test_an_adapter_opens_in_plain_peft_with_the_same_logprobs(
    env: SearchEnv, taught: str, tmp_path: Path
) -> None:
    agent = HFAgent(taught, seed=5, lora=LORA, max_new_tokens=16)
    stir(agent)
    episodes = play_groups(env, agent, tasks=2, group=2)
    agent.save(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    base = AutoModelForCausalLM.from_pretrained(taught)
    model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(plain_logprobs(model, episodes, 1.0), recorded(episodes), atol=3e-4, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template == agent.tokenizer.chat_template
    opened = HFAgent(str(tmp_path / "adapter"), seed=5, max_new_tokens=16)
    assert opened.describe() == agent.describe()
    assert [e.rounds for e in play_groups(env, opened, tasks=2, group=2)] == [e.rounds for e in episodes]


def test_all_weights_open_in_plain_transformers(env: SearchEnv, taught: str, tmp_path: Path) -> None:
    agent = HFAgent(taught, seed=5, max_new_tokens=16)
    with torch.no_grad():
        for p in agent.module.parameters():
            p.mul_(1.01)
    episodes = play_groups(env, agent, tasks=1, group=2)
    agent.save(tmp_path / "full")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    torch.testing.assert_close(plain_logprobs(model, episodes, 1.0), recorded(episodes), atol=3e-4, rtol=0)
    other = HFAgent(taught, max_new_tokens=16)
    assert other.describe() == agent.describe()
    other.load_weights(tmp_path / "full")
    for ours, theirs in zip(other.module.parameters(), agent.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_episodes_are_the_same_with_and_without_paused_acts(env: SearchEnv, taught: str) -> None:
    class Patient(HFAgent):
        """Waits for the longest act of a batch."""

        def act(self, *arguments: Any) -> list[str | Turn]:
            return super().act(*arguments)

    def play(make: type[HFAgent]) -> tuple[HFAgent, list[Episode]]:
        agent = make(taught, temperature=1.5, max_new_tokens=24)
        envs = SearchVectorEnv.from_config(env.config, 8)
        return agent, collect(envs, agent, envs.task_ids()[:8] * 2, seeds=range(16))

    (patient, expected), (agent, episodes) = play(Patient), play(HFAgent)
    for one, other in zip(episodes, expected, strict=True):
        assert [s.tokens for s in one.segments] == [s.tokens for s in other.segments]
        assert [r.text for r in one.rounds] == [r.text for r in other.rounds]
        assert recorded([one]).tolist() == pytest.approx(recorded([other]).tolist(), abs=1e-4)
    assert agent.engine.stats.decode_steps < patient.engine.stats.decode_steps


def test_an_adapter_is_made_and_opened_without_a_deprecation_warning(taught: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        HFAgent(taught, lora=LORA).save(tmp_path / "adapter")
        HFAgent(str(tmp_path / "adapter"))


def test_the_reference_of_a_new_adapter_is_the_model_without_it(env: SearchEnv, taught: str) -> None:
    agent = HFAgent(taught, lora=LORA, max_new_tokens=16)
    episodes = play_groups(env, agent, tasks=1, group=2)
    reference = agent.freeze_reference()
    with torch.no_grad():
        before = agent.evaluate_tokens(samples(episodes)).logprobs_N
        stir(agent)
        moved = agent.evaluate_tokens(samples(episodes)).logprobs_N
        with reference():
            within = agent.evaluate_tokens(samples(episodes)).logprobs_N
        after = agent.evaluate_tokens(samples(episodes)).logprobs_N
        second = agent.freeze_reference()  # of an adapter that does something: that policy
        expected = agent.evaluate_tokens(samples(episodes)).logprobs_N
        for p in agent.module.parameters():
            if p.requires_grad:
                p.zero_()
        with second():
            torch.testing.assert_close(agent.evaluate_tokens(samples(episodes)).logprobs_N, expected)
    torch.testing.assert_close(within, before)
    assert torch.equal(after, moved)
    assert float((moved - before).abs().max()) > 0.01
    assert all(p.requires_grad for n, p in agent.module.named_parameters() if "lora_" in n)


@pytest.mark.parametrize("lora", [None, LORA])
def test_weights_that_do_not_fit_are_refused_and_nothing_changes(
    taught: str, tmp_path: Path, lora: dict[str, int] | None
) -> None:
    agent = HFAgent(taught, lora=lora)
    before = [p.clone() for p in agent.module.parameters()]
    agent.save(tmp_path / "good")
    (file,) = (tmp_path / "good").glob("*model.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    broken = {
        "not finite": {**tensors, name: torch.full_like(tensors[name], float("nan"))},
        "architecture|lacks|loaded": {n: t for n, t in tensors.items() if n != name},
    }
    for message, content in broken.items():
        save_file(content, file, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            agent.load_weights(tmp_path / "good")
    file.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="damaged"):
        agent.load_weights(tmp_path / "good")
    with pytest.raises(CheckpointError, match="no such directory"):
        agent.load_weights(tmp_path / "none")
    agent.save(tmp_path / "other")
    make_tokenizer(digits=True).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="another tokenizer"):
        agent.load_weights(tmp_path / "other")
    assert all(torch.equal(a, b) for a, b in zip(before, agent.module.parameters(), strict=True))


def test_an_adapter_describes_the_weights_it_was_made_for(taught: str, tmp_path: Path) -> None:
    agent = HFAgent(taught, lora=LORA)
    other = HFAgent(taught)
    with torch.no_grad():
        other.model.model.embed_tokens.weight.add_(0.1)
    other.save(tmp_path)
    ours, theirs = agent.describe(), HFAgent(str(tmp_path), lora=LORA).describe()
    assert ours["lora"]["base"] != theirs["lora"]["base"]
    assert json.loads(json.dumps(ours)) == ours
    assert {**ours, "lora": None} == {**theirs, "lora": None}
    assert ours["trained"] < other.describe()["trained"] == ours["weights"]


def test_a_save_that_fails_leaves_what_was_there(
    taught: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = HFAgent(taught, lora=LORA)
    agent.save(tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    stir(agent)

    def fail(directory: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(agent.tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space"):
        agent.save(tmp_path / "adapter")
    assert {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# -- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "give a directory or the id"),
        ({"model": "./nowhere"}, "there is no directory './nowhere'"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"engine": "vlm"}, "engine is 'vlm'. Did you mean 'vllm'"),
        ({"attention": "flash"}, "attention is 'flash'"),
        ({"engine_options": {"speed": 9}}, "engine 'transformers' has no option 'speed'"),
        ({"max_context": 100_000}, "this model takes 2 to 4096 tokens"),
        ({"lora": {"rnak": 4}}, "option of lora: 'rnak'. Did you mean 'rank'"),
        ({"lora": {"rank": 0}}, "lora rank is 0"),
        ({"lora": {"targets": ["nothing"]}}, "lora targets"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used here"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"max_new_token": 9}, "option of agent 'hf': 'max_new_token'. Did you mean 'max_new_tokens'"),
    ],
)
def test_options_that_cannot_be_used(taught: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HFAgent(**{"model": taught, **options})


def test_models_that_cannot_chat_are_refused(taught: str, tmp_path: Path) -> None:
    bare = make_tokenizer(template=None)
    with pytest.raises(ConfigError, match="has no chat template"):
        HFAgent(save_family(tmp_path / "bare", tokenizer=bare))
    small = build_family("qwen3", 50)
    small.save_pretrained(tmp_path / "small")
    make_tokenizer().save_pretrained(tmp_path / "small")
    with pytest.raises(ConfigError, match="do not belong together"):
        HFAgent(str(tmp_path / "small"))
    agent = HFAgent(taught, lora=LORA)
    agent.save(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="is an adapter already"):
        HFAgent(str(tmp_path / "adapter"), lora=LORA)


def test_a_tokenizer_without_padding_is_enough(env: SearchEnv, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    agent = HFAgent(save_family(tmp_path, tokenizer=tokenizer), max_new_tokens=4)
    assert agent.tokenizer.pad_token is None
    assert len(play_groups(env, agent, tasks=2, group=1)) == 2
