"""Base models and GGUF files: templates by name, prompts to complete, demonstrations, loading and saving."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import make_tokenizer
from hf_models import WORLD, make_env, save_family
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import searchgym
from searchgym.agents.hf.agent import HFAgent
from searchgym.agents.hf.templates import TEMPLATES, give_template
from searchgym.agents.lm import base_network, half_precision
from searchgym.agents.lm.half_precision import head_logits, rounded_head_logits, word_logits
from searchgym.errors import ConfigError
from searchgym.records.episode import Episode, save_episodes
from searchgym.rollouts.collection import agent_context_of

MARKS = {"gemma": ["<start_of_turn>", "<end_of_turn>"], "plain": []}
MARKS |= {"chatml": ["<|im_start|>", "<|im_end|>"]}
MARKS |= {"llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}


def base_tokenizer(*marks: str) -> Any:
    """Bytes fall back to <0x..> tokens, there is no padding token and no template: like SentencePiece base models."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    texts = ["<search> the river </search>", "<answer> the answer </answer>", "Question: Who, and where?"]
    learner.train_from_iterator(texts * 3, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    known = [
        "<unk>",
        "<bos>",
        "<eos>",
        *marks,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *learned["vocab"],
    ]
    vocabulary = {token: id for id, token in enumerate(known)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(list(marks))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_base_model_plays_with_a_template_by_name_and_keeps_it(name: str, tmp_path: Path) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer(*MARKS[name]))
    agent = HFAgent(path, chat_template=name, prompt="completion", max_new_tokens=6, lora={"rank": 2})
    agent.bind(agent_context_of(make_env().config))
    opening = agent.chat.opening("Who? <end_of_turn> <eos> 世")
    text = agent.tokenizer.decode(opening, skip_special_tokens=False)
    assert text.count("Who? <end_of_turn> <eos> 世") == 1
    eos, end = agent.tokenizer.convert_tokens_to_ids(["<eos>", (MARKS[name] or ["<eos>"])[-1]])
    messages = {"chatml": 2, "llama3": 2, "gemma": 1, "plain": 0}  # that have ended
    assert (opening.count(eos), opening.count(end)) == (0, messages[name])  # none comes from the question
    (episode,) = searchgym.rollout("SearchQA-Terse-v0", agent, 1, corpus=WORLD, max_rounds=2, dialect="tags")
    assert sum(episode.segments[0].mask) > 2
    agent.save(tmp_path / "adapter")
    again = HFAgent(str(tmp_path / "adapter"))  # its base has no template
    assert again.tokenizer.chat_template == TEMPLATES[name]


def test_a_template_whose_marks_are_ordinary_text_is_refused(tmp_path: Path) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer("<start_of_turn>", "<end_of_turn>"))
    with pytest.raises(
        ConfigError, match=r"'<\|im_start\|>', which is not a control token.*give one of gemma, plain"
    ):
        HFAgent(path, chat_template="chatml")
    with pytest.raises(ConfigError, match=r"neither a file nor one of .*Did you mean 'gemma'"):
        HFAgent(path, chat_template="gemma2")
    with pytest.raises(ConfigError, match=r"or give chat_template: .*for a base model, plain"):
        HFAgent(path)


def test_a_template_file_and_one_that_refuses_system_and_tool_messages(tmp_path: Path) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer("<start_of_turn>", "<end_of_turn>"))
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no ' + m.role) }}{% endif %}"
        "<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
    )
    agent = HFAgent(path, chat_template=str(strict))
    agent.bind(agent_context_of(make_env("tools").config))
    assert not agent.chat.native_tools
    assert "Search" in agent.tokenizer.decode(agent.chat.opening("Who?"))  # in the first user message
    strict.write_text("{{ raise_exception('never') }}")
    refused = HFAgent(path, chat_template=str(strict))
    with pytest.raises(ConfigError, match="refuses messages of user: never"):
        refused.bind(agent_context_of(make_env().config))


@pytest.mark.parametrize("dialect", ["tags", "tools"])
def test_no_line_of_the_completion_prompt_is_an_act(dialect: str, tmp_path: Path) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer())
    agent = HFAgent(path, chat_template="plain", prompt="completion")
    context = agent_context_of(make_env(dialect).config)
    agent.bind(context)
    prompt = agent.tokenizer.decode(agent.chat.opening("Who?"))
    acts = [context.dialect.close(part) for part in prompt.split("<think>")] + prompt.splitlines()
    assert any("…" in act for act in acts)
    for act in acts:
        assert context.dialect.parse(act, feedback=False, max_queries=1).kind == "invalid", act


