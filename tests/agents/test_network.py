"""Both ways through a model, while sampling and while learning, against transformers' own logits."""

from __future__ import annotations

import random

import pytest
import torch
from families import FAMILIES, OWN_PASS, build_family
from test_forward import draw_sequences, group, naive

from searchgym.agents.lm.engine import Engine
from searchgym.agents.lm.evaluation import EvaluationStats, TokenSequence, evaluate
from searchgym.agents.lm.interface import Network
from searchgym.agents.lm.network import DecoderNetwork, ModelNetwork, open_network
from searchgym.agents.lm.sampling import Sampling
from searchgym.errors import ConfigError

VOCAB = 70


def own_logprobs(model: torch.nn.Module, context: list[int], temperature: float) -> torch.Tensor:
    """Of every token of a context, by one forward of transformers."""
    with torch.no_grad():
        logits = model(torch.tensor([context]), use_cache=False).logits[0].float() / temperature
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(context)[1:, None]).squeeze(1)


def play(
    network: Network, rounds: int = 3, share_from: int | None = 4
) -> tuple[Engine, dict[int, list[float | None]]]:
    """Contexts with a common beginning, ragged observations; recorded log-probabilities by slot."""
    rng = random.Random(1)
    engine = Engine(
        network, (5, 6), max_new_tokens=6, max_context=300, batch_tokens=64, share_from=share_from
    )
    engine.begin(range(5))
    prompts = {s: [9, 8, 7, 6, 5, 4, *([3] * (s // 2)), 11] for s in range(5)}
    recorded: dict[int, list[float | None]] = {s: [] for s in range(5)}
    how = Sampling(torch.Generator().manual_seed(3), temperature=0.8)
    for _ in range(rounds):
        chosen = rng.sample(range(5), 4)
        for slot, act in zip(chosen, engine.generate(chosen, [prompts[s] for s in chosen], how), strict=True):
            recorded[slot] += [None] * len(act.prompt_ids) + list(act.logprobs)
            prompts[slot] = [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
    return engine, recorded


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_sampled_and_what_is_learned_from_are_the_models_own_logprobs(family: str) -> None:
    model = build_family(family)
    network = open_network(model)
    assert isinstance(network, DecoderNetwork if family in OWN_PASS else ModelNetwork)
    engine, recorded = play(network)
    asked = 0
    sequences = []
    for slot, logprobs in recorded.items():
        context = engine.context(slot)
        own = own_logprobs(model, context, 0.8).tolist()
        for position, logprob in enumerate(logprobs):
            if logprob is not None:
                assert logprob == pytest.approx(own[position - 1], abs=2e-4)
                asked += 1
        targets = tuple(i for i, logprob in enumerate(logprobs) if logprob is not None)
        sequences.append(TokenSequence(tuple(context), targets, (0.8,) * len(targets)))
    assert asked > 40
    with torch.no_grad():
        logprobs_N, entropy_N, hidden_N = evaluate(network, sequences, EvaluationStats())
    wanted = [x for logprobs in recorded.values() for x in logprobs if x is not None]
    torch.testing.assert_close(logprobs_N, torch.tensor(wanted), atol=2e-4, rtol=0)
    assert entropy_N.shape == logprobs_N.shape
    assert hidden_N.shape == (len(wanted), 32)


@pytest.mark.parametrize(
    ("family", "checkpointing"), [("llama", True), ("gemma2", False), ("gemma3_text", True)]
)
def test_gradients_are_those_of_one_sequence_at_a_time(family: str, checkpointing: bool) -> None:
    model = build_family(family)
    network = open_network(model, checkpointing=checkpointing)
    sequences = draw_sequences(4, seed=1)
    sequences += [*sequences[:1], *group(sequences[0])]
    cap = getattr(model.config, "final_logit_softcapping", None)
    outputs, gradients = [], []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            logprobs, entropy, _ = evaluate(network, sequences, EvaluationStats(), batch_tokens=200)
        else:
            logprobs, entropy, _ = naive(model, sequences, cap)
        (logprobs.sum() + 0.3 * entropy.sum()).backward()
        outputs.append((logprobs.detach(), entropy.detach()))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for ours_, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours_, theirs, atol=1e-4, rtol=1e-3)
    assert gradients[0].keys() == gradients[1].keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=3e-3, rtol=3e-3, msg=name)


def test_checkpointing_keeps_less_for_the_backward_pass() -> None:
    kept = {}
    for checkpointing in (False, True):
        for own_forward in (False, True):
            model = build_family("qwen3", num_hidden_layers=3)
            network = open_network(model, own_forward=own_forward, checkpointing=checkpointing)
            assert isinstance(network, ModelNetwork) is own_forward
            sizes: dict[int, int] = {}

            def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
                sizes[tensor.data_ptr()] = tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                evaluate(network, draw_sequences(6, seed=2), EvaluationStats())
            kept[checkpointing, own_forward] = sum(sizes.values())
            assert not model.training
            assert not any(m.training for m in model.modules())
    assert kept[True, False] < 0.6 * kept[False, False]
    assert kept[True, True] < 0.6 * kept[False, True]


@pytest.mark.parametrize("own_forward", [False, True])
def test_bfloat16_weights_give_float32_logprobs_that_agree(own_forward: bool) -> None:
    model = build_family("qwen3", initializer_range=0.1).bfloat16()
    network = open_network(model, own_forward=own_forward)
    engine, recorded = play(network)
    sequences = []
    for slot, logprobs in recorded.items():
        targets = tuple(i for i, logprob in enumerate(logprobs) if logprob is not None)
        sequences.append(TokenSequence(tuple(engine.context(slot)), targets, (0.8,) * len(targets)))
    logprobs_N, entropy_N, _ = evaluate(network, sequences, EvaluationStats())
    assert logprobs_N.dtype == entropy_N.dtype == torch.float32
    wanted = torch.tensor([x for logprobs in recorded.values() for x in logprobs if x is not None])
    assert float((logprobs_N.detach() - wanted).abs().mean()) < 0.03
    logprobs_N.sum().backward()


def test_a_common_beginning_is_computed_once() -> None:
    model = build_family("llama")
    together, apart = (play(open_network(model), share_from=n)[0].stats for n in (4, None))
    assert together.prompt_tokens == apart.prompt_tokens
    assert together.prefilled_tokens + together.copied_tokens == apart.prefilled_tokens + apart.copied_tokens
    assert together.prefilled_tokens < apart.prefilled_tokens


@pytest.mark.parametrize("kind", ["mamba", "bloom", "gpt_neox"])
def test_an_architecture_with_another_state_is_refused_or_right(kind: str) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    shapes = {
        "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "num_attention_heads": 1},
        "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
        "gpt_neox": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "initializer_range": 0.2,
        },
    }
    config = CONFIG_MAPPING[kind](vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, **shapes[kind])
    model = AutoModelForCausalLM.from_config(config).float().eval()
    if kind == "gpt_neox":
        network = open_network(model)
        engine, recorded = play(network)
        own = own_logprobs(model, engine.context(0), 0.8).tolist()
        for position, logprob in enumerate(recorded[0]):
            assert logprob is None or logprob == pytest.approx(own[position - 1], abs=2e-4)
        return
    with pytest.raises(ConfigError, match=f"models of type '{kind}' cannot be used"):
        open_network(model)