def record(path: Path, dialect: str = "tags") -> list[Episode]:
    episodes = searchgym.rollout(
        "SearchQA-Terse-v0", "oracle", 3, corpus=WORLD, dialect=dialect, reveal_gold=True, split="train"
    )
    save_episodes(path, episodes)
    return episodes


def test_demonstrations_stand_before_the_question(tmp_path: Path) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer())
    episodes = record(tmp_path / "shown.jsonl")
    shown = {"episodes": str(tmp_path / "shown.jsonl"), "count": 2}
    agent = HFAgent(path, chat_template="plain", prompt="completion", demonstrations=shown)
    context = agent_context_of(make_env().config)
    agent.bind(context)
    text = agent.tokenizer.decode(agent.chat.opening("Who?"))
    assert [text.count(f"Question: {e.question}\n") for e in episodes] == [1, 1, 0]
    assert text.index(episodes[1].rounds[-1].text) < text.index("Question: Who?")
    assert agent.describe()["demonstrations"]
    with pytest.raises(ConfigError, match="has 3 valid episodes with reward 1 and count is 4"):
        HFAgent(path, chat_template="plain", demonstrations={**shown, "count": 4})
    with pytest.raises(ConfigError, match="there is no file"):
        HFAgent(path, chat_template="plain", demonstrations={"episodes": "nowhere.jsonl"})
    with pytest.raises(ConfigError, match="does not read as the same acts in the dialect 'tools'"):
        agent.bind(agent_context_of(make_env("tools").config))
    short = HFAgent(path, chat_template="plain", demonstrations=shown, max_context=64, max_new_tokens=8)
    with pytest.raises(ConfigError, match="max_context is 64, and the prompt before the question takes"):
        short.bind(context)


# -- GGUF ------------------------------------------------------------------------------------------------------


def write_gguf(path: Path, architecture: str = "llama") -> Any:
    """A Llama of two layers in a GGUF file; returns the same model."""
    gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
    tokenizer = make_tokenizer(None)
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(vocabulary), num_key_value_heads=2, rms_norm_eps=1e-5, **shape)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(str(path), architecture)
    for add, value in (
        ("context_length", 2048),
        ("embedding_length", 32),
        ("block_count", 2),
        ("feed_forward_length", 64),
        ("head_count", 2),
        ("head_count_kv", 2),
        ("rope_dimension_count", 16),
        ("layer_norm_rms_eps", 1e-5),
        ("vocab_size", len(vocabulary)),
    ):
        getattr(writer, f"add_{add}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if i < 3 else 1 for i in range(len(vocabulary))])
    writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.layers": "blk",
    }
    for name, tensor in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # llama.cpp's order of rotary pairs
            tensor = tensor.view(2, 2, 8, 32).transpose(1, 2).reshape(32, 32)
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_file_plays_trains_and_is_saved_as_ordinary_weights(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "small.gguf")
    given = {"gguf_file": "small.gguf", "chat_template": "chatml", "max_new_tokens": 6}
    agent = HFAgent(str(tmp_path), **given)
    ids = torch.tensor([[5, 9, 300, 7, 41]])
    with torch.no_grad():
        torch.testing.assert_close(agent.model(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    searchgym.rollout("SearchQA-Terse-v0", agent, 1, corpus=WORLD, max_rounds=2)
    agent.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, agent.model(ids).logits)
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    agent.load_weights(tmp_path / "saved")  # as a resumed run does
    HFAgent(str(tmp_path / "saved"))  # template and tokenizer came along
    adapted = HFAgent(str(tmp_path), **given, lora={"rank": 2})
    adapted.save(tmp_path / "adapter")
    HFAgent(str(tmp_path / "adapter"), gguf_file="small.gguf")


def test_gguf_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    whole = (tmp_path / "small.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) * 9 // 10])
    (tmp_path / "page.gguf").write_bytes(b"<html>not found</html>")
    unknown = whole.replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 5) + b"llamb", 1)
    (tmp_path / "unknown.gguf").write_bytes(unknown)
    for name, message in (
        ("cut.gguf", r"cut\.gguf' \(\d+ bytes\) cannot be read to its end"),
        ("page.gguf", "is not a GGUF file"),
        ("unknown.gguf", "architecture llamb .*Use the model's safetensors files"),
        ("none.gguf", r"which is not in .*: give cut\.gguf or page\.gguf"),
    ):
        with pytest.raises(ConfigError, match=message):
            HFAgent(str(tmp_path), gguf_file=name, chat_template="chatml")


def test_a_template_is_given_to_the_tokenizer_itself() -> None:
    tokenizer = base_tokenizer()
    give_template("agent 'hf'", "base", tokenizer, "plain")
    messages = [{"role": "system", "content": "Search."}, {"role": "user", "content": "Who?"}]
    messages += [
        {"role": "assistant", "content": "<search> a </search>"},
        {"role": "user", "content": "Nothing."},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<bos>Search.\n\nQuestion: Who?\n<search> a </search>\nNothing.\n"
    )


def test_logits_of_bfloat16_weights_are_float32_sums_without_a_float32_copy() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5000, 64, generator=generator).bfloat16()
    hidden = torch.randn(3, 64, generator=generator).bfloat16()
    exact = hidden.double() @ weight.double().T
    before = torch.backends.mkldnn.matmul.fp32_precision
    logits = head_logits(hidden, weight)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert logits.dtype == torch.float32
    assert float((logits - exact).abs().max()) < 1e-4  # a bfloat16 result would be wrong by up to 0.1


def test_only_unlikely_words_of_a_large_vocabulary_keep_logits_of_bfloat16() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2**15, 64, generator=generator).bfloat16()
    size = torch.tensor([[0.3], [0.1], [0.0], [4.0]])  # peaked to flat; in the last row logits exceed 64
    hidden = (torch.randn(4, 64, generator=generator) * size).bfloat16()
    exact = hidden.double() @ weight.double().T
    logits = rounded_head_logits(hidden, weight)
    gaps = (logits - exact).abs()
    likely = exact > exact.amax(-1, keepdim=True) - 7.9
    assert 100 < int(likely[0].sum()) < 8192 < int(likely[1].sum())
    for row in (0, 1):
        assert float(gaps[row][exact[row].topk(1900).indices].max()) < 1e-4
        assert 1e-4 < float(gaps[row].max()) < 2**-8 * float(exact[row].abs().max())
    # Logits are 0 in the third row and too large for bfloat16 in the last.
    assert float(gaps[2:].max()) < 1e-4
    assert float((logits.logsumexp(-1) - exact.logsumexp(-1)).abs().max()) < 2e-4
    unlikely = exact.argmin(-1)
    assert torch.allclose(word_logits(hidden, weight, unlikely).double(), exact.amin(-1), atol=1e-4)
    hidden[0, 0] = float("nan")
    assert not bool(torch.isfinite(rounded_head_logits(hidden, weight)[0]).any())


def test_logits_to_sample_and_to_draw_are_shaped_as_all_logits_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer())
    network: Any = HFAgent(path, chat_template="plain", dtype="bfloat16").engine.network
    hidden = torch.randn(3, network.width, generator=torch.Generator().manual_seed(2)).bfloat16()
    words = torch.tensor([1, 7, 30])
    with torch.no_grad():
        assert network.drawn_logits(hidden, words) is None  # a small vocabulary
        monkeypatch.setattr(base_network, "rounds_well", lambda _: True)
        network._scale, network._cap = 0.5, 2.0  # as Granite and Gemma 2 shape theirs
        exact = network.logits(hidden)
        assert float(exact.abs().max()) < 2.0
        torch.testing.assert_close(network.logits_to_sample(hidden), exact, atol=1e-4, rtol=0)
        drawn = network.drawn_logits(hidden, words)
        torch.testing.assert_close(drawn, exact[torch.arange(3), words], atol=1e-4, rtol=0)


def test_matrix_units_choose_bfloat16_for_large_models_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_family(tmp_path / "base", "llama", base_tokenizer())
    monkeypatch.setattr(half_precision, "has_matrix_units", lambda: True)
    assert HFAgent(path, chat_template="plain").describe()["dtype"] == "float32"
    monkeypatch.setattr(half_precision, "_NARROW_FROM", 1000)
    assert HFAgent(path, chat_template="plain").describe()["dtype"] == "bfloat16"
    assert HFAgent(path, chat_template="plain", dtype="float32").describe()["dtype"] == "float32"
    monkeypatch.setattr(half_precision, "has_matrix_units", lambda: False)
    assert HFAgent(path, chat_template="plain").describe()["dtype"] == "float32"
